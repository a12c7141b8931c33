"""How the axes of a profile's pictures are divided, and which of many lines are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from simulator.report import style

T = TypeVar("T")


def scale(axes: Sequence[Axes], cells: bool) -> None:
    """Logarithmic axes where a linear one would heap most cells at its low end; else, and for formulas, from zero."""
    for side in ("x", "y"):
        drawn = np.concatenate([np.asarray(getattr(line, f"get_{side}data")(), np.float64) for ax in axes for line in ax.lines] or [np.empty(0)])
        values = drawn[(drawn > 0) & np.isfinite(drawn)].tolist()
        wide = cells and bool(values) and max(values) > (30 if side == "x" else 8) * min(values)
        for ax in axes:
            axis = ax.xaxis if side == "x" else ax.yaxis
            if wide:
                (ax.set_xscale if side == "x" else ax.set_yscale)("log", base=2 if side == "x" else 10)
                axis.set_minor_locator(NullLocator())
                if side == "y":
                    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
            else:
                ax.set(**{f"{side}lim": (0, (1.04 if side == "x" else 1.08) * max(values, default=1.0))})
            style.thousands(axis)


def shown_of(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]

"""How the pictures of a profile are laid out: panels beside one another where there is room, below one another on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from simulator.report import style
from simulator.report.style import Look

T = TypeVar("T")


def panels(look: Look, count: int, height: float, columns: int = 1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes; `height` inches per row of panels, title and legend in the first row's."""
    across = min(count, 1 if look.narrow and columns < 4 else max(1, columns // 2) if look.narrow else columns)
    down = math.ceil(count / across)
    figure = Figure(figsize=(look.width, (height + (down - 1) * (height - 1.0)) * look.stretch))
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False, sharey=share_y)
    every = [axes for row in grid for axes in row]
    for unused in every[count:]:
        unused.remove()
    return figure, every[:count]


def finish(figure: Figure, look: Look, title: str, subtitle: str, handles: Sequence[Artist], left: float = 0.62) -> None:
    """Titles, legend, and room between the panels for their own titles and axes."""
    style.dress(figure, look, title, subtitle, handles, left=left)
    rows = {place.rowspan.start for axes in figure.axes if (place := axes.get_subplotspec())}
    each = figure.axes[0].get_position().height * figure.get_figheight()
    figure.subplots_adjust(hspace=(0.95 / each if len(rows) > 1 else 0), wspace=0.2)


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

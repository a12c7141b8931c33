"""The profile of a probed server: one fit to all of its points, or a table of step times where no curve follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.errors import DsimError
from simulator.measurements.fit import rms
from simulator.study.profiles.about import About
from simulator.study.profiles.counted import acceptance
from simulator.study.profiles.given_points import Cell
from simulator.study.profiles.import_points import fill_in
from simulator.study.profiles.importing import by_tokens
from simulator.study.profiles.joint_fit import Compared, speeds
from simulator.study.profiles.parts import Parts
from simulator.study.profiles.simulated import simulate_point

SMOOTH_WITHIN = 0.03  # rms up to which a curve is used; kernels that change with the batch miss it


def profile_of(about: About, tool: str, cells: Sequence[Cell], warnings: Sequence[str]) -> dict[str, Any]:
    """Writes the profile of these points; what was fitted, for people and programs, with every point as simulated. Raises DsimError."""
    parts, fitted = Parts(), [cell for cell in cells if not cell.held_out]
    counted = {name: acceptance(name, fitted, ()) for name in dict.fromkeys(cell.drafter for cell in fitted) if name}
    try:
        left = fill_in(parts, cells, {name: known for name, known in counted.items() if known}).rms
    except DsimError as problem:
        if counted or problem.key != "fit":  # of a server that drafts nothing a table says as much as is known
            raise
        left = None
    if counted or (left is not None and left <= SMOOTH_WITHIN):
        parts.unknown += warnings
        return parts.write(about, tool)
    return _as_table(about, tool, cells, warnings)


def _as_table(about: About, tool: str, cells: Sequence[Cell], warnings: Sequence[str]) -> dict[str, Any]:
    """The same with step times as they were, others' prompts within them: prompts have no cost of their own then."""
    rows = sorted((cell.point.concurrency, 1 / cell.point.tps_per_user) for cell in cells if not cell.held_out)
    told = (
        f"the step times of {len(rows)} operating points, as a smooth curve misses them by more than {SMOOTH_WITHIN:.0%} rms; interpolated linearly"
    )
    parts = Parts(remarks=[f"step cost: {told}"], unknown=[*warnings, "prefill cost", f"steps of more than {rows[-1][0]:g} tokens"])
    parts.measured(by_tokens(rows), tool, told)
    result = parts.write(about, tool)
    compared = [Compared(cell, simulate_point(cell.point, result["costs"], None, "spread")) for cell in cells]
    result["rms"] = rms(speeds([row for row in compared if not row.cell.held_out]))
    return result | {"cells": [row.to_json() for row in compared]}

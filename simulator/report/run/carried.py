"""Which load a picture of one load shows."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from simulator.study.run.result import RunResult


def highest_carried(result: RunResult, known: AbstractSet[float]) -> float:
    """The highest of the loads that are known at which no policy is overloaded, else the lowest."""
    heavy = {point.load for point in result.frontier if point.verdict == "overloaded"}
    return max(known - heavy, default=min(known, default=0.0))

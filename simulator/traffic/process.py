"""What all kinds of arrivals have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from simulator.arrays import Floats
from simulator.kind import Kind


class ArrivalProcess(Kind):
    """When requests come. `load_kind` is what a load counts: requests per second of the fleet, users at a time per replica, or how much faster than
    recorded."""

    load_kind: ClassVar[Literal["concurrency", "rate_rps", "rate_scale"]] = "rate_rps"

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        """Arrival times in seconds, sorted, in [0, horizon_s). # [n]"""
        raise NotImplementedError

    def expected(self, rate_rps: float, horizon_s: float) -> float:
        """Requests in [0, horizon_s), in the mean."""
        return rate_rps * horizon_s

    @property
    def repeats(self) -> bool:
        """Does the curve begin again where it ends?"""
        return True

    def curve(self, bins: int) -> tuple[Floats, Floats, float] | None:
        """Over a span in seconds of the run: where each of the bins starts, and the rate there in multiples of the load; None for a constant rate."""
        return None

    def starting(self, run_s: float) -> dict[str, float]:
        """What is to be set for a run to begin so far into the curve."""
        return {}

"""Replicas that are away for a while: lost at once, with all that runs on them, or sent home when their requests are done."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import PositiveFloat

from simulator.rng import stream
from simulator.schema import Frozen


@dataclass(frozen=True)
class Absence:
    """A replica takes no requests in [start_s, end_s). `abrupt`: it dies, its requests begin again elsewhere, and it restarts empty at the
    end; else it finishes what it holds."""

    replica: int
    start_s: float
    end_s: float
    abrupt: bool = False


class Failures(Frozen):
    """Replicas die at random: exponential times between failures, `every_hours` in the mean for each, and `restart_s` until it is back, empty."""

    every_hours: PositiveFloat
    restart_s: PositiveFloat = 120.0

    def drawn(self, replicas: int, until_s: float, seed: int, replication: int) -> tuple[Absence, ...]:
        """The failures of every replica in [0, until_s), the same for every policy; a larger fleet keeps those of the smaller."""
        failures = []
        for number in range(replicas):
            luck, at = stream(seed, "failures", replication, number), 0.0
            while (at := at + luck.exponential(3600 * self.every_hours)) < until_s:
                failures.append(Absence(number, at, at + self.restart_s, abrupt=True))
                at += self.restart_s
        return tuple(failures)

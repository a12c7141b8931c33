"""Replicas through a day: as many as the rate then needs, started early enough; replica-hours, and who finds too few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from simulator.arrays import Floats, Integers


@dataclass(frozen=True)
class Day:
    """One span of the rate curve, in equal slots; `needed` by the rate, `paid` when started by forecast, `reactive` what runs when the rate is
    only followed. `short_share` of the requests then meet fewer replicas than needed."""

    start_s: Floats  # [W]
    rate_rps: Floats  # [W]
    needed: Integers  # [W]
    paid: Integers  # [W]
    reactive: Integers  # [W]
    slot_s: float
    short_share: float
    fixed: int

    @property
    def fixed_hours(self) -> float:
        """Replica-hours of the span with the planned fleet always on."""
        return self.fixed * len(self.needed) * self.slot_s / 3600

    @property
    def paid_hours(self) -> float:
        """Replica-hours of the span when started by forecast: start-up time is paid."""
        return float(self.paid.sum()) * self.slot_s / 3600

    @property
    def reactive_hours(self) -> float:
        """Replica-hours of the span when the rate is followed: those that start are paid as well."""
        return float(np.maximum(self.reactive, self.needed).sum()) * self.slot_s / 3600


def needed_at(rate_rps: Floats, carries: Mapping[int, float], low: int, spare: int) -> Integers:
    """Replicas for each rate: the least whole number whose carried rate, read straight between the simulated fleet sizes (through nothing at
    none, and on at the largest one's rate per replica), reaches it."""
    sizes = sorted(carries)
    rates = np.maximum.accumulate([carries[n] for n in sizes])
    within = np.interp(rate_rps, [0.0, *rates], [0.0, *sizes])
    beyond = rate_rps / rates[-1] * sizes[-1]
    exact = np.where(rate_rps <= rates[-1], within, beyond)
    return np.asarray(np.maximum(np.ceil(exact - 1e-9), low) + spare, dtype=np.int64)


def autoscaled(
    start_s: Floats, rate_rps: Floats, span_s: float, carries: Mapping[int, float], fixed: int, low: int, spare: int, start_up_s: float
) -> Day:
    """The day of a fleet. Forecast: a replica is started `start_up_s` before it is needed. Reactive: when it is needed. The day repeats."""
    slots = max(288, len(start_s))
    slot_s = span_s / slots
    middle = (np.arange(slots) + 0.5) * slot_s
    rate: Floats = rate_rps[np.searchsorted(start_s, middle, side="right") - 1]
    needed = np.minimum(needed_at(rate, carries, low, spare), fixed)
    ahead = min(int(np.ceil(start_up_s / slot_s - 1e-9)), slots - 1)
    paid = np.max([np.roll(needed, -k) for k in range(ahead + 1)], axis=0)
    reactive = np.min([np.roll(needed, k) for k in range(ahead + 1)], axis=0)  # up: `ahead` slots late; down: at once
    short = reactive < needed
    share = float(rate[short].sum() / rate.sum()) if rate.sum() else 0.0
    return Day(np.arange(slots, dtype=np.float64) * slot_s, rate, needed, paid, reactive, slot_s, share, fixed)

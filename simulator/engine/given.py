"""What a run is given: the traffic, the replicas that serve it, and when some of them are away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from simulator.measurements.prices import RoundPrices
from simulator.measurements.replay import Replay
from simulator.policies.admission import Admission, FirstCome
from simulator.policies.prefill import Chunked, Prefill
from simulator.policies.routing import Router
from simulator.policies.verification import VerificationPolicy
from simulator.rng import stream
from simulator.schema import Frozen
from simulator.traffic.request import RequestSpec


class ReplicaSettings(Frozen):
    """How the engine of a replica is set."""

    max_batch: Annotated[PositiveInt, Field(le=100_000)] = 256
    prefill: Prefill = Field(default_factory=Chunked)
    admission: Admission = Field(default_factory=FirstCome)


class UserSource(Protocol):
    """Closed loop: what each user asks next, and how long he thinks before."""

    @property
    def think_s(self) -> float: ...

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec: ...


@dataclass(frozen=True)
class OpenTraffic:
    """Requests that arrive whatever happens. Those arriving in [warmup_s, until_s) are measured; arrivals go on after that,
    so that the last measured ones see the same load, until the window is over and all measured are done, or `drain_s` have passed."""

    specs: Sequence[RequestSpec]
    warmup_s: float
    until_s: float
    drain_s: float


@dataclass(frozen=True)
class ClosedTraffic:
    """`users` per fleet with one request each at a time. Turn 0 starts part of the way through its answer, as in a stationary
    state, and is not measured; turns 1 .. `turns` of every user are, and all go on until the last of those is done, or until
    four times as many are done in all: then those still out are starved (by an order of admission that passes them over)."""

    users: int
    source: UserSource
    turns: int
    residual: NDArray[np.float64]  # [users] share of the first answer that is left


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


@dataclass(frozen=True)
class Fleet:
    """Replicas that serve together, and how they choose. `prices` is what steps cost; `believed` what the policy thinks they cost (the same
    unless its table is wrong)."""

    replicas: int
    settings: ReplicaSettings
    policy: VerificationPolicy
    replay: Replay
    prices: RoundPrices
    believed: RoundPrices
    router: Router
    kv_pages: int | None
    page_tokens: int
    luck: np.random.Generator
    absences: Sequence[Absence] = ()


Traffic = OpenTraffic | ClosedTraffic

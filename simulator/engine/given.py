"""What a run is given: the traffic, the replicas that serve it, and when some of them are away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from simulator.arrays import Floats, Integers
from simulator.measurements.prices import RoundPrices
from simulator.measurements.replay import Replay
from simulator.policies.admission import Admission, FirstCome
from simulator.policies.prefill import Chunked, Prefill
from simulator.policies.prefix_cache import PrefixCaching
from simulator.policies.routing import Router
from simulator.policies.verification import VerificationPolicy
from simulator.quantities import Batch, Hours, SomeSeconds
from simulator.rng import stream
from simulator.schema import Frozen
from simulator.traffic.impatience import Senders
from simulator.traffic.request import RequestColumns, RequestSpec


class ReplicaSettings(Frozen):
    """How the engine of a replica is set."""

    max_batch: Batch = 256
    prefill: Prefill = Field(default_factory=Chunked)
    admission: Admission = Field(default_factory=FirstCome)


class UserSource(Protocol):
    """Closed loop: what each user asks next, and for how many seconds he pauses before (broadcast)."""

    def pause_s(self, user: int | Integers, turn: int | Integers) -> Floats: ...

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec: ...


@dataclass(frozen=True)
class OpenTraffic:
    """Requests that arrive whatever happens. Those arriving in [warmup_s, until_s) are measured; arrivals go on after that,
    so that the last measured ones see the same load, until the window is over and all measured are done, or `drain_s` have passed.
    With `until_s` infinite the window is over when all are done. With `in_flight` the client sends a request when fewer than so many are out,
    in order of arrival."""

    specs: Sequence[RequestSpec]
    warmup_s: float
    until_s: float
    drain_s: float
    in_flight: int | None = None
    senders: Senders | None = None


@dataclass(frozen=True)
class ClosedTraffic:
    """`users` per fleet with one request each at a time. Turn 0 starts part of the way through its pause and its answer, as in a stationary
    state, and is not measured; turns 1 .. `turns` of every user are, and all go on until the last of those is done, or until
    `most` are done in all: then those still out are starved (by an order of admission that passes them over)."""

    users: int
    source: UserSource
    turns: int
    residual: NDArray[np.float64]  # [users] share of the first answer that is left
    senders: Senders | None = None

    @property
    def most(self) -> int:
        """Four times what all send in the time in which the user who pauses longest has had the turns that count: without pauses, those turns."""
        pauses_s = self.source.pause_s(np.arange(self.users)[:, None], np.arange(self.turns + 1)[None, :]).sum(axis=1)
        longest_s = pauses_s.max()
        times = longest_s / np.maximum(pauses_s, longest_s / 1000) if longest_s else np.ones(self.users)
        return int(np.ceil(4 * (self.turns + 1) * times.sum()))


class Sessions(Protocol):
    """Sessions by number: their requests, which tell by their places what they wait for, and the domains that those may have."""

    @property
    def domain_names(self) -> tuple[str, ...]: ...

    def session(self, number: int) -> Sequence[RequestSpec]: ...


@dataclass(frozen=True)
class SessionTraffic:
    """Sessions that come at `starts_s`, or with `under_way` [users] as many at a time: each is so far at the start, and where it ends the next one
    begins. Requests that are sent in [warmup_s, until_s) are measured, and all go on until those are done, or `drain_s` have passed."""

    sessions: Sessions
    starts_s: Floats
    warmup_s: float
    until_s: float
    drain_s: float
    under_way: Floats | None = None
    senders: Senders | None = None


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

    every_hours: Hours
    restart_s: SomeSeconds = 120.0

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
class PrefillPool:
    """Machines that process prompts: what those cost there, the memory of each and what of it is kept as a prefix cache, and bytes per second over
    which transfers to replicas share a link (None: it takes no time)."""

    prices: RoundPrices
    kv_pages: int | None = None
    prefix_cache: PrefixCaching | None = None
    bandwidth_bytes_s: float | None = None


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
    max_context: int | None = None  # tokens of prompt and answer: longer prompts are refused, answers end there
    prefix_cache: PrefixCaching | None = None
    pool: PrefillPool | None = None  # of prefill machines, where more is known of them than how many and how long a transfer takes
    kv_bytes_per_token: float = 0.0
    groups: Sequence[Fleet] = ()  # that it consists of, where its replicas differ: what replicas are is said there

    def of(self, number: int) -> Fleet:
        """What replica `number` is one of."""
        for group in self.groups:
            if number < group.replicas:
                return group
            number -= group.replicas
        return self

    @property
    def lookahead(self) -> int:
        """Tokens beyond a request's context that it needs pages for."""
        each = self.policy.longest(self.replay.gamma) + 1
        return each * self.prefix_cache.reserved_rounds if self.prefix_cache and self.policy.drafts else each


Strangers = OpenTraffic | ClosedTraffic
Traffic = Strangers | SessionTraffic


def truncated(traffic: Strangers, max_context: int | None) -> int:
    """How many of the measured requests have an answer that is cut at `max_context` tokens."""
    if max_context is None:
        return 0
    if isinstance(traffic, ClosedTraffic):
        of = RequestColumns.of([traffic.source.spec(user, turn, 0.0) for turn in range(1, traffic.turns + 1) for user in range(traffic.users)])
    else:
        of = RequestColumns.of(traffic.specs)
        of = of[(of.arrival_s >= traffic.warmup_s) & (of.arrival_s < traffic.until_s)]
    return int(((of.prompt_tokens < max_context) & (of.prompt_tokens + of.output_tokens > max_context)).sum())

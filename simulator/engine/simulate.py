"""A workload into replicas: one run, from empty machines to the last measured request."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import simpy
from numpy.typing import NDArray

from simulator.engine.absences import Absence, present, watch
from simulator.engine.kv_cache import KvCache
from simulator.engine.replica import Replica, ReplicaSettings
from simulator.engine.step import StepRecord, Steps
from simulator.measurements.cost import RoundPrices
from simulator.measurements.replay import Replay
from simulator.policies.prefill import Disaggregated
from simulator.policies.routing import Router
from simulator.policies.verification import VerificationPolicy
from simulator.traffic.request import Request, RequestSpec


class UserSource(Protocol):
    """Closed loop: what each user asks next, and how long he thinks before."""

    @property
    def think_s(self) -> float: ...

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec: ...


@dataclass(frozen=True)
class OpenTraffic:
    """Requests that arrive whatever happens. Those arriving in [warmup_s, until_s) are measured; arrivals go on after that,
    so that the last measured ones see the same load, until all measured are done or `drain_s` have passed."""

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
class Fleet:
    """Replicas that serve together, and how they choose."""

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


@dataclass(frozen=True)
class Run:
    """What happened: steps, requests (with their stamps), and the window that metrics are taken over."""

    steps: Steps
    requests: list[Request]
    join_gaps: NDArray[np.float64]  # [n, 3] of a request's first round: when, seconds since its last token, seconds of them in no batch
    prefill_waits: NDArray[np.float64]  # [m, 2] from when to when a request waited for a prefill worker (infinite: still does)
    start_s: float
    end_s: float
    unfinished: int
    rejected: int
    preemptions: int
    kv_pages_left: int  # in use at the end, beside what running requests hold: 0 unless pages leak


def simulate(traffic: OpenTraffic | ClosedTraffic, fleet: Fleet) -> Run:
    """Run `traffic` through `fleet`."""
    return _World(traffic, fleet).run()


class _World:
    """The live state of one run: the clock, the replicas, and which measured requests are still out."""

    def __init__(self, traffic: OpenTraffic | ClosedTraffic, fleet: Fleet) -> None:
        self.traffic, self.fleet = traffic, fleet
        self.env = simpy.Environment()
        self.done = self.env.event()
        self.requests: list[Request] = []
        self.records: list[StepRecord] = []
        self.prefill_waits: list[list[float]] = []
        self.outstanding = self.finished_count = self.routed = 0
        self.all_arrived = False
        self.warm_s = 0.0
        self.replicas = [self._replica(number) for number in range(fleet.replicas)]
        self.away: dict[int, int] = {}
        self.retired: list[Replica] = []
        self.stranded: list[Request] = []  # came while every replica was away
        for absence in fleet.absences:
            self.env.process(watch(self.env, absence, self.replicas, self.away, self._replica, self.retired, self._enter, self._back))
        prefill = fleet.settings.prefill
        self.elsewhere = prefill if isinstance(prefill, Disaggregated) else None
        workers = self.elsewhere.workers if self.elsewhere else None
        self.workers = simpy.Resource(self.env, workers) if workers else None

    def _replica(self, number: int) -> Replica:
        fleet, kv = self.fleet, KvCache(self.fleet.kv_pages, self.fleet.page_tokens)
        return Replica(
            self.env, number, fleet.settings, fleet.policy, fleet.replay, fleet.prices, fleet.believed, kv, self._finished, self._enter, self.records
        )  # fmt: skip

    def run(self) -> Run:
        if isinstance(self.traffic, ClosedTraffic):
            self._start_users(self.traffic)
            self.env.run(until=self.done)
            start, end = self.warm_s, self.env.now
        else:
            limit = self.traffic.until_s + self.traffic.drain_s
            self.env.process(self._arrive(self.traffic))
            self.env.run(until=self.env.any_of([self.done, self.env.timeout(limit)]))
            start, end = self.traffic.warmup_s, self.traffic.until_s
        return self._record(start, end)

    def _record(self, start_s: float, end_s: float) -> Run:
        held = [r.kv.used - sum(r.batch.state[4, : len(r.batch)].tolist()) - sum(p for _, p in r.prefilling) for r in self.replicas]
        everyone = [*self.replicas, *self.retired]
        gaps = [gap for replica in everyone for gap in replica.join_gaps]
        measured = [r for r in self.requests if r.measured]
        return Run(
            steps=Steps(self.records),
            requests=self.requests,
            join_gaps=np.array(gaps, dtype=np.float64).reshape(-1, 3),
            prefill_waits=np.array(self.prefill_waits, dtype=np.float64).reshape(-1, 2),
            start_s=start_s,
            end_s=end_s,
            unfinished=self.outstanding,
            rejected=sum(r.rejected for r in measured),
            preemptions=sum(r.preemptions for r in everyone),
            kv_pages_left=sum(held),
        )

    def _arrive(self, traffic: OpenTraffic) -> Generator[simpy.Event, Any, None]:
        """Open loop: each request at its time."""
        self.outstanding = sum(traffic.warmup_s <= s.arrival_s < traffic.until_s for s in traffic.specs)
        if not self.outstanding:
            self.done.succeed()
        for spec in traffic.specs:
            if spec.arrival_s > self.env.now:
                yield self.env.timeout(spec.arrival_s - self.env.now)
            request = Request(spec, measured=traffic.warmup_s <= spec.arrival_s < traffic.until_s)
            self.requests.append(request)
            self._enter(request)

    def _start_users(self, traffic: ClosedTraffic) -> None:
        """Closed loop: everybody at once, each some way into the first answer."""
        self.outstanding = traffic.users * traffic.turns
        for user in range(traffic.users):
            first = traffic.source.spec(user, 0, 0.0)
            left = max(1, int(np.ceil(first.output_tokens * traffic.residual[user])))
            shift = first.output_tokens - left
            spec = RequestSpec(first.index, 0.0, first.prompt_tokens + shift, left, first.domain, first.cached_prompt_tokens)
            self._ask(spec, user, 0)

    def _ask(self, spec: RequestSpec, user: int, turn: int) -> None:
        assert isinstance(self.traffic, ClosedTraffic)
        request = Request(spec, user=user, turn=turn, measured=1 <= turn <= self.traffic.turns)
        self.requests.append(request)
        self._enter(request)

    def _enter(self, request: Request) -> None:
        """To the prefill machines where there are any, else straight to a replica."""
        if self.elsewhere is not None and request.to_prefill:
            self.env.process(self._prefill_elsewhere(request, self.elsewhere))
        else:
            self._route(request)

    def _route(self, request: Request) -> None:
        held = [replica.held for replica in self.replicas] if self.fleet.replicas > 1 else [0]
        if self.away:
            here = present(self.replicas, self.away)
            if not here:
                self.stranded.append(request)
                return
            chosen = here[self.fleet.router.choose(self.routed, [held[n] for n in here], self.fleet.luck)]
        else:
            chosen = self.fleet.router.choose(self.routed, held, self.fleet.luck)
        self.routed += 1
        self.replicas[chosen].submit(request)

    def _back(self) -> None:
        """A replica is there again: who waited for one goes on."""
        waiting, self.stranded = self.stranded, []
        for request in waiting:
            self._route(request)

    def _prefill_elsewhere(self, request: Request, mode: Disaggregated) -> Generator[simpy.Event, Any, None]:
        """Wait for a worker, process the prompt, emit the first token, move the cache."""
        slot = self.workers.request() if self.workers is not None else None
        if slot is not None:
            self.prefill_waits.append([self.env.now, np.inf])
            mine = self.prefill_waits[-1]
            yield slot
            mine[1] = self.env.now
        cached = min(request.spec.cached_prompt_tokens, request.to_prefill - 1) if not request.preemptions else 0
        tokens = request.to_prefill - cached
        yield self.env.timeout(self.fleet.prices.prefill_s(tokens, cached + tokens / 2))
        if slot is not None and self.workers is not None:
            self.workers.release(slot)
        if request.emitted_tokens == 0:
            request.first_token_s = request.last_emit_s = request.left_s = self.env.now
            request.emitted_tokens = 1
        request.prefilled_tokens = request.context_tokens
        if request.emitted_tokens >= request.spec.output_tokens:
            request.finish_s = self.env.now
            self._finished(request)
            return
        yield self.env.timeout(mode.transfer_s)
        self._route(request)

    def _finished(self, request: Request) -> None:
        """A request is done: count it, and let its user ask again."""
        self.finished_count += 1
        if request.measured:
            self.outstanding -= 1
            if self.outstanding == 0 and not self.done.triggered:
                self.done.succeed()
        if isinstance(self.traffic, ClosedTraffic):
            if self.finished_count == self.traffic.users:
                self.warm_s = self.env.now
            if self.finished_count >= 4 * self.traffic.users * (self.traffic.turns + 1) and not self.done.triggered:
                self.done.succeed()
            if self.done.triggered:
                return
            if request.rejected or self.traffic.source.think_s > 0:
                self.env.process(self._think(request))
            else:
                self._ask(self.traffic.source.spec(request.user, request.turn + 1, self.env.now), request.user, request.turn + 1)

    def _think(self, request: Request) -> Generator[simpy.Event, Any, None]:
        assert isinstance(self.traffic, ClosedTraffic)
        yield self.env.timeout(self.traffic.source.think_s)
        self._ask(self.traffic.source.spec(request.user, request.turn + 1, self.env.now), request.user, request.turn + 1)

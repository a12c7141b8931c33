"""One point of a sweep: one policy at one load with one replication's luck, from scenario to a row of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import ceil

import numpy as np

from simulator.arrays import Floats
from simulator.engine.simulate import ClosedTraffic, End, Fleet, OpenTraffic, SessionTraffic, Traffic, observe
from simulator.errors import ScenarioError
from simulator.policies.routing import Assigned, RoundRobin
from simulator.rng import uniform_at
from simulator.study.run.client import printed
from simulator.study.run.fleet import fleet_of
from simulator.study.run.groups import Groups
from simulator.study.run.meter import Meter
from simulator.study.run.moved import moved
from simulator.study.run.result import GroupRow, PointRow
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import POOL
from simulator.study.run.span import Same, span_of
from simulator.study.run.tables import RequestsFile, StepsFile
from simulator.traffic.request import RequestColumns

Takers = tuple[list[StepsFile], list[RequestsFile]]
MOST_PARTS = 16  # of a fleet; a constant, so that numbers do not depend on where it is run


@dataclass(frozen=True, order=True)
class Point:
    """Which policy (its place in the scenario), load and replication; of a run with a number moved that the profile is unsure of, which one (its
    place among them) and by how many standard deviations; of a run with more or less memory, how many times that for KV."""

    policy: int
    load: float
    replication: int
    cause: int = -1
    size: float = 0.0
    kv_share: float = 1.0

    @property
    def usual(self) -> bool:
        """Is it of the sweep itself?"""
        return self.cause < 0 and self.kv_share == 1


@dataclass(frozen=True)
class Part:
    """What some replicas of a point's fleet did, that know nothing of the others."""

    number: int
    meter: Meter
    end: End
    groups: Groups | None = None  # whose replicas differ


def run_point(scenario: Scenario, point: Point, files: Sequence[StepsFile | RequestsFile] = ()) -> PointRow:
    """The row of a point, its requests and steps written to `files` as they come."""
    return row_of(scenario, point, [run_part(scenario, point, part, files) for part in range(parts(scenario))])


def parts(scenario: Scenario) -> int:
    """Into how many fleets of their own the router divides the replicas: 1 where it looks at them, where they differ, or where they share prefill
    workers, the requests of one that fails, attempts of a client or its limit. Front ends take requests in turn, and only `round_robin` divides
    those so."""
    fleet, workload = scenario.fleet, scenario.workload
    shared = fleet.routing.looks or fleet.failures is not None or bool(fleet.groups) or scenario.engine.prefill.where == "elsewhere"
    shared = shared or workload.max_concurrency is not None or workload.sessions is not None or workload.leave
    front_end = scenario.known.costs.front_end
    shared = shared or (front_end is not None and front_end.seconds > 0 and not isinstance(fleet.routing, RoundRobin))
    return min(fleet.replicas, MOST_PARTS) if scenario.workload.windowed and not shared else 1


def run_part(scenario: Scenario, point: Point, part: int, files: Sequence[StepsFile | RequestsFile] = ()) -> Part:
    """One part of a point: replicas part, part + parts, …"""
    fleet = fleet_of(_as_moved(scenario, point), scenario.policies[point.policy], point.replication)
    takers = [f for f in files if isinstance(f, StepsFile)], [f for f in files if isinstance(f, RequestsFile)]
    if scenario.workload.client is not None:
        return _observed(part, lambda: Meter.whole(scenario.sla.goodput), _sent(scenario, point), fleet, takers)
    if scenario.workload.load_kind == "concurrency" and scenario.workload.sessions is None:
        users = _closed(scenario, point)
        return _observed(part, lambda: Meter.closed(scenario.sla.goodput, users.senders), users, fleet, takers)
    traffic = _open(scenario, point) if scenario.workload.sessions is None else _sessions(scenario, point)
    if (failures := scenario.fleet.failures) is not None:
        drawn = failures.drawn(fleet.replicas, traffic.until_s + traffic.drain_s, scenario.run.seed, point.replication)
        fleet = replace(fleet, absences=drawn)
    count = parts(scenario)
    if count > 1 and isinstance(traffic, OpenTraffic):
        traffic, fleet = _divided(traffic, fleet, part, count)
    open_loop = scenario.workload.load_kind != "concurrency"
    meter = partial(Meter, traffic.warmup_s, traffic.until_s, open_loop, scenario.sla.goodput, traffic.senders)
    return _observed(part, meter, traffic, fleet, takers, count)


def _as_moved(scenario: Scenario, point: Point) -> Scenario:
    """Its profile or memory is what a point moves; the traffic and how long it is stay those of the scenario itself."""
    if point.kv_share != 1:
        return scenario.with_memory(point.kv_share)
    return scenario if point.cause < 0 else moved(scenario, point.cause, point.size)


def _observed(part: int, made: Callable[[], Meter], traffic: Traffic, fleet: Fleet, takers: Takers, count: int = 1) -> Part:
    """One of `count` parts, with a meter of it and one for each of its groups."""
    meter, groups = made(), Groups([made() for _ in fleet.groups], [group.replicas for group in fleet.groups]) if fleet.groups else None
    meter.cut(traffic, fleet.max_context)
    return Part(part, meter, observe(traffic, fleet, Split(meter, *takers, part, count, groups)), groups)


def _divided(traffic: OpenTraffic, fleet: Fleet, part: int, count: int) -> tuple[OpenTraffic, Fleet]:
    """The requests that the router gives to one part of the fleet, and that part."""
    specs = RequestColumns.of(traffic.specs)
    chosen = fleet.router.drawn(0, len(specs), fleet.replicas, fleet.luck)[:, 0]
    mine = chosen % count == part
    replicas = len(range(part, fleet.replicas, count))
    return replace(traffic, specs=specs[mine]), replace(fleet, replicas=replicas, router=Assigned(replica=chosen[mine] // count))


def row_of(scenario: Scenario, point: Point, done: Sequence[Part]) -> PointRow:
    """The numbers of a point from all its parts."""
    policy, meter, first = scenario.policies[point.policy], done[0].meter, done[0].end
    for other in done[1:]:
        meter.merge(other.meter)
    prompts = scenario.engine.prefill.where != "nowhere"
    counts = {name: sum(getattr(part.end, name) for part in done) for name in ("unfinished", "rejected", "preemptions", "kv_pages_left")}
    end = replace(first, **counts)
    numbers = meter.row(end, scenario.gpus, scenario.fleet.replicas, prompts)
    client = scenario.workload.client
    return PointRow(
        policy=policy.name,
        drafter=policy.drafter or "",
        load_kind=scenario.workload.load_kind,
        load=point.load,
        replication=point.replication,
        requests=numbers.requests,
        verdict=numbers.verdict,
        numbers=numbers.numbers,
        curves=numbers.curves,
        **({"reuse": tuple(rows)} if (rows := meter.reuse.rows()) else {}),
        **({"groups": several} if (several := _group_rows(scenario, done[0])) else {}),
        **({"classes": numbers.classes} if numbers.classes else {}),
        **({"client": printed(client.client, meter, end, prompts)} if client else {}),
        path=first.path,
        why_plain=first.why_plain,
    )


def _group_rows(scenario: Scenario, part: Part) -> tuple[GroupRow, ...]:
    """Of groups of replicas, and of prefill workers of which more is known than their number."""
    rows, alone, prefill = [], scenario.groups, scenario.engine.prefill
    if part.groups is not None:
        gpus = [group.fleet.replicas * group.known.gpus_per_replica for _, group in alone]
        numbers = part.groups.numbers(part.end, gpus, prefill.where != "nowhere")
        rows += [GroupRow.of(mine, name=name) for (name, _), mine in zip(alone, numbers, strict=True)]
    if scenario.pooled:
        rows.append(GroupRow.of(part.meter.of_pool(part.end, prefill.machines.at_a_time), name=POOL))
    return tuple(rows)


class Split:
    """A sink that passes all on to a meter, and steps and requests to others too, where the replicas of a part have their numbers in the fleet."""

    def __init__(
        self,
        meter: Meter,
        steps: Sequence[Callable[[Floats], None]] = (),
        requests: Sequence[Callable[[Floats, Sequence[str]], None]] = (),
        part: int = 0,
        count: int = 1,
        groups: Groups | None = None,
    ) -> None:
        self.part, self.count = part, count
        self.meters: list[Meter | Groups] = [meter, *([groups] if groups else [])]
        self.waits, self.outside = meter.waits, meter.outside
        self.step_takers: list[Callable[[Floats], None]] = [*(one.steps for one in self.meters), *steps]
        self.request_takers: list[Callable[[Floats, Sequence[str]], None]] = [*(one.requests for one in self.meters), *requests]

    def warm(self, start_s: float) -> None:
        """Closed loop: the window starts."""
        for meter in self.meters:
            meter.warm(start_s)

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord."""
        rows[:, 0] = rows[:, 0] * self.count + self.part
        for take in self.step_takers:
            take(rows)

    def requests(self, rows: Floats, domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        for take in self.request_takers:
            take(rows, domains)

    def joins(self, rows: Floats) -> None:
        """Rows of Sink.joins."""
        for meter in self.meters:
            meter.joins(rows)


def _closed(scenario: Scenario, point: Point) -> ClosedTraffic:
    """`load` users on every replica; as many turns each as make up the requests asked for, two at least."""
    users = int(point.load) * scenario.fleet.replicas
    turns = max(2, ceil(scenario.run.requests / users))
    source = scenario.workload.closed_loop(users, scenario.run.seed, point.replication)
    residual = uniform_at(scenario.run.seed, "residual", point.replication, np.arange(users))
    return ClosedTraffic(users, source, turns, residual, scenario.workload.senders(scenario.run.seed, point.replication))


def _sent(scenario: Scenario, point: Point) -> OpenTraffic:
    """The prompts of a benchmark client; all are measured, and all are waited for."""
    client, replicas = scenario.workload.client, scenario.fleet.replicas
    assert client is not None
    specs = scenario.workload.sent(point.load, replicas, scenario.run.seed, point.replication)
    return OpenTraffic(specs, 0.0, np.inf, 0.0, in_flight=client.in_flight(point.load, replicas))


def _sessions(scenario: Scenario, point: Point) -> SessionTraffic:
    """Sessions that come over as long as is simulated, or are under way."""
    plan, span = scenario.run, span_of(scenario)
    assert plan.duration_s is not None
    return sessions(scenario, point.load, point.replication, span.warmup_s, plan.duration_s, span.drain_s(plan.duration_s))


def sessions(scenario: Scenario, load: float, replication: int, warmup_s: float, window_s: float, drain_s: float) -> SessionTraffic:
    """Sessions of a load and replication: the same for every policy."""
    workload, seed, until_s = scenario.workload, scenario.run.seed, warmup_s + window_s
    assert workload.sessions is not None
    if (recorded_s := workload.sessions.recorded_s) is not None and recorded_s / load < warmup_s:
        problem = f"is {warmup_s:g} s, but at load {load:g} the last session begins after {recorded_s / load:.4g} s"
        remedy = "shorten it, lower the load, or use arrivals of kind poisson"
        raise ScenarioError(problem, where=scenario.file, key="run.warmup_s", remedy=remedy)
    starts_s, under_way = workload.session_starts_s(load, scenario.fleet.replicas, until_s + drain_s, seed, replication)
    source, senders = workload.session_source(seed, replication), workload.senders(seed, replication)
    return SessionTraffic(source, starts_s, warmup_s, until_s, drain_s, under_way, senders)


def _open(scenario: Scenario, point: Point) -> OpenTraffic:
    """Arrivals after a warm-up for the duration, then on until the measured ones are done or the drain is over."""
    plan, span = scenario.run, span_of(scenario)
    specs = arrivals(scenario, point.load, point.replication)
    end = float(specs.arrival_s[-1]) if len(specs) else 0.0
    until = np.nextafter(end, np.inf) if plan.duration_s is None else measured_until(scenario, specs, span.warmup_s + plan.duration_s)
    if until <= span.warmup_s:
        problem = f"is {span.warmup_s:g} s, but at load {point.load:g} the traffic ends after {end:.4g} s"
        remedy = "shorten it, widen the window or lower the load"
        if (trace := scenario.workload.trace) is not None:
            remedy += f" (the trace, as it was read: {trace.words(scenario.folder)}; if this is wrong, set workload.trace.unit)"
        raise ScenarioError(problem, where=scenario.file, key="run.warmup_s", remedy=remedy)
    senders, in_flight = scenario.workload.senders(plan.seed, point.replication), scenario.workload.max_concurrency
    return OpenTraffic(specs, span.warmup_s, float(until), span.drain_s(float(until - span.warmup_s)), in_flight, senders)


def measured_until(scenario: Scenario, specs: RequestColumns, until_s: float) -> float:
    """The end of a window, or of a trace that is over before: no rate is divided by time in which nothing can come."""
    if scenario.workload.trace is None or not len(specs):
        return until_s
    return min(until_s, float(np.nextafter(specs.arrival_s[-1], np.inf)))


def check_traffic(scenario: Scenario) -> None:
    """Open traffic outlasts the warm-up at every load. Raises ScenarioError before anything is run."""
    if scenario.workload.windowed and scenario.workload.sessions is None:
        for load in sorted({load for policy in scenario.policies for load in scenario.loads(policy)}, reverse=True):
            _open(scenario, Point(0, load, 0))
    elif scenario.workload.sessions is not None and scenario.workload.load_kind == "rate_scale":
        _sessions(scenario, Point(0, scenario.highest_load, 0))


def arrivals(scenario: Scenario, load: float, replication: int) -> RequestColumns:
    """Open-loop requests of a load and replication: the same for every policy, made once per process."""
    return _arrivals(Same(scenario), load, replication)


@lru_cache(maxsize=2)
def _arrivals(key: Same, load: float, replication: int) -> RequestColumns:
    scenario, plan = key.scenario, key.scenario.run
    horizon = None
    if plan.duration_s is not None:
        span = span_of(scenario)
        horizon = span.warmup_s + plan.duration_s + span.drain_s(plan.duration_s)
    return scenario.workload.open_loop(load, horizon, plan.seed, replication, scenario.folder)

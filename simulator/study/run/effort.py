"""How much a scenario asks for: requests, hours of computing and memory, estimated before any of it is done."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from importlib.util import find_spec
from math import ceil

import numpy as np

from simulator.errors import DsimError, ScenarioError
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy
from simulator.study.run.shape import shape_of
from simulator.study.run.span import span_of

# Of one core, compiled and plain: steps, requests in a step, and replicas that a router looks at, per second. The fastest seen with
# scenarios/quickstart.yaml (fixed answers of 256 tokens, 8 and 128 users), so that an estimate is rather too short than too long.
_STEPS, _IN_STEPS, _LOOKS = {True: 1.5e6, False: 1.5e4}, {True: 2.5e7, False: 2e5}, {True: 1e9, False: 1e7}
_FASTEST_TOKEN_S = 1e-3  # of a session that waits for nothing
_REQUEST_BYTES = 150  # of an open loop, while it is made and played (benchmarks/results/scale.md, the day of a trace)
_TURN_BYTES = 40  # of a closed loop, while its pauses are added up
_SLOT_BYTES = 72  # of a batch, in every replica (engine/kernel/layout.py)
_PRICE_BYTES = 4 * 6193  # of a batch size in the table of prices
MAX_HOURS, USUAL_HOURS, LONG_HOURS = "DSIM_MAX_HOURS", 1000.0, 1.0


def requests_of(scenario: Scenario, load: float) -> float:
    """Requests of a point, those of warm-up and drain included: what is expected, or the most."""
    workload, run = scenario.workload, scenario.run
    if workload.client is not None:
        return workload.client.prompts(load, scenario.fleet.replicas)
    if workload.sessions is not None:
        return _of_sessions(scenario, load)
    if workload.load_kind == "concurrency":
        users = load * scenario.fleet.replicas
        return users * (max(2, ceil(run.requests / users)) + 1)
    horizon = horizon_s(scenario)
    if workload.trace is None:
        return workload.expected(load, horizon)
    arrival_s = workload.trace.load(scenario.folder).arrival_s
    return float(np.searchsorted(arrival_s, horizon * load))


def _of_sessions(scenario: Scenario, load: float) -> float:
    """Requests of sessions; with so many at a time, as if answers took no time."""
    assert scenario.workload.sessions is not None
    sample, horizon = scenario.workload.sessions.sample, horizon_s(scenario)
    if scenario.workload.load_kind != "concurrency":
        return scenario.workload.sessions.expected(load, horizon) * sample.requests
    each_s = sample.pauses_s + sample.requests * float(sample.output_tokens.mean()) * _FASTEST_TOKEN_S
    return load * scenario.fleet.replicas * (horizon / each_s + 1) * sample.requests


def horizon_s(scenario: Scenario) -> float:
    """Seconds of an open loop, warm-up and drain included; without end where a trace is played to its end."""
    if scenario.run.duration_s is None:
        return float("inf")
    span = span_of(scenario)
    return span.warmup_s + scenario.run.duration_s + span.drain_s(scenario.run.duration_s)


def hours(scenario: Scenario) -> float:
    """Hours that one core computes, at least: every request is in a step for each drafted block of its answer, and for each chunk of its prompt."""
    compiled = find_spec("numba") is not None and scenario.fleet.failures is None and not (scenario.fleet.groups or scenario.pooled)
    cache = scenario.engine.prefix_cache
    known = cache is None or not (cache.keeps_copies or any(scenario.kv_tokens(policy) is None for policy in scenario.policies))
    compiled = compiled and known and not scenario.workload.leave
    shape = shape_of(scenario.workload, 1.0, scenario.folder)
    most = scenario.max_context_tokens or np.inf
    chunk = next(iter(value for key, value in scenario.engine.prefill if key in ("token_budget", "max_tokens")), np.inf)
    seconds = 0.0
    for policy in scenario.policies:
        rounds = min(shape.mean_output, most) / _accepted(scenario, policy)
        alone = rounds / scenario.engine.max_batch + shape.mean_prompt / chunk
        looked = scenario.fleet.replicas / _LOOKS[compiled] if scenario.fleet.routing.looks else 0.0
        each_s = rounds / _IN_STEPS[compiled] + alone / _STEPS[compiled] + looked
        seconds += sum(requests_of(scenario, load) for load in scenario.loads(policy)) * each_s
    return seconds * scenario.run.replications / 3600


def _accepted(scenario: Scenario, policy: Policy) -> float:
    """Tokens of a block that is verified whole, the target's own included."""
    return 1.0 if policy.drafter is None else 1.0 + float(scenario.known.blocks(policy.drafter).accepted.mean())


def memory_bytes(scenario: Scenario) -> tuple[float, float]:
    """Bytes of the largest point: of its requests, and of its batches."""
    load = scenario.highest_load
    batch, workload = scenario.engine.max_batch, scenario.workload
    each = _TURN_BYTES if workload.load_kind == "concurrency" and not workload.windowed and workload.client is None else _REQUEST_BYTES
    return requests_of(scenario, load) * each, batch * (scenario.fleet.replicas * _SLOT_BYTES + 2.0 * _PRICE_BYTES)


def machine_bytes() -> float:
    """Memory of this machine, or of this process where it may have less."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(whole if limit == resource.RLIM_INFINITY else min(limit, whole))


def max_hours() -> float:
    """The most hours of computing that a run or plan may take. Raises DsimError for a variable that is not a number."""
    text = os.environ.get(MAX_HOURS, str(USUAL_HOURS))
    try:
        most = float(text)
    except ValueError:
        most = 0.0
    if not most > 0:
        raise DsimError(f"expected a number of hours above 0, got '{text[:40]}'", where=MAX_HOURS, remedy="for example 100")
    return most


def check_effort(scenarios: Iterable[Scenario], times: int, count: int, what: str) -> float:
    """Hours of computing of several scenarios, each run `times` times, `count` points or trials (`what`) in all. Raises ScenarioError where they are
    more than are allowed."""
    several = list(scenarios)
    total, most = sum(map(hours, several)) * times, max_hours()
    if total > most:
        problem = f"expected at most {spoken_hours(most)} of computing, got about {spoken_hours(total)} ({count:,} {what}{'s' * (count != 1)})"
        remedy = f"simulate less, or allow more with --max-hours {float(f'{total * 1.5:.2g}'):.15g}"
        raise ScenarioError(problem, where=several[0].file, key="run", remedy=remedy)
    return total


def spoken_hours(number: float) -> str:
    """`9.3 years`, `20 hours`."""
    for unit, of in (("years", 8766), ("days", 24)):
        if number >= 2 * of:
            return f"{float(f'{number / of:.2g}'):,.15g} {unit}"
    return f"{number:.2g} hours"

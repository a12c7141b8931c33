"""What no scenario can mean: more work than any machine does, and requests that are larger than the memory."""

from __future__ import annotations

from math import ceil

import numpy as np

from simulator.errors import ScenarioError
from simulator.quantities import MOST_REQUESTS, MOST_USERS
from simulator.study.run.effort import check_effort, horizon_s, machine_bytes, memory_bytes, requests_of
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy

MOST_POINTS = 1_000_000
MOST_STEP_TOKENS = 2_000_000
MOST_FAILURES = 1_000_000  # of a point
MOST_CLIENT_WINDOWS = 5_000_000


def check_limits(scenario: Scenario) -> float:
    """Hours of computing that a scenario takes, at least. Raises ScenarioError for what would run without end, or to no purpose. Called before any
    work."""
    _check_size(scenario)
    _check_work(scenario)
    _check_context(scenario)
    for name, alone in scenario.groups or [("", scenario)]:
        for policy in scenario.policies:
            _check_memory(alone, policy.on(name))
            _check_step(alone, policy.on(name))
    if scenario.workload.windowed:
        _check_open(scenario)
    check_machine(scenario)
    return check_effort([scenario], 1, scenario.point_count, "point")


def _check_open(scenario: Scenario) -> None:
    """Requests, failures and windows of clients of an open loop, over as long as it is simulated."""
    where, until_s = scenario.file, horizon_s(scenario)
    load = scenario.highest_load
    if (most := requests_of(scenario, load)) > MOST_REQUESTS:
        problem = f"at load {load:g} about {most:.2g} requests arrive in {until_s:,.0f} s, expected at most {MOST_REQUESTS:,} requests"
        raise ScenarioError(problem, where=where, key="load", remedy="lower it, or set a shorter run.warmup_s, duration_s and drain_s")
    source, failures = scenario.workload.servegen, scenario.fleet.failures
    if source is not None and (windows := len((service := source.service()).clients) * until_s / service.window_s) > MOST_CLIENT_WINDOWS:
        problem = f"expected at most {MOST_CLIENT_WINDOWS:,} windows of clients, got {windows:,.0f} in {until_s:,.0f} s"
        raise ScenarioError(problem, where=where, key="workload.servegen.clients", remedy="keep fewer clients, or shorten the run")
    if failures is not None:
        if scenario.workload.trace is not None:
            least = min(min(scenario.loads(policy)) for policy in scenario.policies)
            until_s = min(until_s, float(scenario.workload.trace.load(scenario.folder).arrival_s[-1]) / least)
        if (most := scenario.fleet.replicas * until_s / (3600 * failures.every_hours + failures.restart_s)) > MOST_FAILURES:
            problem = f"{most:.2g} failures in {until_s:,.0f} s, expected at most {MOST_FAILURES:,}"
            raise ScenarioError(problem, where=where, key="fleet.failures.every_hours", remedy="raise it, or shorten the run")


def _check_step(scenario: Scenario, policy: Policy) -> None:
    """A step of a full batch can be priced."""
    gamma = scenario.known.drafter(policy.drafter).gamma if policy.drafter else 0
    batch = scenario.engine.max_batch
    if (tokens := batch * (gamma + 1)) > MOST_STEP_TOKENS:
        problem = f"a step of {batch:,} requests with {gamma + 1} tokens each has {tokens:,}, expected at most {MOST_STEP_TOKENS:,}"
        raise ScenarioError(problem, where=scenario.file, key="engine.max_batch", remedy="lower it")


def check_machine(scenario: Scenario) -> None:
    """The largest point fits in memory."""
    requests, batches, machine = *memory_bytes(scenario), machine_bytes()
    if requests + batches > machine:
        key, what, remedy = "load", "requests", "lower it"
        if batches > requests:
            key, what, remedy = "engine.max_batch", "batches", "lower it, or the replicas or max_batch"
        problem = f"{what} of a point take about {max(requests, batches) / 1e9:,.1f} GB of memory, this machine has {machine / 1e9:,.1f}"
        raise ScenarioError(problem, where=scenario.file, key=key, remedy=remedy)


def _check_size(scenario: Scenario) -> None:
    run, kind, where = scenario.run, scenario.workload.load_kind, scenario.file
    if (points := scenario.point_count) > MOST_POINTS:
        problem = f"{run.replications:,} replications are {points:,} points, expected at most {MOST_POINTS:,}"
        raise ScenarioError(problem, where=where, key="run.replications", remedy="lower it: 3 to 10 are usual")
    load, client = scenario.highest_load, scenario.workload.client
    if client is not None and (prompts := client.prompts(load, scenario.fleet.replicas)) > MOST_REQUESTS:
        problem = f"at load {load:g} the client sends {prompts:,} prompts, expected at most {MOST_REQUESTS:,}"
        raise ScenarioError(problem, where=where, key="workload.arrivals.prompts_per_concurrency", remedy="lower it, or the load")
    if kind == "concurrency" and load * scenario.fleet.replicas > MOST_USERS:
        problem = f"{load:,.0f} users per replica are {load * scenario.fleet.replicas:,.0f} users, expected at most {MOST_USERS:,}"
        raise ScenarioError(problem, where=where, key="load", remedy="lower it")
    if kind == "rate_rps" and client is None and run.duration_s is not None:
        span_s = (run.warmup_s or 0) + run.duration_s + (run.duration_s if run.drain_s is None else run.drain_s)
        if load * span_s > MOST_REQUESTS:
            problem = f"{load:g} requests per second for {span_s:g} s in all, expected at most {MOST_REQUESTS:,} requests"
            raise ScenarioError(problem, where=where, key="load", remedy="lower it, or shorten the run")


def _check_work(scenario: Scenario) -> None:
    """Something takes time: prompts, or answers beyond the token that comes with them."""
    workload = scenario.workload
    if scenario.engine.prefill.where != "nowhere" or workload.servegen is not None or workload.sessions is not None:
        return
    if workload.trace is not None:
        longest = int(workload.trace.load(scenario.folder).output_tokens.max(initial=1))
    else:
        assert workload.outputs is not None
        longest = int(workload.outputs.at(np.array([np.nextafter(1.0, 0.0)]))[0])
    if longest <= 1:
        problem = "answers have one token and prompts are not simulated, so nothing takes time"
        remedy = "simulate prompts, such as {kind: chunked}, or longer answers (workload.output_tokens)"
        raise ScenarioError(problem, where=scenario.file, key="engine.prefill", remedy=remedy)


def _check_context(scenario: Scenario) -> None:
    """At least the shortest prompt leaves room for an answer."""
    workload, most = scenario.workload, scenario.max_context_tokens
    if most is None:
        return
    if workload.trace is not None:
        prompts = workload.trace.load(scenario.folder).prompt_tokens
    elif workload.prompts is not None:
        prompts = workload.prompts.at(np.zeros(1))
    else:
        return
    if (shortest := int(prompts.min())) >= most:
        key = "engine.max_context_tokens" if scenario.engine.max_context_tokens else "workload"
        problem = f"no prompt leaves room for an answer in {most:,} tokens of context: the shortest has {shortest:,}"
        raise ScenarioError(problem, where=scenario.file, key=key, remedy="raise engine.max_context_tokens, or shorten the prompts")


def _check_memory(scenario: Scenario, policy: Policy) -> None:
    """At least the shortest request fits in a replica's KV memory."""
    tokens, workload = scenario.kv_tokens(policy), scenario.workload
    if tokens is None or workload.prompts is None or workload.outputs is None:
        return
    shortest = sum(int(lengths.at(np.zeros(1))[0]) for lengths in (workload.prompts, workload.outputs))
    shortest = min(shortest, scenario.max_context_tokens or shortest)
    key = "engine.kv_tokens" if scenario.engine.kv_tokens else "workload"
    if ceil(shortest / scenario.page_tokens) > tokens // scenario.page_tokens:
        problem = f"no request fits in {tokens:,} tokens of KV memory: the shortest prompt and answer have {shortest:,}"
        raise ScenarioError(problem, where=scenario.file, key=key, remedy="raise engine.kv_tokens, or shorten the requests")

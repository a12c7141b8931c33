"""How long a scenario is simulated where it does not say: a warm-up in which its fleet fills, and a drain in which the last answers end.

The same for all policies, loads and replications, which are compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simulator.engine.given import Fleet
from simulator.study.run.fleet import fleet_of
from simulator.study.run.fluid import carried
from simulator.study.run.scenario import Scenario
from simulator.study.run.shape import Shape, shape_of

FILLS = 3  # answers long, until a fleet that starts empty is full
SHORTEST_S = 15.0
BUSY = 0.9  # of the load that a replica carries: beyond it requests wait, and how long has no limit
OF_TRACE = 0.25  # of a trace, at most, is not measured


@dataclass(frozen=True)
class Span:
    """Seconds of warm-up, with the reason unless it is configured; a drain where it is configured, and how long the longest answer takes: without
    end where the traffic ends, for then all are answered."""

    warmup_s: float
    reason: str
    configured_drain_s: float | None
    longest_s: float

    def drain_s(self, window_s: float) -> float:
        """After a window of `window_s`: as long again, or as long as the longest answer."""
        return max(window_s, self.longest_s) if self.configured_drain_s is None else self.configured_drain_s


class Same:
    """A scenario as a cache key: by identity."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario

    def __hash__(self) -> int:
        return id(self.scenario)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.scenario is self.scenario


def filling_s(answer_s: float) -> float:
    """Seconds until a fleet that starts empty is full, where an answer takes `answer_s`."""
    return max(SHORTEST_S, FILLS * answer_s)


def shape_at_one(scenario: Scenario) -> Shape:
    """The shape of an open loop at one request per second."""
    return _shape(Same(scenario))


@lru_cache(maxsize=4)
def _shape(key: Same) -> Shape:
    return shape_of(key.scenario.workload, 1.0, key.scenario.folder)


def span_of(scenario: Scenario) -> Span:
    """The span of an open loop."""
    return _span(Same(scenario))


@lru_cache(maxsize=4)
def _span(key: Same) -> Span:
    scenario, plan = key.scenario, key.scenario.run
    ends = scenario.workload.trace is not None and plan.duration_s is None and scenario.fleet.failures is None
    if plan.warmup_s is not None and (plan.drain_s is not None or ends):
        return Span(plan.warmup_s, "", plan.drain_s, np.inf)
    shape = shape_at_one(scenario)
    answers = [_answers(scenario, shape, number) for number in range(len(scenario.policies))]
    longest_s = np.inf if ends else _round(1.2 * max(longest for _, longest in answers))
    if plan.warmup_s is not None:
        return Span(plan.warmup_s, "", plan.drain_s, longest_s)
    answer_s = max(mean for mean, _ in answers)
    warmup_s, reason = filling_s(answer_s), f"{FILLS} answers of up to {_round(answer_s):g} s"
    if warmup_s == SHORTEST_S:
        reason = f"answers take up to {_round(answer_s):g} s"
    if scenario.workload.sessions is not None:
        session_s = shape.session_s(answer_s)
        warmup_s, reason = filling_s(session_s), f"{FILLS} sessions of some {_round(session_s):g} s"
    if shape.trace_rps is not None:
        fastest = scenario.highest_load
        part_s = OF_TRACE * shape.span_s / shape.trace_rps / fastest  # the shape is that of one request per second
        if part_s < warmup_s:
            warmup_s, reason = part_s, f"a quarter of the trace; {reason} would be longer"
    return Span(_round(warmup_s), reason, plan.drain_s, longest_s)


def _round(seconds: float) -> float:
    """To two significant digits: the same number on every machine."""
    return float(f"{seconds:.2g}")


def _answers(scenario: Scenario, shape: Shape, number: int) -> tuple[float, float]:
    """Seconds that a mean answer takes under a policy at its highest load, prompt included, and the longest one."""
    policy = scenario.policies[number]
    fleet = fleet_of(scenario, policy, 0)
    rps = max(scenario.loads(policy)) * shape.unit_rps / scenario.fleet.replicas
    each = [answer_s(group, shape, rps, scenario.workload.domains) for group in fleet.groups or (fleet,)]
    mean_s, longest_s = zip(*each, strict=True)
    return max(mean_s), max(longest_s)


def answer_s(fleet: Fleet, shape: Shape, rps: float, mix: dict[str, float]) -> tuple[float, float]:
    """Seconds of a mean and of the longest answer, prompt included, where a replica gets `rps`, or nearly all that it carries if that is less."""
    prompt, output = shape.mean_prompt, shape.mean_output
    curve = carried(fleet, prompt, output, mix, draws=1)
    if fleet.kv_pages is not None:
        most = fleet.kv_pages * fleet.page_tokens / (prompt + output / 2)
        curve = [at for at in curve if at.requests <= most] or curve[:1]
    rates = np.maximum.accumulate([at.rps for at in curve])
    tps = float(np.interp(min(rps, BUSY * rates[-1]), rates, [at.tps for at in curve]))
    where, prices = fleet.settings.prefill, fleet.prices
    prompt_s = 0.0
    if where.where == "replica":
        prompt_s = prices.chunk_s(round(prompt), prompt / 2, True)
    elif where.where == "elsewhere":
        prompt_s = (fleet.pool.prices if fleet.pool else prices).prefill_s(round(prompt), prompt / 2) + where.machines.moving_s
        if fleet.pool and fleet.pool.bandwidth_bytes_s:
            prompt_s += prompt * fleet.kv_bytes_per_token / fleet.pool.bandwidth_bytes_s
    mean_s, longest_s = (prompt_s + (tokens - 1) / tps for tokens in (output, shape.longest_output))
    return mean_s, longest_s

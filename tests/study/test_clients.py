"""Clients through a scenario: pauses, limits in flight and the longest context, with what a report says of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.study.run.build import build_result
from simulator.study.run.point import parts
from simulator.study.run.result import RunResult
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep
from tests.conftest import SCENARIO, Content, Dsim

PLAIN = {"policies": SCENARIO["policies"][:1], "sla": None, "baseline": None}
OPEN: Content = {"load": [30], "run": {"replications": 1, "warmup_s": 0, "duration_s": 20}}


def result_of(path: Path) -> RunResult:
    asked = load_scenario(path)
    return build_result(asked, sweep(asked, workers=1))


def workload(**changes: Any) -> Content:
    return {**SCENARIO["workload"], **changes}


def warned(result: RunResult, words: str) -> bool:
    return any(words in remark.text for remark in result.warnings)


def test_pauses_of_one_length_are_warned_of(scenario: Callable[..., Path]) -> None:
    def of(think: Any) -> RunResult:
        return result_of(scenario(**PLAIN, workload=workload(arrivals={"kind": "closed_loop", "think_s": think})))

    assert warned(of({"kind": "fixed", "seconds": 1}), "(always 1 s): those who meet once stay in step")
    assert not warned(of(1), "stay in step")
    assert not warned(of({"kind": "uniform", "min_s": 0.5, "max_s": 1.5}), "stay in step")


def test_users_who_pause_go_round_in_their_cycle(scenario: Callable[..., Path]) -> None:
    """Throughput is users ÷ (pause + answer) × tokens, under every policy."""
    engine, run = {"max_batch": 64, "prefill": {"kind": "instant"}}, {"replications": 4, "requests": 1000}
    result = result_of(scenario(workload=workload(arrivals={"kind": "closed_loop", "think_s": 4}), load=[50], engine=engine, run=run))
    for point in result.frontier:
        answer_s = 4 + (point.mean("e2e_p50_s") or 0.0)
        throughput = point.get("throughput_tok_s_gpu")
        assert throughput is not None
        assert throughput.mean == pytest.approx(50 * 20 / answer_s, rel=0.06)
        assert (throughput.high or 0) - (throughput.low or 0) < 0.15 * throughput.mean


def test_a_limit_in_flight_bounds_the_fleet_and_its_wait_is_said(scenario: Callable[..., Path]) -> None:
    routed = {"replicas": 2, "routing": {"kind": "round_robin"}}
    free = scenario("free.yaml", **PLAIN, **OPEN, workload=workload(arrivals={"kind": "poisson"}), fleet=routed)
    held = scenario("held.yaml", **PLAIN, **OPEN, workload=workload(arrivals={"kind": "poisson"}, max_concurrency=6), fleet=routed)
    assert (parts(load_scenario(free)), parts(load_scenario(held))) == (2, 1)
    before, after = (result_of(path).frontier[0] for path in (free, held))
    assert (before.mean("concurrency_mean") or 0) * 2 > 6 > (after.mean("concurrency_mean") or 9) * 2
    assert after.requests == before.requests  # the same arrivals are measured
    assert before.get("client_wait_mean_s") is None
    assert (after.mean("client_wait_mean_s") or 0) > 0
    assert (after.mean("e2e_p50_s") or 9) < (before.mean("e2e_p50_s") or 0)  # counts from sending
    result = result_of(held)
    assert warned(result, "Requests waited at the client for one of 6 places, on average: plain at 30")
    assert any(line.startswith("At most 6 requests are in flight") for line in result.conditions)


def test_the_longest_context_is_the_profiles_or_the_scenarios(
    scenario: Callable[..., Path], edit_profile: Callable[[Callable[[Content], Any]], None]
) -> None:
    lengths = {"kind": "mixture", "parts": [{"weight": 1, "lengths": {"kind": "fixed", "tokens": n}} for n in (10, 50, 80)]}
    traffic = workload(arrivals={"kind": "poisson"}, prompt_tokens=lengths, output_tokens={"kind": "fixed", "tokens": 20})
    edit_profile(lambda content: content.update(max_context_tokens=60))
    result = result_of(scenario(**PLAIN, **OPEN, workload=traffic))
    point = result.frontier[0]
    rejected, truncated = point.mean("rejected") or 0, point.mean("truncated") or 0
    assert rejected + truncated + point.requests - truncated == pytest.approx(600, rel=0.15)
    assert rejected == pytest.approx(200, rel=0.25)
    assert truncated == pytest.approx(200, rel=0.25)
    assert warned(result, "Answers that end early")
    assert warned(result, "Requests too long for the KV memory of a replica or its longest context")
    assert any(line.startswith("Context: at most 60 tokens") for line in result.conditions)
    wider = scenario(**PLAIN, **OPEN, workload=traffic, engine={**SCENARIO["engine"], "max_context_tokens": 100})
    point = result_of(wider).frontier[0]
    assert (point.mean("rejected"), point.mean("truncated")) == (0, 0)


ARRIVALS = {"kind": "closed_loop"}


@pytest.mark.parametrize("changes, wrong", [
    ({"workload": workload(max_concurrency=4)}, "max_concurrency goes with a rate"),
    ({"workload": workload(arrivals={"kind": "poisson"}, max_concurrency=0), **OPEN}, "workload.max_concurrency"),
    ({"workload": workload(arrivals={"kind": "poisson", "max_concurrency": 4}), **OPEN}, "unknown key 'max_concurrency'"),
    ({"workload": workload(arrivals=ARRIVALS | {"think_s": "long"})}, "workload.arrivals.think_s"),
    ({"workload": workload(arrivals=ARRIVALS | {"think_s": {"kind": "fixed", "second": 3}})}, "did you mean 'seconds'"),
    ({"workload": workload(arrivals=ARRIVALS | {"think_s": {"kind": "unifrom"}})}, "did you mean 'uniform'"),
    ({"workload": workload(arrivals=ARRIVALS | {"think_s": {"kind": "empirical", "path": "none.csv", "column": "s"}})}, "none.csv"),
    ({"engine": {"prefill": {"kind": "instant"}, "max_context_tokens": 1}}, "engine.max_context_tokens"),
    ({"engine": {"prefill": {"kind": "instant"}, "max_context_tokens": 50}}, "no prompt leaves room for an answer in 50 tokens of context"),
    ({"workload": workload(arrivals={"kind": "poisson"}, max_concurrency=4), **OPEN, "load": [float("inf")]}, "{kind: benchmark}"),
])  # fmt: skip
def test_mistakes_are_one_line(scenario: Callable[..., Path], dsim: Dsim, changes: Content, wrong: str) -> None:
    told = dsim("run", scenario(**changes), "--out", "out")
    assert (told.code, wrong in told.err, told.err.count("\n")) == (2, True, 1), told.err
    assert not Path("out").exists()

"""Does the work that waits grow? Queues on both sides of what a replica carries, fleets that fill, and the warm-up that fills them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from simulator.engine.simulate import OpenTraffic, observe
from simulator.errors import DsimError
from simulator.policies.prefill import Chunked, Disaggregated, Prefill, Separate
from simulator.policies.routing import LeastLoaded
from simulator.policies.verification import StepView, VerificationPolicy
from simulator.study.run.build import build_result
from simulator.study.run.conditions import conditions
from simulator.study.run.meter import Meter
from simulator.study.run.point import Point, run_point
from simulator.study.run.scenario import load_scenario
from simulator.study.run.span import span_of
from simulator.study.run.sweep import sweep
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import costs, fleet

STEP_S = 0.05
Edit = Callable[[Callable[[dict[str, Any]], Any]], None]


def arrivals(rate: float, until_s: float, lengths: Callable[[np.random.Generator, int], Any], seed: int, prompt: int = 1) -> list[RequestSpec]:
    rng = np.random.default_rng(seed)
    at = np.cumsum(rng.exponential(1 / rate, int(1.5 * until_s * rate) + 50))
    at = at[at < until_s]
    return [RequestSpec(i, float(s), prompt, int(n), "") for i, (s, n) in enumerate(zip(at, lengths(rng, len(at)), strict=True))]


def verdict(specs: list[RequestSpec], over: Any, warmup_s: float, until_s: float, drain_s: float = 0.0, replicas: int = 1) -> str:
    meter = Meter(warmup_s, until_s, open_loop=True)
    return meter.row(observe(OpenTraffic(specs, warmup_s, until_s, drain_s), over, meter), 1, replicas, True).verdict


def fixed(tokens: int) -> Callable[[np.random.Generator, int], Any]:
    return lambda _rng, n: np.full(n, tokens)


def geometric(tokens: int) -> Callable[[np.random.Generator, int], Any]:
    return lambda rng, n: 1 + rng.geometric(1 / (tokens - 1), n)


@pytest.mark.parametrize("lengths", [fixed(5), geometric(5), fixed(41)], ids=["fixed", "geometric", "long"])
@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize(
    ("load", "requests", "overloaded"), [(0.5, 100, 0), (0.8, 400, 0), (0.95, 600, 0), (1.05, 6000, 1), (1.3, 800, 1), (2.0, 150, 1)]
)
def test_a_queue_grows_where_more_comes_than_the_slots_carry(lengths: Any, slots: int, load: float, requests: int, overloaded: int) -> None:
    """M/D/c and M/M/c. Of twelve replications two may err: near a load of 1 a queue wanders."""
    answer_s = STEP_S * (np.mean(lengths(np.random.default_rng(0), 100_000)) - 1)
    rate = load * slots / answer_s
    warmup_s, until_s = 3 * answer_s, 3 * answer_s + requests / rate
    count = 3 if requests > 1000 else 12
    said = [verdict(arrivals(rate, until_s, lengths, k), fleet(costs(base=STEP_S), max_batch=slots), warmup_s, until_s) for k in range(count)]
    right = [(v == "overloaded") == bool(overloaded) for v in said]
    assert sum(right) >= count - (2 if count > 3 else 1), said


@pytest.mark.parametrize(
    ("prefill", "slots", "carries"),
    [(Chunked(token_budget=500), 64, 2.0), (Disaggregated(workers=2), 64, 4.0), (Separate(), 64, 2.0)],
    ids=["chunked", "disaggregated", "separate"],
)
@pytest.mark.parametrize(("load", "overloaded"), [(0.6, False), (1.6, True)])
def test_prompts_that_wait_are_a_queue_though_slots_are_free(prefill: Prefill, slots: int, carries: float, load: float, overloaded: bool) -> None:
    """A prompt of 1,000 tokens takes half a second, an answer of three tokens next to nothing."""
    rate = load * carries
    over = fleet(costs(0.001, prefill=(0.0, 0.0005)), max_batch=slots, prefill=prefill)
    said = [verdict(arrivals(rate, 130.0, fixed(3), k, prompt=1000), over, 10.0, 130.0) for k in range(4)]
    assert [v == "overloaded" for v in said] == [overloaded] * 4


@pytest.mark.parametrize(("load", "overloaded"), [(0.8, False), (1.4, True)])
def test_a_queue_grows_in_a_fleet_of_many_replicas(load: float, overloaded: bool) -> None:
    """Twelve replicas of four slots: the queue is that of all."""
    rate = load * 12 * 4 / (STEP_S * 20)
    over = fleet(costs(base=STEP_S), max_batch=4, replicas=12, router=LeastLoaded())
    assert (verdict(arrivals(rate, 13.0, fixed(21), 0), over, 3.0, 13.0, replicas=12) == "overloaded") == overloaded


@pytest.mark.parametrize("drain_s", [0.0, 100.0])
def test_a_fleet_that_fills_is_not_overloaded(drain_s: float) -> None:
    """Thirty requests of 800 steps in 6 s: all run at once, none ends in the window, and none has waited for a slot."""
    specs = [RequestSpec(i, 0.2 * i, 1, 801, "") for i in range(30)]
    over = fleet(costs(0.01, 1e-4), max_batch=256)
    assert verdict(specs, over, 0.0, 6.0, drain_s) == "stable"
    assert verdict(specs, fleet(costs(0.01, 1e-4), max_batch=4), 0.0, 6.0, drain_s) == "overloaded"  # where slots lack, they do wait


@pytest.mark.parametrize(("load", "overloaded"), [(0.7, False), (1.5, True)])
def test_a_limit_of_the_client_moves_the_queue_and_does_not_hide_it(load: float, overloaded: bool) -> None:
    """Four in flight of 20 steps each carry four answers per second; the replica has twice as many slots, and never a queue."""
    specs = arrivals(load * 4, 200.0, fixed(21), 0)
    meter = Meter(5.0, 100.0, open_loop=True)
    end = observe(OpenTraffic(specs, 5.0, 100.0, 95.0, in_flight=4), fleet(costs(base=STEP_S), max_batch=8), meter)
    row = meter.row(end, 1, 1, True)
    assert (row.verdict == "overloaded") == overloaded
    assert (row["waiting_mean"] or 0) < 1


LONG: dict[str, Any] = {
    "policies": [{"name": "plain", "verification": {"kind": "none"}}],
    "engine": {"max_batch": 256, "prefill": {"kind": "instant"}},
    "sla": None,
}


def without_overhead(profile: dict[str, Any]) -> None:
    """A step of B tokens takes 10 ms + 0.1 ms × B."""
    profile["costs"]["overhead"]["seconds"] = 0.0


def traffic(tokens: int) -> dict[str, Any]:
    return {
        "arrivals": {"kind": "poisson"},
        "prompt_tokens": {"kind": "fixed", "tokens": 100},
        "output_tokens": {"kind": "fixed", "tokens": tokens},
    }


def test_answers_longer_than_a_minute_are_given_the_warm_up_they_need(scenario: Callable[..., Path], edit_profile: Edit) -> None:
    """Little: 0.5 answers of 8,000 tokens per second keep B = 4,000 × (10 ms + 0.1 ms × B) = 67 slots busy, 133 s each, at 60 tok/s."""
    edit_profile(without_overhead)
    question = load_scenario(scenario(**LONG, workload=traffic(8000), load=[0.5], run={"replications": 1, "duration_s": 120}))
    assert span_of(question).warmup_s == 400
    assert any("400 s of warm-up (3 answers of up to 130 s)" in line for line in conditions(question))
    row = run_point(question, Point(0, 0.5, 0))
    assert (row.verdict, row["unfinished"]) == ("stable", 0)
    assert row["concurrency_mean"] == pytest.approx(66.7, rel=0.35)  # the window is shorter than an answer
    assert row["tps_per_user_mean"] == pytest.approx(59.9, rel=0.15)
    assert not [w.text for w in build_result(question, [row]).warnings if "Still filling" in w.text]


def test_a_warm_up_shorter_than_two_answers_is_a_warning(scenario: Callable[..., Path], edit_profile: Edit) -> None:
    edit_profile(without_overhead)
    run = {"replications": 1, "duration_s": 10, "warmup_s": 5}
    question = load_scenario(scenario(**LONG, workload=traffic(801), load=[5], run=run))
    result = build_result(question, sweep(question, workers=1))
    assert [point.verdict for point in result.all_points()] == ["stable"]
    assert "Still filling: plain at 5: the warm-up of 5 s is shorter than two answers (2" in "".join(w.text for w in result.warnings)


def test_the_warm_up_is_that_of_the_slowest_policy_and_load(scenario: Callable[..., Path]) -> None:
    """Alone plain gives a token in 11.1 ms; at the highest load more share a step. All policies and loads are given the same."""
    run = {"replications": 1, "duration_s": 10}
    several = load_scenario(scenario(workload=traffic(1001), load=[0.1, 0.4], run=run, sla=None))
    plain = load_scenario(
        scenario(workload=traffic(1001), load=[0.4], run=run, **{**LONG, "engine": {"max_batch": 8, "prefill": {"kind": "instant"}}})
    )
    assert span_of(several).warmup_s == span_of(plain).warmup_s == pytest.approx(3 * 1000 * 0.0115, rel=0.04)
    assert span_of(load_scenario(scenario(workload=traffic(20), load=[1], run=run))).warmup_s == 15


class TooLong(VerificationPolicy):
    """A rule of a user's that verifies more than was drafted."""

    kind: Literal["too_long"] = "too_long"

    def choose(self, view: StepView) -> Any:
        return np.full(view.requests, view.gamma + 1)


def test_a_warm_up_that_no_rule_can_have_is_one_line(scenario: Callable[..., Path]) -> None:
    """It asks rules for lengths before anything runs, and checks them as the engine does."""
    question = load_scenario(scenario(workload=traffic(20), load=[1], run={"replications": 1, "duration_s": 10}))
    with pytest.raises(DsimError, match=r"^choose\(\) of rule 'too_long': expected 1 whole numbers from 0 to 1 in an array, got "):
        span_of(question.with_policy("own", TooLong(), "mtp"))


def test_a_short_trace_of_long_answers_is_played_to_its_last_answer(scenario: Callable[..., Path], world: Path, edit_profile: Edit) -> None:
    """Thirty answers of 80 to 104 s begun within a minute: all run at once, nobody waits, and a quarter of the trace is warm-up."""
    edit_profile(without_overhead)
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{2 * i},100,8000\n" for i in range(30)))
    more = {**LONG, "workload": {"trace": {"path": "t.csv"}}, "load": [1]}
    question = load_scenario(scenario(**more, run={"replications": 1, "warmup_s": 0}))
    result = build_result(question, sweep(question, workers=1))
    (point,) = result.all_points()
    assert (point.verdict, point.requests, point.mean("unfinished")) == ("stable", 30, 0)
    assert 76 < (point.mean("tps_per_user_mean") or 0) < 95
    assert "play more of the trace" in "".join(w.remedy for w in result.warnings)
    slots = {"engine": {"max_batch": 2, "prefill": {"kind": "instant"}}}
    crowded = load_scenario(scenario(**{**more, **slots}, run={"replications": 1, "warmup_s": 0}))
    row = run_point(crowded, Point(0, 1.0, 0))
    assert (row.verdict, row.requests, row["unfinished"]) == ("overloaded", 30, 0)  # with two slots all but the first wait, and are answered too
    chosen = load_scenario(scenario(**more, run={"replications": 1}))
    assert span_of(chosen).warmup_s == 14  # a quarter of 58 s, to two digits
    cut = load_scenario(scenario(**more, run={"replications": 1, "warmup_s": 0, "drain_s": 5}))
    row = run_point(cut, Point(0, 1.0, 0))
    assert (row.verdict, row["unfinished"]) == ("stable", 30)


def test_a_window_ends_with_its_trace(scenario: Callable[..., Path], world: Path) -> None:
    """Ten requests a second for 20 s, of 11 tokens: 110 tok/s at its speed and 440 at four times, however long the window was to be."""
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 10},50,11\n" for i in range(201)))
    policies, run = [{"name": "plain", "verification": {"kind": "none"}}], {"replications": 1, "warmup_s": 2, "duration_s": 18}
    more = {"workload": {"trace": {"path": "t.csv"}}, "policies": policies, "engine": {"max_batch": 64, "prefill": {"kind": "instant"}}}
    question = load_scenario(scenario(**more, load=[1, 4], run=run))
    result = build_result(question, sweep(question, workers=1))
    rates = [point.mean("throughput_tok_s_gpu") for point in result.all_points()]
    assert rates == [pytest.approx(110, rel=0.03), pytest.approx(440, rel=0.03)]
    (told,) = [warning.text for warning in result.warnings if "The window ends with the trace." in warning.text]
    assert told.startswith("At load 4 the trace is over after 5 s, warm-up and run.duration_s after 20 s.")
    question = load_scenario(scenario(**more, load=[1], run=run))
    assert not any("ends with the trace" in warning.text for warning in build_result(question, sweep(question, workers=1)).warnings)

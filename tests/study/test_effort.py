"""More work than is meant, or than a machine has memory for, is refused before any of it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError, ScenarioError
from simulator.study.run import effort, limits
from simulator.study.run.limits import check_limits
from simulator.study.run.scenario import load_scenario
from simulator.traffic.arrivals import Poisson, RateCurve

Write = Callable[..., Path]
OPEN = {"workload.arrivals": "{kind: poisson}", "run.duration_s": "30", "run.warmup_s": "1", "run.drain_s": "1", "load": "[1]"}
# what is set, and what the line says
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "years": (
        {"run.requests": "5e7", "run.replications": "1e4", "workload.output_tokens": "{kind: fixed, tokens: 200}", "load": "[8]"},
        "run: expected at most 42 days of computing, got about | (30,000 points); simulate less, or allow more with --max-hours",
    ),
    "batches": (
        {"fleet.replicas": "1e5", "engine.max_batch": "1e5", "load": "[1]"},
        "engine.max_batch: batches of a point take about 725.0 GB of memory, this machine has 100.0; lower it, or the replicas or max_batch",
    ),
    "a wide step": ({"engine.max_batch": "1e5"}, "a step of 100,000 requests with 4 tokens each has 400,000, expected at most 300,000"),
    "a peak": (
        OPEN | {"workload.arrivals": "{kind: rate_curve, period_s: 1e8, points: [[0, 1], [1, 0], [99999998, 0]]}", "load": "[9]"},
        "load: at load 9 about | requests arrive in 32 s",
    ),
    "a drain": (OPEN | {"run.drain_s": "1e8", "load": "[9]"}, "load: 9 requests per second for 1e+08 s in all"),
    "failures": (
        OPEN | {"fleet.failures": "{every_hours: 0.001, restart_s: 1e-9}", "fleet.replicas": "1e6"},
        "every_hours: 8.9e+06 failures in 32 s",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_too_much_is_refused_before_it_begins(case: str, scenario: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "machine_bytes", lambda: 1e11)
    monkeypatch.setattr(limits, "MOST_STEP_TOKENS", 300_000 if case == "a wide step" else 2_000_000)
    values, line = REFUSED[case]
    asked = load_scenario(scenario(), [f"{key}={value}" for key, value in values.items()])
    with pytest.raises(ScenarioError) as refused:
        check_limits(asked)
    for part in line.split(" | "):
        assert part in str(refused.value)


def test_answers_of_one_token_behind_long_prompts_have_a_span(scenario: Write, edit_profile: Callable[..., None]) -> None:
    """Prompts then take all of the time that a float can tell from the whole."""
    prefill = {"provenance": "synthetic", "kind": "linear", "base_s": 0, "per_token_s": 1000}
    edit_profile(lambda profile: profile["costs"].update(prefill=prefill))
    values = {"workload.arrivals": "{kind: poisson}", "run.duration_s": "1", "engine.prefill": "{kind: chunked}"}
    values |= {"workload.output_tokens": "{kind: fixed, tokens: 1}", "load": "[0.01]"}
    assert check_limits(load_scenario(scenario(), [f"{key}={value}" for key, value in values.items()])) > 0


def test_hours_grow_with_the_work_and_a_limit_may_be_raised(scenario: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (load_scenario(scenario(), [f"run.requests={n}", "load=[2]"]) for n in ("1e4", "1e6"))
    assert check_limits(large) == pytest.approx(100 * check_limits(small), rel=0.01)
    assert check_limits(small) > 0
    monkeypatch.setenv(effort.MAX_HOURS, "1e-6")
    with pytest.raises(ScenarioError, match="expected at most 1e-06 hours of computing, got about"):
        check_limits(small)


@pytest.mark.parametrize("text", ["nan", "-1", "0", "soon"])
def test_a_limit_of_hours_is_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(effort.MAX_HOURS, text)
    with pytest.raises(DsimError, match=f"DSIM_MAX_HOURS: expected a number of hours above 0, got '{text}'"):
        effort.max_hours()


@pytest.mark.parametrize("command", ["run", "validate", "plan", "predict"])
@pytest.mark.parametrize("hours", ["0", "-1", "nan"])
def test_an_option_of_hours_is_refused_by_its_own_name(command: str, hours: str, dsim: Callable[..., Any]) -> None:
    said = dsim(command, "any.yaml", "--max-hours", hours)
    assert (said.code, said.out) == (2, "")
    assert said.err.strip() == f"error: --max-hours: expected a number of hours above 0, got {hours}; for example 100"


def test_a_curve_is_expected_to_bring_what_it_brings() -> None:
    import numpy as np

    curve = RateCurve(points=((0, 1), (50, 9), (60, 0)), period_s=100, start_s=30)
    times = curve.times(1000, 73, np.random.default_rng(1))
    assert len(times) == pytest.approx(curve.expected(1000, 73), rel=0.02)
    assert curve.expected(1000, 100) == pytest.approx(Poisson().expected(1000, 100))


@pytest.mark.parametrize("hours, words", [(0.5, "0.5 hours"), (36, "36 hours"), (240, "10 days"), (8766 * 9, "9 years"), (8766e6, "1,000,000 years")])
def test_hours_are_spoken(hours: float, words: str) -> None:
    assert effort.spoken_hours(hours) == words

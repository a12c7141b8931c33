"""A run's answer: promises that nobody keeps come first, loads are told in requests per second, and nothing speaks of what was not simulated."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from simulator.report.run.plots.load import latency as figure
from simulator.study.run.build import build_result
from simulator.study.run.facts import PolicyFacts
from simulator.study.run.result import Estimate, GainAtSla, GainAtThroughput, Gains, RunResult
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep

PLAIN = {"name": "plain", "verification": {"kind": "none"}}


def answer(path: Path) -> list[str]:
    question = load_scenario(path)
    return list(build_result(question, sweep(question, workers=1)).answer)


@pytest.mark.parametrize(
    ("promises", "missed"), [([500], "500 tok/s"), ([90, 500], "500 tok/s"), ([900, 500], "900 or 500 tok/s"), ([50], None), ([], None)]
)
def test_a_promise_that_nobody_keeps_is_in_the_first_sentence(promises: list[float], missed: str | None, scenario: Callable[..., Path]) -> None:
    lines = answer(scenario(sla={"tps_per_user": promises}))
    assert len(lines) == (3 if missed else 2)
    if missed:
        assert lines[0].startswith(f"No policy meets the SLA of {missed} for each user: ")
        assert " at load 2 comes nearest, with " in lines[0]
    else:
        assert "No policy meets" not in lines[0]


def test_the_load_of_a_trace_is_told_in_requests_per_second(scenario: Callable[..., Path], world: Path) -> None:
    """Sixty requests in 6 s, played twice as fast: 20 per second, and 20 × 11 tokens per second."""
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 10},50,11\n" for i in range(61)))
    more = {"workload": {"trace": {"path": "t.csv"}}, "policies": [PLAIN], "load": [2]}
    run = {"replications": 1, "warmup_s": 0.5}
    (line, *_) = answer(scenario(**more, run=run, sla=None))
    assert line.startswith("At load 2 (times the speed of the trace, 20.3 requests per second) plain is the fastest: ")
    (line, *_) = answer(scenario(**more, run=run, sla={"tps_per_user": [60]}))
    assert "per GPU (2" in line
    assert " requests per second, " in line
    assert " times the trace's speed)" in line


def test_no_answer_is_taken_from_a_load_at_which_requests_queue(scenario: Callable[..., Path]) -> None:
    """Eight slots: of forty users thirty-two wait, and those that are served are as fast as at eight. Where all queue, that is all there is."""
    lines = answer(scenario(load=[6, 40], sla=None))
    assert lines[0].startswith("At load 6 ")
    assert lines[-1].startswith("Requests queue in front of the replicas under plain from load 40, MTP-1 from load 40, scheduled from load 40: ")
    lines = answer(scenario(load=[6, 40], sla={"tps_per_user": [40]}))
    assert "raise load to tell them apart" not in lines[0]
    assert ": at least " in lines[0]
    lines = answer(scenario(load=[40, 44], sla=None))
    assert lines[0].startswith("At load 44 ")
    assert lines[-1].startswith("Under plain, MTP-1, scheduled requests queue at every load: ")


def test_a_policy_that_queues_at_all_its_loads_is_said_to(scenario: Callable[..., Path]) -> None:
    """It is compared by what there is: not beside a sentence that nothing is taken from there."""
    policies = [PLAIN | {"load": [2, 6]}, {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}, "load": [40, 44]}]
    lines = answer(scenario(policies=policies, sla={"tps_per_user": [40]}))
    assert lines[-1].startswith("Under MTP-1 requests queue at every load: ")
    assert not any("is taken from there" in line for line in lines)


def test_a_baseline_that_was_not_run_there_is_not_said_to_fail(scenario: Callable[..., Path]) -> None:
    policies = [PLAIN | {"load": [2]}, {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}, "load": [2, 6]}]
    lines = answer(scenario(policies=policies, sla=None))
    assert lines[0].startswith("At load 6 ")
    assert lines[1] == "plain was not simulated at that load."
    lines = answer(scenario(policies=[PLAIN | {"load": [2, 40]}, policies[1] | {"load": [2, 6, 8, 40]}], sla=None))
    assert lines[0].startswith("At load 8 ")
    assert lines[1] == "plain was not simulated at that load."


@pytest.mark.usefixtures("_prompts_cost_time")
def test_limits_of_each_request_have_a_sentence(scenario: Callable[..., Path]) -> None:
    """Who serves most requests within them: at forty users of eight slots nobody has his first token in time."""
    sla = {"goodput": {"ttft_s": 0.2}}
    *_, good, queue = answer(scenario(load=[6, 40], sla=sla, engine={"max_batch": 8, "prefill": {"kind": "separate"}}))
    assert good.startswith("Of requests with TTFT at most 0.2 s, ")
    assert " per second and GPU at load 6, " in good
    assert "; plain " in good
    assert queue.startswith("Requests queue")


def test_an_answer_names_no_policy_that_no_engine_can_run() -> None:
    """Whom the answer names, and pictures mark: the most throughput, or at least so much, of policies that neither know nor peek."""

    def row(policy: str, throughput: float | None, at_least: float | None = None) -> GainAtSla:
        some, least = (None if value is None else Estimate(value) for value in (throughput, at_least))
        return GainAtSla(sla_tps=50, policy=policy, throughput=some, baseline_throughput=None, gain=None, at_least=least, note=None)

    rows = (row("base", 100), row("most", None, 120), row("some", 110), row("peeking", 140), row("oracle", 150), row("slow", None))
    policies = [{"name": r.policy, "verification": {}, "bound": r.policy == "oracle", "peeks": r.policy == "peeking"} for r in rows]
    result = RunResult.model_construct(
        gains=Gains(baseline="base", at_sla=rows, at_matched_throughput=()), policies=tuple(PolicyFacts(**p) for p in policies)
    )
    assert {tps: best.policy for tps, best in result.best_at_sla().items()} == {50: "most"}


@pytest.mark.parametrize(
    ("gained", "best"), [((0.2, 0.1), "one"), ((-0.4, None), None), ((0.2, None), "one"), ((-0.4, -0.1), "two"), ((None, None), None)]
)
def test_the_fastest_at_matched_throughput_is_not_named_for_lack_of_others(gained: tuple[float | None, ...], best: str | None) -> None:
    """A policy that loses is the best only where all were simulated there."""

    def row(policy: str, gain: float | None) -> GainAtThroughput:
        some = None if gain is None else Estimate(gain)
        return GainAtThroughput(throughput=9, because="", policy=policy, sla_tps=50, tps=some, baseline_tps=None, gain=some, note=None)

    rows = tuple(row(policy, gain) for policy, gain in zip(("one", "two"), gained, strict=True))
    policies = tuple(PolicyFacts(name=r.policy, verification={}, bound=False, peeks=False) for r in rows)
    result = RunResult.model_construct(gains=Gains(baseline="base", at_sla=(), at_matched_throughput=rows), policies=policies)
    assert [row.policy for row in result.best_at_match()] == ([best] if best else [])


@pytest.fixture
def _prompts_cost_time(edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda profile: profile["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.01, "per_token_s": 1e-4}))


@pytest.mark.usefixtures("sketched", "_prompts_cost_time")
@pytest.mark.parametrize("prefill", [{"kind": "chunked"}, {"kind": "separate"}, {"kind": "disaggregated", "workers": 2}], ids=lambda p: p["kind"])
@pytest.mark.parametrize("arrivals", ["poisson", "closed_loop"])
def test_answers_of_one_token_have_a_ttft_and_no_speed(prefill: Any, arrivals: str, scenario: Callable[..., Path], dsim: Any, world: Path) -> None:
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 500}, "output_tokens": {"kind": "fixed", "tokens": 1}}
    run = {"replications": 2, "requests": 20} if arrivals == "closed_loop" else {"replications": 2, "duration_s": 20}
    path = scenario(
        policies=[PLAIN], workload={"arrivals": {"kind": arrivals}, **lengths}, load=[2, 4], engine={"prefill": prefill}, run=run, sla=None
    )
    said = dsim("run", path, "--out", "out", "--workers", 1)
    assert said.code == 0, said.err
    assert "gives nine of ten users their first token within" in said.out
    assert "TTFT" in said.out.split("The frontier")[0]
    assert "tok/s per user" not in said.out
    for row in csv.DictReader((world / "out" / "points.csv").open()):
        assert row["tps_per_user_mean"] == row["tpot_p50_s"] == row["accepted_length"] == ""
        assert float(row["ttft_p50_s"]) > 0.0599
        assert float(row["throughput_tok_s_gpu"]) > 0
        assert row["verdict"] in ("stable", "backlogged")
    page = (world / "out" / "report.md").read_text()
    assert "None" not in page
    assert " nan" not in page
    shutil.copytree("out", "again")
    compared = dsim("compare", "out", "again")
    assert compared.code == 0
    assert "TTFT p99, ms" in compared.out
    assert "tok/s per user" not in compared.out


def test_where_prompts_are_not_simulated_no_column_speaks_of_them(scenario: Callable[..., Path], world: Path) -> None:
    question = load_scenario(scenario(policies=[PLAIN], load=[2], run={"replications": 1, "requests": 10}, sla=None))
    (row,) = sweep(question, world / "points", workers=1, details=["requests"])
    assert [name for name in row.numbers if ("ttft" in name or name.endswith("_prefill")) and row[name] is not None] == []
    assert row["user_s_per_token_overhead"] is not None
    latency = figure(build_result(question, [row]))
    assert [panel.get_title(loc="left").split(",")[0] for panel in latency.axes] == ["time per output token"]
    assert pd.read_parquet(next((world / "points").glob("*.requests.parquet")))["ttft_s"].isna().all()

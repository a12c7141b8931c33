"""Plans that promise a first token and no speed, answers that have none, and prompts that are not simulated."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import ScenarioError
from simulator.study.planning import finding
from simulator.study.planning.finding import _confirmed
from simulator.study.planning.make import answer
from simulator.study.planning.question import Plan
from simulator.study.planning.search import Assessments, enough
from tests.planning.conftest import drive

Make = Callable[..., Plan]
PLAIN = [{"name": "plain", "verification": {"kind": "none"}}]
CHUNKED = [{"max_batch": 16, "prefill": {"kind": "chunked"}}]
BOTH = {"speed": {"tps": 20}, "ttft": {"seconds": 0.5, "share": 0.95}}


def answers_of(tokens: int) -> dict[str, Any]:
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 500}, "output_tokens": {"kind": "fixed", "tokens": tokens}}
    return {"arrivals": {"kind": "poisson"}, **lengths}


@pytest.fixture(autouse=True)
def _prompts_cost_time(edit_profile: Callable[..., None], sketched: None) -> None:
    edit_profile(lambda profile: profile["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.01, "per_token_s": 1e-4}))


@pytest.mark.parametrize("sla", [BOTH, {"ttft": BOTH["ttft"]}], ids=["void", "left out"])
def test_answers_of_one_token_are_planned_by_their_ttft(sla: Any, dsim: Any, plan_file: Callable[..., Path], world: Path) -> None:
    """A prompt of 500 tokens takes 61 ms with its step: a replica starts some 16 answers per second."""
    path = plan_file(policies=PLAIN, settings=CHUNKED, workload=answers_of(1), load_rps=30.0, sla=sla, run={"replications": 4}, what_if="short")
    said = dsim("plan", path, "--out", "out", "--workers", 1)
    assert said.code == 0, said.err
    result = json.loads((world / "out" / "result.json").read_text())
    best = result["cells"][result["best"]]
    assert 2 <= best["replicas"] <= 4
    assert (result["sla"]["speed"], result["by_promise"], best["alone_tps"]) == (None, [], None)
    assert result["answer"][0].startswith(f"plain on {best['replicas']} replicas meets a first token within 0.5 s for 95 % of users at 30 requests")
    assert "tok/s" not in "".join(result["answer"])
    assert ("nobody has a speed" in "".join(w["text"] for w in result["warnings"])) == ("speed" in sla)
    assert {row["speed"] for row in csv.DictReader((world / "out" / "fleets.csv").open())} == {""}
    page = (world / "out" / "report.md").read_text()
    assert "None" not in page
    assert " nan" not in page
    assert "its TTFT" in page  # of the what-ifs
    assert (world / "out" / "report.html").is_file()


def test_a_plan_for_ttft_alone_takes_its_warm_up_from_the_answers(make: Make) -> None:
    """1,001 tokens at 11.1 ms each and more in company: three of them are 33 s and more."""
    plan = make(policies=PLAIN, settings=CHUNKED, workload=answers_of(1001), load_rps=1.0, sla={"ttft": {"seconds": 1.0}}, run={})
    assert 33 < plan.warmup_s < 90
    assert plan.drain_s > 11
    quick = make(policies=PLAIN, settings=CHUNKED, workload=answers_of(20), load_rps=20.0, sla={"ttft": {"seconds": 1.0}}, run={"replications": 2})
    result = answer(quick, workers=1)
    assert result.chosen.replicas is not None
    assert (result.chosen.at_peak.mean("speed") or 0) > 20  # known, though not promised
    assert "of users see" in result.answer[-1]


@pytest.mark.parametrize(
    ("sla", "settings", "tokens", "says"),
    [
        ({}, CHUNKED, 20, "expected speed, ttft or both, got neither"),
        ({"speed": {"tps": 20}}, CHUNKED, 1, "sla.speed: answers have one token, so nobody has a speed; promise sla.ttft"),
        ({"ttft": {"seconds": 1}}, [{"prefill": {"kind": "instant"}}], 20, "sla.ttft is promised, but prefill: {kind: instant} leaves prompts out"),
    ],
)
def test_promises_that_cannot_be_are_one_line(sla: Any, settings: Any, tokens: int, says: str, make: Make) -> None:
    with pytest.raises(ScenarioError) as refused:
        make(policies=PLAIN, settings=settings, workload=answers_of(tokens), sla=sla)
    assert says in str(refused.value)


def test_one_token_without_prompts_leaves_nothing_to_simulate(scenario: Callable[..., Path], dsim: Any) -> None:
    said = dsim("run", scenario(workload={**answers_of(1), "arrivals": {"kind": "closed_loop"}}))
    assert (said.code, said.out) == (2, "")
    assert "answers have one token and prompts are not simulated, so nothing takes time" in said.err


def test_a_plan_without_prompts_says_so_and_knows_no_ttft(dsim: Any, plan_file: Callable[..., Path], world: Path) -> None:
    path = plan_file(policies=PLAIN, load_rps=30.0, run={"warmup_s": 1.0, "window_s": 3.0, "replications": 3}, what_if=True)
    assert dsim("plan", path, "--out", "out", "--workers", 1).code == 0
    result = json.loads((world / "out" / "result.json").read_text())
    assert "Prompts are not simulated (prefill: instant)" in "".join(w["text"] for w in result["warnings"])
    assert {fleet["metrics"]["ttft"]["mean"] for cell in result["cells"] for fleet in cell["points"]} == {None}
    assert not [change["name"] for change in result["what_if"] if "prompts" in change["name"]]
    assert {row["ttft"] for row in csv.DictReader((world / "out" / "fleets.csv").open())} == {""}
    tables = (world / "out" / "report.md").read_text().split("## Definitions")[0]
    assert "| TTFT" not in tables


def test_a_least_fleet_that_carries_twice_the_load_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven replicas do. One replication of bad luck refused twenty, so that the search ended at 21, which carries 21 / 11 of the load."""
    asked = []

    def keeps(replicas: int) -> Generator[Any, Any, bool]:
        asked.append(replicas)
        yield None
        return replicas >= 11 and replicas != 20

    def keeps_load(_known: Any, replicas: int, load: float) -> Generator[Any, Any, bool]:
        yield None
        return load <= 4.0 * replicas / 11 * 1.02

    monkeypatch.setattr(finding, "_keeps_load", keeps_load)
    needed, carried = drive(_confirmed(Assessments(0, None, 4), keeps, 4.0, 21, 1), lambda _: None)  # type: ignore[arg-type]
    assert needed == 11
    assert carried / 4.0 - 1 <= 1 / (needed - 1)
    assert enough(21, 2.15) < 21
    assert enough(11, 1.06) == 11

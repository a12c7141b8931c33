"""How sure a plan is, against hand calculation: steps of one length, and a need that follows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from simulator.study.planning.finding import CellResult, Search
from simulator.study.planning.make import answer
from simulator.study.planning.question import Plan
from simulator.study.planning.result import PlanResult
from simulator.study.planning.search import Assessments
from simulator.study.planning.sure import Sure
from simulator.study.planning.trial import TrialRow
from simulator.study.run.fluid import Carried, speed_by_fluid
from tests.planning.test_closed_forms import PLAIN, constant, flat

Make = Callable[..., Plan]
SD = 0.1


def unsure(parameters: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    def edit(profile: dict[str, Any]) -> None:
        flat(profile)
        profile["uncertainty"] = {"kind": "measured", "points": 0, "parameters": parameters}

    return edit


def plan_of(make: Make, load: float = 60.0, probability: float = 0.9) -> Plan:
    """Requests that hold one of 4 slots for 2 s, at a speed that nothing can break."""
    return make(
        policies=PLAIN, workload=constant(101), load_rps=load, sla={"speed": {"tps": 20.0}, "probability": probability}, price={"gpu_hour": 3.0},
        settings=[{"max_batch": 4, "prefill": {"kind": "instant"}}], fleet={"max_replicas": 60, "routing": {"kind": "round_robin"}},
        run={"warmup_s": 4.0, "window_s": 10.0},
    )  # fmt: skip


def test_a_need_follows_the_step(make: Make, edit_profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot is held as long as steps take: the logarithm of the need has the sd of that of the step; its 5 % and 95 % are 1.645 of them away."""
    monkeypatch.setattr("simulator.study.planning.sure.model_error", exact)
    edit_profile(unsure([{"parameter": "step", "sd": SD}]))
    result = answer(plan_of(make), workers=1)
    (cell,) = result.cells
    assert cell.sure is not None
    assert cell.sure.gpus is not None
    by_hand = [60.0 * 2.0 / 4 * np.exp(sign * 1.645 * SD) for sign in (-1, 1)]
    assert [cell.sure.gpus.low, cell.sure.gpus.high] == pytest.approx(by_hand, rel=0.05)
    assert cell.sure.enough_in == pytest.approx(0.5, abs=0.15)
    assert cell.sure.replicas == pytest.approx(30 * np.exp(1.2816 * SD), abs=1.5)
    assert result.prediction is not None
    assert [(it.parameter, round(it.share, 6)) for it in result.prediction.unsure] == [("step", 1.0)]
    assert PlanResult.from_json(result.to_json(), "result.json", "") == result


def test_who_is_sure_needs_what_was_found(make: Make, edit_profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.study.planning.sure.model_error", exact)
    edit_profile(unsure([]))
    (cell,) = answer(plan_of(make, load=18.0), workers=1).cells
    assert cell.sure is not None
    assert (cell.sure.enough_in, cell.sure.cheapest_in, cell.sure.replicas) == (1.0, 1.0, cell.replicas)
    assert cell.sure.gpus is not None
    assert cell.sure.gpus.low == cell.sure.gpus.high


def test_more_probability_takes_no_fewer_replicas(make: Make, edit_profile: Callable[..., None]) -> None:
    edit_profile(unsure([{"parameter": "step", "sd": SD}]))
    found = [answer(plan_of(make, load=18.0, probability=p), workers=1) for p in (0.5, 0.99)]
    less, more = (result.cells[0].sure for result in found)
    assert less is not None
    assert more is not None
    assert (less.replicas or 0) < (more.replicas or 0)
    assert any("99 %" in line and "prediction interval" in line for line in found[1].answer)


def test_nothing_is_said_where_it_is_not_asked_for(make: Make) -> None:
    result = answer(plan_of(make, load=9.0), workers=1, prediction=False)
    assert result.prediction is None
    assert all(cell.sure is None for cell in result.cells)
    assert not any("prediction interval" in line for line in result.answer)


@pytest.fixture
def drafting(make: Make, edit_profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> tuple[Sure, CellResult]:
    """Twenty replicas whose drafter costs nothing, as far as is known."""
    monkeypatch.setattr("simulator.study.planning.sure.model_error", exact)
    edit_profile(unsure([{"parameter": "draft", "drafter": "head", "sd": 0.2}]))
    policies = [{"name": "three", "drafter": "head", "verification": {"kind": "fixed", "length": 3}}]
    settings = [{"max_batch": 4, "prefill": {"kind": "instant"}}]
    plan = make(policies=policies, workload=constant(101) | {"domains": {"chat": 1}}, load_rps=60.0, sla={"speed": {"tps": 20.0}}, settings=settings)
    found = CellResult(0, "planned", Assessments(0, plan.question.sla, 4), 1.0, [], 20, 20, plan.load)
    return Sure(plan, Search({0: found}, 0)), found


def test_a_drafter_that_costs_nothing_can_only_need_more(drafting: tuple[Sure, CellResult]) -> None:
    needs = drafting[0].needs[0]
    assert needs.min() == 20
    assert needs.max() > 22
    assert (needs == 20).mean() == pytest.approx(0.5, abs=0.1)


def test_the_speed_that_is_needed_is_read_where_the_need_is(drafting: tuple[Sure, CellResult], monkeypatch: pytest.MonkeyPatch) -> None:
    """Users who are as fast as the mean one must be as fast as promised, whatever the luck of a replica in the mean."""
    sure, found = drafting
    mean = speed_by_fluid(sure._curve(sure.plan.scenario(0, 1)), 60.0 / 20)
    numbers = {"speed": mean, "ttft": None}
    found.known.rows[20, sure.plan.load, "peak"] = [TrialRow(replicas=20, load=60.0, replication=0, verdict="stable", numbers=numbers)]
    asked: list[float] = []

    def least(_curve: list[Carried], _load: float, tps: float) -> float:
        asked.append(tps)
        return 20.0

    monkeypatch.setattr("simulator.study.planning.sure.least_by_fluid", least)
    assert 0 in sure.responses
    assert asked == pytest.approx([20.0] * len(asked))
    assert len(asked) == 3


def exact(_kind: str, _points: int) -> dict[str, Any]:
    """A model that has never been wrong."""
    from simulator.measurements.model_error import GROUPS, ModelError

    return {group: ModelError(0.0, 0.0, 0.0, 1, "made up") for group in GROUPS}

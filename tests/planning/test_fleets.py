"""What is said of fleets beside those that were searched for: spares, the fewest that may be had, prefill workers and a day."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
import pytest

from simulator.study.planning.build import _change, _day, _day_result, _fewer
from simulator.study.planning.changes import Change
from simulator.study.planning.day import autoscaled
from simulator.study.planning.finding import CellResult, Search, WhatIf
from simulator.study.planning.promises import at_promise
from simulator.study.planning.question import Plan
from simulator.study.planning.search import Assessments
from simulator.study.planning.sure import Sure
from simulator.study.planning.trial import TrialRow
from tests.planning.test_closed_forms import PLAIN

Make = Callable[..., Plan]
POOL = {"kind": "disaggregated", "workers": 2, "gpus_per_worker": 3}


def rows(speed: float) -> list[TrialRow]:
    """Three replications alike."""
    numbers = {"speed": speed, "ttft": 0.1, "throughput_tok_s_gpu": 10.0}
    return [TrialRow(replicas=1, load=1.0, replication=k, verdict="stable", numbers=numbers) for k in range(3)]


def planned(plan: Plan, needed: int, replicas: int | None = None, speeds: dict[int, float] | None = None, number: int = 0) -> CellResult:
    """A choice whose fleets have these speeds, by replicas."""
    known = Assessments(number, plan.question.sla, 4)
    known.rows |= {(n, plan.load, "peak"): rows(speed) for n, speed in (speeds or {}).items()}
    return CellResult(number, "planned", known, 1.0, [], needed, replicas or needed, plan.load)


def test_more_than_one_spare_is_in_everything_that_is_read_from_the_fleet(make: Make) -> None:
    """Two replicas keep the promise, four do through a loss: so it takes two more wherever another fleet is told."""
    plan = make(policies=PLAIN, fleet={"max_replicas": 24, "survive_loss": True})
    found = planned(plan, 2, 4, {2: 90.0, 3: 95.0, 4: 99.0})
    search = Search({0: found}, 0, carries={1: plan.load / 2, 2: plan.load}, peak_rps=plan.shape.peak_rps)
    assert _change(plan, search, WhatIf(Change("load-up", "more load"), 3, rows(85.0))).replicas == 5
    assert at_promise(plan, search, 93.0).cells[0].replicas == 5
    day = _day(plan, search)
    assert day is not None
    assert day.needed.tolist() == [4] * len(day.needed)
    unmet = CellResult(0, "too few replicas", found.known, 1.0, [], 2)
    assert at_promise(plan, Search({0: unmet}, 0), 93.0).cells[0].replicas == 4  # one at least


def test_fewer_than_may_be_had_are_not_told(make: Make) -> None:
    speeds = {2: 90.0, 3: 92.0, 4: 95.0, 5: 99.0}
    for least, fewer, cheaper in ((3, None, 3), (1, 2, 2)):
        plan = make(policies=PLAIN, fleet={"min_replicas": least, "max_replicas": 24})
        found = planned(plan, 3, speeds=speeds)
        told = _fewer(plan, found)
        assert (told.replicas if told else None) == fewer
        need = at_promise(plan, Search({0: found}, 0), 85.0).cells[0]
        assert (need.replicas, need.exact) == (cheaper, least == 3)
        assert at_promise(plan, Search({0: found}, 0), plan.question.sla.tps).cells[0].replicas == 3


@pytest.fixture
def pooled(make: Make, edit_profile: Callable[..., None]) -> Plan:
    """One setting with six GPUs for prompts, one with none."""
    edit_profile(lambda profile: profile["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 0.0}))
    return make(policies=PLAIN, settings=[{"name": "pool", "prefill": POOL}, {"name": "alone", "prefill": {"kind": "chunked"}}])


def test_prefill_workers_count_once_in_every_draw(pooled: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas and six GPUs are eight, dearer than seven and cheaper than nine. Where no fleet would do, nothing is cheapest."""
    sure = Sure(pooled, Search({n: planned(pooled, 2, number=n) for n in (0, 1)}, 0))
    monkeypatch.setattr(Sure, "needs", {0: np.array([2.0, 2.0, 4.0]), 1: np.array([7.0, 9.0, 9.0])})
    pool, alone = (sure.of(n) for n in (0, 1))
    assert pool is not None
    assert alone is not None
    assert pool.gpus is not None
    assert alone.gpus is not None
    assert (pool.gpus.low, pool.gpus.high, alone.gpus.low, alone.gpus.high) == (8, 10, 7, 9)
    assert (pool.cheapest_in, alone.cheapest_in) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    monkeypatch.setattr(Sure, "needs", {0: np.array([2.0, 2.0, inf, inf]), 1: np.array([7.0, inf, inf, inf])})
    assert [told.cheapest_in for n in (0, 1) if (told := sure.of(n))] == [0.25, 0.25]


def test_prefill_workers_are_paid_all_day(pooled: Plan) -> None:
    day = autoscaled(np.array([0.0, 43200.0]), np.array([1.0, 2.0]), 86400.0, {1: 1.0, 2: 2.0}, 2, 1, 0, 0.0)
    told = _day_result(pooled, Search({}, 0), day)
    million = pooled.shape.tokens_per_s * 86400 / 1e6
    assert (told.replica_hours.fixed, told.replica_hours.forecast) == (48, 36)
    assert told.cost_per_mtok.fixed == pytest.approx((48 + 6 * 24) * 2.0 / million)
    assert told.cost_per_mtok.forecast == pytest.approx((36 + 6 * 24) * 2.0 / million)


def test_the_peak_of_a_trace_needs_the_fleet_that_it_was_planned_for(make: Make, world: Path) -> None:
    """Ten requests a second for ten seconds are 1.9 in the mean of the hundredth of the trace around them: there the day needs all four replicas."""
    arrivals = sorted([float(t) for t in range(9600) if not 5000 <= t < 5010] + [5000 + k / 10 for k in range(100)])
    (world / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},50,20\n" for t in arrivals))
    plan = make(policies=PLAIN, workload={"trace": {"path": "trace.csv"}}, load_rps=len(arrivals) / 9599, run={"warmup_s": 5.0, "window_s": 10.0})
    search = Search({0: planned(plan, 4)}, 0, carries={1: 0.25, 2: 0.5, 4: 1.0}, peak_rps=10.0)
    day = _day(plan, search)
    assert day is not None
    assert (day.needed.max(), day.needed.min()) == (4, 3)  # 1 of 1.9 requests a second are 2.1 of four replicas
    assert plan.shape.peak_rps == pytest.approx(1.9, rel=0.01)
    assert _day_result(plan, search, day).carries_rps["4"] == pytest.approx(plan.shape.peak_rps)

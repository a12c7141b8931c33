"""What-ifs change what they say and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.prices import RoundCost, ScaledPrices
from simulator.study.planning.breakeven import accepted_length, break_even
from simulator.study.planning.changes import changes, moved_acceptance
from simulator.study.planning.day import autoscaled, needed_at
from simulator.study.planning.question import Plan
from simulator.study.planning.trial import Trial, run_trial
from simulator.study.run.point import Point, run_point
from simulator.study.run.scenario import load_scenario
from simulator.traffic.request import RequestColumns, RequestSpec
from tests.engine.worlds import blocks, costs

Make = Callable[..., Plan]


def conditional(accepted: np.ndarray, gamma: int) -> np.ndarray:
    reached = np.array([(accepted >= k).sum() for k in range(gamma + 1)], dtype=float)
    return reached[1:] / reached[:-1]


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.1, 1.5])
def test_moved_acceptance_has_the_conditionals_it_promises(factor: float) -> None:
    shape: dict[str, Any] = {"sequences_per_domain": 64, "anchors_per_sequence": 256}
    given = ParametricAcceptance(conditional={"a": [0.8, 0.6, 0.5], "b": [0.95, 0.9, 0.9]}, **shape).generate("d")
    moved = moved_acceptance(given, factor)
    domain = np.repeat(given.sequence_domain, given.length)
    for d in range(2):
        before, after = (conditional(b.accepted[domain == d], 3) for b in (given, moved))
        expected = np.minimum(factor * before, 1 - (1 - before) / 2)
        reached = np.array([(moved.accepted[domain == d] >= k).sum() for k in range(3)])
        error = np.sqrt(expected * (1 - expected) / reached)
        assert (np.abs(after - expected) < 4 * error).all()
    assert moved.confidence is not None
    assert given.confidence is not None
    assert ((moved.confidence < given.confidence) == (factor < 1)).all()
    assert np.array_equal(given.accepted, moved_acceptance(given, 1.0).accepted)


def test_moved_acceptance_moves_what_is_proposed() -> None:
    given = ParametricAcceptance(conditional={"a": [0.8, 0.6, 0.5]}, sequences_per_domain=64, anchors_per_sequence=256).generate("d")
    proposed = np.random.default_rng(0).integers(0, 4, given.rows)
    given = given.proposing(proposed)
    for factor in (0.7, 1.5):
        moved = moved_acceptance(given, factor)
        assert moved.confidence is not None
        assert (moved.accepted <= proposed).all()
        assert ((moved.confidence > 0) == given.is_proposed).all()
        for k in range(3):
            before, after = (b.accepted[(b.accepted >= k) & (proposed > k)] > k for b in (given, moved))
            expected = min(factor * before.mean(), 1 - (1 - before.mean()) / 2)
            assert abs(after.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(after))
    assert np.array_equal(given.accepted, moved_acceptance(given, 1.0).accepted)


def test_scaled_prices() -> None:
    prices = RoundCost(costs(base=0.01, per_token=1e-3, overhead=0.002, prefill=(0.1, 0.01)), None, 3, 3)
    dearer, steep = ScaledPrices(prices, 1.1), ScaledPrices(prices, 1.0, 2.0)
    base = prices.round_s(2, 0)
    assert dearer.round_s(2, 0) == pytest.approx(1.1 * base)
    assert dearer.overhead_s == pytest.approx(0.0022)
    assert dearer.prefill_s(10) == pytest.approx(0.22)
    assert steep.round_s(2, 0)[0] == base[0]
    assert np.diff(steep.round_s(2, 0)) == pytest.approx(2 * np.diff(base))


def test_every_change_reaches_its_world(make: Make) -> None:
    plan = make(what_if=True, load_rps=30.0)
    offered = [set(changes(plan, cell)) for cell in range(3)]
    assert "lag-1" not in offered[0] | offered[1]
    assert {"lag-0", "lag-1", "table-flat", "table-steep"} <= offered[2]
    assert "acceptance-down" not in offered[0]
    base = run_trial(plan, Trial(2, 2, plan.load, 0))
    rows = {name: run_trial(plan, Trial(2, 2, plan.load, 0, "peak", name)) for name in offered[2]}
    assert rows["cost-up"].speed == pytest.approx(base.speed / 1.1, rel=0.03)
    assert rows["cost-down"].speed > base.speed > rows["cost-up"].speed
    assert rows["acceptance-down"]["accepted_length"] < base["accepted_length"] < rows["acceptance-up"]["accepted_length"]
    assert rows["mix-worst"]["accepted_length"] < base["accepted_length"] < rows["mix-best"]["accepted_length"]
    assert rows["table-flat"]["verification_budget"] >= base["verification_budget"] >= rows["table-steep"]["verification_budget"]
    assert base == run_trial(plan, Trial(2, 2, plan.load, 0)), "a what-if left traces"


def test_longer_prompts_keep_the_rest(make: Make, edit_profile: Callable[..., None]) -> None:
    assert "prompts-longer" not in changes(make(what_if=True), 0)  # prompts that are not simulated cannot be longer
    edit_profile(lambda profile: profile["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.01, "per_token_s": 1e-4}))
    change = changes(make(what_if=True, settings=[{"prefill": {"kind": "chunked"}}]), 0)["prompts-longer"]
    assert change.requests(RequestColumns.of([RequestSpec(3, 1.5, 100, 7, "chat", 40)])) == [RequestSpec(3, 1.5, 200, 7, "chat", 40)]


def test_short_what_ifs_are_few(make: Make) -> None:
    assert {c.pair for c in changes(make(what_if="short"), 2).values()} == {"load", "cost", "acceptance"}
    assert changes(make(), 2) == {}


def test_accepted_length_walks_the_anchors_a_run_visits() -> None:
    """Verifying two of A = 2 0 1 2: anchor 0 gives 3 tokens, anchor 3 gives 3; verifying one: 2, then anchor 2 (A = 1) gives 2."""
    given = blocks([[2, 0, 1, 2]], gamma=2)
    assert accepted_length(given, 2) == pytest.approx(3.0)
    assert accepted_length(given, 1) == pytest.approx(2.0)


def test_break_even_by_hand(make: Make, edit_profile: Callable[..., None]) -> None:
    """A token costs as much as a step: speculation never pays. It costs nothing: the whole block always does."""

    def price(per_token: float) -> Callable[[dict[str, Any]], None]:
        def change(profile: dict[str, Any]) -> None:
            profile["costs"]["verify"] |= {"base_s": 1e-9 if per_token else 0.01, "per_token_s": per_token}
            profile["costs"]["overhead"]["seconds"] = 0.0

        return change

    edit_profile(price(0.01))
    dear = break_even(make(), 2)
    edit_profile(price(0.0))
    free = break_even(make(), 2)
    assert dear is not None
    assert free is not None
    assert all(k == 0 for curve in dear.curves for k in curve.best_length)
    assert all(curve.stops_at == 1 for curve in dear.curves)
    assert all(k == 3 for curve in free.curves for k in curve.best_length)
    assert all(curve.stops_at is None for curve in free.curves)
    assert break_even(make(), 0) is None


def test_break_even_is_what_a_closed_loop_gains(make: Make, scenario: Callable[..., Path]) -> None:
    """The mean field's gain of each best length over no drafting, against closed loops of that many users: within two percent."""
    plan = make()
    found = break_even(plan, 2)
    assert found is not None
    as_is = next(curve for curve in found.curves if curve.acceptance == 1.0)
    workload = plan.choices[2].scenario.workload.model_dump(mode="json", exclude_none=True)
    workload |= {"arrivals": {"kind": "closed_loop"}, "output_tokens": {"kind": "fixed", "tokens": 400}}
    fixed = [{"name": str(k), "drafter": "head", "verification": {"kind": "fixed", "length": k}} for k in sorted({*as_is.best_length} - {0})]
    policies = [{"name": "0", "verification": {"kind": "none"}}, *fixed]
    settings = {"max_batch": 16, "prefill": {"kind": "instant"}}
    path = scenario(
        policies=policies, workload=workload, load=found.batch, engine=settings, run={"requests": 600, "replications": 1}, baseline=None, sla=None,
        validation=None,
    )  # fmt: skip
    asked = load_scenario(path)
    compared = 0
    for n, k, gain in zip(found.batch, as_is.best_length, as_is.gain, strict=True):
        if k:
            with_it, without = (run_point(asked, Point([p["name"] for p in policies].index(name), float(n), 0)) for name in (str(k), "0"))
            ratio = with_it["throughput_tok_s_gpu"] / without["throughput_tok_s_gpu"]
            assert ratio == pytest.approx(1 + gain, rel=0.02)
            compared += 1
    assert compared >= 3


def test_replicas_by_rate() -> None:
    """Carried: 1 replica 2/s, 4 replicas 10/s. 6/s lies half way between 1 and 4: 2.5, so 3."""
    rates = np.array([0.0, 1.0, 2.0, 2.1, 6.0, 10.0, 15.0])
    assert needed_at(rates, {1: 2.0, 4: 10.0}, 1, 0).tolist() == [1, 1, 1, 2, 3, 4, 6]
    assert needed_at(rates, {1: 2.0, 4: 10.0}, 2, 1).tolist() == [3, 3, 3, 3, 4, 5, 7]


def test_a_day_by_hand() -> None:
    """Half the day 1/s, half 4/s, one replica a request per second, start-up an hour: four run for 13 hours, one for 11."""
    day = autoscaled(np.array([0.0, 43200.0]), np.array([1.0, 4.0]), 86400.0, {1: 1.0, 4: 4.0}, 4, 1, 0, 3600.0)
    assert day.fixed_hours == pytest.approx(96)
    assert day.paid_hours == pytest.approx(13 * 4 + 11 * 1)
    assert day.reactive_hours == pytest.approx(12 * 4 + 12 * 1)  # paid while they start
    assert day.short_share == pytest.approx(4 * 1 / (4 * 12 + 12))  # the first hour of the rise
    assert (day.paid >= day.needed).all()
    at_once = autoscaled(np.array([0.0, 43200.0]), np.array([1.0, 4.0]), 86400.0, {1: 1.0, 4: 4.0}, 4, 1, 0, 0.0)
    assert at_once.paid_hours == pytest.approx(60)
    assert at_once.short_share == 0

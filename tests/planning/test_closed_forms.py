"""Plans against hand calculation: constant step cost, no queue; and the mean field against the same."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.study.planning.judge import keeps
from simulator.study.planning.make import answer
from simulator.study.planning.question import Plan
from simulator.study.planning.trial import Trial, run_trial
from simulator.study.run.fluid import Carried, least_by_fluid, speed_by_fluid

Make = Callable[..., Plan]
PLAIN = [{"name": "plain", "verification": {"kind": "none"}}]


def constant(tokens: int) -> dict[str, Any]:
    """One request every 1 / rate seconds, all alike."""
    return {
        "arrivals": {"kind": "constant"},
        "prompt_tokens": {"kind": "fixed", "tokens": 10},
        "output_tokens": {"kind": "fixed", "tokens": tokens},
    }


def flat(profile: dict[str, Any]) -> None:
    """A step takes 20 ms, whatever it holds."""
    profile["costs"]["verify"] |= {"base_s": 0.02, "per_token_s": 0.0}
    profile["costs"]["overhead"]["seconds"] = 0.0


@pytest.mark.parametrize(("load", "slots"), [(9.0, 4), (9.0, 8), (13.0, 4), (3.0, 16)])
def test_constant_step_cost_without_queues(make: Make, edit_profile: Callable[..., None], load: float, slots: int) -> None:
    """101 tokens: 100 steps of 20 ms hold a slot for 2 s; a replica of S slots carries S / 2 requests per second, each user at 50 tok/s."""
    edit_profile(flat)
    plan = make(
        policies=PLAIN, workload=constant(101), load_rps=load, sla={"speed": {"tps": 49.9}}, price={"gpu_hour": 3.0},
        settings=[{"max_batch": slots, "prefill": {"kind": "instant"}}], fleet={"max_replicas": 24, "routing": {"kind": "round_robin"}},
        run={"warmup_s": 4.0, "window_s": 30.0},
    )  # fmt: skip
    result = answer(plan, workers=1)
    by_hand = ceil(load * 2.0 / slots)
    (cell,) = result.cells
    assert cell.replicas == by_hand
    assert cell.gpus == by_hand
    assert cell.fluid_bound == pytest.approx(load * 2.0 / slots, rel=1e-6)
    assert cell.cost_per_mtok == pytest.approx(by_hand * 3.0 / (load * 101 * 3600 / 1e6))
    assert cell.alone_tps == pytest.approx(50, rel=1e-6)


def test_the_fluid_bound_is_of_the_peak(make: Make, edit_profile: Callable[..., None]) -> None:
    """2.8 requests per second in the mean, and 10 at the flat top of the curve, of 2 s on 4 slots each: 5 replicas."""
    edit_profile(flat)
    curve = {"kind": "rate_curve", "points": [[0, 1], [300, 1], [301, 10], [450, 10], [451, 1], [750, 1]]}
    plan = make(
        policies=PLAIN, workload=constant(101) | {"arrivals": curve}, load_rps=2.8, sla={"speed": {"tps": 49.9}}, fleet={"max_replicas": 12},
        settings=[{"max_batch": 4, "prefill": {"kind": "instant"}}], run={"warmup_s": 4.0, "window_s": 30.0},
    )  # fmt: skip
    assert answer(plan, workers=1).cells[0].fluid_bound == pytest.approx(5, rel=0.01)


def test_batch_by_the_promised_speed(make: Make, edit_profile: Callable[..., None]) -> None:
    """A step of R requests takes 10 + R ms; 40 tok/s allow R = 15. An answer of 201 tokens then takes 5 s: 3 requests per second a replica."""

    def linear(profile: dict[str, Any]) -> None:
        profile["costs"]["verify"] |= {"base_s": 0.01, "per_token_s": 1e-3}
        profile["costs"]["overhead"]["seconds"] = 0.0

    edit_profile(linear)
    plan = make(
        policies=PLAIN, workload=constant(201), load_rps=13.0, sla={"speed": {"tps": 40}},
        settings=[{"max_batch": 64, "prefill": {"kind": "instant"}}], fleet={"routing": {"kind": "round_robin"}},
        run={"warmup_s": 15.0, "window_s": 30.0},
    )  # fmt: skip
    result = answer(plan, workers=1)
    (cell,) = result.cells
    assert cell.replicas == ceil(13 / 3)
    assert (cell.headroom or -1) >= 0
    assert cell.carried_rps == pytest.approx(15, rel=0.07)  # 5 × 3, found in steps of 3 %, R whole


def test_the_search_finds_what_trying_every_fleet_finds(make: Make) -> None:
    plan = make(load_rps=60.0, run={"warmup_s": 1.0, "window_s": 5.0})
    result = answer(plan, workers=1)
    for cell in result.cells:
        rows = {n: [run_trial(plan, Trial(cell.cell, n, plan.load, k)) for k in range(3)] for n in range(1, 8)}
        all_keep = [n for n, found in rows.items() if all(keeps(r, plan.question.sla) for r in found)]
        none_keeps = [n for n, found in rows.items() if not any(keeps(r, plan.question.sla) for r in found)]
        assert cell.replicas >= min(all_keep)
        assert cell.replicas <= max(none_keeps, default=0) + 2, "more than one replica beyond the largest fleet that always fails"


def test_more_load_and_a_harder_promise_never_need_less(make: Make) -> None:
    policy = PLAIN
    by_load = [answer(make(policies=policy, load_rps=load), workers=1).cells[0] for load in (30.0, 90.0)]
    by_promise = [answer(make(policies=policy, load_rps=40.0, sla={"speed": {"tps": tps}}), workers=1).cells[0] for tps in (60, 84)]
    by_price = [answer(make(policies=policy, load_rps=30.0, price={"gpu_hour": price}), workers=1).cells[0] for price in (1.0, 5.0)]
    for cells in (by_load, by_promise):
        assert [c.replicas for c in cells] == sorted(c.replicas for c in cells)
        assert cells[0].replicas < cells[-1].replicas
    assert by_price[0].replicas == by_price[1].replicas
    assert by_price[1].cost_per_mtok == pytest.approx(5 * by_price[0].cost_per_mtok)


CURVE = [Carried(1, 2.0, 100.0), Carried(2, 3.5, 80.0), Carried(4, 5.0, 50.0)]


@given(st.floats(0.1, 500), st.floats(1.0, 10), st.floats(5, 120), st.floats(0, 20))
def test_the_fluid_bound_is_monotone(load: float, factor: float, tps: float, harder: float) -> None:
    assert least_by_fluid(CURVE, load * factor, tps) >= least_by_fluid(CURVE, load, tps)
    assert least_by_fluid(CURVE, load, tps + harder) >= least_by_fluid(CURVE, load, tps)


def test_the_fluid_bound_reads_between_batches() -> None:
    assert least_by_fluid(CURVE, 10, 80) == pytest.approx(10 / 3.5)
    assert least_by_fluid(CURVE, 10, 65) == pytest.approx(10 / 4.25)
    assert least_by_fluid(CURVE, 10, 101) == float("inf")


def test_speed_by_the_fluid_is_its_inverse() -> None:
    assert speed_by_fluid(CURVE, 4.25) == pytest.approx(65)
    assert speed_by_fluid(CURVE, 5.1) is None

"""A plan holds when the dice are thrown again: fresh seeds, the same fleet; and a smaller fleet does not."""

from __future__ import annotations

from collections.abc import Callable

from simulator.study.planning.judge import keeps
from simulator.study.planning.make import answer
from simulator.study.planning.question import Plan
from simulator.study.planning.trial import Trial, run_trial

FRESH = range(1000, 1020)  # replications that no search has seen


def kept(plan: Plan, cell: int, replicas: int) -> int:
    """Of twenty fresh replications, how many keep the promise."""
    return sum(keeps(run_trial(plan, Trial(cell, replicas, plan.load, k)), plan.question.sla) for k in FRESH)


def test_fresh_seeds_keep_the_promise_and_one_replica_less_does_not(make: Callable[..., Plan]) -> None:
    plan = make(run={"warmup_s": 1.0, "window_s": 12.0}, policies=[{"name": "plain", "verification": {"kind": "none"}}], sla={"speed": {"tps": 82}})
    result = answer(plan, workers=1)
    best = result.chosen
    assert best.replicas > 1
    assert kept(plan, result.best, best.replicas) >= 19
    assert kept(plan, result.best, best.replicas - 1) < 10

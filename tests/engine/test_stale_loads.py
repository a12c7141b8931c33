"""Routers that see loads of some seconds ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.given import Absence
from simulator.engine.simulate import Run, simulate
from simulator.policies.routing import LeastLoaded, LoadRouter, PowerOfTwo, Random
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import costs, fleet, open_traffic, poisson, stamps

SEEN: list[tuple[int, list[int]]] = []  # arrival, loads


class Watched(LoadRouter):
    """Least loaded, and writes down what it sees."""

    kind: str = "watched"

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        SEEN.append((arrival, list(held)))
        return min(range(len(held)), key=held.__getitem__)


def run(router: Any, specs: Sequence[RequestSpec], replicas: int = 3, **more: Any) -> Run:
    return simulate(open_traffic(specs), fleet(costs(base=0.1), replicas=replicas, router=router, **more), "plain")


def test_until_the_first_report_comes_all_go_to_the_first_replica() -> None:
    """Answers of 11 tokens take 1 s. Loads are 2 s old: arrivals before 2 s see empty replicas, those at 2.25 and 3.45 s
    see what was held at 0.25 and 1.45 s."""
    specs = [RequestSpec(i, at, 5, 11, "") for i, at in enumerate([0.0, 0.5, 1.0, 1.5, 2.25, 3.45])]
    SEEN.clear()
    run(Watched(stale_s=2.0), specs, replicas=2)
    assert SEEN == [(0, [0, 0]), (1, [0, 0]), (2, [0, 0]), (3, [0, 0]), (4, [1, 0]), (5, [2, 0])]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), stale_s=st.sampled_from([0.03, 0.7, 5.0]), dies=st.booleans())
def test_what_is_seen_is_what_was_held(seed: int, stale_s: float, dies: bool) -> None:
    luck = np.random.default_rng(seed)
    specs = poisson(6.0, luck.integers(2, 30, 40), seed)
    away = [Absence(0, 2.0, 3.0, abrupt=False)] if dies else []
    SEEN.clear()
    over = replace(fleet(costs(base=0.1), replicas=3, router=Watched(stale_s=stale_s)), absences=away)
    done = simulate(open_traffic(specs), over, "plain")
    late, SEEN[:] = list(SEEN), []
    # Least loaded by loads of t - s: choose again from what the records say was held then.
    on: list[int] = []
    for request, (_, loads) in zip(done.requests, late, strict=True):
        at = request.spec.arrival_s
        here = [n for n in range(3) if not (n == 0 and dies and 2.0 <= at < 3.0)]
        held = [sum(r.spec.arrival_s <= at - stale_s < r.finish_s for r, place in zip(done.requests, on, strict=False) if place == n) for n in here]
        assert loads == held
        on.append(here[min(range(len(here)), key=held.__getitem__)])


@pytest.mark.parametrize("kind", [LeastLoaded, PowerOfTwo])
def test_no_staleness_is_the_exact_view(kind: Any) -> None:
    specs = poisson(20.0, np.random.default_rng(3).integers(2, 40, 300), 5)
    exact, none, least = (run(kind(stale_s=stale_s), specs) for stale_s in (0.0, 0, 1e-9))
    for other in (none, least):
        np.testing.assert_array_equal(stamps(exact.requests), stamps(other.requests), strict=True)
    assert simulate(open_traffic(specs), fleet(costs(base=0.1), replicas=3, router=kind(stale_s=1.0))).why_plain.startswith("the router sees")


def test_old_loads_are_worse_than_none() -> None:
    """Everybody runs to the replica that was empty (Mitzenmacher, How useful is old information?, 2000): beyond some age a random
    choice is better."""
    specs = poisson(24.0, np.full(1500, 11), 9)

    def answer_s(router: Any) -> float:
        return float(np.mean([r.finish_s - r.spec.arrival_s for r in run(router, specs, 4, max_batch=8).requests]))

    exact, late, blind, random = (answer_s(router) for router in (LeastLoaded(), LeastLoaded(stale_s=0.05), LeastLoaded(stale_s=10.0), Random()))
    assert exact < late < random < blind

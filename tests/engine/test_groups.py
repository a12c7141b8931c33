"""Fleets whose replicas differ, engine alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.given import Absence
from simulator.engine.records import StepRecord
from simulator.engine.simulate import Fleet, Run, simulate
from simulator.policies.prefill import Chunked, Disaggregated, Instant
from simulator.policies.routing import LeastLoaded, PowerOfTwo, Random, RoundRobin
from simulator.policies.verification import FixedLength, NoSpeculation
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import blocks, costs, drafting, fleet, independent, open_traffic, poisson, replay

DRAWN = replay(independent([0.8, 0.6], 640, 3))


def whole(price: Any = None, **over: Any) -> Fleet:
    price = price or costs(base=0.05, per_token=0.001, prefill=(0.01, 0.001))
    return fleet(price, **({"drawn": DRAWN, "policy": FixedLength(length=2), "draft": drafting(base=0.002)} | over))


def same(one: Run, other: Run) -> None:
    for name in StepRecord._fields:
        np.testing.assert_array_equal(one.steps[name], other.steps[name], strict=True)
    for a, b in zip(one.requests, other.requests, strict=True):
        assert (a.first_token_s, a.finish_s, a.replica, a.preemptions) == (b.first_token_s, b.finish_s, b.replica, b.preemptions)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), mode=st.sampled_from([Instant, Chunked, Disaggregated]),
    router=st.sampled_from([RoundRobin, LeastLoaded, PowerOfTwo, Random]), dies=st.booleans(),
)  # fmt: skip
def test_groups_of_equal_replicas_are_one_fleet(seed: int, sizes: list[int], mode: Callable[[], Any], router: Callable[[], Any], dies: bool) -> None:
    def made(replicas: int, **more: Any) -> Fleet:
        away = [Absence(replicas - 1, 1.0, 2.0, abrupt=True)] if dies else []
        return replace(whole(replicas=replicas, router=router(), kv_pages=12, prefill=mode(), max_batch=6), absences=away, **more)

    specs = poisson(15.0, np.random.default_rng(seed).integers(1, 40, 60), seed, prompt=20)
    groups = tuple(made(size) for size in sizes)
    found = simulate(open_traffic(specs), made(sum(sizes), groups=groups))
    same(simulate(open_traffic(specs), made(sum(sizes)), "plain"), found)
    assert found.why_plain == ("replicas are away for a while, which is played in Python" if dies else "replicas differ, which is played in Python")


def test_a_slow_group_beside_a_fast_one() -> None:
    """Steps of 1 s and of 2 s; round robin; answers of 3 tokens are two steps."""
    fast, slow = fleet(costs(base=1.0), router=RoundRobin()), fleet(costs(base=2.0), replicas=2)
    run = simulate(open_traffic(poisson(1e9, [3] * 3, 0)), replace(fast, replicas=3, groups=(fast, slow)))
    assert [round(r.finish_s, 6) for r in run.requests] == [2.0, 4.0, 4.0]
    assert [r.replica for r in run.requests] == [0, 1, 2]


def test_half_a_fleet_may_speculate() -> None:
    plain, drafts = whole(policy=NoSpeculation(), router=RoundRobin()), whole()
    specs = poisson(5.0, [20] * 40, 1)
    run = simulate(open_traffic(specs), replace(plain, replicas=2, groups=(plain, drafts)))
    verified = [run.steps["verified"][run.steps["replica"] == number].sum() for number in (0, 1)]
    assert verified[0] == 0 < verified[1]
    alone = simulate(open_traffic([spec for spec in specs if spec.index % 2]), replace(drafts, router=RoundRobin()))
    assert [r.finish_s for r in run.requests[1::2]] == [r.finish_s for r in alone.requests]  # as if the others were not there


@pytest.mark.parametrize("pages", [1, 4])
def test_memory_is_each_groups_own(pages: int) -> None:
    """A request of 40 + 10 tokens needs 4 pages of 16: a replica with fewer refuses it."""
    small, large = whole(kv_pages=pages, router=RoundRobin()), whole(kv_pages=8)
    specs = poisson(5.0, [10] * 4, 1, prompt=40)
    run = simulate(open_traffic(specs), replace(small, replicas=2, groups=(small, large)))
    assert [r.rejected for r in run.requests] == [pages < 4, False] * 2


def test_a_request_thrown_out_goes_on_in_the_recordings_of_the_group_that_takes_it() -> None:
    """Two drafters, both always right on easy texts and never on hard ones, recorded in opposite order: easy answers get 4 tokens a round."""
    one = blocks([[3] * 40] * 2 + [[0] * 40] * 2, 3, domains=["easy"] * 2 + ["hard"] * 2)
    other = blocks([[0] * 40] * 2 + [[3] * 40] * 2, 3, domains=["hard"] * 2 + ["easy"] * 2)
    made = {"policy": FixedLength(length=3), "kv_pages": 24, "page_tokens": 1, "max_batch": 4, "prefill": Disaggregated(), "router": LeastLoaded()}
    groups = tuple(whole(costs(base=0.01, prefill=(0.001, 0.0001)), drawn=replay(recorded), **made) for recorded in (one, other))
    run = simulate(open_traffic([RequestSpec(i, 0.001 * i, 3, 14, "easy") for i in range(60)]), replace(groups[0], replicas=2, groups=groups))
    assert run.preemptions > 0
    assert (run.steps["accepted"] == 3 * run.steps["requests"]).all()

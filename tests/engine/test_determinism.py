"""The same seed gives the same records bit for bit, and a policy never moves the traffic or the luck of another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.engine.simulate import ClosedTraffic, Fleet, OpenTraffic, Run
from simulator.policies.prefill import Chunked
from simulator.policies.routing import PowerOfTwo
from simulator.policies.verification import ConfidenceScheduled, FixedLength, NoSpeculation, Threshold, VerificationPolicy
from simulator.traffic.workload import Workload
from tests.engine.worlds import Engine, blocks, costs, drafting, fleet, open_traffic, replay, stamps

WORKLOAD = {
    "prompt_tokens": {"kind": "lognormal", "mean_tokens": 60, "cv": 0.8},
    "output_tokens": {"kind": "lognormal", "mean_tokens": 30, "cv": 0.8},
    "domains": {"a": 1, "b": 2},
}
OTHERS: list[VerificationPolicy] = [NoSpeculation(), FixedLength(length=3), Threshold(threshold=0.6), ConfidenceScheduled()]


def world(policy: VerificationPolicy, seed: int = 3, replication: int = 1, luck: int = 0) -> Fleet:
    texts = np.random.default_rng(0)
    accepted = [texts.integers(0, 4, texts.integers(5, 12)).tolist() for _ in range(40)]
    confidence = texts.uniform(0.2, 0.95, (sum(map(len, accepted)), 3))
    drawn = replay(blocks(accepted, 3, confidence, ["a", "b"] * 20), seed, replication)
    price = costs(0.01, 5e-4, 1e-6, 1e-3, (1e-3, 1e-4))
    return fleet(
        price, policy, drawn, drafting(1e-3), 2, PowerOfTwo(), 120, 4, luck, max_batch=6, prefill=Chunked(token_budget=64),
    )  # fmt: skip


def traffic(closed: bool, seed: int = 3, replication: int = 1) -> OpenTraffic | ClosedTraffic:
    kind = "closed_loop" if closed else "poisson"
    workload = Workload.model_validate({"arrivals": {"kind": kind}, **WORKLOAD})
    if closed:
        return ClosedTraffic(8, workload.closed_loop(8, seed, replication), 6, np.random.default_rng(seed).random(8))
    return open_traffic(workload.open_loop(20.0, 4.0, seed, replication), warmup_s=0.5)


def everything(run: Run) -> list[Any]:
    columns = [run.steps[name].tobytes() for name in run.steps.columns]
    return [*columns, stamps(run.requests).tobytes(), run.join_gaps.tobytes(), run.start_s, run.end_s, run.preemptions, run.rejected]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("policy", OTHERS, ids=lambda p: p.kind)
def test_the_same_seed_gives_the_same_records_bit_for_bit(engine: Engine, closed: bool, policy: VerificationPolicy) -> None:
    first = engine.run(traffic(closed), world(policy))
    assert everything(first) == everything(engine.run(traffic(closed), world(policy)))
    assert everything(first) != everything(engine.run(traffic(closed, seed=4), world(policy, seed=4)))
    assert everything(first) != everything(engine.run(traffic(closed, replication=2), world(policy, replication=2)))
    assert everything(first) != everything(engine.run(traffic(closed), world(policy, luck=1)))  # the router's own stream
    assert closed or first.preemptions > 0


@pytest.mark.parametrize("closed", [False, True])
def test_another_policy_meets_the_same_requests_and_walks_the_same_texts(engine: Engine, closed: bool) -> None:
    runs = [engine.run(traffic(closed), world(policy)) for policy in OTHERS]
    seen = [{r.spec.index: r for r in run.requests} for run in runs]
    common = set.intersection(*(set(requests) for requests in seen))
    assert len(common) >= 40
    assert len({run.steps["end_s"].tobytes() for run in runs}) == len(runs)  # they did behave differently
    for index in common:
        given = [requests[index].spec for requests in seen]
        assert len({(s.prompt_tokens, s.output_tokens, s.domain) for s in given}) == 1
        if not closed:
            assert len({s.arrival_s for s in given}) == 1
        walks = [requests[index].walk for requests in seen if requests[index].walk is not None]
        assert all(walk == walks[0] for walk in walks)


def test_a_walk_is_a_function_of_seed_replication_and_request_alone() -> None:
    drawn = world(FixedLength(length=1)).replay
    alone = drawn.walk(7, "b", 200)
    for request in range(7):
        drawn.walk(request, "a", 50)
    assert drawn.walk(7, "b", 200) == alone
    longer = drawn.walk(7, "b", 400)  # a longer answer walks on from there
    assert longer.first[: len(alone.first)] == alone.first
    assert drawn.walk(8, "b", 200) != alone
    assert world(FixedLength(length=1), seed=4).replay.walk(7, "b", 200) != alone
    assert world(FixedLength(length=1), replication=2).replay.walk(7, "b", 200) != alone


def test_a_walk_stays_in_its_domain_and_has_texts_enough() -> None:
    drawn = world(FixedLength(length=1)).replay
    own = {int(drawn.first_row[s]) for s in drawn.of_domain["b"]}
    for request in range(30):
        walk = drawn.walk(request, "b", 100)
        assert set(walk.first) <= own
        assert sum(e - f for f, e in zip(walk.first, walk.end, strict=True)) >= 100
    everywhere = {first for request in range(300) for first in drawn.walk(request, "", 100).first}
    assert everywhere == {int(row) for row in drawn.first_row}


def test_texts_are_drawn_evenly() -> None:
    """Chi-square over the 20 texts of a domain: 95 % of 19 degrees lie below 30.1, 99.99 % below 50.8."""
    drawn = world(FixedLength(length=1)).replay
    first = np.array([drawn.walk(request, "a", 1).first[0] for request in range(4000)])
    counts = np.unique(first, return_counts=True)[1]
    assert len(counts) == 20
    assert ((counts - 200) ** 2 / 200).sum() < 50.8

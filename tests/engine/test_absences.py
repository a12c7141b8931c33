"""Replicas that die or go home: nobody is lost, lost work is done again, and who is away gets nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.given import Absence, Failures, ReplicaSettings
from simulator.engine.simulate import Fleet, OpenTraffic, Run, observe, simulate
from simulator.measurements.prices import RoundCost
from simulator.measurements.replay import nothing_drafted
from simulator.policies.prefill import Chunked, Instant
from simulator.policies.routing import RoundRobin
from simulator.policies.verification import NoSpeculation
from simulator.study.run.meter import Meter
from simulator.study.run.point import Split
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import costs

STEP_S = 0.1


def fleet(replicas: int, absences: Sequence[Absence], prompts: bool = False, kv_pages: int = 400) -> Fleet:
    """Steps of 0.1 s; round robin; ten tokens take one second."""
    prices = RoundCost(costs(base=STEP_S), None, 0, 0)
    settings = ReplicaSettings(max_batch=8, prefill=Chunked() if prompts else Instant())
    return Fleet(
        replicas=replicas, settings=settings, policy=NoSpeculation(), replay=nothing_drafted(), prices=prices, believed=prices,
        router=RoundRobin(), kv_pages=kv_pages, page_tokens=16, luck=np.random.default_rng(0), absences=tuple(absences),
    )  # fmt: skip


def run(given: Fleet, arrivals: Sequence[float], tokens: int = 11) -> Run:
    specs = [RequestSpec(i, at, 20, tokens, "") for i, at in enumerate(arrivals)]
    return simulate(OpenTraffic(specs, 0.0, 50.0, 50.0), given)


def test_a_request_on_a_dead_replica_begins_again_elsewhere() -> None:
    """Two requests at 0, one on each replica. Replica 0 dies at 0.55: its request starts over on replica 1, with the step that begins at 0.6."""
    found = run(fleet(2, [Absence(0, 0.55, 10.0, abrupt=True)]), [0.0, 0.0])
    lost, kept = found.requests
    assert kept.finish_s == pytest.approx(1.0)
    assert lost.first_token_s == pytest.approx(0.6)
    assert lost.finish_s == pytest.approx(1.6)
    assert found.kv_pages_left == 0


def test_who_is_away_gets_nothing_and_comes_back() -> None:
    found = run(fleet(2, [Absence(0, 1.0, 5.0, abrupt=True)]), np.arange(0.0, 9.0, 0.5).tolist())
    steps = found.steps
    of_first = steps["start_s"][steps["replica"] == 0]
    assert ((of_first < 1.0) | (of_first >= 5.0)).all()
    assert (of_first >= 5.0).any()
    assert all(r.finished for r in found.requests)


def test_a_replica_sent_home_finishes_what_it_holds() -> None:
    found = run(fleet(2, [Absence(0, 0.55, 10.0)]), [0.0, 0.0, 0.6, 0.7])
    assert found.requests[0].finish_s == pytest.approx(1.0)
    steps = found.steps
    assert steps["end_s"][steps["replica"] == 0].max() == pytest.approx(1.0)


def test_when_all_are_away_requests_wait() -> None:
    found = run(fleet(1, [Absence(0, 0.5, 3.0, abrupt=True)]), [0.0, 1.0])
    assert [r.first_token_s for r in found.requests] == pytest.approx([3.0, 3.0])
    assert [r.finish_s for r in found.requests] == pytest.approx([4.0, 4.0])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0, 12), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 10), st.floats(0.01, 6), st.booleans()), max_size=4),
    st.booleans(),
)
def test_nobody_is_lost_and_no_memory_leaks(arrivals: list[float], away: list[tuple[int, float, float, bool]], prompts: bool) -> None:
    absences = [Absence(replica, start, start + length, abrupt) for replica, start, length, abrupt in away]
    found = run(fleet(3, absences, prompts), sorted(arrivals))
    assert all(r.finished for r in found.requests)
    assert found.kv_pages_left == 0
    assert [r.spec.index for r in found.requests] == list(range(len(arrivals)))
    assert all(r.spec.arrival_s - 1e-9 <= r.first_token_s <= r.finish_s for r in found.requests)  # the clock adds differences


def test_no_absence_changes_nothing() -> None:
    plain, empty = (run(f, [0.0, 0.3, 0.9]) for f in (fleet(2, []), replace(fleet(2, []), absences=(Absence(0, 40.0, 41.0),))))
    assert [r.finish_s for r in plain.requests] == [r.finish_s for r in empty.requests]


def test_a_run_with_absences_says_why_it_is_not_compiled() -> None:
    found = run(fleet(2, [Absence(0, 0.5, 1.0)]), [0.0])
    assert found.path == "plain"
    assert "away" in found.why_plain or "numba" in found.why_plain


def test_what_a_dead_replica_did_is_still_counted() -> None:
    """Six pages hold three prompts of 20 tokens and not their answers: somebody is preempted before 2.0, when the replica dies for good."""
    arrivals = [0.0, 0.0, 0.0]
    before = run(fleet(1, [Absence(0, 60.0, 61.0)], kv_pages=6), arrivals, tokens=40)
    after = run(fleet(1, [Absence(0, 2.0, 1e6, abrupt=True)], kv_pages=6), arrivals, tokens=40)
    early = before.steps["start_s"] < 2.0 - 1.5 * STEP_S
    assert before.preemptions > 0
    assert 0 < after.preemptions <= before.preemptions
    assert len(after.join_gaps) == (before.join_gaps[:, 0] < 2.0).sum() > 0
    assert (after.steps["end_s"][: early.sum()] == before.steps["end_s"][early]).all()
    assert after.unfinished == 3
    assert [r.finished for r in after.requests] == [False] * 3
    assert after.kv_pages_left == 0


def test_failures_come_as_often_as_asked_and_a_larger_fleet_keeps_those_of_the_smaller() -> None:
    """Up times are exponential: n of them have a mean within four standard errors of the asked one."""
    failures = Failures(every_hours=2.0, restart_s=300.0)
    until = 400 * 3600.0
    found = failures.drawn(40, until, 3, 0)
    cycle = 2 * 3600.0 + 300.0
    expected = 40 * until / cycle
    assert abs(len(found) - expected) < 4 * expected**0.5  # a renewal process with less spread than Poisson
    assert all(absence.abrupt and absence.end_s - absence.start_s == pytest.approx(300.0) for absence in found)
    assert [a for a in found if a.replica < 7] == list(failures.drawn(7, until, 3, 0))
    assert found != failures.drawn(40, until, 3, 1)
    mine = sorted((a.start_s, a.end_s) for a in found if a.replica == 5)
    assert all(end < start for (_, end), (start, _) in pairwise(mine))


def test_tokens_lost_with_a_replica_are_counted_once() -> None:
    """Two replicas, ten tokens a second each; replica 0 dies at 0.55 with five decoded tokens of its request, which are made again elsewhere."""
    given = fleet(2, [Absence(0, 0.55, 10.0, abrupt=True)])
    specs = [RequestSpec(i, 0.0, 20, 11, "") for i in range(2)]
    meter = Meter(0.0, 50.0, open_loop=True)
    end = observe(OpenTraffic(specs, 0.0, 50.0, 50.0), given, Split(meter))
    assert end.lost_tokens == 5
    row = meter.row(end, 2, 2, ttft_known=False)
    assert row["throughput_tok_s_gpu"] * 2 * 50.0 == pytest.approx(2 * 11 - 1)  # the first token at time 0 lies before the window

"""Nothing is lost and nothing overlaps, whatever the settings: small random worlds, every step and stamp checked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.engine.records import Kept
from simulator.engine.simulate import ClosedTraffic, Fleet, OpenTraffic, Run, World
from simulator.policies.admission import FirstCome, ShortestPrompt
from simulator.policies.prefill import Chunked, Separate
from simulator.traffic.request import RequestSpec
from tests.engine.random_worlds import fleets, requests
from tests.engine.worlds import Engine, Users, costs, fleet

LOOSE = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def check_steps(run: Run, over: Fleet) -> None:
    steps, gamma = run.steps, over.policy.longest(over.replay.gamma)
    parts = steps["draft_s"] + steps["verify_s"] + steps["overhead_s"] + steps["prefill_s"]
    np.testing.assert_allclose(steps["end_s"] - steps["start_s"], parts, atol=1e-9)
    assert (parts > 0).all()
    assert (steps["prefill_tokens"] + steps["requests"] > 0).all()  # no step of nothing
    assert (steps["requests"] <= steps["running"]).all()
    assert (steps["running"] <= over.settings.max_batch).all()
    assert (steps["joined"] <= steps["requests"]).all()
    assert (steps["verified"] <= steps["requests"] * gamma).all()
    assert (steps["accepted"] <= steps["verified"]).all()
    assert (steps["committed"] <= steps["accepted"] + steps["requests"]).all()
    assert (steps["committed"] >= steps["requests"]).all()
    for replica in range(over.replicas):
        mine = steps["replica"] == replica
        start, end = steps["start_s"][mine], steps["end_s"][mine]
        assert (start[1:] >= end[:-1] - 1e-12).all()
    mode = over.settings.prefill
    if isinstance(mode, Chunked):
        spent = steps["prefill_tokens"] + steps["requests"] + steps["verified"]
        assert (spent[steps["prefill_tokens"] > 0] <= mode.token_budget).all()
    elif isinstance(mode, Separate):
        assert (steps["prefill_tokens"] <= mode.max_tokens).all()
        assert ((steps["prefill_tokens"] == 0) | (steps["requests"] == 0)).all()
    else:
        assert (steps["prefill_tokens"] == 0).all()


def check_requests(run: Run, over: Fleet) -> None:
    for request in run.requests:
        spec = request.spec
        most = spec.prompt_tokens + spec.output_tokens + over.policy.longest(over.replay.gamma) + 1
        assert not (request.rejected and request.finished)
        if request.rejected:
            assert over.kv_pages is not None
            assert most > (over.kv_pages - 1) * over.page_tokens
        if request.finished:
            assert spec.arrival_s - 1e-12 <= request.first_token_s <= request.finish_s  # the clock adds floats
            assert request.emitted_tokens == spec.output_tokens
            assert (request.first_token_s == request.finish_s) == (spec.output_tokens == 1)


@LOOSE
@given(over=fleets(), specs=requests())
def test_an_open_loop_that_is_drained_conserves_everything(engine: Engine, over: Fleet, specs: list[RequestSpec]) -> None:
    run = engine.run(OpenTraffic(specs, 0.0, 1.0, 1e6), over)
    check_steps(run, over)
    check_requests(run, over)
    assert len(run.requests) == len(specs)
    assert run.unfinished == 0
    done = [r for r in run.requests if not r.rejected]
    assert all(r.finished for r in done)
    assert run.steps["committed"].sum() == sum(r.spec.output_tokens - 1 for r in done)
    assert run.steps["joined"].sum() == len(run.join_gaps)
    assert (run.join_gaps[:, 1] > 0).all()
    assert (run.join_gaps[:, 2] >= 0).all()
    assert (run.join_gaps[:, 2] <= run.join_gaps[:, 1] + 1e-12).all()
    assert run.preemptions == sum(r.preemptions for r in run.requests)
    assert run.kv_pages_left == 0
    lived = sum(r.finish_s - r.first_token_s for r in done) - run.join_gaps[:, 2].sum()  # Little's law, preemptions and all
    np.testing.assert_allclose((run.steps["running"] * (run.steps["end_s"] - run.steps["start_s"])).sum(), lived, rtol=1e-9, atol=1e-9)
    if over.settings.prefill.where == "replica" and not run.preemptions:
        owed = sum(r.spec.prompt_tokens - min(r.spec.cached_prompt_tokens, r.spec.prompt_tokens - 1) for r in done)
        assert run.steps["prefill_tokens"].sum() == owed


@LOOSE
@given(over=fleets(), specs=requests())
def test_replicas_are_empty_when_all_is_done(over: Fleet, specs: list[RequestSpec]) -> None:
    world = World(OpenTraffic(specs, 0.0, 1.0, 1e6), over, Kept())
    world.run()
    assert [replica.kv.used for replica in world.replicas] == [0] * over.replicas
    assert [replica.held for replica in world.replicas] == [0] * over.replicas
    assert [replica.batch.context_total for replica in world.replicas] == [0] * over.replicas


@LOOSE
@given(over=fleets(), users=st.integers(1, 8), turns=st.integers(2, 4), think_s=st.sampled_from([0.0, 0.05]), seed=st.integers(0, 50))
def test_a_closed_loop_conserves_everything(engine: Engine, over: Fleet, users: int, turns: int, think_s: float, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 12, (2, users, 400))
    source = Users(users, lambda u, t: int(lengths[0, u, t % 400]), lambda u, t: int(lengths[1, u, t % 400]), think_s, varied=seed % 2 > 0)
    run = engine.run(ClosedTraffic(users, source, turns, np.random.default_rng(seed).random(users)), over)
    check_steps(run, over)
    check_requests(run, over)
    measured = [r for r in run.requests if r.measured]
    assert len({(r.user, r.turn) for r in measured}) == len(measured)
    assert sum(r.finished or r.rejected for r in measured) == users * turns - run.unfinished
    if isinstance(over.settings.admission, FirstCome):
        assert run.unfinished == 0
    assert run.kv_pages_left == 0
    assert 0 <= run.start_s <= run.end_s
    finished = sum(r.spec.output_tokens - 1 for r in run.requests if r.finished)
    under_way = sum(r.spec.output_tokens - 1 for r in run.requests if not r.finished and not r.rejected)
    assert finished <= run.steps["committed"].sum() <= finished + under_way
    for user in range(users):  # one request at a time each, the next when the last is over and thought about
        own = [r for r in run.requests if r.user == user]
        assert [r.turn for r in own] == list(range(len(own)))
        for last, following in itertools.pairwise(own):
            assert last.finished or last.rejected
            if last.finished:
                pause_s = float(source.pause_s(np.int64(user), np.int64(following.turn)))
                assert following.spec.arrival_s == pytest.approx(last.finish_s + pause_s)


def test_an_open_loop_cut_off_says_what_is_unfinished(engine: Engine) -> None:
    specs = [RequestSpec(i, i * 0.1, 1, 50, "") for i in range(10)]
    run = engine.run(OpenTraffic(specs, 0.25, 0.75, 0.5), fleet(costs(base=0.1), max_batch=1))
    assert [r.measured for r in run.requests] == [False] * 3 + [True] * 5 + [False] * 2
    assert (run.unfinished, run.rejected) == (5, 0)
    assert run.steps["end_s"].max() <= 0.75 + 0.5 + 1e-9


def test_nobody_measured_is_no_run_at_all(engine: Engine) -> None:
    run = engine.run(OpenTraffic([RequestSpec(0, 0.1, 1, 5, "")], 1.0, 2.0, 1.0), fleet(costs(base=0.1)))
    assert run.unfinished == 0
    assert not any(r.measured for r in run.requests)


def test_what_can_never_fit_is_rejected_and_what_just_fits_is_served(engine: Engine) -> None:
    """Prompt 4, answer 5, look-ahead 1: 10 tokens are 5 pages of 2."""
    specs = [RequestSpec(0, 0.0, 4, 5, ""), RequestSpec(1, 0.0, 5, 5, ""), RequestSpec(2, 0.0, 4, 5, "")]
    run = engine.run(OpenTraffic(specs, 0.0, 1.0, 1e3), fleet(costs(base=0.1), kv_pages=5, page_tokens=2))
    assert [r.rejected for r in run.requests] == [False, True, False]
    assert [r.finished for r in run.requests] == [True, False, True]
    assert run.rejected == 1


def test_tiny_memory_does_preempt_in_these_worlds(engine: Engine) -> None:
    """The property tests would say little if nothing were ever thrown out."""
    specs = [RequestSpec(i, 0.01 * i, 2, 20, "") for i in range(6)]
    run = engine.run(OpenTraffic(specs, 0.0, 1.0, 1e6), fleet(costs(0.01), kv_pages=30, page_tokens=1, max_batch=4, prefill=Chunked(token_budget=8)))
    assert run.preemptions >= 2
    assert sum(r.preemptions for r in run.requests[:1]) == 0  # the first to come is never thrown out
    assert all(r.finished for r in run.requests)
    assert run.steps["prefill_tokens"].sum() > 12  # what was thrown out is computed again


def test_a_closed_loop_ends_though_an_admission_order_starves_a_user(engine: Engine) -> None:
    """Shortest prompt first never admits the one long prompt while the others ask again and again: the run says so and ends."""
    source = Users(4, lambda _u, _t: 3, lambda u, _t: 100 if u == 0 else 1)
    over = fleet(costs(base=0.1), max_batch=1, admission=ShortestPrompt())
    run = engine.run(ClosedTraffic(4, source, 3, np.full(4, 1.0)), over)
    assert run.unfinished == 3
    assert {r.user for r in run.requests if r.measured and r.finished} == {1, 2, 3}

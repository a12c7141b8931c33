"""Requests that end otherwise: users who leave, stop and give up, classes with priorities; against theory, by hand, and pages conserved."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.given import Absence, SessionTraffic
from simulator.engine.simulate import ClosedTraffic, Fleet
from simulator.policies.admission import ByPriority, FirstCome
from simulator.policies.prefill import Chunked, Disaggregated
from simulator.policies.prefix_cache import Lru
from simulator.traffic.drawn_sessions import REQUESTS, SessionSource
from simulator.traffic.impatience import Impatience, RequestClass, Senders
from simulator.traffic.request import Ending, Request, RequestSpec
from simulator.traffic.sessions import Sessions
from tests.engine.random_worlds import fleets
from tests.engine.worlds import PLAIN, Users, agrees, costs, fleet, open_traffic, poisson

SLA: dict[str, Any] = {"ttft_s": 1.0}


def senders(classes: dict[str, Any] | None = None, replication: int = 0, together: int = 1, **impatience: Any) -> Senders:
    of = {name: RequestClass.model_validate({"share": 1, "sla": SLA} | content) for name, content in (classes or {}).items()}
    return Senders(Impatience.model_validate(impatience) if impatience else None, of, 0, replication, together)


def fixed(seconds: float) -> dict[str, Any]:
    return {"kind": "fixed", "seconds": seconds}


def spec(index: int, arrival_s: float, output: int, prompt: int = 1) -> RequestSpec:
    return RequestSpec(index, arrival_s, prompt, output, "")


def afresh(over: Fleet) -> Fleet:
    """With the same draws once more."""
    return replace(over, luck=np.random.default_rng(5))


def of(specs: list[RequestSpec], over: Any, **impatience: Any) -> list[Request]:
    run = PLAIN.run(replace(open_traffic(specs), senders=senders(**impatience)), over)
    assert run.kv_pages_left == run.unfinished == 0
    return run.requests


def test_who_waits_longer_than_his_patience_leaves() -> None:
    """One slot, 1 s an answer. The second waits until 1, the third would until 2 and leaves at 1.6, so the fourth is served at 2."""
    first, second, third, fourth = of([spec(i, 0.1 * i, 11) for i in range(4)], fleet(costs(0.1), max_batch=1), patience_s=fixed(1.4))
    assert [r.ending for r in (first, second, third, fourth)] == [Ending.NONE, Ending.NONE, Ending.LEFT, Ending.LEFT]
    assert (second.first_token_s, second.finish_s) == pytest.approx((1.0, 2.0))
    assert (third.ended_s, fourth.ended_s) == pytest.approx((1.6, 1.7))
    assert isnan(third.first_token_s)
    assert isnan(third.finish_s)
    assert third.emitted_tokens == 0


def test_a_place_in_the_queue_is_free_at_once() -> None:
    """The one in between leaves while the first is served, and who came after him begins when the first ends."""
    classes = {"a": {"impatience": {"patience_s": fixed(0.5)}}, "b": {}}
    several = senders(classes)
    groups = several.group(np.arange(50))
    impatient, patient = int(np.argmax(groups == 0)), int(np.argmax(groups == 1))
    specs = [RequestSpec(patient, 0.0, 1, 11, ""), RequestSpec(impatient, 0.1, 1, 11, ""), RequestSpec(patient, 0.2, 1, 11, "")]
    run = PLAIN.run(replace(open_traffic(specs), senders=several), fleet(costs(0.1), max_batch=1))
    assert [r.ending for r in run.requests] == [Ending.NONE, Ending.LEFT, Ending.NONE]
    assert run.requests[2].first_token_s == pytest.approx(1.0)


def test_an_answer_is_stopped_at_its_token_and_the_next_goes_on() -> None:
    """All stop; which token is drawn. A step of 0.1 s a token, one slot: each is served as long as it has tokens."""
    drawn = senders(stop_share=1.0)
    at = [drawn.of(i, 11).stop_tokens for i in range(3)]
    assert all(1 <= tokens <= 10 for tokens in at)
    assert len(set(at)) > 1
    requests = of([spec(i, 0.0, 11) for i in range(3)], fleet(costs(0.1), max_batch=1), stop_share=1.0)
    assert [r.ending for r in requests] == [Ending.STOPPED] * 3
    assert [r.emitted_tokens for r in requests] == at
    assert requests[-1].ended_s == pytest.approx(0.1 * (sum(at) - 3))  # the first token comes with the prompt
    assert all(isnan(r.finish_s) for r in requests)


def test_one_token_cannot_be_stopped() -> None:
    assert [r.ending for r in of([spec(0, 0.0, 1)], fleet(costs(0.1)), stop_share=1.0)] == [Ending.NONE]


def test_a_client_gives_up_and_tries_again() -> None:
    """One slot, taken until 2 s. The second is given up at 0.5 and sent again at 1, given up at 1.5 and sent again at 2.5, then served at once."""
    timeout = {"seconds": 0.5, "retries": 2, "backoff_s": 0.5, "jitter": 0}
    _, second = of([spec(0, 0.0, 21), spec(1, 0.0, 11)], fleet(costs(0.1), max_batch=1), timeout=timeout)
    assert second.retries == 2
    assert (second.first_token_s, second.finish_s) == pytest.approx((2.5, 3.5))
    assert second.sent_s == 0.0  # TTFT counts from there


def test_after_the_last_retry_it_is_over() -> None:
    timeout = {"seconds": 0.5, "retries": 1, "backoff_s": 0.25, "jitter": 0}
    _, second = of([spec(0, 0.0, 21), spec(1, 0.0, 11)], fleet(costs(0.1), max_batch=1), timeout=timeout)
    assert (second.retries, second.ending) == (1, Ending.TIMED_OUT)
    assert second.ended_s == pytest.approx(1.25)


def test_a_whole_answer_that_is_late_begins_again() -> None:
    """Answers take 1 s; with 0.53 s for them all, every attempt is given up in the middle. Its step ends before its pages are free."""
    timeout = {"seconds": 0.53, "until": "answer", "retries": 2, "backoff_s": 0, "jitter": 0}
    over = fleet(costs(0.1), max_batch=1, kv_pages=40, page_tokens=1)
    run = PLAIN.run(replace(open_traffic([spec(0, 0.0, 11)]), senders=senders(timeout=timeout)), over)
    (request,) = run.requests
    assert (request.ending, request.retries) == (Ending.TIMED_OUT, 2)
    assert request.ended_s == pytest.approx(1.59)
    assert run.steps["committed"].sum() == 6 + 5 + 4  # work that was done: attempts begin at 0, 0.6 and 1.1
    assert run.kv_pages_left == 0


def test_backoff_doubles_up_to_its_most_and_jitter_takes_a_part() -> None:
    drawn = senders(timeout={"seconds": 1, "jitter": 0.25})
    given = Impatience.model_validate({"timeout": {"seconds": 1}}).timeout
    assert given is not None
    waits = [drawn.backoff_s(given, 3, retry) for retry in range(6)]
    for wait, longest in zip(waits, (0.5, 1.0, 2.0, 4.0, 8.0, 8.0), strict=True):
        assert 0.75 * longest < wait <= longest


def test_users_of_a_closed_loop_ask_again_when_they_have_left() -> None:
    source: Any = Users(3, lambda _u, _t: 11)
    traffic = ClosedTraffic(3, source, 4, np.full(3, 1.0), senders(patience_s=fixed(0.95)))
    run = PLAIN.run(traffic, fleet(costs(0.1), max_batch=1))
    left = [r for r in run.requests if r.ending]
    assert left
    assert run.unfinished == run.kv_pages_left == 0
    assert all(r.ended_s - r.sent_s == pytest.approx(0.95) for r in left)
    assert {r.sent_s for r in run.requests} >= {r.ended_s for r in left if r.turn < 4}


@pytest.mark.parametrize("theta", [0.5, 2.0])
def test_erlang_a(theta: float) -> None:
    """M/M/c + M: c slots, geometric answers (steps are short beside them), patience exponential. The share that leaves is that of Erlang-A
    (Palm 1957; Garnett, Mandelbaum and Reiman 2002): from the chain with death rates min(n, c) μ + (n - c)+ θ."""
    slots, arrivals, answer_s, step_s = 3, 4.0, 1.0, 0.025
    rate = np.cumprod([1.0, *(arrivals / (min(n, slots) / answer_s + max(n - slots, 0) * theta) for n in range(1, 400))])
    chain = rate / rate.sum()
    expected = theta * float((np.maximum(np.arange(400) - slots, 0) * chain).sum()) / arrivals
    shares = []
    for replication in range(8):
        draws = np.random.default_rng([replication, 7])
        specs = poisson(arrivals, 1 + draws.geometric(step_s / answer_s, 1500), seed=1000 + replication)
        # the replica looks at its queue between steps only, half a step late on average: an eightieth of an answer
        traffic = replace(open_traffic(specs, warmup_s=20.0), senders=senders(replication=replication, patience_s=1 / theta))
        run = PLAIN.run(traffic, fleet(costs(step_s), max_batch=slots))
        measured = [r for r in run.requests if r.measured]
        shares.append(sum(r.ending == Ending.LEFT for r in measured) / len(measured))
    agrees(shares, expected, power=0.2, bias=0.025 * expected)


def test_priorities_pass_in_the_queue() -> None:
    classes = {"urgent": {"priority": -1}, "batch": {"priority": 5}}
    several = senders(classes)
    groups = several.group(np.arange(20))
    specs = [spec(i, 0.01 * i, 11) for i in range(20)]
    run = PLAIN.run(replace(open_traffic(specs), senders=several), fleet(costs(0.1), max_batch=1, admission=ByPriority()))
    order = sorted(run.requests, key=lambda r: r.first_token_s)
    served = [int(groups[r.spec.index]) for r in order[1:]]  # all came while the first was served
    assert served == sorted(served)
    assert set(served) == {0, 1}
    again = PLAIN.run(replace(open_traffic(specs), senders=several), fleet(costs(0.1), max_batch=1))
    assert [r.spec.index for r in sorted(again.requests, key=lambda r: r.first_token_s)] == list(range(20))  # first come, first served


def test_preemption_takes_the_last_of_the_lowest() -> None:
    """Memory for two: of three that grow, the batch request is thrown out, though it came first."""
    several = senders({"urgent": {"priority": 0}, "batch": {"priority": 1}})
    groups = several.group(np.arange(50))
    urgent, batch = np.flatnonzero(groups == 0)[:2], int(np.flatnonzero(groups == 1)[0])
    specs = [RequestSpec(batch, 0.0, 4, 20, ""), *(RequestSpec(int(i), 0.01 * (1 + n), 4, 20, "") for n, i in enumerate(urgent))]
    by: dict[str, list[int]] = {}
    for name, admission in (("ranked", ByPriority()), ("plain", FirstCome())):
        over = fleet(costs(0.1), max_batch=3, kv_pages=55, page_tokens=1, admission=admission)
        run = PLAIN.run(replace(open_traffic(specs), senders=several), over)
        by[name] = [r.preemptions for r in run.requests]
    assert by["ranked"][0] > 0
    assert by["ranked"][1:] == [0, 0]
    assert by["plain"][0] == 0
    assert sum(by["plain"]) > 0


def test_a_session_whose_user_leaves_is_over() -> None:
    """Two turns each; the first of a session that is late is its last, and no request of it comes afterwards."""
    of = Sessions.model_validate({
        "arrivals": {"kind": "poisson"}, "turns": 4, "think_s": 1.0, "new_tokens": {"kind": "fixed", "tokens": 3},
        "output_tokens": {"kind": "fixed", "tokens": 11},
    })  # fmt: skip
    who = senders(together=REQUESTS, patience_s=1.0)
    traffic = SessionTraffic(SessionSource(of, 0, 0), np.linspace(0.0, 14.5, 30), 0.0, 30.0, 1e6, senders=who)
    run = PLAIN.run(traffic, fleet(costs(0.1, prefill=(0.0, 0.0)), max_batch=2, prefill=Chunked()))
    left = {r.user: r for r in run.requests if r.ending}
    assert left
    assert any(r.turn > 0 for r in left.values())
    assert run.kv_pages_left == 0
    for request in run.requests:
        if request.user in left:
            assert request.turn <= left[request.user].turn
            assert request.sent_s <= left[request.user].ended_s
    whole = {r.user for r in run.requests} - set(left)
    assert all(sum(r.user == user for r in run.requests) == 4 for user in whole)


def test_calls_of_an_agent_end_with_it() -> None:
    of = Sessions.model_validate({
        "arrivals": {"kind": "poisson"}, "turns": 3, "new_tokens": {"kind": "fixed", "tokens": 3}, "output_tokens": {"kind": "fixed", "tokens": 5},
        "fan_out": {"share": 1, "calls": 4, "new_tokens": {"kind": "fixed", "tokens": 2}, "output_tokens": {"kind": "fixed", "tokens": 30}},
    })  # fmt: skip
    who = senders(together=REQUESTS, patience_s=fixed(2.0))
    traffic = SessionTraffic(SessionSource(of, 0, 0), np.zeros(2), 0.0, 30.0, 1e6, senders=who)
    run = PLAIN.run(traffic, fleet(costs(0.1), max_batch=2, prefill=Chunked(), kv_pages=4000, page_tokens=1))
    ended = [r for r in run.requests if r.ending]
    assert {r.ending for r in ended} == {Ending.LEFT, Ending.STOPPED}
    assert run.kv_pages_left == 0
    for user in {r.user for r in ended}:
        assert len({r.ended_s for r in ended if r.user == user}) == 1  # all at once


@st.composite
def impatient(draw: st.DrawFn) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if draw(st.booleans()):
        content["patience_s"] = draw(st.sampled_from([0.05, 0.4, 3.0, fixed(0.2), {"kind": "uniform", "min_s": 0.0, "max_s": 1.0}]))
    content["stop_share"] = draw(st.sampled_from([0.0, 0.3, 1.0]))
    if draw(st.booleans()) or (not content["stop_share"] and "patience_s" not in content):
        until, retries = draw(st.sampled_from(["first_token", "answer"])), draw(st.integers(0, 3))
        content["timeout"] = {"seconds": draw(st.sampled_from([0.1, 0.5, 2.0])), "until": until, "retries": retries, "backoff_s": 0.1}
    return content


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_pages_are_conserved_and_every_request_ends_once(data: st.DataObject) -> None:
    over = data.draw(fleets())
    if data.draw(st.booleans()):
        over = replace(over, settings=over.settings.model_copy(update={"admission": ByPriority()}))
    gaps = data.draw(st.lists(st.sampled_from([0.0, 0.02, 0.3]), min_size=1, max_size=12))
    specs = [RequestSpec(i, float(s), 1 + i * 7 % 9, 1 + i * 5 % 13, "ab"[i % 2]) for i, s in enumerate(np.cumsum(gaps))]
    classes = {"a": {"priority": 1}, "b": {"impatience": data.draw(impatient())}}
    who = senders(classes if data.draw(st.booleans()) else None, **data.draw(impatient()))
    traffic = replace(open_traffic(specs), senders=who)
    run, again = PLAIN.run(traffic, afresh(over)), PLAIN.run(traffic, afresh(over))
    assert run.kv_pages_left == 0
    assert run.unfinished == 0
    assert len(run.requests) == len(specs)
    for one, other in zip(run.requests, again.requests, strict=True):
        assert (one.ending, one.retries, one.emitted_tokens) == (other.ending, other.retries, other.emitted_tokens)
        assert np.array_equal([one.first_token_s, one.finish_s, one.ended_s], [other.first_token_s, other.finish_s, other.ended_s], equal_nan=True)
        assert one.finished + (one.ending > 0) + one.rejected == 1
        assert isnan(one.ended_s) == (one.ending == Ending.NONE)
        if one.finished:
            assert one.emitted_tokens == one.spec.output_tokens
    assert all(np.array_equal(run.steps[name], again.steps[name]) for name in run.steps.columns)


@given(fleets())
@settings(max_examples=40, deadline=None)
def test_people_who_never_leave_change_nothing(over: Any) -> None:
    specs = [RequestSpec(i, 0.03 * i, 1 + i * 7 % 9, 1 + i * 5 % 13, "ab"[i % 2]) for i in range(12)]
    waits = replace(open_traffic(specs), senders=senders(patience_s=fixed(1e7)))
    run, plain = PLAIN.run(waits, afresh(over)), PLAIN.run(open_traffic(specs), afresh(over))
    assert all(np.array_equal(run.steps[name], plain.steps[name]) for name in run.steps.columns)


def test_the_same_users_under_every_policy() -> None:
    """How patient a user is does not depend on the order or number of the questions."""
    one, other = senders(patience_s=3.0, stop_share=0.5), senders(patience_s=3.0, stop_share=0.5)
    assert [one.of(i, 50) for i in range(20)] == [other.of(i, 50) for i in reversed(range(20))][::-1]
    assert one.of(3, 50) != senders(replication=1, patience_s=3.0, stop_share=0.5).of(3, 50)


def test_shares_of_classes() -> None:
    groups = senders({"a": {"share": 3}, "b": {"share": 1}}).group(np.arange(100_000))
    assert np.mean(groups == 0) == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 1e5))
    together = senders({"a": {}, "b": {}}, together=8).group(np.arange(80))
    assert (together.reshape(10, 8) == together.reshape(10, 8)[:, :1]).all()
    assert len(set(together)) == 2


def test_workers_for_prompts_pass_over_those_who_left() -> None:
    """One worker, 1 s a prompt: the third leaves the queue at 1.5, and the worker goes on with the fourth, who left too, and then with none."""
    over = fleet(costs(0.01, prefill=(1.0, 0.0)), prefill=Disaggregated(workers=1), max_batch=4)
    requests = of([spec(i, 0.0, 3) for i in range(4)], over, patience_s=fixed(1.5))
    assert [r.ending for r in requests] == [Ending.NONE, Ending.LEFT, Ending.LEFT, Ending.LEFT]
    assert [r.ended_s for r in requests[1:]] == [1.5] * 3


SESSIONS = Sessions.model_validate({
    "arrivals": {"kind": "poisson"}, "turns": {"kind": "uniform", "least": 1, "most": 4}, "think_s": 0.2,
    "system": {"count": 2, "tokens": {"kind": "fixed", "tokens": 9}},
    "new_tokens": {"kind": "uniform", "min_tokens": 1, "max_tokens": 9}, "output_tokens": {"kind": "uniform", "min_tokens": 1, "max_tokens": 12},
    "fan_out": {"share": 0.3, "calls": 2, "new_tokens": {"kind": "fixed", "tokens": 3}, "output_tokens": {"kind": "fixed", "tokens": 8}},
})  # fmt: skip


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_pages_with_content_are_conserved_when_users_leave(data: st.DataObject) -> None:
    """Sessions and their calls over a prefix cache under pressure, replicas that die, closed and open loop."""
    draw = data.draw
    over = fleet(
        costs(0.03, prefill=(0.005, 0.001)), replicas=draw(st.integers(1, 2)), kv_pages=draw(st.sampled_from([30, 60])), page_tokens=4,
        max_batch=draw(st.integers(1, 4)), prefill=Chunked(token_budget=draw(st.sampled_from([4, 32]))),
        admission=draw(st.sampled_from([FirstCome(), ByPriority()])),
    )  # fmt: skip
    dies = (Absence(0, 0.7, 1.2, abrupt=True),) if over.replicas == 2 and draw(st.booleans()) else ()
    over = replace(over, prefix_cache=Lru(), absences=dies)
    who = senders({"a": {"priority": 1}, "b": {"impatience": draw(impatient())}}, together=REQUESTS, **draw(impatient()))
    under_way = np.array([0.1, 0.6, 0.9]) if draw(st.booleans()) else None
    starts_s = np.zeros(3) if under_way is not None else np.linspace(0.0, 2.0, 12)
    source = SessionSource(SESSIONS, draw(st.integers(0, 50)), 0)
    run = PLAIN.run(SessionTraffic(source, starts_s, 0.0, 2.0, 1e4, under_way, who), over)
    assert run.kv_pages_left == run.unfinished == 0
    measured = [r for r in run.requests if r.measured]
    assert all(r.finished + (r.ending > 0) + r.rejected == 1 for r in measured)
    over_s: dict[int, float] = {}
    for request in measured:
        if request.ending:
            over_s[request.user] = max(request.ended_s, over_s.get(request.user, 0.0))
    assert all(request.sent_s <= over_s.get(request.user, np.inf) for request in measured)

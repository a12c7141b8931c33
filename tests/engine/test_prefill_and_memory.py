"""Tiny worlds, whole traces: each way of processing prompts, and preemption, step by step by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from simulator.engine.pages import KvCache
from simulator.engine.simulate import ClosedTraffic, OpenTraffic, Run
from simulator.measurements.cost import FrontEnd
from simulator.policies.admission import ShortestPrompt
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Separate
from simulator.policies.routing import LeastLoaded, RoundRobin
from simulator.policies.verification import FixedLength
from simulator.traffic.request import Request, RequestSpec
from tests.engine.worlds import Engine, Users, blocks, costs, fleet, replay

DECODE, PROMPT_BASE, PROMPT_TOKEN = 1.0, 0.5, 0.1  # seconds


def world(engine: Engine, specs: list[RequestSpec], **over: Any) -> Run:
    return engine.open(specs, fleet(costs(base=DECODE, prefill=(PROMPT_BASE, PROMPT_TOKEN)), **over))


def trace(run: Run) -> list[tuple[float, float, int, int]]:
    """(start, end, decoding requests, prompt tokens) of every step."""
    columns = [run.steps[name] for name in ("start_s", "end_s", "requests", "prefill_tokens")]
    return [(round(a, 9), round(b, 9), int(r), int(p)) for a, b, r, p in zip(*columns, strict=True)]


def ends(run: Run) -> list[tuple[float, float]]:
    return [(round(r.first_token_s, 9), round(r.finish_s, 9)) for r in run.requests]


def test_instant_prompts_cost_nothing(engine: Engine) -> None:
    run = world(engine, [RequestSpec(0, 0.0, 10, 3, ""), RequestSpec(1, 0.25, 10, 2, "")])
    assert trace(run) == [(0, 1, 1, 0), (1, 2, 2, 0)]
    assert ends(run) == [(0.0, 2.0), (1.0, 2.0)]


def test_separate_prompts_stop_decoding(engine: Engine) -> None:
    """B's prompt of 10 takes two steps of 6 and 4 tokens, during which A, long in the batch, stands still."""
    specs = [RequestSpec(0, 0.0, 6, 3, ""), RequestSpec(1, 0.25, 10, 2, "")]
    run = world(engine, specs, prefill=Separate(max_tokens=6))
    assert trace(run) == [(0, 1.1, 0, 6), (1.1, 2.2, 0, 6), (2.2, 3.1, 0, 4), (3.1, 4.1, 2, 0), (4.1, 5.1, 1, 0)]
    assert ends(run) == [(1.1, 5.1), (3.1, 4.1)]
    assert sorted(run.join_gaps[:, :3].round(9).tolist()) == [[4.1, 1.0, 0.0], [4.1, 3.0, 0.0]]  # A sat in the batch all the while
    assert run.steps["running"].tolist() == [0, 1, 1, 2, 1]


def test_requests_pass_a_front_end_one_by_one_and_wait_for_the_step_that_runs_then(engine: Engine) -> None:
    """0.2 s each: A's prompt is alone, B's comes while it is processed; C, sent as A ends, misses the step that begins then."""
    price = costs(base=DECODE, prefill=(PROMPT_BASE, PROMPT_TOKEN))
    price = price.model_copy(update={"front_end": FrontEnd(provenance="synthetic", seconds=0.2)})
    specs = [RequestSpec(i, 0.0, 10, 2 + i, "") for i in range(3)]
    run = engine.run(OpenTraffic(specs, 0.0, np.inf, 0.0, in_flight=2), fleet(price, prefill=Chunked()))
    assert trace(run)[:4] == [(0.2, 1.7, 0, 10), (1.7, 3.7, 1, 10), (3.7, 4.7, 1, 0), (4.7, 6.7, 1, 10)]
    assert trace(run)[4:] == [(6.7, 7.7, 1, 0), (7.7, 8.7, 1, 0), (8.7, 9.7, 1, 0)]
    assert sorted(ends(run)) == [(1.7, 3.7), (3.7, 6.7), (6.7, 9.7)]
    assert sorted(round(r.sent_s, 9) for r in run.requests) == [0.0, 0.0, 3.7]


@pytest.mark.parametrize("router", [RoundRobin(), LeastLoaded()])
def test_every_replica_has_a_front_end_of_its_own(engine: Engine, router: Any) -> None:
    """Five requests at once before two replicas: pairs pass at 0.2 and 0.4 s, the last at 0.6, and three were in line."""
    price = costs(base=DECODE).model_copy(update={"front_end": FrontEnd(provenance="synthetic", seconds=0.2)})
    run = engine.open([RequestSpec(i, 0.0, 1, 2, "") for i in range(5)], fleet(price, replicas=2, router=router, max_batch=8))
    assert sorted(run.steps["start_s"][:2].round(9).tolist()) == [0.2, 0.2]
    assert run.prefill_waits.round(9).tolist() == [[0.0, 0.2], [0.0, 0.2], [0.0, 0.4]]


def test_chunks_take_what_the_budget_leaves_and_pay_the_fixed_part_once(engine: Engine) -> None:
    """Budget 4: A decodes (1 token) beside 3 of B's prompt; the base of a prefill step is paid only where nothing decodes."""
    specs = [RequestSpec(0, 0.0, 4, 4, ""), RequestSpec(1, 0.25, 7, 2, "")]
    run = world(engine, specs, prefill=Chunked(token_budget=4))
    assert trace(run) == [(0, 0.9, 0, 4), (0.9, 2.2, 1, 3), (2.2, 3.5, 1, 3), (3.5, 4.6, 1, 1), (4.6, 5.6, 1, 0)]
    assert ends(run) == [(0.9, 4.6), (4.6, 5.6)]


def test_chunks_fill_one_step_with_several_prompts(engine: Engine) -> None:
    specs = [RequestSpec(i, 0.0, 3, 1, "") for i in range(3)]
    run = world(engine, specs, prefill=Chunked(token_budget=5))
    assert trace(run) == [(0, 1.0, 0, 5), (1.0, 1.9, 0, 4)]
    assert ends(run) == [(1.0, 1.0), (1.9, 1.9), (1.9, 1.9)]


def test_verified_tokens_count_in_the_chunk_budget(engine: Engine) -> None:
    """Two decode tokens of A (anchor and one drafted) leave 2 of 4 for B's prompt."""
    drawn = replay(blocks([[0] * 30], 1))
    specs = [RequestSpec(0, 0.0, 4, 9, ""), RequestSpec(1, 0.25, 4, 1, "")]
    run = world(engine, specs, prefill=Chunked(token_budget=4), policy=FixedLength(length=1), drawn=drawn)
    assert [p for _, _, _, p in trace(run)][:4] == [4, 2, 2, 0]


def test_cached_prompt_tokens_are_not_computed_but_the_last_one_is(engine: Engine) -> None:
    specs = [RequestSpec(0, 0.0, 10, 1, "", 7), RequestSpec(1, 5.0, 10, 1, "", 10)]
    assert [p for _, _, _, p in trace(world(engine, specs, prefill=Chunked()))] == [3, 1]
    assert ends(world(engine, specs, prefill=Disaggregated(workers=1))) == [(0.8, 0.8), (5.6, 5.6)]


def test_a_chunk_attends_to_what_lies_before_it(engine: Engine) -> None:
    """Prompt 6 in chunks of 4 and 2: they attend to 0 + 4/2 and 4 + 2/2 tokens on average."""
    price = costs(DECODE, prefill=(PROMPT_BASE, PROMPT_TOKEN))
    assert price.prefill is not None
    steep = price.model_copy(update={"prefill": price.prefill.model_copy(update={"per_token_context_s": 0.01})})
    run = engine.open([RequestSpec(0, 0.0, 6, 1, "")], fleet(steep, prefill=Separate(max_tokens=4)))
    assert run.steps["prefill_s"].tolist() == pytest.approx([0.5 + 4 * (0.1 + 0.01 * 2), 0.5 + 2 * (0.1 + 0.01 * 5)])
    whole = engine.open([RequestSpec(0, 0.0, 6, 1, "")], fleet(steep, prefill=Disaggregated()))
    assert whole.requests[0].first_token_s == pytest.approx(0.5 + 6 * (0.1 + 0.01 * 3))


def test_disaggregated_prompts_queue_for_workers_then_travel(engine: Engine) -> None:
    """Prompts of 5 take 1 s each on the one worker; the first token leaves before the transfer of 0.25 s."""
    specs = [RequestSpec(i, 0.0, 5, 2, "") for i in range(3)]
    run = world(engine, specs, prefill=Disaggregated(workers=1, transfer_s=0.25))
    assert ends(run) == [(1.0, 2.25), (2.0, 3.25), (3.0, 4.25)]
    assert run.join_gaps[:, :3].round(9).tolist() == [[2.25, 1.25, 0.25], [3.25, 1.25, 0.25], [4.25, 1.25, 0.25]]
    unlimited = world(engine, specs, prefill=Disaggregated(transfer_s=0.25))
    assert ends(unlimited) == [(1.0, 2.25)] * 3


def test_shortest_prompt_first(engine: Engine) -> None:
    specs = [RequestSpec(0, 0.0, 5, 3, ""), RequestSpec(1, 0.1, 9, 2, ""), RequestSpec(2, 0.2, 2, 2, "")]
    run = world(engine, specs, max_batch=1, admission=ShortestPrompt())
    assert ends(run) == [(0.0, 2.0), (3.0, 4.0), (2.0, 3.0)]


def test_preemption_takes_the_last_to_come_and_computes_it_again(engine: Engine) -> None:
    """Pages of 1 token, 12 of them. A and B (prompt 2) hold 4 each after their first token and grow by one a round."""
    specs = [RequestSpec(0, 0.0, 2, 7, ""), RequestSpec(1, 0.0, 2, 7, "")]
    run = world(engine, specs, kv_pages=12, page_tokens=1, prefill=Separate())
    assert trace(run) == [
        (0, 0.9, 0, 4), (0.9, 1.9, 2, 0), (1.9, 2.9, 2, 0), (2.9, 3.9, 2, 0),  # contexts 3 → 6, pages 7 + 7 do not fit
        (3.9, 4.9, 1, 0), (4.9, 5.9, 1, 0), (5.9, 6.9, 1, 0),  # A alone to its end
        (6.9, 8.0, 0, 6), (8.0, 9.0, 1, 0), (9.0, 10.0, 1, 0), (10.0, 11.0, 1, 0),  # B: 2 + 4 tokens again, then its last three
    ]  # fmt: skip
    assert ends(run) == [(0.9, 6.9), (0.9, 11.0)]
    assert [r.preemptions for r in run.requests] == [0, 1]
    assert run.join_gaps[:, :3].round(9).tolist()[-1] == [9.0, 5.1, 4.1]  # since 3.9: three steps of A and its own prompt


def test_who_was_thrown_out_comes_back_before_those_who_came_later(engine: Engine) -> None:
    """As above, and C, who came while A and B were in, would fit beside A at 4.9: he does not overtake B."""
    specs = [RequestSpec(0, 0.0, 2, 7, ""), RequestSpec(1, 0.0, 2, 7, ""), RequestSpec(2, 1.0, 2, 2, "")]
    run = world(engine, specs, kv_pages=12, page_tokens=1, prefill=Separate(), max_batch=2)
    assert ends(run)[0] == (0.9, 6.9)
    assert trace(run)[7] == (6.9, 8.2, 0, 8)  # B's six tokens and C's two
    assert ends(run)[2] == (8.2, 9.2)


def test_gap_of_a_request_thrown_out_after_a_step_of_prompts_counts_from_its_last_token(engine: Engine) -> None:
    """Shortest prompt first lets S (came 0.2) run before L (0.1). L's prompt is worked off in 6.4 … 7.5 while S stands still, then L's
    first token takes the last page and S, the last to have come, must go. Its user has waited since 6.4; out of the batch it is since 7.5."""
    specs = [RequestSpec(0, 0.0, 1, 6, ""), RequestSpec(1, 0.0, 1, 3, ""), RequestSpec(2, 0.1, 6, 4, ""), RequestSpec(3, 0.2, 2, 8, "")]
    run = world(engine, specs, kv_pages=14, page_tokens=1, prefill=Separate(), max_batch=2, admission=ShortestPrompt())
    assert [r.preemptions for r in run.requests] == [0, 0, 0, 1]
    assert (6.4, 7.5, 0, 6) in trace(run)
    assert run.join_gaps[:, :3].round(9).tolist()[-1] == [12.6, 6.2, 4.1]
    assert ends(run)[3] == (3.4, 15.6)


def test_preempted_on_a_disaggregated_replica_goes_back_to_the_prefill_workers(engine: Engine) -> None:
    """B is thrown out at 4.2 with a context of 5: 1 s of prefill for all of it, 0.5 s of transfer, four more tokens from 5.7 on."""
    specs = [RequestSpec(0, 0.0, 2, 5, ""), RequestSpec(1, 0.0, 2, 7, "")]
    run = world(engine, specs, kv_pages=12, page_tokens=1, prefill=Disaggregated(workers=1, transfer_s=0.5))
    assert [r.preemptions for r in run.requests] == [0, 1]
    assert ends(run) == [(0.7, 5.2), (1.4, 9.7)]
    assert run.join_gaps[:, :3].round(9).tolist()[-1] == [6.7, 2.5, 1.5]


def test_the_least_loaded_replica_gets_the_next_request(engine: Engine) -> None:
    specs = [RequestSpec(0, 0.0, 1, 10, ""), RequestSpec(1, 0.5, 1, 2, ""), RequestSpec(2, 2.0, 1, 2, ""), RequestSpec(3, 2.1, 1, 2, "")]
    run = world(engine, specs, replicas=2, router=LeastLoaded())
    joined = [(int(r), round(s, 9)) for r, s, j in zip(run.steps["replica"], run.steps["start_s"], run.steps["joined"], strict=True) if j]
    assert joined == [(0, 0.0), (1, 0.5), (1, 2.0), (0, 3.0)]


def test_turn_zero_starts_part_of_the_way_through(engine: Engine) -> None:
    """Users at shares 1, 1/2 and just above 0 of an answer of 8: contexts add up, none of them is measured."""
    source = Users(3, lambda _u, _t: 8, lambda _u, _t: 10)
    over = fleet(costs(base=DECODE))
    run = engine.run(ClosedTraffic(3, source, 1, np.array([1.0, 0.5, 1e-9])), over)
    first = [(r.spec.prompt_tokens, r.spec.output_tokens, r.measured) for r in run.requests if r.turn == 0]
    assert first == [(10, 8, False), (14, 4, False), (17, 1, False)]
    assert run.start_s > 0
    assert [r.measured for r in run.requests if r.turn == 1] == [True] * 3


def test_thinking_keeps_users_away(engine: Engine) -> None:
    run = engine.closed(Users(1, lambda _u, _t: 3, think_s=5.0), 2, fleet(costs(base=DECODE), prefill=Instant()))
    own = [(r.spec.arrival_s, r.finish_s) for r in run.requests]
    assert all(b[0] == a[1] + 5.0 for a, b in itertools.pairwise(own))


def test_pages() -> None:
    kv = KvCache(3, 4)
    assert [kv.pages(n) for n in (0, 1, 4, 5, 12)] == [0, 1, 1, 2, 3]
    kv.take(2)
    assert (kv.fits(1), kv.fits(2)) == (True, False)
    with pytest.raises(AssertionError):
        kv.take(2)
    request = Request(RequestSpec(0, 0.0, 8, 1, ""))
    kv.leave(request, 2)
    assert kv.used == 0
    with pytest.raises(AssertionError):
        kv.leave(request, 1)
    assert KvCache(None, 4).fits(10**9)

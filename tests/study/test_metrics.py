"""From records to numbers: definitions on hand-made runs, and simulated ones against a reconstruction request by request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator.engine.records import StepRecord, Steps
from simulator.engine.simulate import ClosedTraffic, OpenTraffic, Run, simulate
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Prefill, Separate
from simulator.policies.routing import LeastLoaded
from simulator.policies.verification import FixedLength, NoSpeculation
from simulator.study.run.meter import RunMetrics, summarise
from simulator.study.run.metrics import names
from simulator.traffic.request import Request, RequestSpec
from tests.engine.worlds import PLAIN, Users, blocks, costs, drafting, fleet, independent, open_traffic, poisson, replay, stamps

STEP = {
    "replica": 0, "start_s": 0.0, "end_s": 0.0, "requests": 1, "running": 1, "joined": 0, "verified": 0, "accepted": 0,
    "committed": 1, "draft_s": 0.0, "verify_s": 0.0, "overhead_s": 0.0, "prefill_s": 0.0, "prefill_tokens": 0, "context_tokens": 1, "waiting": 0,
    "waiting_end": 0,
}  # fmt: skip


def steps(*given: dict[str, Any]) -> list[StepRecord]:
    return [StepRecord(**(STEP | one)) for one in given]


def request(index: int, arrival: float, first: float, finish: float, tokens: int, measured: bool = True) -> Request:
    return Request(
        RequestSpec(index, arrival, 1, tokens, ""), measured=measured, sent_s=arrival, first_token_s=first, finish_s=finish, emitted_tokens=tokens
    )


def made(requests: list[Request], records: list[StepRecord], end: float, gaps: Any = (), start: float = 0.0, unfinished: int = 0) -> Run:
    rows = {"join_gaps": np.array(gaps, dtype=np.float64).reshape(-1, 4), "prefill_waits": np.empty((0, 2))}
    return Run(start, end, unfinished, 0, 0, 0, steps=Steps(records), requests=requests, **rows)


def numbers(run: Run, gpus: float = 1, replicas: int = 1, ttft_known: bool = True, open_loop: bool = False) -> RunMetrics:
    return summarise(run, gpus, replicas, ttft_known, open_loop)


def test_speed_with_bursts_is_tokens_over_time_and_not_the_inverse_of_a_gap() -> None:
    """One user, 13 tokens after the first in bursts of 4, 4, 4, 1 half a second apart: 13 tokens in 2 s are 6.5 a second.
    The inverse of the gap between bursts would say 2."""
    bursts = [{"start_s": 0.5 * i, "end_s": 0.5 * (i + 1), "committed": n, "verified": 3, "accepted": n - 1} for i, n in enumerate((4, 4, 4, 1))]
    bursts[0]["joined"] = 1
    row = numbers(made([request(0, -1.0, 0.0, 2.0, 14)], steps(*bursts), 2.0, [(0.5, 0.5, 0.0, 0)]))
    assert row["tps_per_user_mean"] == row["tps_per_user_p50"] == 6.5
    assert row["tpot_p50_s"] == pytest.approx(1 / 6.5)
    assert row["itl_p50_s"] == row["itl_p99_s"] == 0.5
    assert (row["ttft_p50_s"], row["e2e_p50_s"]) == (1.0, 3.0)
    assert row["accepted_length"] == 1 + 9 / 4
    assert row["verification_budget"] == 4
    assert row["waste_fraction"] == 3 / 16  # 12 drafted and 4 anchors verified, 3 drafted rejected
    assert row["throughput_tok_s_gpu"] == 6.5


def test_quantiles_are_over_measured_finished_requests() -> None:
    """Speeds 1, 2, …, 11 tokens a second; others would pull them away. Slowest tenth: p10 of speed, p90 of time per token."""
    kept = [request(i, 0.0, 1.0, 1.0 + 10 / (i + 1), 11) for i in range(11)]
    others = [request(20, 0.0, 1.0, 1.001, 500, measured=False), Request(RequestSpec(21, 0.0, 1, 9, ""), measured=True)]
    row = numbers(made(kept + others, steps({"end_s": 1.0}), 1.0))
    assert row.requests == 11
    assert [row[f"tps_per_user_{q}"] for q in ("mean", "p10", "p50", "p90")] == pytest.approx([6, 2, 6, 10])
    assert row["tpot_p50_s"] == pytest.approx(1 / 6)
    assert row["tpot_p90_s"] == pytest.approx(1 / 2)
    assert row["e2e_p99_s"] == pytest.approx(np.percentile([1 + 10 / (i + 1) for i in range(11)], 99))


def test_answers_of_one_token_have_no_speed_but_a_ttft() -> None:
    row = numbers(made([request(0, 0.0, 0.5, 0.5, 1)], steps({"end_s": 1.0}), 1.0))
    assert (row["tps_per_user_mean"], row["tpot_p50_s"], row["ttft_p50_s"]) == (None, None, 0.5)


def test_time_to_first_token_is_unknown_where_prompts_cost_nothing() -> None:
    row = numbers(made([request(0, 0.0, 0.5, 2.0, 3)], steps({"end_s": 1.0}), 1.0), ttft_known=False)
    assert [row[f"ttft_{q}_s"] for q in ("p50", "p90", "p99")] == [None] * 3


def test_only_steps_that_end_in_the_window_count_and_prompt_steps_do_not_decode() -> None:
    records = steps(
        {"start_s": 0, "end_s": 1, "committed": 100},  # before
        {"start_s": 1, "end_s": 2, "requests": 2, "running": 2, "committed": 6, "verified": 6, "accepted": 4, "waiting": 2, "waiting_end": 4},
        {"start_s": 2, "end_s": 5, "requests": 0, "running": 2, "committed": 0, "prefill_tokens": 9},
        {"start_s": 4, "end_s": 6, "committed": 100},  # after
    )
    row = numbers(made([], records, 5.0, start=1.0), gpus=2, replicas=1)
    assert row["throughput_tok_s_gpu"] == 6 / 4 / 2
    assert row["tokens_per_step_p50"] == row["tokens_per_step_max"] == 8
    assert row["step_p50_s"] == 1
    assert row["busy_fraction"] == 1
    assert row["concurrency_mean"] == 2
    assert row["waiting_mean"] == 3 / 4
    assert (row["accepted_length"], row["verification_budget"]) == (3, 4)


def test_every_number_is_there_even_when_nothing_ran() -> None:
    """Tables have one shape, and an empty run says None, never 0 throughput from a division."""
    for run in (made([], [], 1.0), made([], steps({"end_s": 1.0, "requests": 0, "running": 0, "committed": 0}), 1.0), made([], [], 0.0)):
        row = numbers(run)
        assert list(row.numbers) == list(names())
        assert row["throughput_tok_s_gpu"] is None


def bursts_of(run: Run) -> list[float]:
    """Every gap between bursts that each user saw, one replica, instant prefill, one request after the other out of the batch: rebuilt
    from stamps alone. A request sees the end of every step between its first token and its finish."""
    ends = np.sort(run.steps["end_s"][run.steps["requests"] > 0])
    gaps: list[float] = []
    for r in run.requests:
        if r.spec.output_tokens > 1:
            own = ends[(ends > r.first_token_s + 1e-12) & (ends <= r.finish_s + 1e-12)]
            gaps += np.diff(np.concatenate(([r.first_token_s], own))).tolist()
    return gaps


@pytest.mark.parametrize("prefill", [Instant(), Chunked(token_budget=12), Separate(max_tokens=8)])
def test_itl_is_every_burst_of_every_user_once(prefill: Prefill) -> None:
    specs = poisson(4.0, np.random.default_rng(0).integers(1, 25, 60), 1, prompt=6)
    drawn = replay(independent([0.7, 0.5], 4096, 0))
    over = fleet(costs(0.03, 0.004, prefill=(0.01, 0.002)), FixedLength(length=2), drawn, max_batch=64, prefill=prefill)
    run = simulate(OpenTraffic(specs, 0.0, 1e5, 0.0), over)
    assert run.unfinished == 0
    gaps = np.sort(bursts_of(run))
    row = numbers(run)
    for q in (50, 90, 99):
        expected = gaps[int(np.ceil(q / 100 * len(gaps))) - 1]
        assert row[f"itl_p{q}_s"] == pytest.approx(expected, rel=1e-9)
    assert row["itl_p99_s"] > 1.3 * row["itl_p50_s"]  # the gaps do differ


@pytest.mark.parametrize(
    "prefill", [Instant(), Separate(max_tokens=8), Separate(), Chunked(token_budget=12), Disaggregated(workers=1, transfer_s=0.02)]
)
@pytest.mark.parametrize("kv_pages", [None, 120])
def test_the_parts_of_the_time_per_token_add_up_to_it(prefill: Prefill, kv_pages: int | None) -> None:
    """All requests in the window: Σ parts × tokens = Σ (finish - first token), preemptions and steps of prompts included."""
    specs = poisson(5.0, np.random.default_rng(3).integers(1, 40, 60), 4, prompt=20)
    drawn = replay(independent([0.7, 0.5], 4096, 0))
    price = costs(0.02, 0.002, overhead=0.001, prefill=(0.005, 0.001))
    over = fleet(price, FixedLength(length=2), drawn, drafting(0.002), kv_pages=kv_pages, page_tokens=1, max_batch=8, prefill=prefill)
    run = simulate(OpenTraffic(specs, 0.0, 1e5, 0.0), over)
    assert run.unfinished == 0
    assert (run.preemptions > 0) == (kv_pages is not None)
    row, table = numbers(run), stamps(run.requests)
    parts = sum(value for name, value in row.numbers.items() if name.startswith("user_s_per_token_"))
    assert parts == pytest.approx((table[:, 2] - table[:, 1]).sum() / (table[:, 3] - 1).sum(), rel=1e-9)


def test_the_parts_of_the_time_per_token_in_a_closed_loop() -> None:
    """R users always in the batch: a token of a round takes 1 / overall speed, and the parts are that; each part by hand."""
    drawn = replay(independent([0.8, 0.6], 16_384, 0))
    over = fleet(costs(0.02, 0.001, overhead=0.003), FixedLength(length=2), drawn, drafting(0.004))
    run = PLAIN.closed(Users(5, lambda _u, _t: 80), 6, over)
    row = numbers(run)
    parts = {name.removeprefix("user_s_per_token_"): value for name, value in row.numbers.items() if name.startswith("user_s_per_token_")}
    assert sum(parts.values()) == pytest.approx(1 / row["tps_per_user_overall"], rel=1e-9)
    assert sum(parts.values()) == pytest.approx(1 / row["tps_per_user_mean"], rel=0.05)
    rounds = sum(parts.values()) / (0.02 + 15 * 0.001 + 0.003 + 0.004)  # steps a token, every one alike
    assert parts["draft"] == pytest.approx(0.004 * rounds)
    assert parts["overhead"] == pytest.approx(0.003 * rounds)
    assert parts["verify_rejected"] == pytest.approx(0.035 * rounds * row["waste_fraction"])
    assert parts["prefill"] == parts["waiting"] == 0
    assert row["waste_fraction"] == pytest.approx((row["verification_budget"] - row["accepted_length"]) / row["verification_budget"])
    assert row["tps_per_user_overall"] == pytest.approx((row["throughput_tok_s_gpu"] - first_tokens(run)) / 5)


def first_tokens(run: Run) -> float:
    """Per second of the window: what prompts gave, beside the rounds."""
    return sum(run.start_s < r.first_token_s <= run.end_s for r in run.requests) / (run.end_s - run.start_s)


def test_throughput_is_per_gpu_of_the_whole_fleet() -> None:
    """Three replicas of two GPUs, each with 4 users at a constant step: everything per replica is as with one, and so is throughput."""
    one = PLAIN.closed(Users(4, lambda _u, _t: 40), 8, fleet(costs(0.1)))
    three = PLAIN.closed(Users(12, lambda _u, _t: 40), 8, fleet(costs(0.1), replicas=3))
    single, several = numbers(one, gpus=2), numbers(three, gpus=6, replicas=3)
    assert single["tps_per_user_overall"] == pytest.approx(1 / 0.1)
    assert single["throughput_tok_s_gpu"] == pytest.approx((4 / 0.1 + first_tokens(one)) / 2)
    assert several["throughput_tok_s_gpu"] == pytest.approx((4 * 3 / 0.1 + first_tokens(three)) / 6)
    for name in ("tps_per_user_overall", "concurrency_mean", "busy_fraction", "tps_per_user_mean", "step_p50_s"):
        assert several[name] == pytest.approx(single[name], rel=1e-9), name
    assert numbers(three, gpus=8, replicas=3)["throughput_tok_s_gpu"] == pytest.approx((4 * 3 / 0.1 + first_tokens(three)) / 8)  # 2 for prompts


@pytest.mark.parametrize("load, expected", [(0.5, "stable"), (1.3, "overloaded")])
@pytest.mark.parametrize("seed", range(5))
def test_the_verdict_on_m_d_1(load: float, expected: str, seed: int) -> None:
    """At ρ = 1.3 the queue grows by 0.3 / 1.3 = 23 % of the arrivals, far above the noise of 600 of them (4 %)."""
    step = 0.05
    specs = poisson(load / step, [2] * 1300, seed)
    until = 700 * step / load
    traffic = OpenTraffic(specs, 100 * step / load, until, 1e9)
    row = numbers(simulate(traffic, fleet(costs(base=step), max_batch=1)), open_loop=True)
    assert row.verdict == expected


def test_the_verdict_when_the_drain_is_over_before_the_requests_are() -> None:
    specs = [RequestSpec(i, i * 1.0, 1, 200, "") for i in range(20)]
    row = numbers(simulate(OpenTraffic(specs, 0.0, 20.0, 1.0), fleet(costs(0.1), max_batch=4)), open_loop=True)
    assert row["unfinished"] > 0
    assert row.verdict == "overloaded"


def test_a_closed_loop_beyond_its_slots_is_backlogged_and_within_them_stable() -> None:
    over = fleet(costs(0.1), max_batch=8)
    assert numbers(PLAIN.closed(Users(8, lambda _u, _t: 20), 5, over)).verdict == "stable"
    beyond = numbers(PLAIN.closed(Users(12, lambda _u, _t: 20), 5, over))
    assert beyond.verdict == "backlogged"
    assert beyond["waiting_mean"] == pytest.approx(4, abs=0.5)
    assert beyond["concurrency_mean"] == pytest.approx(8, abs=0.1)


def test_speculation_changes_what_it_should_and_nothing_else() -> None:
    """All accepted, three times the tokens a step: speed and throughput triple (up to the cut at the end), waste is nil."""
    drawn = replay(blocks([[2] * 600], 2))
    plain = numbers(PLAIN.closed(Users(3, lambda _u, _t: 301), 2, fleet(costs(0.1), NoSpeculation())))
    fast = numbers(PLAIN.closed(Users(3, lambda _u, _t: 301), 2, fleet(costs(0.1), FixedLength(length=2), drawn)))
    assert fast["tps_per_user_mean"] == pytest.approx(3 * plain["tps_per_user_mean"])
    assert fast["throughput_tok_s_gpu"] == pytest.approx(3 * plain["throughput_tok_s_gpu"])
    assert (fast["waste_fraction"], plain["waste_fraction"]) == (0, 0)
    assert fast["itl_p50_s"] == pytest.approx(plain["itl_p50_s"])


def test_the_window_of_an_open_loop_is_that_of_the_measured_arrivals() -> None:
    specs = poisson(2.0, [10] * 100, 0)
    run = PLAIN.open(specs, fleet(costs(0.01)), warmup_s=5.0, until_s=25.0)
    row = numbers(run, open_loop=True)
    assert row.requests == sum(5 <= s.arrival_s < 25 for s in specs)
    assert (run.start_s, run.end_s) == (5.0, 25.0)
    assert row["busy_fraction"] < 0.5


def test_requests_queued_for_a_prefill_worker_are_a_backlog() -> None:
    """One worker, 1 s a prompt, twelve users: eleven stand before the worker most of the time, none before the replica."""
    over = fleet(costs(0.01, prefill=(1.0, 0.0)), prefill=Disaggregated(workers=1))
    row = numbers(PLAIN.closed(Users(12, lambda _u, _t: 10), 3, over))
    assert row.verdict == "backlogged"


def test_first_tokens_are_output_tokens_too() -> None:
    """Answers of two tokens, one from the prompt and one from a round: a user gets 2 a second, and a GPU delivers as many."""
    over = fleet(costs(0.5, prefill=(0.5, 0.0)), prefill=Separate())
    run = PLAIN.closed(Users(1, lambda _u, _t: 2), 40, over)
    assert numbers(run)["throughput_tok_s_gpu"] == pytest.approx(2.0, rel=0.05)


def test_requests_waiting_between_two_steps_are_counted_while_they_wait() -> None:
    """M/D/1 at ρ = 0.8: Little's law gives ρ² / (2 (1 - ρ)) = 1.6 in the queue, from the stamps of the very same requests."""
    specs = poisson(8.0, [2] * 3000, 1)
    run = simulate(open_traffic(specs), fleet(costs(0.1), max_batch=1))
    table = stamps(run.requests)
    waited = (table[:, 1] - table[:, 0]).sum() / (run.end_s - run.start_s)
    assert numbers(run)["waiting_mean"] == pytest.approx(waited, rel=0.05)


def test_least_loaded_routing_keeps_replicas_even() -> None:
    over = fleet(costs(0.1), replicas=3, router=LeastLoaded())
    run = simulate(ClosedTraffic(9, Users(9, lambda _u, t: 20 + t), 5, np.full(9, 0.5)), over)
    assert run.steps["running"].max() == 3

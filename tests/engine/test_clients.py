"""Users who pause, clients that hold requests back, benchmark clients and the longest context, against plain loops over steps and by hand."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.engine.given import truncated
from simulator.engine.simulate import ClosedTraffic, OpenTraffic, Run, simulate
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Separate
from simulator.rng import uniform_at
from simulator.traffic.benchmark import Benchmark
from simulator.traffic.request import RequestSpec
from simulator.traffic.workload import Workload
from tests.engine.worlds import Engine, Users, agrees, costs, fleet, poisson

USERS, PROMPT, BUDGET, BASE_S, TOKEN_S = 40, 400, 1024, 0.01, 1e-4
SIGMA = math.sqrt(math.log(2))  # of answers: 40 tokens on average, cv 1


def chat(pause: Callable[[random.Random], float], seed: int, requests: int = 1600) -> float:
    """Mean seconds of a request: users who pause, on an engine with chunked prefill, in plain Python. The first 80 requests are left out."""
    rnd = random.Random(seed)
    now, due = 0.0, [(rnd.uniform(0, 4), user) for user in range(USERS)]
    heapq.heapify(due)
    prompts: list[list[Any]] = []
    answers: list[list[Any]] = []  # of both: prompt and answer tokens left, arrival, user
    took: list[float] = []
    while len(took) < requests + 80:
        while due and due[0][0] <= now:
            came, user = heapq.heappop(due)
            tokens = round(rnd.lognormvariate(math.log(40) - SIGMA**2 / 2, SIGMA))
            prompts.append([PROMPT, min(max(tokens, 1), 200), came, user])
        if not prompts and not answers:
            now = due[0][0]
            continue
        room, step_s = BUDGET - len(answers), BASE_S + TOKEN_S * len(answers)
        for answer in answers:
            answer[1] -= 1
        for prompt in prompts:
            chunk = min(room, prompt[0])
            prompt[0] -= chunk
            room -= chunk
            step_s += TOKEN_S * chunk
            prompt[1] -= not prompt[0]  # the end of the prompt is the first token
        now += step_s
        ready = answers + [prompt for prompt in prompts if not prompt[0]]
        prompts = [prompt for prompt in prompts if prompt[0]]
        answers = [answer for answer in ready if answer[1] > 0]
        for _, left, came, user in ready:
            if left <= 0:
                took.append(now - came)
                heapq.heappush(due, (now + pause(rnd), user))
    return float(np.mean(took[80:]))


def simulated(think: Any, seed: int) -> float:
    """The same of the engine."""
    lengths = {
        "prompt_tokens": {"kind": "fixed", "tokens": PROMPT},
        "output_tokens": {"kind": "lognormal", "mean_tokens": 40, "cv": 1, "max_tokens": 200},
    }
    source = Workload.model_validate({"arrivals": {"kind": "closed_loop", "think_s": think}, **lengths}).closed_loop(USERS, seed, 0)
    over = fleet(costs(per_token=TOKEN_S, overhead=BASE_S, prefill=(0.0, TOKEN_S)), prefill=Chunked(token_budget=BUDGET))
    run = simulate(ClosedTraffic(USERS, source, 40, uniform_at(seed, "residual", 0, np.arange(USERS))), over)
    return float(np.mean([r.finish_s - r.sent_s for r in run.requests if r.measured]))


@pytest.mark.parametrize("think, pause", [
    (4, lambda rnd: rnd.expovariate(1 / 4)),
    ({"kind": "uniform", "min_s": 2, "max_s": 6}, lambda rnd: rnd.uniform(2, 6)),
])  # fmt: skip
def test_users_who_pause_meet_what_a_plain_loop_says(think: Any, pause: Callable[[random.Random], float]) -> None:
    pytest.importorskip("numba")
    ours, theirs = (np.array([one(what, seed) for seed in range(8)]) for one, what in ((simulated, think), (chat, pause)))
    error = math.hypot(*(float(x.std(ddof=1)) / math.sqrt(len(x)) for x in (ours, theirs)))
    assert error < 0.015 * theirs.mean()
    assert abs(ours.mean() - theirs.mean()) < 4.5 * error
    marching = np.mean([simulated({"kind": "fixed", "seconds": 4}, seed) for seed in range(3)])
    assert marching > 1.25 * ours.mean()  # users who all pause for the same time stay in step


def client(users: int, prompt: int, answers: list[int], chunk: int) -> tuple[list[float], list[float], float]:
    """TTFT and decode time of each request, and the end: a benchmark client before an engine that takes prompts first, in plain Python."""
    now, left = 0.0, list(answers)
    queue = [[prompt, left.pop(0), 0.0] for _ in range(users)]
    batch: list[list[float]] = []  # tokens left, first token
    ttft, decode = [], []
    while queue or batch:
        if queue:
            room, step_s = chunk, BASE_S
            for waiting in queue:
                part = min(room, waiting[0])
                waiting[0], room, step_s = waiting[0] - part, room - part, step_s + TOKEN_S * part
            now += step_s
            for _, tokens, sent in (waiting for waiting in queue if not waiting[0]):
                ttft.append(now - sent)
                batch.append([tokens - 1, now])
            queue = [waiting for waiting in queue if waiting[0]]
        else:
            now += BASE_S + TOKEN_S * len(batch)
            for running in batch:
                running[0] -= 1
            decode += [now - first for tokens, first in batch if tokens == 0]
            ended = sum(tokens == 0 for tokens, _ in batch)
            queue += [[prompt, left.pop(0), now] for _ in range(min(ended, len(left)))]
            batch = [running for running in batch if running[0]]
    return ttft, decode, now


@pytest.mark.parametrize("answers", [[30] * 40, [2 + 7 * i % 41 for i in range(50)]])
def test_a_benchmark_client_meets_what_a_plain_loop_says(engine: Engine, answers: list[int]) -> None:
    """All start at once, the next goes out as soon as one has ended; ramp and tail are measured, and the end of the last is the end."""
    specs = [RequestSpec(i, 0.0, 300, tokens, "") for i, tokens in enumerate(answers)]
    over = fleet(costs(per_token=TOKEN_S, overhead=BASE_S, prefill=(0.0, TOKEN_S)), prefill=Separate(max_tokens=1000))
    run = engine.run(OpenTraffic(specs, 0.0, np.inf, 0.0, in_flight=8), over)
    ttft, decode, end_s = client(8, 300, answers, 1000)
    assert (run.unfinished, run.end_s) == (0, pytest.approx(end_s))
    assert sorted(r.first_token_s - r.sent_s for r in run.requests) == pytest.approx(sorted(ttft))
    assert sorted(r.finish_s - r.first_token_s for r in run.requests) == pytest.approx(sorted(decode))
    assert all(r.measured for r in run.requests)


def most_in_flight(run: Run) -> int:
    """The most requests between sending and end at a time."""
    ends = [(r.finish_s, -1) for r in run.requests if r.finished]
    return max(itertools.accumulate(step for _, step in sorted(ends + [(r.sent_s, 1) for r in run.requests])))


@pytest.mark.parametrize("prefill", [Instant(), Chunked(token_budget=8), Disaggregated(workers=1)])
def test_a_client_keeps_to_its_limit_and_sends_in_order(engine: Engine, prefill: Any) -> None:
    specs = poisson(8.0, np.random.default_rng(2).integers(1, 20, 120), 1, prompt=6)
    over = fleet(costs(0.03, 0.002, prefill=(0.001, 0.001)), replicas=2, prefill=prefill)
    free, held = (engine.run(OpenTraffic(specs, 0.0, 20.0, 1e3, most), over) for most in (None, 3))
    assert [r.sent_s for r in free.requests] == [s.arrival_s for s in specs[: len(free.requests)]]
    assert most_in_flight(free) > 6
    assert most_in_flight(held) == 3
    assert held.unfinished == 0
    sent = [r.sent_s for r in held.requests]
    assert sent == sorted(sent)
    assert all(r.sent_s >= r.spec.arrival_s for r in held.requests)
    ends = {r.finish_s for r in held.requests}
    late = [r for r in held.requests if r.sent_s > r.spec.arrival_s]
    assert len(late) > 20
    assert all(r.sent_s in ends for r in late)  # when another one has ended, not sooner and not later


def test_the_wait_at_a_client_is_that_of_a_queue(series: Engine) -> None:
    """One in flight, answers of 1 s, Poisson arrivals of 0.4 a second: M/D/1, whose mean wait is ρ S / 2 (1 − ρ) (Pollaczek and Khinchine)."""
    waits = []
    for seed in range(16):
        run = series.run(OpenTraffic(poisson(0.4, [11] * 400, seed), 20.0, 900.0, 1e6, in_flight=1), fleet(costs(base=0.1)))
        waits.append(float(np.mean([r.sent_s - r.spec.arrival_s for r in run.requests if r.measured])))
    agrees(waits, 0.4 / (2 * 0.6), power=0.3)


def test_what_the_client_still_holds_at_the_end_is_unfinished(engine: Engine) -> None:
    specs = [RequestSpec(i, 0.1 * i, 1, 11, "") for i in range(10)]
    run = engine.run(OpenTraffic(specs, 0.0, 1.0, 2.5, in_flight=1), fleet(costs(base=0.1)))
    assert [r.sent_s for r in run.requests] == pytest.approx([0, 1, 2, 3])
    assert run.unfinished == 7


def test_gaps_are_those_that_the_client_draws_with_its_seed() -> None:
    """As get_request has them: one number after the other from numpy's own generator, stretched to 20 prompts at 4 per second."""
    client = Benchmark(client="vllm", load_flag="request_rate", num_prompts=20, burstiness=0.5, seed=7)
    generator = np.random.RandomState(7)
    gaps = np.array([generator.gamma(shape=0.5, scale=1 / (4.0 * 0.5)) for _ in range(20)])
    for replication in (1, 2):
        times = client.sent_s(20, 4.0, np.random.default_rng(replication))
        np.testing.assert_allclose(times, gaps.cumsum() * (20 / 4.0 / gaps.sum()))
    with pytest.raises(ValidationError, match="gaps of sglang depend on its data set"):
        Benchmark(client="sglang", num_prompts=20, seed=7)


@pytest.mark.parametrize("prefill", [Instant(), Separate(), Disaggregated(workers=1)])
@pytest.mark.parametrize("closed", [False, True])
def test_the_longest_context(engine: Engine, prefill: Any, closed: bool) -> None:
    """20 tokens of context: a prompt of 20 leaves no room and is refused, one of 15 gets 5 tokens of its 9, one of 11 all."""
    prompts, over = (11, 15, 20, 12), replace(fleet(costs(0.01, prefill=(0.001, 0.0)), prefill=prefill), max_context=20)
    if closed:
        traffic: Any = ClosedTraffic(4, Users(4, lambda _u, _t: 9, lambda u, t: prompts[(u + t) % 4]), 2, np.ones(4))
    else:
        traffic = OpenTraffic([RequestSpec(i, 0.1 * i, p, 9, "") for i, p in enumerate(prompts * 2)], 0.0, 1.0, 10.0)
    run = engine.run(traffic, over)
    for request in run.requests:
        prompt = request.spec.prompt_tokens
        assert request.rejected == (prompt >= 20)
        if request.finished:
            assert request.spec.output_tokens == min(9, 20 - prompt)
    measured = [r for r in run.requests if r.measured]
    assert sorted(r.spec.prompt_tokens for r in measured if r.finished) == [11, 11, 12, 12, 15, 15]
    assert (run.unfinished, run.rejected, run.kv_pages_left) == (0, 2, 0)
    assert truncated(traffic, 20) == 4  # those of 12 and 15, and of 15 and 20
    assert (truncated(traffic, None), truncated(traffic, 21), truncated(traffic, 29)) == (0, 4, 0)


def test_a_user_who_pauses_long_is_waited_for(engine: Engine) -> None:
    """One pauses 30 times as long as the others: that is no starvation."""

    class Slow(Users):
        def pause_s(self, user: Any, turn: Any) -> Any:
            return np.where(np.broadcast_arrays(user, turn)[0] == 0, 30.0, 1.0)

    run = engine.run(ClosedTraffic(3, Slow(3, lambda _u, _t: 3), 2, np.ones(3)), fleet(costs(0.001)))
    assert run.unfinished == 0
    assert sum(r.measured and r.finished for r in run.requests) == 6

"""Operating points played again: what a benchmark's users would have seen if the engine cost what a profile says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from simulator.engine.given import ReplicaSettings
from simulator.engine.simulate import ClosedTraffic, Fleet, OpenTraffic, Run, Traffic, simulate
from simulator.measurements.cost import Costs, DraftCost
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.prices import RoundCost
from simulator.measurements.replay import Replay, lay_out, nothing_drafted
from simulator.policies.prefill import Chunked, Instant
from simulator.policies.verification import FixedLength, NoSpeculation, VerificationPolicy
from simulator.rng import uniform_at
from simulator.study.profiles.one_replica import one_replica
from simulator.study.run.meter import summarise
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.benchmark import Benchmark
from simulator.traffic.lengths import Fixed, Lognormal
from simulator.traffic.request import Request
from simulator.traffic.workload import Workload

MOST_STEPS = 10_000  # of a cell without speculation: a dozen cells are seconds of work
ENOUGH = 128  # requests that a cell with speculation is averaged over
LONG = 5  # requests a user, from which beginning and end of a run hardly count
ANSWER_TOKENS = 128  # where a file does not say how long answers were

Manner = Literal["together", "spread", "unlike"]
"""How the users of a benchmark stand to each other: all begin at once with answers of one length, so that they go in waves; they begin at any place
of their answer; they begin at once with unlike answers. A file does not say which it was."""
MANNERS: tuple[Manner, ...] = ("together", "spread", "unlike")
UNLIKE_CV = 0.5  # of unlike answers
Cache = Literal["own", "unified", "split"]
"""How requests share an engine's cache: each reads its own; llama.cpp's unified one, through which every token of a step goes; or its split one,
whose prompts run in a pass of their own beside decoding (docs/exchange.md, llama.cpp)."""
TOKEN_BUDGET = Chunked().token_budget


@dataclass(frozen=True)
class Working:
    """How the engine of the benchmarks works: its cache, whether it drafts `ahead` of the step in which it is verified, the tokens of a step at most
    (prompts in chunks), and the requests that decode at once, None for as many as there are users."""

    cache: Cache = "own"
    ahead: bool = False
    token_budget: int = TOKEN_BUDGET
    max_batch: int | None = None


AS_MOST = Working()


@dataclass(frozen=True)
class Seen:
    """What the users of a simulated benchmark see: as a LoadPoint has it."""

    tps_per_user: float
    throughput_tok_s: float
    accepted_length: float
    requests: float  # that decode at once, as a user who decodes sees it
    ttft_s: float | None
    waits: tuple[float, float, float] | None  # what it consists of: steps of prompts alone, their tokens, seconds of all else


@dataclass(frozen=True)
class Drafting:
    """What a drafter costs and what it drafts: on texts of `domain`, of all of them where it is ""."""

    cost: DraftCost
    blocks: RecordedBlocks
    replay: Replay
    domain: str = ""

    @classmethod
    def of(cls, cost: DraftCost, blocks: RecordedBlocks) -> Drafting:
        """With the replay of its blocks, which costs are not part of."""
        return cls(cost, blocks, lay_out(blocks, None, False, 0, 0))

    def on(self, domain: str) -> Drafting:
        """On texts of one domain."""
        return replace(self, domain=domain if len(self.blocks.domains) > 1 else "")


def users_of(point: LoadPoint) -> int:
    """Users of a point's closed loop: as many as its client allowed, else those in flight by Little's law, prompts included."""
    if point.offered:
        return max(round(point.offered), 1)
    waiting = (point.ttft_s or 0.0) * point.throughput_tok_s / point.output_tokens if point.output_tokens else 0.0
    return max(round(point.concurrency + waiting), 1)


def simulate_point(point: LoadPoint, costs: Costs, drafting: Drafting | None, manner: Manner, working: Working = AS_MOST) -> Seen:
    """The point's closed loop on one replica, with its mean lengths, in an engine that is `working` so. A point that speculates needs `drafting` of
    as many slots. A run whose beginning and end count is as long as the benchmark's; acceptance is a matter of luck, and averaged over runs."""
    users, answer = users_of(point), max(round(point.output_tokens or ANSWER_TOKENS), 2)
    wanted = ENOUGH if point.slots or manner == "unlike" else 0
    requests = max(point.requests or 4 * users, 2 * users)
    if requests >= LONG * users:  # then they do not
        requests = max(min(requests, MOST_STEPS * users // answer), LONG * users, wanted)
    prefill = Chunked(token_budget=working.token_budget) if point.prompt_tokens and costs.prefill is not None else Instant()
    settings = ReplicaSettings(max_batch=min(users, working.max_batch or users), prefill=prefill)
    runs = [_run(point, costs, drafting, manner, settings, users, requests, answer, number) for number in range(max(ceil(wanted / requests), 1))]
    speed, throughput, length, together, ttft_s, *waits = (None if None in column else float(np.mean(column)) for column in zip(*runs, strict=True))
    return Seen(speed, throughput, length, together, ttft_s, tuple(waits) if ttft_s is not None else None)  # type: ignore[arg-type]


def _run(
    point: LoadPoint, costs: Costs, drafting: Drafting | None, manner: Manner, settings: ReplicaSettings, users: int, requests: int, answer: int,
    replication: int,
) -> tuple[float | None, ...]:  # fmt: skip
    output = Lognormal(mean_tokens=answer, cv=UNLIKE_CV, min_tokens=2) if manner == "unlike" and answer > 4 else Fixed(tokens=answer)
    prompt = Fixed(tokens=max(round(point.prompt_tokens or 1), 1))
    arrivals = ClosedLoop() if manner == "spread" else Benchmark(client="vllm", num_prompts=requests)
    domains = {drafting.domain: 1.0} if drafting and drafting.domain else {}
    workload = Workload(arrivals=arrivals, prompt_tokens=prompt, output_tokens=output, domains=domains)
    run = simulate(_traffic(workload, users, requests, replication), _fleet(point, costs, drafting, settings, replication))
    return _seen(run, isinstance(settings.prefill, Chunked))


def _traffic(workload: Workload, users: int, requests: int, replication: int) -> Traffic:
    if workload.client is not None:
        return OpenTraffic(workload.sent(users, 1, 0, replication), 0.0, np.inf, 0.0, in_flight=users)
    residual = uniform_at(0, "residual", replication, np.arange(users))
    return ClosedTraffic(users, workload.closed_loop(users, 0, replication), max(2, ceil(requests / users)), residual)


def _fleet(point: LoadPoint, costs: Costs, drafting: Drafting | None, settings: ReplicaSettings, replication: int) -> Fleet:
    if not point.slots:
        return one_replica(settings, NoSpeculation(), nothing_drafted(), RoundCost(costs, None, 0, 0))
    assert drafting is not None
    policy: VerificationPolicy = FixedLength(length=point.slots)
    prices = RoundCost(costs, drafting.cost, drafting.blocks.gamma, point.slots)
    return one_replica(settings, policy, replace(drafting.replay, replication=replication), prices)


def _seen(run: Run, has_prompts: bool) -> tuple[float | None, ...]:
    if run.start_s == 0:
        run = replace(run, start_s=float(np.nextafter(0.0, -1.0)))  # what happens at time 0 counts
    numbers = summarise(run, 1.0, 1, has_prompts, False)
    done = [request for request in run.requests if request.measured]
    tpot_s = np.array([(r.finish_s - r.first_token_s) / (r.spec.output_tokens - 1) for r in done])
    ttft_s = float(np.mean([r.first_token_s - r.sent_s for r in done])) if has_prompts else None
    steps, inside = run.steps, (run.steps["requests"] > 0) & (run.steps["end_s"] > run.start_s)
    batch = steps["requests"][inside]
    weight = batch * (steps["end_s"] - steps["start_s"])[inside]
    requests = float((weight * batch).sum() / weight.sum())
    waits = _waits(run, done) if has_prompts else (None,) * 3
    return 1 / float(tpot_s.mean()), numbers.known("throughput_tok_s_gpu"), numbers.known("accepted_length"), requests, ttft_s, *waits


def _waits(run: Run, done: Sequence[Request]) -> tuple[float, ...]:
    """What lies between sending and first token, in the mean: steps of prompts alone, tokens of prompts, seconds beside them."""
    steps = run.steps
    edges = np.stack((steps["start_s"], steps["end_s"]), axis=-1).ravel()
    alone = (steps["requests"] == 0).astype(float)
    tokens = steps["prefill_tokens"].astype(float)
    counts = [np.cumsum(np.stack((np.zeros(len(each)), each), axis=-1).ravel()) for each in (alone, tokens)]
    sent, first = (np.array([getattr(r, name) for r in done]) for name in ("sent_s", "first_token_s"))
    steps_alone, prompt_tokens = (float(np.mean(np.interp(first, edges, each) - np.interp(sent, edges, each))) for each in counts)
    rest_s = np.where(alone > 0, 0.0, steps["draft_s"] + steps["verify_s"] + steps["overhead_s"])
    rest = np.cumsum(np.stack((np.zeros(len(alone)), rest_s), axis=-1).ravel())
    return steps_alone, prompt_tokens, float(np.mean(np.interp(first, edges, rest) - np.interp(sent, edges, rest)))

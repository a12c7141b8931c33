"""Small random worlds: every policy, way of processing prompts, router and order of admission, with short texts and tight memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from simulator.engine.simulate import Fleet
from simulator.measurements.cost import FrontEnd, Scheduling
from simulator.measurements.prices import RoundPrices, ScaledPrices
from simulator.policies.admission import FirstCome, ShortestPrompt
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Separate
from simulator.policies.routing import LeastLoaded, PowerOfTwo, PrefixAware, Random, RoundRobin, SessionAffinity
from simulator.policies.verification import (
    ByBatch,
    ByBatchAndContext,
    ConfidenceScheduled,
    FixedLength,
    NoSpeculation,
    Oracle,
    SglangAdaptive,
    Threshold,
    Uniform,
    VllmAdaptive,
)
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import blocks, costs, drafting, fleet, replay

POLICIES = [
    NoSpeculation(), FixedLength(length=0), FixedLength(length=1), FixedLength(length=3), Threshold(threshold=0.5),
    Threshold(threshold=0.3, of="survival"), ByBatch(table=[(1, 1, 3), (2, 9, 1)]), ConfidenceScheduled(mode="synchronous"),
    ConfidenceScheduled(), ConfidenceScheduled(lag=1, min_length=1), ConfidenceScheduled(lag=0), Uniform(), Uniform(lag=1, min_length=1), Oracle(),
    VllmAdaptive(), VllmAdaptive(ema=0.0), SglangAdaptive(),
    ByBatchAndContext(table=[(1, 2, 0, 9, 3), (1, 2, 10, 99, 1), (3, 9, 0, 12, 0), (3, 9, 13, 99, 2)]),
]  # fmt: skip
PREFILLS = [
    Instant(), Separate(max_tokens=5), Separate(), Chunked(token_budget=1), Chunked(token_budget=6), Chunked(),
    Disaggregated(), Disaggregated(workers=1, transfer_s=0.3), Disaggregated(workers=2),
]  # fmt: skip
WRONG: list[Callable[[RoundPrices], dict[str, RoundPrices]]] = [  # steps that cost another amount, schedulers that believe in another
    lambda _: {}, lambda _: {}, lambda prices: {"prices": ScaledPrices(prices, 1.1)}, lambda prices: {"believed": ScaledPrices(prices, 0.9, 1.5)},
    lambda prices: dict.fromkeys(("prices", "believed"), ScaledPrices(prices, 0.9)),
]  # fmt: skip
ROUTERS = [RoundRobin(), LeastLoaded(), PowerOfTwo(), Random(), SessionAffinity(most=1.2), PrefixAware(), PrefixAware(load_weight=0.05)]


@st.composite
def fleets(draw: st.DrawFn, least: int = 1, most: int = 5) -> Fleet:
    """Short recorded texts, so that requests cross them; batches and memory small enough to queue and preempt."""
    gamma = draw(st.integers(1, 4))
    accepted = draw(st.lists(st.lists(st.integers(0, gamma), min_size=1, max_size=6), min_size=2, max_size=5))
    luck = np.random.default_rng(draw(st.integers(0, 99)))
    confidence = luck.uniform(0.05, 0.95, (sum(map(len, accepted)), gamma))
    domains = ["a", "b", *draw(st.lists(st.sampled_from("ab"), min_size=len(accepted) - 2, max_size=len(accepted) - 2))]
    policy = draw(st.sampled_from(POLICIES))
    recorded = blocks(accepted, gamma, confidence, domains)
    if draw(st.booleans()):  # a drafter that proposes what it likes
        recorded = recorded.proposing(luck.integers(0, gamma + 1, recorded.rows))
    drawn = replay(recorded, seed=draw(st.integers(0, 9)), clairvoyant=policy.clairvoyant)
    price = costs(0.01, 0.002, 1e-4, draw(st.sampled_from([0.0, 0.003])), (0.001, 0.001), [(4, 0.02)], draw(st.sampled_from(["mean", "longest"])))
    price = price.model_copy(
        update={"scheduling": draw(st.sampled_from([None, Scheduling(provenance="synthetic", seconds=0.004, per_request_s=1e-4)]))}
    )
    price = price.model_copy(update={"front_end": draw(st.sampled_from([None, None, FrontEnd(provenance="synthetic", seconds=0.002)]))})
    draft = drafting(0.001, 0.0005, 0.0002)
    if draw(st.booleans()):  # one that reads prompts, in an engine that drafts at the end of a step
        draft = draft.model_copy(update={"per_prompt_token_s": 0.0003, "ahead": True})
    if draw(st.booleans()):  # one under which the engine schedules otherwise
        draft = draft.model_copy(update={"every_step_s": draw(st.sampled_from((-0.0005, 0.003)))})
    tight = draw(st.none() | st.integers(26, 12 * most))
    page = draw(st.integers(1, 4))
    made = fleet(
        price, policy, drawn, draft, draw(st.integers(1, 3)), draw(st.sampled_from(ROUTERS)),
        None if tight is None else -(-tight // page), page, 0, max_batch=draw(st.integers(least, most)), prefill=draw(st.sampled_from(PREFILLS)),
        admission=draw(st.sampled_from([FirstCome(), ShortestPrompt()])),
    )  # fmt: skip
    return replace(made, **draw(st.sampled_from(WRONG))(made.prices))


@st.composite
def requests(draw: st.DrawFn) -> list[RequestSpec]:
    arrivals = sorted(draw(st.lists(st.floats(0, 0.6), min_size=1, max_size=14)))
    specs = []
    for i, at in enumerate(arrivals):
        prompt = draw(st.integers(1, 12))
        specs.append(RequestSpec(i, at, prompt, draw(st.integers(1, 12)), draw(st.sampled_from(["a", "b", ""])), draw(st.integers(0, prompt))))
    return specs

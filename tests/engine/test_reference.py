"""The engine against a plain loop over requests that shares no code with it: every step, every stamp."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.simulate import Fleet
from simulator.policies.verification import ConfidenceScheduled, FixedLength, Oracle, StepView, Threshold, Uniform
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import Engine, blocks, costs, drafting, fleet, open_traffic, replay


def plain(specs: list[RequestSpec], over: Fleet) -> tuple[list[tuple[Any, ...]], dict[int, tuple[float, float]]]:
    """One replica, instant prefill, no memory limit: the spec read aloud. Steps as (start, end, requests, verified, accepted, committed)."""
    drawn, lag, gamma = over.replay, over.policy.lag_steps, over.replay.gamma
    now, queue, running = 0.0, list(specs), []
    steps, stamps = [], {}
    while queue or running:
        while queue and queue[0].arrival_s <= now and len(running) < over.settings.max_batch:
            spec = queue.pop(0)
            if spec.output_tokens == 1:
                stamps[spec.index] = (now, now)
                continue
            walk = drawn.walk(spec.index, spec.domain, spec.output_tokens)
            texts = [list(range(first, end)) for first, end in zip(walk.first, walk.end, strict=True)]
            running.append({"spec": spec, "first": now, "left": spec.output_tokens - 1, "texts": texts, "text": 0, "anchor": 0, "seen": []})
        if not running:
            now = max(now, queue[0].arrival_s) if queue else now
            continue
        rows = [r["texts"][r["text"]][r["anchor"]] for r in running]
        past = [
            np.array([drawn.survival[r["seen"][-back]] if len(r["seen"]) >= back else np.ones(gamma) for r in running]) for back in range(1, lag + 1)
        ]
        contexts = [r["spec"].prompt_tokens + r["spec"].output_tokens - r["left"] for r in running]
        context = max(contexts) if over.prices.to_longest else sum(contexts) / len(running)
        confidence = None if drawn.confidence is None else drawn.confidence[rows]
        price = over.prices.round_s(len(running), context)
        view = StepView(len(running), gamma, confidence, drawn.survival[rows], past, price)
        lengths = over.policy.choose(view) if drawn.proposed is None else within_proposals(view, over, running, rows)
        price = view.round_s
        start, now = now, now + float(price[lengths.sum()])
        accepted = committed = 0
        size, verified = len(running), int(lengths.sum())
        for r, row, length in zip(running, rows, lengths.tolist(), strict=True):
            taken = min(int(drawn.accepted[row]), length)
            r["seen"].append(row)
            accepted += taken
            committed += min(taken + 1, r["left"])
            r["left"] -= min(taken + 1, r["left"])
            r["anchor"] += taken + 1
            if r["anchor"] >= len(r["texts"][r["text"]]):
                r["text"], r["anchor"] = r["text"] + 1, 0
            if r["left"] == 0:
                stamps[r["spec"].index] = (r["first"], now)
        for slot in reversed(range(size)):  # ties go by slot: the last takes the place of who leaves
            if running[slot]["left"] == 0:
                running[slot] = running[-1]
                running.pop()
        steps.append((start, now, size, verified, accepted, committed))
    return steps, stamps


def within_proposals(view: StepView, over: Fleet, running: list[dict[str, Any]], rows: list[int]) -> Any:
    """Lengths of a rule that sees what is proposed, where drafting is paid for the requests that propose; puts the price into the view."""
    proposed, size = over.replay.proposed, len(running)
    assert proposed is not None
    view.proposed = proposed[rows]
    view.lagged_proposed = [
        np.array([proposed[r["seen"][-back]] if len(r["seen"]) >= back else view.gamma for r in running]) for back in (1, 2)[: over.policy.lag_steps]
    ]
    slots, drafting = over.policy.drafted(size, view.gamma), sum(proposed[row] > 0 for row in rows)
    whole, paid = (DRAFT.seconds(n, 0.0, slots) if n else 0.0 for n in (size, drafting))
    view.round_s = view.round_s - whole + paid
    return np.array([min(length, proposed[row]) for length, row in zip(over.policy.choose(view), rows, strict=True)])


DRAFT = drafting(0.001, 0.0005, 0.0002)
POLICIES = [
    FixedLength(length=2), Threshold(threshold=0.6), ConfidenceScheduled(mode="synchronous"), ConfidenceScheduled(lag=0),
    ConfidenceScheduled(lag=1), ConfidenceScheduled(lag=2), ConfidenceScheduled(lag=2, min_length=1), Uniform(lag=2), Oracle(),
]  # fmt: skip


@settings(max_examples=120, deadline=None, derandomize=True)
@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 10_000), most=st.integers(1, 6), count=st.integers(1, 20))
def test_the_engine_is_the_plain_loop(engine: Engine, policy: Any, seed: int, most: int, count: int) -> None:
    luck = np.random.default_rng(seed)
    gamma = int(luck.integers(1, 5))
    accepted = [luck.integers(0, gamma + 1, luck.integers(1, 7)).tolist() for _ in range(6)]
    confidence = luck.uniform(0.1, 0.99, (sum(map(len, accepted)), gamma))
    recorded = blocks(accepted, gamma, confidence, ["a", "a", "b", "b", "b", "a"])
    recorded = recorded.proposing(luck.integers(0, gamma + 1, recorded.rows)) if seed % 3 else recorded
    drawn = replay(recorded, seed, clairvoyant=policy.clairvoyant)
    price = costs(0.01, 0.002, 3e-5, 0.001, cliffs=[(5, 0.004)], contexts="longest" if seed % 2 else "mean")
    over = fleet(price, policy, drawn, DRAFT, max_batch=most)
    at = np.cumsum(luck.exponential(0.05, count))
    specs = [
        RequestSpec(i, float(s), int(luck.integers(1, 50)), int(luck.integers(1, 20)), str(luck.choice(["a", "b", ""]))) for i, s in enumerate(at)
    ]
    run = engine.run(open_traffic(specs), over)
    steps, stamps = plain(specs, over)
    found = [run.steps[name] for name in ("start_s", "end_s", "requests", "verified", "accepted", "committed")]
    np.testing.assert_allclose(np.array(found).T, np.array(steps).reshape(-1, 6), rtol=1e-12)
    for request in run.requests:
        np.testing.assert_allclose((request.first_token_s, request.finish_s), stamps[request.spec.index], rtol=1e-12)

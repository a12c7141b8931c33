"""When does speculation pay, and how long a fixed block is best? In the mean: batches of R, no queue, no prompts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.prices import RoundCost
from simulator.measurements.statistics import visited_rows
from simulator.study.planning.changes import moved_acceptance
from simulator.study.planning.question import Plan
from simulator.study.planning.result import BreakEven, BreakEvenCurve

ACCEPTANCE = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)  # times the conditional acceptance of the profile
SIZES = 12


def break_even(plan: Plan, cell: int) -> BreakEven | None:
    """For one cell's profile and drafter: best fixed length by batch size, what it gains over no drafting, and the batch size from which
    nothing is gained, by acceptance. None where the cell drafts nothing."""
    scenario = plan.choices[cell].scenario
    name, known = scenario.policies[0].drafter, scenario.known
    if name is None:
        return None
    blocks, drafter = known.blocks(name), known.drafter(name)
    context = plan.shape.mean_prompt + plan.shape.mean_output / 2
    sizes = np.unique(np.geomspace(1, scenario.engine.max_batch, SIZES).round().astype(int)).tolist()
    lengths = range(1, blocks.gamma + 1)
    plain = RoundCost(known.costs, None, 0, 0)
    alone = [1 / float(plain.round_s(n, context)[0]) for n in sizes]
    seconds = {k: RoundCost(known.costs, drafter.draft, blocks.gamma, k) for k in lengths}
    curves = []
    for factor in ACCEPTANCE:
        moved = blocks if factor == 1 else moved_acceptance(blocks, factor)
        tokens = {k: accepted_length(moved, k, scenario.workload.domains) for k in lengths}
        best, gain = [], []
        for n, nothing in zip(sizes, alone, strict=True):
            tps = {0: nothing} | {k: tokens[k] / mean_round_s(seconds[k], n, context, moved) for k in lengths}
            k = max(tps, key=tps.__getitem__)
            best.append(k)
            gain.append(tps[k] / nothing - 1)
        stops = next((n for n, k in zip(sizes, best, strict=True) if k == 0), None)
        curves.append(BreakEvenCurve(acceptance=factor, best_length=tuple(best), gain=tuple(gain), stops_at=stops))
    return BreakEven(profile=known.name, drafter=name, batch=tuple(sizes), tps_without=tuple(alone), curves=tuple(curves))


def mean_round_s(price: RoundCost, requests: int, context_tokens: float, blocks: RecordedBlocks) -> float:
    """Seconds of a round of `requests` requests that verify all `price.slots` tokens, or what is proposed of them: in the mean over the anchors
    that such a run visits."""
    round_s, length = price.round_s(requests, context_tokens), price.slots
    if blocks.proposed is None or price.draft is None:
        return float(round_s[requests * length])
    proposed = blocks.proposed[visited_rows(blocks, np.full(blocks.rows, length))]
    share, sent = float((proposed > 0).mean()), float(np.minimum(proposed, length).mean())
    anybody = 1 - (1 - share) ** requests  # in how many rounds drafting is paid at all
    paid_s = anybody * price.draft.seconds(requests * share / anybody, context_tokens, length) if anybody else 0.0
    return float(np.interp(requests * sent, np.arange(len(round_s)), round_s)) - price.draft_s(requests, context_tokens) + paid_s


def accepted_length(blocks: RecordedBlocks, length: int, mix: Mapping[str, float] | None = None) -> float:
    """Tokens a round, bonus included, when `length` drafted tokens are verified each time: over the anchors that such a run visits, walking
    every recorded sequence from its start. Domains by their weight among requests, which all have as many tokens to make: where fewer are
    accepted, requests stay for more rounds, so the mean over rounds is harmonic."""
    mix = mix or {"": 1.0}
    return sum(mix.values()) / sum(weight / _walked(blocks, length, domain) for domain, weight in mix.items())


def _walked(blocks: RecordedBlocks, length: int, domain: str) -> float:
    sequences = blocks.sequences_of(domain)
    at, end = blocks.first_row[sequences].copy(), blocks.first_row[sequences] + blocks.length[sequences]
    tokens = rounds = 0
    while len(at):
        advance = np.minimum(blocks.accepted[at], length) + 1
        tokens += int(advance.sum())
        rounds += len(at)
        at = at + advance
        at, end = at[at < end], end[at < end]
    return tokens / rounds

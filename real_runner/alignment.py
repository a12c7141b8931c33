"""Does a drafter sit right on its target? Taps, slots and rotary positions that are off by one crash nothing, they cost acceptance.

The measure is paired and has little noise: at the same anchors of the same texts, how much the drafter's law overlaps the target's, slot by slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from real_runner.drafters.drafter import DraftBatch, Drafter, forced
from real_runner.drafters.layers import widened
from real_runner.layout import lay_out, ship
from real_runner.target import Target
from simulator.arrays import Floats
from simulator.measurements.drafters.spec import POST_NORM, DraftSpec

FIRST_ANCHOR, STRIDE = 4, 3


def shifts(spec: DraftSpec, target: Target) -> Iterator[tuple[str, DraftSpec]]:
    """Specs that are wrong by one if this one is right, and the other way round."""
    if spec.taps != (POST_NORM,):
        for by in (-1, 1):
            taps = tuple(tap + by for tap in spec.taps)
            if min(taps) >= -1 and max(taps) < target.layers:
                yield f"taps {by:+d}", replace(spec, taps=taps)
    if spec.one_by_one:
        return
    for by in (-1, 1):
        if 0 <= spec.first_slot + by < spec.block:
            yield f"slot {by:+d}", replace(spec, first_slot=spec.first_slot + by, gamma=spec.gamma - by)
        yield f"rotary position {by:+d}", replace(spec, rope_shift=spec.rope_shift + by)


@contextmanager
def worn(drafter: Drafter, spec: DraftSpec) -> Iterator[None]:
    """The drafter behaving by another spec for a while; the weights are the same."""
    before = drafter.spec
    try:
        drafter.spec, drafter.taps, drafter.gamma = spec, spec.taps, spec.gamma
        yield
    finally:
        drafter.spec, drafter.taps, drafter.gamma = before, before.taps, before.gamma


@torch.no_grad()
def overlaps(target: Target, drafter: Drafter, texts: list[list[int]]) -> Floats:
    """Σ_v min(p, q) of each slot at anchors along the texts, the tokens before it given: P(accepted | accepted so far)  # [texts, anchors, γ]."""
    length = min(len(text) for text in texts)
    ids = torch.tensor([text[:length] for text in texts], device=target.device)
    count, gamma, room = len(texts), drafter.gamma, length + 2 * (drafter.gamma + drafter.spec.block)
    slots = np.arange(count)
    layout = lay_out(slots, np.full(count, length), length, (count, room), None)
    ints, where = ship(layout.ints, target.device), ship(slots, target.device)
    start = torch.zeros(count + 1, dtype=torch.long, device=target.device)
    target.tap(drafter.taps)
    target.allocate(count, room)
    seen = target.step(ids.reshape(-1), layout.flat(ints, start))
    law = torch.softmax(seen.logits.float(), dim=-1).view(count, length, -1)
    drafter.allocate(count, room)
    following = torch.cat([ids[:, 1:], ids[:, :1]], dim=1).reshape(-1)
    seeds = drafter.extend(seen.features, following, ints, layout, start)
    overlap = []
    for at in range(length - gamma - 1, FIRST_ANCHOR - 1, -STRIDE):  # backwards: a block overwrites the context from its anchor on
        start[:count] = at
        if seeds is not None:
            drafter.seeds[:count] = seeds.view(count, length, -1)[:, at - 1]
        layout = drafter.lay_out(slots, at, cache=(count, room), tiers=None)
        anchor = torch.cat([ids[:, at], ids[:1, at]])
        batch = DraftBatch(ship(layout.ints, target.device), layout, where, start, anchor)
        logits = forced(drafter.steps(drafter.begin(batch), batch, gamma), ids[:, at : at + gamma])[0]
        own = widened(torch.softmax(logits.float(), dim=-1), drafter.d2t, drafter.spec.vocabulary)
        overlap.append(torch.minimum(own, law[:, at : at + gamma]).sum(dim=-1).double().cpu().numpy())
    return np.stack(overlap, axis=1)


def expected_length(overlap: Floats, slots: int) -> Floats:
    """Expected committed tokens of a round that verifies `slots`, mean over the anchors of each text  # [texts]."""
    return 1.0 + overlap[:, :, :slots].cumprod(axis=2).sum(axis=2).mean(axis=1)

"""What every drafter is: a module with a KV cache of its own, and the one loop that drafts.

A subclass says how drafting begins (`begin`) and what its steps are (`steps`). Whoever drafts sends the tokens: the engine those it samples, recorded
blocks the coupled ones, checks and training the text's. Replay is exact because all of them run the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from real_runner.drafters.layers import backbone, choose
from real_runner.layout import Layout, lay_out, ship
from real_runner.slots import SlotCache
from simulator.arrays import Integers
from simulator.measurements.drafters.spec import DraftSpec

Steps = Generator[Tensor, Tensor, Tensor | None]
"""Yields the draft logits of each slot [R, draft V], receives its tokens [R]; returns all slots' confidence logits [R, n], None without a head."""


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """Requests that draft: from `anchor` at position `start`, both by slot of the cache; `layout` says where the drafted tokens go."""

    ints: Tensor  # [3, B] of the layout
    layout: Layout
    slots: Tensor  # [R]
    start: Tensor  # [slots + 1]
    anchor: Tensor  # [slots + 1]


@dataclass(slots=True)
class Proposal:
    """Drafted tokens of R requests, γ each at most."""

    tokens: Tensor  # [R, γ]
    probabilities: Tensor | None  # [R, γ, V] of the drafter, at temperature > 0
    confidence: Tensor | None  # [R, γ] logits: P(slot accepted | slots before it accepted) before the sigmoid


class Drafter(nn.Module):
    """Drafts for all requests at once. Its KV cache has a row per slot, as the target's."""

    cache: type[SlotCache] = SlotCache

    def __init__(self, spec: DraftSpec) -> None:
        super().__init__()
        self.spec, self.taps, self.gamma = spec, spec.taps, spec.gamma
        self.backbone: Any = self.make_backbone()
        self.lm_head = nn.Linear(spec.hidden, spec.draft_vocabulary or spec.vocabulary, bias=False)
        self.d2t: Tensor | None = None  # [draft V] ids of the target's vocabulary
        self.kv: SlotCache | None = None
        self.seeds = torch.empty(0)  # [slots + 1, d] hidden states from which a chain drafts its first token

    def make_backbone(self) -> Any:
        """Its empty layers."""
        return backbone(self.spec.backbone, self.spec.folder / "config.json")

    def lay_out(self, slots: Integers, reach: int, **how: Any) -> Layout:
        """The tokens of one drafting of the requests in `slots` [R]: a block at once, or one that goes on for γ steps."""
        block = self.spec.block
        return lay_out(slots, slots * 0 + block, reach + max(block, self.gamma), width=block, **how)

    def extend(self, features: Tensor, next_ids: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> Tensor | None:
        """Takes the target's features [B, m·d] into the cache; `next_ids` [B] follow each token. A chain's seeds after each of them  # [B, d]."""
        raise NotImplementedError

    def begin(self, batch: DraftBatch) -> Tensor:
        """Hidden states that the steps start from: of all slots [R, γ, d] for a block, of the first [R, d] for a chain."""
        raise NotImplementedError

    def base_logits(self, hidden: Tensor) -> Tensor:
        """Draft logits of hidden states, before a sequential head  # [..., draft V]."""
        raise NotImplementedError

    def steps(self, hidden: Tensor, batch: DraftBatch, count: int) -> Steps:
        """`count` slots from the hidden states of `begin`, each conditioned on the token received for the one before."""
        raise NotImplementedError

    def steps_along(self, ids: Tensor, features: Tensor, anchors: Tensor, count: int) -> Steps:
        """As `steps`, for training: at `anchors` [A] (positions in `ids` [L]) of one text, from `features` [L, m·d] of every token before each
        anchor; with gradients and without a cache."""
        raise NotImplementedError

    def allocate(self, slots: int, length: int) -> None:
        """Rows for `slots` requests, by one step that shows what each layer keeps."""
        weight = self.lm_head.weight
        self.kv = self.cache(slots, length, weight.device, weight.dtype)
        layout = lay_out(np.array([slots]), np.array([1]), 1, (slots, length), None)
        start = torch.zeros(slots + 1, dtype=torch.long, device=weight.device)
        features = weight.new_zeros(1, len(self.taps) * self.spec.hidden)
        if self.extend(features, start[:1], ship(layout.ints, weight.device), layout, start) is not None:
            self.seeds = weight.new_zeros(slots + 1, self.spec.hidden)

    def move(self, slot: int, into: int) -> None:
        """Takes the request of a slot to another that is free."""
        if self.kv is not None:
            self.kv.move(slot, into)
        if len(self.seeds):
            self.seeds[into] = self.seeds[slot]

    @torch.no_grad()
    def absorb(self, features: Tensor, next_ids: Tensor, last: Tensor, slots: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> None:
        """As `extend`; the requests in `slots` [R] will draft from after the rows `last` [R]."""
        seeds = self.extend(features, next_ids, ints, layout, start)
        if seeds is not None:
            self.seeds[slots] = seeds[last]

    @torch.no_grad()
    def propose(self, batch: DraftBatch, temperature: float, draws: Tensor) -> Proposal:
        """Draws n ≤ γ tokens for each request; `draws` [R, n] uniform."""
        return self.sample(self.begin(batch), batch, temperature, draws)

    @torch.no_grad()
    def sample(self, hidden: Tensor, batch: DraftBatch, temperature: float, draws: Tensor) -> Proposal:
        """`propose` from the hidden states of `begin` on."""
        laws: list[Tensor] = []

        def sampled(logits: Tensor, slot: int) -> Tensor:
            token, law = choose(logits, temperature, draws[:, slot], self.d2t, self.spec.vocabulary)
            if law is not None:
                laws.append(law)
            return token

        tokens, confidence = draft(self.steps(hidden, batch, draws.shape[1]), sampled)
        return Proposal(tokens, torch.stack(laws, dim=1) if laws else None, confidence)


def draft(steps: Steps, token: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor | None]:
    """Tokens that `token` makes of the draft logits [R, draft V] of each slot, and the confidence logits  # [R, n] each."""
    tokens: list[Tensor] = []
    try:
        logits = next(steps)
        while True:
            tokens.append(token(logits, len(tokens)))
            logits = steps.send(tokens[-1])
    except StopIteration as end:
        return torch.stack(tokens, dim=1), end.value


def forced(steps: Steps, previous: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits [R, n, draft V] and confidence logits [R, n] of n steps where `previous` [R, n] stands before each slot, the anchor first."""
    each: list[Tensor] = []

    def follow(logits: Tensor, slot: int) -> Tensor:
        each.append(logits)
        return previous[:, min(slot + 1, previous.shape[1] - 1)]

    confidence = draft(steps, follow)[1]
    return torch.stack(each, dim=1), confidence

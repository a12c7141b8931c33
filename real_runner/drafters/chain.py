"""Drafters that go token by token: each step feeds its own hidden state and the token just drawn (Eagle3, MTP)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from real_runner.drafters.layers import backbone, choose, rotary
from real_runner.drafters.spec import DraftSpec, Proposal
from real_runner.layout import Ints, Layout, lay_out
from real_runner.slots import FlatBatch, SlotCache


class ChainDrafter(nn.Module):
    """Pairs the target's hidden state of token i with token i+1 at position i (format §4, Eagle3 forward).

    A subclass says how the target's features become hidden states (`feature`) and how a token and a hidden state pass its layer (`pass_layer`).
    """

    def __init__(self, spec: DraftSpec) -> None:
        super().__init__()
        self.spec, self.taps, self.gamma = spec, spec.taps, spec.gamma
        self.backbone: Any = backbone(spec.backbone, spec.folder / "config.json")
        self.lm_head = nn.Linear(spec.hidden, spec.draft_vocabulary or spec.vocabulary, bias=False)
        self.d2t: Tensor | None = None
        self.kv: SlotCache | None = None
        self.seeds = torch.empty(0)  # [slots + 1, d] hidden state from which each request's first token is drafted

    def feature(self, features: Tensor) -> Tensor:
        """Target features [B, m·d] -> hidden states [B, d]."""
        raise NotImplementedError

    def pass_layer(self, embedded: Tensor, hidden: Tensor, where: dict[str, Any]) -> Tensor:
        """Embedded tokens and hidden states [1, B, d] -> hidden states [1, B, d] before the final norm."""
        raise NotImplementedError

    def allocate(self, slots: int, length: int) -> None:
        """Rows for `slots` requests."""
        weight = self.lm_head.weight
        self.kv = SlotCache(slots, length, weight.device, weight.dtype)
        self.seeds = weight.new_zeros(slots + 1, self.spec.hidden)
        zero = torch.zeros(1, dtype=torch.long, device=weight.device)
        self.forward(zero, self.seeds[:1], FlatBatch(zero + slots, zero, zero + 1, zero, slice(slots, slots + 1), 1, 1, 1))

    def lay_out(self, slots: Ints, reach: int, **how: Any) -> Layout:
        return lay_out(slots, slots * 0 + 1, reach + self.gamma, width=1, **how)

    def forward(self, ids: Tensor, hidden: Tensor, flat: FlatBatch) -> Tensor:
        """Tokens [B] with hidden states [B, d] -> hidden states [B, d]."""
        hidden = hidden.unsqueeze(0)
        where = {"position_embeddings": rotary(self.backbone, hidden, flat.positions), "attention_mask": None, "flat": flat, "kv": self.kv}
        return self.pass_layer(self.backbone.embed_tokens(ids).unsqueeze(0), hidden, where)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """[R, d] -> [R, draft V]."""
        return self.lm_head(self.backbone.norm(hidden))

    @torch.no_grad()
    def absorb(self, features: Tensor, next_ids: Tensor, last: Tensor, slots: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> None:
        """Extends the draft cache by a flat batch; the hidden states at the rows `last` [R] are the next seeds."""
        self.seeds[slots] = self.forward(next_ids, self.feature(features), layout.flat(ints, start))[last]

    @torch.no_grad()
    def propose(self, ints: Tensor, layout: Layout, slots: Tensor, start: Tensor, anchor: Tensor, temperature: float, luck: Tensor) -> Proposal:
        hidden, tokens, laws = self.seeds[slots], [], []
        for slot in range(luck.shape[1]):
            token, law = choose(self.logits(hidden), temperature, luck[:, slot], self.d2t, self.spec.vocabulary)
            tokens.append(token)
            laws.append(law)
            if slot + 1 < luck.shape[1]:
                flat = layout.flat(ints, start + slot)
                padding = ints.shape[1] - len(slots)
                grown = nn.functional.pad(hidden, (0, 0, 0, padding))
                hidden = self.forward(nn.functional.pad(token, (0, padding)), grown, flat)[: len(slots)]
        return Proposal(torch.stack(tokens, dim=1), torch.stack(laws, dim=1) if laws[0] is not None else None, None)

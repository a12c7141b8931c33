"""Drafters that go token by token: each step feeds its own hidden state and the token just drawn (Eagle3, MTP)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from real_runner.drafters.drafter import DraftBatch, Drafter, Steps
from real_runner.drafters.layers import key_value_of, query_of, rotary, turn
from real_runner.drafters.uncached import attend
from real_runner.layout import Layout
from real_runner.slots import FlatBatch


class ChainDrafter(Drafter):
    """One decoder layer that pairs the target's hidden state of token i with token i+1 at position i (format §4, Eagle3 forward).

    A subclass says how the target's features become hidden states (`feature`) and what a token and a hidden state are to the layer (`enter`).
    """

    def feature(self, features: Tensor) -> Tensor:
        """Target features [B, m·d] -> hidden states [B, d]."""
        raise NotImplementedError

    def enter(self, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer's attention reads and what its residual is, of embedded tokens and hidden states [..., d]."""
        raise NotImplementedError

    def leave(self, residual: Tensor, attended: Tensor) -> Tensor:
        """Hidden states before the final norm, of what `enter` and the attention gave  # [..., d]."""
        layer = self.backbone.layers[0]
        hidden = residual + attended
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def forward(self, ids: Tensor, hidden: Tensor, flat: FlatBatch) -> Tensor:
        """Tokens [B] with hidden states [B, d] -> hidden states [B, d]."""
        hidden = hidden.unsqueeze(0)
        where = {"position_embeddings": rotary(self.backbone, hidden, flat.positions), "attention_mask": None, "flat": flat, "kv": self.kv}
        inputs, residual = self.enter(self.backbone.embed_tokens(ids).unsqueeze(0), hidden)
        attended, _ = self.backbone.layers[0].self_attn(inputs, **where)
        return self.leave(residual, attended)[0]

    def extend(self, features: Tensor, next_ids: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> Tensor:
        return self.forward(next_ids, self.feature(features), layout.flat(ints, start))

    def begin(self, batch: DraftBatch) -> Tensor:
        return self.seeds[batch.slots]

    def base_logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(self.backbone.norm(hidden))

    def steps(self, hidden: Tensor, batch: DraftBatch, count: int) -> Steps:
        requests = len(batch.slots)
        padding = batch.ints.shape[1] - requests

        def onward(token: Tensor, hidden: Tensor, slot: int) -> Tensor:
            flat = batch.layout.flat(batch.ints, batch.start + slot)
            return self.forward(nn.functional.pad(token, (0, padding)), nn.functional.pad(hidden, (0, 0, 0, padding)), flat)[:requests]

        return self._chained(hidden, onward, count)

    def steps_along(self, ids: Tensor, features: Tensor, anchors: Tensor, count: int) -> Steps:
        model, attention = self.backbone, self.backbone.layers[0].self_attn
        rows, at = torch.arange(len(ids) - 1, device=ids.device), anchors - 1  # the row before the anchor has read it: it is the first step
        inputs, residual = self.enter(model.embed_tokens(ids[1:]).to(features.dtype), self.feature(features[:-1]))
        turned = turn(model, inputs, rows)
        query, context = query_of(attention, inputs, turned), key_value_of(attention, inputs, turned)
        before = rows <= at.unsqueeze(1)  # [A, L-1]: the row itself too
        own: list[tuple[Tensor, Tensor]] = []

        def passed(query: Tensor, residual: Tensor) -> Tensor:
            keys, values = zip(*own, strict=True) if own else ((), ())
            beside = (torch.stack(keys, 1), torch.stack(values, 1)) if own else None
            seen = attend(attention, query.unsqueeze(1), context, before, beside)
            return self.leave(residual, attention.o_proj(seen.reshape(len(at), -1)))

        def onward(token: Tensor, hidden: Tensor, slot: int) -> Tensor:
            inputs, residual = self.enter(model.embed_tokens(token).to(features.dtype), hidden)
            turned = turn(model, inputs, at + slot + 1)
            query = query_of(attention, inputs, turned)
            own.append(key_value_of(attention, inputs, turned))
            return passed(query, residual)

        return self._chained(passed(query[at], residual[at]), onward, count)

    def _chained(self, hidden: Tensor, onward: Callable[[Tensor, Tensor, int], Tensor], count: int) -> Steps:
        """The steps, where `onward` takes a slot's token [R] and hidden states [R, d] to the next slot's hidden states."""
        for slot in range(count - 1):
            token = yield self.base_logits(hidden)
            hidden = onward(token, hidden, slot)
        yield self.base_logits(hidden)
        return None

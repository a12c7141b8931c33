"""DSpark and DFlash: a block drafted in parallel, with the target's features injected as keys and values; a sequential head on top (format §4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from real_runner.drafters.drafter import DraftBatch, Drafter, Steps
from real_runner.drafters.heads import ConfidenceHead, MarkovHead
from real_runner.drafters.layers import key_value_of, like_norm, query_of, run_layers, turn
from real_runner.drafters.uncached import attend
from real_runner.layout import Layout
from real_runner.target import soft_capped
from simulator.measurements.drafters.spec import DraftSpec


class BlockDrafter(Drafter):
    """DFlash is the one without Markov and confidence heads."""

    def __init__(self, spec: DraftSpec) -> None:
        super().__init__(spec)
        hidden = spec.hidden
        self.fc = nn.Linear(len(spec.taps) * hidden, hidden, bias=False)
        self.hidden_norm = like_norm(self.backbone, hidden)
        head = spec.draft_vocabulary or spec.vocabulary
        self.markov_head = MarkovHead(spec.markov_kind, spec.markov_rank, hidden, spec.vocabulary, head) if spec.markov_rank else None
        width = hidden + (spec.markov_rank if spec.confidence == "hidden+token" else 0)
        self.confidence_head = ConfidenceHead(width) if spec.confidence != "none" else None
        self.requires_grad_(False)

    def make_backbone(self) -> Any:
        model = super().make_backbone()
        for i, layer in enumerate(model.layers):
            layer.self_attn.sliding_window = self.spec.windows[i] if self.spec.windows else None  # whatever the inherited config says
        return model

    def extend(self, features: Tensor, next_ids: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> None:
        """Features as keys and values of each layer: they make no queries and pass no MLP (format §4). `next_ids` do not matter here."""
        assert self.kv is not None, "allocate first"
        slots = ints[0]
        positions = start[slots] + ints[1]
        context = self.hidden_norm(self.fc(features))
        turned = turn(self.backbone, context, positions)
        for i, layer in enumerate(self.backbone.layers):
            self.kv.write(i, *key_value_of(layer.self_attn, context, turned), slots, positions)

    @torch.no_grad()
    def begin(self, batch: DraftBatch) -> Tensor:
        """Hidden states after the final norm of the slots that predict  # [R, γ, d]."""
        assert self.kv is not None, "allocate first"
        spec, count = self.spec, len(batch.slots)
        flat = batch.layout.flat(batch.ints, batch.start, None if spec.causal_block else spec.block)
        embedded = self.backbone.embed_tokens(self.block_ids(batch))
        hidden = run_layers(self.backbone, embedded, flat.positions + spec.rope_shift, flat, self.kv)
        return hidden[: count * spec.block].view(count, spec.block, -1)[:, spec.first_slot :]

    def block_ids(self, batch: DraftBatch) -> Tensor:
        """An anchor and mask tokens after it, for each request; mask tokens as padding  # [B]."""
        slots, spec = batch.slots, self.spec
        ids = torch.full((len(slots), spec.block), spec.mask_token, dtype=torch.long, device=slots.device)
        ids[:, 0] = batch.anchor[slots]
        return nn.functional.pad(ids.view(-1), (0, batch.ints.shape[1] - ids.numel()), value=spec.mask_token)

    def base_logits(self, hidden: Tensor) -> Tensor:
        """Capped before any bias is added  # [R, γ, draft V]."""
        return soft_capped(self.lm_head(hidden), self.backbone.config)

    def steps(self, hidden: Tensor, batch: DraftBatch, count: int) -> Steps:
        return self.head_steps(hidden, batch.anchor[batch.slots], count)

    def steps_along(self, ids: Tensor, features: Tensor, anchors: Tensor, count: int) -> Steps:
        spec, model = self.spec, self.backbone
        blocks, width = len(anchors), spec.block
        text, offsets = torch.arange(len(ids), device=ids.device), torch.arange(width, device=ids.device)
        block_ids = torch.full((blocks, width), spec.mask_token, device=ids.device)
        block_ids[:, 0] = ids[anchors]
        hidden = model.embed_tokens(block_ids.view(-1)).to(features.dtype)
        context = self.hidden_norm(self.fc(features))
        before = text < anchors.repeat_interleave(width).unsqueeze(1)  # [A·width, L]
        among = offsets <= offsets.unsqueeze(1) if spec.causal_block else torch.ones(width, width, dtype=torch.bool, device=ids.device)
        turned, turned_context = turn(model, hidden, (anchors.unsqueeze(1) + offsets).view(-1)), turn(model, context, text)
        for layer in model.layers:
            attention = layer.self_attn
            normed, around = layer.input_layernorm(hidden), key_value_of(attention, context, turned_context)
            query, key, value = (
                states.view(blocks, width, *states.shape[1:])
                for states in (query_of(attention, normed, turned), *key_value_of(attention, normed, turned))
            )
            seen = attend(attention, query, around, before, (key, value), among)
            hidden = hidden + attention.o_proj(seen.view(blocks * width, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        hidden = model.norm(hidden).view(blocks, width, -1)[:, spec.first_slot :]
        return self.head_steps(hidden, ids[anchors], count)

    def head_steps(self, hidden: Tensor, anchors: Tensor, count: int) -> Steps:
        """The sequential head over hidden states [R, γ, d], from the anchors [R] on."""
        if count < hidden.shape[1] or not hidden.is_contiguous():  # a strided view of bfloat16 takes a path 10 to 60 times slower on a CPU
            hidden = hidden[:, :count].clone(memory_format=torch.contiguous_format)
        base, head = self.base_logits(hidden), self.markov_head
        state = None if head is None else head.begin(hidden[:, 0])
        tokens = [anchors]
        for slot in range(count):
            logits = base[:, slot]
            if head is not None and state is not None:
                bias, state = head.step(hidden[:, slot], head.markov_w1(tokens[-1]), state)
                logits = logits + bias
            tokens.append((yield logits))
        if self.confidence_head is None:
            return None
        with_token = self.spec.confidence == "hidden+token" and head is not None
        return self.confidence_head(hidden, head.markov_w1(torch.stack(tokens[:-1], dim=1)) if with_token else None)

"""DSpark and DFlash: a block drafted in parallel, with the target's features injected as keys and values; a sequential head on top (format §4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from real_runner.drafters.heads import ConfidenceHead, MarkovHead
from real_runner.drafters.layers import backbone, choose, inject, like_norm, rotary, run_layers, soft_capped
from real_runner.drafters.spec import DraftSpec, Proposal
from real_runner.layout import Ints, Layout, lay_out
from real_runner.slots import SlotCache


class BlockDrafter(nn.Module):
    """DFlash is the one without Markov and confidence heads."""

    def __init__(self, spec: DraftSpec) -> None:
        super().__init__()
        self.spec, self.taps, self.gamma = spec, spec.taps, spec.gamma
        self.backbone: Any = backbone(spec.backbone, spec.folder / "config.json")
        hidden = spec.hidden
        head = spec.draft_vocabulary or spec.vocabulary
        self.fc = nn.Linear(len(spec.taps) * hidden, hidden, bias=False)
        self.hidden_norm = like_norm(self.backbone, hidden)
        self.lm_head = nn.Linear(hidden, head, bias=False)
        self.markov_head = MarkovHead(spec.markov_kind, spec.markov_rank, hidden, spec.vocabulary, head) if spec.markov_rank else None
        width = hidden + (spec.markov_rank if spec.confidence == "hidden+token" else 0)
        self.confidence_head = ConfidenceHead(width) if spec.confidence != "none" else None
        self.d2t: Tensor | None = None  # [draft V] ids of the target's vocabulary
        self.kv: SlotCache | None = None
        for i, layer in enumerate(self.backbone.layers):
            layer.self_attn.sliding_window = spec.windows[i] if spec.windows else None  # the packaging's, whatever the inherited config says
        self.requires_grad_(False)

    def allocate(self, slots: int, length: int) -> None:
        """Rows for `slots` requests."""
        weight = self.fc.weight
        self.kv = SlotCache(slots, length, weight.device, weight.dtype)
        zero = torch.zeros(1, dtype=torch.long, device=weight.device)
        self._inject(weight.new_zeros(1, self.fc.in_features), zero + slots, zero)

    def lay_out(self, slots: Ints, reach: int, **how: Any) -> Layout:
        block = self.spec.block
        return lay_out(slots, slots * 0 + block, reach + block, width=block, **how)

    @torch.no_grad()
    def absorb(self, features: Tensor, next_ids: Tensor, last: Tensor, slots: Tensor, ints: Tensor, layout: Layout, start: Tensor) -> None:
        """Features [B, m·d] as context; what follows each token does not matter to a block drafter."""
        self._inject(features, ints[0], start[ints[0]] + ints[1])

    def _inject(self, features: Tensor, slots: Tensor, positions: Tensor) -> None:
        assert self.kv is not None, "allocate first"
        context = self.hidden_norm(self.fc(features)).unsqueeze(0)
        cos, sin = rotary(self.backbone, context, positions)
        for layer in self.backbone.layers:
            inject(layer.self_attn, context, cos, sin, self.kv, slots, positions)

    @torch.no_grad()
    def block(self, ints: Tensor, layout: Layout, slots: Tensor, start: Tensor, anchor: Tensor) -> Tensor:
        """Hidden states after the final norm of the slots that predict  # [R, γ, d]."""
        assert self.kv is not None, "allocate first"
        ids = torch.full((len(slots), self.spec.block), self.spec.mask_token, dtype=torch.long, device=slots.device)
        ids[:, 0] = anchor[slots]
        flat_ids = torch.nn.functional.pad(ids.view(-1), (0, ints.shape[1] - ids.numel()), value=self.spec.mask_token)
        flat = layout.flat(ints, start, None if self.spec.causal_block else self.spec.block)
        rope = flat.positions + self.spec.rope_shift
        hidden = run_layers(self.backbone, self.backbone.embed_tokens(flat_ids), rope, flat, self.kv)
        return hidden[: ids.numel()].view(len(slots), self.spec.block, -1)[:, self.spec.first_slot :]

    def base_logits(self, hidden: Tensor) -> Tensor:
        """Capped before any bias is added  # [R, γ, draft V]."""
        return soft_capped(self.lm_head(hidden), getattr(self.backbone.config, "final_logit_softcapping", None))

    def forced(self, hidden: Tensor, previous: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [R, γ, V] and confidence logits [R, γ] given the previous token of each slot [R, γ]."""
        logits = self.base_logits(hidden)
        if self.markov_head is None:
            return logits, self._confidence(hidden, previous)
        embedded, state, biases = self.markov_head.markov_w1(previous), self.markov_head.begin(hidden[:, 0]), []
        for slot in range(hidden.shape[1]):
            bias, state = self.markov_head.step(hidden[:, slot], embedded[:, slot], state)
            biases.append(bias)
        return logits + torch.stack(biases, dim=1), self._confidence(hidden, previous)

    def _confidence(self, hidden: Tensor, previous: Tensor) -> Tensor | None:
        if self.confidence_head is None:
            return None
        with_token = self.spec.confidence == "hidden+token" and self.markov_head is not None
        return self.confidence_head(hidden, self.markov_head.markov_w1(previous) if with_token else None)

    @torch.no_grad()
    def sequence(self, hidden: Tensor, anchors: Tensor, temperature: float, luck: Tensor) -> Proposal:
        """The sequential head: slot by slot, each conditioned on the token drawn before it. `hidden` [R, γ, d], `anchors` [R], `luck` [R, n]."""
        if luck.shape[1] < hidden.shape[1] or not hidden.is_contiguous():  # a strided view of bfloat16 takes a path 10 to 60 times slower on a CPU
            hidden = hidden[:, : luck.shape[1]].clone(memory_format=torch.contiguous_format)
        base = self.base_logits(hidden)
        state = None if self.markov_head is None else self.markov_head.begin(hidden[:, 0])
        previous, tokens, laws = anchors, [], []
        for slot in range(luck.shape[1]):
            logits = base[:, slot]
            if self.markov_head is not None and state is not None:
                bias, state = self.markov_head.step(hidden[:, slot], self.markov_head.markov_w1(previous), state)
                logits = logits + bias
            previous, law = choose(logits, temperature, luck[:, slot], self.d2t, self.spec.vocabulary)
            tokens.append(previous)
            laws.append(law)
        drafted = torch.stack(tokens, dim=1)
        confidence = self._confidence(hidden, torch.cat([anchors.unsqueeze(1), drafted[:, :-1]], dim=1))
        return Proposal(drafted, torch.stack(laws, dim=1) if laws[0] is not None else None, confidence)

    @torch.no_grad()
    def propose(self, ints: Tensor, layout: Layout, slots: Tensor, start: Tensor, anchor: Tensor, temperature: float, luck: Tensor) -> Proposal:
        return self.sequence(self.block(ints, layout, slots, start, anchor), anchor[slots], temperature, luck)

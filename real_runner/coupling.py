"""The draw that couples drafted tokens with a text the target said (spec of recorded blocks, §2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from real_runner import sampling

LEAST = float(np.finfo(np.float32).tiny)


@dataclass(slots=True)
class Scored:
    """T texts as the target sees them, with γ - 1 tokens more. `tokens` [T, W] outputs; of text t the first `known[t]` can be committed;
    `logits` [rows, V] with row `row[t, j]` for what follows token j, and `norm` [rows] their logsumexp at a temperature above 0."""

    tokens: Tensor
    known: Tensor
    logits: Tensor
    norm: Tensor
    row: Tensor


def acceptance(target: Tensor, draft: Tensor) -> Tensor:
    """P(the drafted token is accepted | the committed one), given the committed one's probability under target and draft: min(1, d / p)  # [...]."""
    return (draft / target.clamp(min=LEAST)).clamp(max=1.0)


class Coupling:
    """The draw of spec §2 for C anchors, slot by slot: the drafted token given the text, and whether it is accepted."""

    def __init__(self, scored: Scored, text: Tensor, anchor: Tensor, temperature: float, draws: Tensor, d2t: Tensor | None) -> None:
        """Anchors [C] of the texts numbered `text` [C]; `draws` [C, γ, 2] uniform: acceptance, and the token where it is drawn."""
        self.scored, self.text, self.anchor, self.temperature, self.draws, self.d2t = scored, text, anchor, temperature, draws, d2t
        self.live = torch.ones_like(text, dtype=torch.bool)  # [C] all accepted so far
        self.accepted = torch.zeros_like(text)
        self.acceptance = torch.full(draws.shape[:2], float("nan"), device=text.device)
        if d2t is not None:
            self._place = torch.full((scored.logits.shape[1],), -1, device=d2t.device).index_copy_(0, d2t, torch.arange(len(d2t), device=d2t.device))

    def draw(self, logits: Tensor, slot: int) -> Tensor:
        """Tokens [C] of the next slot, numbered `slot`, from draft logits [C, draft V]."""
        at = self.anchor + slot + 1
        committed, row = self.scored.tokens[self.text, at], self.scored.row[self.text, at - 1]
        open_ = self.live & (at < self.scored.known[self.text])
        if self.temperature < sampling.GREEDY_BELOW:
            best = logits.argmax(dim=-1)
            tokens = best if self.d2t is None else self.d2t[best]
            chance = (tokens == committed).float()
            taken = open_ & (tokens == committed)
        else:
            law = sampling.probabilities(logits, self.temperature)
            place = committed if self.d2t is None else self._place[committed]
            drafted = torch.where(place < 0, 0.0, law.gather(1, place.clamp(min=0).unsqueeze(1)).squeeze(1))
            wanted = (self.scored.logits[row, committed].float() / self.temperature - self.scored.norm[row]).exp()
            chance = acceptance(wanted, drafted)
            taken = open_ & (self.draws[:, slot, 0] < chance)
            tokens = torch.where(taken, committed, self._drawn(law, row, open_ & ~taken, self.draws[:, slot, 1]))
        self.acceptance[:, slot] = torch.where(self.live, torch.where(open_, chance, 0.0), float("nan"))
        self.accepted += taken
        self.live = taken
        return tokens

    def _drawn(self, law: Tensor, row: Tensor, rejected: Tensor, draws: Tensor) -> Tensor:
        """From the draft `law` [C, draft V], or what is left of it beyond the target's law where the draft is `rejected` [C]  # [C]."""
        weights = law.clone()
        at = rejected.nonzero().squeeze(1)
        if len(at):
            logits = self.scored.logits[row[at]]
            logits = logits if self.d2t is None else logits[:, self.d2t]
            p = (logits.float() / self.temperature - self.scored.norm[row[at]].unsqueeze(1)).exp()
            weights[at] = sampling.residual(law[at], p)
        drawn = sampling.draw(weights, draws)
        return drawn if self.d2t is None else self.d2t[drawn]

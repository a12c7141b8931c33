"""What a drafter is taught (checkpoint format §7): 0.1 cross entropy + 0.9 L1 of the laws + the confidence head's, slots weighted e^(-k/4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Recipe:
    """Weights of the terms and of the slots. DFlash: cross entropy alone; a chain: the target's law by cross entropy, 0.8 a step."""

    cross_entropy: float = 0.1
    law: float = 0.9
    soft: float = 0.0
    confidence: float = 1.0
    slot_decay: float = 0.7788007830714049  # e^(-1/4)


RECIPES = {
    "dspark": Recipe(),
    "dflash": Recipe(cross_entropy=1.0, law=0.0, confidence=0.0),
    "eagle3": Recipe(cross_entropy=0.0, law=0.0, soft=1.0, confidence=0.0, slot_decay=0.8),
    "mtp": Recipe(cross_entropy=0.0, law=0.0, soft=1.0, confidence=0.0, slot_decay=0.8),
}


def loss_of(recipe: Recipe, logits: Tensor, confidence: Tensor | None, law: Tensor, truth: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Loss, and the overlap Σ min(p, q) of each slot [A, γ].

    `logits` [A, γ, V'] of the drafter and `law` [A, γ, V'] of the target over the draft vocabulary; `truth` [A, γ] the text's token in it or -1;
    `known` [A, γ] slots before the text's end.
    """
    slots = torch.arange(logits.shape[1], device=logits.device)
    weight = recipe.slot_decay**slots * known
    logits = logits.float()
    log_q = functional.log_softmax(logits, dim=-1)
    q = log_q.exp()
    overlap = torch.minimum(law, q).sum(dim=-1)
    each = torch.zeros_like(overlap)
    if recipe.cross_entropy:
        each = each - recipe.cross_entropy * log_q.gather(-1, truth.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (truth >= 0)
    if recipe.law:
        each = each + recipe.law * (law - q).abs().sum(dim=-1)
    if recipe.soft:
        each = each - recipe.soft * (law * log_q).sum(dim=-1)
    if recipe.confidence and confidence is not None:
        each = each + recipe.confidence * functional.binary_cross_entropy_with_logits(
            confidence.float(), overlap.detach().clamp(0.0, 1.0), reduction="none"
        )
    return (each * weight).sum() / weight.sum().clamp(min=1.0), overlap.detach()


def expected_length(overlap: Tensor, known: Tensor) -> Tensor:
    """Expected committed tokens of a round at each anchor, bonus included, slots past the text's end counted as rejected  # [A]."""
    return 1.0 + (overlap * known).cumprod(dim=1).sum(dim=1)

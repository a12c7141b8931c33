"""Drawing tokens and accepting drafted ones: pure tensor functions, no host synchronisation.

Temperature 0 is exact: the distribution is the one-hot of the largest logit. Rule of acceptance: Leviathan et al. (2023), Chen et al. (2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5  # temperatures under this are 0 (checkpoint format, "Draft sampling")


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / T) in float32  # [..., V]."""
    return torch.softmax(logits.float() / temperature, dim=-1)


def draw(weights: Tensor, draws: Tensor) -> Tensor:
    """The token at which the running sum of `weights` [..., V] passes `draws` [...] in [0, 1) of its total: never one of weight zero  # [...]."""
    # A GPU adds in the order of a tree: in float32 the sum steps at tokens of weight zero now and then, in float64 by less than `draws` can resolve.
    running = weights.cumsum(dim=-1, dtype=torch.float64 if weights.is_cuda else None)
    total = running[..., -1:]
    at = torch.minimum(draws.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(running, at, right=True).squeeze(-1).clamp_(max=weights.shape[-1] - 1)


def accepts(target: Tensor, draft: Tensor, draws: Tensor) -> Tensor:
    """Is a drafted token taken, given its probability under target and draft: with probability min(1, p / q)  # [...] bool."""
    return draws * draft < target


def residual(target: Tensor, draft: Tensor) -> Tensor:
    """Weights of the token that replaces a rejected one: max(p - q, 0), or p where nothing is left of it  # [..., V]."""
    left = (target - draft).clamp_(min=0)
    return torch.where(left.sum(dim=-1, keepdim=True) > 1e-8, left, target)


def accepted_prefix(taken: Tensor, lengths: Tensor) -> Tensor:
    """How many of the `lengths` [R] verified tokens are taken before the first that is not, `taken` [R, γ] bool  # [R]."""
    slot = torch.arange(taken.shape[1], device=taken.device)
    return (taken & (slot < lengths.unsqueeze(1))).long().cumprod(dim=1).sum(dim=1)


def verify_greedy(logits: Tensor, drafted: Tensor, lengths: Tensor, row_of: Tensor) -> tuple[Tensor, Tensor]:
    """Temperature 0: accepted counts and the token after them. `logits` [B, V], `drafted` [R, γ], `row_of` [R, γ+1] rows of B  # [R], [R]."""
    best = logits.argmax(dim=-1)[row_of]  # [R, γ+1]
    accepted = accepted_prefix(best[:, :-1] == drafted, lengths)
    return accepted, best.gather(1, accepted.unsqueeze(1)).squeeze(1)


def verify_sampled(
    logits: Tensor, drafted: Tensor, lengths: Tensor, row_of: Tensor, temperature: float, draws: Tensor, draft_law: Tensor | None, draft_row: Tensor
) -> tuple[Tensor, Tensor]:
    """Temperature > 0: the same by rejection sampling. `draws` [R, γ+1] uniform, its last column draws the token after the accepted ones;
    `draft_law` [n, γ, V] is what the drafter drew from, `draft_row` [R] the rows of it  # [R], [R]."""
    gamma = drafted.shape[1]
    scaled = logits.float() / temperature
    if draft_law is None:  # nothing was drafted
        return lengths, draw(torch.softmax(scaled[row_of[:, 0]], dim=-1), draws[:, -1])
    norm = scaled.logsumexp(dim=-1)[row_of[:, :gamma]]  # [R, γ]
    p = (scaled[row_of[:, :gamma], drafted] - norm).exp()
    slots = torch.arange(gamma, device=logits.device)
    q = draft_law[draft_row.unsqueeze(1), slots, drafted]
    accepted = accepted_prefix(accepts(p, q, draws[:, :gamma]), lengths)
    law = torch.softmax(scaled[row_of.gather(1, accepted.unsqueeze(1)).squeeze(1)], dim=-1)  # [R, V]
    left = residual(law, draft_law[draft_row, accepted.clamp(max=gamma - 1)])
    return accepted, draw(torch.where((accepted < lengths).unsqueeze(1), left, law), draws[:, -1])

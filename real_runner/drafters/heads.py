"""The sequential (Markov) heads and the confidence head of DSpark (checkpoint format §3.1, §4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MarkovHead(nn.Module):
    """Adds W2·φ(W1[previous token]) to the base logits of a slot. φ: identity (vanilla), a gate (gated), a recurrent state (rnn)."""

    def __init__(self, kind: str, rank: int, hidden: int, vocabulary: int, draft_vocabulary: int) -> None:
        super().__init__()
        self.kind = kind
        self.markov_w1 = nn.Embedding(vocabulary, rank)
        self.markov_w2 = nn.Linear(rank, draft_vocabulary, bias=False)
        if kind == "gated":
            self.gate_proj = nn.Linear(hidden + rank, rank)
        if kind == "rnn":
            self.joint_proj = nn.Linear(2 * rank + hidden, 3 * rank)

    def begin(self, hidden: Tensor) -> Tensor:
        """State before the first slot, zeros  # [R, r]."""
        return hidden.new_zeros(hidden.shape[0], self.markov_w1.embedding_dim)

    def step(self, hidden: Tensor, previous: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Bias of one slot and the next state, from hidden [R, d] and the previous token's embedding [R, r]  # [R, V], [R, r]."""
        if self.kind == "gated":
            previous = torch.sigmoid(self.gate_proj(torch.cat([hidden, previous], dim=-1))) * previous
        elif self.kind == "rnn":
            gate, candidate, output = self.joint_proj(torch.cat([state, previous, hidden], dim=-1)).chunk(3, dim=-1)
            gate = torch.sigmoid(gate)
            state = gate * state + (1 - gate) * torch.tanh(candidate)
            previous = torch.tanh(output)  # the state reaches the bias through the next slot's joint projection only
        return self.markov_w2(previous), state


class ConfidenceHead(nn.Module):
    """z = w·[hidden; W1[previous]] + b, a logit of P(slot accepted | slots before it accepted)."""

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 1, bias=bias)

    def forward(self, hidden: Tensor, previous: Tensor | None) -> Tensor:
        """hidden [R, γ, d], previous [R, γ, r] -> [R, γ]."""
        seen = hidden if previous is None else torch.cat([hidden, previous], dim=-1)
        return self.proj(seen.to(self.proj.weight.dtype)).squeeze(-1).float()

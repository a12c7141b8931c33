"""MTP-1 of the DeepSeek kind: norms of embedding and hidden state, a joint projection, one decoder layer, the target's embedding and head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from real_runner.drafters.chain import ChainDrafter
from real_runner.drafters.layers import like_norm
from simulator.measurements.drafters.spec import DraftSpec


class MtpDrafter(ChainDrafter):
    """Its features are the target's last hidden states after the final norm, as vLLM feeds them. Trained for one token; more reuse the module."""

    def __init__(self, spec: DraftSpec) -> None:
        super().__init__(spec)
        hidden = spec.hidden
        self.enorm, self.hnorm = like_norm(self.backbone, hidden), like_norm(self.backbone, hidden)
        self.eh_proj = nn.Linear(2 * hidden, hidden, bias=False)
        self.requires_grad_(False)

    def feature(self, features: Tensor) -> Tensor:
        return features

    def enter(self, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        joint = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        return self.backbone.layers[0].input_layernorm(joint), joint

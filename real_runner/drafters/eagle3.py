"""Eagle3: one decoder layer whose attention reads the token and the hidden state side by side (format §3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from real_runner.drafters.chain import ChainDrafter
from real_runner.drafters.layers import like_norm
from simulator.measurements.drafters.spec import DraftSpec


class Eagle3Drafter(ChainDrafter):
    """Features of several tapped layers go through `fc`; q, k and v have input width 2d."""

    def __init__(self, spec: DraftSpec) -> None:
        super().__init__(spec)
        hidden, layer = spec.hidden, self.backbone.layers[0]
        self.fc = nn.Linear(len(spec.taps) * hidden, hidden, bias=False)
        layer.hidden_norm = like_norm(self.backbone, hidden)
        layer.self_attn.sliding_window = self.spec.windows[0] if self.spec.windows else None
        for name in ("q_proj", "k_proj", "v_proj"):
            narrow = getattr(layer.self_attn, name)
            setattr(layer.self_attn, name, nn.Linear(2 * hidden, narrow.out_features, bias=narrow.bias is not None))
        self.requires_grad_(False)

    def feature(self, features: Tensor) -> Tensor:
        return self.fc(features)

    def enter(self, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.backbone.layers[0]
        normed = layer.hidden_norm(hidden)
        return torch.cat([layer.input_layernorm(embedded), normed], dim=-1), normed if self.spec.norm_before_residual else hidden

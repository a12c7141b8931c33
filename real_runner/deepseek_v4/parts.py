"""What attention and layers of DeepSeek-V4 share: a cache that needs no rollback, norms, rotation.

Caches are addressed by position, so a rejected token is overwritten in time and nothing is rolled back (format of V4, §6): keys by position, the
compressor's inputs by position, compressed entries by number. An entry is visible only from the position that closes its window on, and who stands
there makes it anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from real_runner.slots import FlatBatch, SlotCache

ROWS_AT_ONCE = 16_384  # of a head


class PositionCache(SlotCache):
    """Beside keys by position (their own values) rows of any width, by position or by number of an entry  # each [slots + 1, rows, width]."""

    def __init__(self, slots: int, length: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(slots, length, device, dtype)
        self._rows: dict[tuple[int, str], Tensor] = {}
        self._growth: dict[tuple[int, str], float] = {}

    def keys(self, layer: int, keys: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        """Stores keys [B, head]; returns the layer's  # [slots + 1, length, head]."""
        return self.write(layer, keys.unsqueeze(1), keys.new_empty(len(keys), 1, 0), slots, positions)[0].squeeze(1)

    def rows(self, layer: int, name: str, width: int, each: int = 1) -> Tensor:
        """Rows of `width`, one for every `each` positions."""
        if (layer, name) not in self._rows:
            self._rows[layer, name] = torch.zeros(self.slots + 1, self.length // each + 1, width, device=self.device, dtype=self.dtype)
            self._growth[layer, name] = width / each if each > 1 else 0.0
        return self._rows[layer, name]

    def move(self, slot: int, into: int) -> None:
        super().move(slot, into)
        for rows in self._rows.values():
            rows[into] = rows[slot]

    @property
    def bytes_per_token(self) -> int:
        """Of compressed entries: the window's keys do not grow with the text."""
        return round(sum(self._growth.values()) * self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Seen:
    """The tokens of a step: which cache they are in, how many positions below their limit each sees, and the ids that route the first layers."""

    flat: FlatBatch
    kv: PositionCache
    ids: Tensor  # [B]
    span: int
    rope: Tensor  # [B] rotary positions


class Norm(nn.Module):
    """x ÷ √(mean x² + eps) · w, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width), requires_grad=False), eps

    def forward(self, x: Tensor) -> Tensor:
        return (unit(x.float(), self.eps) * self.weight.float()).to(x.dtype)


def unit(x: Tensor, eps: float) -> Tensor:
    """x ÷ √(mean x² + eps)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def logits_of(hidden: Tensor, weight: Tensor) -> Tensor:
    """Of a head [V, d], in float32 whatever its dtype, some thousands of its rows at a time  # [..., V]."""
    return torch.cat([functional.linear(hidden.float(), part.float()) for part in weight.split(ROWS_AT_ONCE)], dim=-1)


def rotated(x: Tensor, positions: Tensor, frequencies: Tensor, back: bool = False) -> Tensor:
    """The last dims of x [B, (heads,) D], adjacent ones paired, turned by their positions [B]."""
    angle = positions.float().unsqueeze(-1) * frequencies
    angle = angle if x.dim() == 2 else angle.unsqueeze(1)
    cos, sin = angle.cos(), -angle.sin() if back else angle.sin()
    still, pairs = x.split([x.shape[-1] - 2 * len(frequencies), 2 * len(frequencies)], dim=-1)
    first, second = pairs.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    return torch.cat([still, turned.to(x.dtype)], dim=-1)

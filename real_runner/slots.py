"""Attention over a cache with one row per request (a slot), for a flat batch of tokens: what stands in for a serving engine's paged kernel.

Linear layers see exactly the B tokens of the batch; here they are laid on a grid [rows, width], so that each row's keys are read once for all its
tokens, and the heads that share a key are folded into the width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import AttentionInterface

NAME = "dsim_slots"


@dataclass(slots=True)
class FlatBatch:
    """B tokens of many requests. Token j stands at `positions[j]` of row `slots[j]` and sees that row's positions below `limits[j]`."""

    slots: Tensor  # [B]
    positions: Tensor  # [B]
    limits: Tensor  # [B]
    cells: Tensor  # [B] its place on the grid rows × width; rows × width itself for padding
    rows: slice | Tensor  # which rows of the cache the grid has
    row_count: int
    width: int
    reach: int  # no limit is above it
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, share: int, dtype: torch.dtype) -> Tensor:
        """Added to the scores of each cell of the grid, heads folded: 0 where it sees a cached position, else -inf. Made once for all layers; of
        booleans every layer would make it anew  # [rows, 1, share × width, reach]."""
        kind = (window, share)
        if kind not in self._masks:
            cells = self.row_count * self.width
            limits = self.limits.new_ones(cells + 1).scatter_(0, self.cells, self.limits)[:cells]
            key = torch.arange(self.reach, device=limits.device)
            seen = key < limits.unsqueeze(1)  # an empty cell sees position 0, so that its softmax is a number
            if window is not None:
                positions = self.positions.new_zeros(cells + 1).scatter_(0, self.cells, self.positions)[:cells]
                seen &= key > (positions - window).unsqueeze(1)
            added = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
            added = added.view(self.row_count, 1, self.width, self.reach)
            self._masks[kind] = added.expand(-1, share, -1, -1).reshape(self.row_count, 1, share * self.width, self.reach)
        return self._masks[kind]


class SlotCache:
    """Keys and values of every layer, one row per slot and one more that padding writes into  # each [slots + 1, KV heads, length, head]."""

    def __init__(self, slots: int, length: int, device: torch.device, dtype: torch.dtype) -> None:
        self.slots, self.length, self.device, self.dtype = slots, length, device, dtype
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Stores keys and values [B, KV heads, head]; returns the layer's whole cache."""
        if layer not in self._layers:
            shape = (self.slots + 1, keys.shape[1], self.length, keys.shape[2])
            self._layers[layer] = (
                torch.zeros(shape, device=self.device, dtype=self.dtype),
                torch.zeros((*shape[:3], values.shape[2]), device=self.device, dtype=self.dtype),
            )
        cached_keys, cached_values = self._layers[layer]
        cached_keys[slots, :, positions] = keys.to(self.dtype)
        cached_values[slots, :, positions] = values.to(self.dtype)
        return cached_keys, cached_values

    def move(self, slot: int, into: int) -> None:
        """Copies a row over another."""
        for pair in self._layers.values():
            for rows in pair:
                rows[into] = rows[slot]

    @property
    def bytes_per_token(self) -> int:
        """Of the layers that have been written to."""
        return sum(t.shape[1] * t.shape[3] * t.element_size() for pair in self._layers.values() for t in pair)


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    flat: FlatBatch,
    kv: SlotCache,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers: query [1, heads, B, head], key and value [1, KV heads, B, head] -> [1, B, heads, head]."""
    heads, head = query.shape[1], query.shape[3]
    keys, values = kv.write(module.layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1), flat.slots, flat.positions)
    kv_heads = keys.shape[1]
    share = heads // kv_heads
    cells = flat.row_count * flat.width
    grid = query.new_zeros(cells + 1, heads, head)
    grid[flat.cells] = query[0].transpose(0, 1)
    folded = grid[:cells].view(flat.row_count, flat.width, kv_heads, share, head).permute(0, 2, 3, 1, 4)
    seen = functional.scaled_dot_product_attention(
        folded.reshape(flat.row_count, kv_heads, share * flat.width, head),
        keys[flat.rows, :, : flat.reach],
        values[flat.rows, :, : flat.reach],
        attn_mask=flat.mask(sliding_window, share, query.dtype),
        scale=scaling,
    )
    seen = seen.view(flat.row_count, kv_heads, share, flat.width, -1).permute(0, 3, 1, 2, 4).reshape(cells, heads, -1)
    return seen[flat.cells.clamp(max=cells - 1)].unsqueeze(0), None


AttentionInterface.register(NAME, slot_attention)

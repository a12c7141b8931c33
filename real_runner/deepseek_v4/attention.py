"""Attention of DeepSeek-V4 for a flat batch of tokens: a window, compressed entries, an indexer that chooses among them (format of V4, §3). Modules
bear the names of the checkpoint's tensors."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from real_runner.deepseek_v4.parts import Norm, Seen, rotated, unit
from real_runner.deepseek_v4.storage import Linear
from simulator.measurements.drafters.deepseek_v4 import SPARSE, DeepseekV4

TOKENS_AT_ONCE = 256  # each gathers the keys it sees
NEVER = float("-inf")


@cache
def _frequencies(sizes: DeepseekV4, compressed: bool, device: torch.device) -> Tensor:
    return torch.tensor(sizes.frequencies(compressed), device=device)


class Compressor(nn.Module):
    """Pools windows of `ratio` tokens to entries of `width`; with ratio 4 an entry also pools half of the window before."""

    def __init__(self, sizes: DeepseekV4, ratio: int, width: int) -> None:
        super().__init__()
        self.ratio, self.width, self.overlaps = ratio, width, ratio == SPARSE
        self.windows = 2 if self.overlaps else 1
        self.wkv = Linear(self.windows * width, sizes.hidden, sizes.fp8_block)
        self.wgate = Linear(self.windows * width, sizes.hidden, sizes.fp8_block)
        self.ape = nn.Parameter(torch.empty(ratio, self.windows * width), requires_grad=False)
        self.norm = Norm(width, sizes.eps)

    def forward(self, x: Tensor, seen: Seen, layer: int, name: str, frequencies: Tensor) -> Tensor:
        """Takes in x [B, d], makes the entries whose windows close; returns all  # [slots + 1, entries, width]."""
        flat, kv = seen.flat, seen.kv
        inputs = kv.rows(layer, f"{name} inputs", 2 * self.windows * self.width)
        entries = kv.rows(layer, name, self.width, self.ratio)
        inputs[flat.slots, flat.positions] = torch.cat([self.wkv(x), self.wgate(x)], dim=-1).to(inputs.dtype)
        closing = ((flat.positions + 1) % self.ratio == 0).nonzero().squeeze(1)
        for part in closing.split(TOKENS_AT_ONCE):
            slots, last = flat.slots[part], flat.positions[part]
            at = last.unsqueeze(1) + torch.arange(1 - self.windows * self.ratio, 1, device=x.device)
            value, gate = inputs[slots.unsqueeze(1), at.clamp(min=0)].chunk(2, dim=-1)
            value, gate = self.halves(value), self.halves(gate) + self.halves(self.ape.repeat(self.windows, 1))
            share = gate.float().masked_fill((at < 0).unsqueeze(-1), NEVER).softmax(dim=1)
            pooled = self.norm((share * value.float()).sum(dim=1).to(x.dtype))
            entries[slots, last // self.ratio] = rotated(pooled, last + 1 - self.ratio, frequencies).to(entries.dtype)
        return entries

    def halves(self, terms: Tensor) -> Tensor:
        """Of two windows [..., 2·ratio, 2·width] the first half of the earlier one's channels and the second half of the later one's."""
        if not self.overlaps:
            return terms
        early, late = terms.split(self.ratio, dim=-2)
        return torch.cat([early[..., : self.width], late[..., self.width :]], dim=-2)


class Indexer(nn.Module):
    """Chooses the entries that a token attends to."""

    def __init__(self, sizes: DeepseekV4, ratio: int) -> None:
        super().__init__()
        self.heads, self.width, self.most = sizes.index_heads, sizes.index_dim, sizes.index_topk
        self.wq_b = Linear(self.heads * self.width, sizes.query_rank, sizes.fp8_block)
        self.weights_proj = Linear(self.heads, sizes.hidden, sizes.fp8_block)
        self.compressor = Compressor(sizes, ratio, self.width)

    def forward(
        self, x: Tensor, query: Tensor, entries: Tensor, seen: Seen, part: slice, visible: Tensor, frequencies: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Numbers of the best entries of those visible [B, E] to x [B, d], and which of them are  # [B, k] each."""
        query = rotated(self.wq_b(query).unflatten(-1, (self.heads, self.width)), seen.rope[part], frequencies)
        known = entries[seen.flat.slots[part], : visible.shape[1]]
        score = functional.relu(torch.einsum("bhd,bed->bhe", query.float(), known.float()))
        score = torch.einsum("bhe,bh->be", score, self.weights_proj(x).float() * self.width**-0.5 * self.heads**-0.5)
        best = score.masked_fill(~visible, NEVER).topk(min(self.most, visible.shape[1]), dim=-1)
        return best.indices, best.values != NEVER


class Attention(nn.Module):
    """One key for all heads, which is their value too; a window, compressed entries, a sink (§3). A drafter's stage has the window alone (§4)."""

    def __init__(self, sizes: DeepseekV4, layer: int, ratio: int) -> None:
        super().__init__()
        self.sizes, self.layer, self.ratio = sizes, layer, ratio
        block, width = sizes.fp8_block, sizes.heads * sizes.head_dim
        self.wq_a, self.q_norm = Linear(sizes.query_rank, sizes.hidden, block), Norm(sizes.query_rank, sizes.eps)
        self.wq_b = Linear(width, sizes.query_rank, block)
        self.wkv, self.kv_norm = Linear(sizes.head_dim, sizes.hidden, block), Norm(sizes.head_dim, sizes.eps)
        self.wo_a = Linear(sizes.output_groups * sizes.output_rank, width // sizes.output_groups, block)
        self.wo_b = Linear(sizes.hidden, sizes.output_groups * sizes.output_rank, block)
        self.attn_sink = nn.Parameter(torch.empty(sizes.heads), requires_grad=False)
        self.compressor = Compressor(sizes, ratio, sizes.head_dim) if ratio else None
        self.indexer = Indexer(sizes, ratio) if ratio == SPARSE else None

    def frequencies(self, device: torch.device) -> Tensor:
        """Of this layer's rotation  # [rotary / 2]."""
        return _frequencies(self.sizes, self.ratio > 0, device)

    def remember(self, x: Tensor, seen: Seen) -> Tensor:
        """Keys of x [B, d] into the cache; returns the layer's  # [slots + 1, length, head]."""
        keys = rotated(self.kv_norm(self.wkv(x)), seen.rope, self.frequencies(x.device))
        return seen.kv.keys(self.layer, keys, seen.flat.slots, seen.flat.positions)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        """[B, d] -> [B, d]."""
        frequencies, keys = self.frequencies(x.device), self.remember(x, seen)
        entries = self.compressor(x, seen, self.layer, "entries", frequencies) if self.compressor is not None else None
        indexed = self.indexer.compressor(x, seen, self.layer, "index", frequencies) if self.indexer is not None else None
        query = self.q_norm(self.wq_a(x))
        parts = [slice(at, at + TOKENS_AT_ONCE) for at in range(0, len(x), TOKENS_AT_ONCE)]
        attended = torch.cat([self.attend(x[part], query[part], seen, part, keys, entries, indexed, frequencies) for part in parts])
        grouped = attended.flatten(1).unflatten(-1, (self.sizes.output_groups, -1))
        into = self.wo_a.dense(x.dtype).unflatten(0, (self.sizes.output_groups, -1))
        return self.wo_b(torch.einsum("bgi,goi->bgo", grouped, into).flatten(1))

    def attend(
        self, x: Tensor, query: Tensor, seen: Seen, part: slice, keys: Tensor, entries: Tensor | None, indexed: Tensor | None, frequencies: Tensor
    ) -> Tensor:
        """What the tokens of `part` read  # [b, heads, head]."""
        sizes, slots, limits = self.sizes, seen.flat.slots[part].unsqueeze(1), seen.flat.limits[part].unsqueeze(1)
        heads = self.wq_b(query).unflatten(-1, (sizes.heads, sizes.head_dim))
        heads = rotated(unit(heads.float(), sizes.eps).to(x.dtype), seen.rope[part], frequencies)
        at = limits - seen.span + torch.arange(seen.span, device=x.device)
        known, visible = keys[slots, at.clamp(min=0)], at >= 0
        if entries is not None and (count := seen.flat.reach // self.ratio):
            number = torch.arange(count, device=x.device).expand(len(x), count)
            closed = (number + 1) * self.ratio <= limits
            if self.indexer is not None and indexed is not None:
                number, closed = self.indexer(x, query, indexed, seen, part, closed, frequencies)
            known, visible = torch.cat([known, entries[slots, number]], dim=1), torch.cat([visible, closed], dim=1)
        scores = torch.einsum("bhd,bkd->bhk", heads, known).float() * sizes.head_dim**-0.5
        scores = scores.masked_fill(~visible.unsqueeze(1), NEVER)
        sink = self.attn_sink.float().view(1, -1, 1).expand(len(x), -1, 1)
        share = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
        return rotated(torch.einsum("bhk,bkd->bhd", share.to(known.dtype), known), seen.rope[part], frequencies, back=True)

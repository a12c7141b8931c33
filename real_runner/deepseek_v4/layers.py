"""Layers of DeepSeek-V4: streams that mix around attention and experts (format of V4, §3). Modules bear the names of the checkpoint's tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from real_runner.deepseek_v4.attention import Attention
from real_runner.deepseek_v4.parts import Norm, Seen, unit
from real_runner.deepseek_v4.storage import Linear
from simulator.measurements.drafters.deepseek_v4 import DeepseekV4


def mixing(streams: Tensor, fn: Tensor, base: Tensor, scale: Tensor, sizes: DeepseekV4) -> tuple[Tensor, Tensor, Tensor]:
    """What a sublayer reads of the streams [B, H, d], what each gets of its output, and how they mix  # [B, H], [B, H], [B, H (from), H (to)]."""
    count, eps = sizes.streams, sizes.stream_eps
    parts = functional.linear(unit(streams.flatten(1).float(), sizes.eps), fn.float())
    before, after, mix = parts.split([count, count, count * count], dim=-1)
    base, scale = base.float(), scale.float()
    before = torch.sigmoid(before * scale[0] + base[:count]) + eps
    after = 2 * torch.sigmoid(after * scale[1] + base[count : 2 * count])
    mix = torch.softmax((mix * scale[2] + base[2 * count :]).unflatten(-1, (count, count)), dim=-1) + eps
    mix = mix / (mix.sum(dim=-2, keepdim=True) + eps)
    for _ in range(sizes.sinkhorn_iterations - 1):
        mix = mix / (mix.sum(dim=-1, keepdim=True) + eps)
        mix = mix / (mix.sum(dim=-2, keepdim=True) + eps)
    return before, after, mix


class Collapse(nn.Module):
    """Streams to one hidden state, at the end of the target and of the drafter."""

    def __init__(self, sizes: DeepseekV4) -> None:
        super().__init__()
        self.sizes = sizes
        self.hc_head_fn = nn.Parameter(torch.empty(sizes.streams, sizes.streams * sizes.hidden), requires_grad=False)
        self.hc_head_base = nn.Parameter(torch.empty(sizes.streams), requires_grad=False)
        self.hc_head_scale = nn.Parameter(torch.empty(1), requires_grad=False)

    def forward(self, streams: Tensor) -> Tensor:
        """[B, H, d] -> [B, d], before the final norm."""
        parts = functional.linear(unit(streams.flatten(1).float(), self.sizes.eps), self.hc_head_fn.float())
        share = torch.sigmoid(parts * self.hc_head_scale.float() + self.hc_head_base.float()) + self.sizes.stream_eps
        return (share.unsqueeze(-1) * streams.float()).sum(dim=1).to(streams.dtype)


class Expert(nn.Module):
    """w2(silu(min(w1 x, limit)) · clamp(w3 x, ±limit))."""

    def __init__(self, sizes: DeepseekV4, width: int) -> None:
        super().__init__()
        self.limit = sizes.swiglu_limit
        self.w1, self.w3 = (Linear(width, sizes.hidden, sizes.fp8_block) for _ in range(2))
        self.w2 = Linear(sizes.hidden, width, sizes.fp8_block)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x).clamp(max=self.limit)) * self.w3(x).clamp(-self.limit, self.limit))


class Gate(nn.Module):
    """Which experts a token passes: the best of its scores, or in the first layers those of its id."""

    def __init__(self, sizes: DeepseekV4, hashed: bool) -> None:
        super().__init__()
        self.sizes, self.hashed = sizes, hashed
        self.weight = nn.Parameter(torch.empty(sizes.experts, sizes.hidden), requires_grad=False)
        if hashed:
            self.register_buffer("tid2eid", torch.empty(sizes.vocabulary, sizes.experts_per_token, dtype=torch.long))
        else:
            self.bias = nn.Parameter(torch.empty(sizes.experts), requires_grad=False)

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Experts of x [B, d] and their weights  # [B, k] each."""
        score = functional.softplus(functional.linear(x.float(), self.weight.float())).sqrt()
        chosen = self.tid2eid[ids].long() if self.hashed else (score + self.bias.float()).topk(self.sizes.experts_per_token, dim=-1).indices
        weight = score.gather(1, chosen)
        weight = weight / weight.sum(dim=-1, keepdim=True) if self.sizes.normalised else weight
        return chosen, weight * self.sizes.routed_scale


class Experts(nn.Module):
    """Routed experts and the shared one. Each is made dense when its tokens come."""

    def __init__(self, sizes: DeepseekV4, hashed: bool) -> None:
        super().__init__()
        self.gate = Gate(sizes, hashed)
        self.experts = nn.ModuleList(Expert(sizes, sizes.expert_hidden) for _ in range(sizes.experts))
        self.shared_experts = Expert(sizes, sizes.shared_experts * sizes.expert_hidden)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """[B, d] -> [B, d]; `ids` [B] route the first layers."""
        chosen, weight = self.gate(x, ids)
        out = torch.zeros_like(x, dtype=torch.float32)
        order, count = chosen.flatten().argsort(stable=True), torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()  # one wait
        for expert, part in zip(self.experts, order.split(count), strict=True):
            if len(part):
                token = part // chosen.shape[1]
                out.index_add_(0, token, expert(x[token]).float() * weight.flatten()[part].unsqueeze(1))
        return (out + self.shared_experts(x).float()).to(x.dtype)


class Layer(nn.Module):
    """Attention and experts, each between two mixings of the streams. A drafter's stage is one that compresses nothing and routes by score."""

    def __init__(self, sizes: DeepseekV4, layer: int, ratio: int, hashed: bool) -> None:
        super().__init__()
        self.sizes = sizes
        count = sizes.streams
        for part in ("attn", "ffn"):
            shapes = {"fn": ((2 + count) * count, count * sizes.hidden), "base": ((2 + count) * count,), "scale": (3,)}
            for name, shape in shapes.items():
                setattr(self, f"hc_{part}_{name}", nn.Parameter(torch.empty(shape), requires_grad=False))
        self.attn_norm, self.ffn_norm = Norm(sizes.hidden, sizes.eps), Norm(sizes.hidden, sizes.eps)
        self.attn, self.ffn = Attention(sizes, layer, ratio), Experts(sizes, hashed)

    def forward(self, streams: Tensor, seen: Seen) -> Tensor:
        """[B, H, d] -> [B, H, d]."""
        before, after, mix = mixing(streams, self.hc_attn_fn, self.hc_attn_base, self.hc_attn_scale, self.sizes)
        streams = _mixed(streams, self.attn(self.attn_norm(_read(streams, before)), seen), after, mix)
        before, after, mix = mixing(streams, self.hc_ffn_fn, self.hc_ffn_base, self.hc_ffn_scale, self.sizes)
        return _mixed(streams, self.ffn(self.ffn_norm(_read(streams, before)), seen.ids), after, mix)


def _read(streams: Tensor, before: Tensor) -> Tensor:
    return (before.unsqueeze(-1) * streams.float()).sum(dim=1).to(streams.dtype)


def _mixed(streams: Tensor, out: Tensor, after: Tensor, mix: Tensor) -> Tensor:
    return (after.unsqueeze(-1) * out.float().unsqueeze(1) + torch.einsum("bij,bid->bjd", mix, streams.float())).to(streams.dtype)

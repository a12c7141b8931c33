"""What all drafters share: transformers' decoder layers as backbone, fed from the target's features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from real_runner import sampling
from real_runner import slots as slot_cache
from real_runner.failures import CheckpointError
from real_runner.slots import FlatBatch, SlotCache
from real_runner.target import first_line

BACKBONES = ("qwen3", "llama", "gemma4_text", "gemma4_unified_text")


def backbone(config: dict[str, Any], where: Any) -> Any:
    """An empty base model (embedding, layers, final norm, rotary) of the drafter's config."""
    kind = str(config.get("model_type"))
    if kind not in BACKBONES:
        raise CheckpointError(f"unsupported draft backbone {kind!r}", where=where, key="model_type", remedy=f"supported: {', '.join(BACKBONES)}")
    try:
        known = AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})
        model = AutoModel.from_config(known, attn_implementation=slot_cache.NAME)
    except Exception as error:  # transformers checks configs in many ways
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        raise CheckpointError(f"cannot build these draft layers: {first_line(error)}", where=where) from error
    return model.eval().requires_grad_(False)


def like_norm(model: Any, width: int) -> nn.Module:
    """A norm of the backbone's own kind."""
    norm = type(model.norm)(width, eps=model.config.rms_norm_eps)
    return norm.requires_grad_(False)


def rotary(model: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin at `positions` [B] of full-attention layers  # [1, B, head] each."""
    kinds = model.config.rope_parameters
    extra = ("full_attention",) if isinstance(kinds.get("full_attention"), dict) else ()
    return model.rotary_emb(hidden, positions.unsqueeze(0), *extra)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of states [1, B, heads, head], halves paired."""
    first, second = states.chunk(2, dim=-1)
    return states * cos.unsqueeze(2) + torch.cat((-second, first), dim=-1) * sin.unsqueeze(2)


def inject(attention: Any, context: Tensor, cos: Tensor, sin: Tensor, kv: SlotCache, slots: Tensor, positions: Tensor) -> None:
    """Context features [1, B, d] as keys and values of one draft layer: they make no queries and pass no MLP (format §4)."""
    shape = (*context.shape[:2], -1, attention.head_dim)
    keys = attention.k_proj(context).view(shape)
    values = keys if attention.v_proj is None else attention.v_proj(context).view(shape)
    if getattr(attention, "k_norm", None) is not None:
        keys = attention.k_norm(keys)
    if getattr(attention, "v_norm", None) is not None:  # Gemma4: scale-free
        values = attention.v_norm(values)
    kv.write(attention.layer_idx, rotate(keys, cos, sin)[0], values[0], slots, positions)


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """Gemma's tanh cap on final logits."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def run_layers(model: Any, hidden: Tensor, rope: Tensor, flat: FlatBatch, kv: SlotCache) -> Tensor:
    """Embedded tokens [B, d] at rotary positions `rope` [B] through layers and final norm of the backbone  # [B, d]."""
    out = model(inputs_embeds=hidden.unsqueeze(0), position_ids=rope.unsqueeze(0), use_cache=False, flat=flat, kv=kv)
    return out.last_hidden_state[0]


def choose(logits: Tensor, temperature: float, draws: Tensor, d2t: Tensor | None, vocabulary: int) -> tuple[Tensor, Tensor | None]:
    """A token of the target's vocabulary from draft logits [R, draft V], and at T > 0 the law it came from  # [R], [R, V] or None."""
    if temperature < sampling.GREEDY_BELOW:
        best = logits.argmax(dim=-1)
        return (best if d2t is None else d2t[best]), None
    law = sampling.probabilities(logits, temperature)
    if d2t is not None:
        law = law.new_zeros(len(law), vocabulary).index_copy_(1, d2t, law)
    return sampling.draw(law, draws), law

"""What all drafters share: transformers' decoder layers as backbone, fed from the target's features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, __version__

from real_runner import sampling
from real_runner import slots as slot_cache
from real_runner.slots import FlatBatch, SlotCache
from real_runner.target import first_line
from simulator.complaints import shown
from simulator.errors import CheckpointError

NOT_LAYERS = ("model_type", "auto_map", "quantization_config", "attn_implementation", "experts_implementation", "dtype", "torch_dtype")
GEMMA4 = "5.18"  # builds its text layers alone; earlier releases fail on the config's layer types
BACKBONES = ("qwen3", "llama", "gemma4_text", "gemma4_unified_text")


def built_config(config: dict[str, Any]) -> Any:
    """transformers' config of the draft layers, with its own defaults."""
    return AutoConfig.for_model(str(config.get("model_type")), **{k: v for k, v in config.items() if k not in NOT_LAYERS and not k.startswith("_")})


def backbone(config: dict[str, Any], where: Any) -> Any:
    """An empty base model (embedding, layers, final norm, rotary) of the drafter's config."""
    kind = str(config.get("model_type"))
    if kind not in BACKBONES:
        raise CheckpointError(f"unsupported draft backbone {shown(kind)}", where=where, key="model_type", remedy=f"supported: {', '.join(BACKBONES)}")
    try:
        model = AutoModel.from_config(built_config(config), attn_implementation=slot_cache.NAME)
    except Exception as error:  # transformers checks configs in many ways
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        remedy = f"Gemma 4 drafters need transformers {GEMMA4}" if kind.startswith("gemma4") and __version__ < GEMMA4 else ""
        raise CheckpointError(f"cannot build these draft layers: {first_line(error)}", where=where, remedy=remedy) from error
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


def turn(model: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin at `positions` [B]  # [B, 1, head] each."""
    cos, sin = rotary(model, hidden.unsqueeze(0), positions)
    return cos[0].unsqueeze(1), sin[0].unsqueeze(1)


def query_of(attention: Any, inputs: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated queries of `inputs` [B, d]  # [B, heads, head]."""
    return _rotated(_normed(attention, "q_norm", attention.q_proj(inputs).view(len(inputs), -1, attention.head_dim)), turned)


def key_value_of(attention: Any, inputs: Tensor, turned: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Rotated keys, and values  # [B, KV heads, head] each."""
    key = attention.k_proj(inputs).view(len(inputs), -1, attention.head_dim)
    value = key if getattr(attention, "v_proj", None) is None else attention.v_proj(inputs).view(key.shape)
    return _rotated(_normed(attention, "k_norm", key), turned), _normed(attention, "v_norm", value)


def _normed(attention: Any, name: str, states: Tensor) -> Tensor:
    """Through a norm that not every family has; Gemma4's of values is scale-free."""
    norm = getattr(attention, name, None)
    return states if norm is None else norm(states)


def _rotated(states: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding, halves paired."""
    first, second = states.chunk(2, dim=-1)
    return states * turned[0].to(states.dtype) + torch.cat((-second, first), dim=-1) * turned[1].to(states.dtype)


def run_layers(model: Any, hidden: Tensor, rope: Tensor, flat: FlatBatch, kv: SlotCache) -> Tensor:
    """Embedded tokens [B, d] at rotary positions `rope` [B] through layers and final norm of the backbone  # [B, d]."""
    out = model(inputs_embeds=hidden.unsqueeze(0), position_ids=rope.unsqueeze(0), use_cache=False, flat=flat, kv=kv)
    return out.last_hidden_state[0]


def choose(logits: Tensor, temperature: float, draws: Tensor, d2t: Tensor | None, vocabulary: int) -> tuple[Tensor, Tensor | None]:
    """A token of the target's vocabulary from draft logits [R, draft V], and at T > 0 the law it came from  # [R], [R, V] or None."""
    if temperature < sampling.GREEDY_BELOW:
        best = logits.argmax(dim=-1)
        return (best if d2t is None else d2t[best]), None
    law = widened(sampling.probabilities(logits, temperature), d2t, vocabulary)
    return sampling.draw(law, draws), law


def widened(law: Tensor, d2t: Tensor | None, vocabulary: int) -> Tensor:
    """A law over the draft vocabulary [..., draft V] as one over the target's  # [..., V]."""
    return law if d2t is None else law.new_zeros(*law.shape[:-1], vocabulary).index_copy_(-1, d2t, law)

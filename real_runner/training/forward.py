"""Drafters as they are trained: many anchors of one text at once, with gradients. The same modules as in serving, attention without a cache.

A block sees the text's context before its anchor and itself; a chain's step sees the rows absorbed up to its anchor and its own steps before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from real_runner.drafters.chain import ChainDrafter
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.eagle3 import Eagle3Drafter
from real_runner.drafters.layers import rotary
from real_runner.drafters.mtp import MtpDrafter


@dataclass(slots=True)
class Heard:
    """What a drafter says at anchors [A] of a text, the text's own tokens given: logits [A, γ, draft V], confidence logits [A, γ]."""

    logits: Tensor
    confidence: Tensor | None


def hear(drafter: BlockDrafter | ChainDrafter, ids: Tensor, features: Tensor, anchors: Tensor, slots: int) -> Heard:
    """`slots` drafted tokens at `anchors` [A] (positions in `ids` [L]), from `features` [L, m·d] of every token before each anchor."""
    if isinstance(drafter, BlockDrafter):
        return _block(drafter, ids, features, anchors)
    return Heard(_chain(drafter, ids, features, anchors, slots), None)


def _block(drafter: BlockDrafter, ids: Tensor, features: Tensor, anchors: Tensor) -> Heard:
    spec, model = drafter.spec, drafter.backbone
    count, width = len(anchors), spec.block
    offsets = torch.arange(width)
    positions = (anchors.unsqueeze(1) + offsets).view(-1)
    block_ids = torch.full((count, width), spec.mask_token)
    block_ids[:, 0] = ids[anchors]
    hidden = model.embed_tokens(block_ids.view(-1)).to(features.dtype)
    context = drafter.hidden_norm(drafter.fc(features))
    before = torch.arange(len(ids)) < anchors.repeat_interleave(width).unsqueeze(1)  # [A·γ, L]
    among = offsets <= offsets.unsqueeze(1) if spec.causal_block else torch.ones(width, width, dtype=torch.bool)
    turn, turn_context = _turn(model, hidden, positions), _turn(model, context, torch.arange(len(ids)))
    for layer in model.layers:
        attention = layer.self_attn
        normed = layer.input_layernorm(hidden)
        query, key, value = _project(attention, normed, turn)
        _, context_key, context_value = _project(attention, context, turn_context, with_query=False)
        own_key, own_value = (t.view(count, width, *t.shape[1:]) for t in (key, value))
        seen = _attend(attention, query.view(count, width, *query.shape[1:]), context_key, context_value, before, own_key, own_value, among)
        hidden = hidden + attention.o_proj(seen.view(count * width, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    hidden = model.norm(hidden).view(count, width, -1)[:, spec.first_slot :]
    previous = ids[(anchors.unsqueeze(1) + torch.arange(hidden.shape[1])).clamp(max=len(ids) - 1)]
    return Heard(*drafter.forced(hidden, previous))


def _chain(drafter: ChainDrafter, ids: Tensor, features: Tensor, anchors: Tensor, slots: int) -> Tensor:
    """Logits [A, slots, draft V]. The row before the anchor has read it already: it is the first step."""
    model = drafter.backbone
    layer, length = model.layers[0], len(ids)
    rows = torch.arange(length - 1)
    fed = drafter.feature(features[:-1])
    inputs, residual = _enter(drafter, model.embed_tokens(ids[1:]).to(features.dtype), fed)
    context_turn = _turn(model, inputs, rows)
    query, context_key, context_value = _project(layer.self_attn, inputs, context_turn)
    at = anchors - 1
    before = rows <= at.unsqueeze(1)  # [A, L-1]: the row itself too
    seen = _attend(layer.self_attn, query[at].unsqueeze(1), context_key, context_value, before, None, None, None)
    hidden = _leave(drafter, layer, residual[at], layer.self_attn.o_proj(seen.reshape(len(at), -1)))
    heard, own_keys, own_values = [drafter.logits(hidden)], [], []
    for step in range(1, slots):
        token = ids[(anchors + step).clamp(max=length - 1)]
        inputs, residual = _enter(drafter, model.embed_tokens(token).to(features.dtype), hidden)
        query, key, value = _project(layer.self_attn, inputs, _turn(model, inputs, at + step))
        own_keys.append(key)
        own_values.append(value)
        seen = _attend(
            layer.self_attn, query.unsqueeze(1), context_key, context_value, before, torch.stack(own_keys, 1), torch.stack(own_values, 1), None
        )
        hidden = _leave(drafter, layer, residual, layer.self_attn.o_proj(seen.reshape(len(at), -1)))
        heard.append(drafter.logits(hidden))
    return torch.stack(heard, dim=1)


def _enter(drafter: ChainDrafter, embedded: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer's attention reads and what its residual is, from embedded tokens and hidden states [B, d]."""
    layer = drafter.backbone.layers[0]
    if isinstance(drafter, Eagle3Drafter):
        normed = layer.hidden_norm(hidden)
        return torch.cat([layer.input_layernorm(embedded), normed], dim=-1), normed if drafter.spec.norm_before_residual else hidden
    assert isinstance(drafter, MtpDrafter)
    joint = drafter.eh_proj(torch.cat([drafter.enorm(embedded), drafter.hnorm(hidden)], dim=-1))
    return layer.input_layernorm(joint), joint


def _leave(drafter: ChainDrafter, layer: Any, residual: Tensor, attended: Tensor) -> Tensor:
    hidden = residual + attended
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


def _turn(model: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = rotary(model, hidden.unsqueeze(0), positions)
    return cos[0].unsqueeze(1), sin[0].unsqueeze(1)  # [B, 1, head]


def _project(attention: Any, inputs: Tensor, turn: tuple[Tensor, Tensor], with_query: bool = True) -> tuple[Tensor | None, Tensor, Tensor]:
    """Rotated queries and keys, and values [B, heads, head]."""
    head = attention.head_dim
    query = attention.q_proj(inputs).view(len(inputs), -1, head) if with_query else None
    key, value = (project(inputs).view(len(inputs), -1, head) for project in (attention.k_proj, attention.v_proj))
    if getattr(attention, "q_norm", None) is not None:
        query, key = attention.q_norm(query) if query is not None else None, attention.k_norm(key)
    return None if query is None else _rotated(query, turn), _rotated(key, turn), value


def _rotated(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * turn[0].to(states.dtype) + torch.cat((-second, first), dim=-1) * turn[1].to(states.dtype)


def _attend(
    attention: Any, query: Tensor, key: Tensor, value: Tensor, before: Tensor, own_key: Tensor | None, own_value: Tensor | None, among: Tensor | None
) -> Tensor:
    """Softmax over context and own rows together: query [A, w, heads, head], context [L, KV, head], seen where `before` [A·w, L]; own rows
    [A, n, KV, head], seen where `among` [w, n] (none: all)  # [A, w, heads, head]."""
    anchors, width, heads, head = query.shape
    share = heads // key.shape[1]
    query = query.view(anchors, width, -1, share, head)
    scores = torch.einsum("awgsh,lgh->awgsl", query, key) * attention.scaling
    scores = scores.masked_fill(~before.view(anchors, width, 1, 1, -1), float("-inf"))
    if own_key is not None:
        own = torch.einsum("awgsh,angh->awgsn", query, own_key) * attention.scaling
        if among is not None:
            own = own.masked_fill(~among.view(1, width, 1, 1, -1), float("-inf"))
        scores = torch.cat([scores, own], dim=-1)
    weights = functional.softmax(scores.float(), dim=-1).to(value.dtype)
    seen = torch.einsum("awgsl,lgh->awgsh", weights[..., : len(key)], value)
    if own_value is not None:
        seen = seen + torch.einsum("awgsn,angh->awgsh", weights[..., len(key) :], own_value)
    return seen.reshape(anchors, width, heads, head)

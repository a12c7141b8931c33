"""Attention without a cache, for training: many anchors of one text at once, with gradients, through the layers that serve.

A block sees the text's context before its anchor and itself; a chain's step sees the rows absorbed up to its anchor and its own steps before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from real_runner.drafters.layers import rotary


def turn(model: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin at `positions` [B]  # [B, 1, head] each."""
    cos, sin = rotary(model, hidden.unsqueeze(0), positions)
    return cos[0].unsqueeze(1), sin[0].unsqueeze(1)


def query_of(attention: Any, inputs: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated queries of `inputs` [B, d]  # [B, heads, head]."""
    query = attention.q_proj(inputs).view(len(inputs), -1, attention.head_dim)
    return _rotated(query if getattr(attention, "q_norm", None) is None else attention.q_norm(query), turned)


def key_value_of(attention: Any, inputs: Tensor, turned: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Rotated keys, and values  # [B, KV heads, head] each."""
    key, value = (project(inputs).view(len(inputs), -1, attention.head_dim) for project in (attention.k_proj, attention.v_proj))
    return _rotated(key if getattr(attention, "k_norm", None) is None else attention.k_norm(key), turned), value


def _rotated(states: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * turned[0].to(states.dtype) + torch.cat((-second, first), dim=-1) * turned[1].to(states.dtype)


def attend(
    attention: Any, query: Tensor, context: tuple[Tensor, Tensor], before: Tensor, own: tuple[Tensor, Tensor] | None, among: Tensor | None = None
) -> Tensor:
    """Softmax over context and own rows together: query [A, w, heads, head]; keys and values of the `context` [L, KV, head], seen where `before`
    [A·w, L]; `own` ones [A, n, KV, head], seen where `among` [w, n] (none: all)  # [A, w, heads, head]."""
    key, value = context
    anchors, width, heads, head = query.shape
    query = query.view(anchors, width, -1, heads // key.shape[1], head)
    scores = torch.einsum("awgsh,lgh->awgsl", query, key) * attention.scaling
    scores = scores.masked_fill(~before.view(anchors, width, 1, 1, -1), float("-inf"))
    if own is not None:
        beside = torch.einsum("awgsh,angh->awgsn", query, own[0]) * attention.scaling
        if among is not None:
            beside = beside.masked_fill(~among.view(1, width, 1, 1, -1), float("-inf"))
        scores = torch.cat([scores, beside], dim=-1)
    weights = functional.softmax(scores.float(), dim=-1).to(value.dtype)
    seen = torch.einsum("awgsl,lgh->awgsh", weights[..., : len(key)], value)
    if own is not None:
        seen = seen + torch.einsum("awgsn,angh->awgsh", weights[..., len(key) :], own[1])
    return seen.reshape(anchors, width, heads, head)

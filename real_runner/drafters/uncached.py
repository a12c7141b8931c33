"""Attention without a cache, for training: many anchors of one text at once, with gradients, through the layers that serve.

A block sees the text's context before its anchor and itself; a chain's step sees the rows absorbed up to its anchor and its own steps before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


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

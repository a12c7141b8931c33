"""What rounds and prompts cost: where a price row begins, and the time of prompts."""

from __future__ import annotations

import math

import numpy as np

from simulator.engine.kernel.compiling import hot, inner


@hot
def context_key(total, size):
    """Which of CONTEXTS the rounded mean context is (cost.rounded_context)."""
    if total <= 0:
        return 0
    mantissa, exponent = math.frexp(total / size)
    return 1 + exponent * 129 + int(np.rint(mantissa * 256.0)) - 128


@inner
def prompt_s(w, tokens, attended, beside):
    """Seconds of prompt tokens (RoundCost.prefill_s, or chunk_s where `beside` is 0 or 1); -1 where the driver must be asked."""
    g = w.g[0]
    if g.linear_prompts:
        alone = g.prompt_base_s + tokens * (g.prompt_token_s + g.prompt_context_s * attended)
        if beside == 1:
            alone = max(alone - g.prompt_base_s, 0.0)
        return alone * g.prompt_factor
    if g.answered:
        g.answered = 0
        return g.answer_s
    g.want_tokens, g.want_attended, g.beside = tokens, attended, beside
    return -1.0

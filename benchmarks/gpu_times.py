"""Times of rounds at the true dimensions of Qwen3-4B and Qwen3-8B, beside what the device reaches. Steps of gpu.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps import Job

LAYERS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36}
SMALL_LAYERS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 4}
QWEN3 = {
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, **LAYERS},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, **LAYERS},
    "small": {"hidden_size": 64, "intermediate_size": 192, **SMALL_LAYERS},
}
TAPS = {"4b": (1, 9, 17, 25, 33), "8b": (1, 9, 17, 25, 33), "small": (0, 1, 2)}


def pair(size: str, device: str) -> tuple[Any, Any]:
    """A Qwen3 target and its DSpark drafter of true dimensions with random weights."""
    from transformers import AutoConfig

    from real_runner.drafters.loading import random_drafter
    from real_runner.target import random_target
    from simulator.measurements.drafters.spec import DraftSpec

    vocabulary = 512 if size == "small" else 151936
    shape = {
        **QWEN3[size],
        "vocab_size": vocabulary,
        "max_position_embeddings": 40960,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    }
    config = AutoConfig.for_model("qwen3", **shape, tie_word_embeddings=size == "4b")
    target = random_target(config, f"qwen3-{size}, random weights", device, "bfloat16")
    layers = {**shape, "model_type": "qwen3", "num_hidden_layers": 2 if size == "small" else 5}
    spec = DraftSpec(
        Path(f"dspark-{size}, random weights"),
        "deepspec",
        "dspark",
        layers,
        TAPS[size],
        block=7,
        first_slot=0,
        gamma=7,
        mask_token=vocabulary - 267,
        markov_rank=8 if size == "small" else 256,
        markov_kind="vanilla",
        confidence="hidden+token",
    )
    return target, random_drafter(spec, target)


def reached(device: str, small: bool) -> dict[str, float]:
    """What this device reaches by itself: bytes/s of a large copy, FLOP/s of a large bfloat16 product."""
    import torch

    from real_runner.environment import copy_rate

    side = 256 if small else 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return {"bytes_per_s": copy_rate(torch.device(device)), "flop_per_s": 2 * side**3 / fastest(lambda: a @ a, device)}


def fastest(run: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Shortest of some repeats, seconds."""
    import torch

    best = float("inf")
    for _ in range(repeats + 2):
        if device != "cpu":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best


def times(size: str) -> Callable[[Job], dict[str, Any]]:
    """Round times by batch and verified length at true dimensions, beside what bandwidth and arithmetic alone would take."""

    def step(job: Job) -> dict[str, Any]:
        import torch

        from real_runner.layout import Tiers
        from real_runner.serve import machine

        device, small = job.device, job.small
        name = "small" if small else size
        target, drafter = pair(name, device)
        context, rounds, batches = (24, 4, (1, 2)) if small else (512, 16, (1, 2, 4, 8, 16, 32, 64))
        tiers = Tiers() if device != "cpu" else Tiers(tokens=(1, 2, 4, 8, 16), reach=(64,))
        limits = reached(device, small)
        result: dict[str, Any] = {"ok": None, "dimensions": name, "context_tokens_each": context, "reached": limits, "machine": machine(target)}
        result |= {"rounds": [], "draft_parts": []}
        for batch in batches:
            for verified in (0, 1, 3, 7):
                result["rounds"].append(_round(target, drafter, batch, verified, context, rounds, tiers, limits))
                job.keep(result)
            result["draft_parts"].append(_draft_parts(target, drafter, batch, context, tiers, device))
        peak = torch.cuda.max_memory_allocated() if device != "cpu" else None
        return result | {"ok": all(row["n"] > 0 for row in result["rounds"]), "peak_bytes": peak}

    return step


def _round(target: Any, drafter: Any, batch: int, verified: int, context: int, rounds: int, tiers: Any, machine: dict[str, float]) -> dict[str, Any]:
    """Medians over full rounds of `batch` requests, and the bounds."""
    import statistics

    from real_runner.engine import Engine
    from real_runner.prompts import random_prompts
    from real_runner.records import ServedRequest
    from simulator.policies.verification import FixedLength, NoSpeculation

    policy = FixedLength(length=verified) if verified else NoSpeculation()
    admissions = 1 + batch * context // 8192
    tokens = (rounds + admissions + 6) * (1 if not verified else 2)
    length = context + tokens + 32
    engine = Engine(target, drafter, policy, slots=batch, length=length, tiers=tiers, stop_at_eos=False)
    engine.run([ServedRequest(i, ids, tokens) for i, ids in enumerate(random_prompts(target, [context] * batch, 0))])
    kept = [s for s in engine.steps if len(s.rounds) == batch and not s.captured_graphs and not s.prefill_tokens][1 : rounds + 1]
    median = {part: statistics.median(getattr(s, part) for s in kept) if kept else None for part in ("verify_s", "draft_s", "overhead_s")}
    bound = _bounds(target, drafter, batch, verified, context, machine)
    return {
        "requests": batch,
        "verified": verified,
        "tokens": batch * (verified + 1),
        "n": len(kept),
        **median,
        "round_s": statistics.median(s.end_s - s.start_s for s in kept) if kept else None,
        "accepted_length": statistics.mean(p.accepted + 1 for s in kept for p in s.rounds) if kept else None,
        **bound,
        "verify_over_bound": median["verify_s"] / max(bound["verify_bandwidth_s"], bound["verify_arithmetic_s"]) if kept else None,
    }


def _bounds(target: Any, drafter: Any, batch: int, verified: int, context: int, machine: dict[str, float]) -> dict[str, float]:
    """Seconds that reading weights and caches once, and the products, take at what the device reaches."""

    def weights(module: Any, without: Any) -> int:
        return sum(p.numel() for p in module.parameters() if p is not without)

    tokens, head = batch * (verified + 1), target.head.weight.numel()
    streamed = weights(target.model, target.embedding.weight) + (head if target.head.weight is target.embedding.weight else 0)
    verify_bytes = 2 * streamed + batch * context * target.kv.bytes_per_token
    own = weights(drafter, target.embedding.weight) - (0 if target.head.weight is target.embedding.weight else head)
    first = drafter.markov_head.markov_w1.weight.numel()  # gathered, not streamed
    second = drafter.markov_head.markov_w2.weight.numel()
    draft = own - first + head
    draft_bytes = 2 * (draft + 6 * second) + batch * context * (drafter.kv.bytes_per_token if drafter.kv else 0)
    bounds = {
        "verify_bandwidth_s": verify_bytes / machine["bytes_per_s"],
        "verify_arithmetic_s": 2 * streamed * tokens / machine["flop_per_s"],
    }
    if verified:
        bounds |= {"draft_bandwidth_s": draft_bytes / machine["bytes_per_s"], "draft_arithmetic_s": 2 * draft * 7 * batch / machine["flop_per_s"]}
    return bounds


def _draft_parts(target: Any, drafter: Any, batch: int, context: int, tiers: Any, device: str) -> dict[str, float]:
    """Backbone and sequential head apart, each from its own graph."""
    import numpy as np
    import torch

    from real_runner.drafters.drafter import DraftBatch
    from real_runner.graphs import Captured, Eager
    from real_runner.layout import ship

    runner = Captured() if device != "cpu" else Eager()
    drafter.allocate(batch, context + 64)
    slots = np.arange(batch)
    padded = tiers.pad(batch)
    layout = drafter.lay_out(slots, context, cache=(batch, context + 64), tiers=tiers, requests=padded)
    ints, where = ship(layout.ints, target.device), ship(np.append(slots, np.full(padded - batch, batch)), target.device)
    start = torch.full((batch + 1,), context, device=target.device)
    start[-1] = 0
    anchor = torch.zeros_like(start)
    drafting = DraftBatch(ints, layout, where, start, anchor)
    hidden = drafter.begin(drafting)
    luck = torch.zeros(len(where), drafter.gamma, device=target.device)

    def backbone(ints: torch.Tensor) -> tuple[Any, ...]:
        return (drafter.begin(replace(drafting, ints=ints)),)

    def head(hidden: torch.Tensor) -> tuple[Any, ...]:
        made = drafter.sample(hidden, drafting, 0.0, luck)
        return made.tokens, made.confidence

    return {
        "requests": batch,
        "backbone_s": fastest(lambda: runner.run("backbone", backbone, ints), device),
        "sequential_head_s": fastest(lambda: runner.run("head", head, hidden), device),
    }

"""What a streamed measurement takes, before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from real_runner.blocks import Said, groups
from real_runner.deepseek_v4.attention import TOKENS_AT_ONCE
from real_runner.target import DTYPES
from simulator.errors import DsimError
from simulator.measurements.drafters.inventory import V4Checkpoint

LEAST_AT_ONCE = 128  # tokens


@dataclass(frozen=True, slots=True)
class Needs:
    """What a streamed measurement takes."""

    tokens_at_once: int
    memory_bytes: float
    disk_bytes: float

    def __str__(self) -> str:
        return f"up to {self.memory_bytes / 1e9:.2f} GB of memory and {self.disk_bytes / 1e9:.2f} GB of disk, {self.tokens_at_once:,} tokens at once"


def needs(checkpoint: V4Checkpoint, said: Sequence[Said], dtype: str, tokens_at_once: int, rows_at_once: int) -> Needs:
    """By arithmetic: weights of the largest layer with one expert dense, embedding and heads; activations of a group of texts, or of its blocks."""
    sizes, each = checkpoint.sizes, DTYPES[dtype].itemsize
    spec = sizes.drafter
    assert spec is not None
    parts: dict[str, int] = {}
    for name, stored in checkpoint.tensors.items():
        owner = ".".join(name.split(".")[:2]) if name.startswith(("layers.", "mtp.")) else "rest"
        parts[owner] = parts.get(owner, 0) + stored.bytes
    largest = max(size for owner, size in parts.items() if owner != "rest")
    heads = 2 * sizes.vocabulary * (sizes.hidden + spec.markov_rank) * each
    longest = max(len(one.text.prompt) + len(one.text.output) + len(one.beyond) for one in said)
    made = groups(said, spec.block, spec.block, rows_at_once, tokens_at_once, 0)
    tokens = max(int((group.prompts + group.known).sum()) for group in made)
    batch = max(tokens, rows_at_once * spec.block)
    streams = batch * sizes.streams * sizes.hidden * (4 * 3 + each * 2)
    keys = TOKENS_AT_ONCE * (sizes.window + spec.block + min(sizes.index_topk, longest)) * (sizes.head_dim * (each + 4) + sizes.heads * 8)
    caches = (len(made[0].said) + rows_at_once) * made[0].room * sizes.head_dim * each * 6
    logits = (tokens + 3 * rows_at_once) * sizes.vocabulary * 4
    memory = largest + heads + 3 * sizes.expert_hidden * sizes.hidden * 8 + max(streams + keys + caches, logits + caches)
    anchors = sum(len(one.text.output) - 1 for one in said)
    every = sum(int((group.prompts + group.known).sum()) for group in made)
    wide = sizes.streams * sizes.hidden * each
    disk = every * (2 * wide + len(spec.taps) * sizes.hidden * each) + 2 * anchors * spec.block * wide
    return Needs(tokens_at_once, float(memory), float(disk))


def fitting(checkpoint: V4Checkpoint, said: Sequence[Said], dtype: str, rows_at_once: int, tokens_at_once: int, memory_bytes: float | None) -> Needs:
    """As many tokens at once as fit in `memory_bytes`, no more than `tokens_at_once`. Raises DsimError where none do."""
    while True:
        found = needs(checkpoint, said, dtype, tokens_at_once, rows_at_once)
        if memory_bytes is None or found.memory_bytes <= memory_bytes:
            return found
        if tokens_at_once <= LEAST_AT_ONCE:
            problem = f"{memory_bytes / 1e9:.2f} GB, but this checkpoint and these texts need {found}"
            raise DsimError(problem, key="--memory", remedy="give more, shorter texts, or bfloat16")
        tokens_at_once //= 2

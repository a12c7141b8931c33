"""What a streamed measurement takes, before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from real_runner.blocks import Group, Said, groups
from real_runner.deepseek_v4 import attention
from real_runner.deepseek_v4.parts import ROWS_AT_ONCE
from real_runner.target import DTYPES
from simulator.errors import DsimError
from simulator.measurements.drafters.deepseek_v4 import SPARSE
from simulator.measurements.drafters.inventory import V4Checkpoint

LEAST_TOKENS, MOST_TOKENS, LEAST_ROWS = 128, 32_768, 8


@dataclass(frozen=True, slots=True)
class Needs:
    """What a streamed measurement takes. `dense`: a layer is made plain numbers once, not one matrix of it at a time for every group of texts."""

    tokens_at_once: int
    rows_at_once: int
    dense: bool
    memory_bytes: float
    disk_bytes: float

    def __str__(self) -> str:
        how = "a layer as plain numbers" if self.dense else "a layer as stored"
        memory, disk = self.memory_bytes / 1e9, self.disk_bytes / 1e9
        return f"up to {memory:.2f} GB of memory ({how}, {self.tokens_at_once:,} tokens at once) and {disk:.2f} GB of disk"


def needs(checkpoint: V4Checkpoint, said: Sequence[Said], dtype: str, tokens_at_once: int, rows_at_once: int, dense: bool) -> Needs:
    """By arithmetic: what is always there, and the largest of a layer with its texts, a stage with its blocks, and the heads with their logits."""
    sizes, each, spec = checkpoint.sizes, DTYPES[dtype].itemsize, checkpoint.sizes.drafter
    assert spec is not None
    made = groups(said, spec.block, spec.block, rows_at_once, tokens_at_once, 0)
    always = 2 * sizes.vocabulary * (sizes.hidden * each + spec.markov_rank * 4)
    layer, matrix = _largest_layer(checkpoint, each if dense else None)
    phases = []
    for group in made:
        tokens, blocks = int((group.prompts + group.known).sum()), group.rows * spec.block
        phases.append(layer + matrix + _activations(checkpoint, tokens, group.room, each) + (group.count + 1) * group.room * _kept(checkpoint) * each)
        cache = 2 * (group.count + group.rows + 1) * group.room * sizes.head_dim * each
        phases.append(layer + matrix + _activations(checkpoint, blocks, 0, each) + cache + tokens * (len(spec.taps) + 1) * sizes.hidden * each)
        phases.append((int(group.known.sum()) + group.rows * (spec.block + 6)) * sizes.vocabulary * 4 + ROWS_AT_ONCE * sizes.hidden * 4 + cache)
    return Needs(tokens_at_once, rows_at_once, dense, float(always + max(phases)), float(_disk(checkpoint, said, made, each)))


def _largest_layer(checkpoint: V4Checkpoint, each: int | None) -> tuple[int, int]:
    """Bytes of the largest layer or stage, with `each` bytes a number or as stored, and of what one matrix takes while it is made dense."""
    parts: dict[str, int] = {}
    most = 0
    for name, stored in checkpoint.tensors.items():
        if not name.startswith(("layers.", "mtp.")):
            continue
        packed, owner = stored.dtype in ("I8", "U8"), ".".join(name.split(".")[:2])
        numbers = 0 if name.endswith(".scale") else prod(stored.shape) * (2 if packed else 1)
        parts[owner] = parts.get(owner, 0) + (stored.bytes if each is None else numbers * each)
        most = max(most, numbers) if packed or stored.dtype == "F8_E4M3" else most
    return max(parts.values()), most * 14


def _activations(checkpoint: V4Checkpoint, tokens: int, length: int, each: int) -> int:
    """Streams and what attention makes of them, of so many tokens that see up to `length`."""
    sizes = checkpoint.sizes
    streams = tokens * sizes.streams * sizes.hidden * (4 * 3 + each * 2) + 2 * tokens * sizes.heads * sizes.head_dim * each
    at_once = min(tokens, attention.TOKENS_AT_ONCE)
    entries = length // SPARSE if SPARSE in sizes.ratios else 0
    heavy = max((length // ratio for ratio in sizes.ratios if ratio not in (0, SPARSE)), default=0)
    spec = sizes.drafter
    seen = sizes.window + (spec.block if spec else 0) + max(min(sizes.index_topk, entries), heavy)
    keys = at_once * seen * (sizes.head_dim * (each + 4) + sizes.heads * 8)
    return streams + keys + at_once * entries * (sizes.index_dim * (each + 4) + sizes.index_heads * 8)


def _kept(checkpoint: V4Checkpoint) -> int:
    """Numbers that the cache of one layer holds for a token, of the layer that holds most."""
    sizes = checkpoint.sizes
    kept = []
    for ratio in sizes.ratios:
        width = sizes.head_dim + (sizes.index_dim if ratio == SPARSE else 0)
        kept.append(sizes.head_dim + (2 * (2 if ratio == SPARSE else 1) * width + -(-width // ratio) if ratio else 0))
    return max(kept)


def _disk(checkpoint: V4Checkpoint, said: Sequence[Said], made: Sequence[Group], each: int) -> int:
    """What two layers, or two stages beside the last layer, and the taps leave in files."""
    sizes, spec = checkpoint.sizes, checkpoint.sizes.drafter
    assert spec is not None
    wide = sizes.streams * sizes.hidden * each
    tokens = sum(int((group.prompts + group.known).sum()) for group in made)
    blocks = sum(len(one.text.output) - 1 for one in said) * spec.block
    return tokens * len(spec.taps) * sizes.hidden * each + max(2 * tokens * wide, (tokens + 2 * blocks) * wide)


def fitting(checkpoint: V4Checkpoint, said: Sequence[Said], dtype: str, tokens_at_once: int, rows_at_once: int, memory_bytes: float | None) -> Needs:
    """The fastest way that fits in `memory_bytes`: layers as plain numbers, else as stored with as many tokens at once as fit. Without a limit as
    stored, with `tokens_at_once`. Raises DsimError where nothing fits."""
    if memory_bytes is None:
        return needs(checkpoint, said, dtype, tokens_at_once, rows_at_once, False)
    for rows in _halved(rows_at_once, LEAST_ROWS):
        for dense, most in ((True, tokens_at_once), (False, max(MOST_TOKENS, tokens_at_once))):
            for tokens in _halved(most, LEAST_TOKENS):
                found = needs(checkpoint, said, dtype, tokens, rows, dense)
                if found.memory_bytes <= memory_bytes:
                    return found
    problem = f"{memory_bytes / 1e9:.2f} GB, but this checkpoint and these texts need {found}"
    raise DsimError(problem, key="--memory", remedy="give more, shorter texts, or bfloat16")


def _halved(most: int, least: int) -> Iterator[int]:
    """`most`, half of it, … not below `least` but once."""
    while True:
        yield most
        if most <= least:
            return
        most //= 2

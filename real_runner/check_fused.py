"""`dsim draft check --target FOLDER` alone: a DeepSeek-V4 with its drafter inside, understood from config and headers. No torch, no weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from simulator.measurements.drafters.inventory import Part, checked
from simulator.measurements.drafters.weight_bytes import Size, Sizes, bytes_read, distinct_experts, part_sizes, request_numbers

TOKENS, REQUESTS = (1, 8, 64, 512, 4096), (1, 8, 64, 256)
BF16_BYTES = 2
_SCALE, _PARAMETERS = {"GB": 1e9, "MB": 1e6}, {"GB": "billions", "MB": "millions"}
STEP_COSTS = "not timed by dsim, whose kernels would mislead: take a published profile (`dsim profile list`), or import an engine's (`dsim import`)"


@dataclass(frozen=True, slots=True)
class Step:
    """What the target reads in a step of so many tokens, without KV."""

    tokens: int
    distinct_experts: float  # of a layer
    dense_bytes: float  # attention with compressors and indexers; streams, norms and routers
    shared_expert_bytes: float
    routed_expert_bytes: float
    head_bytes: float

    @property
    def total_bytes(self) -> float:
        return self.dense_bytes + self.shared_expert_bytes + self.routed_expert_bytes + self.head_bytes


@dataclass(frozen=True, slots=True)
class Round:
    """What a round of so many requests reads that draft whole blocks and verify all of them, without KV."""

    requests: int
    drafted_tokens: int
    verified_tokens: int  # anchors included
    drafter_layer_bytes: float  # of the stages, with the main projection and the confidence head
    drafter_head_bytes: float  # the target's head, once
    drafter_markov_bytes: float  # one product after the other
    target_bytes: float

    @property
    def drafter_bytes(self) -> float:
        return self.drafter_layer_bytes + self.drafter_head_bytes + self.drafter_markov_bytes

    @property
    def drafter_share(self) -> float:
        return self.drafter_bytes / (self.drafter_bytes + self.target_bytes)


@dataclass(frozen=True, slots=True)
class FusedReport:
    """All of it. Sizes in bytes are as stored; of the cache, in bfloat16."""

    architecture: str
    tensors: int
    drafter_tensors: int
    layers: int
    stages: int
    block: int
    taps: tuple[int, ...]  # 0-based, outputs of layers
    markov_rank: int
    bytes_by_dtype: dict[str, int]
    target: Sizes
    drafter: Sizes
    kv_numbers_per_token: float
    kv_bytes_per_token: float
    request_window_bytes: int
    request_compressor_bytes: int
    steps: list[Step]
    rounds: list[Round]
    step_costs: str = STEP_COSTS

    def as_json(self) -> str:
        """For machines."""
        shares = [{"drafter_bytes": one.drafter_bytes, "drafter_share": one.drafter_share} for one in self.rounds]
        steps = [asdict(one) | {"total_bytes": one.total_bytes} for one in self.steps]
        rounds = [asdict(one) | more for one, more in zip(self.rounds, shares, strict=True)]
        return json.dumps({"complete": True, **asdict(self), "steps": steps, "rounds": rounds}, indent=2)

    def as_text(self) -> str:
        """For people."""
        unit = "GB" if sum(self.bytes_by_dtype.values()) >= 1e9 else "MB"
        stored = ", ".join(f"{dtype} {_large(size, unit)}" for dtype, size in self.bytes_by_dtype.items())
        windows, inputs = f"{self.request_window_bytes:,}", f"{self.request_compressor_bytes:,}"
        facts = {
            "architecture": self.architecture,
            "checkpoint": f"complete: {self.tensors:,} tensors, {self.drafter_tensors:,} of them the drafter's (mtp.*)",
            "stored": f"{stored} {unit}",
            "drafter": f"{self.stages} stages, block {self.block}, Markov rank {self.markov_rank}",
            "taps": f"outputs of layers {', '.join(map(str, self.taps))} of {self.layers}, counted from 0",
            "KV per token": f"{self.kv_numbers_per_token:,.6g} numbers, {self.kv_bytes_per_token:,.6g} bytes in bfloat16",
            "KV per request": f"besides, at any length: {windows} bytes of windows, {inputs} of compressors' inputs",
            "step costs": self.step_costs,
        }
        lines = [f"{key:<14}  {value}" for key, value in facts.items()]
        lines += ["", f"Size by part: parameters in {_PARAMETERS[unit]}, {unit} as stored", *_parts(self.target, self.drafter, unit)]
        lines += ["", f"{unit} of weights that a step reads, without KV; experts of a layer as even routing has them", *_steps(self.steps, unit)]
        title = f"{unit} of weights that a round reads where every request drafts a block and all of it is verified"
        return "\n".join([*lines, "", title, *_rounds(self.rounds, self.block, unit)])


def check_fused(folder: Path) -> FusedReport:
    """Reads config.json and the headers of the weights. Raises CheckpointError for what is incomplete or is another architecture."""
    checkpoint = checked(folder)
    sizes, stages = checkpoint.sizes, checkpoint.stages
    assert sizes.drafter is not None
    target, drafter = part_sizes(checkpoint)
    stored = Counter[str]()
    for tensor in checkpoint.tensors.values():
        stored[tensor.dtype] += tensor.bytes
    windows, inputs = request_numbers(sizes, stages)

    def step(tokens: int) -> Step:
        read = bytes_read(target, sizes, tokens)
        shared, routed, head = read["shared experts"], read["routed experts"], read["head"]
        return Step(tokens, distinct_experts(sizes, tokens), sum(read.values()) - shared - routed - head, shared, routed, head)

    def round_of(requests: int, block: int) -> Round:
        read, drafted, verified = bytes_read(drafter, sizes, requests * block, block), requests * block, requests * (block + 1)
        markov = read.pop("Markov head")
        return Round(requests, drafted, verified, sum(read.values()), float(target["head"].bytes), markov, step(verified).total_bytes)

    return FusedReport(
        "DeepSeek-V4 with a fused DSpark drafter", len(checkpoint.tensors), sum(name.startswith("mtp.") for name in checkpoint.tensors),
        sizes.layers, stages, sizes.drafter.block, sizes.drafter.taps, sizes.drafter.markov_rank, dict(stored.most_common()), target, drafter,
        sizes.entries_per_token(), sizes.entries_per_token() * BF16_BYTES, windows * BF16_BYTES, inputs * BF16_BYTES,
        [step(tokens) for tokens in TOKENS], [round_of(requests, sizes.drafter.block) for requests in REQUESTS],
    )  # fmt: skip


def _parts(target: Sizes, drafter: Sizes, unit: str) -> list[str]:
    rows: dict[str, tuple[Size | None, Size | None]] = {
        part: (target.get(part), drafter.get(part)) for part in get_args(Part) if part in target or part in drafter
    }
    rows["all"] = sum(target.values(), Size()), sum(drafter.values(), Size())
    words = ((name, *(word for size in pair for word in _size(size, unit))) for name, pair in rows.items())
    return _columns(("part", "target", unit, "drafter", unit), words)


def _steps(steps: list[Step], unit: str) -> list[str]:
    rows = []
    for one in steps:
        parts = one.dense_bytes, one.shared_expert_bytes, one.routed_expert_bytes, one.head_bytes, one.total_bytes
        rows.append((f"{one.tokens:,}", f"{one.distinct_experts:.1f}", *(_large(part, unit) for part in parts)))
    return _columns(("tokens", "experts", "attention etc.", "shared experts", "routed experts", "head", "all"), rows)


def _rounds(rounds: list[Round], block: int, unit: str) -> list[str]:
    rows = []
    for one in rounds:
        parts = one.drafter_layer_bytes, one.drafter_head_bytes, one.drafter_markov_bytes, one.drafter_bytes, one.target_bytes
        rows.append((f"{one.requests:,}", f"{one.verified_tokens:,}", *(_large(part, unit) for part in parts), f"{one.drafter_share:.1%}"))
    return _columns(("requests", "tokens", "stages", "head", f"{block} x Markov", "drafter", "target", "drafter's share"), rows)


def _size(size: Size | None, unit: str) -> tuple[str, str]:
    return ("", "") if size is None else (_large(size.parameters, unit), _large(size.bytes, unit))


def _large(number: float, unit: str) -> str:
    """In 10^9 or 10^6, three digits."""
    scaled = number / _SCALE[unit]
    return f"{scaled:,.1f}" if scaled >= 100 else f"{scaled:.3g}" if scaled >= 0.001 else "< 0.001"


def _columns(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Aligned to the right; names of parts to the left."""
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    first = "<" if head[0] == "part" else ">"
    return ["  ".join(f"{word:{first if at == 0 else '>'}{widths[at]}}" for at, word in enumerate(row)).rstrip() for row in table]

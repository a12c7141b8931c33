"""How large the parts of a DeepSeek-V4 checkpoint are, what of them a step reads, and what a request's cache holds (format of V4, §4 and §6)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod

from simulator.measurements.drafters.deepseek_v4 import SPARSE, DeepseekV4
from simulator.measurements.drafters.inventory import Part, V4Checkpoint, inventory


@dataclass(frozen=True, slots=True)
class Size:
    """Of a part: numbers, and bytes as stored, with scales."""

    parameters: int = 0
    bytes: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.parameters + other.parameters, self.bytes + other.bytes)


Sizes = dict[Part, Size]


def part_sizes(checkpoint: V4Checkpoint) -> tuple[Sizes, Sizes]:
    """Of the target, and of the drafter."""
    target, drafter = defaultdict[Part, Size](Size), defaultdict[Part, Size](Size)
    for one in inventory(checkpoint.sizes, checkpoint.stages):
        if (stored := checkpoint.tensors.get(one.name)) is not None:
            parameters = 0 if one.kind in ("scale", "id") else prod(one.shape)
            owner = drafter if one.name.startswith("mtp.") else target
            owner[one.part] += Size(parameters, stored.bytes)
    return dict(target), dict(drafter)


def distinct_experts(sizes: DeepseekV4, tokens: int) -> float:
    """Experts of a layer that so many tokens choose, if each chooses evenly and by itself: E (1 - (1 - k/E)^T). Uneven routing chooses fewer."""
    return float(sizes.experts * (1 - (1 - sizes.experts_per_token / sizes.experts) ** tokens))


def bytes_read(parts: Sizes, sizes: DeepseekV4, tokens: int, products: int = 0) -> dict[Part, float]:
    """Of the weights, by a step of so many tokens: everything once, of routed experts those chosen, of tables rows only, which are left out; the
    Markov head in each of its products."""
    times = {"routed experts": distinct_experts(sizes, tokens) / sizes.experts, "tables by token": 0.0, "Markov head": float(products)}
    return {part: size.bytes * times.get(part, 1.0) for part, size in parts.items()}


def request_numbers(sizes: DeepseekV4, stages: int) -> tuple[int, int]:
    """What a request's cache holds however long its text is: keys of the windows, the drafter's stages included, and the values and gates of the
    compressors' open windows."""
    inputs = 0
    for ratio in filter(None, sizes.ratios):
        width = 2 * (sizes.head_dim + sizes.index_dim) if ratio == SPARSE else sizes.head_dim
        inputs += (2 * ratio if ratio == SPARSE else ratio) * 2 * width
    return (len(sizes.ratios) + stages) * sizes.window * sizes.head_dim, inputs

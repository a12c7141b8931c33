"""Where the tokens of a step go: integers made on the host and shipped to the device in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from real_runner.slots import FlatBatch
from simulator.arrays import Integers
from simulator.quantities import Tokens
from simulator.schema import Frozen

FINE, PART = 2048, 256  # cache rows up to FINE tokens end at a tier of reach, longer ones at a multiple of PART


class Tiers(Frozen):
    """Token counts and context lengths that a step is padded up to: one captured graph each, and the keys of the cost table."""

    tokens: tuple[Tokens, ...] = Field(default=(1, 2, 4, *range(8, 257, 8), *range(272, 513, 16), *range(544, 2049, 32)), min_length=1)
    reach: tuple[Tokens, ...] = Field(default=(256, 512, 1024, 2048, 4096, 8192, 16384, 32768), min_length=1)

    def pad(self, count: int) -> int:
        """The smallest tier that holds `count` tokens, or `count` where it is above all of them."""
        return next((tier for tier in self.tokens if tier >= count), count)

    def pad_reach(self, reach: int, length: int) -> int:
        """The same for the context, within a cache of `length`."""
        return min(next((tier for tier in self.reach if tier >= reach), length), length)

    def room(self, length: int) -> int:
        """Tokens of a cache row that holds `length`: up to a tier of reach or, above FINE, to a whole part. A reach that ends anywhere else is one
        that no cell of the costs has, and one that attention kernels pad in each layer of each step."""
        tier = next((tier for tier in self.reach if length <= tier <= FINE), None)
        return -(-length // PART) * PART if tier is None else tier


def padded(count: int, tiers: Tiers | None) -> int:
    """`count` as it is, or up to its tier."""
    return count if tiers is None else tiers.pad(count)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tokens of a step on the host. Token j is the `offset`-th after its request's start."""

    ints: Integers  # [3, B] slot, offset, cell
    firsts: Integers  # [R] index in B of each request's first token
    rows: slice | Integers
    row_count: int
    width: int
    reach: int
    tiered: bool = True  # is the token count one of few? Otherwise a graph of it would hardly be met again

    @property
    def key(self) -> tuple[int, ...]:
        """What a captured graph is made for."""
        return (self.ints.shape[1], self.row_count, self.width, self.reach)

    def flat(self, ints: Tensor, start: Tensor, block: int | None = None) -> FlatBatch:
        """The batch on the device: causal, or for a block of `block` tokens that see one another. `ints` [3, B], `start` [slots + 1]."""
        slots, offsets, cells = ints[0], ints[1], ints[2]
        begin = start[slots]
        positions = begin + offsets
        limits = positions + 1 if block is None else begin + block
        rows = self.rows if isinstance(self.rows, slice) else ship(self.rows, start.device)
        return FlatBatch(slots, positions, limits, cells, rows, self.row_count, self.width, self.reach)


def lay_out(
    slots: Integers, counts: Integers, reach: int, cache: tuple[int, int], tiers: Tiers | None, width: int | None = None, requests: int = 0
) -> Layout:
    """Lays `counts` [R] tokens of the requests in `slots` [R] flat; `reach` is the context needed, `cache` the (slots, length) there are.

    With tiers the token count (at least that of `requests` of `width`), rows and reach are padded, so that the shapes are few; padding goes to the
    spare row after the last slot.
    """
    spare, length = cache
    width = int(counts.max()) if width is None else width
    low, high = int(slots.min()), int(slots.max()) + 1
    rows: slice | Integers
    if tiers is not None:
        rows = slice(0, min(tiers.pad(high), spare))
        rank, row_count = slots, rows.stop
        reach = tiers.pad_reach(reach, length)
    elif high - low <= 2 * len(slots):  # a view of the cache: cheaper than gathering rows
        rows, rank, row_count = slice(low, high), slots - low, high - low
    else:
        rows, rank, row_count = slots, np.arange(len(slots)), len(slots)
    tokens = int(counts.sum())
    count = tokens if tiers is None else tiers.pad(max(tokens, requests * width))
    firsts = np.cumsum(counts) - counts
    ints = np.empty((3, count), dtype=np.int64)
    ints[0], ints[1], ints[2] = spare, 0, row_count * width
    ints[0, :tokens] = np.repeat(slots, counts)
    ints[1, :tokens] = np.arange(tokens) - np.repeat(firsts, counts)
    ints[2, :tokens] = np.repeat(rank * width, counts) + ints[1, :tokens]
    return Layout(ints, firsts, rows, row_count, width, min(reach, length), tiers is None or count <= tiers.tokens[-1])


def ship(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A host array on the device, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

"""Prefix blocks of a trace: how many tokens each stands for, and how much of a prompt a cache holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.traffic.trace_files import Table

_STRAY = 0.01  # of rows may have another number of blocks: images, templates


def block_tokens(table: Table, column: str, prompt_tokens: Integers, usual: int, wished: int | None) -> int:
    """Tokens of a block of hash_ids: `wished`, else `usual`, else the only size that fits the rows. Raises TraceError where none does.

    A prompt of L tokens in blocks of b has ceil(L / b) of them, or floor(L / b) where only full blocks are listed.
    """
    hashes = table.column(column)
    table.refuse(~hashes.map(is_hash_list).to_numpy(dtype=bool), column, "must be a list of whole numbers")
    blocks = hashes.map(len).to_numpy(dtype=np.int64)
    sizes = _sizes(blocks[blocks > 0], prompt_tokens[blocks > 0], usual)
    if wished is None and len(sizes) == 1:
        return sizes[0]
    if wished is None and sizes:
        fits = ", ".join(f"{size:,}" for size in sizes[:-1]) + f" or {sizes[-1]:,}"
        raise TraceError(f"may be blocks of {fits} tokens", where=table.path, key=column, remedy="write workload.trace.block_tokens: NUMBER")
    size = wished or usual
    wrong = (blocks > 0) & (blocks != -(-prompt_tokens // size)) & (blocks != prompt_tokens // size)
    if wrong.mean() > _STRAY:
        row = int(np.argmax(wrong))
        problem = f"{blocks[row]:,} hash_ids for a prompt of {prompt_tokens[row]:,} tokens cannot be blocks of {size:,} tokens"
        fits = " or ".join(f"{size}" for size in sizes[:3])
        remedy = f"write workload.trace.block_tokens: {fits}" if fits else "no size fits all rows: fix them, or set prefix_cache to none"
        raise TraceError(problem, where=table.where(row), key="workload.trace.block_tokens", remedy=remedy)
    return size


def _sizes(blocks: Integers, prompt_tokens: Integers, usual: int) -> list[int]:
    """The sizes of a block that fit the rows: the usual one alone if it does, else powers of two, or the only one that fits all."""
    if not len(blocks):
        return [usual]
    each = -(-prompt_tokens // blocks)
    smallest = int(each.max())  # below it, some row has more blocks than it lists
    others = [smallest] if each.min() == smallest else [smallest, smallest + 1]
    powers = [2**power for power in range(21)]
    for last, sizes in ((1, [usual]), (1, powers), (0, [usual]), (0, powers), (1, others)):  # last: of a prompt, listed though it is not full
        if fits := [size for size in sizes if np.mean(blocks != (prompt_tokens + last * (size - 1)) // size) <= _STRAY]:
            return fits
    return []


def seen_before(hashes: pd.Series[Any], arrival_s: Floats, block: int) -> Integers:
    """Tokens in leading blocks of earlier requests, for each row: a prefix cache that evicts nothing. # [n]"""
    seen: set[int] = set()
    tokens = np.zeros(len(hashes), dtype=np.int64)
    rows = hashes.tolist()
    for row in np.argsort(arrival_s, kind="stable"):
        blocks = rows[row]
        hits = next((i for i, one in enumerate(blocks) if one not in seen), len(blocks))
        seen.update(blocks[hits:])
        tokens[row] = hits * block
    return tokens


def is_hash_list(value: object) -> bool:
    """Is it a list of whole numbers?"""
    return isinstance(value, list) and all(type(item) is int for item in value)

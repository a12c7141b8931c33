"""Prefix blocks of a trace: how many tokens each stands for, and how much of a prompt a cache holds."""

from __future__ import annotations

from itertools import chain

import numpy as np

from simulator.arrays import Flags, Integers
from simulator.errors import TraceError
from simulator.traffic.trace_files import TraceFile
from simulator.traffic.trace_tables import Table

_STRAY = 0.01  # of rows may have another number of blocks: images, templates
_ROWS = 1 << 16  # whose blocks are looked up at once


def hash_lists(table: Table, column: str) -> tuple[Integers, Integers]:
    """The number of hash_ids in each row, and the ids of all rows. Raises TraceError for what is not a list of 64-bit whole numbers. # [n], [m]"""
    lists = table.frame[column].tolist()
    table.refuse(~np.array([isinstance(row, list) for row in lists], dtype=bool), column, "must be a list of whole numbers")
    ids = list(chain.from_iterable(lists))
    if set(map(type, ids)) - {int}:
        table.refuse(~np.array([is_hash_list(row) for row in lists], dtype=bool), column, "must be a list of whole numbers")
    counts = np.array(list(map(len, lists)), dtype=np.int64)
    try:
        return counts, np.array(ids, dtype=np.int64)
    except OverflowError:
        wide = np.array([any(not -(2**63) <= one < 2**64 for one in row) for row in lists], dtype=bool)
        table.refuse(wide, column, "has a number of more than 64 bits")
        return counts, np.array([one % 2**64 for one in ids], dtype=np.uint64).view(np.int64)


def block_tokens(
    file: TraceFile,
    column: str,
    blocks: Integers,
    prompt_tokens: Integers,
    rows: Integers,
    usual: int,
    wished: int | None,
    key: str = "workload.trace",
) -> int:
    """Tokens of a block of hash_ids: `wished`, else `usual`, else the only size that fits the rows. Raises TraceError where none does, whose remedy
    is under `key`.

    `blocks` is the number in each of the file's `rows`. A prompt of L tokens in blocks of b has ceil(L / b) of them, or floor(L / b) where only full
    blocks are listed.
    """
    sizes = _sizes(blocks[blocks > 0], prompt_tokens[blocks > 0], usual)
    if wished is None and len(sizes) == 1:
        return sizes[0]
    if wished is None and sizes:
        fits = ", ".join(f"{size:,}" for size in sizes[:-1]) + f" or {sizes[-1]:,}"
        raise TraceError(f"may be blocks of {fits} tokens", where=file.path, key=column, remedy=f"write {key}.block_tokens: NUMBER")
    size = wished or usual
    wrong = (blocks > 0) & (blocks != -(-prompt_tokens // size)) & (blocks != prompt_tokens // size)
    if wrong.mean() > _STRAY:
        row = int(np.argmax(wrong))
        problem = f"{blocks[row]:,} hash_ids for a prompt of {prompt_tokens[row]:,} tokens cannot be blocks of {size:,} tokens"
        fits = " or ".join(f"{size}" for size in sizes[:3])
        otherwise = "set prefix_cache to none" if key == "workload.trace" else "set hash_ids: false"
        remedy = f"write {key}.block_tokens: {fits}" if fits else f"no size fits all rows: fix them, or {otherwise}"
        raise TraceError(problem, where=file.where(int(rows[row])), key=f"{key}.block_tokens", remedy=remedy)
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


def chained(blocks: Integers, ids: Integers) -> Integers:
    """Ids that stand for all up to their block, as what an engine keeps of it does: those of the file where each is always behind the same one, else
    numbers of their own. Each row has `blocks` of the `ids`. # [n], [m] -> [m]"""
    distinct, which = np.unique(ids, return_inverse=True)
    starts = np.cumsum(blocks) - blocks
    before = np.concatenate([[-1], which[:-1]])[: len(which)]
    before[starts[blocks > 0]] = -1
    lowest, highest = np.full(len(distinct), len(distinct)), np.full(len(distinct), -1)
    np.minimum.at(lowest, which, before)
    np.maximum.at(highest, which, before)
    if (lowest == highest).all():
        return ids
    names, at, known = np.empty_like(ids), np.full(len(blocks), -1), 0
    for depth in range(int(blocks.max())):
        rows = np.flatnonzero(blocks > depth)
        here = starts[rows] + depth
        new, found = np.unique((at[rows] + 1) * len(distinct) + which[here], return_inverse=True)
        names[here] = at[rows] = known + found
        known += len(new)
    return names


def seen_before(blocks: Integers, ids: Integers, order: Integers) -> Integers:
    """Leading blocks of each row that rows before it in `order` have (a prefix cache evicts nothing); it has `blocks` of the `ids`. # [n]"""
    starts = np.concatenate([[0], np.cumsum(blocks)])
    hits = np.zeros(len(blocks), dtype=np.int64)
    cache = np.empty(0, dtype=np.int64)  # ascending
    for first in range(0, len(order), _ROWS):
        rows = order[first : first + _ROWS]
        begins = np.concatenate([[0], np.cumsum(blocks[rows])])
        owner = np.repeat(np.arange(len(rows)), blocks[rows])
        mine = ids[np.arange(begins[-1]) + (starts[rows] - begins[:-1])[owner]]
        distinct, place, which = np.unique(mine, return_index=True, return_inverse=True)
        at = np.searchsorted(cache, distinct)
        old: Flags = cache[np.minimum(at, max(len(cache) - 1, 0))] == distinct if len(cache) else np.zeros(len(distinct), dtype=bool)
        new = np.flatnonzero(~(old[which] | (place[which] < begins[owner])))
        first_new = np.append(new, begins[-1])[np.searchsorted(new, begins[:-1])]
        hits[rows] = np.minimum(first_new, begins[1:]) - begins[:-1]
        cache = np.insert(cache, at[~old], distinct[~old])
    return hits


def is_hash_list(value: object) -> bool:
    """Is it a list of whole numbers?"""
    return isinstance(value, list) and all(type(item) is int for item in value)

"""Recorded sessions whose prompts are known by hash_ids: what of each was said before, and what the answers were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.arrays import Integers
from simulator.traffic.prefix_blocks import block_tokens, chained
from simulator.traffic.session_rows import KEY, Reading, Recorded, Rows


def with_hashes(found: Recorded, rows: Rows, reading: Reading, order: Integers, above: Integers, heir: Integers) -> Recorded:
    """With prompts known by their hash_ids. What an answer was is known by the turn after it, where that begins with all of it."""
    assert rows.blocks is not None
    assert rows.ids is not None
    prompt = found.prompt_tokens
    given = np.empty_like(prompt)
    given[order] = prompt
    size = block_tokens(
        rows.file, rows.columns["hash_ids"], rows.blocks, given, np.arange(len(given)), reading.form.block_tokens, reading.block_tokens, KEY
    )
    distinct, ids = np.unique(chained(rows.blocks, rows.ids), return_inverse=True)
    first, blocks = (np.cumsum(rows.blocks) - rows.blocks)[order].copy(), rows.blocks[order].copy()
    told = np.minimum(prompt, blocks * size)
    session = np.repeat(np.arange(len(found)), np.diff(found.at))
    of_id = np.repeat(session, rows.blocks[order])
    in_order = _joined(ids, first, blocks)
    lowest, highest = np.full(len(distinct), len(found)), np.full(len(distinct), -1)
    np.minimum.at(lowest, in_order, of_id)
    np.maximum.at(highest, in_order, of_id)
    said = found.said_tokens.copy()
    own_first, own_blocks = first.copy(), blocks.copy()
    for row in range(len(prompt) - 1, -1, -1):
        up = int(above[row])
        if up < 0:
            continue
        whole = min(int(prompt[up]) // size, int(own_blocks[up]))
        same = _begins_alike(ids, own_first[up], own_first[row], min(whole, int(own_blocks[row])))
        held = int(prompt[up] + found.output_tokens[up])
        if same == whole and prompt[row] > held and blocks[row] * size >= told[up] and found.call[row] == found.call[up]:
            if heir[up] == row:
                first[up], blocks[up], told[up] = first[row], blocks[row], min(held, int(blocks[row]) * size)
        else:
            said[row] = min(same * size, int(prompt[row]))
    return replace(found, said_tokens=said, hashed_tokens=size, ids=ids, first=first, blocks=blocks, told=told, shared=lowest < highest)


def _joined(ids: Integers, first: Integers, blocks: Integers) -> Integers:
    """ids[first : first + blocks] of one row after another. # [m]"""
    starts = np.cumsum(blocks) - blocks
    return np.asarray(ids[np.arange(int(blocks.sum())) + np.repeat(first - starts, blocks)])


def _begins_alike(ids: Integers, one: int, other: int, most: int) -> int:
    """Leading ids, of at most so many, that two rows have in common."""
    differ = np.flatnonzero(ids[one : one + most] != ids[other : other + most])
    return int(differ[0]) if len(differ) else most

"""What a prompt consists of, as far as a prefix cache can tell: blocks of two prompts have one name where all up to their ends is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulator.arrays import Flags, Integers

BLOCK_BITS = 27  # bits of a name that count the blocks of a text


class Content(Protocol):
    """The tokens of a prompt and of the answer after it."""

    def names(self, first: int, end: int, block_tokens: int) -> list[int]:
        """Of its blocks `first` .. `end` - 1, each of `block_tokens` tokens."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A beginning that others have, and a text of its own that only grows: tokens up to `until[i]` belong to text `texts[i]`, all others to the
    last text."""

    texts: tuple[int, ...]
    until: tuple[int, ...] = ()

    def names(self, first: int, end: int, block_tokens: int) -> list[int]:
        found: list[int] = []
        for place, text in enumerate(self.texts):
            stop = min(end, self.until[place] // block_tokens) if place < len(self.until) else end
            found.extend(range((text << BLOCK_BITS) + first, (text << BLOCK_BITS) + stop))
            first = max(first, stop)
        return found


@dataclass(frozen=True, slots=True)
class Hashed:
    """Tokens of which the first `told` have recorded `ids`, one for `hashed_tokens`, each of all up to its end; those after them are a text of their
    own, the `answer`."""

    ids: tuple[int, ...]
    hashed_tokens: int
    told: int
    answer: int

    def names(self, first: int, end: int, block_tokens: int) -> list[int]:
        size, told = self.hashed_tokens, self.told // block_tokens
        lasts = (((block + 1) * block_tokens - 1) for block in range(first, min(end, told)))
        found = [self.ids[last // size] * size + last % size for last in lasts]
        found.extend(-(self.answer << BLOCK_BITS) - block - 1 for block in range(max(first, told), end))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class HashedPrompts:
    """`Hashed` of many requests as columns: those of request i are ids[starts[i] : starts[i] + blocks[i]]."""

    ids: Integers  # [m] small numbers, one for each content
    starts: Integers  # [n]
    blocks: Integers  # [n]
    prompt_tokens: Integers  # [n]
    request: Integers  # [n]
    hashed_tokens: int

    def __getitem__(self, at: slice | Flags | Integers) -> HashedPrompts:
        return HashedPrompts(self.ids, self.starts[at], self.blocks[at], self.prompt_tokens[at], self.request[at], self.hashed_tokens)

    @property
    def told(self) -> Integers:
        """Tokens of each that its ids tell. # [n]"""
        return np.minimum(self.prompt_tokens, self.blocks * self.hashed_tokens)

    def of(self, row: int) -> Hashed:
        """That of one request."""
        start = int(self.starts[row])
        ids = tuple(self.ids[start : start + int(self.blocks[row])].tolist())
        told = min(int(self.prompt_tokens[row]), len(ids) * self.hashed_tokens)
        return Hashed(ids, self.hashed_tokens, told, 1 + int(self.request[row]))


def hashed_prompts(ids: Integers, blocks: Integers, prompt_tokens: Integers, hashed_tokens: int) -> HashedPrompts:
    """Recorded ids of requests, of which each has `blocks` in a row."""
    distinct = np.unique(ids, return_inverse=True)[1]
    return HashedPrompts(distinct, np.cumsum(blocks) - blocks, blocks, prompt_tokens, np.arange(len(blocks)), hashed_tokens)

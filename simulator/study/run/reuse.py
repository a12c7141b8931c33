"""Where the tokens of prompts came from: by turn of a session, and over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from simulator.arrays import Floats
from simulator.study.run.record import Record

TURNS = (0, 1, 2, 4, 8, 16)  # of a session, with which groups begin
BINS = 20  # of a window
_SUMMED = ("prompt_tokens", "said_tokens", "cached_prompt_tokens", "withheld_tokens")


class ReuseRow(Record):
    """Sums over the measured requests of some turns (`start` is the first of them), or of a part of the window (its start, in seconds of the window).

    Of the prompts' tokens, `said` were said earlier in the session, `cached` were in the prefix cache (of a system prompt, too), and `withheld` are
    those of the said that the engine never makes use of. What else was said was evicted, or lies on another replica.
    """

    by: Literal["turn", "time"]
    start: NonNegativeFloat
    requests: NonNegativeInt
    prompt: NonNegativeFloat
    said: NonNegativeFloat
    cached: NonNegativeFloat
    withheld: NonNegativeFloat
    ttft_s: NonNegativeFloat

    @property
    def lost(self) -> float:
        """Tokens that were said, could have been used, and were not there."""
        return max(self.said - self.withheld - self.cached, 0.0)


class Reuse:
    """Adds up measured requests."""

    def __init__(self, start_s: float, until_s: float) -> None:
        self.start_s, self.until_s = start_s, until_s
        self.by_turn, self.by_time = np.zeros((len(TURNS), len(_SUMMED) + 2)), np.zeros((BINS, len(_SUMMED) + 2))

    def add(self, of: Mapping[str, Floats]) -> None:
        """Columns of RequestRecord of measured requests that are done."""
        if not (of["turn"] >= 0).any() and not of["cached_prompt_tokens"].any():
            return
        sums = np.stack([np.ones(len(of["turn"])), *(of[name] for name in _SUMMED), np.maximum(of["first_token_s"] - of["sent_s"], 0.0)], axis=-1)
        np.add.at(self.by_turn, np.searchsorted(TURNS, np.maximum(of["turn"], 0), side="right") - 1, sums)
        if np.isfinite(self.until_s - self.start_s):
            place = (of["sent_s"] - self.start_s) / (self.until_s - self.start_s) * BINS
            np.add.at(self.by_time, np.clip(place.astype(np.int64), 0, BINS - 1), sums)

    def merge(self, other: Reuse) -> None:
        """All that `other` has seen."""
        self.by_turn += other.by_turn
        self.by_time += other.by_time

    def rows(self) -> list[ReuseRow]:
        """The groups that have requests; none where nothing was said before or cached."""
        if not self.by_turn[:, 2:4].any():
            return []
        width_s = (self.until_s - self.start_s) / BINS
        groups = [("turn", float(turn), sums) for turn, sums in zip(TURNS, self.by_turn, strict=True)]
        groups += [("time", number * width_s, sums) for number, sums in enumerate(self.by_time)]
        return [_row(by, start, sums.tolist()) for by, start, sums in groups if sums[0]]


def _row(by: str, start: float, sums: Sequence[float]) -> ReuseRow:
    requests, *others = sums
    names = ("prompt", "said", "cached", "withheld", "ttft_s")
    return ReuseRow.model_validate({"by": by, "start": start, "requests": int(requests), **dict(zip(names, others, strict=True))})


def together(rows: Iterable[ReuseRow]) -> tuple[ReuseRow, ...]:
    """The rows of several runs, those of one group added up."""
    groups: dict[tuple[str, float], Floats] = {}
    for row in rows:
        sums = np.array([row.requests, row.prompt, row.said, row.cached, row.withheld, row.ttft_s])
        groups[row.by, row.start] = groups.get((row.by, row.start), 0.0) + sums
    return tuple(_row(by, start, sums.tolist()) for (by, start), sums in sorted(groups.items()))

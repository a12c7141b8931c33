"""The draft length by batch size: a few ranges that give up nothing that a measurement could show, and what each is worth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.measurements.profile import Profile
from simulator.measurements.statistics import visited_rows

LARGEST = 16_384  # batch that lengths are looked for; the last range goes on
WANDER = 1.25  # a batch of R requests is now and then this much larger or smaller: no length is chosen for one size alone


@dataclass(frozen=True)
class Range:
    """Batch sizes with one length, ends included; what they gain over the best single length, in the mean over the range."""

    first: int
    last: int
    length: int
    gain: float


@dataclass(frozen=True)
class LengthTable:
    """Lengths that do not rise with the batch; the best single one; and what the table gives up against the best length at every single size,
    which changes `changes` times: in the mean, at most, and at how many requests."""

    ranges: tuple[Range, ...]
    fixed: int
    changes: int
    lost: float
    lost_most: float
    lost_at: int


def length_table(profile: Profile, drafter: str, max_batch: int, context_tokens: float, tolerance: float) -> LengthTable:
    """The fewest ranges that nowhere lose more than `tolerance` of the tokens per second against the best lengths that do not rise with the batch,
    in the mean over the sizes that a batch wanders through."""
    share = token_rates(profile, drafter, max_batch, context_tokens)
    share = share / share.max(axis=1, keepdims=True)  # [R, γ+1] of the best length at each size
    fixed, *more = _non_rising(share)
    every, wandering = np.arange(max_batch), _wandering(share)
    enough = wandering[every, (more or [fixed])[-1]] - tolerance - 1e-12
    chosen = _non_rising(np.where(wandering >= enough[:, None], share, -np.inf))[0]
    starts = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), max_batch]
    ranges = tuple(Range(a + 1, b, int(chosen[a]), float(np.mean(share[a:b, chosen[a]] / share[a:b, fixed[0]]) - 1)) for a, b in pairwise(starts))
    lost = 1 - share[every, chosen]
    changes = int(np.count_nonzero(np.diff(share.argmax(axis=1))))
    return LengthTable(ranges, int(fixed[0]), changes, float(_weights(max_batch) @ lost), float(lost.max()), int(lost.argmax()) + 1)


def token_rates(profile: Profile, drafter: str, max_batch: int, context_tokens: float) -> Floats:
    """Expected tokens per second of batches of 1 … max_batch at every length, from the recorded blocks and the price of rounds; length 0 is
    ordinary decoding, which drafts nothing. # [R, γ+1]"""
    known, blocks, costs = profile.drafter(drafter, "--drafter", profile.folder), profile.blocks(drafter), profile.costs
    lengths = np.arange(known.gamma + 1)
    visited = [visited_rows(blocks, np.full(blocks.rows, length)) for length in lengths]
    committed = np.array([1 + np.minimum(blocks.accepted[rows], length).mean() for rows, length in zip(visited, lengths, strict=True)])
    rates = np.empty((max_batch, known.gamma + 1))
    sent, share = lengths, np.ones(len(lengths))  # drafted tokens verified in a round, and in which part of the rounds there are any  # [γ+1]
    if (proposed := blocks.proposed) is not None:
        sent = np.array([np.minimum(proposed[rows], length).mean() for rows, length in zip(visited, lengths, strict=True)])
        share = np.array([(proposed[rows] > 0).mean() for rows in visited])
    for requests in range(1, max_batch + 1):
        tokens = requests * (1 + sent)
        verify = costs.verify.seconds(tokens, requests, context_tokens) + known.draft.absorb_s(tokens, context_tokens)  # [γ+1]
        anybody = 1 - (1 - share) ** requests  # in how many rounds drafting is paid at all
        drafting = np.array([
            some * known.draft.seconds(requests * part / some, context_tokens, k) if k and some else 0.0
            for k, part, some in zip(lengths.tolist(), share.tolist(), anybody.tolist(), strict=True)
        ])  # fmt: skip
        overhead_s = costs.overhead.seconds + costs.overhead.per_request_s * requests + known.draft.every_step_s
        rates[requests - 1] = requests * committed / (verify + drafting + overhead_s)
    return rates


def _weights(sizes: int) -> Floats:
    """Of each batch size: every doubling counts the same."""
    weights = 1.0 / np.arange(1, sizes + 1)
    return np.asarray(weights / weights.sum())


def _non_rising(share: Floats) -> list[Integers]:
    """For 1, 2, … ranges the lengths [R] that do not rise and have most of `share` [R, γ+1], every doubling of the batch counting the same: from as
    many ranges as are possible (-inf: not with this length) until one more changes nothing. By dynamic programming over sizes; a shorter length wins
    a tie."""
    sizes, lengths = share.shape
    worth = share * _weights(sizes)[:, None]
    total = np.full((lengths, lengths), -np.inf)  # [ranges so far - 1, length]
    came = np.zeros((sizes, lengths, lengths), dtype=np.int8)  # the length at the size before
    total[0] = worth[0]
    for size in range(1, sizes):
        longer, pick = _best_longer(total)
        stays = total >= longer
        came[size] = np.where(stays, np.arange(lengths), pick)
        total = np.where(stays, total, longer) + worth[size]
    tables: list[Integers] = []
    for ranges in range(lengths):
        if tables and total[ranges].max() <= total[:ranges].max() + 1e-12:
            break
        if total[ranges].max() == -np.inf:
            continue
        table, left = np.empty(sizes, dtype=np.int64), ranges
        table[-1] = total[ranges].argmax()
        for size in range(sizes - 1, 0, -1):
            table[size - 1] = came[size, left, table[size]]
            left -= int(table[size - 1] != table[size])
        tables.append(table)
    return tables


def _best_longer(total: Floats) -> tuple[Floats, Integers]:
    """The most that a longer length had with one range less, and which length (the longest of equals). # [ranges, length] each"""
    fallen = total[:-1, :0:-1]  # from the longest length on, without the shortest
    best = np.maximum.accumulate(fallen, axis=1)
    rises = np.ones(fallen.shape, dtype=bool)
    rises[:, 1:] = fallen[:, 1:] > best[:, :-1]
    which = np.maximum.accumulate(np.where(rises, np.arange(fallen.shape[1]), 0), axis=1)
    longer, pick = np.full(total.shape, -np.inf), np.zeros(total.shape, dtype=np.int64)
    longer[1:, :-1] = best[:, ::-1]
    pick[1:, :-1] = total.shape[1] - 1 - which[:, ::-1]
    return longer, pick


def _wandering(values: Floats) -> Floats:
    """The mean over the sizes that a batch wanders through. # [R, γ+1]"""
    sums = np.concatenate((np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)))
    sizes = np.arange(1, len(values) + 1)
    first = np.ceil(sizes / WANDER).astype(int) - 1
    last = np.minimum(np.floor(sizes * WANDER).astype(int), len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None])

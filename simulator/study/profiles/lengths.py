"""The draft length by batch size: a few ranges that give up nothing that a measurement could show, and what each is worth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Profile
from simulator.measurements.statistics import visited_rows

LARGEST = 16_384  # batch that lengths are looked for; the last range goes on
WANDER = 1.25  # a batch of R requests is now and then this much larger or smaller: no length is chosen for one size alone


@dataclass(frozen=True)
class Range:
    """Batch sizes with one length, ends included; what they gain over the best single length, in the mean over doublings of the batch. With the
    length of a range beside it batches that wander about `missed_at` requests would lose `missed` against the best lengths: more than the tolerance,
    else the range would not be there. None where there is but one."""

    first: int
    last: int
    length: int
    gain: float
    missed: float | None = None
    missed_at: int | None = None


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
    best = wandering[every, (more or [fixed])[-1]]
    enough = best - tolerance - 1e-12
    chosen = _non_rising(np.where(wandering >= enough[:, None], share, -np.inf))[0]
    starts = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist(), max_batch]
    weights = _weights(max_batch)
    ranges = []
    for a, b in pairwise(starts):
        gain = float(np.average(share[a:b, chosen[a]] / share[a:b, fixed[0]], weights=weights[a:b]) - 1)
        beside = [best[a:b] - wandering[a:b, chosen[other]] for other in (a - 1, b) if 0 <= other < max_batch]
        missed = min(beside, key=np.max, default=None)
        told = () if missed is None else (float(missed.max()), a + 1 + int(missed.argmax()))
        ranges.append(Range(a + 1, b, int(chosen[a]), gain, *told))
    lost = 1 - share[every, chosen]
    changes = int(np.count_nonzero(np.diff(share.argmax(axis=1))))
    return LengthTable(tuple(ranges), int(fixed[0]), changes, float(weights @ lost), float(lost.max()), int(lost.argmax()) + 1)


def unmeasured(profile: Profile, drafter: str, table: LengthTable) -> list[str]:
    """What a table of lengths goes by that nobody measured: positions, tokens of a step and requests, each with its remedy."""
    known, blocks, verify = profile.drafter(drafter), profile.blocks(drafter), profile.costs.verify
    longest, found = max(row.length for row in table.ranges), []
    if known.counted is not None and longest > known.counted:
        problem = f"k = {longest}, and {known.counted} tokens were drafted where acceptance was counted"
        found.append(f"{problem}: beyond them it is assumed; measure with k = {longest}")
    sent, _ = _sent(blocks, known.gamma)
    most, high = table.ranges[-1].last, verify.tokens_range()[1]
    sizes = (size for row in table.ranges for size in range(row.first, row.last + 1) if size * (1 + sent[row.length]) > high)
    if (first := next(sizes, None)) is not None:
        problem = f"from {first} requests on steps have more than the {high:.0f} tokens that the cost was measured at"
        found.append(f"{problem}: their cost is extrapolated; measure the profile there, or lower --max-batch")
    if (held := verify.most("requests")) is not None and most > held:
        problem = f"batches of more than the {held:.0f} requests that the cost was measured at"
        found.append(f"{problem}: their cost is too low; measure the profile with a higher --max-requests, or lower --max-batch")
    return found


def token_rates(profile: Profile, drafter: str, max_batch: int, context_tokens: float) -> Floats:
    """Expected tokens per second of batches of 1 … max_batch at every length, from the recorded blocks and the price of rounds; length 0 is
    ordinary decoding, which drafts nothing. # [R, γ+1]"""
    known, blocks, costs = profile.drafter(drafter, "--drafter", profile.folder), profile.blocks(drafter), profile.costs
    lengths = np.arange(known.gamma + 1)
    visited = [visited_rows(blocks, np.full(blocks.rows, length)) for length in lengths]
    committed = np.array([1 + np.minimum(blocks.accepted[rows], length).mean() for rows, length in zip(visited, lengths, strict=True)])
    rates = np.empty((max_batch, known.gamma + 1))
    sent, share = _sent(blocks, known.gamma)
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


def _sent(blocks: RecordedBlocks, gamma: int) -> tuple[Floats, Floats]:
    """Drafted tokens verified in a round at every length, and in which part of the rounds there are any. # [γ+1] each"""
    lengths = np.arange(gamma + 1)
    if (proposed := blocks.proposed) is None:
        return lengths.astype(float), np.ones(len(lengths))
    visited = [visited_rows(blocks, np.full(blocks.rows, length)) for length in lengths]
    sent = [np.minimum(proposed[rows], length).mean() for rows, length in zip(visited, lengths, strict=True)]
    return np.array(sent), np.array([(proposed[rows] > 0).mean() for rows in visited])


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

"""Statistics of recorded blocks, with standard errors over sequences (docs/design.md, "Recorded blocks")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats, Integers
from simulator.measurements.draft_blocks import RecordedBlocks


@dataclass(frozen=True)
class AcceptanceStatistics:
    """Acceptance over some rows; `_error` is one standard error, with whole sequences as the independent units."""

    rows: int
    sequences: int
    survival: Floats  # [γ], s_k = P(A ≥ k)
    survival_error: Floats  # [γ]
    conditional: Floats  # [γ], s_k / s_{k-1}; NaN where no row reached k - 1
    conditional_error: Floats  # [γ]
    accepted_length: float  # τ = 1 + Σ s_k, bonus included
    accepted_length_error: float


@dataclass(frozen=True)
class ThresholdPoint:
    """Replay under one static threshold (paper, Figure 5): tokens per step, bonus included in the committed ones."""

    threshold: float
    steps: int
    committed_tokens: float
    committed_error: float
    rejected_tokens: float
    rejected_error: float


def acceptance_statistics(blocks: RecordedBlocks, domain: str = "", rows: Integers | None = None) -> AcceptanceStatistics:
    """Survival, conditional acceptance and accepted length of a domain ("": all), over its anchors (`rows`: over those of them alone)."""
    rows = _rows_of(blocks, domain, rows)
    sequence, accepted = blocks.sequence_of_row[rows], blocks.accepted[rows]
    reached = (accepted[:, None] >= np.arange(blocks.gamma + 1)).astype(np.float64)  # [n, γ+1]
    survival, survival_error = np.array([_ratio(reached[:, k], reached[:, 0], sequence) for k in range(1, blocks.gamma + 1)]).T
    conditional, conditional_error = np.array([_ratio(reached[:, k], reached[:, k - 1], sequence) for k in range(1, blocks.gamma + 1)]).T
    length = _ratio(1.0 + accepted, reached[:, 0], sequence)
    return AcceptanceStatistics(len(rows), len(np.unique(sequence)), survival, survival_error, conditional, conditional_error, *length)


def autocorrelation(blocks: RecordedBlocks, lags: int, domain: str = "") -> Floats:
    """Correlation of A_i and A_{i+h} within sequences of a domain ("": all) for h = 0 … lags, about the mean of the domain, [lags + 1].

    Differences between sequences count: they are why some users are slow throughout.
    """
    rows = _rows_of(blocks, domain, None)
    sequence = blocks.sequence_of_row[rows]
    group = blocks.sequence_domain[sequence]
    mean = np.bincount(group, weights=blocks.accepted[rows]) / np.maximum(np.bincount(group), 1)
    apart = blocks.accepted[rows] - mean[group]
    variance = float(np.mean(apart**2))
    if variance == 0:
        return np.full(lags + 1, np.nan)
    together = (sequence[h:] == sequence[: len(sequence) - h] for h in range(lags + 1))
    products = (apart[h:] * apart[: len(apart) - h] for h in range(lags + 1))
    return np.array([product[same].mean() / variance if same.any() else np.nan for product, same in zip(products, together, strict=True)])


def rounds_to(blocks: RecordedBlocks, tokens: int, domain: str = "", verified: int | None = None) -> Integers:
    """Rounds until a walk from the start of a sequence has given `tokens` tokens, of every sequence of a domain ("": all) that has so many anchors,
    when `verified` (default: γ) are verified each time. Their mean gives the accepted length of whole answers, their spread that of users."""
    chosen = blocks.sequences_of(domain)
    chosen = chosen[blocks.length[chosen] >= tokens]
    advance = 1 + (blocks.accepted if verified is None else np.minimum(verified, blocks.accepted))  # [N]
    at, rounds = blocks.first_row[chosen].copy(), np.zeros(len(chosen), dtype=np.int64)
    end = at + tokens
    while (going := at < end).any():
        at[going] += advance[at[going]]
        rounds += going
    return rounds


def visited_rows(blocks: RecordedBlocks, verified: Integers | None = None) -> Integers:
    """Rows that a request reaches when it walks each sequence from its start and verifies `verified` [N] tokens (default: all γ)."""
    advance = 1 + (blocks.accepted if verified is None else np.minimum(verified, blocks.accepted))  # [N]
    anchor = np.zeros(len(blocks.length), dtype=np.int64)
    visits = []
    live = np.flatnonzero(anchor < blocks.length)
    while live.size:
        rows = blocks.first_row[live] + anchor[live]
        visits.append(rows)
        anchor[live] += advance[rows]
        live = live[anchor[live] < blocks.length[live]]
    return np.sort(np.concatenate(visits))


def threshold_sweep(
    blocks: RecordedBlocks, thresholds: Sequence[float], temperatures: Sequence[float] | None = None, domain: str = ""
) -> list[ThresholdPoint]:
    """Replay with the prefix before the first conditional confidence below each threshold (paper, Figure 5)."""
    confidence = blocks.conditional(temperatures)
    points = []
    for threshold in thresholds:
        verified = np.logical_and.accumulate(confidence >= threshold, axis=1).sum(axis=1, dtype=np.int64)  # [N]
        rows = _rows_of(blocks, domain, visited_rows(blocks, verified))
        accepted = np.minimum(verified, blocks.accepted)[rows]
        sequence, steps = blocks.sequence_of_row[rows], np.ones(len(rows))
        committed, committed_error = _ratio(1.0 + accepted, steps, sequence)
        rejected, rejected_error = _ratio(verified[rows] - accepted, steps, sequence)
        points.append(ThresholdPoint(threshold, len(rows), committed, committed_error, rejected, rejected_error))
    return points


def _rows_of(blocks: RecordedBlocks, domain: str, rows: Integers | None) -> Integers:
    """The `rows` (default: all) of a domain."""
    rows = np.arange(blocks.rows) if rows is None else rows
    if domain == "":
        return rows
    return rows[np.isin(blocks.sequence_of_row[rows], blocks.sequences_of(domain))]


def _ratio(above: NDArray[np.floating[Any] | np.signedinteger[Any]], below: Floats, sequence: Integers) -> tuple[float, float]:
    """Σ above / Σ below and its standard error with sequences as clusters (linearised ratio estimator; infinite for one sequence)."""
    total = float(below.sum())
    if total == 0:
        return float("nan"), float("nan")
    ratio = float(above.sum()) / total
    clusters = np.unique(sequence)
    residual = np.bincount(sequence, weights=above - ratio * below)[clusters]  # [sequences]
    count = len(clusters)
    error = np.sqrt(count / (count - 1) * np.sum(residual**2)) / total if count > 1 else np.inf
    return ratio, float(error)

"""Statistics of recorded blocks against what is known by hand, in standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.statistics import acceptance_statistics, autocorrelation, threshold_sweep, visited_rows


def clustered(seed: int, sequences: int = 30, anchors: int = 60, gamma: int = 4, alike: float = 4.0) -> RecordedBlocks:
    """Each sequence has its own constant acceptance, Beta(alike · 0.7, alike · 0.3); A is geometric within it."""
    luck = np.random.default_rng(seed)
    own = luck.beta(alike * 0.7, alike * 0.3, sequences)
    rows = sequences * anchors
    taken = luck.random((rows, gamma)) < np.repeat(own, anchors)[:, None]
    return RecordedBlocks(
        drafter="d", gamma=gamma, temperature=None, provenance="synthetic", source="test", domains=("math", "chat"),
        sequence_domain=np.arange(sequences) % 2, first_row=np.arange(sequences) * anchors, length=np.full(sequences, anchors),
        accepted=np.logical_and.accumulate(taken, axis=1).sum(axis=1), confidence=np.full((rows, gamma), 0.5),
    )  # fmt: skip


def test_by_hand() -> None:
    blocks = RecordedBlocks(
        drafter="d", gamma=2, temperature=0.0, provenance="synthetic", source="test", domains=("a", "b"),
        sequence_domain=np.array([0, 1]), first_row=np.array([0, 3]), length=np.array([3, 1]), accepted=np.array([2, 0, 1, 2]),
    )  # fmt: skip
    every = acceptance_statistics(blocks)
    np.testing.assert_allclose(every.survival, [3 / 4, 2 / 4])
    np.testing.assert_allclose(every.conditional, [3 / 4, 2 / 3])
    assert every.accepted_length == pytest.approx(1 + 5 / 4)
    assert (every.rows, every.sequences) == (4, 2)
    np.testing.assert_allclose(acceptance_statistics(blocks, "a").survival, [2 / 3, 1 / 3])
    alone = acceptance_statistics(blocks, "b")
    assert alone.accepted_length == 3
    assert alone.accepted_length_error == np.inf  # one sequence says nothing of the spread
    assert visited_rows(blocks).tolist() == [0, 3]
    assert visited_rows(blocks, np.array([1, 1, 1, 1])).tolist() == [0, 2, 3]
    assert visited_rows(blocks, np.zeros(4, dtype=np.int64)).tolist() == [0, 1, 2, 3]


def test_standard_errors_respect_sequences() -> None:
    """The reported error is the true scatter over repetitions; rows taken for independent would claim half of it."""
    found = [acceptance_statistics(clustered(seed)) for seed in range(300)]
    for name in ("accepted_length", "survival", "conditional"):
        scatter = np.std([getattr(s, name) for s in found], axis=0, ddof=1)
        reported = np.sqrt(np.mean([np.square(getattr(s, f"{name}_error")) for s in found], axis=0))
        np.testing.assert_allclose(reported / scatter, 1, atol=4 / np.sqrt(2 * 300))  # a standard deviation of n is known to 1/√(2n)
    naive = np.mean([np.std(clustered(seed).accepted) / np.sqrt(30 * 60) for seed in range(5)])
    assert np.std([s.accepted_length for s in found]) > 2 * naive


def test_autocorrelation_of_constant_sequences_and_of_luck() -> None:
    """Variance of A splits into between and within sequences; only the first correlates, at every lag alike."""
    blocks = clustered(1, sequences=2000, anchors=40)
    found = autocorrelation(blocks, 20)
    assert found[0] == pytest.approx(1)
    c = np.random.default_rng(0).beta(2.8, 1.2, 400_000)
    mean = c + c**2 + c**3 + c**4  # E[A | sequence]
    second = sum((2 * k - 1) * c**k for k in range(1, 5))  # E[A²] = Σ (2k - 1) P(A ≥ k)
    share = np.var(mean) / (np.mean(second) - np.mean(mean) ** 2)
    np.testing.assert_allclose(found[1:], share, atol=4 * share * np.sqrt(2 / 2000))
    independent = autocorrelation(clustered(2, sequences=500, anchors=40, alike=1e7), 5)
    assert np.all(np.abs(independent[1:]) < 4 / np.sqrt(500 * 35))


def test_threshold_sweep_replays_what_is_sure_enough() -> None:
    base = clustered(3, sequences=400)
    accepted_at = base.accepted[:, None] > np.arange(base.gamma)  # a head that knows
    blocks = RecordedBlocks(**{**vars(base), "confidence": np.where(accepted_at, 0.9, 0.1)})
    none, exact, every = threshold_sweep(blocks, [0.95, 0.5, 0.0])
    assert (none.committed_tokens, none.rejected_tokens, none.steps) == (1.0, 0.0, blocks.rows)
    assert exact.rejected_tokens == 0.0
    full = acceptance_statistics(blocks, rows=visited_rows(blocks))
    for point in (exact, every):
        assert point.committed_tokens == pytest.approx(full.accepted_length)
        assert point.committed_error == pytest.approx(full.accepted_length_error)
    assert every.committed_tokens + every.rejected_tokens == pytest.approx(1 + blocks.gamma)
    assert threshold_sweep(blocks, [0.0], domain="chat")[0].steps + threshold_sweep(blocks, [0.0], domain="math")[0].steps == every.steps
    assert threshold_sweep(blocks, [0.5], temperatures=[1e-3] * 4)[0].rejected_tokens == 0.0

"""Sequential temperature scaling and its scores, against brute force and against heads whose fault is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulator.errors import ProfileError
from simulator.measurements.calibration import (
    auroc,
    brier,
    calibration_report,
    expected_calibration_error,
    fit_temperatures,
    reliability_curve,
)

Floats = NDArray[np.float64]
STRETCH = (1.6, 2.2, 0.7)  # by how much the head overstates its logit at each slot


def head(seed: int, rows: int, stretch: tuple[float, ...] = STRETCH) -> tuple[Floats, NDArray[np.int64]]:
    """Raw confidences [rows, γ] of a head whose logits are `stretch` times the true ones, and A."""
    luck = np.random.default_rng(seed)
    logit = 1.0 + 1.5 * luck.standard_normal((rows, len(stretch)))
    taken = luck.random(logit.shape) < 1 / (1 + np.exp(-logit))
    return 1 / (1 + np.exp(-logit * np.array(stretch))), np.logical_and.accumulate(taken, axis=1).sum(axis=1)


def scaled(confidence: Floats, temperatures: list[float]) -> Floats:
    return np.asarray(np.cumprod(1 / (1 + (1 / confidence - 1) ** (1 / np.array(temperatures))), axis=1))


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.9]), st.booleans()), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_ranked_right(pairs: list[tuple[float, bool]]) -> None:
    predicted, outcome = np.array([p for p, _ in pairs]), np.array([y for _, y in pairs])
    contests = [(p > q) + 0.5 * (p == q) for p, won in pairs if won for q, lost in pairs if not lost]
    if contests:
        assert auroc(predicted, outcome) == pytest.approx(np.mean(contests), abs=1e-12)
    else:
        assert np.isnan(auroc(predicted, outcome))


def test_scores_by_hand() -> None:
    predicted, outcome = np.array([0.01, 0.03, 0.97, 1.0]), np.array([False, True, True, True])
    assert expected_calibration_error(predicted, outcome) == pytest.approx((2 * abs(0.02 - 0.5) + 2 * abs(0.985 - 1)) / 4)
    assert brier(predicted, outcome) == pytest.approx((0.01**2 + 0.97**2 + 0.03**2) / 4)
    curve = reliability_curve(predicted, outcome)
    np.testing.assert_allclose(curve.predicted, [0.02, 0.985])
    np.testing.assert_allclose(curve.observed, [0.5, 1.0])
    assert curve.rows.tolist() == [2, 2]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 400), bins=st.integers(1, 40))
def test_the_curve_holds_the_error(seed: int, rows: int, bins: int) -> None:
    luck = np.random.default_rng(seed)
    predicted, outcome = luck.random(rows), luck.random(rows) < 0.4
    curve = reliability_curve(predicted, outcome, bins)
    assert curve.rows.sum() == rows
    gaps = np.abs(curve.predicted - curve.observed) * curve.rows / rows
    assert expected_calibration_error(predicted, outcome, bins) == pytest.approx(gaps.sum(), abs=1e-12)


def test_a_perfect_head_scores_what_luck_alone_gives() -> None:
    """ECE of perfect predictions is the mean |N(0, p(1-p)/n)| of its bins, no more."""
    luck = np.random.default_rng(5)
    predicted = np.sort(luck.random(20_000))
    bins = np.minimum((predicted * 20).astype(int), 19)
    expected = np.sqrt(2 / np.pi * np.bincount(bins, weights=predicted * (1 - predicted))).sum() / 20_000
    found = [expected_calibration_error(predicted, luck.random(20_000) < predicted) for _ in range(40)]
    error = np.std(found, ddof=1) / np.sqrt(40)
    assert abs(np.mean(found) - expected) < 4 * error
    assert expected_calibration_error(predicted, luck.random(20_000) < predicted**1.1) > expected + 20 * error


def test_known_stretches_are_found_and_mended_on_other_rows() -> None:
    confidence, accepted = head(1, 60_000)
    fits = np.array([fit_temperatures(*head(seed, 20_000)) for seed in range(10, 22)])  # [12, γ]
    error = fits.std(axis=0, ddof=1) / np.sqrt(len(fits))
    assert np.all(np.abs(fits.mean(axis=0) - STRETCH) < 4 * error)
    assert np.all(error < 0.03 * np.array(STRETCH)), "no power: the fits scatter too much"
    before = calibration_report(scaled(confidence, [1.0] * 3), accepted)
    after = calibration_report(scaled(confidence, fits[0].tolist()), accepted)
    assert np.all(after.error < 0.3 * before.error)
    assert np.all(after.brier < before.brier)
    assert after.auroc[0] == pytest.approx(before.auroc[0], abs=1e-12)  # order-preserving within a position


def test_later_slots_leave_earlier_temperatures_frozen() -> None:
    confidence, accepted = head(2, 5_000)
    whole = fit_temperatures(confidence, accepted)
    for gamma in (1, 2):
        assert fit_temperatures(confidence[:, :gamma], accepted) == whole[:gamma]


@pytest.mark.parametrize("rows", [200, 5_000])
@pytest.mark.parametrize("bins", [5, 20])
def test_search_is_as_good_as_a_fine_grid(rows: int, bins: int) -> None:
    """ECE is piecewise in t: the search must not be caught far above the best of 2000 temperatures."""
    for seed in range(5):
        confidence, accepted = head(seed, rows)
        found = fit_temperatures(confidence[:, :1], accepted, bins)
        grid = [expected_calibration_error(scaled(confidence[:, :1], [t])[:, 0], accepted >= 1, bins) for t in np.geomspace(0.1, 10, 2000)]
        at = expected_calibration_error(scaled(confidence[:, :1], found)[:, 0], accepted >= 1, bins)
        assert at - min(grid) < 0.25 / np.sqrt(rows)  # a quarter of the luck in one row's outcome, 1/√rows at most


def test_a_calibrated_head_is_left_alone() -> None:
    fits = np.array([fit_temperatures(*head(seed, 20_000, (1.0, 1.0))) for seed in range(8)])
    assert np.all(np.abs(fits.mean(axis=0) - 1) < 4 * fits.std(axis=0, ddof=1) / np.sqrt(8))


def test_rows_that_do_not_match_are_refused() -> None:
    with pytest.raises(ProfileError, match="2 rows, 3 outcomes"):
        fit_temperatures(np.full((2, 1), 0.5), np.zeros(3, dtype=np.int64))

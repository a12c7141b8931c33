"""Calibration fitted on one half of the texts and judged on the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ProfileError
from simulator.measurements.calibration import calibrate, conditional_auroc, fit_temperatures, halves
from simulator.measurements.draft_blocks import RecordedBlocks

STRETCH = (1.6, 2.2, 0.5)  # by how much the head overstates its logit at each slot


def recorded(seed: int, domain_of: list[int], length: int, stretch: tuple[float, ...] = STRETCH) -> RecordedBlocks:
    """Texts of `length` anchors each under a head whose logits are `stretch` times the true ones."""
    luck, sequences = np.random.default_rng(seed), len(domain_of)
    logit = 1.0 + 1.5 * luck.standard_normal((sequences * length, len(stretch)))
    taken = luck.random(logit.shape) < 1 / (1 + np.exp(-logit))
    return RecordedBlocks(
        drafter="toy", gamma=len(stretch), temperature=1.0, provenance="synthetic", source="known stretch",
        domains=tuple("abc"[: max(domain_of) + 1]), sequence_domain=np.array(domain_of), first_row=np.arange(sequences) * length,
        length=np.full(sequences, length), accepted=np.logical_and.accumulate(taken, axis=1).sum(axis=1),
        confidence=1 / (1 + np.exp(-logit * np.array(stretch))),
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(domain_of=st.lists(st.integers(0, 2), min_size=2, max_size=20), length=st.integers(1, 5))
def test_halves_are_whole_texts_by_turns_within_each_domain(domain_of: list[int], length: int) -> None:
    blocks = recorded(0, domain_of, length)
    fit, judged = halves(blocks)
    assert sorted([*fit, *judged]) == list(range(blocks.rows))
    sides = [set(blocks.sequence_of_row[rows].tolist()) for rows in (fit, judged)]
    assert not sides[0] & sides[1]
    for domain in set(domain_of):
        mine = [s in sides[0] for s, of in enumerate(domain_of) if of == domain]
        assert all(a != b for a, b in itertools.pairwise(mine))
    assert abs(len(sides[0]) - len(sides[1])) <= 1


def test_a_miscalibrated_head_is_better_at_every_position_on_texts_it_was_not_fitted_on() -> None:
    blocks = recorded(1, [0, 1, 2, 1] * 50, 200)
    found = calibrate(blocks)
    assert np.all(found.after.error < 0.6 * found.before.error)
    assert found.after.auroc[0] == pytest.approx(found.before.auroc[0], abs=1e-12)
    judged = halves(blocks)[1]
    np.testing.assert_allclose(found.conditional_auroc, conditional_auroc(blocks.conditional()[judged], blocks.accepted[judged]), atol=1e-12)
    assert np.abs(found.after.auroc - found.before.auroc).max() < 0.02  # products: nearly
    for report in (found.before, found.after):
        gaps = [np.sum(np.abs(c.predicted - c.observed) * c.rows) / c.rows.sum() for c in report.reliability]
        np.testing.assert_allclose(gaps, report.error, atol=1e-12)


def test_only_the_fitted_half_moves_the_temperatures() -> None:
    blocks = recorded(2, [0] * 40, 50)
    fit, judged = halves(blocks)
    assert blocks.confidence is not None
    assert calibrate(blocks).temperatures == fit_temperatures(blocks.confidence[fit], blocks.accepted[fit])
    accepted = blocks.accepted.copy()
    accepted[judged] = 0
    other = RecordedBlocks(**(vars(blocks) | {"accepted": accepted}))
    assert calibrate(other).temperatures == calibrate(blocks).temperatures


def test_where_no_temperature_helps_it_stays_1() -> None:
    assert fit_temperatures(np.full((50, 2), 0.5), np.zeros(50, dtype=np.int64)) == [1.0, 1.0]  # σ(0 / t) is 1/2 for all t


def test_conditional_auroc_is_of_rows_that_got_there() -> None:
    confidence, accepted = np.array([[0.9, 0.2], [0.8, 0.7], [0.1, 0.9], [0.7, 0.6]]), np.array([1, 2, 0, 2])
    assert conditional_auroc(confidence, accepted).tolist() == [1.0, 1.0]
    assert conditional_auroc(confidence, np.array([1, 2, 2, 0])).tolist() == [0.5 + 1 / 6, 1.0]


def test_one_text_is_too_few() -> None:
    with pytest.raises(ProfileError, match="needs at least two sequences, got 1"):
        calibrate(recorded(3, [0], 50))

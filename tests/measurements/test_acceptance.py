"""The parametric generator against the paper's Figures 2 and 6 and against closed forms, in standard errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator.errors import ProfileError, ScenarioError
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.calibration import CalibrationReport, calibration_report, fit_temperatures
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.statistics import acceptance_statistics, autocorrelation, visited_rows
from simulator.quantities import TINY
from simulator.schema import validate

FIGURE_2 = {  # DSpark on Qwen3-4B, published conditional acceptance
    "math": [0.9053, 0.8899, 0.8878, 0.885433, 0.8872, 0.890567, 0.882433],
    "code": [0.8857, 0.871933, 0.859767, 0.8608, 0.8579, 0.8594, 0.850967],
    "chat": [0.7353, 0.7376, 0.7402, 0.744067, 0.7583, 0.7656, 0.7609],
}
POSITIONS = np.array([0, 2, 4, 6])  # Figure 6 shows 1, 3, 5, 7
FIGURE_6_AUC = np.array([0.818, 0.812, 0.864, 0.907])
FIGURE_6_ECE = np.array([0.057, 0.082, 0.058, 0.033])


def generate(domains: tuple[str, ...] = ("math", "code", "chat"), **changes: Any) -> RecordedBlocks:
    return ParametricAcceptance(conditional={d: FIGURE_2[d] for d in domains}, **changes).generate("DSpark", "synthetic", "test")


@pytest.mark.parametrize("anchors", ["visited", "all"])
def test_published_marginals_are_hit(anchors: str) -> None:
    """On the anchors they were asked for: within luck of the published, and far from what 0.3 logits more would give."""
    blocks = generate(anchors=anchors, sequences_per_domain=150)
    higher = generate(anchors=anchors, sequences_per_domain=150, level_shift=0.3)
    for domain, target in FIGURE_2.items():
        c, error = _conditional(blocks, domain, anchors)
        assert np.all(np.abs(c - target) < 4 * error)
        shifted = 1 / (1 + np.exp(-0.3) * (1 / np.array(target) - 1))
        c, error = _conditional(higher, domain, anchors)
        assert np.all(np.abs(c - shifted) < 4 * error)
        assert np.sum(((c - target) / error) ** 2) > 100  # 7 expected


def _conditional(blocks: RecordedBlocks, domain: str, anchors: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rows = visited_rows(blocks) if anchors == "visited" else None
    found = acceptance_statistics(blocks, domain, rows)
    return found.conditional, found.conditional_error


def test_places_behind_rejections_are_harder() -> None:
    """Why `anchors` matters: marginals that hold over all anchors are missed by the run the paper measured."""
    blocks = generate(anchors="all", sequences_per_domain=150)
    c, error = _conditional(blocks, "chat", "visited")
    assert (c[0] - FIGURE_2["chat"][0]) / error[0] < -10


def test_without_spread_the_accepted_length_is_the_closed_form() -> None:
    """Independent slots: τ = 1 + Σ_k Π_{j≤k} c_j, no autocorrelation, one confidence per slot and domain."""
    c = 0.8
    blocks = ParametricAcceptance(conditional={"any": [c] * 5}, spread=0, miscalibration=[1.0], sequences_per_domain=400).generate("d")
    found = acceptance_statistics(blocks)
    assert abs(found.accepted_length - (1 + sum(c**k for k in range(1, 6)))) < 4 * found.accepted_length_error
    assert found.accepted_length_error < 0.01
    np.testing.assert_allclose(blocks.conditional(), c, atol=1e-4)
    lags = autocorrelation(blocks, 12)
    assert np.all(np.abs(lags[1:]) < 4 / np.sqrt(blocks.rows))


@pytest.fixture(scope="module")
def figure_6() -> tuple[CalibrationReport, CalibrationReport]:
    """Prefix survival on the chat row at visited anchors, before and after calibration on other sequences."""
    blocks = generate(("chat",), sequences_per_domain=1000)
    rows = visited_rows(blocks)
    fit, judge = (rows[blocks.sequence_of_row[rows] % 2 == half] for half in (0, 1))
    assert blocks.confidence is not None
    temperatures = fit_temperatures(blocks.confidence[fit], blocks.accepted[fit])
    before, after = (calibration_report(blocks.survival(t)[judge], blocks.accepted[judge]) for t in (None, temperatures))
    return before, after


def test_defaults_come_near_figure_6(figure_6: tuple[CalibrationReport, CalibrationReport]) -> None:
    """Published AUC within 0.03 (a dip at position 3 is beyond the model), published ECE within 1 point."""
    before, _ = figure_6
    np.testing.assert_allclose(before.auroc[POSITIONS], FIGURE_6_AUC, atol=0.03)
    assert np.all((before.auroc > 0.80) & (before.auroc < 0.91))
    np.testing.assert_allclose(before.error[POSITIONS], FIGURE_6_ECE, atol=0.01)
    assert np.all((before.error > 0.03) & (before.error < 0.09))


def test_calibration_helps_at_every_position_and_keeps_the_order(figure_6: tuple[CalibrationReport, CalibrationReport]) -> None:
    before, after = figure_6
    assert np.all(after.error < before.error / 2)
    assert np.all(after.error < 0.02 + 0.005)  # published: 2.0 % at most, and the luck of a sample
    np.testing.assert_allclose(after.auroc, before.auroc, atol=0.005)
    assert after.auroc[0] == pytest.approx(before.auroc[0], abs=1e-12)


def test_correlation_and_sequence_share_move_the_autocorrelation() -> None:
    def lags(**changes: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        found = [autocorrelation(generate(("chat",), seed=seed, **changes), 60) for seed in range(6)]
        return np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(6)

    loose, loose_error = lags(correlation=0.0, sequence_share=0.0)
    tight, tight_error = lags(correlation=0.9, sequence_share=0.0)
    shared, shared_error = lags(correlation=0.0, sequence_share=0.4)
    assert np.all((tight - loose)[1:15] > 5 * np.hypot(loose_error, tight_error)[1:15])
    assert abs(loose[60]) < 4 * loose_error[60]  # forgotten once the blocks no longer overlap
    assert shared[60] > 10 * shared_error[60]  # a hard text stays hard


def test_auc_grows_with_spread_and_falls_with_noise() -> None:
    def auc(**changes: Any) -> float:
        blocks = generate(("chat",), miscalibration=[1.0], sequences_per_domain=200, **changes)
        return float(calibration_report(blocks.survival(), blocks.accepted).auroc[0])

    assert auc(spread=1.0) + 0.05 < auc(spread=2.0) < auc(spread=3.0) - 0.05
    assert auc(confidence_noise=2.0) + 0.05 < auc(confidence_noise=0.0)


def test_an_unstretched_head_is_a_calibrated_predictor() -> None:
    """Through noise as large as the spread, the first slot's confidence is still right on average in every bin."""
    for noise in (0.0, 1.0, 2.0):
        blocks = generate(("chat",), confidence_noise=noise, miscalibration=[1.0], anchors="all", correlation=0, sequences_per_domain=1000)
        assert calibration_report(blocks.survival(), blocks.accepted).error[0] < 0.01


def test_same_seed_same_blocks_and_smooth_in_the_parameters() -> None:
    one, again, other = generate(), generate(), generate(seed=1)
    np.testing.assert_array_equal(one.accepted, again.accepted)
    assert np.mean(one.accepted != other.accepted) > 0.3
    nudges = {"spread": 1.951, "level_shift": 0.001, "correlation": 0.6005, "sequence_share": 0.1505, "confidence_noise": 1.001}
    for parameter, value in nudges.items():
        near = generate(("math", "code", "chat"), **{parameter: value})
        assert np.mean(near.accepted != one.accepted) < 0.005
        assert np.abs(near.conditional() - one.conditional()).max() < 0.005
        assert np.any(near.conditional() != one.conditional())


def upto(most: float) -> st.SearchStrategy[float]:
    return st.floats(TINY, most) | st.just(0.0)


@settings(max_examples=25, deadline=None)
@given(
    conditional=st.lists(st.floats(0.05, 0.98), min_size=1, max_size=7), spread=upto(4), correlation=upto(0.95),
    share=upto(1), noise=upto(3), stretch=st.lists(st.floats(0.5, 3), min_size=1, max_size=9),
)  # fmt: skip
def test_any_parameters_give_consistent_blocks(
    conditional: list[float], spread: float, correlation: float, share: float, noise: float, stretch: list[float]
) -> None:
    model = ParametricAcceptance(
        conditional={"a": conditional, "b": conditional[::-1]}, spread=spread, correlation=correlation, sequence_share=share,
        confidence_noise=noise, miscalibration=stretch, sequences_per_domain=5, anchors_per_sequence=12,
    )  # fmt: skip
    try:
        blocks = model.generate("d")
    except ProfileError:  # marginals that so few and so unlike anchors cannot have
        assume(spread <= 2)
        raise
    assert blocks.confidence is not None
    assert blocks.acceptance is not None
    assert np.all((blocks.confidence > 0) & (blocks.confidence < 1))
    np.testing.assert_array_equal(np.isnan(blocks.acceptance), np.arange(blocks.gamma) > blocks.accepted[:, None])
    assert blocks.domains == ("a", "b")
    assert blocks.first_row.tolist() == list(range(0, 120, 12))


@pytest.mark.parametrize(
    "content, expected",
    [
        ({"conditional": {"a": [0.5], "b": [0.5, 0.6]}}, "same number of positions"),
        ({"conditional": {"a": [1.0]}}, "below 1"),
        ({"conditional": {}}, "one of 'conditional' and 'accepted_length'"),
        ({"conditional": {"a": [0.5]}, "accepted_length": {"a": [1.5]}}, "one of 'conditional' and 'accepted_length'"),
        ({"conditional": {"a": [0.5]}, "variation": {"b": {}}}, "'b', which has no marginals"),
        ({"conditional": {"a": [0.5]}, "sequence_share": 0.6, "slow_share": 0.6}, "above 1"),
        ({"accepted_length": {"a": [1.5]}, "proposing": 0.5}, "in a part of the rounds"),
        ({"conditional": {"a": [0.5]}, "sprad": 1}, "did you mean 'spread'"),
        ({"conditional": {"a": [0.5]}, "correlation": 1.0}, "correlation"),
    ],
)
def test_nonsense_is_refused(content: dict[str, Any], expected: str) -> None:
    with pytest.raises(ScenarioError, match=expected):
        validate(ParametricAcceptance, content, "profile.yaml")


def test_marginals_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(ProfileError, match="lower 'spread'"):
        generate(spread=10, correlation=0.9, sequence_share=1.0, sequences_per_domain=4, anchors_per_sequence=32)


@pytest.mark.parametrize("rate", [1e-6, 1 - 1e-6])
def test_the_longest_block_of_the_rarest_acceptance_has_numbers(rate: float) -> None:
    shape = ParametricAcceptance(conditional={"any": [rate] * 127}, spread=0.0, sequences_per_domain=2, anchors_per_sequence=16)
    with np.errstate(invalid="raise", divide="raise"):
        blocks = shape.generate("d")
    assert blocks.confidence is not None
    assert ((blocks.confidence > 0) & (blocks.confidence < 1)).all()

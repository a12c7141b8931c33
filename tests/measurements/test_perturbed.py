"""A profile with one number moved: costs by their factors, acceptance to the marginals asked for, row by row in one direction."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.perturbed import perturbed, shifted
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Profile, load_profile
from simulator.measurements.statistics import acceptance_statistics
from simulator.measurements.uncertainty import Parameter, Unsure

SHIFTS = st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3).map(np.array)


@pytest.fixture(scope="module")
def blocks() -> RecordedBlocks:
    made = ParametricAcceptance(
        conditional={"chat": [0.7, 0.6, 0.5], "code": [0.9, 0.8, 0.8]}, miscalibration=[1.0], sequences_per_domain=24, anchors_per_sequence=200
    )
    return made.generate("head")


@pytest.fixture
def profile(made_profile: Path) -> Profile:
    return load_profile(made_profile)


def logit(p: float) -> float:
    return log(p / (1 - p))


@pytest.mark.parametrize("shift", [-0.8, -0.1, 0.1, 0.8])
def test_marginals_are_those_asked_for(blocks: RecordedBlocks, shift: float) -> None:
    made = shifted(blocks, np.full(3, shift))
    for domain in blocks.domains:
        was, told = acceptance_statistics(blocks, domain), acceptance_statistics(made, domain)
        wanted = 1 / (1 + np.exp(-np.array([logit(c) for c in was.conditional]) - shift))
        drawn = [(made.accepted[blocks.sequence_domain[blocks.sequence_of_row] == blocks.domains.index(domain)] >= k).sum() for k in range(3)]
        error = np.sqrt(wanted * (1 - wanted) / np.array(drawn))
        assert np.all(np.abs(told.conditional - wanted) < 4 * error)


@given(SHIFTS, SHIFTS)
def test_rows_move_one_way(blocks: RecordedBlocks, one: np.ndarray, other: np.ndarray) -> None:
    low, high = shifted(blocks, np.minimum(one, other)), shifted(blocks, np.maximum(one, other))
    assert np.all(low.accepted <= high.accepted)
    assert low.confidence is not None
    assert high.confidence is not None
    assert np.all(low.confidence <= high.confidence + 1e-12)


def test_nothing_moves_by_nothing(blocks: RecordedBlocks, profile: Profile) -> None:
    assert shifted(blocks, np.zeros(3)) is blocks
    tiny = shifted(blocks, np.full(3, 1e-12))
    assert np.array_equal(tiny.accepted, blocks.accepted)
    assert perturbed(profile, Unsure(parameter="step", sd=0.1), 0.0) is profile


@pytest.mark.parametrize("shift", [-0.6, 0.6])
def test_calibrated_confidences_stay_so(shift: float, tmp_path: Path) -> None:
    warmth = [2.0, 0.5, 1.5]
    known = ParametricAcceptance(
        conditional={"chat": [0.7, 0.6, 0.5]}, confidence_noise=0, miscalibration=warmth, sequences_per_domain=40, anchors_per_sequence=300
    ).generate("head")
    made = shifted(known, np.full(3, shift), warmth)
    made.save(tmp_path / "moved.parquet")
    made = RecordedBlocks.load(tmp_path / "moved.parquet")  # all that a file must hold
    for slot in range(3):
        reached, told = made.accepted >= slot, made.conditional(warmth)[:, slot]
        apart = (made.accepted[reached] > slot) - told[reached]
        if slot == 0:
            assert abs(apart.mean()) < 4 * apart.std() / np.sqrt(reached.sum())
        else:  # rows that come further than they did go on as the domain does, and know less of it
            assert abs(apart.mean()) < 0.05


def test_a_block_is_accepted_no_further_than_it_is_proposed(blocks: RecordedBlocks) -> None:
    some = blocks.proposing(np.arange(blocks.rows) % 4)
    made = shifted(some, np.full(3, 1.2))
    assert some.proposed is not None
    assert np.all(made.accepted <= some.proposed)
    assert made.accepted.sum() > some.accepted.sum()
    assert made.confidence is not None
    assert np.all((made.confidence > 0) == made.is_proposed)


@pytest.mark.parametrize(
    ("parameter", "one", "more"),
    [("step", 1.2, 1.2), ("pace", 1.2, 1.2), ("verified", 1.0, None), ("growth", 1.0, 1.0), ("prefill", 1.0, 1.0), ("draft", 1.0, 1.0)],
)
def test_costs_move_by_their_factor(profile: Profile, parameter: Parameter, one: float, more: float | None) -> None:
    """Of 10 requests with 1 and with 3 tokens each; T(B) = 10 ms + 0.1 ms B, measured up to 200 tokens, and 1 ms beside."""
    moved = perturbed(profile, Unsure(parameter=parameter, drafter="head", sd=log(1.2)), 1.0)
    usual, then = (RoundCost(p.costs, p.drafters["head"].draft, 3, 3).round_s(10, 0.0) for p in (profile, moved))
    drafted = log(1.2) * 0.011 if parameter == "draft" else 0.0  # of a step of 10 tokens
    assert then[0] == pytest.approx(usual[0] * one + drafted)
    expected = usual[20] * more if more else 0.001 + 0.011 + 1.2 * 0.002
    assert then[20] == pytest.approx(expected + drafted)


def test_growth_is_beyond_what_was_measured(profile: Profile) -> None:
    moved = perturbed(profile, Unsure(parameter="growth", sd=0.5), 1.0)
    assert moved.costs.verify.seconds(200) == profile.costs.verify.seconds(200)
    assert float(moved.costs.verify.seconds(300)) == pytest.approx(0.03 + 0.01 * exp(0.5))


def test_drafting_never_costs_less_than_nothing(profile: Profile) -> None:
    moved = perturbed(profile, Unsure(parameter="draft", drafter="head", sd=0.5), -1.0)
    assert moved.drafters["head"].draft.seconds(4, 0.0, 3) == 0.0


def test_what_every_step_takes_moves_instead_of_drafting(profile: Profile) -> None:
    head = profile.drafters["head"]
    draft = head.draft.model_copy(update={"every_step_s": -0.001})
    known = profile.model_copy(update={"drafters": {"head": head.model_copy(update={"draft": draft})}})
    moved = perturbed(known, Unsure(parameter="draft", drafter="head", sd=0.1), 1.0).drafters["head"].draft
    assert moved.every_step_s == pytest.approx(-0.001 + 0.1 * 0.0101)  # of a step of one token
    assert moved.seconds(4, 0.0, 3) == draft.seconds(4, 0.0, 3)
    paced = perturbed(known, Unsure(parameter="pace", drafter="head", sd=log(1.2)), 1.0)
    assert paced.drafters["head"].draft.every_step_s == pytest.approx(-0.0012)


def test_scheduling_takes_a_share_of_a_step(profile: Profile) -> None:
    """Nothing at first, so that it can only take more; and only where the rule goes by prices."""
    costs = {sign: perturbed(profile, Unsure(parameter="scheduling", sd=0.2), sign).costs for sign in (1.0, -1.0)}
    draft = profile.drafters["head"].draft
    assert RoundCost(costs[1.0], draft, 3, 3, scheduled=True).scheduling_s == pytest.approx(0.2 * 0.0101)
    assert RoundCost(costs[1.0], draft, 3, 3).scheduling_s == 0
    assert RoundCost(costs[-1.0], draft, 3, 3, scheduled=True).scheduling_s == 0

"""Every verification rule against the plain statement of it (docs/design.md, spec/verification_scheduling.md)."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from simulator.errors import DsimError
from simulator.policies.verification import (
    ByBatch,
    ConfidenceScheduled,
    FixedLength,
    NoSpeculation,
    Oracle,
    StepView,
    Threshold,
    Uniform,
    Verification,
    VerificationPolicy,
)

Floats = NDArray[np.float64]
CHECKED = settings(max_examples=200, deadline=None, derandomize=True)
SYNCHRONOUS, PRESENT = ConfidenceScheduled(mode="synchronous"), ConfidenceScheduled(lag=0)
EVERY = [
    NoSpeculation(), FixedLength(length=0), FixedLength(length=2), FixedLength(length=9), Threshold(threshold=0.5),
    Threshold(threshold=0.5, of="survival"), ByBatch(table=[(1, 2, 3), (3, 9, 1)]),
    SYNCHRONOUS, ConfidenceScheduled(mode="synchronous", min_length=1), PRESENT,
    ConfidenceScheduled(lag=1), ConfidenceScheduled(), ConfidenceScheduled(min_length=1), Uniform(), Uniform(lag=0, min_length=1), Oracle(),
]  # fmt: skip


def view(confidence: Floats, round_s: Floats, *lagged: Floats) -> StepView:
    """What a policy sees; `lagged` are confidences one and two steps ago."""
    before = [np.cumprod(c, axis=1) for c in lagged] or [np.ones_like(confidence)] * 2
    return StepView(*confidence.shape, confidence, np.cumprod(confidence, axis=1), before, round_s)


def throughput(lengths: Any, survival: Floats, round_s: Floats) -> float:
    """τ · SPS(B): tokens expected per second."""
    expected = sum(1 + survival[r, :length].sum() for r, length in enumerate(lengths))
    return float(expected / round_s[int(np.sum(lengths))])


def best(survival: Floats, round_s: Floats, least: int = 0) -> float:
    """By trying all lengths of all requests."""
    requests, gamma = survival.shape
    return max(throughput(lengths, survival, round_s) for lengths in product(range(least, gamma + 1), repeat=requests))


@st.composite
def batches(draw: st.DrawFn, curve: str = "any") -> tuple[Floats, Floats]:
    """Confidences [R, γ] with ties, and a price for every B: rising steps and cliffs, or (unimodal Θ) convex."""
    requests, gamma = draw(st.sampled_from([(1, 1), (1, 4), (2, 3), (3, 2), (4, 2), (5, 1)]))
    level = st.floats(0.05, 1.0) | st.sampled_from([0.25, 0.5, 0.9])
    confidence = np.array(draw(st.lists(level, min_size=requests * gamma, max_size=requests * gamma))).reshape(requests, gamma)
    rise = draw(st.lists(st.sampled_from([0.0, 0.01, 0.2, 3.0]) | st.floats(0, 1), min_size=requests * gamma, max_size=requests * gamma))
    steps = np.array(sorted(rise) if curve == "convex" else rise)
    return confidence, np.concatenate(([1.0], 1.0 + steps.cumsum()))


@CHECKED
@given(batches("convex"))
def test_algorithm_1_is_brute_force_on_unimodal_curves(drawn: tuple[Floats, Floats]) -> None:
    """Θ of the sorted path is a concave over a convex function of B, so it has one peak. Algorithm 1 stops at a tie, and a tie of neighbours
    does not end the rise only if both are the peak."""
    confidence, round_s = drawn
    survival = np.cumprod(confidence, axis=1)
    lengths = SYNCHRONOUS.choose(view(confidence, round_s))
    assert throughput(lengths, survival, round_s) == pytest.approx(best(survival, round_s), rel=1e-12)


@CHECKED
@given(batches())
def test_asynchronous_at_lag_0_is_brute_force_on_any_curve(drawn: tuple[Floats, Floats]) -> None:
    confidence, round_s = drawn
    survival = np.cumprod(confidence, axis=1)
    for least in (0, 1):
        lengths = ConfidenceScheduled(lag=0, min_length=least).choose(view(confidence, round_s))
        assert lengths.min() >= least
        assert throughput(lengths, survival, round_s) == pytest.approx(best(survival, round_s, least), rel=1e-12)


def by_hand(confidence: Floats, round_s: Floats, least: int = 0) -> list[int]:
    """Algorithm 1 as the paper prints it, one token at a time."""
    survival = np.cumprod(confidence, axis=1)
    requests, gamma = survival.shape
    tokens = sorted((-survival[r, j], j, r) for r in range(requests) for j in range(least, gamma) if survival[r, j] > 0)
    lengths, expected = [least] * requests, requests + survival[:, :least].sum()
    budget = requests * least
    top = expected / round_s[budget]
    for a, _, r in tokens:
        expected, budget = expected - a, budget + 1
        if expected / round_s[budget] <= top:
            break
        top = expected / round_s[budget]
        lengths[r] += 1
    return lengths


@CHECKED
@given(batches(), st.sampled_from([0, 1]))
def test_algorithm_1_takes_the_very_tokens_the_paper_takes(drawn: tuple[Floats, Floats], least: int) -> None:
    """Ties and all: a differing sum order could flip Θ by a rounding, so exact ties of Θ are kept out by a small slope."""
    confidence, round_s = drawn
    round_s = round_s + 1e-6 * np.arange(len(round_s))
    rule = ConfidenceScheduled(mode="synchronous", min_length=least)
    assert rule.choose(view(confidence, round_s)).tolist() == by_hand(confidence, round_s, least)


def test_algorithm_1_stops_before_a_cliff_that_the_global_search_jumps() -> None:
    confidence = np.full((2, 3), 0.99)
    round_s = np.array([1.0, 1.9, 1.91, 1.92, 1.93, 1.94, 1.95])
    assert SYNCHRONOUS.choose(view(confidence, round_s)).tolist() == [0, 0]
    assert PRESENT.choose(view(confidence, round_s)).tolist() == [3, 3]


def test_ties_go_to_the_smaller_slot_then_the_smaller_request() -> None:
    """Six tokens of survival 0.5 (slots 1 … 3 of two requests) and prices that pay for 1, 2, 3, … of them."""
    confidence = np.array([[0.5, 1.0, 1.0], [0.5, 1.0, 1.0]])
    taken = []
    for admitted in range(7):
        round_s = np.where(np.arange(7) <= admitted, 1.0, 100.0)
        taken.append(SYNCHRONOUS.choose(view(confidence, round_s)).tolist())
        assert PRESENT.choose(view(confidence, round_s)).tolist() == taken[-1]
    assert taken == [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3]]


@CHECKED
@given(batches(), st.integers(0, 99), st.sampled_from([0, 1]))
def test_asynchronous_spends_an_old_budget_on_the_best_present_tokens(drawn: tuple[Floats, Floats], seed: int, least: int) -> None:
    confidence, round_s = drawn
    luck = np.random.default_rng(seed)
    now, one = (luck.uniform(0.05, 1, confidence.shape) for _ in range(2))
    survival = np.cumprod(now, axis=1)
    for lag, past in ((1, one), (2, confidence)):
        lengths = ConfidenceScheduled(lag=lag, min_length=least).choose(view(now, round_s, one, confidence))
        budget = ConfidenceScheduled(lag=0, min_length=least).choose(view(past, round_s)).sum()
        assert lengths.sum() == budget
        inside = [survival[r, j] for r, n in enumerate(lengths) for j in range(least, n)]
        outside = [survival[r, j] for r, n in enumerate(lengths) for j in range(n, now.shape[1])]
        assert not inside or not outside or min(inside) >= max(outside)


def test_requests_with_no_history_count_as_certain() -> None:
    """Two newcomers and nothing known: the budget is that of survival 1, spent on what the present shows."""
    now, certain = np.array([[0.9, 0.1], [0.2, 0.1]]), np.ones((2, 2))
    round_s = np.array([1.0, 1.2, 1.4, 1.6, 9.0])
    lengths = ConfidenceScheduled().choose(view(now, round_s, certain, certain))
    assert lengths.sum() == 3  # 5 tokens / 1.6 s is the best of 2/1, 3/1.2, 4/1.4, 5/1.6, 6/9
    assert lengths.tolist() == [2, 1]  # 0.9, 0.2, then 0.09 before 0.02


def test_tokens_that_cannot_be_accepted_are_never_verified() -> None:
    """Even where an old budget would pay for them."""
    certain = np.ones((2, 2))
    now = np.array([[0.5, 0.0], [0.0, 0.0]])
    flat = np.ones(5)
    for rule in (SYNCHRONOUS, PRESENT, Oracle(), ConfidenceScheduled(lag=1), ConfidenceScheduled()):
        assert rule.choose(view(now, flat, certain, certain)).tolist() == [1, 0], rule


@CHECKED
@given(batches(), st.integers(0, 99))
def test_lengths_are_whole_prefixes_within_the_block(drawn: tuple[Floats, Floats], seed: int) -> None:
    confidence, round_s = drawn
    requests, gamma = confidence.shape
    past = np.random.default_rng(seed).uniform(0.05, 1, (2, requests, gamma))
    for rule in EVERY:
        shown = view(confidence, round_s, *past)
        if rule.clairvoyant:
            shown.survival = (np.cumprod(confidence, axis=1) > 0.4).astype(np.float64)
        lengths = rule.choose(shown)
        assert lengths.shape == (requests,)
        assert np.issubdtype(lengths.dtype, np.integer)
        assert lengths.min() >= getattr(rule, "min_length", 0)
        assert lengths.max() <= min(gamma, max(rule.longest(gamma), 0))


@CHECKED
@given(batches(), st.integers(0, 999))
def test_the_oracle_bounds_every_policy_on_what_really_happens(drawn: tuple[Floats, Floats], seed: int) -> None:
    """Outcomes drawn from the confidences; tokens that come out per second of the round, against every other rule."""
    confidence, round_s = drawn
    luck = np.random.default_rng(seed)
    outcome = np.logical_and.accumulate(luck.random(confidence.shape) < confidence, axis=1).astype(np.float64)
    past = luck.uniform(0.05, 1, (2, *confidence.shape))
    knowing = view(confidence, round_s, *past)
    knowing.survival = outcome
    bound = throughput(Oracle().choose(knowing), outcome, round_s)
    assert bound == pytest.approx(best(outcome, round_s), rel=1e-12)
    for rule in EVERY:
        if not rule.clairvoyant:
            assert throughput(rule.choose(view(confidence, round_s, *past)), outcome, round_s) <= bound * (1 + 1e-12)


def test_threshold_takes_the_prefix_before_the_first_doubt() -> None:
    confidence = np.array([[0.9, 0.4, 0.9], [0.5, 0.5, 0.5], [0.2, 1.0, 1.0], [0.8, 0.8, 0.7]])
    shown = view(confidence, np.ones(13))
    assert Threshold(threshold=0.5).choose(shown).tolist() == [1, 3, 0, 3]
    assert Threshold(threshold=0.5, of="survival").choose(shown).tolist() == [1, 1, 0, 2]  # 0.8 · 0.8 · 0.7 = 0.448
    assert Threshold(threshold=0).choose(shown).tolist() == [3] * 4
    assert Threshold(threshold=1).choose(shown).tolist() == [0] * 4


def test_by_batch_is_a_look_up_whose_last_row_is_open() -> None:
    rule = ByBatch(table=[(1, 2, 3), (3, 8, 1), (9, 16, 0)])
    at = {n: set(rule.choose(view(np.full((n, 2), 0.5), np.ones(2 * n + 1))).tolist()) for n in (1, 2, 3, 8, 9, 16, 17, 99)}
    assert at == {1: {2}, 2: {2}, 3: {1}, 8: {1}, 9: {0}, 16: {0}, 17: {0}, 99: {0}}  # 3 is cut to the block of 2
    assert rule.longest(7) == 3


@pytest.mark.parametrize("table", [[(2, 3, 1)], [(1, 3, 1), (5, 6, 1)], [(1, 3, 1), (3, 6, 1)], [(1, 0, 1)], [(1, 4, -1)], []])
def test_by_batch_refuses_tables_with_holes_and_overlaps(table: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValidationError):
        ByBatch(table=table)


@CHECKED
@given(batches(), st.sampled_from([0, 1]))
def test_uniform_is_the_best_single_length(drawn: tuple[Floats, Floats], least: int) -> None:
    confidence, round_s = drawn
    requests, gamma = confidence.shape
    survival = np.cumprod(confidence, axis=1)
    lengths = Uniform(lag=0, min_length=least).choose(view(confidence, round_s))
    assert len(set(lengths.tolist())) == 1
    top = max(throughput([k] * requests, survival, round_s) for k in range(least, gamma + 1))
    assert throughput(lengths, survival, round_s) == pytest.approx(top, rel=1e-12)
    old = Uniform(lag=2, min_length=least).choose(view(np.full_like(confidence, 0.01), round_s, confidence, confidence))
    assert old.tolist() == lengths.tolist()  # goes by the old survivals alone


def test_fixed_and_none() -> None:
    shown = view(np.full((2, 3), 0.5), np.ones(7))
    assert NoSpeculation().choose(shown).tolist() == [0, 0]
    assert FixedLength(length=2).choose(shown).tolist() == [2, 2]
    assert FixedLength(length=5).choose(shown).tolist() == [3, 3]
    assert (NoSpeculation().longest(7), FixedLength(length=2).longest(7), Threshold(threshold=0.1).longest(7)) == (0, 2, 7)
    assert not NoSpeculation().drafts


def test_one_request_with_one_slot() -> None:
    for c, price, expected in ((0.5, 1.4, 1), (0.5, 1.6, 0), (0.5, 1.5, 0)):  # at a tie neither takes it
        shown = view(np.array([[c]]), np.array([1.0, price]), np.array([[c]]), np.array([[c]]))
        for rule in (SYNCHRONOUS, PRESENT, ConfidenceScheduled(), Uniform()):
            assert rule.choose(shown).tolist() == [expected], rule


def test_what_a_policy_says_of_itself() -> None:
    """(peeks, lag, needs confidence): who looks at the present globally breaks losslessness and must say so."""
    said = {(r.kind, r.peeks, r.lag_steps, r.needs_confidence) for r in EVERY}
    assert said == {
        ("none", False, 0, False), ("fixed", False, 0, False), ("threshold", False, 0, True), ("by_batch", False, 0, False),
        ("confidence_scheduled", False, 0, True), ("confidence_scheduled", True, 0, True), ("confidence_scheduled", False, 1, True),
        ("confidence_scheduled", False, 2, True), ("uniform", False, 2, False), ("uniform", True, 0, False), ("oracle", True, 0, False),
    }  # fmt: skip
    assert [r.kind for r in EVERY if r.clairvoyant] == ["oracle"]


def test_a_view_has_no_outcome_and_a_choice_is_a_function_of_it() -> None:
    known = ["requests", "gamma", "confidence", "survival", "lagged_survival", "round_s", "proposed", "lagged_proposed"]
    assert [f.name for f in fields(StepView)] == known
    luck = np.random.default_rng(0)
    for rule in EVERY:
        confidence, round_s = luck.uniform(0.1, 0.9, (4, 3)), 1 + luck.random(13).cumsum()
        shown = view(confidence, round_s, confidence, confidence)
        kept = [array.copy() for array in (confidence, shown.survival, round_s)]
        first, again = rule.choose(shown), rule.choose(shown)
        assert first.tolist() == again.tolist()
        assert all((a == b).all() for a, b in zip(kept, (confidence, shown.survival, round_s), strict=True))  # and it changes nothing


def test_policies_are_read_by_kind_and_refuse_what_makes_no_sense() -> None:
    read = TypeAdapter(Verification).validate_python
    assert read({"kind": "fixed", "length": 1}) == FixedLength(length=1)
    assert read({"kind": "confidence_scheduled"}) == ConfidenceScheduled(mode="asynchronous", lag=2, min_length=0)
    for wrong in (
        {"kind": "fixed"}, {"kind": "fixed", "length": -1}, {"kind": "threshold", "threshold": 1.1}, {"kind": "uniform", "lag": 3},
        {"kind": "confidence_scheduled", "min_length": 2}, {"kind": "nothing"}, {"kind": "none", "length": 1},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            read(wrong)


def test_appendix_a_the_early_stop_keeps_the_law_and_the_global_search_bends_it() -> None:
    """DSpark, appendix A: target (0.7, 0.3), draft (0.5, 0.5), SPS 1, 0.5, 0.45; c_1 = 0.8, c_2 = 0.9 after A and 0 after B.
    The first token out is A with probability 0.7 under Algorithm 1 and 0.85 under the retrospective search, exactly."""
    target, draft, round_s = np.array([0.7, 0.3]), np.array([0.5, 0.5]), np.array([1.0, 2.0, 1 / 0.45])
    residual = np.maximum(target - draft, 0) / np.maximum(target - draft, 0).sum()
    chance_of_a = {}
    for rule in (SYNCHRONOUS, PRESENT):
        total = 0.0
        for token, second in ((0, 0.9), (1, 0.0)):
            length = int(rule.choose(view(np.array([[0.8, second]]), round_s))[0])
            accept = min(1.0, target[token] / draft[token])
            verified = accept * (token == 0) + (1 - accept) * residual[0]
            total += draft[token] * (verified if length else target[0])
        chance_of_a[rule] = total
    assert chance_of_a[SYNCHRONOUS] == pytest.approx(0.7)
    assert chance_of_a[PRESENT] == pytest.approx(0.85)


class Own(VerificationPolicy):
    """A rule of a user's, whose choice may be anything."""

    kind: Literal["own"] = "own"
    choice: Any

    def choose(self, view: StepView) -> Any:
        return self.choice


@pytest.mark.parametrize(
    "choice", [np.array([3, 0]), np.array([-1, 0]), np.array([1.0, 1.0]), np.array([1]), np.array([[1, 1]]), np.array([True, True]), 1, None]
)
def test_a_choice_that_is_no_lengths_is_refused(choice: Any) -> None:
    """Of a block of two drafted tokens for two requests; a length below zero would never end."""
    with pytest.raises(DsimError, match=r"^choose\(\) of rule 'own': expected 2 whole numbers from 0 to 2 in an array, got "):
        Own(choice=choice).chosen(view(np.full((2, 2), 0.5), np.arange(5.0)))


@pytest.mark.parametrize("choice", [np.array([2, 0], dtype=np.int32), [1, 2]])
def test_a_choice_of_lengths_is_taken(choice: Any) -> None:
    lengths = Own(choice=choice).chosen(view(np.full((2, 2), 0.5), np.arange(5.0)))
    assert lengths.tolist() == list(choice)
    assert lengths.dtype == np.int64

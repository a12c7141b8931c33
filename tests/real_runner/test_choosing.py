"""What a policy is shown by the engine, and measured costs."""

from __future__ import annotations

import numpy as np
import pytest

from real_runner.choosing import Chooser
from real_runner.costs import MeasuredCosts, measure_costs
from real_runner.engine import Engine
from simulator.errors import DsimError
from simulator.policies.verification import ConfidenceScheduled, StepView, Uniform


class Spy(ConfidenceScheduled):
    """Keeps the views it is shown."""

    def choose(self, view: StepView):
        seen.append(view)
        return np.full(view.requests, 1, dtype=np.int64)


seen: list[StepView] = []


class Flat:
    def round_s(self, requests, context_tokens, gamma):
        return np.ones(requests * gamma + 1)


def logit(p):
    return np.log(p) - np.log1p(-p)


def test_survivals_of_earlier_steps_follow_their_requests():
    chooser = Chooser(Spy(lag=2), 2, 4, has_confidence=True, costs=Flat())
    seen.clear()
    for slot in (0, 2):
        chooser.joined(slot)
    steps = [([0, 2], [[0.5, 0.5], [0.9, 0.9]]), ([0, 2], [[0.6, 0.6], [0.8, 0.8]]), ([2], [[0.7, 0.7]]), ([0, 2], [[0.3, 0.3], [0.4, 0.4]])]
    for at, (slots, confidence) in enumerate(steps):
        if at == 3:
            chooser.joined(0)  # another request in the slot that came free
        chooser.choose(logit(np.array(confidence)), np.array(slots), np.zeros(len(slots), dtype=np.int64))
    np.testing.assert_allclose(seen[0].lagged_survival, np.ones((2, 2, 2)))
    np.testing.assert_allclose(seen[2].survival, [[0.7, 0.49]])
    np.testing.assert_allclose(seen[2].lagged_survival, [[[0.8, 0.64]], [[0.9, 0.81]]])
    np.testing.assert_allclose(seen[3].lagged_survival, [[[1, 1], [0.7, 0.49]], [[1, 1], [0.8, 0.64]]])


def test_confidences_are_calibrated_by_position_before_the_policy_sees_them():
    chooser = Chooser(Spy(), 2, 1, has_confidence=True, costs=Flat(), temperatures=[1.0, 2.0])
    seen.clear()
    _, shown = chooser.choose(np.array([[2.0, 2.0]]), np.array([0]), np.zeros(1, dtype=np.int64))
    expected = 1 / (1 + np.exp(-np.array([2.0, 1.0])))
    np.testing.assert_allclose(shown[0], expected)
    np.testing.assert_allclose(seen[0].survival[0], [expected[0], expected.prod()])


def test_recorded_survivals_stand_in_for_a_missing_head():
    chooser = Chooser(Uniform(lag=0), 3, 2, has_confidence=False, costs=Flat(), survival=[0.9, 0.8, 0.7])
    lengths, confidence = chooser.choose(None, np.array([0, 1]), np.zeros(2, dtype=np.int64))
    assert lengths.tolist() == [3, 3]
    assert confidence is None
    with pytest.raises(DsimError, match="needs survivals"):
        Chooser(Uniform(lag=0), 3, 2, has_confidence=False, costs=Flat())


def test_costs_are_a_staircase_up_to_the_next_measured_point():
    costs = MeasuredCosts(np.array([1, 8, 16]), np.array([1.0, 2.0, 3.0]), np.array([1, 4]), np.array([0.1, 0.2]), np.array([0.01, 0.02]))
    np.testing.assert_allclose(costs.round_s(1, 0, 8), [1.11, *[2.11] * 7, 3.11])
    assert costs.round_s(3, 0, 7).shape == (22,)
    assert costs.round_s(3, 0, 7)[-1] == pytest.approx(3.22)  # beyond the last point: the last point


def test_measured_costs_are_positive_and_never_fall(target, drafters):
    costs = measure_costs(target, drafters["dspark_vanilla"], slots=3, length=96, prompt_tokens=8, rounds=3)
    assert costs.tokens[0] == 1
    assert costs.tokens[-1] == 24
    round_s = costs.round_s(3, 0, 7)
    assert (round_s > 0).all()
    assert (np.diff(round_s) >= 0).all()


def test_the_measured_drafting_is_that_of_all_tokens_at_the_temperature_asked_for(target, drafters, monkeypatch):
    """A round that verifies one token drafts one: it says nothing of a policy that drafts all seven and then chooses."""
    engines = []

    class Noted(Engine):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            engines.append(self)

        def run(self, requests=()):
            done = super().run(requests)
            for step in self.steps:
                step.draft_s = 0.01 * self.gamma
            return done

    monkeypatch.setattr("real_runner.costs.Engine", Noted)
    costs = measure_costs(target, drafters["dspark_vanilla"], slots=2, length=96, prompt_tokens=8, rounds=3, temperature=1.0)
    np.testing.assert_allclose(costs.draft_s, 0.07)
    assert {engine.gamma for engine in engines} == {0, 1, 3, 7}
    assert not any(engine.device.greedy for engine in engines)

"""Searches against looking at every candidate; judgements against Student's formula."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.study.planning.judge import judge, keeps, prediction
from simulator.study.planning.search import Assessments, bracket, ladder, largest, least
from simulator.study.planning.sla import Sla, SpeedPromise, TtftPromise
from simulator.study.planning.trial import TrialRow
from simulator.study.run.metrics import Verdict
from tests.planning.conftest import drive

SLA = Sla(speed=SpeedPromise(tps=100))
BOTH = Sla(speed=SpeedPromise(tps=100), ttft=TtftPromise(seconds=1))


class Line:
    """Keeps from a threshold on; counts what it was asked."""

    def __init__(self, threshold: float, rising: bool = True) -> None:
        self.threshold, self.rising, self.asked = threshold, rising, []

    def __call__(self, at: float) -> Generator[Any, Any, bool]:
        self.asked.append(at)
        yield at
        return at >= self.threshold if self.rising else at <= self.threshold


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 50), st.integers(0, 150))
def test_the_least_fleet_is_the_one_that_trying_all_would_find(threshold: int, guess: int, low: int, more: int) -> None:
    high = low + more
    line = Line(threshold)
    found = drive(least(line, guess, low, high), lambda _: None)
    assert found == next((n for n in range(low, high + 1) if n >= threshold), None)
    assert all(low <= n <= high for n in line.asked)
    assert len(line.asked) == len(set(line.asked)), "asked twice"


def test_a_good_guess_needs_two_looks() -> None:
    line = Line(57)
    assert drive(least(line, 57, 1, 1000), lambda _: None) == 57
    assert line.asked == [57, 56]


@given(st.floats(1.0, 60.0))
def test_the_largest_load_lies_within_its_step_below_the_limit(limit: float) -> None:
    found = drive(largest(Line(limit, rising=False), 1.0), lambda _: None)
    assert found <= limit < found * 1.03 * 1.0001


def test_the_largest_load_ends_where_nothing_breaks() -> None:
    assert drive(largest(Line(1e9, rising=False), 2.0, most=64), lambda _: None) == 128


@given(st.integers(1, 40), st.integers(0, 400), st.lists(st.integers(1, 300), max_size=3))
def test_a_ladder_has_its_ends_and_what_was_asked_for(low: int, more: int, around: list[int]) -> None:
    rungs = ladder(around, low, low + more)
    assert rungs == sorted(set(rungs))
    assert {low, low + more} <= set(rungs)
    assert all(n in rungs for n in around if low <= n <= low + more)
    assert len(rungs) <= 6 + len(around)


def test_a_bracket_stays_within_bounds() -> None:
    assert bracket(4.0, 1, 100) == 5
    assert bracket(float("inf"), 1, 100) == 100
    assert bracket(0.1, 3, 100) == 3


def row(speed: float | None, ttft: float | None = 0.5, verdict: Verdict = "stable") -> TrialRow:
    return TrialRow(replicas=1, load=1.0, replication=0, verdict=verdict, numbers={"speed": speed, "ttft": ttft})


def test_prediction_bounds_are_students() -> None:
    """n = 3, mean 2, s = 1: the 95 % point of t with 2 degrees is 2.919986, times √(1 + 1/3)."""
    low, high = prediction([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 2.919986 * (4 / 3) ** 0.5, abs=1e-5)
    assert high == pytest.approx(2 + 2.919986 * (4 / 3) ** 0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "sla", "judgement"),
    [
        ([row(101)], SLA, "open"),  # one replication proves nothing
        ([row(84)], SLA, "broken"),  # but a miss by 16 % does
        ([row(150), row(150, verdict="overloaded")], SLA, "broken"),
        ([row(110), row(110.1, verdict="backlogged")], SLA, "broken"),  # no TTFT is promised, so no queue may stand
        ([row(110), row(110.1, verdict="backlogged")], BOTH, "kept"),
        ([row(110), row(110.1)], SLA, "kept"),
        ([row(101), row(104)], SLA, "open"),
        ([row(99), row(99.01)], SLA, "broken"),
        ([row(110), row(110.1)], BOTH, "kept"),
        ([row(110, 1.01), row(110, 1.0101)], BOTH, "broken"),
        ([row(110, None), row(110, 0.1)], BOTH, "broken"),  # somebody was never answered
        ([row(None), row(110)], SLA, "broken"),
        ([row(100), row(100)], SLA, "kept"),
    ],
)
def test_judgement(rows: list[TrialRow], sla: Sla, judgement: str) -> None:
    assert judge(rows, sla) == judgement


@pytest.mark.parametrize(
    ("speeds", "asked", "judgement"),
    [
        ([104.5, 104.4, 109.2, 105, 106], 5, "kept"),  # two alike say little: the third is better and shows how they scatter
        ([104.5, 104.4, 104.6], 3, "kept"),
        ([99.0, 98.9, 104.0, 99, 99], 5, "open"),
        ([110.0, 80.0], 2, "broken"),  # one that misses by far says enough
    ],
)
def test_two_replications_that_are_alike_decide_nothing(speeds: list[float], asked: int, judgement: str) -> None:
    known = Assessments(0, SLA, len(speeds))
    assert drive(known.assess(1, 1.0), lambda trials: [row(speeds[trial.replication]) for trial in trials]) == judgement
    assert len(known.rows[1, 1.0, "peak"]) == asked


def test_one_replication_keeps_what_it_reaches() -> None:
    assert keeps(row(100, 1.0), BOTH)
    assert not keeps(row(99.9, 0.1), BOTH)
    assert not keeps(row(120, 1.01), BOTH)
    assert not keeps(row(120, 0.1, "overloaded"), BOTH)


@given(st.lists(st.floats(50, 150), min_size=2, max_size=6), st.floats(0, 20))
def test_a_lower_promise_is_never_harder(speeds: list[float], less: float) -> None:
    easier = Sla(speed=SpeedPromise(tps=100 - less))
    if judge([row(s) for s in speeds], SLA) == "kept":
        assert judge([row(s) for s in speeds], easier) == "kept"

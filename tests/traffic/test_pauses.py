"""Pauses of a closed loop: their distributions, what is left of one that is under way, and that only user and turn decide them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.stats import kstest

from simulator.errors import TraceError
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.pauses import EmpiricalPause, ExponentialPause, FixedPause, LognormalPause, Pause, PauseKind, UniformPause
from simulator.traffic.workload import ClosedLoopSource, Workload

EVEN = (np.arange(200_000) + 0.5) / 200_000
LENGTHS = {"prompt_tokens": {"kind": "fixed", "tokens": 9}, "output_tokens": {"kind": "fixed", "tokens": 9}}
UNIFORM = {"kind": "uniform", "min_s": 30, "max_s": 90}


def of(content: Any) -> Any:
    return TypeAdapter(Pause).validate_python(content)


def source(think: Any, users: int = 5, seed: int = 3, replication: int = 1) -> ClosedLoopSource:
    return Workload.model_validate({"arrivals": {"kind": "closed_loop", "think_s": think}, **LENGTHS}).closed_loop(users, seed, replication)


def test_a_number_is_the_mean_of_an_exponential_and_zero_no_pause() -> None:
    assert of(60) == ExponentialPause(mean_s=60)
    assert of(0) is of(0.0) is of(None) is None
    assert ClosedLoop().think_s is None
    assert of({"kind": "fixed", "seconds": 60}) == FixedPause(seconds=60)
    assert of(UniformPause(min_s=1, max_s=2)) == UniformPause(min_s=1, max_s=2)


@pytest.mark.parametrize("pause, mean, variance", [
    (ExponentialPause(mean_s=60), 60, 3600),
    (FixedPause(seconds=60), 60, 0),
    (UniformPause(min_s=30, max_s=90), 60, 60**2 / 12),
    (LognormalPause(mean_s=60, cv=0.5), 60, 900),
])  # fmt: skip
def test_moments(pause: PauseKind, mean: float, variance: float) -> None:
    pauses = pause.at(EVEN)
    assert pauses.mean() == pytest.approx(mean, rel=1e-3)
    assert pauses.var() == pytest.approx(variance, rel=5e-3, abs=1e-9)
    draws = np.random.default_rng(0).random((2, 100_000))
    rest = pause.rest(*draws)  # renewal theory: E[X²] / 2 E[X], and a density that falls as P(X > x) does
    assert abs(rest.mean() - (mean**2 + variance) / 2 / mean) < 4 * rest.std() / math.sqrt(len(rest))
    below = 0.4 * mean
    expected = np.minimum(pauses, below).mean() / mean
    assert abs((rest <= below).mean() - expected) < 4 * math.sqrt(expected * (1 - expected) / len(rest))


def test_what_is_left_of_an_exponential_is_exponential() -> None:
    rest = ExponentialPause(mean_s=7).rest(*np.random.default_rng(1).random((2, 4000)))
    assert kstest(rest, "expon", args=(0, 7)).pvalue > 1e-3


def test_pauses_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("seconds,other\n5,1\n0.5,1\n20,1\n")
    pause = TypeAdapter(Pause).validate_python({"kind": "empirical", "path": "p.csv", "column": "seconds"}, context={"folder": tmp_path})
    assert isinstance(pause, EmpiricalPause)
    assert pause.at(np.array([0.0, 0.4, 0.99])).tolist() == [0.5, 5.0, 20.0]
    assert pause.words == "8.5 s on average, from p.csv"
    (tmp_path / "long.csv").write_text("seconds\n5\n1e300\n")
    with pytest.raises(TraceError, match=r"long\.csv:3: seconds: must be at most 1e\+08 \(got 1e\+300\)"):
        TypeAdapter(Pause).validate_python({"kind": "empirical", "path": "long.csv", "column": "seconds"}, context={"folder": tmp_path})


@pytest.mark.parametrize("think", [2.5, UNIFORM, {"kind": "lognormal", "mean_s": 5, "cv": 2}])
def test_a_pause_is_a_function_of_seed_replication_user_and_turn(think: Any) -> None:
    users, turns = np.arange(5), np.arange(40)
    many = source(think).pause_s(users[:, None], turns[None, :])
    one_by_one = [[float(source(think).pause_s(user, turn)) for turn in turns.tolist()] for user in users.tolist()]
    assert many.tolist() == one_by_one  # to the last bit, for the two paths of the engine ask differently
    assert source(think, users=50).pause_s(users[:, None], turns[None, :]).tolist() == many.tolist()
    for other in (source(think, seed=4), source(think, replication=2)):
        assert not np.isin(other.pause_s(users[:, None], turns[None, :]), many).any()
    assert len(np.unique(many)) == many.size  # users and turns differ


def test_users_start_at_random_places_of_their_pause() -> None:
    first = source({"kind": "fixed", "seconds": 60}, users=4000).pause_s(np.arange(4000), 0)
    assert kstest(first, "uniform", args=(0, 60)).pvalue > 1e-3
    assert (source({"kind": "fixed", "seconds": 60}).pause_s(np.arange(5), 1) == 60).all()
    assert not source(0).pause_s(np.arange(5)[:, None], np.arange(3)[None, :]).any()


@pytest.mark.parametrize("content, problem", [
    (-1, "expected seconds of at least 0"),
    ("long", "expected seconds of at least 0"),
    (True, "expected seconds of at least 0"),
    (math.inf, "expected seconds of at least 0"),
    ({"kind": "exponential", "mean_s": 0}, "above 0"),
    ({"kind": "uniform", "min_s": 9, "max_s": 9}, "expected max_s above min_s = 9, got 9"),
    ({"kind": "lognormal", "mean_s": 9}, "required"),
    ({"kind": "constant", "seconds": 9}, "does not match any of the expected tags"),
    ({"seconds": 9}, "Unable to extract tag"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(content: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        of(content)

"""Arrival processes: rates and variability in standard errors, and the same luck at every rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from simulator.rng import stream
from simulator.traffic.arrivals import ArrivalProcess, Arrivals, Constant, Gamma, Poisson, RateCurve

DAY = RateCurve(points=((0, 1), (6, 4), (12, 0), (18, 3)), period_s=24)
OPEN = [Poisson(), Gamma(cv=3), Gamma(cv=0.3), Constant(), DAY, RateCurve(points=((0, 1), (50, 3)))]


def counts(arrivals: ArrivalProcess, rate: float, horizon: float, replications: int) -> Any:
    return np.array([len(arrivals.times(rate, horizon, stream(3, "arrivals", r))) for r in range(replications)])


def standard_errors_off(sample: Any, expected: float) -> float:
    return float(abs(np.mean(sample) - expected) / (np.std(sample, ddof=1) / np.sqrt(len(sample))))


@pytest.mark.parametrize("arrivals", OPEN, ids=lambda a: a.kind)
@given(rate=st.floats(0.01, 50), horizon=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_times_are_sorted_within_the_horizon_and_a_prefix_of_a_longer_run(arrivals: ArrivalProcess, rate: float, horizon: float, seed: int) -> None:
    times = arrivals.times(rate, horizon, stream(seed, "arrivals"))
    longer = arrivals.times(rate, 2 * horizon, stream(seed, "arrivals"))
    assert times.dtype == np.float64
    assert np.all(np.diff(times) >= 0)
    assert np.all((times >= 0) & (times < horizon))
    if arrivals.kind != "rate_curve" or arrivals.period_s:
        np.testing.assert_allclose(longer[: len(times)], times, rtol=1e-9)


@pytest.mark.parametrize("arrivals", [Poisson(), Gamma(cv=3), Gamma(cv=0.3), Constant()], ids=lambda a: a.kind)
@given(rate=st.floats(0.1, 20), factor=st.floats(1.01, 10))
def test_a_higher_rate_is_the_same_process_rescaled(arrivals: ArrivalProcess, rate: float, factor: float) -> None:
    slow = arrivals.times(rate, 30, stream(1, "arrivals"))
    fast = arrivals.times(rate * factor, 30, stream(1, "arrivals"))
    assert len(fast) >= len(slow)
    np.testing.assert_allclose(fast[: len(slow)] * factor, slow, rtol=1e-12)


def test_a_curve_at_a_higher_rate_walks_the_same_unit_process() -> None:
    def unit(rate: float) -> Any:
        knots = DAY._knots(100)
        return DAY._mass_at(DAY.times(rate, 100, stream(1, "arrivals")), *knots) * rate

    slow, fast = unit(2), unit(5)
    np.testing.assert_allclose(fast[: len(slow)], slow, rtol=1e-9)
    np.testing.assert_allclose(slow, np.cumsum(stream(1, "arrivals").standard_exponential(len(slow))), rtol=1e-9)


@pytest.mark.parametrize("arrivals", [Poisson(), Gamma(cv=3), Gamma(cv=0.4), DAY], ids=lambda a: a.kind)
def test_the_mean_rate_is_the_load(arrivals: ArrivalProcess) -> None:
    # Gamma(cv=3) started with an ordinary gap would count (cv^2 - 1) / 2 = 4 more than rate x horizon, about 8 standard errors
    sample = counts(arrivals, rate=2, horizon=48, replications=3000)
    assert standard_errors_off(sample, 2 * 48) < 4


@pytest.mark.parametrize("cv", [0.3, 1.0, 3.0])
def test_gamma_gaps_have_their_cv(cv: float) -> None:
    # E[gap^2] = 1 + cv^2 for gaps of mean 1: unbiased, unlike a ratio of moments
    gaps = [np.diff(Gamma(cv=cv).times(1, 4000, stream(5, "arrivals", r))) for r in range(100)]
    assert standard_errors_off([np.mean(g**2) for g in gaps], 1 + cv**2) < 4
    assert standard_errors_off([np.mean(g**2) for g in gaps], 1 + (1.2 * cv) ** 2) > 4


def test_constant_is_a_metronome() -> None:
    np.testing.assert_allclose(Constant().times(4, 1, stream(1, "a")), [0, 0.25, 0.5, 0.75])
    assert len(Constant().times(3, 1, stream(1, "a"))) == 3


def test_a_curve_fills_each_part_of_the_day_with_its_share() -> None:
    # areas under (0,1)-(6,4)-(12,0)-(18,3)-(24,1): 15, 12, 9, 12 of 48
    edges = np.arange(0, 49, 6)
    many = np.array([np.histogram(DAY.times(2, 48, stream(7, "arrivals", r)), edges)[0] for r in range(1500)])
    expected = np.tile(np.array([15, 12, 9, 12]) / 48, 2) * 2 * 24
    for quarter in range(8):
        assert standard_errors_off(many[:, quarter], expected[quarter]) < 4
        fano = many[:, quarter].var(ddof=1) / many[:, quarter].mean()
        assert abs(fano - 1) < 4 * np.sqrt(2 / 1500)  # Poisson: variance is the mean


def test_a_flat_curve_is_poisson_to_the_draw() -> None:
    flat = RateCurve(points=((3, 7),), period_s=10, start_s=4, time_scale=2.5)
    np.testing.assert_allclose(flat.times(3, 50, stream(2, "a")), Poisson().times(3, 50, stream(2, "a")), rtol=1e-9)


def test_compression_and_start_move_along_the_curve() -> None:
    squeezed = DAY.model_copy(update={"time_scale": 12.0})
    np.testing.assert_allclose(squeezed.relative_rate(np.array([0.0, 0.5, 1.0, 2.5])), DAY.relative_rate(np.array([0.0, 6, 12, 6])))
    assert standard_errors_off(counts(squeezed, 30, 4, 800), 30 * 4) < 4  # two days in four seconds, at the same load
    morning = DAY.model_copy(update={"start_s": 3.0})
    np.testing.assert_allclose(morning.relative_rate(np.array([3.0, 21.0])), DAY.relative_rate(np.array([6.0, 0.0])))
    assert standard_errors_off(counts(morning, 20, 3, 800), 20 * 3 * (2.5 + 4) / 2 / 2) < 4  # the mean of the day is 2


def test_a_curve_without_a_period_has_its_mean_between_its_points_and_holds_its_ends() -> None:
    ramp = RateCurve(points=((10, 1), (20, 3)))
    np.testing.assert_allclose(ramp.relative_rate(np.array([0.0, 10, 15, 20, 99])), [0.5, 0.5, 1, 1.5, 1.5])
    assert standard_errors_off(counts(ramp, 3, 30, 800), 3 * (10 * 0.5 + 10 + 10 * 1.5)) < 4
    assert np.all(RateCurve(points=((0, 1), (5, 0))).times(50, 100, stream(1, "a")) <= 5)  # held at zero: no more come


@given(
    rates=st.lists(st.one_of(st.just(0.0), st.floats(0.01, 10)), min_size=1, max_size=6),
    u=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    periodic=st.booleans(),
)
def test_the_inverse_of_the_cumulative_rate_inverts_it(rates: list[float], u: list[float], periodic: bool) -> None:
    rates = [*rates, 1.0]
    curve = RateCurve(points=tuple((2.0 * i, rate) for i, rate in enumerate(rates)), period_s=2.0 * len(rates) + 1 if periodic else None)
    knots = curve._knots(40)
    target = np.array(u) * curve._mass_at(np.array([40.0]), *knots)
    back = curve._mass_at(curve._time_of(target, *knots), *knots)
    np.testing.assert_allclose(back, target, atol=1e-9 * max(1.0, float(target.max())))


@pytest.mark.parametrize(
    "content, problem",
    [
        ({"kind": "gamma", "cv": 0}, "above 0"),
        ({"kind": "gamma"}, "required"),
        ({"kind": "rate_curve", "points": []}, "at least 1 item"),
        ({"kind": "rate_curve", "points": [[0, 1], [0, 2]]}, "strictly increasing"),
        ({"kind": "rate_curve", "points": [[0, 0], [5, 0]]}, "above 0"),
        ({"kind": "rate_curve", "points": [[0, 1], [9, 2]], "period_s": 9}, "below period_s = 9"),
        ({"kind": "rate_curve", "points": [[0, -1]]}, "at least 0"),
        ({"kind": "closed_loop", "think_s": -1}, "expected seconds of at least 0"),
        ({"kind": "poisson", "rate": 3}, "Extra inputs"),
        ({"kind": "bursty"}, "does not match any of the expected tags"),
    ],
)
def test_what_makes_no_sense_is_refused(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TypeAdapter(Arrivals).validate_python(content)

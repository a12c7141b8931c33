"""Telemetry to a step cost: known curves come back, τ scales time, and what cannot carry a fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student

from simulator.errors import DsimError
from simulator.measurements.cost import Cliff, FittedCurve
from simulator.measurements.fit import Telemetry, fit_cost, read_telemetry

Floats = NDArray[np.float64]
TAU, BUDGET = 1.8, 2.0
FEW, MANY = np.array([2.0, 8, 32, 64, 128]), np.geomspace(2, 400, 24)


def curve(concave_s: float = 0.0, cliffs: tuple[tuple[int, float], ...] = ()) -> FittedCurve:
    jumps = [Cliff(tokens=tokens, add_s=jump) for tokens, jump in cliffs]
    return FittedCurve(
        provenance="synthetic", base_s=0.012, per_token_s=6e-5, concave_s=concave_s, concave_tokens=60.0, cliffs=jumps, measured_tokens=(1, 1000)
    )


def telemetry(of: FittedCurve, users: Floats, noise: float = 0.0, seed: int = 0, draft_s: float = 0.0) -> Telemetry:
    time = of.seconds(users * BUDGET) + draft_s * users
    return Telemetry(users, TAU / (time * np.exp(noise * np.random.default_rng(seed).standard_normal(len(users)))))


@pytest.mark.parametrize("truth, users", [(curve(), FEW), (curve(0.02), MANY), (curve(0.02, ((256, 0.01),)), MANY), (curve(0, ((256, 0.01),)), FEW)])
def test_a_known_curve_comes_back_from_clean_telemetry(truth: FittedCurve, users: Floats) -> None:
    cliffs = [cliff.tokens for cliff in truth.cliffs]
    fit = fit_cost(telemetry(truth, users), TAU, BUDGET, cliffs, source="ours")
    at = np.geomspace(users.min() * BUDGET, users.max() * BUDGET, 50)
    np.testing.assert_allclose(fit.curve.seconds(at), truth.seconds(at), rtol=2e-3)
    assert fit.rms < 1e-3
    assert fit.points == len(users)
    assert (fit.curve.provenance, fit.curve.source) == ("fitted", "ours")
    assert fit.curve.tokens_range() == pytest.approx((users.min() * BUDGET, users.max() * BUDGET), rel=1e-4)
    if truth.cliffs and len(users) > 5:
        assert fit.curve.cliffs[0].tokens == 256
        assert fit.curve.cliffs[0].add_s == pytest.approx(0.01, rel=0.05)
    if not truth.cliffs:
        assert (fit.plain_rms > 0.02) == (truth.concave_s > 0)  # what the concave part is worth


def test_base_and_slope_come_back_from_noisy_telemetry() -> None:
    """200 times with 1 % noise on every speed: the mean of base and slope within Student's 1 - 1e-4 interval, which is narrower than 1 %."""
    fits = [fit_cost(telemetry(curve(), FEW, 0.01, seed), TAU, BUDGET).curve for seed in range(200)]
    limit = student.ppf(1 - 5e-5, len(fits) - 1)
    for found, truth in (([c.base_s for c in fits], 0.012), ([c.per_token_s for c in fits], 6e-5)):
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        assert abs(np.mean(found) - truth) < limit * error
        assert limit * error < 0.01 * truth


def test_a_concave_curve_comes_back_from_noisy_telemetry() -> None:
    """Parameters trade off against each other; the time itself is what is known: within the interval, narrower than 1 %, at five B."""
    truth, at = curve(0.02), np.array([6.0, 30, 100, 300, 700])
    fits = [fit_cost(telemetry(truth, MANY, 0.01, seed), TAU, BUDGET) for seed in range(40)]
    ratio = np.array([fit.curve.seconds(at) / truth.seconds(at) for fit in fits])
    limit, error = student.ppf(1 - 5e-5, len(fits) - 1), ratio.std(axis=0, ddof=1) / np.sqrt(len(fits))
    assert (np.abs(ratio.mean(axis=0) - 1) < limit * error).all()
    assert (limit * error < 0.01).all()
    rms = [fit.rms for fit in fits]
    assert np.mean(rms) == pytest.approx(0.01 * np.sqrt(1 - 4 / len(MANY)), rel=0.1)  # four parameters take up their share of the noise
    assert all(fit.rms <= fit.worst <= 0.05 for fit in fits)


@pytest.mark.parametrize("noise", [0.01, 0.3, 2.0])
def test_the_line_alone_misses_by_as_much_or_more(noise: float) -> None:
    """Both are errors of the same times, the least there are; of few points the line is all there is."""
    for seed in range(10):
        few, many = (fit_cost(telemetry(curve(), users, noise, seed), TAU, BUDGET) for users in (FEW, MANY))
        assert few.plain_rms == pytest.approx(few.rms, rel=1e-6)
        assert many.plain_rms >= many.rms * (1 - 1e-9)
        if not many.curve.concave_s:
            assert many.plain_rms == pytest.approx(many.rms, rel=1e-6)


def test_telemetry_shows_tau_over_time_alone() -> None:
    seen = telemetry(curve(0.02), MANY)
    once, twice = (fit_cost(seen, tau, BUDGET).curve for tau in (TAU, 2 * TAU))
    at = np.array([5.0, 50, 500])
    np.testing.assert_allclose(twice.seconds(at), 2 * once.seconds(at), rtol=1e-3)


def test_drafting_is_taken_off_first() -> None:
    fit = fit_cost(telemetry(curve(), FEW, draft_s=1e-5), TAU, BUDGET, draft_s_per_request=1e-5)
    assert fit.curve.per_token_s == pytest.approx(6e-5, rel=1e-3)
    assert fit_cost(telemetry(curve(), FEW, draft_s=1e-5), TAU, BUDGET).curve.per_token_s == pytest.approx(6.5e-5, rel=1e-3)


def test_cliffs_outside_the_data_are_left_out() -> None:
    fit = fit_cost(telemetry(curve(), FEW), TAU, BUDGET, [1, 4, 256, 4000])
    assert [c.tokens for c in fit.curve.cliffs] == []


def test_what_cannot_carry_a_fit_is_refused() -> None:
    for users in (np.array([8.0]), np.array([8.0, 9.0, 10.0])):
        with pytest.raises(DsimError, match=r"^too few operating points to fit a step cost; give at least two whose concurrency differs by half$"):
            fit_cost(telemetry(curve(), users), TAU, BUDGET)
    with pytest.raises(DsimError, match=r"^draft cost: drafting would take longer than the whole step; assume a smaller draft cost$"):
        fit_cost(telemetry(curve(), FEW), TAU, BUDGET, draft_s_per_request=0.01)


@pytest.mark.parametrize("users", [[0.001, 0.002], [1e-3, 1e6], [999_999.0, 1e6, 400_000.0]])
@pytest.mark.parametrize("speed", [1.0, 1e5])
def test_all_telemetry_within_the_bounds_has_a_fit(users: list[float], speed: float) -> None:
    points = Telemetry(np.array(users), np.full(len(users), speed))
    assert fit_cost(points, TAU, BUDGET).curve.measured_tokens[0] > 0


def read(folder: Path, text: str, gpus: float = 1.0) -> Telemetry:
    (folder / "t.csv").write_text(text)
    return read_telemetry(folder / "t.csv", gpus)


def test_any_two_columns_give_the_third(tmp_path: Path) -> None:
    for text in (
        "concurrency,tps_per_user\n4,50\n16,40\n",
        "concurrency,throughput_tok_s_gpu\n4,100\n16,320\n",
        "tps_per_user,throughput_tok_s_gpu\n50,100\n40,320\n",
        "concurrency,tps_per_user,throughput_tok_s_gpu,more\n4,50,105,x\n16,40,320,y\n",
    ):
        found = read(tmp_path, text, gpus=2.0)
        assert found.concurrency.tolist() == [4, 16]
        assert found.tps_per_user.tolist() == [50, 40]


REFUSALS = {
    "tps_per_user,other\n1,2\n": ": needs two of the columns concurrency, tps_per_user, throughput_tok_s_gpu; columns found: tps_per_user, other",
    "concurrency,tps_per_user\n4,50\n8,fast\n": ":3: tps_per_user: must be a positive number (got 'fast')",
    "concurrency,tps_per_user,throughput_tok_s_gpu\n4,50,200\n8,40,640\n": ":3: throughput is 100% away from concurrency × speed; "
    "use the concurrency in flight (not offered) per replica, or leave one column out",
}


OPEN = {
    "concurrency,tps_per_user\n0,50\n": ":2: concurrency: must be a positive number (got 0)",
    "# a\nconcurrency,tps_per_user\n\n4,50\n8,-1\n": ":5: tps_per_user: must be a positive number (got -1)",
    "concurrency,tps_per_user\n4,True\n8,False\n": ":2: tps_per_user: must be a positive number (got true)",
    "concurrency,tps_per_user\n4,50\n1e-320,40\n": ":3: concurrency: expected 0.001 to 1,000,000, got 9.99989e-321; "
    "check the units, and --gpus-per-replica",
    "concurrency,tps_per_user\n4,1e308\n8,40\n": ":2: tps_per_user: expected 0.001 to 1,000,000, got 1e+308; check the units, and --gpus-per-replica",
    "tps_per_user,throughput_tok_s_gpu\n50,1e-300\n40,320\n": ":2: concurrency: expected 0.001 to 1,000,000, got 2e-302; "
    "check the units, and --gpus-per-replica",
    "concurrency,tps_per_user\n4,inf\n": ":2: tps_per_user: must be a positive number (got inf)",
}


@pytest.mark.parametrize("text", OPEN)
def test_telemetry_is_refused_with_the_line_and_value_of_the_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DsimError) as refused:
        read(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 't.csv'}{OPEN[text]}"


@pytest.mark.parametrize("text", REFUSALS)
def test_telemetry_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(DsimError) as refused:
        read(tmp_path, text)
    assert str(refused.value) == f"{tmp_path / 't.csv'}{REFUSALS[text]}"


def test_telemetry_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DsimError, match=r"no\.csv: no such file; check the path$"):
        read_telemetry(tmp_path / "no.csv")


def test_more_points_than_an_average_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DsimError, match=r"expected at most 50,000 operating points, got 50,001; give means over longer times"):
        read(tmp_path, "concurrency,tps_per_user\n" + "4,50\n" * 50_001)

"""Frontiers and gains on curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from simulator.study.run.metrics import Verdict
from simulator.study.run.pareto import curves, estimate, frontier, gains, student95
from simulator.study.run.result import Estimate, Gains, PointRow
from tests.report import synthetic_result as synthetic

LOADS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def rows(
    policy: str, scale: float, replications: int = 3, loads: tuple[float, ...] = LOADS, verdict: Verdict = "stable", **more: float | None
) -> list[PointRow]:
    """A policy whose speed falls from 100 as 100 / (1 + load/16) and whose throughput is `scale` times load × speed."""
    made = []
    for load in loads:
        for k in range(replications):
            speed = 100 / (1 + load / 16)
            numbers = {"tps_per_user_mean": speed, "throughput_tok_s_gpu": scale * (1 + 0.02 * (k - 1)) * load * speed} | more
            made.append(synthetic.row(policy, load, numbers, k, verdict))
    return made


def faster(row: PointRow, factor: float) -> PointRow:
    """The same point with another speed."""
    return row.model_copy(update={"numbers": row.numbers | {"tps_per_user_mean": factor * (row["tps_per_user_mean"] or 0.0)}})


def gained(table: list[PointRow], *promises: float, policies: tuple[str, ...] = ("base", "new")) -> Gains:
    return gains(table, policies, "base", "tps_per_user_mean", promises)


points = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0.1, 100), st.sampled_from([1.0, 2.0]) | st.floats(0.1, 100)), max_size=15)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(points)
def test_a_frontier_holds_the_undominated_points_and_no_other(drawn: list[tuple[float, float]]) -> None:
    curve = frontier(drawn)
    kept = list(zip(curve.speed.tolist(), curve.throughput.tolist(), strict=True))
    better = lambda a, b: a != b and a[0] >= b[0] and a[1] >= b[1]  # noqa: E731
    assert set(kept) == {p for p in drawn if not any(better(q, p) for q in drawn)}
    assert kept == sorted(set(kept))
    assert (np.diff(curve.throughput) < 0).all()


def test_a_frontier_leaves_out_points_that_deliver_nothing() -> None:
    assert frontier([(5.0, 0.0), (3.0, 2.0)]).speed.tolist() == [3.0]
    assert frontier([]).throughput_at(1.0) is None


def test_reading_between_loads_is_exact_at_them_monotone_between_and_nothing_outside() -> None:
    curve = frontier([(10.0, 1000.0), (20.0, 900.0), (40.0, 50.0)])
    assert [curve.throughput_at(v) for v in (10, 20, 40)] == pytest.approx([1000, 900, 50])
    assert [curve.speed_at(x) for x in (1000, 900, 50)] == pytest.approx([10, 20, 40])
    assert curve.throughput_at(9.99) is curve.throughput_at(40.01) is curve.speed_at(1001) is curve.speed_at(49) is None
    between = [curve.throughput_at(v) or 0 for v in np.linspace(10, 40, 200)]
    assert (np.diff(between) <= 1e-9).all()
    assert frontier([(10.0, 5.0)]).throughput_at(10.0) == pytest.approx(5.0)


def test_an_exponential_frontier_is_read_as_one() -> None:
    """Straight in (speed, log throughput): the monotone cubic is exact."""
    curve = frontier(zip([10.0, 20.0, 30.0], np.exp([9.0, 7.0, 5.0]).tolist(), strict=True))
    assert curve.throughput_at(17.0) == pytest.approx(np.exp(7.6))
    assert curve.speed_at(float(np.exp(5.5))) == pytest.approx(27.5)


def test_an_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0, 6.0])
    half = t.ppf(0.975, 3) * np.std([1, 2, 3, 6], ddof=1) / 2
    assert found is not None
    assert [found.mean, found.low, found.high] == pytest.approx([3.0, 3.0 - half, 3.0 + half])
    assert student95(1) == pytest.approx(12.706, abs=1e-3)
    assert estimate([4.0]) == Estimate(4.0)
    assert estimate([4.0, None]) is estimate([]) is None  # unknown once is unknown


def test_an_interval_covers_what_it_says() -> None:
    """95 % of 2000 intervals over 4 replications: 1.6 standard errors of coverage either side of it is 0.8 %, four are 2 %."""
    luck = np.random.default_rng(0).normal(7.0, 2.0, (2000, 4))
    found = [estimate(sample.tolist()) for sample in luck]
    covered = np.mean([e is not None and (e.low or 0) <= 7.0 <= (e.high or 0) for e in found])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_gains_are_paired_by_replication() -> None:
    """Luck moves both policies alike: every ratio is 1.5, so the interval of the gain has no width while that of throughput has."""
    (base, new) = gained(rows("base", 1.0) + rows("new", 1.5), 60.0).at_sla
    assert base.gain is None
    assert [new.gain.mean, new.gain.low, new.gain.high] == pytest.approx([0.5] * 3)
    assert new.throughput.high - new.throughput.low > 0.01 * new.throughput.mean
    assert new.baseline_throughput.mean == pytest.approx(new.throughput.mean / 1.5)
    assert new.note is None


def test_speed_gained_at_the_throughput_of_the_baseline() -> None:
    """new delivers at every load what base does, 1.2 times as fast."""
    quick = [faster(r, 1.2) for r in rows("new", 1.0)]
    (matched,) = gained(rows("base", 1.0) + quick, 60.0).at_matched_throughput
    assert matched.gain.mean == pytest.approx(0.2, rel=0.02)  # read between loads
    assert matched.tps.mean == pytest.approx(72, rel=0.005)
    assert matched.baseline_tps.mean == 60.0
    assert matched.because == "base at 60 tok/s/user"


def test_out_of_reach_is_said_and_never_made_up() -> None:
    slow = [faster(r, 0.5) for r in rows("new", 1.0)]
    found = gained(rows("base", 1.0) + slow, 60.0, 10.0).at_sla
    at_60, at_10 = found[1], found[3]
    assert (at_60.throughput, at_60.gain) == (None, None)
    assert at_60.note == "new does not reach 60 tok/s/user at the simulated loads"
    assert (at_10.throughput, at_10.gain) == (None, None)
    assert at_10.note == "new stays above 10 tok/s/user at all simulated loads: add higher loads"
    assert found[2].note == "base stays above 10 tok/s/user at all simulated loads: add higher loads"
    assert at_10.at_least is not None  # what it delivers at its highest load
    assert at_60.at_least is None


def test_one_replication_out_of_reach_is_enough_to_say_nothing() -> None:
    table = rows("base", 1.0) + [faster(r, 0.5) if r.replication == 1 else r for r in rows("new", 1.0)]
    assert gained(table, 60.0).at_sla[1].gain is None


def test_overloaded_points_are_left_out() -> None:
    table = rows("base", 1.0) + rows("base", 9.0, loads=(64.0,), verdict="overloaded") + rows("base", 5.0, loads=(65.0,), tps_per_user_mean=None)
    found = curves(table, "base", "tps_per_user_mean")
    assert set(found) == {0, 1, 2}
    assert all(curve.speed.min() > 30 for curve in found.values())


def at_two_loads(slowest: list[float], queued: dict[tuple[float, int], Verdict] | None = None) -> list[PointRow]:
    """80 tok/s at load 32, and these speeds at 64, one a replication; a user is a request."""
    table = []
    for k, speed in enumerate(slowest):
        for load, tps in ((32.0, 80.0), (64.0, speed)):
            numbers = {"tps_per_user_mean": tps, "throughput_tok_s_gpu": load * tps}
            table.append(synthetic.row("base", load, numbers, k, (queued or {}).get((load, k), "stable")))
    return table


def test_a_load_at_which_requests_queue_in_one_replication_is_left_out_of_all() -> None:
    """Between 32 and 64 two replications would be read, and the third at 32 alone: the promise of 70 is kept until requests queue."""
    (found,) = gained(at_two_loads([60.0] * 3, {(64.0, 2): "backlogged"}), 70.0, policies=("base",)).at_sla
    assert found.throughput is None
    assert found.at_least == Estimate(32 * 80.0, 32 * 80.0, 32 * 80.0)
    assert found.note == "base keeps 70 tok/s/user until requests queue, at load 64 or before: add loads below that"
    (found,) = gained(at_two_loads([60.0] * 3), 70.0, policies=("base",)).at_sla
    assert (found.note, found.at_least) == (None, None)


def test_loads_are_kept_where_none_would_be_left() -> None:
    queued: dict[tuple[float, int], Verdict] = {(32.0, 1): "backlogged", (64.0, 0): "backlogged", (64.0, 1): "backlogged", (64.0, 2): "backlogged"}
    found = curves(at_two_loads([60.0] * 3, queued), "base", "tps_per_user_mean")
    assert [curve.speed.tolist() for curve in found.values()] == [[80.0], [], [80.0]]


def test_a_promise_that_some_replications_keep_at_the_highest_load() -> None:
    """60 and 75 tok/s at load 64: a promise of 70 is read between the loads in one replication, and in the other it is kept at both."""
    table = at_two_loads([60.0, 75.0])
    (found,) = gained(table, 70.0, policies=("base",)).at_sla
    between = curves(table, "base", "tps_per_user_mean")[0].throughput_at(70.0)
    assert between is not None
    assert 32 * 80 < between < 64 * 60
    assert found.throughput is None
    assert found.at_least is not None
    assert found.at_least.mean == pytest.approx((between + 64 * 75) / 2)
    assert found.note == "base stays above 70 tok/s/user at all simulated loads in some replications: add higher loads"
    (found,) = gained(at_two_loads([60.0, 90.0]), 85.0, policies=("base",)).at_sla
    assert (found.throughput, found.at_least, found.note) == (None, None, "base does not reach 85 tok/s/user at the simulated loads")

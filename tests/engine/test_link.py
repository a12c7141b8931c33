"""The link that transfers share: cases by hand, and laws of processor sharing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.clock import Clock
from simulator.engine.link import Link


def arrivals(transfers: Sequence[tuple[float, float]], bytes_s: float) -> list[float]:
    """When transfers (beginning, bytes) are there."""
    env, there = Clock(), [0.0] * len(transfers)
    link = Link(env, bytes_s)

    def move(number: int, at_s: float, size: float):  # type: ignore[no-untyped-def]
        yield env.timeout(at_s)
        yield link.send(size)
        there[number] = env.now

    for number, (at_s, size) in enumerate(transfers):
        env.process(move(number, at_s, size))
    env.run()
    return there


@pytest.mark.parametrize(
    "transfers, there",
    [
        ([(0, 100)], [10]),
        ([(0, 100), (0, 100)], [20, 20]),  # half each
        ([(0, 100), (0, 50)], [15, 10]),  # half each until the smaller is there
        ([(0, 100), (5, 100)], [15, 20]),  # 50 alone, then 50 at half speed; the second 50 at half, 50 alone
        ([(0, 100), (5, 10), (6, 100)], [15.5, 7.5, 21]),  # 55 of the first by 6, 60 by 7.5 (thirds), then halves
        ([(0, 100), (10, 100)], [10, 20]),  # one after the other
        ([(3, 0), (0, 100)], [3, 10]),
    ],
)
def test_by_hand(transfers: list[tuple[float, float]], there: list[float]) -> None:
    """10 bytes per second."""
    assert arrivals(transfers, 10.0) == pytest.approx(there)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 200)), min_size=1, max_size=12), st.floats(0.5, 50))
def test_work_is_conserved_and_nobody_is_favoured(transfers: list[tuple[float, float]], bytes_s: float) -> None:
    there = arrivals(transfers, bytes_s)
    begin = [at_s for at_s, _ in transfers]
    # Bytes: each transfer gets its part of every moment between two events, and all parts make up its size.
    times = np.unique([*begin, *there])
    got = np.zeros(len(transfers))
    for since, until in pairwise(times):
        under_way = np.array([b <= since and until <= t for b, t in zip(begin, there, strict=True)])
        if under_way.any():
            got += under_way * (until - since) * bytes_s / under_way.sum()
    np.testing.assert_allclose(got, [size for _, size in transfers], rtol=1e-6, atol=1e-6)
    # The link is busy whenever something is under way: the last arrival is that of a single queue.
    free = 0.0
    for at_s, size in sorted(transfers):
        free = max(free, at_s) + size / bytes_s
    assert max(there) == pytest.approx(free)


def test_mean_times_are_those_of_a_processor_sharing_queue() -> None:
    """M/G/1-PS: a transfer of x bytes takes x / ((1 - load) bytes_s) in the mean, whatever the distribution (Kleinrock, 1967)."""
    luck, n, load = np.random.default_rng(4), 20_000, 0.6
    sizes = luck.choice([1.0, 10.0], n, p=[0.9, 0.1])
    at = np.cumsum(luck.exponential(sizes.mean() / load, n))
    took = np.array(arrivals(list(zip(at, sizes, strict=True)), 1.0)) - at
    for size in (1.0, 10.0):
        mine = took[sizes == size]
        parts = mine[: len(mine) // 20 * 20].reshape(20, -1).mean(axis=1)
        error = parts.std(ddof=1) / np.sqrt(20)
        assert error < 0.06 * size / (1 - load)
        assert abs(parts.mean() - size / (1 - load)) < 4 * error

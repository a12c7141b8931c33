"""One stream per cause: reproducible, addressed by name, independent of order."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from simulator.rng import stream, uniform_at

PINNED = [322562605, 666633113, 19158944]


def test_a_stream_is_its_address_and_no_other() -> None:
    first = stream(1, "arrivals", 0).random(5)
    assert (first == stream(1, "arrivals", 0).random(5)).all()
    others = [stream(2, "arrivals", 0), stream(1, "prompt", 0), stream(1, "arrivals", 1), stream(1, "arrivals"), stream(1, "arrivals", 0, 0)]
    assert all((first != other.random(5)).all() for other in others)


def test_streams_are_the_same_in_another_process_and_release() -> None:
    """Pinned: a change here changes every result that users have saved."""
    assert stream(7, "arrivals", 3).integers(0, 10**9, 3).tolist() == PINNED
    code = "from simulator.rng import *; print(repr(float(uniform_at(7, 'sequence', 3, 4))), int(stream(7, 'arrivals', 3).integers(0, 10**9)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"}).stdout.split()
    assert (float(out[0]), int(out[1])) == (float(uniform_at(7, "sequence", 3, 4)), PINNED[0])


@given(seed=st.integers(0, 2**40), index=st.lists(st.integers(0, 2**40), min_size=1, max_size=20), turn=st.integers(0, 1000))
def test_a_uniform_depends_on_its_address_alone(seed: int, index: list[int], turn: int) -> None:
    together = uniform_at(seed, "output", 0, np.array(index), turn)
    assert ((together >= 0) & (together < 1)).all()
    assert together.tolist() == [float(uniform_at(seed, "output", 0, i, turn)) for i in index]
    backwards = uniform_at(seed, "output", 0, np.array(index[::-1]), turn)
    assert together.tolist() == backwards[::-1].tolist()


def test_uniforms_broadcast_and_tell_their_axes_apart() -> None:
    grid = uniform_at(0, "x", np.arange(30)[:, None], np.arange(30)[None, :])
    assert grid.shape == (30, 30)
    assert len(np.unique(grid)) == 900  # (i, j) is not (j, i), nor i + j
    assert (
        len(np.unique([uniform_at(0, "x", 1), uniform_at(0, "x", 1, 0), uniform_at(0, "x", 0, 1), uniform_at(1, "x", 1), uniform_at(0, "y", 1)])) == 5
    )


def test_uniforms_are_uniform_and_neighbours_are_independent() -> None:
    """Kolmogorov-Smirnov, serial correlation, and chi-square of pairs on a 16 × 16 grid: neighbours in request, turn and seed."""
    n = 40_000
    by_request = uniform_at(3, "prompt", 0, np.arange(n))
    by_turn = uniform_at(3, "prompt", 0, 5, np.arange(n))
    by_seed = np.array([float(uniform_at(seed, "prompt", 0, 0)) for seed in range(4000)])
    for u in (by_request, by_turn, by_seed):
        assert kstest(u, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 4 / np.sqrt(len(u))
    for a, b in ((by_request[1:], by_request[:-1]), (by_request, by_turn), (by_request, uniform_at(3, "output", 0, np.arange(n)))):
        counts = np.histogram2d(a, b, 16, ((0, 1), (0, 1)))[0]
        expected = len(a) / 256
        assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-4, 255)

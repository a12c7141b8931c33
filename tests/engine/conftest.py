"""Tests of the engine run on both paths: step by step through Python, and compiled."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from simulator.engine.records import StepRecord
from simulator.engine.simulate import Fleet, Run, Traffic, simulate
from tests.engine.worlds import Engine, stamps


@pytest.fixture(params=["plain", "compiled"], scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "compiled":
        pytest.importorskip("numba")
    return Engine(request.param)


class Series(Engine):
    """For a test of many replications: each on the compiled path, the first few on the plain one too, which gives the same to the last bit.
    The plain path alone where numba is not installed."""

    def __init__(self, plain_runs: int = 3) -> None:
        super().__init__("compiled" if find_spec("numba") else "plain")
        self.left = [plain_runs]

    def run(self, traffic: Traffic, over: Fleet) -> Run:
        before = over.luck.bit_generator.state
        run = super().run(traffic, over)
        if self.path == "compiled" and self.left[0]:
            self.left[0] -= 1
            over.luck.bit_generator.state = before
            plain = simulate(traffic, over, "plain")
            for name in StepRecord._fields:
                np.testing.assert_array_equal(run.steps[name], plain.steps[name], strict=True)
            np.testing.assert_array_equal(stamps(run.requests), stamps(plain.requests), strict=True)
            np.testing.assert_array_equal(run.join_gaps, plain.join_gaps, strict=True)
            assert (run.start_s, run.end_s, run.path, plain.path) == (plain.start_s, plain.end_s, "compiled", "plain")
        return run


@pytest.fixture
def series() -> Engine:
    return Series()

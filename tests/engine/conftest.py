"""Tests of the engine run on both paths: step by step through Python, and compiled."""

from __future__ import annotations

import pytest

from tests.engine.worlds import Engine


@pytest.fixture(params=["plain", "compiled"], scope="module")
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "compiled":
        pytest.importorskip("numba")
    return Engine(request.param)

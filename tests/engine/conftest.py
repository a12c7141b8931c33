"""Every test of the engine runs on both paths: step by step through Python, and compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import worlds


@pytest.fixture(params=worlds.PATHS, autouse=True, scope="module")
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """What worlds.simulate() goes by."""
    if request.param == "compiled" and find_spec("numba") is None:
        pytest.skip("numba is not installed")
    worlds._path[0] = request.param
    yield request.param
    worlds._path[0] = "plain"

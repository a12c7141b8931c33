"""The command line: pictures are the report's tests' to look at."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _sketched(sketched: None) -> None: ...

"""Where the real files lie, on a machine that has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_traffic() -> Path:
    """The folder of real traffic files: DSIM_SHARED, else ../shared beside the repository."""
    shared = Path(os.environ.get("DSIM_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "traffic"
    if not shared.is_dir():
        pytest.skip("the real traffic files are not on this machine")
    return shared

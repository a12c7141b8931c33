"""Where the real files lie, on a machine that has them, and traces written for a test."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shared_traffic() -> Path:
    """The folder of real traffic files: DSIM_SHARED, else ../shared beside the repository."""
    shared = Path(os.environ.get("DSIM_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "traffic"
    if not shared.is_dir():
        pytest.skip("the real traffic files are not on this machine")
    return shared


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write a trace: text, bytes, or rows as JSON lines."""

    def write(content: str | bytes | list[dict[str, Any]], name: str = "t.csv") -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content, path = "".join(json.dumps(row) + "\n" for row in content), tmp_path / name.replace(".csv", ".jsonl")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write

"""The command line: pictures are the report's tests' to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import Content, Dsim
from tests.planning.conftest import PLAN

Refuse = Callable[..., str]
SHORT: Content = PLAN | {"policies": PLAN["policies"][:1], "load_rps": 30.0, "run": {"warmup_s": 1.0, "window_s": 3.0, "replications": 3}}


@pytest.fixture(autouse=True)
def _sketched(sketched: None) -> None: ...


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refuse(dsim: Dsim, world: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Call dsim; it must refuse in one line that has all of `says`, leave the folder as it was, and simulate nothing."""

    def work(*_: object) -> None:
        raise AssertionError("this was not refused before the work")

    monkeypatch.setattr("simulator.study.run.sweep.local", work)
    monkeypatch.setattr("simulator.study.planning.work.local", work)
    (world / "plan.yaml").write_text(yaml.safe_dump(SHORT, sort_keys=False))

    def call(*arguments: object, says: str) -> str:
        before = tree(world)
        result = dsim(*arguments)
        lines = result.err.splitlines()
        assert (result.code, result.out, len(lines)) == (2, "", 1), (arguments, result)
        assert lines[0].startswith("error: ")
        for text in says.split(" | "):
            assert text in lines[0], lines[0]
        assert tree(world) == before
        return lines[0]

    return call

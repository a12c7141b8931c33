"""`dsim validate --published`: every scenario with checks, a result file each; the shipped ones load and name what is there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.study.run.scenario import load_scenario
from simulator.study.validation.compare import check_checks
from simulator.study.validation.published import RECORDED, published_scenarios

ROOT = Path(__file__).resolve().parents[2]
Dsim = Callable[..., Any]
CURVE = {
    "kind": "curve",
    "policy": "plain",
    "table": "speed",
    "y": "tps_per_user",
    "metric": "tps_per_user_mean",
    "between": [1, 9],
    "limit_rms": 0.5,
}


@pytest.fixture
def checkout(world: Path, scenario: Callable[..., Path]) -> Path:
    """A folder with one scenario that checks something and one that does not."""
    (world / "scenarios").mkdir()
    plain = [{"name": "plain", "verification": {"kind": "none"}}]
    checked = scenario("checked.yaml", profile="../tiny", validation=[CURVE], policies=plain)
    shutil.move(checked, world / "scenarios" / "checked.yaml")
    shutil.move(scenario("free.yaml", profile="../tiny"), world / "scenarios" / "free.yaml")
    return world


def test_a_result_file_for_each_scenario_that_checks_something(checkout: Path, dsim: Dsim) -> None:
    said = dsim("validate", "--published", "--out", "found", "--workers", 1)
    assert said.code == 0, said.err
    assert f"{RECORDED}: not here, left out" in said.err
    assert [path.name for path in (checkout / "found").iterdir()] == ["checked.json"]
    found = json.loads((checkout / "found" / "checked.json").read_text())
    assert found["ok"] is True
    assert found["sources"] == ["a paper"]
    assert {row["table"] for row in found["provenance"]} >= {"verify cost", "acceptance of head"}


def test_a_limit_that_is_not_kept_ends_with_1(checkout: Path, dsim: Dsim) -> None:
    path = checkout / "scenarios" / "checked.yaml"
    path.write_text(path.read_text().replace("limit_rms: 0.5", "limit_rms: 0.0001"))
    assert dsim("validate", "--published", "--out", "found", "--workers", 1, "--only", "checked").code == 1
    assert json.loads((checkout / "found" / "checked.json").read_text())["ok"] is False


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "expected either a scenario, --published or --silicon"),
        (("small.yaml", "--published"), "expected either a scenario, --published or --silicon"),
        (("--published", "--only", "nothing"), "no published comparison 'nothing'"),
        (("--published", "--only", RECORDED), "meta.json: no such file"),
    ],
)
def test_what_cannot_be_run_is_one_line(checkout: Path, dsim: Dsim, arguments: tuple[str, ...], told: str) -> None:
    said = dsim("validate", *arguments)
    assert said.code == 2
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_without_scenarios_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsim: Dsim) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").mkdir()  # else those that come with dsim are taken
    said = dsim("validate", "--published")
    assert said.code == 2
    assert "no scenario with published tables" in said.err


@pytest.mark.parametrize("path", published_scenarios(ROOT / "scenarios"), ids=lambda path: path.stem)
def test_the_shipped_scenarios_name_what_is_there(path: Path) -> None:
    asked = load_scenario(path)
    check_checks(asked)
    assert (ROOT / "docs" / "validation" / f"{path.stem}.json").is_file()

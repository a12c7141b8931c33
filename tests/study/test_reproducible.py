"""The same scenario gives the same bytes: wherever it is run, on however many cores, in whatever order; policies do not disturb each other."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.study.run.result import PointRow
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep

Dsim = Callable[..., Any]
WRITTEN = {"result.json", "points.csv", "points.parquet", "report.html", "report.md", "pareto.svg", "pareto.png", "against_load.svg"}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_place_process_locale_and_number_of_workers(world: Path, dsim: Dsim, tmp_path_factory: pytest.TempPathFactory) -> None:
    small = ("--set", "load=[2, 3]", "--set", "run.replications=1", "--steps", "--requests")
    assert dsim("run", "small.yaml", "--out", "a", "--workers", 1, *small).code == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = os.environ | {"LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "COLUMNS": "60", "HOME": str(elsewhere)}
    command = [str(Path(sys.executable).with_name("dsim")), "run", str(world / "small.yaml"), "--out", "b", "--workers", "2"]
    subprocess.run([*command, *small], cwd=elsewhere, env=environment, check=True, capture_output=True)
    first = tree(world / "a")
    assert set(first) > WRITTEN
    assert tree(elsewhere / "b") == first


def open_loop(content: dict[str, Any]) -> None:
    content["workload"]["arrivals"] = {"kind": "gamma", "cv": 2}
    content["load"] = [3, 8]
    content["run"] = {"replications": 2, "warmup_s": 1, "duration_s": 4}
    content["fleet"] = {"replicas": 2, "routing": {"kind": "power_of_two"}}


@pytest.mark.parametrize("change", [lambda content: None, open_loop], ids=["closed", "open"])
def test_policies_do_not_disturb_each_other(change: Callable[[dict[str, Any]], None], world: Path) -> None:
    """Common random numbers: one policy more or less, or in another order, and the others keep every digit."""
    content = yaml.safe_load((world / "small.yaml").read_text())
    change(content)

    def rows(*names: str) -> dict[str, list[PointRow]]:
        asked = copy.deepcopy(content)
        known = {policy["name"]: policy for policy in content["policies"]}
        asked["policies"] = [known[name] for name in names]
        (world / "some.yaml").write_text(yaml.safe_dump(asked))
        found = sweep(load_scenario(world / "some.yaml"), workers=1)
        return {name: [row for row in found if row.policy == name] for name in names}

    every = rows("plain", "MTP-1", "scheduled")
    for some in (("plain", "scheduled"), ("scheduled", "MTP-1"), ("MTP-1",)):
        assert rows(*some) == {name: every[name] for name in some}


def test_loads_and_replications_do_not_disturb_each_other(world: Path) -> None:
    every = sweep(load_scenario(world / "small.yaml"), workers=1)
    one = sweep(load_scenario(world / "small.yaml", ["load=[6]", "run.replications=1"]), workers=1)
    assert one == [row for row in every if row.load == 6 and row.replication == 0]


def test_another_seed_gives_other_numbers(world: Path) -> None:
    rows = sweep(load_scenario(world / "small.yaml"), workers=1)
    other = sweep(load_scenario(world / "small.yaml", ["run.seed=1"]), workers=1)
    assert all(a["throughput_tok_s_gpu"] != b["throughput_tok_s_gpu"] for a, b in zip(rows, other, strict=True))

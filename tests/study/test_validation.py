"""`dsim validate`: numbers from the tables that the scenario names, limits kept or not, exit code 1 where not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simulator.errors import DsimError
from simulator.study.run.checks import CurveCheck
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep
from simulator.study.run.validated import Validation
from simulator.study.validation.compare import check_checks, overlays, validate_result

ROOT = Path(__file__).resolve().parents[2]
Dsim = Callable[..., Any]
CURVE = {"kind": "curve", "policy": "plain", "table": "speed", "y": "tps_per_user", "metric": "tps_per_user_mean", "between": [1, 9]}


@pytest.fixture
def checked(world: Path, sketched: None, scenario: Callable[..., Path]) -> Path:
    return scenario(validation=[CURVE | {"limit_rms": 0.5}], policies=[{"name": "plain", "verification": {"kind": "none"}}])


def found(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "validation.json").read_text()))


def test_a_limit_kept_and_not_kept(checked: Path, world: Path, dsim: Dsim) -> None:
    said = dsim("validate", checked, "--out", "out", "--workers", 1)
    assert said.code == 0
    assert "validation.json" in said.out
    assert found(world / "out")["ok"] is True
    tight = ("--set", "validation.0.limit_rms=0.0001")
    said = dsim("validate", checked, "--out", "out", "--workers", 1, *tight)
    assert said.code == 1
    assert said.err == ""
    assert found(world / "out")["ok"] is False
    assert (world / "out" / "report.html").is_file()
    assert dsim("run", checked, "--out", "out", "--workers", 1, *tight).code == 0  # run only shows it


def test_without_a_limit_nothing_is_judged(checked: Path, world: Path, dsim: Dsim) -> None:
    assert dsim("validate", checked, "--out", "out", "--workers", 1, "--set", "validation.0.limit_rms=null").code == 0
    assert found(world / "out")["ok"] is None


def test_published_numbers_come_from_the_table(checked: Path, world: Path) -> None:
    simulated = sweep(load_scenario(checked), workers=1)

    def run(factor: float) -> Validation:
        rows = [(1, 90), (4, 80), (10, 70)]
        text = "concurrency,tps_per_user\n" + "".join(f"{x},{y * factor}\n" for x, y in rows)
        (world / "tiny" / "published" / "speed.csv").write_text(text)
        return validate_result(load_scenario(checked), simulated)

    first, second = run(1.0), run(1.1)
    assert [p.load for p in first.points] == [2, 6]
    assert [p.published for p in first.points] == pytest.approx([90 - 10 / 3, 80 - 20 / 6])
    for a, b in zip(first.points, second.points, strict=True):
        assert b.published == pytest.approx(1.1 * a.published)
        assert b.simulated == a.simulated
        assert b.difference == pytest.approx(a.simulated / (1.1 * a.published) - 1)
    assert first.rows[0].difference == pytest.approx(np.sqrt(np.mean([p.difference**2 for p in first.points])))


def test_only_loads_in_the_range_and_the_table_count(checked: Path, world: Path) -> None:
    rows = sweep(load_scenario(checked), workers=1)
    assert [p.load for p in validate_result(load_scenario(checked, ["validation.0.between=[3, 9]"]), rows).points] == [6]
    (world / "tiny" / "published" / "speed.csv").write_text("concurrency,tps_per_user\n1,90\n4,80\n")
    assert [p.load for p in validate_result(load_scenario(checked), rows).points] == [2]


def test_a_limit_with_nothing_to_compare_is_not_kept(checked: Path) -> None:
    scenario = load_scenario(checked, ["validation.0.between=[100, 200]"])
    judged = validate_result(scenario, sweep(scenario, workers=1))
    assert judged.ok is False
    assert judged.rows[0].n == 0


def test_overlays_are_the_table(checked: Path) -> None:
    assert overlays(load_scenario(checked)) == []  # a table without throughput has nothing to draw there
    flash = load_scenario(ROOT / "scenarios" / "v4-flash-pareto.yaml")
    drawn = {(row.label, row.x, row.y): row for row in overlays(flash)}
    line = drawn["MTP-1, published (Figure 7)", "tps_per_user", "throughput_tok_s_gpu"].points
    assert line[0] == (50.3, 19433.801)
    over_load = drawn["MTP-1, published (Figure 7)", "concurrency", "throughput_tok_s_gpu"].points
    assert over_load[0] == (pytest.approx(19433.801 / 50.3), 19433.801)
    assert 100 <= len(line) <= 120


TABLES = {
    "a word": "concurrency,tps_per_user\n1,90\n4,fast\n",
    "a gap": "concurrency,tps_per_user\n1,90\n4,\n",
    "zero": "concurrency,tps_per_user\n1,90\n4,0\n",
    "no rows": "concurrency,tps_per_user\n",
    "nothing": "",
    "ragged": "concurrency,tps_per_user\n1,90,7\n1,2,3,4,5\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_none(case: str, checked: Path, world: Path) -> None:
    (world / "tiny" / "published" / "speed.csv").write_text(TABLES[case])
    with pytest.raises(DsimError, match=r"speed\.csv"):
        check_checks(load_scenario(checked))


@pytest.fixture
def callouts(world: Path) -> Path:
    """v4-flash-pareto with its callouts alone, small, and a copy of the profile beside it."""
    shutil.copytree(ROOT / "profiles" / "deepseek-v4-flash", world / "flash")
    content = yaml.safe_load((ROOT / "scenarios" / "v4-flash-pareto.yaml").read_text())
    content["policies"] = [policy for policy in content["policies"] if policy["name"] in ("MTP-1", "DSpark-5 scheduled")]
    content["policies"][0]["load"] = [20, 60, 160]
    content |= {"profile": "flash", "load": [20, 60, 230], "run": {"replications": 1, "requests": 10}}
    content["workload"]["output_tokens"] = {"kind": "fixed", "tokens": 40}
    content["validation"] = [check for check in content["validation"] if check["kind"] == "callouts"]
    (world / "callouts.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return world / "callouts.yaml"


def test_callouts_come_from_the_table(callouts: Path, world: Path) -> None:
    rows = sweep(load_scenario(callouts), workers=1)
    first = validate_result(load_scenario(callouts), rows).rows
    assert [round(row.published, 2) for row in first[:2]] == [0.51, 0.60]
    assert "+51% throughput" in first[0].what
    assert first[0].simulated == pytest.approx(0.5, abs=0.25)
    assert first[0].difference == pytest.approx(first[0].simulated - first[0].published)
    table = world / "flash" / "published" / "fig7_callouts.csv"
    table.write_text(table.read_text().replace("16035.804", "21223.116"))
    second = validate_result(load_scenario(callouts), rows).rows
    assert second[0].published == pytest.approx(1.0, abs=1e-3)
    assert second[0].simulated == first[0].simulated
    assert second[1] == first[1]


def test_callouts_that_lack_a_row_or_a_system(callouts: Path, world: Path) -> None:
    table = world / "flash" / "published" / "fig7_callouts.csv"
    text = table.read_text()
    table.write_text("\n".join(line for line in text.splitlines() if not line.startswith("1,matched_dspark")) + "\n")
    with pytest.raises(DsimError, match="anchor 1, has no row of role matched and system dspark"):
        check_checks(load_scenario(callouts))
    table.write_text(text)
    with pytest.raises(DsimError, match="no system 'eagle'; systems there: dspark, mtp"):
        check_checks(load_scenario(callouts, ["validation.0.systems={mtp: MTP-1, eagle: DSpark-5 scheduled}"]))


def test_limits_of_the_shipped_scenarios_bite() -> None:
    """Every curve that ships has a limit, and none so wide that it could not fail."""
    for path in (ROOT / "scenarios").glob("*pareto.yaml"):
        checks = [CurveCheck(**check) for check in yaml.safe_load(path.read_text())["validation"] if check["kind"] == "curve"]
        assert checks
        assert all(check.limit_rms is not None and check.limit_rms <= 0.1 for check in checks)

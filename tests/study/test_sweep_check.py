"""Published sweeps: gains cell by cell, crossings counted in steps of the published grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep
from simulator.study.validation.compare import check_checks, validate_result
from simulator.study.validation.sweep_check import first_at_least, first_fall
from tests.report import synthetic_result as synthetic

CHECK = {
    "kind": "sweep",
    "table": "sweep",
    "y": "throughput",
    "metric": "throughput_tok_s_gpu",
    "systems": {"none": "plain", "mtp": "MTP-1", "adaptive": "scheduled"},
    "adaptive": "adaptive",
    "limit_steps": 1,
}
PUBLISHED = """policy,concurrency,throughput
none,2,100
none,6,250
mtp,2,150
mtp,6,200
adaptive,2,140
adaptive,6,300
"""


@pytest.fixture
def swept(world: Path, scenario: Callable[..., Path], edit_profile: Callable[..., None]) -> Callable[..., Path]:
    def make(table: str = PUBLISHED, **changes: Any) -> Path:
        (world / "tiny" / "published" / "sweep.csv").write_text(table)
        told = {"file": "published/sweep.csv", "x": "concurrency", "y": "throughput", "label": "a blog", "source": "a blog"}
        edit_profile(lambda content: content["published"].update(sweep=told))
        return scenario(validation=[CHECK | changes])

    return make


@pytest.mark.parametrize(
    ("ratio", "reached", "fallen"),
    [([1.2, 1.1, 0.9], 0, 2), ([0.9, 1.0, 1.1], 1, 3), ([0.9, 0.8], 2, 0), ([1.1, 1.2], 0, 2), ([0.9, 1.1, 1.0, 1.2], 1, 2), ([], 0, 0)],
)
def test_where_a_ratio_crosses_one(ratio: list[float], reached: int, fallen: int) -> None:
    assert first_at_least(ratio) == reached
    assert first_fall(ratio) == fallen


def test_gains_and_crossings_by_hand(swept: Callable[..., Path]) -> None:
    asked = load_scenario(swept(fitted={"mtp": [2]}))
    check_checks(asked)

    def row(policy: str, load: float, value: float) -> PointRow:
        return synthetic.row(policy, load, {"throughput_tok_s_gpu": value})

    simulated = [row("plain", 2, 10), row("plain", 6, 20), row("MTP-1", 2, 16), row("MTP-1", 6, 24), row("scheduled", 2, 17), row("scheduled", 6, 22)]
    found = validate_result(asked, simulated)
    cells = {(p.policy, p.load): p for p in found.points}
    assert cells["MTP-1", 2].simulated == pytest.approx(1.6)
    assert cells["MTP-1", 2].published == pytest.approx(1.5)
    assert cells["MTP-1", 2].fitted
    assert cells["scheduled", 6].difference == pytest.approx(1.1 / 1.2 - 1)
    rows = {r.what.split(",")[0]: r for r in found.rows if r.unit == "concurrency"}
    overtakes = rows["scheduled overtakes the best of the others"]
    assert (overtakes.simulated, overtakes.published, overtakes.difference, overtakes.ok) == (2, 6, 1, True)
    behind = rows["scheduled no longer ahead of the best of the others"]  # simulated from 6 on; published never, once it is ahead
    assert (behind.simulated, behind.published, behind.difference) == (6, None, 1)
    pays = rows["speculation stops paying"]
    assert (pays.simulated, pays.published, pays.difference) == (None, None, 0)
    mtp = rows["MTP-1 stops paying"]
    assert (mtp.simulated, mtp.published, mtp.ok) == (None, 6, True)
    assert found.ok is True


def test_a_crossing_two_steps_off_is_outside(swept: Callable[..., Path]) -> None:
    table = "policy,concurrency,throughput\n" + "".join(
        f"{p},{c},{v}\n" for p, values in (("none", (1, 1)), ("mtp", (0.5, 0.5))) for c, v in zip((2, 6), values, strict=True)
    )
    asked = load_scenario(swept(table, systems={"none": "plain", "mtp": "MTP-1"}, adaptive=None))
    simulated = sweep(asked, workers=1)
    found = validate_result(asked, simulated)
    assert found.ok is False  # MTP-1 pays at both loads of the tiny profile, the table says at neither
    assert {r.difference for r in found.rows if r.unit == "concurrency"} == {2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"y": "speed"}, "table 'sweep' has no column 'speed'"),
        ({"systems": {"none": "plain", "eagle": "MTP-1"}, "adaptive": None}, "table 'sweep' has no policy 'eagle'"),
        ({"systems": {"none": "plain", "mtp": "MTP-9"}, "adaptive": None}, "no policy 'MTP-9'"),
        ({"systems": {"none": "plain", "mtp": "MTP-1"}}, "adaptive is 'adaptive', which is none of systems"),
        ({"metric": "throughput"}, "unknown metric 'throughput'"),
        ({"limit_steps": -1}, "limit_steps"),
    ],
)
def test_what_cannot_be_compared_is_refused(swept: Callable[..., Path], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DsimError, match=told):
        check_checks(load_scenario(swept(**changes)))


def test_a_published_cell_that_is_not_simulated_is_refused(swept: Callable[..., Path]) -> None:
    with pytest.raises(DsimError, match="not run at concurrency 9"):
        check_checks(load_scenario(swept(PUBLISHED + "none,9,300\nmtp,9,300\n")))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (PUBLISHED.replace("100", "0"), "throughput: must be a positive number"),
        (PUBLISHED.replace("100", "1e-320"), "throughput: expected numbers from 1e-09"),
        (PUBLISHED.replace("none,2,", "none,many,"), "concurrency: must be a positive number"),
        (PUBLISHED + "mtp,6,210\n", "policy 'mtp' at concurrency 6 twice"),
        ("policy,concurrency,throughput\n", "has no rows"),
    ],
)
def test_a_table_that_cannot_be_divided_by_is_one_line(swept: Callable[..., Path], table: str, problem: str) -> None:
    with pytest.raises(DsimError, match=problem):
        check_checks(load_scenario(swept(table)))

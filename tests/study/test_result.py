"""What results hold survives a file, what is foreign is one line, and a metric is one record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.report.render.markdown import table as markdown
from simulator.report.run import tables
from simulator.report.run.differences import scenario_differences
from simulator.study.run import build, meter, metrics
from simulator.study.run.build import build_result
from simulator.study.run.metrics import Metric, Totals, columns_table
from simulator.study.run.output import read_result, write_output
from simulator.study.run.result import Estimate
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep
from simulator.study.run.tables import points_table
from simulator.study.run.validated import Validation, ValidationRow
from simulator.study.validation.result import Comparison, EngineComparison
from tests.report import synthetic_result as synthetic

ROOT = Path(__file__).resolve().parents[2]
number = st.floats(-1e15, 1e15)
interval = st.tuples(number, number, number).map(sorted).map(lambda ends: Estimate(ends[1], ends[0], ends[2]))
maybe = st.none() | st.builds(Estimate, number) | interval


def again(record: Any) -> Any:
    """What a record is when a file was between."""
    return type(record).from_json(json.loads(json.dumps(record.to_json())))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(metrics.names()), maybe), maybe, st.none() | number)
def test_a_result_survives_a_file(numbers: dict[str, Estimate | None], gain: Estimate | None, throughput: float | None) -> None:
    made = synthetic.result(loads=(5, 40))
    point = made.frontier[0].model_copy(update={"metrics": numbers})
    row = made.gains.at_sla[0].model_copy(update={"gain": gain})
    matched = made.gains.at_matched_throughput[0].model_copy(update={"throughput": throughput, "tps": gain})
    gains = made.gains.model_copy(update={"at_sla": (row,), "at_matched_throughput": (matched,)})
    made = made.model_copy(update={"frontier": (point, *made.frontier[1:]), "gains": gains})
    assert again(made) == made
    assert json.dumps(again(made).to_json()) == json.dumps(made.to_json())


whole_or_not = st.none() | st.integers(-9, 9) | number


@settings(max_examples=50, deadline=None, derandomize=True)
@given(whole_or_not, st.none() | st.integers(0, 9) | st.floats(0, 1e15), st.none() | st.tuples(st.none() | number, number))
def test_a_validation_survives_a_file(difference: Any, limit: Any, interval: Any) -> None:
    """Steps of a grid stay whole numbers, and what a row never had is not written."""
    full = ValidationRow.judged("a", difference, limit, policy="p", unit="concurrency", n=3, interval=interval)
    made = Validation(rows=(full, ValidationRow(what="b", difference=difference)), points=(), ok=full.ok)
    assert again(made) == made
    written = made.to_json()["rows"]
    assert json.dumps(written[0]["difference"]) == json.dumps(difference)
    assert list(written[1]) == ["what", "difference"]


def test_committed_comparisons_survive_a_file() -> None:
    for path in (ROOT / "docs" / "validation").glob("*.json"):
        content = json.loads(path.read_text())
        kind = EngineComparison if "runs" in content else Comparison
        written = kind.from_json(content, path).to_json()
        assert written == {"format": 1} | {key: value for key, value in content.items() if key in kind.model_fields}


def test_files_hold_what_was_built(scenario: Callable[..., Path], tmp_path: Path) -> None:
    asked = load_scenario(scenario())
    rows = sweep(asked, workers=1)
    built = build_result(asked, rows)
    write_output(built, rows, tmp_path)
    assert read_result(tmp_path) == built
    assert not (tmp_path / "validation.json").exists()


def test_a_profile_that_changed_in_place_is_no_longer_the_same(scenario: Callable[..., Path], edit_profile: Callable[..., None]) -> None:
    asked = load_scenario(scenario(load=[2]))
    rows = sweep(asked, workers=1)
    before = build_result(asked, rows)
    assert scenario_differences(before, build_result(load_scenario(asked.file), rows)) == ()
    edit_profile(lambda profile: profile["costs"]["verify"].update(base_s=0.02))
    after = build_result(load_scenario(asked.file), rows)
    assert [row.key for row in scenario_differences(before, after)] == ["files.profile"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a result of this dsim"),
        ('{"frontier": [], "policies": []}', "dsim_version: not a result of this dsim"),
        (json.dumps(synthetic.example(loads=(5,)) | {"frontier": [{"policy": "a"}]}), r"frontier\.0\.drafter: not a result of this dsim"),
        (json.dumps(synthetic.example(loads=(5,)) | {"speed_metric": 7}), "speed_metric: not a result of this dsim"),
        (json.dumps(synthetic.example(loads=(5,)) | {"format": 2}), r"format: not a result of this dsim \(expected 1, got 2\)"),
    ],
)
def test_a_foreign_file_is_one_line(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(DsimError, match=complaint) as caught:
        read_result(tmp_path)
    assert "\n" not in str(caught.value)
    assert "name the --out folder of a dsim run" in str(caught.value) or "run the scenario again" in str(caught.value)


def test_what_came_later_may_be_missing(tmp_path: Path) -> None:
    content = synthetic.example(loads=(5,))
    for key in ("validation", "published", "warnings", "answer", "conditions"):
        del content[key]
    content["frontier"][0]["metrics"] |= {"accepted_length": {"mean": None, "low": None, "high": None}, "busy_fraction": None}
    (tmp_path / "result.json").write_text(json.dumps(content))
    result = read_result(tmp_path)
    assert result.frontier[0].get("accepted_length") is result.frontier[0].get("busy_fraction") is None
    assert (result.validation, result.published, result.warnings) == (None, (), ())


def test_the_documentation_lists_every_column() -> None:
    documented = (ROOT / "docs" / "design.md").read_text()
    assert columns_table() in documented, f"docs/design.md must hold this table:\n{columns_table()}"


def test_a_metric_is_one_record(scenario: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A record added here is a column, a number of the result, a row of the documentation and a column of the report."""

    def share_in_steps(totals: Totals) -> float:
        return totals.sums["length_s"] / totals.window_s

    toy = Metric("toy_share", "a toy", "%", share_in_steps, "time in steps ÷ window", 100.0, 1, place="points")
    more = (*metrics.METRICS, toy)
    for module in (metrics, meter, build, tables):
        monkeypatch.setattr(module, "METRICS", more)
    asked = load_scenario(scenario())
    rows = sweep(asked, workers=1)
    table = points_table(rows)
    assert (table["toy_share"] == table["busy_fraction"]).all()  # one replica
    result = build_result(asked, rows)
    assert result.frontier[0].get("toy_share") == result.frontier[0].get("busy_fraction") is not None
    assert "| `toy_share` | time in steps ÷ window |" in columns_table()
    assert "a toy, %" in markdown(tables.verdicts(result))

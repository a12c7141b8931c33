"""docs/validation.md and the README's table say what the result files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.report.render.markdown import markdown, table
from simulator.report.validation.page import Entry, cell_errors, headline, page, read_results, with_headline
from simulator.study.validation.result import Comparison

ROOT = Path(__file__).resolve().parents[2]


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    folder = ROOT / "docs" / "validation"
    results = read_results(folder)
    made = markdown(page(results, (folder / "not_compared.md").read_text()))
    assert (ROOT / "docs" / "validation.md").read_text() == made, "run make validation"
    readme = (ROOT / "README.md").read_text()
    assert readme == with_headline(readme, table(headline(results))), "run make validation"


def test_no_limit_is_said_to_be_kept_that_is_not() -> None:
    for result in (entry.comparison for entry in read_results(ROOT / "docs" / "validation")):
        judged = [row.ok for row in result.rows if row.ok is not None]
        assert result.ok == (all(judged) if judged else None)
        for row in result.rows:
            if row.ok is not None:
                assert row.ok == (abs(row.difference or 0) <= (row.limit or 0))


def result(**changes: Any) -> Comparison:
    row = {"what": "TPOT", "simulated": 1.02, "published": 1.0, "difference": 0.02, "unit": "value", "limit": 0.03, "ok": True}
    point = {"policy": "a", "metric": "speed", "table": "t", "load": 4, "simulated": 90.0, "published": 100.0, "difference": -0.1}
    whole = {"name": "x", "title": "t", "system": "s", "sources": ["paper"], "command": "c", "rows": [row], "points": [point], "ok": True}
    return Comparison.from_json(whole | changes)


def test_errors_are_of_what_was_not_fitted() -> None:
    assert cell_errors(result()) == pytest.approx([0.1, 0.02])
    fitted = [result().to_json()["points"][0] | {"fitted": True}]
    assert cell_errors(result(points=fitted)) == pytest.approx([0.02])
    gain = {"what": "gain", "simulated": 0.55, "published": 0.50, "difference": 0.05, "unit": "gain"}
    assert cell_errors(result(points=[], rows=[gain], ok=None)) == pytest.approx([1.55 / 1.5 - 1])
    told = table(headline([Entry(result())]))
    assert "| 2 | 6.0 % | 10.0 % | – | – | 1 of 1 |" in told


@pytest.mark.parametrize(("ends", "held"), [((0.5, 1.5), "1 of 1"), ((1.05, 1.5), "0 of 1")])
def test_a_comparison_says_how_many_cells_its_interval_holds(ends: tuple[float, float], held: str) -> None:
    """Of a cell of 1.1 for 1.0: by hand, the half width over what was simulated."""
    point = result().to_json()["points"][0] | {"simulated": 1.1, "published": 1.0, "difference": 0.1, "prediction": list(ends)}
    told = table(headline([Entry(result(points=[point]))]))
    assert f"| {held} | ±{(ends[1] - ends[0]) / 2.2:.1%} |".replace("%", " %") in told
    fitted = table(headline([Entry(result(points=[point | {"fitted": True}]))]))
    assert "| – | – |" in fitted


def test_a_readme_without_marks_is_refused(tmp_path: Path) -> None:
    begin, end = "<!-- board: begin -->", "<!-- board: end -->"
    assert with_headline(f"a\n{begin}\nold\n{end}\nb", "new", "board") == f"a\n{begin}\nnew\n{end}\nb"
    with pytest.raises(DsimError, match="put the marks back"):
        with_headline("a\nb", "new")
    with pytest.raises(DsimError, match="holds no result files"):
        read_results(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(DsimError, match=r"x\.json: title: not a result"):
        read_results(tmp_path)

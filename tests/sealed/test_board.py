"""The board says what the score files say: failures with their size, and no line without the seal that it was scored against."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.report.board.page import board_page, main, read_published, readme_lines
from simulator.report.render.html import html
from simulator.report.render.markdown import markdown
from simulator.report.validation.page import with_headline
from simulator.study.sealed.make_score import score_of, write_score
from simulator.study.sealed.read_score import read_scores
from simulator.study.sealed.result import Score
from simulator.study.sealed.seal import Seal
from tests.conftest import ROOT
from tests.sealed.conftest import Write
from tests.sealed.test_score import FACTORS, whole

DOCS = ROOT / "docs"


def test_the_committed_board_is_made_of_the_committed_files() -> None:
    scores, published = read_scores(DOCS / "board"), read_published(DOCS / "validation")
    assert (DOCS / "board.md").read_text() == markdown(board_page(scores, published, (DOCS / "board" / "add_your_line.md").read_text()))
    readme = (ROOT / "README.md").read_text()
    assert readme == with_headline(readme, readme_lines(scores, published), "board"), "run make validation"


def test_published_sweeps_have_date_digest_and_conditions() -> None:
    published = read_published(DOCS / "validation")
    assert sum(one.comparison.compared_with == "published" for one in published) >= 5
    assert all(one.comparison.date and len(one.digest) == 12 for one in published)


@pytest.fixture
def board(world: Path, sealed: Seal, result_file: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docs/board with one line whose errors are known by hand."""
    folder = world / "docs" / "board"
    folder.mkdir(parents=True)
    score = score_of(sealed, "mine", whole(result_file, FACTORS), "vLLM", "one core", "small")
    write_score(score, folder / "mine.score.json")
    (folder / "mine.seal.json").write_bytes((world / "seal.json").read_bytes())
    return folder


@pytest.mark.parametrize("part", ["predicted", "error"])
def test_a_score_that_does_not_follow_from_its_seal_is_refused(board: Path, part: str) -> None:
    path = board / "mine.score.json"
    content = json.loads(path.read_text())
    content["cells"][0]["numbers"]["tps_per_user"][part] += 0.01
    path.write_text(json.dumps(content))
    with pytest.raises(DsimError, match="tps_per_user: does not follow from the seal; make it again with dsim score"):
        read_scores(board)


EDITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "name": (lambda c: c.update(name="other"), "name: expected the name of the file, 'mine', got 'other'"),
    "sealed_at": (lambda c: c["seal"].update(sealed_at="2020-01-01T00:00:00Z"), "seal: does not follow"),
    "inside": (lambda c: c["cells"][0]["numbers"]["tps_per_user"].update(inside=False), "tps_per_user: does not follow"),
    "unknown": (lambda c: c["cells"][0].update(policy="fast"), "small/fast/2: does not follow"),
    "no speed": (lambda c: c["cells"][0]["numbers"].pop("tps_per_user"), "small/plain/2: does not follow"),
    "twice": (lambda c: c["cells"].append(c["cells"][0]), "'small/plain at 2.0' is there twice"),
    "left out": (lambda c: c["cells"].pop(), "conditions|not_measured"),
    "description": (lambda c: c["conditions"][0].update(description=["easy"]), "conditions: does not follow"),
    "failed": (lambda c: c.update(failed=1), "failed: does not follow"),
    "worst": (lambda c: c["summary"][0].update(worst=0.1), "summary: does not follow"),
    "ranking": (lambda c: c["ranking"].update(ties=5), "ranking: does not follow"),
    "regret": (lambda c: c["regret"].pop(), "regret: does not follow"),
    "limit": (lambda c: c["limits"][0].update(ok=not c["limits"][0]["ok"]), "limits: does not follow"),
}


@pytest.mark.parametrize(("edit", "says"), EDITS.values(), ids=EDITS)
def test_a_score_that_was_edited_is_refused(board: Path, edit: Callable[[Any], Any], says: str) -> None:
    path = board / "mine.score.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DsimError, match=says) as refused:
        read_scores(board)
    assert "\n" not in str(refused.value)


def test_a_line_has_its_errors_and_failures(board: Path, sealed: Seal) -> None:
    scores = read_scores(board)
    page = board_page(scores, (), "Do it.")
    text = markdown(page)
    line = next(row for row in text.splitlines() if row.startswith("| [mine]"))
    assert "| 4 | 10.0 %, 25.0 % |" in line
    assert line.endswith(f"| vLLM; small; one core | small | {sealed.digest[:12]} |")
    assert "- mine: worst error of per-user speed 25.0 %, limit ≤ 18 %" in text
    assert f"digest {sealed.digest}" in text
    assert "| plain | small | 2 | 10.0 %, −20.0 % |" in text
    assert "off by 10.0 % in the median and 25.0 % at worst" in readme_lines(scores, ())
    assert "kept out, measured before the seal" in readme_lines(scores, ())  # the files are of 2020
    assert f"| {sealed.sealed_at[:10]}, 4 measured before | 4 |" in line
    assert "- mine: 4 measurements are older than the seal" in text
    assert "mine: predicted against measured" in html(page)


def test_measurements_without_a_date_are_named_on_the_board(board: Path) -> None:
    (score,) = read_scores(board)
    scores = [score.model_copy(update={"older": 0, "undated": 3})]
    text = markdown(board_page(scores, (), "Do it."))
    assert "- mine: 3 measurements do not say when they were made" in text
    assert ", 3 undated | 4 |" in text
    assert ": 4 cells, 3 measurements do not say whether after the seal: per-user speed" in readme_lines(scores, ())


def test_a_score_of_another_seal_is_refused(board: Path) -> None:
    def edit(change: Any) -> None:
        content = json.loads((board / "mine.score.json").read_text())
        change(content)
        (board / "mine.score.json").write_text(json.dumps(content))

    edit(lambda content: content["seal"].update(digest="0" * 64))
    with pytest.raises(DsimError, match="is of another seal than the one beside it"):
        read_scores(board)
    edit(lambda content: content.pop("cells"))
    with pytest.raises(DsimError, match=r"mine\.score\.json: cells"):
        read_scores(board)


def test_make_writes_page_pictures_and_readme(board: Path, world: Path) -> None:
    (board / "add_your_line.md").write_text("Do it.")
    (world / "docs" / "validation").mkdir()
    (world / "docs" / "validation" / "v4-pro-pareto.json").write_bytes((DOCS / "validation" / "v4-pro-pareto.json").read_bytes())
    (world / "README.md").write_text("a\n<!-- board: begin -->\n<!-- board: end -->\nb")
    main(world / "docs", world / "README.md", world / "page" / "board.html")
    assert (board / "mine.png").read_bytes()[:4] == b"\x89PNG"
    assert "Add your line" in (world / "page" / "board.html").read_text()
    assert "(docs/board.md)" in (world / "README.md").read_text()
    assert "board/mine.png" in (world / "docs" / "board.md").read_text()


def test_a_score_is_read_as_it_is_written(board: Path) -> None:
    (score,) = read_scores(board)
    assert Score.from_json(score.to_json()) == score

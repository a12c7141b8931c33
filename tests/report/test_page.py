"""The report's page: whole, self-contained, honest about what is missing, and the same bytes every time."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.report.render.html import TEMPLATES
from simulator.report.run.page import write_report
from simulator.report.run.tables import _in_draws, ratios
from simulator.report.wording import interval
from simulator.study.run.result import RunResult
from tests.report import synthetic_result as synthetic

pytestmark = pytest.mark.usefixtures("without_pixels")
VOID = {"meta", "br", "link", "img", "hr", "input"}
INLINE = {"span", "strong", "a"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.headings: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts += [" "] * (tag not in INLINE)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.texts += [" "] * (tag not in INLINE)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def page(folder: Path, result: dict[str, Any]) -> tuple[str, Reader]:
    html = write_report(RunResult.from_json(result), folder).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return html, reader


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Reader]:
    folder = tmp_path_factory.mktemp("report")
    html, reader = page(folder, synthetic.example(loads=(5, 40, 100, 380)))
    return folder, html, reader


def test_says_all_there_is(example: tuple[Path, str, Reader]) -> None:
    _, _, reader = example
    result = synthetic.example()
    wanted = [result["scenario"]["question"], *result["answer"], *result["conditions"], *result["profile"]["assumed"]]
    wanted += [text for warning in result["warnings"] for text in (warning["text"], warning["remedy"])]
    wanted += [policy["name"] for policy in result["policies"]] + result["profile"]["not_identifiable"] + result["profile"]["notes"]
    wanted += [row[key] for row in result["profile"]["provenance"] for key in ("table", "provenance", "source")]
    wanted += ["+51 % (49…53)", "−4.0 %", "−6.0…−2.0", "no load is that fast", "outside", "bonus token", "anchor"]
    wanted += ["dsim run 'scenarios/synthetic flash.yaml' --set 'load.values=[5, 10]' --set seed=7"]
    assert [text for text in wanted if text not in reader.text] == []


def test_a_picture_stands_right_below_the_answer(example: tuple[Path, str, Reader]) -> None:
    folder, html, _ = example
    places = [
        html.index(mark) for mark in ('<section id="answer"', '<section id="frontier" class="lead"', "<svg", '<section id="facts"', 'id="warnings"')
    ]
    assert places == sorted(places)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.index("](pareto.png)") < text.index("- model: ")


def test_a_point_of_the_frontier_shows_its_values(example: tuple[Path, str, Reader], tmp_path: Path) -> None:
    *_, reader = example
    result = RunResult.from_json(synthetic.example(loads=(5, 40, 100, 380)))
    tips = [attributes["data-tip"] for tag, attributes in reader.tags if "data-tip" in attributes]
    assert len(tips) == 2 * len(result.frontier)  # the wide drawing and a phone's
    for point in result.frontier:
        speed = point.get(result.speed_metric)
        assert speed is not None
        assert any(tip.startswith(f"{point.policy} at {point.load:g}\n{interval(speed)} tok/s/user") for tip in tips)
    bad = "\"><script>x</script>' ]"
    _, reader = page(tmp_path, synthetic.example(policies=(bad, "b"), loads=(5, 80)))
    assert sum(attributes.get("data-tip", "").startswith(bad) for _, attributes in reader.tags) == 4


def test_names_and_numbers_are_not_broken(tmp_path: Path) -> None:
    result = synthetic.example(policies=("MTP-1", "b"), loads=(5,))
    result["answer"] = ["MTP-1 at 110 tok/s, +55 % over a-name-that-is-far-too-long-for-a-phone."]
    html, reader = page(tmp_path, result)
    assert '<span class="nb">MTP-1</span> at 110\xa0tok/s, +55\xa0% over a-name-that-is-far-too-long-for-a-phone.' in html
    assert result["answer"][0] in reader.text
    assert ".nb { white-space: nowrap; }" in html


def test_gains_are_told_as_multiples_too() -> None:
    gains = synthetic.result(loads=(5, 80)).gains.at_sla
    lines = ratios(synthetic.result(loads=(5, 80))).lines
    best = max(
        (row for row in gains if row.gain and row.sla_tps == 80 and row.policy == "DSpark-5"), key=lambda row: row.gain.mean if row.gain else 0
    )
    assert best.gain is not None
    assert lines[0].startswith("At 80 tok/s per user, times the throughput of MTP-1: ")
    assert "DSpark-5 1.51 × (simulation noise 1.49…1.53)" in lines[0]


def test_shares_of_nearly_all_and_of_nearly_none_sort_as_numbers() -> None:
    """What the page's script takes off before it reads a number."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    (marks,) = re.findall(r'\.replace\(/(\^\S+)/, ""\)', script)
    for share in (0.999, 0.5, 0.001):
        assert re.sub(marks, "", _in_draws(share)).split()[0].isdecimal()


def test_needs_nothing_but_itself(example: tuple[Path, str, Reader]) -> None:
    _, html, reader = example
    assert not {"link", "iframe", "img", "object"} & {tag for tag, _ in reader.tags}
    assert [attributes for tag, attributes in reader.tags if tag == "script"] == [{}]  # the page's own, which sorts its tables
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "@import" not in html
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
    assert targets <= set(ids)


def test_reads_well_aloud(example: tuple[Path, str, Reader]) -> None:
    _, _, reader = example
    assert ("html", {"lang": "en"}) in reader.tags
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(reader.headings[:-1], reader.headings[1:], strict=True))
    tables = sum(tag == "table" for tag, _ in reader.tags)
    assert tables == sum(tag == "caption" for tag, _ in reader.tags) > 5
    assert all(attributes.get("aria-label") for _, attributes in reader.tags if attributes.get("role") in ("img", "region"))


def test_markdown_points_at_files_that_are_there(example: tuple[Path, str, Reader]) -> None:
    folder, _, _ = example
    text = (folder / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(([^)]+)\)", text)
    assert "pareto.png" in shown
    assert "against_load.png" in shown
    assert all((folder / name).stat().st_size > 1000 for name in shown)
    assert not (folder / "latency.png").exists()  # a closed loop whose first token takes a step: nothing to tell
    rows = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert min(rows) >= 4


STEMS = ("pareto", "against_load", "accepted_length", "time_per_token", "latency", "goodput", "distribution")


def test_same_result_same_bytes(pixels: None, tmp_path: Path) -> None:
    result = synthetic.example(policies=("plain", "scheduled"), loads=(5, 200), open_loop=True)
    for name in ("one", "two"):
        write_report(RunResult.from_json(copy.deepcopy(result)), tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(
        [
            "report.html",
            "report.md",
            *(f"{stem}.{ending}" for stem in STEMS for ending in ("png", "svg")),
        ]
    )
    assert [name for name in files if (tmp_path / "one" / name).read_bytes() != (tmp_path / "two" / name).read_bytes()] == []


def test_nothing_known_is_a_dash_not_a_none(tmp_path: Path) -> None:
    result = synthetic.example(loads=(5, 200))
    unknown = {"mean": None, "low": None, "high": None}
    for i, point in enumerate(result["frontier"]):
        for j, metric in enumerate(point["metrics"]):
            point["metrics"][metric] = (None, unknown, {"mean": 0.5, "low": None, "high": None})[(i + j) % 3]
    result["frontier"][0].update(metrics={})
    result.update(published=[], validation=None, warnings=[])
    result["gains"].update(at_sla=[], at_matched_throughput=[])
    html, reader = page(tmp_path, result)
    for text in (reader.text, (tmp_path / "report.md").read_text(encoding="utf-8"), html.partition("</style>")[2]):
        assert re.findall(r"(?<![\w-])(None|nan|NaN|inf|Undefined)\b", text) == []


def test_least_result(pixels: None, tmp_path: Path) -> None:
    gains = {"baseline": "alone", "at_sla": [], "at_matched_throughput": []}
    result = synthetic.example(policies=("alone",), loads=()) | {"gains": gains, "answer": []}
    _, reader = page(tmp_path, result)
    assert "no answer" in reader.text
    assert (tmp_path / "pareto.png").exists()


def test_names_are_text_never_code(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> $x$ _[a](b)|`"
    result = synthetic.example(policies=(bad, "<img src=http://x onerror=1>"), loads=(5,))
    result["scenario"].update(question=bad, name=bad, file=bad)
    result["warnings"][0].update(text=bad, remedy=bad)
    result["published"] = [synthetic.published(["MTP-1"])[0] | {"label": bad, "policy": bad}]
    result["answer"] = [bad, "</section>"]
    html, reader = page(tmp_path, result)
    assert html.count("<script") == 1
    assert "<img" not in html
    assert bad in reader.text
    assert "<script" not in (tmp_path / "report.md").read_text(encoding="utf-8").replace("    name: <script", "").replace("dsim run '<script", "")


def test_stale_pictures_go(tmp_path: Path) -> None:
    (tmp_path / "latency.png").write_bytes(b"old")
    write_report(synthetic.result(loads=(5,)), tmp_path)
    assert not (tmp_path / "latency.png").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DsimError, match="file"):
        write_report(synthetic.result(loads=(5,)), tmp_path / "file")

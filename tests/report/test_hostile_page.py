"""Pages with names, questions and notes of strangers: everything is text, in every form, and nothing runs."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from simulator.measurements.profile import load_profile
from simulator.report.blocks import Cell, Code, Column, Group, Lines, Sketch, Table, Terms, Text
from simulator.report.page import Notice, Page, Section
from simulator.report.plan.page import plan_page, write_plan_report
from simulator.report.profile.numbers import drafter_numbers
from simulator.report.profile.page import write_profile_page
from simulator.report.render.html import html
from simulator.report.render.markdown import markdown
from simulator.report.render.notebook import notebook
from simulator.report.render.terminal import terminal
from simulator.report.run.page import run_page, write_report
from simulator.study.run.result import RunResult
from tests.report import synthetic_result as synthetic
from tests.report.conftest import sized
from tests.report.synthetic_plan import plan
from tests.report.test_page import Reader

pytestmark = pytest.mark.usefixtures("without_pixels")
RUNS = "window.pwned=1"
MARKUP = (
    f"<script>{RUNS}</script>",
    f"<img src=x onerror={RUNS}>",
    f"\" autofocus onfocus='{RUNS}' x=\"",
    f"</script></style></title><script>{RUNS}</script>",
    f"<svg onload={RUNS}>",
    f"<a href='javascript:{RUNS}'>here</a>",
    f"[here](javascript:{RUNS})",
    f"<b>%{{x}}</b> {{{{7*7}}}} &lt;i onclick={RUNS}&gt;",
    "$\\frac{$ $x^2$ \\undefined{ $",
    ']]> --> <!-- &#x3c;b&#x3e; href="#x" id="result" #0072b2',
    "`a` | b\n| c",
)
TERMINAL = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b1m \u202egnp.exe\u202c zero\u200bwidth [bold]b[/bold] [link=http://x]l[/link] [/none]"


def hostile_run() -> dict[str, Any]:
    result = synthetic.example(policies=(*MARKUP, TERMINAL), loads=(5, 80))
    bad = " ".join(MARKUP) + TERMINAL
    result["scenario"].update(question=bad, name=MARKUP[0], file=MARKUP[1])
    result["scenario"]["content"] = {"name": MARKUP[3], MARKUP[0]: [MARKUP[1], TERMINAL]}
    result["warnings"][0].update(text=bad, remedy=bad)
    result["profile"].update(notes=[bad], assumed=[bad], hardware=MARKUP[1], target=MARKUP[0])
    result["answer"] = [bad, "</section>"]
    result["load_unit"] = MARKUP[8]
    return result


def hostile_page() -> Page:
    bad = " ".join(MARKUP) + TERMINAL
    columns = (Column(MARKUP[0], MARKUP[1], words=True), Column(TERMINAL, words=True))
    table = Table(MARKUP[2], bad, columns, (Group(MARKUP[0], ((Cell(bad, bad, MARKUP[2]), Cell(TERMINAL, TERMINAL)),), MARKUP[2]),))
    blocks = (table, Text(bad), Lines((bad, TERMINAL), bad), Terms(((bad, bad),), bad), Code(bad, MARKUP[2]))
    notice = Notice(bad, bad, serious=True, label=MARKUP[0], more=(bad,))
    return Page(bad, MARKUP[0], MARKUP[3], MARKUP[2], (Section(MARKUP[2], bad, blocks),), (bad,), ((bad, bad),), (notice,))


def quiet(browser: Any, page: Path) -> None:
    """Nothing ran, and the policy had nothing to stop: what is escaped does not even try."""
    sized(browser, page, 1300)
    assert browser.execute_script("return [window.pwned, document.querySelectorAll('[onload],[onerror],[onfocus],[onclick]').length]") == [None, 0]
    assert browser.execute_script("return [...document.querySelectorAll('a')].every(a => a.getAttribute('href').startsWith('#'))")
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


@pytest.mark.browser
def test_nothing_runs_in_a_run(browser: Any, tmp_path: Path) -> None:
    quiet(browser, write_report(RunResult.from_json(hostile_run()), tmp_path))
    titles = browser.execute_script("return [document.title, document.querySelector('h1').textContent]")
    assert all(f"<script>{RUNS}</script>" in title for title in titles)
    browser.execute_script("document.querySelector('.scroll table th button').click()")  # sorting runs under the policy
    assert browser.execute_script("return document.querySelectorAll('[aria-sort]').length") == 1
    browser.execute_script("""
      const mark = [...document.querySelectorAll('.picture.wide [data-tip]')][0], box = mark.getBoundingClientRect();
      mark.closest('.picture').dispatchEvent(new PointerEvent('pointermove', {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2}));
    """)
    assert browser.execute_script("return document.querySelector('.tip').hidden") is False


@pytest.mark.browser
def test_nothing_runs_in_a_plan(browser: Any, tmp_path: Path) -> None:
    result = plan([*MARKUP, TERMINAL], [60.0, 80.0])
    data = result.to_json()
    data["price"]["currency"] = MARKUP[7]
    data["what_if"][0]["label"] = data["break_even"][0]["profile"] = MARKUP[7]
    quiet(browser, write_plan_report(type(result).from_json(data), tmp_path))
    texts = browser.execute_script("return [...document.querySelectorAll('#chart-what-if text')].map(t => t.textContent)")
    assert any("{{7*7}}" in text for text in texts)
    assert any("&lt;i" in text for text in texts)
    browser.execute_script("Plotly.Fx.hover('chart-frontier', [{curveNumber: 0, pointNumber: 0}])")
    hover = browser.execute_script("return document.querySelector('#chart-frontier .hoverlayer').textContent")
    assert f"<script>{RUNS}</script>" in hover
    assert browser.execute_script("return window.pwned") is None
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


@pytest.mark.browser
def test_nothing_runs_on_a_page_of_every_block(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html(hostile_page()), encoding="utf-8")
    quiet(browser, tmp_path / "page.html")


@pytest.mark.browser
def test_the_policy_stops_what_a_mistake_lets_in(browser: Any, tmp_path: Path) -> None:
    page = html(hostile_page()).replace(
        "<main>", f"<main><script>{RUNS}</script><img src=x onerror={RUNS}><svg onload={RUNS}></svg><style>p{{color:red}}</style>"
    )
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    sized(browser, tmp_path / "page.html", 1300)
    assert browser.execute_script("return window.pwned") is None
    assert sum("Content Security Policy" in entry["message"] for entry in browser.get_log("browser")) >= 4


@pytest.mark.browser
def test_honest_pages_keep_to_the_policy(browser: Any, tmp_path: Path, world: Path) -> None:
    profile = load_profile(world / "tiny")
    run = write_report(synthetic.result(loads=(5, 40, 80)), tmp_path)
    for page in (
        run,
        write_plan_report(plan(["a", "b"], [60.0, 80.0]), tmp_path / "plan"),
        write_profile_page(profile, drafter_numbers(profile), tmp_path)[0],
    ):
        for width in (1300, 390):
            sized(browser, page, width)
            assert browser.get_log("browser") == []
        styles = browser.execute_script("return [getComputedStyle(document.querySelector('.frame')).maxWidth, document.styleSheets.length > 0]")
        assert styles == ["1240px", True]


def test_hostile_names_are_text_in_html(pixels: None, tmp_path: Path) -> None:
    pages = [write_report(RunResult.from_json(hostile_run()), tmp_path).read_text(encoding="utf-8"), html(hostile_page()), notebook(hostile_page())]
    for number, page in enumerate(pages):
        reader = Reader()
        reader.feed(page)
        reader.close()
        assert reader.open == []
        assert {tag for tag, _ in reader.tags} & {"script", "img", "iframe"} == ({"script"} if number < 2 else set())
        assert not [attributes for _, attributes in reader.tags if any(name.startswith("on") for name in attributes)]
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u200b]", page)
        assert "\\x1b[31mred" in reader.text


@pytest.mark.parametrize("label", [*MARKUP, TERMINAL])
def test_pictures_draw_names_as_they_are(label: str) -> None:
    for picture in run_page(RunResult.from_json(synthetic.example(policies=(label, "b"), loads=(5, 80)))).pictures():
        root = ET.fromstring(picture.svg)
        assert not [node for node in root.iter() if node.tag.rpartition("}")[2] in ("script", "a", "image", "foreignObject")]
        assert not [name for node in root.iter() for name in node.attrib if name.startswith("on")]
        words = {"".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")}
        if picture.stem == "accepted_length" and label == MARKUP[8]:
            assert any(word.startswith("$\\frac{$ $x^2$") for word in words)  # not typeset


def test_somebody_s_own_axes_typeset_no_name() -> None:
    from matplotlib import pyplot

    from simulator.report.figure import named
    from simulator.report.style import Look

    result = plan(["$\\frac{$ a $", "b"], [60.0])
    data = result.to_json()
    for change in data["what_if"]:
        change["label"] = "$\\frac{$ " + change["label"]
    drawn = plan_page(type(result).from_json(data)).pictures()
    for stem in ("plan_what_if", "plan_frontier"):
        figure, axes = pyplot.subplots()
        named(drawn, stem).draw(Look(axes=(axes,)))
        figure.canvas.draw()
        pyplot.close(figure)


def test_markdown_is_text() -> None:
    text = markdown(hostile_page())
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<" not in prose
    assert not re.search(r"(?<!\\)\]\(", prose)
    assert not re.search(r"(?<!\\)[`$]", prose)
    assert not re.search(r"&(?!lt;|gt;|amp;)#?\w+;", prose)
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines())
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in prose.splitlines() if line.startswith("|")}
    assert len(cells) == 1
    page = Page("+ one", "k", "n", "0", (Section("s", "- two", (Text("1. three"), Text("=== x"), Lines(("- four",)))),), ("---",))
    assert markdown(page).splitlines()[0] == "# \\+ one"
    assert [line for line in markdown(page).splitlines() if re.match(r"(1\.|=|---)", line)] == []


def test_nothing_acts_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for page in (hostile_page(), run_page(RunResult.from_json(hostile_run()))):
        text = terminal(page, 100, colour=False)
        assert all(line.isprintable() for line in text.splitlines())
        for word in ("[bold]b[/bold]", "[link=http://x]l[/link]", "\\x1b[31mred"):
            assert word in " ".join(text.split())
        coloured = re.sub(r"\x1b\[[0-9;]*m", "", terminal(page, 100, colour=True))
        assert all(line.isprintable() for line in coloured.splitlines())
        assert "title" in coloured
    sketch = Sketch(lambda width, colour: "x")
    assert "x" in terminal(Page("t", "k", "n", "0", (Section("s", "s", (sketch,)),)))


def test_json_in_the_page_is_data() -> None:
    page = html(plan_page(plan([*MARKUP, TERMINAL], [60.0])))
    inside = re.search(r'<script type="application/json" id="result">(.*?)</script>', page, re.DOTALL)
    assert inside is not None
    assert [cell["label"] for cell in json.loads(inside[1])["cells"]][: len(MARKUP)] == list(MARKUP)

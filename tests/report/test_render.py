"""One page in every form: what a section says is said everywhere, nothing is cut, and text is never taken for markup."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.measurements.profile import load_profile
from simulator.report import blocks as model
from simulator.report.blocks import Cell, Code, Column, Folded, Group, Lines, Sketch, Table, Terms, Text
from simulator.report.page import Notice, Page, Section, section
from simulator.report.profile import page as profile_page
from simulator.report.render.html import html
from simulator.report.render.markdown import markdown
from simulator.report.render.notebook import notebook
from simulator.report.render.terminal import terminal
from simulator.report.run import page as run_page
from tests.report import synthetic_result as synthetic

RATES = Table(
    "rates", "How fast.", (Column("load"), Column("speed", "tok/s"), Column("note", words=True)),
    (Group("one", ((Cell("80"), Cell("1,234.5", "1,230.1…1,240.2"), Cell("stable", kind="stable")),), "bound"),),
)  # fmt: skip
TOY = Section("toy", "A toy section", (RATES, Text("A paragraph."), Lines(("first line", "second"), "Lines"), Terms((("word", "meaning"),))))


def of(*sections: Section, **more: object) -> Page:
    return replace(Page("Title", "dsim test", "toy", "0", sections, answer=("Yes.",)), **more)  # type: ignore[arg-type]


def test_a_section_is_said_in_every_form() -> None:
    page = of(TOY, notices=(Notice("hot", "cool it", serious=True), Notice("3 more", more=("deep",))))
    said = [
        "Title",
        "Yes.",
        "A toy section",
        "1,234.5",
        "1,230.1…1,240.2",
        "stable",
        "How fast.",
        "A paragraph.",
        "second",
        "meaning",
        "hot",
        "cool it",
    ]
    for text in (html(page), markdown(page), terminal(page)):
        assert [word for word in said if word not in text] == []
    assert "deep" in html(page)
    assert "deep" in markdown(page)


def test_one_function_in_the_list_adds_a_section(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_page, "DESCRIPTION", (*profile_page.DESCRIPTION, lambda shown: section("toy", "Toy of " + shown.profile.name, RATES)))
    page = profile_page.profile_page(load_profile(world / "tiny"))
    assert all("Toy of tiny" in draw(page) and "1,234.5" in draw(page) for draw in (html, markdown, terminal))


def test_a_section_of_a_run_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "SECTIONS", (lambda result: section("toy", "Toy of " + result.policies[0].name, RATES),))
    result = synthetic.result(loads=(5,))
    page = run_page.run_page(result)
    assert all(f"Toy of {result.policies[0].name}" in draw(page) and "1,234.5" in draw(page) for draw in (html, markdown, terminal))


def test_a_block_is_shown_where_it_says() -> None:
    parts = (replace(RATES, on=model.TERMINAL), Text("pages alone", on=model.PAGES), Text("in notebooks", on=model.NOTEBOOK))
    page = of(Section("toy", "Toy", parts), Section("none", "Nowhere to be seen", (Text("x", on=model.NOTEBOOK),)))
    assert ["How fast." in draw(page) for draw in (html, markdown, terminal, notebook)] == [False, False, True, False]
    assert ["pages alone" in draw(page) for draw in (html, markdown, terminal, notebook)] == [True, True, False, False]
    assert ["in notebooks" in draw(page) for draw in (html, markdown, terminal, notebook)] == [False, False, False, True]
    assert not any("Nowhere" in draw(page) for draw in (html, markdown, terminal))


@pytest.mark.parametrize("kind", [kind for kind in model.Block.__subclasses__() if kind not in (model.Picture, model.Chart)])
def test_every_kind_of_block_is_drawn(kind: type[model.Block]) -> None:
    examples = (
        RATES, Text("spoken"), Lines(("spoken",)), Terms((("spoken", "of"),)), Code("spoken", "Command"), Folded("More", (Text("spoken"),)),
        Sketch(lambda width, colour: "spoken"), model.Slider("tps", "label", (model.Stop("1", "spoken", (RATES,)),), 0),
        model.Toggles("Show", (("0", "spoken"),)),
        model.Prose("spoken"),
    )  # fmt: skip
    (block,) = (example for example in examples if type(example) is kind)
    page = of(Section("toy", "Toy", (block,)))
    for form, draw in (("html", html), ("markdown", markdown), ("terminal", terminal)):
        assert ("spoken" in draw(page) or "1,234.5" in draw(page)) == (form in block.on)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_terminal_cuts_no_number(width: int) -> None:
    many = Table(
        "many", "Many.", tuple(Column(f"c{i}") for i in range(9)), (Group("", ((*(Cell(f"{i},234.567", "1.23…4.56") for i in range(9)),),)),)
    )
    words = "policies of a length that does not fit beside so many numbers"
    noted = Table("noted", "Noted.", (Column("w", words=True), Column("n")), (Group("", ((Cell(words), Cell("123,456,789")),)),))
    text = terminal(of(Section("toy", "Toy", (many, noted))), width)
    assert re.findall(r"\d,234\.567", text) == [f"{i},234.567" for i in range(9)]
    assert text.count("1.23…4.56") == 9
    assert "123,456,789" in text
    assert max(map(len, terminal(of(Section("toy", "Toy", (noted,))), width).splitlines())) <= width


def test_spare_columns_go_before_a_line_is_too_long() -> None:
    columns = (Column("first"), *(Column(f"spare {i}", spare=True) for i in range(4)), Column("last"))
    table = Table("t", "T.", columns, (Group("", (tuple(Cell("123,456,789") for _ in columns),)),))
    text = terminal(of(Section("toy", "Toy", (table,))), 55)
    assert [word in text for word in ("first", "spare 0", "spare 1", "spare 2", "spare 3", "last")] == [True, True, True, False, False, True]
    assert max(map(len, text.splitlines())) <= 55
    assert "spare 3" in terminal(of(Section("toy", "Toy", (table,))), 90)


POLICIES = ("DSpark-5 scheduled · deepseek-v4-flash", "MTP-1", "confidence-scheduled-with-a-very-long-name")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_terminal_breaks_no_name(grouped: bool, width: int) -> None:
    numbers = tuple(Cell(f"{i}0,000", f"{i}0,001…{i}0,002") for i in range(1, 4))
    if grouped:
        heads = (Column("load"), *(Column(f"number {i}") for i in range(3)))
        groups = [Group(name, ((Cell("8"), *numbers), (Cell("16"), *numbers))) for name in POLICIES]
    else:
        heads = (Column("policy", words=True), *(Column(f"number {i}") for i in range(3)), Column("verdict", words=True))
        groups = [Group("", tuple((Cell(name, "the plan"), *numbers, Cell("meets the SLA")) for name in POLICIES))]
    text = terminal(of(Section("toy", "Toy", (Table("t", "T.", heads, tuple(groups)),))), width)
    assert [name for name in POLICIES if name not in text] == []
    assert text.count("10,001…10,002") == len(POLICIES) * (2 if grouped else 1)
    assert max(map(len, text.splitlines())) <= width


def test_a_word_that_must_break_breaks_behind_its_punctuation() -> None:
    columns = (Column("key", words=True), Column("A", words=True), Column("B", words=True))
    cells = (Cell("key"), Cell("scenario.workload.output_tokens.mean_tokens"), Cell("deepseek-v4-flash-confidence-scheduled"))
    text = terminal(of(Section("toy", "Toy", (Table("t", "T.", columns, (Group("", (cells,)),)),))), 60)
    assert re.findall(r"\S*(?:scenario|output|mean|deepseek|scheduled)\S*", text) == [
        "scenario.workload.output_", "deepseek-v4-flash-", "tokens.mean_tokens", "confidence-scheduled",
    ]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 60


def test_a_number_keeps_its_unit() -> None:
    sentence = "x" * 34 + " at 95 % and 110 tok/s on 3 GPUs"
    for width in range(40, 70):
        lines = terminal(of(answer=(sentence,)), width).splitlines()
        assert not any(line.endswith((" 95", " 110", " 3")) for line in lines)
        assert " ".join(" ".join(lines).split()).endswith(sentence)


def test_a_pipe_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal no column is spare, a row is one line, and COLUMNS is a width all the same."""
    columns = (Column("policy", words=True), *(Column(f"spare {i}", spare=True) for i in range(12)))
    rows = tuple((Cell(name), *(Cell("123,456,789") for _ in range(12))) for name in POLICIES)
    page = of(Section("toy", "Toy", (Table("t", "T.", columns, (Group("", rows),)),)), answer=("word " * 40,))
    monkeypatch.delenv("COLUMNS", raising=False)
    (row,) = (line for line in terminal(page).splitlines() if POLICIES[0] in line)
    assert row.count("123,456,789") == 12
    monkeypatch.setenv("COLUMNS", "80")
    text = terminal(page)
    assert text.count("123,456,789") == 36
    assert all(len(line) <= 80 for line in text.splitlines() if "word" in line)


def test_sentences_are_left_whole_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    long = "word " * 60 + "end"
    assert long in terminal(of(TOY, answer=(long,), notices=(Notice(long),)))
    assert max(map(len, terminal(of(TOY, answer=(long,)), 80).splitlines())) <= 80


def test_text_is_never_markup() -> None:
    bad = "[bold]x[/bold] <b>*y*</b> | `z`"
    page = of(Section("toy", bad, (Text(bad), Lines((bad,)), replace(RATES, caption=bad))), title=bad, answer=(bad,))
    assert "<b>" not in html(page)
    assert "<b>" not in markdown(page)
    assert "\\| \\`z\\`" in markdown(page)
    assert bad in terminal(page, 100)
    assert "<b>" not in notebook(page)


def test_colour_only_where_a_person_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in terminal(of(TOY))
    assert "\x1b[" in terminal(of(TOY), colour=True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal(of(TOY))

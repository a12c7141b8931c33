"""Text of strangers on a terminal: nothing in it does anything, and no line of an error is long."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from simulator import progress
from simulator.complaints import shown, value_remedy
from simulator.echo import echo, echo_json
from simulator.errors import DsimError, visible
from simulator.misspelt import likeness

ROOT = Path(__file__).parents[1]
# a colour, a title, a C1 sequence, a link, a bell, another direction of writing, a space that nobody sees, half a pair, private use
HOSTILE = "a\x1b[31mred\x1b]0;title\x07\x9b31m\x1b]8;;http://x\x1b\\link\u202egnp\u200b\ufeff\ud800\ue000\x7f\r\x08z"


@pytest.mark.parametrize("text", ["plain", "a\nb\tc", "Größe 5 µs, 10\xa0%", "日本語\u3000テスト", "−3…+5 → “x”", "é e\u0301"])
def test_honest_text_stays(text: str) -> None:
    assert visible(text) == text


def test_what_a_terminal_acts_on_is_written_out() -> None:
    text = visible(HOSTILE)
    assert text.isprintable()
    assert text.startswith("a\\x1b[31mred\\x1b]0;title\\x07\\x9b31m")
    assert text.endswith("\\u202egnp\\u200b\\ufeff\\ud800\\ue000\\x7f\\r\\x08z")
    assert text.encode()


def test_an_error_is_one_line_of_text() -> None:
    error = DsimError(f"expected x, got {HOSTILE}\nline two", where=f"/tmp/{HOSTILE}.yaml", key=HOSTILE, remedy=f"use {HOSTILE}")
    assert error.line().isprintable()
    assert error.line().count("\\x1b[31m") == 4
    assert str(error) == error.line()


@pytest.mark.parametrize("part", ["problem", "where", "key", "remedy"])
@pytest.mark.parametrize("letter", ["x", "\x1b", "\u202e", "\U000e0001"])
def test_no_error_is_long(part: str, letter: str) -> None:
    parts = {"problem": "p", "where": "w", "key": "k", "remedy": "r"} | {part: "first " + letter * 3_000_000 + " last"}
    line = DsimError(**parts).line()
    assert len(line) < 450
    assert "first" in line
    assert line.count(" last") == 1
    assert "…" in line


def test_a_value_is_shown_short() -> None:
    for value in ("x" * 10**7, b"x" * 10**7, 10**5000, -(10**5000), 10**300):
        assert len(shown(value)) <= 80
    assert shown(12345678901234567890) == "12345678901234567890"
    for value in ("1" * 10**6 + "!", [10**5000], 10**5000, "1," * 10**6):
        for expected in ("a number", "a list", "a text", "a mapping of keys to values"):
            assert len(value_remedy(value, expected, "load", []) or "") < 200


def test_a_long_word_is_like_none() -> None:
    assert likeness("x" * 10**7, "load") < 0.5
    assert likeness("lod", "load") > 0.8


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    data = {HOSTILE: [HOSTILE, 1.5, "é"]}
    echo_json(json.dumps(data, indent=2, ensure_ascii=False))
    written = capsys.readouterr().out
    assert all(line.isprintable() for line in written.splitlines())
    assert json.loads(written) == data
    assert "é" in written


def test_progress_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=written, force_terminal=True, width=200, color_system=None))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shows = progress.Progress()
    with shows.stage("[bold]a[/bold] [/nothing] \x1b[41m", 2):
        shows.at(1, 2, "[link=http://x]b\x1b]0;t\x07")
        shows._bar.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue())  # the bar's own
    assert "[bold]a[/bold] [/nothing] \\x1b[41m [link=http://x]b\\x1b]0;t\\x07" in text
    assert "\x1b" not in text
    shows.say("line \x1b[31m")
    echo("line \x1b[31m", err=True)
    assert capsys.readouterr().err == "line \\x1b[31m\n" * 2


def test_all_is_printed_in_one_place() -> None:
    printing = re.compile(r"\b(?:typer\.echo|click\.echo|(?<!\.)\bprint|rich\.print|sys\.std(out|err)\.write)\(")
    files = [file for folder in ("simulator", "real_runner", "dsim") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert {file.name for file in files if printing.search(file.read_text(encoding="utf-8"))} == {"echo.py"}

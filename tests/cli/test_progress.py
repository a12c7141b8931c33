"""Progress: lines where there is no terminal, nothing if quiet, and one line at an interruption."""

from __future__ import annotations

import time

import pytest
import typer

from simulator import progress
from simulator.progress import Progress, resumable


def test_without_a_terminal_there_is_a_line_every_so_often(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "LINE_EVERY_S", 30.0)
    shown = Progress()
    with shown.stage("simulating", 72) as stage:
        for second in (10.0, 31.0, 40.0, 62.0):
            now[0] = second
            stage.advance(4)
        stage.at(20, 80)
        stage.doing("writing the report")
        now[0] = 100.0
        stage.advance(0, "page 2")
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["simulating: 4 of 72", "simulating: 16 of 72", "writing the report page 2: 20 of 80 so far"]
    assert (shown.done, shown.total) == (20, 80)


def test_a_line_comes_although_nothing_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.06)
    said = ""
    with Progress().stage("searching fleets", 12, done=3):
        until = time.monotonic() + 30
        while not said and time.monotonic() < until:
            time.sleep(0.01)
            said = capsys.readouterr().err
    assert said.splitlines()[0] == "searching fleets: 3 of 12"


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)
    quiet = Progress(quiet=True)
    with quiet.stage("simulating", 2):
        quiet.advance()
        quiet.say("a line")
    assert quiet.done == 1
    assert capsys.readouterr() == ("", "")


def test_an_estimate_does_not_count_what_an_earlier_run_did(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "LINE_EVERY_S", 30.0)
    with Progress().stage("texts", 100, done=80) as stage:
        for second in (0.0, 60.0, 120.0):
            now[0] = second
            stage.advance(2)
    assert capsys.readouterr().err.splitlines()[-1] == "texts: 86 of 100, about 7 min left"


def test_work_that_grows_has_no_end_in_sight(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "LINE_EVERY_S", 30.0)
    with Progress().stage("planning") as stage:
        for second, done, total in ((0.0, 2, 4), (60.0, 12, 15), (120.0, 43, 48)):
            now[0] = second
            stage.at(done, total)
    assert capsys.readouterr().err.splitlines()[-1] == "planning: 43 of 48 so far"


def test_an_interruption_is_one_line_and_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, resumable(lambda: "3 points are kept"):
        raise KeyboardInterrupt
    assert left.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted: 3 points are kept; run the same command to resume\n"

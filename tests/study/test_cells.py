"""Names in CSV tables: text in every spreadsheet, and the same name when it is read again."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from simulator.names import cell, from_cell
from simulator.study.run.tables import write_csv

NAMES = ("=1+1", "+1", "-5 %", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1", "'plain'", "plain", "a=b", "", "'", "−5")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_back(name: str) -> None:
    assert from_cell(cell(name)) == name
    assert cell(name)[:1] not in ("=", "+", "-", "@", "\t", "\r")
    assert (cell(name) == name) == (name.lstrip("'")[:1] not in ("=", "+", "-", "@", "\t", "\r") or name.lstrip("'") == "")


def test_a_table_has_names_as_text_and_numbers_as_numbers(tmp_path: Path) -> None:
    names = [name for name in NAMES if "\r" not in name]  # which no name has, and which ends a row for some
    table = pd.DataFrame({"policy": names, "speed": [-1.5] * len(names), "n": [-2] * len(names), "ok": [True] * len(names)})
    table["mixed"] = pd.Series([None, -1.5, "-x"] * len(names), dtype=object)[: len(names)]
    write_csv(table, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [from_cell(row["policy"]) for row in rows] == names
    assert {(row["speed"], row["n"], row["ok"]) for row in rows} == {("-1.5", "-2", "True")}
    assert [row["mixed"] for row in rows[:3]] == ["", "-1.5", "'-x"]

"""CSV: every row has a field for each column, and only numbers are numbers."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.reading.csv_files import numbers, read_csv

READ = {
    "plain": "a,b\n1,0.5\n2,1e3\n",
    "comments": "# 1, 2, 3\na,b\n#x\n1,0.5\n\n2,1e3\n# end",
    "semicolons and decimal commas": "a;b\n1;0,5\n2;1000,0\n",
    "tabs, spaces around names": "a \t b\r\n1\t0.5\r\n2\t1000\r\n",
    "carriage returns": "a,b\r1,0.5\r2,1e3\r",
    "quotes": '"a","b"\n"1",0.5\n2,"1e3"\n',
    "a byte order mark": "\ufeffa,b\n1,0.5\n2,1000\n",
}
REFUSED = {
    "a field too many in every row (once the index)": ("a,b\n7,1,0.01\n8,4,0.02\n", "t.csv:2: expected 2 fields as in the header, got 3"),
    "in one row": ("a,b\n1,2\n1,2,3\n", "t.csv:3: expected 2 fields as in the header, got 3"),
    "in one row, after a comment": ("# c\n\na,b\n1,2\n1,2,3\n", "t.csv:5: expected 2 fields as in the header, got 3"),
    "a field too few": ("a,b\n1,2\n3\n", "t.csv:3: expected 2 fields as in the header, got 1"),
    "a field too few, in quotes": ('a,b\n"1",2\n"3"\n', "t.csv:3: expected 2 fields as in the header, got 1"),
    "too few and too many": ("a,b,c\n1,2,3,4\n1,2\n", "t.csv:2: expected 3 fields as in the header, got 4"),
    "a comma at the end of the rows": ("a,b\n1,2,\n3,4,\n", "t.csv:2: expected 2 fields as in the header, got 3"),
    "a column twice": ("a,b,a\n1,2,3\n", "t.csv: a: column is there twice; keep one"),
    "a column twice but for spaces": ("a,b, a\n1,2,3\n", "t.csv: a: column is there twice; keep one"),
    "many columns": ("," * 100_000 + "\n" + "," * 100_000, "t.csv: expected at most 1000 columns, got 100001"),
    "many fields": ("a,b\n" + "," * 100_000, "t.csv:2: expected 2 fields as in the header, got 100001"),
    "a quote that does not end": ('a,b\n1,"2\n3,4\n', "t.csv: not a CSV table"),
    "a name on two lines": ('"a\nx",b\n1,2\n', "t.csv"),
    "a row of odd white space": ("a,b\n1,2\n\u2028\n", "t.csv:3: expected 2 fields as in the header, got 1"),
    "NUL": ("a,b\n1,\0\n", "t.csv: is not text (it has NUL characters)"),
    "empty": ("# only\n\n", "t.csv: is empty"),
    "no b": ("a,c\n1,2\n", "t.csv: b: column is missing; columns found: a, c"),
}
CELLS = ("True", "x", "1+2j", "0x10", "1_000", "inf", "-inf", "1e999", "9" * 400, "-1", "١", "1 2", "2020-01-01", "", "nan", "'1'", "--1", "1e")


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_text(text, newline="")
    return folder / name


@pytest.mark.parametrize("case", READ)
def test_dialects(case: str, tmp_path: Path) -> None:
    path = table(tmp_path, READ[case])
    rows = read_csv(path, ("a", "b"))
    assert list(rows.columns) == ["a", "b"]
    assert numbers(rows, "a", path).tolist() == [1.0, 2.0]
    assert numbers(rows, "b", path).tolist() == [0.5, 1000.0]


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    with pytest.raises(DsimError) as refused:
        read_csv(table(tmp_path, text), ("a", "b"))
    assert message in refused.value.line()
    assert len(refused.value.line()) < 400


@pytest.mark.parametrize("others", ["1\n2", "True\nFalse", "a\nb", "9" * 31 + "\n1", ""])
@pytest.mark.parametrize("cell", CELLS)
def test_only_numbers_are_numbers(cell: str, others: str, tmp_path: Path) -> None:
    """Whatever pandas makes of the column."""
    path = table(tmp_path, f"k,a\n1,{cell}\n" + "".join(f"1,{other}\n" for other in others.split()))
    rows = read_csv(path)
    with pytest.raises(DsimError, match=r"t\.csv:2: a: must be a positive number \(got .{1,81}\)$"):
        numbers(rows, "a", path)


def test_empty_cells_where_they_may_be_empty(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b\n1,2\n\r,4\n")  # an empty cell after a lone carriage return
    assert numbers(read_csv(path), "b", path).tolist() == [2, 4]
    with pytest.raises(DsimError, match=r"t\.csv:4: a: must be a positive number \(got nan\)$"):
        numbers(read_csv(path), "a", path)
    path = table(tmp_path, "a;b\n1,5;\nx;2,5\n")
    with pytest.raises(DsimError, match=r"t\.csv:3: a: must be a positive number \(got 'x'\)$"):
        numbers(read_csv(path), "a", path)
    path = table(tmp_path, "a,b\n1,\n,True\n3,4\n")
    assert np.array_equal(numbers(read_csv(path), "a", path, optional=True), [1, np.nan, 3], equal_nan=True)
    with pytest.raises(DsimError, match=r"t\.csv:3: b: must be a positive number \(got 'True'\)$"):
        numbers(read_csv(path), "b", path, optional=True)


@pytest.mark.parametrize("mark", ";\t")
@pytest.mark.parametrize("others", ["0,5", "7"])
def test_points_beside_decimal_commas_are_not_fractions(mark: str, others: str, tmp_path: Path) -> None:
    path = table(tmp_path, f"k{mark}a\n0,5{mark}1.024\n1{mark}{others}\n")
    with pytest.raises(DsimError, match=r"t\.csv:2: a: must be a positive number \(got '1\.024'\)"):
        numbers(read_csv(path), "a", path)


def test_a_comment_behind_a_number(tmp_path: Path) -> None:
    path = table(tmp_path, "k,a\n1,5 # peak\n")
    with pytest.raises(DsimError, match=r"got '5 # peak'\); write the comment on a line of its own$"):
        numbers(read_csv(path), "a", path)


def test_a_hash_within_a_row_is_no_comment(tmp_path: Path) -> None:
    path = table(tmp_path, "a,name\n1,MTP #1\n2,#2\n")
    assert read_csv(path)["name"].tolist() == ["MTP #1", "#2"]


def test_the_ending_of_the_name_says_nothing(tmp_path: Path) -> None:
    for ending in ("gz", "xz", "zip", "bz2", "zst", "tar"):
        assert len(read_csv(table(tmp_path, "a,b\n1,2\n", f"t.csv.{ending}"))) == 1
        (tmp_path / f"g.{ending}").write_bytes(b"\x50\x4b\x03\x04\xfd7zXZ\x00")
        with pytest.raises(DsimError, match=f"g.{ending}: is not UTF-8 text"):
            read_csv(tmp_path / f"g.{ending}")
    (tmp_path / "t.csv").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert len(read_csv(tmp_path / "t.csv")) == 1

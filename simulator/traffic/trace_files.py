"""Files of requests as they lie on disk, read into columns; whatever does not fit is refused with its file, line and column."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError

_MOST = 2**53  # whole numbers beyond this are not exact in a float


@dataclass(frozen=True)
class Table:
    """The rows of a file. `header_lines` come before the first; empty lines do not count as rows."""

    path: Path
    frame: pd.DataFrame
    header_lines: int

    def has(self, column: str) -> bool:
        """Does the file hold this column?"""
        return column in self.frame.columns

    def numbers(self, column: str, *, least: float, remedy: str | None = None) -> Floats:
        """A column of finite numbers of at least `least`. # [n]"""
        found = self.column(column)
        values = pd.to_numeric(found, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if found.dtype == bool:
            values = np.full(len(found), np.nan)
        self.refuse(np.isnan(values), column, "not a number")
        self.refuse(~np.isfinite(values), column, "not finite")
        self.refuse(values < least, column, f"must be at least {least:g}", remedy)
        return values

    def whole(self, column: str, *, least: int, remedy: str | None = None) -> Integers:
        """A column of whole numbers of at least `least`. # [n]"""
        values = self.numbers(column, least=least, remedy=remedy)
        self.refuse(values != np.rint(values), column, "not a whole number")
        self.refuse(values > _MOST, column, "too large")
        return values.astype(np.int64)

    def stamps_s(self, column: str) -> Floats:
        """A column of ISO 8601 date-times, as seconds since the earliest. # [n]"""
        found = self.column(column)
        if pd.api.types.is_numeric_dtype(found.dtype):  # else pandas would read a bare number as a year or as nanoseconds
            self.refuse(np.ones(len(found), dtype=bool), column, "not a date-time")
        stamps = pd.to_datetime(found, errors="coerce", utc=True, format="ISO8601")
        self.refuse(stamps.isna().to_numpy(dtype=bool), column, "not a date-time")
        nanoseconds = stamps.dt.as_unit("ns").to_numpy(dtype="datetime64[ns]").astype(np.int64)
        return np.asarray((nanoseconds - nanoseconds.min()) / 1e9)

    def texts(self, column: str) -> list[str]:
        """A column of words, none of them empty. # [n]"""
        found = self.column(column)
        words = found.astype(str).str.strip()
        self.refuse((found.isna() | (words == "")).to_numpy(dtype=bool), column, "empty")
        return [str(word) for word in words]

    def column(self, column: str) -> pd.Series[Any]:
        """A column as it was found. # [n]"""
        if not self.has(column):
            found = ", ".join(map(str, self.frame.columns))
            raise TraceError("column is missing", where=f"{self.path}:1", key=column, remedy=f"columns found: {found}")
        return self.frame[column]

    def refuse(self, bad: Flags, column: str, problem: str, remedy: str | None = None) -> None:
        """Raise the one-line error for the first row of `bad`, if there is one. # [n]"""
        if not bad.any():
            return
        row = int(np.argmax(bad))
        value = self.frame[column].iloc[row]
        missing = bool(pd.isna(value)) if np.ndim(value) == 0 else False
        what = "missing value" if missing else f"{problem} (got {_shown(value)})"
        remedy = remedy or "mend or drop the row"
        raise TraceError(what, where=f"{self.path}:{line_of_row(self.path, row + self.header_lines)}", key=column, remedy=remedy)


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else text[:37] + "..."


def line_of_row(path: Path, row: int) -> int:
    """The line of the `row`-th line that is not empty, rows from 0 and lines from 1."""
    with path.open(encoding="utf-8-sig") as lines:
        filled = (number for number, line in enumerate(lines, 1) if line.strip())
        return next((number for i, number in enumerate(filled) if i == row), 0)


def head(path: Path, rows: int = 2) -> list[list[str]]:
    """The first rows of a CSV file as they are written; also where a file that cannot be read at all is refused."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            out = []
            for row in csv.reader(lines, skipinitialspace=True):
                if any(field.strip() for field in row):
                    out.append([field.strip() for field in row])
                if len(out) == rows:
                    break
    except FileNotFoundError:
        raise TraceError("no such file", where=path, remedy="check the path") from None
    except (UnicodeDecodeError, csv.Error):
        raise TraceError("is not UTF-8 text", where=path, remedy="give a CSV or JSONL file") from None
    except OSError as problem:
        raise TraceError(f"cannot be read ({problem.strerror})", where=path, remedy="name a readable file") from None
    if not out:
        raise TraceError("the file is empty", where=path, remedy="give a file with at least one request")
    return out


def read_table(path: Path, columns: list[str]) -> Table:
    """A CSV file whose header names at least `columns`; others are left alone."""
    header, *rows = head(path)
    try:
        frame = pd.read_csv(
            path, encoding="utf-8-sig", keep_default_na=False, na_values=[""], skipinitialspace=True, index_col=False if not rows else None
        )
    except pd.errors.ParserError as problem:
        raise _ragged(path, str(problem)) from None
    except UnicodeDecodeError:
        raise TraceError("is not UTF-8 text", where=path, remedy="give a CSV or JSONL file") from None
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    table = Table(path, frame, header_lines=1)
    for column in columns:
        table.column(column)
    if not rows:
        raise TraceError("holds a header and no rows", where=path, remedy="give a file with at least one request")
    if len(rows[0]) > len(header):
        where = f"{path}:{line_of_row(path, 1)}"
        raise TraceError(f"the row has {len(rows[0])} fields, the header {len(header)}", where=where, remedy="mend or drop the row")
    return table


def _ragged(path: Path, problem: str) -> TraceError:
    """pandas' complaint about the shape of a CSV file, as ours."""
    found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", problem)
    if found:
        expected, line, saw = found.groups()
        return TraceError(f"the row has {saw} fields, the header {expected}", where=f"{path}:{line}", remedy="mend or drop the row")
    return TraceError(f"not valid CSV ({problem.strip().removeprefix('Error tokenizing data. C error: ')})", where=path, remedy="mend the file")


def read_jsonl(path: Path, columns: list[str]) -> Table:
    """A file of one JSON object a line; every object must hold `columns`."""
    head(path, rows=1)
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_json_row(path, number, line))
    frame = pd.DataFrame({column: _json_column([row.get(column) for row in rows]) for column in columns})
    return Table(path, frame, header_lines=0)


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as problem:
        raise TraceError(f"not valid JSON ({problem})", where=f"{path}:{number}", remedy="each line holds one JSON object") from None
    if not isinstance(row, dict):
        raise TraceError("not a JSON object", where=f"{path}:{number}", remedy="each line holds one JSON object")
    return row


def _json_column(values: list[Any]) -> pd.Series[Any]:
    """The column, in which what is neither a number nor a list stays recognisable as such (pandas would take true for 1, "2" for 2)."""
    column = pd.Series(values)
    if column.dtype.kind in "iuf":
        return column
    return pd.Series([repr(v) if isinstance(v, bool | str | dict) else v for v in values], dtype=object)

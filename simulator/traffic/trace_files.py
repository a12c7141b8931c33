"""Files of requests read into columns. Whatever does not fit is refused with file, line and column."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.files import json_lines, line_of, opened

_MOST = 2**53  # whole numbers beyond this are not exact in a float


@dataclass(frozen=True)
class Table:
    """The rows of a file, after `header_lines`; empty lines are not rows."""

    path: Path
    frame: pd.DataFrame
    header_lines: int

    def has(self, column: str) -> bool:
        """Does the file have this column?"""
        return column in self.frame.columns

    def numbers(self, column: str, *, least: float, remedy: str | None = None) -> Floats:
        """A column of finite numbers of at least `least`. # [n]"""
        cells = self.column(column)
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if cells.dtype == bool:
            values = np.full(len(cells), np.nan)
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
        cells = self.column(column)
        if pd.api.types.is_numeric_dtype(cells.dtype):  # pandas would read a bare number as a year or as nanoseconds
            self.refuse(np.ones(len(cells), dtype=bool), column, "not a date-time")
        stamps = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
        self.refuse(stamps.isna().to_numpy(dtype=bool), column, "not a date-time")
        nanoseconds = stamps.dt.as_unit("ns").to_numpy(dtype="datetime64[ns]").astype(np.int64)
        return np.asarray((nanoseconds - nanoseconds.min()) / 1e9)

    def texts(self, column: str) -> list[str]:
        """A column of words, none of them empty. # [n]"""
        cells = self.column(column)
        words = cells.astype(str).str.strip()
        self.refuse((cells.isna() | (words == "")).to_numpy(dtype=bool), column, "empty")
        return [str(word) for word in words]

    def column(self, column: str) -> pd.Series[Any]:
        """A column as it was read. # [n]"""
        if not self.has(column):
            remedy = f"columns found: {', '.join(map(str, self.frame.columns))}"
            raise TraceError("column is missing", where=f"{self.path}:1", key=column, remedy=remedy)
        return self.frame[column]

    def refuse(self, bad: Flags, column: str, problem: str, remedy: str | None = None) -> None:
        """Raise TraceError for the first row where `bad` [n] is true, if any."""
        if not bad.any():
            return
        row = int(np.argmax(bad))
        value = self.frame[column].iloc[row]
        missing = bool(pd.isna(value)) if np.ndim(value) == 0 else False
        what = "missing value" if missing else f"{problem} (got {_shown(value)})"
        where = f"{self.path}:{line_of(self.path, row + self.header_lines)}"
        raise TraceError(what, where=where, key=column, remedy=remedy or "fix or drop the row")


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else text[:37] + "..."


def head(path: Path, rows: int = 2) -> list[list[str]]:
    """The first rows of a CSV file that are not empty, as text. Raises TraceError when the file cannot be read, or has none."""
    with opened(path, TraceError) as lines:
        fields = ([field.strip() for field in row] for row in csv.reader(lines, skipinitialspace=True))
        try:
            first = list(islice(filter(any, fields), rows))
        except csv.Error:
            raise TraceError("is not UTF-8 text", where=path, remedy="use a CSV or JSONL file") from None
    if not first:
        raise TraceError("the file is empty", where=path, remedy="use a file with at least one request")
    return first


def read_table(path: Path, columns: list[str]) -> Table:
    """A CSV file with at least these columns."""
    header, *rows = head(path)
    try:
        frame = pd.read_csv(
            path, encoding="utf-8-sig", keep_default_na=False, na_values=[""], skipinitialspace=True, index_col=False if not rows else None
        )
    except pd.errors.ParserError as problem:
        raise _ragged(path, str(problem)) from None
    except UnicodeDecodeError:
        raise TraceError("is not UTF-8 text", where=path, remedy="use a CSV or JSONL file") from None
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    table = Table(path, frame, header_lines=1)
    for column in columns:
        table.column(column)
    if not rows:
        raise TraceError("has a header and no rows", where=path, remedy="use a file with at least one request")
    if len(rows[0]) > len(header):
        where = f"{path}:{line_of(path, 1)}"
        raise TraceError(f"expected {len(header)} fields as in the header, got {len(rows[0])}", where=where, remedy="fix or drop the row")
    return table


def _ragged(path: Path, problem: str) -> TraceError:
    """A parser error of pandas, as ours."""
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", problem)
    if match:
        expected, line, got = match.groups()
        return TraceError(f"expected {expected} fields as in the header, got {got}", where=f"{path}:{line}", remedy="fix or drop the row")
    return TraceError(f"not valid CSV ({problem.strip().removeprefix('Error tokenizing data. C error: ')})", where=path, remedy="fix the file")


def read_jsonl(path: Path, columns: list[str]) -> Table:
    """A file with one JSON object per line, read into `columns`."""
    rows = [row for _, row in json_lines(path, TraceError)]
    if not rows:
        raise TraceError("the file is empty", where=path, remedy="use a file with at least one request")
    frame = pd.DataFrame({column: _json_column([row.get(column) for row in rows]) for column in columns})
    return Table(path, frame, header_lines=0)


def _json_column(values: list[Any]) -> pd.Series[Any]:
    """A column in which other values than numbers and lists become their repr (pandas would read true as 1, "2" as 2)."""
    column = pd.Series(values)
    if column.dtype.kind in "iuf":
        return column
    return pd.Series([repr(v) if isinstance(v, bool | str | dict) else v for v in values], dtype=object)

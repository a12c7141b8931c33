"""Files of requests read into columns: CSV in any dialect, or JSON. Whatever does not fit is refused with file, line and column."""

from __future__ import annotations

import csv
import json
import re
import warnings
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.reading.csv_files import line_of
from simulator.reading.json_files import json_lines
from simulator.reading.opening import opened

_MOST = 10**8  # tokens; no context is as long
_NEEDS_ONE = "use a file with at least one request"
_ZONE = r"Z$|[+-]\d\d:\d\d$|[+-]\d{4}$|\+\d\d$"  # of the last six characters
_EXCEL = re.compile(r"sep=(.)\s*$", re.IGNORECASE)
_SAMPLE = 200  # lines that show the dialect of a CSV file


@dataclass(frozen=True)
class Table:
    """The rows of a file, after `header_lines`; empty lines are not rows. `json`: text is not a number; `array`: rows have no lines of their own;
    `twice`: names that the header has more than once; `thousands`: columns with cells such as 2.000 that may be 2 or 2000."""

    path: Path
    frame: pd.DataFrame
    header_lines: int
    json: bool = False
    array: bool = False
    twice: frozenset[str] = frozenset()
    thousands: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [str(name) for name in self.frame.columns]

    def numbers(self, column: str, *, least: float, expected: str = "a number") -> Floats:
        """A column of finite numbers of at least `least`. # [n]"""
        cells = self.column(column)
        if cells.dtype == bool:
            cells = pd.Series(np.nan, index=cells.index)
        elif self.json and cells.dtype == object:
            cells = cells.where(cells.map(lambda cell: isinstance(cell, int | float) and not isinstance(cell, bool)))
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        self.refuse(np.isnan(values), column, f"not {expected}")
        self.refuse(~np.isfinite(values), column, "not finite")
        self.refuse(values < least, column, f"must be at least {least:g}")
        return values

    def whole(self, column: str, *, least: int) -> Integers:
        """A column of numbers of tokens, at least `least`. # [n]"""
        values = self.numbers(column, least=least)
        if column in self.thousands:
            remedy = "write whole numbers without points"
            raise TraceError("may have points between thousands, such as 2.000", where=self.path, key=column, remedy=remedy)
        self.refuse(values != np.rint(values), column, "not a whole number")
        self.refuse(values > _MOST, column, "too large")
        return values.astype(np.int64)

    def stamps_ns(self, column: str) -> Integers:
        """A column of ISO 8601 date-times, as nanoseconds since 1970. # [n]"""
        cells = self.column(column)
        if not isinstance(cells.dtype, pd.StringDtype):  # pandas would read a bare number as a year or as nanoseconds
            self.refuse(~cells.map(lambda cell: isinstance(cell, str)).to_numpy(dtype=bool), column, "not a date-time")
        stamps = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
        self.refuse(stamps.isna().to_numpy(dtype=bool), column, "not a date-time", "write it like 2024-05-12 00:00:01.5")
        self.refuse(~stamps.dt.year.between(1678, 2261).to_numpy(dtype=bool), column, "out of range")
        zoned = cells.str.strip().str.slice(-6).str.contains(_ZONE).to_numpy(dtype=bool)
        self.refuse(zoned != zoned[0], column, "some date-times have a time zone and some have none", "give all of them one, or none")
        return stamps.dt.as_unit("ns").to_numpy(dtype="datetime64[ns]").astype(np.int64)

    def has_stamps(self, column: str) -> bool:
        """Does the column begin with a date?"""
        first = self.column(column).iloc[0]
        return isinstance(first, str) and re.match(r"\s*\d{4}-\d\d", first) is not None

    def texts(self, column: str) -> list[str]:
        """A column of words, none of them empty. # [n]"""
        cells = self.column(column)
        words = cells.astype(str).str.strip()
        self.refuse((cells.isna() | (words == "")).to_numpy(dtype=bool), column, "empty")
        return [str(word) for word in words]

    def column(self, column: str) -> pd.Series[Any]:
        """A column as it was read. # [n]"""
        if column not in self.frame.columns:
            raise TraceError("column is missing", where=f"{self.path}:1", key=column, remedy=f"columns found: {', '.join(self.names)}")
        if column in self.twice:
            raise TraceError("two columns have this name", where=f"{self.path}:{self.header_lines}", key=column, remedy="rename one of them")
        return self.frame[column]

    def without(self, rows: Flags) -> Table:
        """The table without some rows. # [n]"""
        return replace(self, frame=self.frame[~rows])

    def refuse(self, bad: Flags, column: str, problem: str, remedy: str | None = None) -> None:
        """Raise TraceError for the first row where `bad` [n] is true, if any."""
        if not bad.any():
            return
        row = int(np.argmax(bad))
        value = self.frame[column].iloc[row]
        missing = bool(pd.isna(value)) if np.ndim(value) == 0 else False
        what = "missing value" if missing else f"{problem} (got {_shown(value)})"
        raise TraceError(what, where=self.where(row), key=column, remedy=remedy or "fix or drop the row")

    def where(self, row: int) -> str:
        """File and line of a row."""
        number = int(self.frame.index[row])
        return f"{self.path}: row {number + 1}" if self.array else f"{self.path}:{line_of(self.path, number + self.header_lines)}"


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else text[:37] + "..."


def read_table(path: Path) -> Table:
    """A file of requests. It holds JSON if it begins like it, else CSV."""
    if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".zip", ".zst"):
        raise TraceError(f"expected CSV or JSON lines, got {path.suffix}", where=path, remedy="save it as CSV")
    with opened(path, TraceError) as lines:
        begin = next((line.lstrip()[:1] for line in lines if line.strip()), "")
    if not begin:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    if begin in ("[", "{") or {".json", ".jsonl"} & set(path.suffixes):
        return _read_json(path, array=begin == "[")
    return _read_csv(path)


def _read_json(path: Path, array: bool) -> Table:
    """A file with one JSON object per line, or an array of objects."""
    rows = _array_of(path) if array else [row for _, row in json_lines(path, TraceError)]
    if not rows:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(path, pd.DataFrame({name: _json_column([row.get(name) for row in rows]) for name in names}), 0, json=True, array=array)


def _json_column(values: list[Any]) -> pd.Series[Any]:
    """A column of numbers, or of values as they are (pandas would read true beside a number as 1)."""
    column = pd.Series(values)
    return column if column.dtype.kind in "iuf" else pd.Series(values, dtype=object)


def _array_of(path: Path) -> list[dict[str, Any]]:
    with opened(path, TraceError) as stream:
        try:
            rows = json.load(stream)
        except (ValueError, RecursionError) as problem:
            raise TraceError(f"not valid JSON ({problem})", where=path, remedy="write one JSON object per line") from None
    if not all(isinstance(row, dict) for row in rows):
        raise TraceError("expected an array of JSON objects", where=path, remedy="write one JSON object per line")
    return list(rows)


@dataclass(frozen=True)
class _Dialect:
    """How a CSV file separates cells and writes fractions."""

    delimiter: str
    decimal: str
    before: int  # lines before the header: comments, and "sep=;" of Excel


def _dialect(path: Path) -> tuple[_Dialect, list[list[str]]]:
    """The dialect of a CSV file and its first rows that are not empty, as text."""
    with opened(path, TraceError) as lines:
        sample = list(islice((line for line in lines if line.strip()), _SAMPLE))
    before = list(takewhile(lambda line: line.startswith("#") or _EXCEL.match(line), sample))
    hint = next((match for line in before if (match := _EXCEL.match(line))), None)
    sample = sample[len(before) :]
    if not sample:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    delimiter = hint[1] if hint else max(",;\t|", key=lambda mark: len(next(csv.reader(sample[:1], delimiter=mark))))
    try:
        rows = [[field.strip() for field in row] for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True)]
    except csv.Error:
        raise TraceError("is not UTF-8 text", where=path, remedy="use a CSV or JSONL file") from None
    comma = delimiter != "," and any(re.fullmatch(r"-?\d+,\d+", field) for row in rows[1:] for field in row)
    return _Dialect(delimiter, "," if comma else ".", len(before)), [row for row in rows if any(row)]


def _read_csv(path: Path) -> Table:
    """A CSV file with a header."""
    dialect, (header, *rows) = _dialect(path)
    with opened(path, TraceError) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # a column of words and numbers is refused or not needed
        for _ in range(dialect.before):
            next(line for line in stream if line.strip())
        try:
            frame = pd.read_csv(
                stream,
                sep=dialect.delimiter,
                decimal=dialect.decimal,
                keep_default_na=False,
                na_values=[""],
                skipinitialspace=True,
                index_col=False if not rows else None,
            )
        except pd.errors.ParserError as problem:
            raise _ragged(path, str(problem), dialect.before) from None
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    if not rows:
        raise TraceError("has a header and no rows", where=path, remedy=_NEEDS_ONE)
    if len(rows[0]) > len(header):
        where = f"{path}:{line_of(path, dialect.before + 1)}"
        raise TraceError(f"expected {len(header)} fields as in the header, got {len(rows[0])}", where=where, remedy="fix or drop the row")
    twice = frozenset(name for name in header if header.count(name) > 1)
    thousands = frozenset(name for place, name in enumerate(header) if _has_thousands([row[place] for row in rows if place < len(row)], dialect))
    return Table(path, frame, header_lines=dialect.before + 1, twice=twice, thousands=thousands)


def _has_thousands(cells: list[str], dialect: _Dialect) -> bool:
    """Are there cells such as 2.000 beside others without a point, or where fractions have a comma?"""
    pointed = any(re.fullmatch(r"[1-9]\d{0,2}(\.\d{3})+", cell) for cell in cells)
    return pointed and (dialect.decimal == "," or any(cell.isdigit() for cell in cells))


def _ragged(path: Path, problem: str, before: int) -> TraceError:
    """A parser error of pandas, as ours."""
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", problem)
    if match:
        expected, line, fields = match.groups()
        where = f"{path}:{int(line) + before}"
        return TraceError(f"expected {expected} fields as in the header, got {fields}", where=where, remedy="fix or drop the row")
    return TraceError(f"not valid CSV ({problem.strip().removeprefix('Error tokenizing data. C error: ')})", where=path, remedy="fix the file")

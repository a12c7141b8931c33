"""Files of requests read as columns, some thousands of rows at a time: CSV in any dialect, or JSON. Whatever does not fit is refused with file, line
and column."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.names import check_label
from simulator.reading.csv_blocks import CsvBlock, CsvForm, csv_blocks
from simulator.reading.csv_files import line_of
from simulator.reading.json_files import json_lines, parse_json
from simulator.reading.opening import opened, read_text

_MOST = 10**8  # tokens; no context is as long
_MOST_COLUMNS, _MOST_LETTERS = 1000, 200  # of a column's name
_YEARS = (1900, 2100)
MOST_WORDS = 10_000  # different ones in a column
_NEEDS_ONE = "use a file with at least one request"
_ZONE = r"Z$|[+-]\d\d:\d\d$|[+-]\d{4}$|\+\d\d$"  # of the last six characters
_THOUSANDS = r"[1-9]\d{0,2}(?:\.\d{3})+"
_EXCEL = re.compile(r"sep=([,;|:\t])\s*$", re.IGNORECASE)
_SAMPLE = 200  # lines that show the dialect of a CSV file, or the names in one of JSON
_SAMPLE_CHARACTERS = 1 << 20
_FIRST_LINES = 10_000  # one of them is not empty
_ROWS = 20_000  # of JSON, at a time
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Some rows of a file, as columns. `places` has the number of each: its line, or where the file is one `array` its place in it. `json`: text is
    not a number; `block`: the rows of a CSV file as they are written, and `decimal` is its mark of fractions."""

    path: Path
    frame: pd.DataFrame
    places: Sequence[str] | Integers
    json: bool = False
    block: CsvBlock | None = None

    def numbers(self, column: str, *, least: float, expected: str = "a number") -> Floats:
        """A column of finite numbers of at least `least`. # [n]"""
        cells = self.frame[column]
        if cells.dtype == bool:
            cells = pd.Series(np.nan, index=cells.index)
        elif self.block is not None and self.block.form.decimal == "," and isinstance(cells.dtype, pd.StringDtype):  # a cell among them is no number
            cells = cells.str.replace(".", "x", regex=False).str.replace(",", ".", regex=False)
        elif cells.dtype == object:
            kinds = int | float if self.json else int | float | str
            cells = cells.where(cells.map(lambda cell: isinstance(cell, kinds) and not isinstance(cell, bool)))
            cells = cells.map(lambda cell: np.inf if isinstance(cell, int) and abs(cell) > 2**1000 else cell)  # no float is as large
        values = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        self.refuse(np.isnan(values), column, f"not {expected}")
        self.refuse(~np.isfinite(values), column, "not finite")
        self.refuse(values < least, column, f"must be at least {least:g}")
        return values

    def whole(self, column: str, *, least: int) -> Integers:
        """A column of numbers of tokens, at least `least`. # [n]"""
        if self.block is not None and self.frame[column].dtype.kind != "i":
            self._refuse_thousands(column, self.block)
        values = self.numbers(column, least=least)
        self.refuse(values != np.rint(values), column, "not a whole number")
        self.refuse(values > _MOST, column, "too large")
        return values.astype(np.int64)

    def _refuse_thousands(self, column: str, block: CsvBlock) -> None:
        """Raise TraceError where there are cells such as 2.000 beside others without a point, or where fractions have a comma."""
        cells = block.frame([column], as_written=True)[column].str.strip()
        if cells.str.fullmatch(_THOUSANDS).any() and (block.form.decimal == "," or cells.str.fullmatch(r"\d+").any()):
            remedy = "write whole numbers without points"
            raise TraceError("may have points between thousands, such as 2.000", where=self.path, key=column, remedy=remedy)

    def stamps_ns(self, column: str, zoned: bool | None = None) -> tuple[Integers, bool]:
        """A column of ISO 8601 date-times, as nanoseconds since 1970, and whether they have a time zone, which must be as `zoned`. # [n]"""
        cells = self.frame[column]
        if not isinstance(cells.dtype, pd.StringDtype):  # pandas would read a bare number as a year or as nanoseconds
            self.refuse(~cells.map(lambda cell: isinstance(cell, str)).to_numpy(dtype=bool), column, "not a date-time")
        cells = cells.str.strip()
        stamps = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
        bad = stamps.isna() | (cells.str.slice(4, 5) != "-")  # pandas knows the time of "now"
        self.refuse(bad.to_numpy(dtype=bool), column, "not a date-time", "write it like 2024-05-12 00:00:01.5")
        self.refuse(~stamps.dt.year.between(*_YEARS).to_numpy(dtype=bool), column, f"out of range, expected a year from {_YEARS[0]} to {_YEARS[1]}")
        tail = cells.iloc[0][-6:]
        first = re.search(_ZONE, tail) is not None
        if zoned not in (None, first) or not (first and cells.str.endswith(tail).all()):
            others = cells.str.slice(-6).str.contains(_ZONE).to_numpy(dtype=bool) != (first if zoned is None else zoned)
            self.refuse(others, column, "some date-times have a time zone and some have none", "give all of them one, or none")
        return stamps.dt.as_unit("ns").to_numpy(dtype="datetime64[ns]").astype(np.int64), first

    def has_stamps(self, column: str) -> bool:
        """Does the column begin with a date?"""
        first = self.frame[column].iloc[0]
        return isinstance(first, str) and re.match(r"\s*\d{4}-\d\d", first) is not None

    def texts(self, column: str) -> tuple[Integers, list[str]]:
        """A column of words, none of them empty: for each row its place in the list of distinct words. # [n]"""
        cells = self.frame[column]
        if self.block is not None and not isinstance(cells.dtype, pd.StringDtype):  # 01 is not 1
            cells = self.block.frame([column], as_written=True)[column].loc[cells.index]
        if self.json:
            self.refuse(cells.map(lambda cell: type(cell) not in (str, int)).to_numpy(dtype=bool), column, "not a text")
            self.refuse(~cells.map(lambda cell: str(cell).isprintable()).to_numpy(dtype=bool), column, "has invisible characters")
        words = cells.astype(str).str.strip()
        self.refuse((cells.isna() | (words == "")).to_numpy(dtype=bool), column, "empty")
        places, distinct = pd.factorize(words)
        if len(distinct) > MOST_WORDS:
            problem = f"has more than {MOST_WORDS:,} different texts"
            raise TraceError(problem, where=self.path, key=column, remedy="map another column, or rename this one")
        for number, word in enumerate(distinct):
            try:
                check_label(str(word))
            except ValueError as problem:
                self.refuse(places == number, column, str(problem), "shorten it, or map another column")
        return places, [str(word) for word in distinct]

    def without(self, rows: Flags) -> Table:
        """The table without some rows. # [n]"""
        return replace(self, frame=self.frame[~rows])

    def refuse(self, bad: Flags, column: str, problem: str, remedy: str | None = None) -> None:
        """Raise TraceError for the first row where `bad` [n] is true, if any."""
        if not bad.any():
            return
        row = int(np.argmax(bad))
        value = self.frame[column].iloc[row]
        missing = not isinstance(value, list | dict) and bool(pd.isna(value))
        what = "missing value" if missing else f"{problem} (got {_shown(value)})"
        raise TraceError(what, where=self.where(row), key=column, remedy=remedy or "fix or drop the row")

    def where(self, row: int) -> str:
        """File and line of a row."""
        return place_of(self.path, self.places[int(self.frame.index[row])])


def place_of(path: Path, place: str | int) -> str:
    """File and line, or file and row."""
    return f"{path}:{place}" if not isinstance(place, str) else place


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else text[:37] + "..."


@dataclass(frozen=True)
class TraceFile:
    """A file of requests: its columns' names, and its rows as tables. `form` is that of a CSV file, None for JSON; `rows` are those of a JSON array.

    Names in JSON are those of the first rows; `tables` adds the others to `more_names` as it comes upon them.
    """

    path: Path
    names: tuple[str, ...]
    form: CsvForm | None = None
    rows: tuple[Row, ...] | None = None

    def __post_init__(self) -> None:
        longest = max(map(len, self.names), default=0)
        if len(self.names) > _MOST_COLUMNS or longest > _MOST_LETTERS:
            expected = f"at most {_MOST_COLUMNS:,} columns with names of at most {_MOST_LETTERS} characters"
            problem = f"expected {expected}, got {len(self.names):,} columns and a name of {longest:,} characters"
            raise TraceError(problem, where=self.header, remedy="drop those that are not needed")

    @property
    def json(self) -> bool:
        """Is it JSON?"""
        return self.form is None

    @property
    def header(self) -> str:
        """File and line of the names."""
        return f"{self.path}:{self.form.line if self.form else 1}"

    @cached_property
    def more_names(self) -> dict[str, None]:
        """Names that the first rows of JSON have not; in order of their appearance."""
        return {}

    def tables(self, columns: Collection[str]) -> Iterator[Table]:
        """All rows, some thousands at a time, with these columns. Raises TraceError where a column is missing or the file cannot be read."""
        for column in columns:
            if column not in self.names:
                raise TraceError("column is missing", where=self.header, key=column, remedy=f"columns found: {', '.join(self.names[:20])}")
        return self._json_tables(tuple(columns)) if self.form is None else self._csv_tables(columns, self.form)

    def whole(self, column: str, *, least: int) -> Integers:
        """One column as numbers of tokens, at least `least`. # [rows of the file]"""
        return np.concatenate([table.whole(column, least=least) for table in self.tables([column])])

    def numbers(self, column: str, *, least: float) -> Floats:
        """One column of finite numbers of at least `least`. # [rows of the file]"""
        return np.concatenate([table.numbers(column, least=least) for table in self.tables([column])])

    def where(self, row: int) -> str:
        """File and line of a row, counted from 0 over the file."""
        return f"{self.path}: row {row + 1}" if self.rows is not None else f"{self.path}:{line_of(self.path, row)}"

    def _csv_tables(self, columns: Collection[str], form: CsvForm) -> Iterator[Table]:
        twice = next((name for name, count in Counter(form.header).items() if count > 1), None)
        if twice is not None:
            raise TraceError("two columns have this name", where=self.header, key=twice, remedy="rename one of them")
        with opened(self.path, TraceError) as stream:
            for _ in range(form.line):
                stream.readline()
            empty = True
            for block in csv_blocks(stream, form, self.path, TraceError):
                empty = False
                try:
                    frame = block.frame(columns)
                except (ValueError, OverflowError) as problem:  # pandas' ParserError is a ValueError
                    raise TraceError(f"not valid CSV ({problem})", where=place_of(self.path, int(block.lines[0])), remedy="fix the file") from None
                yield Table(self.path, frame, block.lines, block=block)
        if empty:
            raise TraceError("has a header and no rows", where=self.path, remedy=_NEEDS_ONE)

    def _json_tables(self, columns: tuple[str, ...]) -> Iterator[Table]:
        rows = _numbered(self.path, self.rows) if self.rows is not None else json_lines(self.path, TraceError)
        known = set(self.names)
        while part := list(islice(rows, _ROWS)):
            for _, row in part:
                if not row.keys() <= known:
                    self.more_names.update(dict.fromkeys(name for name in row if name not in known))
                    known.update(row)
            frame = pd.DataFrame({name: _json_column([row.get(name) for _, row in part]) for name in columns}, index=range(len(part)))
            yield Table(self.path, frame, [place for place, _ in part], json=True)


def _numbered(path: Path, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    return ((f"{path}: row {number}", row) for number, row in enumerate(rows, 1))


def _json_column(values: list[Any]) -> pd.Series[Any]:
    """A column of numbers, or of values as they are (pandas would read true beside a number as 1)."""
    if any(isinstance(value, list | dict) for value in values[:1]):
        return pd.Series(values, dtype=object)
    column = pd.Series(values)
    return column if column.dtype.kind in "iuf" else pd.Series(values, dtype=object)


def trace_file(path: Path) -> TraceFile:
    """A file of requests. It holds JSON if it begins like it, else CSV."""
    if path.suffix.lower() in (".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".zip", ".zst"):
        raise TraceError(f"expected CSV or JSON lines, got {path.suffix}", where=path, remedy="save it as CSV")
    with opened(path, TraceError, line_mb=None) as lines:  # an array may be one line
        begin = next((line.lstrip()[:1] for line in islice(lines, _FIRST_LINES) if line.strip()), "")
    if not begin:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    if begin in ("[", "{") or {".json", ".jsonl"} & set(path.suffixes):
        return _json_file(path, array=begin == "[")
    return _csv_file(path)


def _json_file(path: Path, array: bool) -> TraceFile:
    """A file with one JSON object per line, or an array of objects."""
    rows = _array_of(path) if array else None
    first = list(islice(json_lines(path, TraceError), _SAMPLE)) if rows is None else [("", row) for row in rows]
    if not first:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    return TraceFile(path, tuple(dict.fromkeys(name for _, row in first for name in row)), rows=rows)


def _array_of(path: Path) -> tuple[Row, ...]:
    rows = parse_json(read_text(path, TraceError), path, TraceError, "write one JSON object per line")
    if not all(isinstance(row, dict) for row in rows):
        raise TraceError("expected an array of JSON objects", where=path, remedy="write one JSON object per line")
    return tuple(rows)


def _csv_file(path: Path) -> TraceFile:
    """A CSV file with a header, in the dialect that its first lines show."""
    with opened(path, TraceError) as lines:
        sample = _sample(lines)
    before = next((number for number, (_, line) in enumerate(sample) if not (line.startswith("#") or _EXCEL.match(line))), len(sample))
    hint = next((match for _, line in sample[:before] if (match := _EXCEL.match(line))), None)
    if not sample[before:]:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    number, first = sample[before]
    delimiter = hint[1] if hint else max(",;\t|", key=lambda mark: len(_cells(path, [(number, first)], mark)[0]))
    header, *rows = _cells(path, sample[before:], delimiter)
    comma = delimiter != "," and any(re.fullmatch(r"-?\d+,\d+", field) for row in rows for field in row)
    names = tuple(name or f"Unnamed: {place}" for place, name in enumerate(header))
    return TraceFile(path, names, CsvForm(names, number, delimiter, "," if comma else "."))


def _sample(lines: Iterator[str]) -> list[tuple[int, str]]:
    """The first lines that are not empty, numbered from 1."""
    sample: list[tuple[int, str]] = []
    characters = 0
    for number, line in enumerate(islice(lines, _FIRST_LINES), 1):
        sample += [(number, line)] if line.strip() else []
        characters += len(line)
        if len(sample) >= _SAMPLE or characters > _SAMPLE_CHARACTERS:
            break
    return sample


def _cells(path: Path, lines: Sequence[tuple[int, str]], delimiter: str) -> list[list[str]]:
    """The cells of some lines, the first of which is whole."""
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
    try:
        return [[field.strip() for field in row] for row in reader if row]
    except csv.Error as problem:
        place = f"{path}:{lines[max(reader.line_num - 1, 0)][0]}"
        raise TraceError(f"not valid CSV ({problem})", where=place, remedy="use a CSV or JSONL file") from None

"""Files of requests read as tables of some thousands of rows: CSV in any dialect, or JSON."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.reading import limits
from simulator.reading.csv_blocks import CsvForm, csv_blocks
from simulator.reading.csv_files import line_of
from simulator.reading.json_files import json_lines, parse_json
from simulator.reading.opening import opened, read_text
from simulator.traffic.trace_tables import Table, place_of

_MOST_LETTERS = 200  # of a column's name
_NEEDS_ONE = "use a file with at least one request"
_EXCEL = re.compile(r"sep=([,;|:\t])\s*$", re.IGNORECASE)
_SAMPLE = 200  # lines that show the dialect of a CSV file, or the names in one of JSON
_SAMPLE_CHARACTERS = 1 << 20
_FIRST_LINES = 10_000  # one of them is not empty
_ROWS = 20_000  # of JSON, at a time
_EXACT = 2**53  # whole numbers above it are not all floats
Row = dict[str, Any]


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
        if len(self.names) > limits.COLUMNS or longest > _MOST_LETTERS:
            expected = f"at most {limits.COLUMNS:,} columns with names of at most {_MOST_LETTERS} characters"
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

    def numbers(self, column: str, *, least: float, most: float) -> Floats:
        """One column of numbers from `least` to `most`. # [rows of the file]"""
        return np.concatenate([table.numbers(column, least=least, most=most) for table in self.tables([column])])

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
        rows = _numbered(self.path, self.rows) if self.rows is not None else json_lines(self.path, TraceError, nan="missing")
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
    exact = column.dtype.kind in "iu" or (column.dtype.kind == "f" and not any(type(value) is int and abs(value) > _EXACT for value in values))
    return column if exact else pd.Series(values, dtype=object)


def version_of(path: Path) -> tuple[int, int]:
    """When a file was written and how large it is, for what is kept of it; (0, 0) where there is none."""
    stat = path.stat() if path.exists() else None
    return (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)


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
    first = list(islice(json_lines(path, TraceError, nan="missing"), _SAMPLE)) if rows is None else [("", row) for row in rows]
    if not first:
        raise TraceError("the file is empty", where=path, remedy=_NEEDS_ONE)
    return TraceFile(path, tuple(dict.fromkeys(name for _, row in first for name in row)), rows=rows)


def _array_of(path: Path) -> tuple[Row, ...]:
    rows = parse_json(read_text(path, TraceError), path, TraceError, "write one JSON object per line", nan="missing")
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

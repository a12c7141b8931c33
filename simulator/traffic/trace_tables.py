"""Some rows of a file of requests as columns of numbers, dates and words. Whatever does not fit is refused with file, line and column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.names import check_label
from simulator.quantities import MOST_TOKENS
from simulator.reading.csv_blocks import CsvBlock

_YEARS = (1900, 2100)
_MOST_WORDS = 10_000  # different ones in a column
_ZONE = r"Z$|[+-]\d\d:\d\d$|[+-]\d{4}$|\+\d\d$"  # of the last six characters
_THOUSANDS = r"[1-9]\d{0,2}(?:\.\d{3})+"


@dataclass(frozen=True)
class Table:
    """Some rows of a file, as columns. `places` has the number of each: its line, or where the file is one `array` its place in it. `json`: text is
    not a number; `block`: the rows of a CSV file as they are written."""

    path: Path
    frame: pd.DataFrame
    places: Sequence[str] | Integers
    json: bool = False
    block: CsvBlock | None = None

    def numbers(self, column: str, *, least: float, most: float = np.inf, expected: str = "a number") -> Floats:
        """A column of finite numbers from `least` to `most`. # [n]"""
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
        self.refuse(values > most, column, f"must be at most {most:g}")
        return values

    def whole(self, column: str, *, least: int) -> Integers:
        """A column of numbers of tokens, at least `least`. # [n]"""
        if self.block is not None and self.frame[column].dtype.kind != "i":
            self._refuse_thousands(column, self.block)
        values = self.numbers(column, least=least)
        self.refuse(values != np.rint(values), column, "not a whole number")
        self.refuse(values > MOST_TOKENS, column, "too large")
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

    def texts(self, column: str, known: dict[str, int]) -> Integers:
        """A column of words, none of them empty: for each row the word's number in `known`, which gets those that are new. # [n]"""
        cells = self.frame[column]
        if self.block is not None and not isinstance(cells.dtype, pd.StringDtype):  # 01 is not 1
            cells = self.block.frame([column], as_written=True)[column].loc[cells.index]
        if self.json:
            self.refuse(cells.map(lambda cell: type(cell) not in (str, int)).to_numpy(dtype=bool), column, "not a text")
            self.refuse(~cells.map(lambda cell: str(cell).isprintable()).to_numpy(dtype=bool), column, "has invisible characters")
        words = cells.astype(str).str.strip()
        self.refuse((cells.isna() | (words == "")).to_numpy(dtype=bool), column, "empty")
        places, distinct = pd.factorize(words)
        if len(known.keys() | set(distinct)) > _MOST_WORDS:
            problem = f"has more than {_MOST_WORDS:,} different texts"
            raise TraceError(problem, where=self.path, key=column, remedy="map another column, or rename this one")
        for number, word in enumerate(distinct):
            try:
                check_label(str(word))
            except ValueError as problem:
                self.refuse(places == number, column, str(problem), "shorten it, or map another column")
        return np.array([known.setdefault(str(word), len(known)) for word in distinct], dtype=np.int64)[places]

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

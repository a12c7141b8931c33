"""Large CSV files a few megabytes at a time: whole rows, each with as many cells as the header."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Flags, Integers
from simulator.errors import DsimError

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 1 << 22  # characters
_LONGEST = 1 << 22  # characters of a cell: more is a quote that nothing closes
_NEWLINE, _QUOTE, _SPACE, _TAB = b'\n" \t'


@dataclass(frozen=True)
class CsvForm:
    """How a CSV file is written: the names in its header, and the line that holds them; what separates cells; what separates fractions."""

    header: Sequence[str]
    line: int
    delimiter: str = ","
    decimal: str = "."


@dataclass(frozen=True)
class CsvBlock:
    """Some rows of a CSV file as UTF-8 `text`, and the line on which each begins, counted from 1. # [n]"""

    text: bytes
    lines: Integers
    form: CsvForm

    def frame(self, columns: Collection[str], as_written: bool = False) -> pd.DataFrame:
        """Some of its columns: numbers where all cells are, else texts; `as_written`: texts, however they look. An empty cell is missing.
        Raises ValueError where it cannot be read."""
        import pandas as pd

        places = [self.form.header.index(name) for name in columns]
        frame = pd.read_csv(
            BytesIO(self.text),
            sep=self.form.delimiter,
            decimal=self.form.decimal,
            header=None,
            names=range(len(self.form.header)),
            usecols=places,
            dtype=str if as_written else None,
            index_col=False,
            keep_default_na=False,
            na_values=[""],
            skipinitialspace=True,
            low_memory=False,
        )
        if len(frame) != len(self.lines):
            raise ValueError("its rows cannot be told apart: quote the cells that hold quotes or line ends")
        return frame[places].set_axis(list(columns), axis="columns")


def csv_blocks(stream: TextIO, form: CsvForm, path: Path, error: type[DsimError] = DsimError) -> Iterator[CsvBlock]:
    """The rows of a stream that stands behind its header. Empty lines are not rows. Raises `error` for a row that has more or fewer cells than the
    header, and for a quote in the middle of a cell."""
    line = form.line + 1
    while text := stream.read(_BLOCK):
        text += stream.readline()
        if text.count('"') % 2:
            text += _rest_of_cell(stream)
        if "\0" in text:
            raise error("is not UTF-8 text", where=path, remedy="use a CSV or JSONL file")
        data = text.encode()
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        data = data if data.endswith(b"\n") else data + b"\n"
        rows, lines, following = _rows(data, form, line, path, error)
        if lines.size:
            yield CsvBlock(rows, lines, form)
        line = following


def _rest_of_cell(stream: TextIO) -> str:
    """What follows a line that ends within a quoted cell, to the end of the line with the quote that closes it."""
    parts: list[str] = []
    open_, characters = True, 0
    while open_ and characters < _LONGEST and (part := stream.readline()):
        parts.append(part)
        characters += len(part)
        open_ ^= part.count('"') % 2 == 1
    return "".join(parts)


def _rows(data: bytes, form: CsvForm, line: int, path: Path, error: type[DsimError]) -> tuple[bytes, Integers, int]:
    """The text without empty lines, the line of each of its rows, and the line after it."""
    content = np.frombuffer(data, dtype=np.uint8)
    ends, marks = np.flatnonzero(content == _NEWLINE), np.flatnonzero(content == ord(form.delimiter))
    following = line + len(ends)
    numbers = np.arange(line, following)
    if b'"' in data:
        quotes = _quotes(content, ord(form.delimiter), numbers, ends, path, error)
        outside = np.searchsorted(quotes, ends) % 2 == 0
        begins = np.concatenate([[True], outside[:-1]])
        ends, marks, numbers = ends[outside], marks[np.searchsorted(quotes, marks) % 2 == 0], numbers[begins]
    most = len(form.header) - 1
    if most and len(marks) == most * len(ends) and (marks[most - 1 :: most] < ends).all() and (marks[most::most] > ends[:-1]).all():
        return data, numbers, following
    counts = np.diff(np.searchsorted(marks, ends), prepend=0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    letters = (content != _NEWLINE) & (content != _SPACE) & (content != _TAB)
    empty = ~np.logical_or.reduceat(letters, starts) & (counts == 0)
    wrong: Flags = (counts != most) & ~empty
    if wrong.any():
        row = int(wrong.argmax())
        problem = f"expected {most + 1} fields as in the header, got {counts[row] + 1}"
        raise error(problem, where=f"{path}:{numbers[row]}", remedy="fix or drop the row")
    if empty.any():
        data = content[np.repeat(~empty, ends + 1 - starts)].tobytes()
    return data, numbers[~empty], following


def _quotes(content: NDArray[np.uint8], delimiter: int, numbers: Integers, ends: Integers, path: Path, error: type[DsimError]) -> Integers:
    """Where the quotes are. Raises `error` unless they come in pairs around a cell, and twice within it."""
    quotes = np.flatnonzero(content == _QUOTE)
    around = np.concatenate([[_NEWLINE, _NEWLINE], content, [_NEWLINE]])  # the character at i is at i + 2
    opening, closing = quotes[0::2], quotes[1::2]
    begins = np.array([delimiter, _NEWLINE, _QUOTE])
    before, earlier, after = around[opening + 1], around[opening], around[closing + 3]
    bad = ~(np.isin(before, begins) | ((before == _SPACE) & np.isin(earlier, begins[:2])))
    bad[: len(closing)] |= ~np.isin(after, [delimiter, _NEWLINE, _QUOTE, _SPACE])
    bad[len(closing) :] = True  # it is not closed
    if bad.any():
        where = f"{path}:{numbers[np.searchsorted(ends, opening[int(bad.argmax())])]}"
        remedy = "close the quote, and write quotes within a quoted cell twice"
        raise error("not valid CSV (a quote in the middle of a cell, or one that is not closed)", where=where, remedy=remedy)
    return quotes

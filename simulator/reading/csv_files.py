"""CSV tables and their columns of numbers: every row has a field for each column, and only numbers are numbers."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Sequence
from io import BytesIO, StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.reading import limits
from simulator.reading.opening import opened, read_text

if TYPE_CHECKING:
    import pandas as pd

    from simulator.arrays import Floats

_COMMENT = re.compile(r"#(?<![^\n]#)[^\n]*")  # a # at the beginning of a line, and the rest of it
_BLANK = " \t\r\n"  # of a line without a row, as pandas sees it: other white space is text
_NUMBER = re.compile(r"[^\S\x1c-\x1f]*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[^\S\x1c-\x1f]*")  # \x1c is a blank to re, not to float


def read_csv(path: Path, columns: Sequence[str] = (), error: type[DsimError] = DsimError, remedy: str = "check the path") -> pd.DataFrame:
    """A CSV table that has at least `columns`, between commas, semicolons or tabs (with decimal commas then, if it has them); lines that start with #
    are comments. Raises `error`, also where a row has more or fewer fields than the header."""
    import pandas as pd

    text = _COMMENT.sub("", read_text(path, error, remedy).replace("\r\n", "\n").replace("\r", "\n"))  # pandas drops the comma of "\r,"
    lines = (line[0] for line in re.finditer(r"[^\n]+", text) if line[0].strip(_BLANK))
    first, second = next(lines, ""), next(lines, "")
    if not first:
        raise error("is empty", where=path, remedy="expected a line of column names, and a line for each row")
    if "\0" in text:
        raise error("is not text (it has NUL characters)", where=path, remedy="save it as UTF-8")
    mark = max(",;\t", key=first.count)
    header = _header(first, mark, path, error)
    if (cells := text.count(mark) + text.count("\n")) > limits.CELLS:
        raise error(f"has about {cells:,} cells, at most {limits.CELLS:,} are read", where=path, remedy="drop rows or columns")
    if second and second.count(mark) != len(header) - 1:  # pandas would drop the fields that are too many in the first row
        check_fields(text, mark, len(header), path, error)
    decimal = "," if mark != "," and re.search(r"[0-9],[0-9]", text) else "."
    try:
        table = _parsed(text.encode(), mark, decimal)
    except (ValueError, OverflowError) as problem:  # ParserError is a ValueError
        check_fields(text, mark, len(header), path, error)
        raise error(f"not a CSV table ({str(problem).strip()[:200]})", where=path) from None
    if table.shape[1] != len(header):
        raise error("has a line break in a name of the header", where=path, remedy="write the header on one line")
    if '"' in text or text.count(mark) != (len(header) - 1) * (len(table) + 1):
        check_fields(text, mark, len(header), path, error)
    table.columns = pd.Index([name or f"Unnamed: {number}" for number, name in enumerate(header)])
    for name in columns:
        if name not in table:
            raise error("column is missing", where=path, key=name, remedy=f"columns found: {', '.join(map(str, table.columns[:20]))}")
    table.attrs["decimal"] = decimal
    return table


def _parsed(content: bytes, mark: str, decimal: str) -> pd.DataFrame:
    """The table that pandas reads. Columns that are neither all numbers nor all texts are read again as they are written: beside a number of
    more than 20 digits pandas would take 1_0 for 10."""
    import pandas as pd

    def read(kinds: dict[Any, type] | None = None) -> pd.DataFrame:
        return pd.read_csv(BytesIO(content), sep=mark, decimal=decimal, index_col=False, dtype=kinds)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (pd.errors.DtypeWarning, pd.errors.ParserWarning))  # rows of other lengths are looked for above
        table = read()
        mixed: dict[Any, type] = {name: str for name in table if table[name].dtype.kind == "O" and not isinstance(table[name].dtype, pd.StringDtype)}
        return read(mixed) if mixed else table


def _header(line: str, mark: str, path: Path, error: type[DsimError]) -> list[str]:
    """The names of the columns, none of them twice."""
    if (count := line.count(mark) + 1) > limits.COLUMNS:
        raise error(f"expected at most {limits.COLUMNS} columns, got {count}", where=path, remedy="drop columns")
    try:
        header = [name.strip() for name in next(csv.reader([line], delimiter=mark))]
    except csv.Error as problem:
        raise error(f"not a CSV table ({problem})", where=path) from None
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise error("column is there twice", where=path, key=twice[:80], remedy="keep one")
    return header


def check_fields(text: str, mark: str, width: int, path: Path, error: type[DsimError]) -> None:
    """Raise `error` for the first row of a CSV text that does not have `width` fields. Empty lines are not rows."""
    rows = csv.reader(StringIO(text, newline=""), delimiter=mark)
    try:
        for row in rows:
            if len(row) != width and (len(row) > 1 or (row and row[0].strip(_BLANK))):
                where = f"{path}:{rows.line_num}"
                raise error(f"expected {width} fields as in the header, got {len(row)}", where=where, remedy="fix or drop the row")
    except csv.Error as problem:
        raise error(f"not a CSV table ({problem})", where=f"{path}:{rows.line_num}", remedy="close the quote, or shorten the text") from None


def numbers(table: pd.DataFrame, name: str, path: Path, error: type[DsimError] = DsimError, positive: bool = True, optional: bool = False) -> Floats:
    """A column of finite numbers, positive or at least 0; `optional` cells may be empty (NaN). Raises `error` with file, line and column."""
    import numpy as np  # not above: the command line reads this module for its help

    cells = table[name]
    if cells.dtype.kind in "iuf":
        values = cells.to_numpy(dtype=np.float64)
    else:
        decimal = table.attrs.get("decimal", ".")
        values = np.array([_number(cell, decimal) for cell in cells], dtype=np.float64)
    wrong = np.isinf(values) | (values <= 0 if positive else values < 0) | (np.isnan(values) & (cells.notna() | (not optional)))
    if wrong.any():
        row = int(wrong.argmax())
        problem = f"must be a {'positive number' if positive else 'number of at least 0'} (got {shown(cells.tolist()[row])})"
        apart = "write the comment on a line of its own" if "#" in str(cells.tolist()[row]) else None
        raise error(problem, where=place_of_row(path, row), key=name, remedy=apart)
    return values


def _number(cell: Any, decimal: str) -> float:
    """The number in a cell of a column that is not all numbers; NaN where there is none: True is not 1, and 0x10 and 1_0 are words. Where
    fractions have a comma, a point stands between thousands or in a number of another dialect."""
    if isinstance(cell, str):
        cell = cell if decimal == "." else cell.replace(".", "x").replace(decimal, ".")
        return float(cell) if _NUMBER.fullmatch(cell) else float("nan")
    return float("nan") if isinstance(cell, bool) else float(cell)


def place_of_row(path: Path, row: int) -> str:
    """File and line of a row of `read_csv`, counted from 0."""
    return f"{path}:{line_of(path, row + 1, comment='#')}"


def line_of(path: Path, row: int, comment: str | None = None) -> int:
    """The line, counted from 1, of a file's row, counted from 0 with the header; empty lines and comments hold none."""
    with opened(path) as lines:
        rows = (number for number, line in enumerate(lines, 1) if line.strip(_BLANK) and not (comment and line.startswith(comment)))
        return next(islice(rows, row, None), 0)

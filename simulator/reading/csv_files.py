"""CSV tables and their columns of numbers, with one-line errors."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.errors import DsimError
from simulator.reading.opening import opened

if TYPE_CHECKING:
    import pandas as pd

    from simulator.arrays import Floats


def read_csv(path: Path, columns: Sequence[str] = (), error: type[DsimError] = DsimError, remedy: str = "check the path") -> pd.DataFrame:
    """A CSV table that has at least `columns`, between commas, semicolons or tabs (with decimal commas then, if it has them); lines that start with #
    are comments. Raises `error`."""
    import csv
    import re

    import pandas as pd

    with opened(path, error, remedy) as stream:
        text = StringIO(stream.read(), newline="")
    lines = [line for line in text if line.strip() and not line.startswith("#")]
    if not lines:
        raise error("is empty", where=path, remedy="expected a line of column names, and a line for each row")
    mark = max(",;\t", key=lines[0].count)
    header = [name.strip() for name in next(csv.reader(lines[:1], delimiter=mark))]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise error("column is there twice", where=path, key=twice, remedy="keep one")
    decimal = "," if mark != "," and any(re.search(r"\d,\d", line) for line in lines[1:]) else "."
    text.seek(0)
    try:
        table = pd.read_csv(text, comment="#", sep=mark, decimal=decimal)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as problem:
        raise error(f"not a CSV table ({problem})", where=path) from None
    for name in columns:
        if name not in table:
            raise error("column is missing", where=path, key=name, remedy=f"columns found: {', '.join(map(str, table.columns))}")
    return table


def numbers(table: pd.DataFrame, name: str, path: Path, error: type[DsimError] = DsimError, positive: bool = True, optional: bool = False) -> Floats:
    """A column of finite numbers, positive or at least 0; `optional` cells may be empty (NaN). Raises `error` with file, line and column."""
    import numpy as np  # not above: the command line reads this module for its help
    import pandas as pd

    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.isinf(values) | (values <= 0 if positive else values < 0) | (np.isnan(values) & (table[name].notna() | (not optional)))
    if wrong.any():
        row = int(wrong.argmax())
        problem = f"must be a {'positive number' if positive else 'number of at least 0'} (got {table[name].tolist()[row]!r})"
        raise error(problem, where=f"{path}:{line_of(path, row + 1, comment='#')}", key=name)
    return values


def line_of(path: Path, row: int, comment: str | None = None) -> int:
    """The line, counted from 1, of a file's row, counted from 0 with the header; empty lines and comments hold none."""
    with opened(path) as lines:
        rows = (number for number, line in enumerate(lines, 1) if line.strip() and not (comment and line.startswith(comment)))
        return next(islice(rows, row, None), 0)

"""Predictions of other tools for cells of a seal: a table of CSV or JSON, and how far off they were beside dsim's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat

from simulator.errors import DsimError
from simulator.reading.csv_files import numbers, place_of_row, read_csv
from simulator.reading.json_files import parse_json
from simulator.reading.opening import read_text
from simulator.study.run.record import Record, ShortText
from simulator.study.sealed.numbers import NUMBERS
from simulator.study.sealed.result import OtherTool, ScoredCell
from simulator.study.sealed.seal import Seal

COLUMNS = ("tool", "how", "condition", "policy", "load", "metric", "value")
MOST_ROWS = 100_000


class OtherPrediction(Record):
    """A prediction of another tool, and how it was asked."""

    tool: Annotated[ShortText, Field(min_length=1)]
    how: ShortText
    condition: ShortText
    policy: ShortText
    load: PositiveFloat
    metric: ShortText
    value: PositiveFloat


def read_others(path: Path, seal: Seal) -> list[OtherPrediction]:
    """Rows of a CSV, or objects of a JSON list, with COLUMNS. Raises DsimError with the place of a row that does not fit the seal."""
    rows = _json_rows(path) if path.suffix == ".json" else _csv_rows(path)
    if not 0 < len(rows) <= MOST_ROWS:
        raise DsimError(f"expected 1 to {MOST_ROWS:,} predictions, got {len(rows):,}", where=path, remedy=f"columns: {', '.join(COLUMNS)}")
    seen = set[OtherPrediction]()
    for where, row in rows:
        if (one := row.model_copy(update={"value": 1.0})) in seen:
            raise DsimError("is predicted twice", where=where, key=f"{row.condition}/{row.policy} at {row.load:g}", remedy="leave one out")
        seen.add(one)
        condition = seal.condition(row.condition)
        if condition is None or condition.cell(row.policy, row.load) is None:
            cell = f"{row.condition}/{row.policy} at {row.load:g}"[:80]
            raise DsimError(f"{cell} is not a cell of the seal", where=where, remedy="leave it out, or check its name")
        if row.metric not in NUMBERS:
            raise DsimError(f"unknown metric {row.metric[:40]!a}", where=where, key="metric", remedy=f"expected one of {', '.join(NUMBERS)}")
    return [row for _, row in rows]


def _csv_rows(path: Path) -> list[tuple[str, OtherPrediction]]:
    table = read_csv(path)
    if missing := next((name for name in COLUMNS if name not in table), None):
        raise DsimError("is missing", where=path, key=missing, remedy=f"columns: {', '.join(COLUMNS)}")
    loads, values = (numbers(table, name, path, positive=True) for name in ("load", "value"))
    texts = {name: table[name].fillna("").astype(str).str.strip().tolist() for name in COLUMNS if name not in ("load", "value")}
    found = []
    for row, (load, value) in enumerate(zip(loads.tolist(), values.tolist(), strict=True)):
        where = place_of_row(path, row)
        told = {name: column[row] for name, column in texts.items()} | {"load": load, "value": value}
        found.append((where, OtherPrediction.from_json(told, where, "check the row")))
    return found


def _json_rows(path: Path) -> list[tuple[str, OtherPrediction]]:
    rows = parse_json(read_text(path), path)
    if not isinstance(rows, list):
        raise DsimError("expected a list of objects", where=path, remedy=f"keys: {', '.join(COLUMNS)}")
    return [(f"{path}: {place}", OtherPrediction.from_json(row, f"{path}: {place}", "check the object")) for place, row in enumerate(rows)]


def compared(rows: Sequence[OtherPrediction], cells: Sequence[ScoredCell]) -> Iterator[OtherTool]:
    """Errors of every tool, way of asking and number, over the cells that were measured; dsim's over the same cells."""
    by: dict[tuple[str, str], list[ScoredCell]] = {}
    for cell in cells:
        by.setdefault((cell.condition, cell.policy), []).append(cell)
    errors: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for row in rows:
        match = next((c for c in by.get((row.condition, row.policy), ()) if abs(c.load / row.load - 1) < 1e-3), None)
        if match is not None and (number := match.numbers.get(row.metric)) is not None:
            pair = abs(row.value / number.measured - 1), abs(number.error)
            errors.setdefault((row.tool, row.how, row.metric, match.kind), []).append(pair)
    for (tool, how, metric, kind), pairs in errors.items():
        theirs, ours = zip(*pairs, strict=True)
        yield OtherTool(
            tool=tool, how=how, number=metric, kind=kind, cells=len(pairs), median=float(np.median(theirs)), worst=max(theirs),
            ours_median=float(np.median(ours)), ours_worst=max(ours),
        )  # fmt: skip

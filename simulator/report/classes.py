"""Classes of requests, as a table: how they ended, and how many kept what their class is promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from simulator.report import wording
from simulator.report.blocks import Column, Row, Table, grouped
from simulator.report.tables import without_empty
from simulator.study.run.classes import ENDINGS, ClassRow


def by_class(at: str, groups: Mapping[str, Sequence[tuple[str, Sequence[ClassRow]]]]) -> Table | None:
    """The classes of every group at what `at` counts; what nobody does has no column. None where there are no classes."""
    every = [row for points in groups.values() for _, rows in points for row in rows]
    if not every:
        return None
    endings = [name for name in (*ENDINGS, "retries") if any(getattr(row, name) for row in every)]
    columns: tuple[Column | str, ...] = (
        at, Column("class", words=True), Column("requests"), Column("within the SLA", "%"), Column("goodput", "req/s"),
        *(Column(name.replace("_", " ")) for name in endings), Column("TTFT\N{NO-BREAK SPACE}p90", "ms"), Column("TPOT\N{NO-BREAK SPACE}p90", "ms"),
    )  # fmt: skip
    cells = {group: [_cells(place, row, endings) for place, rows in points for row in rows] for group, points in groups.items()}
    slas = "; ".join(f"{name}, {sla}" for name, sla in {row.name: row.sla for row in every}.items())
    return without_empty(grouped("classes", f"By class: {slas}. Times are those of answers that came whole.", columns, cells.items()))


def _cells(place: str, row: ClassRow, endings: Sequence[str]) -> Row:
    kept = wording.plain(100 * row.good / row.requests if row.requests else None, 1)
    counts = (wording.plain(getattr(row, name), 0) for name in endings)
    times = (wording.plain(None if value is None else 1000 * value, 1) for value in (row.ttft_p90_s, row.tpot_p90_s))
    return (place, row.name, wording.plain(row.requests, 0), kept, wording.plain(row.goodput_rps, 2), *counts, *times)

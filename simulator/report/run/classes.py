"""Classes of requests, as a table: how they ended, and how many kept what their class is promised."""

from __future__ import annotations

from simulator.report import wording
from simulator.report.blocks import Column, Row, Table, grouped
from simulator.report.tables import without_empty
from simulator.study.run.result import RunResult


def table_of(result: RunResult) -> Table:
    """Every class of every policy at every load; what nobody does has no column."""
    groups: dict[str, list[Row]] = {}
    endings = [name for name in ("left", "stopped", "timed_out", "retries") if any(getattr(row, name) for p in result.frontier for row in p.classes)]
    for point in result.frontier:
        for row in point.classes:
            kept = wording.plain(100 * row.good / row.requests if row.requests else None, 1)
            counts = (wording.plain(getattr(row, name), 0) for name in endings)
            times = (wording.plain(None if value is None else 1000 * value, 1) for value in (row.ttft_p90_s, row.tpot_p90_s))
            cells = (wording.load(point.load), row.name, wording.plain(row.requests, 0), kept, wording.plain(row.goodput_rps, 2), *counts, *times)
            groups.setdefault(point.policy, []).append(cells)
    columns: tuple[Column | str, ...] = (
        "load", Column("class", words=True), Column("requests"), Column("within the SLA", "%"), Column("goodput", "req/s"),
        *(Column(name.replace("_", " ")) for name in endings), Column("TTFT\N{NO-BREAK SPACE}p90", "ms"), Column("TPOT\N{NO-BREAK SPACE}p90", "ms"),
    )  # fmt: skip
    slas = {row.name: row.sla for point in result.frontier for row in point.classes}
    title = "By class: " + "; ".join(f"{name}, {sla}" for name, sla in slas.items()) + ". Times are those of answers that came whole."
    return without_empty(grouped("classes", title, columns, groups.items()))

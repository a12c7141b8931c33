"""Where the tokens of prompts came from, as a table; and which points a picture of it shows."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report import wording
from simulator.report.blocks import Column, Row, Table, grouped
from simulator.report.run.carried import highest_carried
from simulator.report.tables import without_empty
from simulator.study.run.result import PointResult, RunResult
from simulator.study.run.reuse import TURNS, ReuseRow


def table_of(result: RunResult) -> Table:
    """Where the tokens of prompts came from, by turn, of every policy at the load of the pictures."""
    groups: dict[str, list[Row]] = {}
    names = dict(zip(TURNS, turn_names(), strict=True))
    for point in told(result):
        for row in rows_by(point, "turn"):
            shares = (wording.plain(100 * part / row.prompt, 1) for part in (row.cached, row.lost, row.withheld, row.prompt - row.said))
            cells = (names[int(row.start)], wording.plain(row.requests, 0), wording.plain(row.prompt / row.requests, 0), *shares)
            groups.setdefault(point.policy, []).append((*cells, wording.plain(1000 * row.ttft_s / row.requests, 0)))
    columns = (
        "turn", Column("requests"), Column("prompt", "tokens"), Column("from the cache", "%"), Column("evicted or elsewhere", "%"),
        Column("withheld", "%"), Column("new", "%"), Column("TTFT, mean", "ms"),
    )  # fmt: skip
    title = (
        "Where prompts came from, by turn: what was said before and is in the cache, was and is not, or is of no use to it; the rest is new in the "
        "session, and may be in the cache of other sessions."
    )
    return without_empty(grouped("reuse", title, columns, groups.items()))


def told(result: RunResult) -> list[PointResult]:
    """The points of the highest load at which no policy is overloaded, else of the lowest, as far as they say where prompts came from."""
    known = [point for point in result.frontier if point.reuse]
    at = highest_carried(result, {point.load for point in known})
    return [point for point in known if point.load == at]


def rows_by(point: PointResult, by: str) -> list[ReuseRow]:
    """Its groups, of turns or of times."""
    return [row for row in point.reuse if row.by == by]


def turn_names() -> Sequence[str]:
    """`1`, `2`, `3–4`, … as people count."""
    ends = [*(after for after in TURNS[1:]), None]
    pairs = zip(TURNS, ends, strict=True)
    return [f"{first + 1}+" if end is None else str(end) if end == first + 1 else f"{first + 1}–{end}" for first, end in pairs]

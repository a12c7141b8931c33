"""Tables and cells that pages of several kinds have."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Group, Table
from simulator.report.wording import DASH
from simulator.study.run.result import Estimate, Source, ValidationRow


def estimated(estimate: Estimate | None, decimals: int | None = None) -> Cell:
    """A mean and, below it, its interval."""
    if estimate is None:
        return Cell(DASH)
    width = (estimate.high or 0) - (estimate.low or 0)
    return Cell(wording.plain(estimate.mean, decimals), wording.bounds(estimate, decimals) if width > 0 else "")


def provenance(rows: Sequence[Source]) -> Table:
    """Where every table of the profile comes from."""
    columns = tuple(Column(title, words=True) for title in ("table", "provenance", "source", "note"))
    cells = tuple((Cell(row.table), Cell(row.provenance, kind="provenance"), Cell(row.source), Cell(row.note)) for row in rows)
    return Table("provenance", "Where every table of the profile comes from.", columns, (Group("", cells),))


def validation(rows: Sequence[ValidationRow], known: str = "published") -> Table:
    """Simulated against what is known."""
    cells = []
    for row in rows:
        *shown, limit, verdict = wording.validation_cells(row)
        compared = [Cell(text) for text in shown] + [Cell(limit, verdict, kind=verdict)]
        cells.append((Cell(row.what + _aside(row)), *compared, Cell(row.policy or ""), Cell(wording.plain(row.n, 0))))
    title = f"Simulated against {known}. Curves: rms of relative differences over the simulated loads. Gains: difference in percentage points."
    numbers = (Column(title) for title in ("simulated", known, "difference", "limit"))
    columns = (Column("what", words=True), *numbers, Column("policy", words=True), Column("n", spare=True))
    return without_empty(Table("validation", title, columns, (Group("", tuple(cells)),)), ("", DASH))


def _aside(row: ValidationRow) -> str:
    """What else a row's name must say."""
    apart = row.mean_absolute_difference
    return " (was fitted to)" * row.fitted + (f" ({wording.plain(apart)} apart on average)" if apart is not None else "")


def without_empty(table: Table, nothing: tuple[str, ...] = ("",)) -> Table:
    """Without the columns that say nothing in any row."""
    rows = [row for group in table.groups for row in group.rows]
    return table.cut([i for i in range(len(table.columns)) if any(row[i].text not in nothing for row in rows)])

"""Tables and cells that pages of several kinds have."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Row, Table, table
from simulator.report.wording import DASH
from simulator.study.run.facts import Source
from simulator.study.run.result import Estimate, Range
from simulator.study.run.validated import ValidationRow


def estimated(estimate: Estimate | None, decimals: int | None = None, prediction: Range | None = None) -> Cell:
    """A mean and, below it, its simulation noise and in brackets its prediction interval."""
    if estimate is None:
        return Cell(DASH)
    width = (estimate.high or 0) - (estimate.low or 0)
    noise = wording.bounds(estimate, decimals) if width > 0 else ""
    return Cell(wording.plain(estimate.mean, decimals), noise, more=wording.predicted(prediction, decimals))


def provenance(rows: Sequence[Source]) -> Table:
    """Where every table of the profile comes from."""
    cells = ((row.table, Cell(row.provenance, kind="provenance"), row.source, row.note) for row in rows)
    return table("provenance", "Where every table of the profile comes from.", ("table", "provenance", "source", "note"), cells, words=4)


def validation(rows: Sequence[ValidationRow], known: str = "published") -> Table:
    """Simulated against what is known."""
    cells: list[Row] = []
    for row in rows:
        *shown, limit, verdict = wording.validation_cells(row)
        apart = row.mean_absolute_difference
        aside = " (was fitted to)" * row.fitted + (f" ({wording.plain(apart)} apart on average)" if apart is not None else "")
        cells.append([row.what + aside, *shown, Cell(limit, verdict, kind=verdict), row.policy or "", wording.plain(row.n, 0)])
    title = f"Simulated against {known}. Curves: rms of relative differences over the simulated loads. Gains: difference in percentage points."
    columns = ("what", "simulated", known, "difference", "limit", Column("policy", words=True), Column("n", spare=True))
    return without_empty(table("validation", title, columns, cells), ("", DASH))


def without_empty(whole: Table, nothing: tuple[str, ...] = ("",)) -> Table:
    """Without the columns that say nothing in any row."""
    rows = [row for group in whole.groups for row in group.rows]
    return whole.cut([i for i in range(len(whole.columns)) if any(row[i].text not in nothing for row in rows)])

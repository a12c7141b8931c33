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


def validation(rows: Sequence[ValidationRow]) -> Table:
    """Simulated against published."""
    numbers = tuple(Column(title) for title in ("simulated", "published", "difference", "limit"))
    cells = []
    for row in rows:
        *shown, limit, verdict = wording.validation_cells(row)
        compared = [Cell(text) for text in shown] + [Cell(limit, verdict, kind=verdict)]
        cells.append((Cell(row.what), *compared, Cell(row.policy or DASH), Cell(wording.plain(row.n, 0))))
    title = "Simulated against published. Curves: rms of relative differences over the simulated loads. Gains: difference in percentage points."
    columns = (Column("what", words=True), *numbers, Column("policy", words=True), Column("n", spare=True))
    return Table("validation", title, columns, (Group("", tuple(cells)),))

"""Pages and pictures of `dsim validate --silicon`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.files import whole
from simulator.report.blocks import Table, table
from simulator.report.page import Page, section
from simulator.report.tables import validation
from simulator.report.wording import percent
from simulator.study.validation.silicon.result import Errors, SiliconComparison

if TYPE_CHECKING:
    from simulator.study.validation.silicon.result import Pair

_HEADS = ("runs", "TPOT: median error", "nine of ten below", "median with its sign", "the package's own", "TTFT: median error", "nine of ten below",
          "median with its sign", "the package's own")  # fmt: skip


def silicon_page(found: SiliconComparison) -> Page:
    """What the command shows."""
    parts = (
        section("limits", "Limits", validation(found.rows, "measured")),
        *(section(part.name, part.caption, part) for part in silicon_tables(found)),
    )
    return Page("Real runs, predicted from kernel times", "dsim validate", "", "", tuple(part for part in parts if part))


def silicon_tables(found: SiliconComparison) -> Iterator[Table]:
    """Errors in all, by engine and series, group, concurrency and lengths; what was fitted, and what was left out."""
    yield _errors("judged", "All judged runs", "", found.all_judged)
    yield _errors("engines", "By engine and major version", "engine", found.engines)
    yield _errors("groups", "By group", "group", found.groups)
    yield _errors("concurrency", "By concurrency", "concurrency", found.concurrencies)
    yield _errors("lengths", "By lengths (of ten runs or more)", "tokens", found.lengths)
    added = [(one.engine, one.major, f"{one.host_s * 1e3:.1f} ms", f"{one.collective:g}", f"{one.frontend_s * 1e3:.0f} ms") for one in found.added]
    yield table("added", "Fitted on the other half", ("engine", "version", "host, per step", "collectives times", "front end"), added)
    yield table("left-out", "Left out", ("group", "why", "runs"), [(one.group, one.why, str(one.runs)) for one in found.left_out])


def _errors(name: str, caption: str, head: str, rows: Sequence[Errors]) -> Table:
    return table(name, caption, (head, *_HEADS), [(row.name, str(row.runs), *_cells(row)) for row in rows])


def _cells(row: Errors) -> tuple[str, ...]:
    sizes = (
        row.tpot_median,
        row.tpot_p90,
        row.tpot_middle,
        row.static_tpot_median,
        row.ttft_median,
        row.ttft_p90,
        row.ttft_middle,
        row.static_ttft_median,
    )
    return tuple(percent(size, 1, signed=number in (2, 6)) for number, size in enumerate(sizes))


def write_picture(pairs: Sequence[Pair], path: Path) -> None:
    """Predicted against measured TPOT and TTFT on logarithmic axes, a colour for each model."""
    from simulator.report.validation.plots import silicon_dots

    with whole(path) as draft:
        silicon_dots(pairs).savefig(draft, dpi=150)

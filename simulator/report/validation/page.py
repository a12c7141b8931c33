"""docs/validation.md and the README's headline table, from result files of comparisons: `python -m simulator.report.validation.page`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.reading.json_files import read_json
from simulator.reading.opening import read_text
from simulator.report import wording
from simulator.report.blocks import Cell, Code, Lines, Prose, Row, Table, Text, table
from simulator.report.page import Page, Section, section
from simulator.report.render.markdown import markdown
from simulator.report.render.markdown import table as table_lines
from simulator.report.tables import validation
from simulator.report.validation.silicon import silicon_tables
from simulator.report.wording import DASH, percent, plain
from simulator.study.run.validated import ValidationPoint, ValidationRow
from simulator.study.validation.result import Comparison, Fit
from simulator.study.validation.silicon.result import SiliconComparison


def compared_page(title: str, rows: Sequence[ValidationRow]) -> Page:
    """What `dsim validate` shows of one comparison."""
    shown = section("published", "Compared with published results", validation(rows))
    return Page(title, "dsim validate", "", "", (shown,) if shown else ())


@dataclass(frozen=True)
class Entry:
    """A comparison, the picture beside its file, and what NAME.md there says of its misses."""

    comparison: Comparison
    picture: str = ""
    reading: str = ""


def read_results(folder: Path) -> list[Entry]:
    """Result files of a folder, in order of their names. Raises DsimError where there are none or one is broken."""
    remedy = "run dsim validate --published again"
    results = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path, remedy=remedy)
        kind = SiliconComparison if "left_out" in content else Comparison
        comparison = kind.from_json(content, path, remedy)
        reading, picture = path.with_suffix(".md"), path.with_suffix(".png")
        misses = read_text(reading).strip() if reading.is_file() else ""
        results.append(Entry(comparison, picture.name if picture.is_file() else "", misses))
    if not results:
        raise DsimError("holds no result files", where=folder, remedy="run dsim validate --published")
    return results


def headline(results: Sequence[Entry], file: str = "docs/validation.md") -> Table:
    """A line for each comparison: what, median and worst error over its cells, how many of them the prediction interval holds and how wide it is
    in the median (half of it, over the number), limits kept. `file` is what its links point into."""
    rows: list[Row] = []
    for result in (entry.comparison for entry in results):
        errors = cell_errors(result)
        judged = [row.ok for row in result.rows if row.ok is not None]
        kept = f"{sum(judged)} of {len(judged)}" if judged else "none set"
        shares = (percent(float(share(errors)), 1, signed=False) if errors else DASH for share in (np.median, np.max))
        name = Cell(f"{result.name}: {wording.short('; '.join(result.sources), 90)}", link=f"{file}#{anchor(result.name)}")
        rows.append([name, str(len(errors)), *shares, *held(result), kept])
    heads = ("compared with", "cells not fitted", "median error", "worst", "in the 90 % prediction interval", "its half width", "limits kept")
    return table("headline", "", heads, rows)


def held(result: Comparison) -> tuple[str, str]:
    """Of the cells that were not fitted and have a prediction interval: how many it holds, and its half width in the median."""
    cells = [point for point in result.points if not point.fitted and point.held is not None]
    if not cells:
        return DASH, DASH
    half = float(np.median([(p.prediction[1] - p.prediction[0]) / 2 / p.simulated for p in cells if p.prediction and p.simulated]))
    return f"{sum(bool(p.held) for p in cells)} of {len(cells)}", f"±{percent(half, 1, signed=False)}"


def anchor(name: str) -> str:
    """The link to a heading, as Markdown readers make it."""
    return name.lower().replace(".", "")


def cell_errors(result: Comparison) -> list[float]:
    """Relative errors of what was not fitted: cells of curves and sweeps (those of its headline, where it has one), gains (as ratios), values."""
    if result.cells:
        return [abs(error) for error in result.cells]
    if result.headline is not None:
        return [abs(point.difference) for point in result.points if point.metric in result.headline and point.difference is not None]
    rows = [row for row in result.rows if not row.fitted]
    differences = [*(point.difference for point in result.points if not point.fitted), *(row.difference for row in rows if row.unit == "value")]
    values = [abs(difference) for difference in differences if difference is not None]
    gains = [abs((1 + r.simulated) / (1 + r.published) - 1) for r in rows if r.unit == "gain" and r.simulated is not None and r.published is not None]
    return values + gains


def page(results: Sequence[Entry], not_compared: str) -> Page:
    """All of docs/validation.md; `not_compared` says what was published and is left out, and why."""
    made = (
        "Made by `make validation` from the result files in [validation/](validation); do not edit. Each comparison says what it was given and how "
        "it was run. What was used to fit is not counted as evidence."
    )
    parts = [section("summary", "Summary", Prose(made), headline(results, file="")), *map(_comparison, results)]
    parts.append(section("not-compared", "What is not compared", Prose(not_compared.strip())))
    return Page("How far off is it?", "docs", "validation", "", tuple(part for part in parts if part))


def _comparison(entry: Entry) -> Section | None:
    result, known = entry.comparison, entry.comparison.compared_with
    provenance = [f"{source.table}: {source.provenance}" for source in result.provenance]
    return section(
        anchor(result.name),
        result.name,
        Text(result.title),
        Text(f"{result.system}. Source: {'; '.join(result.sources)}."),
        Code(result.command, "Command"),
        replace(validation(result.rows, known), caption=""),
        *_points(result.points, known),
        *(silicon_tables(result) if isinstance(result, SiliconComparison) else ()),
        Prose(f"![simulated and {known}](validation/{entry.picture})") if entry.picture else None,
        Prose(f"Where it misses, and why: {entry.reading}") if entry.reading else None,
        Lines(result.conditions, "Conditions"),
        Lines(result.assumed, "Assumed"),
        Lines(result.not_identifiable, "Not identifiable from this data"),
        Text(f"Provenance: {'; '.join(provenance)}.") if provenance else None,
        *(_fit(name, fit) for name, fit in result.fits.items()),
    )


def _fit(name: str, fit: Fit) -> Text:
    values = [f"{key} {value:.4g} s" for group in (fit.verify, fit.prefill) for key, value in group.items()]
    return Text(f"{name[0].upper()}{name[1:]}: {', '.join(values)}; {percent(fit.left_over, 2, signed=False)} of all tokens left over (rms).")


def _points(points: Sequence[ValidationPoint], known: str) -> Iterator[Table]:
    """A table of each metric: policies down, loads across; simulated, known and difference in a cell, an asterisk where it was fitted to."""
    fitted = "; * was fitted to" if any(p.fitted for p in points) else ""
    fitted += "; ! outside of the 90 % prediction interval" if any(p.held is False and not p.fitted for p in points) else ""
    for metric, source in dict.fromkeys((p.metric, p.table) for p in points):
        mine = [p for p in points if (p.metric, p.table) == (metric, source)]
        loads = sorted({p.load for p in mine}, key=lambda load: (isinstance(load, str), load))
        heads = ("at load", *(load if isinstance(load, str) else f"{load:g}" for load in loads))
        rows = []
        for policy in dict.fromkeys(p.policy for p in mine):
            cells = {p.load: _cell(p) for p in mine if p.policy == policy}
            rows.append((policy, *(cells.get(load, DASH) for load in loads)))
        yield table(metric, f"{metric} (simulated / {known}, difference{fitted}):", heads, rows)


def _cell(point: ValidationPoint) -> str:
    """Simulated / published, difference; an asterisk where it was fitted to, an exclamation mark outside of the prediction interval."""
    marks = "*" * point.fitted + "!" * (point.held is False and not point.fitted)
    return f"{plain(point.simulated)} / {plain(point.published)}, {percent(point.difference, 1)}{marks}"


def with_headline(readme: str, table: str, mark: str = "validation") -> str:
    """The README with the table, or the lines, between the marks of that name. Raises DsimError where the marks are gone."""
    marks = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, begin, rest = readme.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise DsimError(f"has no {' … '.join(marks)}", where="README.md", remedy="put the marks back")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(results: Path = Path("docs/validation"), out: Path = Path("docs/validation.md"), readme: Path = Path("README.md")) -> None:
    """Write the page, and the table into the README."""
    comparisons = read_results(results)
    made = with_headline(read_text(readme), table_lines(headline(comparisons)))
    write_whole(out, markdown(page(comparisons, read_text(results / "not_compared.md"))))
    write_whole(readme, made)


if __name__ == "__main__":
    main()

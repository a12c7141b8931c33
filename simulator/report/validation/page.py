"""docs/validation.md and the README's headline table, from result files of comparisons: `python -m simulator.report.validation.page`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.report import wording
from simulator.report.blocks import Cell, Code, Column, Group, Lines, Prose, Table, Text, listed
from simulator.report.page import Page, Section, section
from simulator.report.render.markdown import markdown
from simulator.report.render.markdown import table as table_lines
from simulator.report.tables import validation
from simulator.report.wording import DASH, percent, plain
from simulator.study.run.result import ValidationRow

Row = dict[str, Any]
BEGIN, END = "<!-- validation: begin -->", "<!-- validation: end -->"


def compared_page(title: str, rows: Sequence[ValidationRow]) -> Page:
    """What `dsim validate` shows of one comparison."""
    shown = section("published", "Compared with published results", validation(rows))
    return Page(title, "dsim validate", "", "", (shown,) if shown else ())


def read_results(folder: Path) -> list[Row]:
    """Result files of a folder, in order of their names, each with what NAME.md beside it says of its misses. Raises DsimError
    where there are none or one is broken."""
    results: list[Row] = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise DsimError(f"not JSON ({problem})", where=path, remedy="run dsim validate --published again") from None
        missing = {"name", "title", "command", "rows", "points"} - set(content if isinstance(content, dict) else {})
        if missing:
            raise DsimError("is missing", where=path, key=sorted(missing)[0], remedy="run dsim validate --published again")
        reading = path.with_suffix(".md")
        picture = {"picture": path.with_suffix(".png").name} if path.with_suffix(".png").is_file() else {}
        results.append(content | picture | ({"reading": reading.read_text(encoding="utf-8").strip()} if reading.is_file() else {}))
    if not results:
        raise DsimError("holds no result files", where=folder, remedy="run dsim validate --published")
    return results


def headline(results: Sequence[Row], file: str = "docs/validation.md") -> Table:
    """A line for each comparison: what, median and worst error over its cells, limits kept. `file` is what its links point into."""
    rows = []
    for result in results:
        errors = cell_errors(result)
        judged = [row["ok"] for row in result["rows"] if row.get("ok") is not None]
        kept = f"{sum(judged)} of {len(judged)}" if judged else "none set"
        shares = (percent(float(share(errors)), 1, signed=False) if errors else DASH for share in (np.median, np.max))
        name = Cell(headline_name(result), link=f"{file}#{anchor(result)}")
        rows.append((name, *(Cell(text) for text in (str(len(errors)), *shares, kept))))
    columns = (Column("compared with", words=True), *(Column(title) for title in ("cells not fitted", "median error", "worst", "limits kept")))
    return Table("headline", "", columns, (Group("", tuple(rows)),))


def headline_name(result: Row) -> str:
    """The system and where the numbers are from, short."""
    return f"{result['name']}: {wording.short('; '.join(result['sources']), 90)}"


def anchor(result: Row) -> str:
    """The link to a comparison's heading, as Markdown readers make it."""
    return str(result["name"]).lower().replace(".", "")


def cell_errors(result: Row) -> list[float]:
    """Relative errors of what was not fitted: cells of curves and sweeps (those of its headline, where it has one), gains (as ratios), values."""
    if "headline" in result:
        return [abs(cell["difference"]) for cell in result["points"] if cell["metric"] in result["headline"] and cell["difference"] is not None]
    cells = [cell for cell in (*result["points"], *result["rows"]) if not cell.get("fitted") and cell.get("difference") is not None]
    values = [abs(cell["difference"]) for cell in cells if cell.get("unit", "value") == "value"]
    gains = [abs((1 + row["simulated"]) / (1 + row["published"]) - 1) for row in cells if row.get("unit") == "gain"]
    return values + gains


def page(results: Sequence[Row], not_compared: str) -> Page:
    """All of docs/validation.md; `not_compared` says what was published and is left out, and why."""
    made = (
        "Made by `make validation` from the result files in [validation/](validation); do not edit. Each comparison says what it was given and how "
        "it was run. What was used to fit is not counted as evidence."
    )
    parts = [section("summary", "Summary", Prose(made), headline(results, file="")), *map(_comparison, results)]
    parts.append(section("not-compared", "What is not compared", Prose(not_compared.strip())))
    return Page("How far off is it?", "docs", "validation", "", tuple(part for part in parts if part))


def _comparison(result: Row) -> Section | None:
    known, reading, picture = result.get("compared_with", "published"), result.get("reading"), result.get("picture")
    provenance = [f"{row['table']}: {row['provenance']}" for row in result.get("provenance") or []]
    return section(
        anchor(result),
        result["name"],
        Text(result["title"]),
        Text(f"{result['system']}. Source: {'; '.join(result['sources'])}."),
        Code(result["command"], "Command"),
        _limits(result["rows"]) if "headline" in result else _rows(result["rows"], known),
        *_points(result["points"], known),
        Prose(f"![simulated and {known} frontier](validation/{picture})") if picture else None,
        Prose(f"Where it misses, and why: {reading}") if reading else None,
        Lines(tuple(result.get("conditions") or ()), "Conditions"),
        Lines(tuple(result.get("assumed") or ()), "Assumed"),
        Lines(tuple(result.get("not_identifiable") or ()), "Not identifiable from this data"),
        Text(f"Provenance: {'; '.join(provenance)}.") if provenance else None,
        *(_fit(name, fit) for name, fit in (result.get("fits") or {}).items()),
    )


def _fit(name: str, fit: Row) -> Text:
    values = [f"{key} {value:.4g} s" for group in ("verify", "prefill") for key, value in fit[group].items()]
    return Text(f"{name[0].upper()}{name[1:]}: {', '.join(values)}; {percent(fit['left_over'], 2, signed=False)} of all tokens left over (rms).")


def _limits(rows: Sequence[Row]) -> Table:
    cells = ((row["what"], *wording.validation_cells(ValidationRow.from_json(row))[2:]) for row in rows)
    return listed("limits", "", ("what", "difference", "limit", ""), cells)


def _rows(rows: Sequence[Row], known: str) -> Table:
    cells = ((f"{row['what']}{_aside(row)}", *wording.validation_cells(ValidationRow.from_json(row))) for row in rows)
    return listed("rows", "", ("what", "simulated", known, "difference", "limit", ""), cells)


def _aside(row: Row) -> str:
    """What else a row's name must say."""
    apart = row.get("mean_absolute_difference")
    return " (was fitted to)" * bool(row.get("fitted")) + (f" ({plain(apart)} apart on average)" if apart is not None else "")


def _points(points: Sequence[Row], known: str) -> Iterator[Table]:
    """A table of each metric: policies down, loads across; simulated, known and difference in a cell, an asterisk where it was fitted to."""
    fitted = "; * was fitted to" if any(p.get("fitted") for p in points) else ""
    for metric, table in dict.fromkeys((p["metric"], p["table"]) for p in points):
        mine = [p for p in points if (p["metric"], p["table"]) == (metric, table)]
        loads = sorted({p["load"] for p in mine}, key=lambda load: (isinstance(load, str), load))
        heads = ("at load", *(load if isinstance(load, str) else f"{load:g}" for load in loads))
        rows = []
        for policy in dict.fromkeys(p["policy"] for p in mine):
            cells = {p["load"]: _cell(p) for p in mine if p["policy"] == policy}
            rows.append((policy, *(cells.get(load, DASH) for load in loads)))
        yield listed(metric, f"{metric} (simulated / {known}, difference{fitted}):", heads, rows)


def _cell(point: Row) -> str:
    """Simulated / published, difference; an asterisk where it was fitted to."""
    return f"{plain(point['simulated'])} / {plain(point['published'])}, {percent(point['difference'], 1)}{'*' * bool(point.get('fitted'))}"


def with_headline(readme: str, table: str) -> str:
    """The README with the table between its marks. Raises DsimError where the marks are gone."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DsimError(f"has no {BEGIN} … {END}", where="README.md", remedy="put the marks back")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(results: Path = Path("docs/validation"), out: Path = Path("docs/validation.md"), readme: Path = Path("README.md")) -> None:
    """Write the page, and the table into the README."""
    comparisons = read_results(results)
    write_whole(out, markdown(page(comparisons, (results / "not_compared.md").read_text(encoding="utf-8"))))
    write_whole(readme, with_headline(readme.read_text(encoding="utf-8"), table_lines(headline(comparisons))))


if __name__ == "__main__":
    main()

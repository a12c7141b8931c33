"""docs/validation.md and the README's headline table, from result files of comparisons: `python -m simulator.report.validation_page`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.report import wording
from simulator.report.wording import percent, plain

Row = dict[str, Any]
BEGIN, END = "<!-- validation: begin -->", "<!-- validation: end -->"


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


def headline(results: Sequence[Row]) -> str:
    """A line for each comparison: what, median and worst error over its cells, limits kept."""
    lines = ["| compared with | cells not fitted | median error | worst | limits kept |", "|---|---|---|---|---|"]
    for result in results:
        errors = cell_errors(result)
        judged = [row["ok"] for row in result["rows"] if row.get("ok") is not None]
        kept = f"{sum(judged)} of {len(judged)}" if judged else "none set"
        found = (percent(float(f(errors)), 1, signed=False) for f in (np.median, np.max)) if errors else ("–", "–")
        lines.append(f"| [{headline_name(result)}](docs/validation.md#{anchor(result)}) | {len(errors)} | {' | '.join(found)} | {kept} |")
    return "\n".join(lines)


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


def page(results: Sequence[Row], not_compared: str) -> str:
    """All of docs/validation.md; `not_compared` says what was published and is left out, and why."""
    parts = [
        "# How far off is it?",
        "Made by `make validation` from the result files in [validation/](validation); do not edit. Each comparison says what it was told and how it "
        "was run; what was used to fit is not counted as evidence.",
        headline(results).replace("(docs/validation.md#", "(#"),
    ]
    parts += [section(result) for result in results]
    parts += ["## What is not compared", not_compared.strip()]
    return "\n\n".join(parts) + "\n"


def section(result: Row) -> str:
    """One comparison."""
    parts = [f"## {result['name']}", f"{result['title']}\n\n{result['system']}. Source: {'; '.join(result['sources'])}."]
    parts.append(f"    {result['command']}")
    known = result.get("compared_with", "published")
    parts.append(_limits_table(result["rows"]) if "headline" in result else _rows_table(result["rows"], known))
    if result["points"]:
        parts.append(_points_table(result["points"], known))
    if "picture" in result:
        parts.append(f"![simulated and {known} frontier](validation/{result['picture']})")
    if "reading" in result:
        parts.append(f"Where it misses, and why: {result['reading']}")
    told = [("Conditions", result.get("conditions")), ("Assumed", result.get("assumed")), ("Not known from the data", result.get("not_identifiable"))]
    parts += [f"{title}:\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in told if lines]
    provenance = [f"{row['table']}: {row['provenance']}" for row in result.get("provenance") or []]
    if provenance:
        parts.append("Provenance: " + "; ".join(provenance) + ".")
    for name, fit in (result.get("fits") or {}).items():
        values = [f"{key} {value:.4g} s" for group in ("verify", "prefill") for key, value in fit[group].items()]
        parts.append(f"{name[0].upper()}{name[1:]}: {', '.join(values)}; {percent(fit['left_over'], 2, signed=False)} of all tokens left over (rms).")
    return "\n\n".join(parts)


def _limits_table(rows: Sequence[Row]) -> str:
    lines = ["| what | | limit | |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {row['what']} | {' | '.join(wording.validation_cells(row)[2:])} |" for row in rows])


def _rows_table(rows: Sequence[Row], known: str) -> str:
    lines = [f"| what | simulated | {known} | difference | limit | |", "|---|---|---|---|---|---|"]
    lines += [f"| {row['what']}{_aside(row)} | {' | '.join(wording.validation_cells(row))} |" for row in rows]
    return "\n".join(lines)


def _aside(row: Row) -> str:
    """What else a row's name must say."""
    apart = row.get("mean_absolute_difference")
    return " (was fitted to)" * bool(row.get("fitted")) + (f" ({plain(apart)} apart on average)" if apart is not None else "")


def _points_table(points: Sequence[Row], known: str) -> str:
    """Policies down, loads across: simulated, published and difference in a cell."""
    blocks = []
    fitted = "; \\* was fitted to" if any(p.get("fitted") for p in points) else ""
    for metric in dict.fromkeys((p["metric"], p["table"]) for p in points):
        mine = [p for p in points if (p["metric"], p["table"]) == metric]
        loads = sorted({p["load"] for p in mine}, key=lambda load: (isinstance(load, str), load))
        lines = [
            f"{metric[0]} (simulated / {known}, difference{fitted}):\n",
            "| at load | " + " | ".join(load if isinstance(load, str) else f"{load:g}" for load in loads) + " |",
            "|---" * (len(loads) + 1) + "|",
        ]
        for policy in dict.fromkeys(p["policy"] for p in mine):
            cells = {p["load"]: _cell(p) for p in mine if p["policy"] == policy}
            lines.append(f"| {policy} | " + " | ".join(cells.get(load, "–") for load in loads) + " |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _cell(point: Row) -> str:
    """Simulated / published, difference; an asterisk where it was fitted to."""
    return f"{plain(point['simulated'])} / {plain(point['published'])}, {percent(point['difference'], 1)}" + ("\\*" if point.get("fitted") else "")


def with_headline(readme: str, table: str) -> str:
    """The README with the table between its marks. Raises DsimError where the marks are gone."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DsimError(f"has no {BEGIN} … {END}", where="README.md", remedy="put the marks back")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main(results: Path = Path("docs/validation"), out: Path = Path("docs/validation.md"), readme: Path = Path("README.md")) -> None:
    """Write the page, and the table into the README."""
    found = read_results(results)
    write_whole(out, page(found, (results / "not_compared.md").read_text(encoding="utf-8")))
    write_whole(readme, with_headline(readme.read_text(encoding="utf-8"), headline(found)))


if __name__ == "__main__":
    main()

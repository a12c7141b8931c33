"""Two profiles side by side, for `dsim profile diff`: what they were measured on, costs, accepted lengths, temperatures."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from simulator.report import wording
from simulator.report.blocks import Terms, table
from simulator.report.page import Notice, Page, Section, section, sections

Compared = Mapping[str, Any]  # what measurements.agreement.compare_profiles gives
WORST = 3  # cells shown of each table


def diff_page(compared: Compared) -> Page:
    marked = {side.upper(): len(compared["suspicious"][side]) for side in ("a", "b")}
    notices = (Notice(f"{count} suspicious in {side}: see `dsim profile show`") for side, count in marked.items() if count)
    return Page(
        title=f"Profile {compared['b']['name']} against {compared['a']['name']}",
        kind="dsim profile diff",
        name="",
        version=version("dsim"),
        sections=sections(SECTIONS, compared),
        answer=(compared["verdict"],),
        notices=tuple(notices),
    )


def _measured_on(compared: Compared) -> Section | None:
    sides = tuple((side.upper(), f"{compared[side]['name']} ({compared[side]['folder']})") for side in ("a", "b"))
    rows = [(row["what"], row["a"], row["b"]) for row in compared["measured_on"]]
    return section("measured-on", "Measured on", Terms(sides), table("differences", "What differs.", ("what", "A", "B"), rows, words=3))


def _costs(compared: Compared) -> Section | None:
    columns = ("table", "cells", "median", "p90", "B / A", "ranges apart", "only A", "only B")
    tables = table("tables", "Relative differences of cells.", columns, [_table_row(t) for t in compared["tables"]])
    worst = [(t["table"], *_cell_row(cell)) for t in compared["tables"] for cell in t["worst"][:WORST]]
    cells = table("worst-cells", "The cells that differ most.", ("table", "at", "A, ms", "B, ms", "B against A"), worst, words=2)
    numbers = [(n["what"], wording.plain(n["a"]), wording.plain(n["b"])) for n in compared["numbers"] if n["a"] != n["b"]]
    return section("costs", "Costs", tables, cells, table("numbers", "Other numbers that differ.", ("number", "A", "B"), numbers))


def _acceptance(compared: Compared) -> Section | None:
    lengths = [
        (r["drafter"], r["domain"], _with_error(r, "a"), _with_error(r, "b"), wording.DASH if r["z"] is None else wording.plain(r["z"], 1))
        for r in compared["accepted_lengths"]
    ]
    columns = ("drafter", "domain", "A ± standard error", "B ± standard error", "z")
    temperatures = [(t["drafter"], *(" ".join(f"{x:.2f}" for x in t[side]) for side in ("a", "b"))) for t in compared["temperatures"]]
    return section(
        "acceptance",
        "Acceptance",
        table("lengths", "Accepted length.", columns, lengths, words=2),
        table("temperatures", "Calibration temperatures by position.", ("drafter", "A", "B"), temperatures, words=3),
    )


SECTIONS = (_measured_on, _costs, _acceptance)


def _table_row(t: Mapping[str, Any]) -> tuple[str, ...]:
    shares = (wording.percent(t[key], 1, signed=False) for key in ("median_difference", "p90_difference"))
    ratio = wording.plain(t["median_ratio"], 3)
    apart = f"{t['ranges_apart']} of {t['with_ranges']}" if t["with_ranges"] else wording.DASH
    return (t["table"], str(t["cells"]), *shares, ratio, apart, str(len(t["only_in_a"])), str(len(t["only_in_b"])))


def _cell_row(cell: Mapping[str, Any]) -> tuple[str, ...]:
    at = ", ".join(f"{key.removesuffix('_tokens')} {wording.load(value)}" for key, value in cell.items() if key not in ("a_s", "b_s", "ratio"))
    return (at, *(wording.plain(1000 * cell[side]) for side in ("a_s", "b_s")), wording.percent(cell["ratio"] - 1, 1))


def _with_error(row: Mapping[str, Any], side: str) -> str:
    error = row[f"{side}_error"]
    return wording.plain(row[side], 2) + (f" ± {wording.plain(error, 2)}" if error is not None else "")

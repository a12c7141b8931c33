"""A profile in a few lines: what it is of, its tables with their provenance, what was assumed; and how two of them differ."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.measurements.profile import Profile
from simulator.report import wording
from simulator.report.profile_numbers import DrafterNumbers

SHOWN = 10  # suspicious cells; all are in the tables


def profile_text(profile: Profile) -> tuple[dict[str, Any], str]:
    """The profile as data and as text."""
    low, high = profile.costs.verify.tokens_range()
    drafters = {}
    for name, drafter in profile.drafters.items():
        blocks = profile.blocks(name)
        survival = blocks.mean_survival()
        drafters[name] = {
            "family": drafter.family,
            "gamma": drafter.gamma,
            "confidence": drafter.confidence,
            "calibrated": drafter.temperatures is not None,
            "rows": len(blocks.accepted),
            "domains": list(blocks.domains),
            "mean_survival": [round(float(s), 4) for s in survival],
        }
    data = {
        "name": profile.name,
        "hardware": profile.hardware,
        "engine": profile.engine,
        "target": profile.target,
        "gpus_per_replica": profile.gpus_per_replica,
        "suspicious": profile.suspicious,
        "verify_tokens": [low, high],
        "kv_tokens": profile.kv_tokens(None),
        "drafters": drafters,
        "provenance": profile.provenance(),
        "assumed": profile.assumed,
        "not_identifiable": profile.not_identifiable,
    }
    return data, _text(profile, data)


def _text(profile: Profile, data: dict[str, Any]) -> str:
    console, sink = _console()
    console.print(f"{profile.name}: {profile.target}, {profile.gpus_per_replica:g} GPU(s) a replica", highlight=False)
    console.print(f"{profile.hardware}; {profile.engine}", highlight=False)
    marked = data["suspicious"]
    _list(console, "suspicious", marked if len(marked) <= SHOWN else [*marked[:SHOWN], f"{len(marked) - SHOWN} more, marked in the tables"])
    if data["suspicious"]:
        console.print()
    low, high = data["verify_tokens"]
    kv = f"{data['kv_tokens']:,} tokens of KV a replica" if data["kv_tokens"] else "memory for KV not known"
    console.print(f"verify cost known from {low:g} to {high:g} tokens a step; {kv}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("drafter", "family", "block", "confidence", "anchors", "domains", "survival by position, all anchors"):
        table.add_column(column)
    for name, d in data["drafters"].items():
        sure = ("calibrated" if d["calibrated"] else "raw") if d["confidence"] else "none"
        rates = " ".join(f"{s:.2f}" for s in d["mean_survival"])
        table.add_row(name, d["family"], str(d["gamma"]), sure, f"{d['rows']:,}", ", ".join(d["domains"]), rates)
    console.print(table)
    console.print()
    table = Table(box=None, pad_edge=False)
    for column in ("table", "provenance", "source and note"):
        table.add_column(column, overflow="fold")
    for row in data["provenance"]:
        table.add_row(row["table"], row["provenance"], "; ".join(x for x in (row["source"], row["note"]) if x))
    console.print(table)
    _list(console, "assumed", data["assumed"])
    _list(console, "cannot be known from this data", data["not_identifiable"])
    return _trimmed(sink)


def acceptance_text(drafters: Sequence[DrafterNumbers]) -> str:
    """Accepted length per drafter and domain with 95 % intervals."""
    console, sink = _console()
    table = Table(box=None, pad_edge=False)
    table.add_column("drafter")
    table.add_column("domain")
    for column in ("texts", "rounds", "accepted length (95 %)", "over all anchors"):
        table.add_column(column, justify="right")
    for numbers in drafters:
        for d in numbers.domains:
            lengths = (wording.interval(found, 2) for found in (d.accepted_length, d.over_all_anchors))
            table.add_row(numbers.name, d.domain, f"{d.sequences:,}", f"{d.visited:,}", *lengths)
    console.print(table)
    return _trimmed(sink)


def diff_text(data: Mapping[str, Any]) -> str:
    """What `compare_profiles` found, what they were measured on first."""
    console, sink = _console()
    for side in ("a", "b"):
        console.print(f"{side.upper()}: {data[side]['name']} ({data[side]['folder']})", highlight=False, markup=False)
    console.print()
    _rows(console, ("what differs", "A", "B"), [(row["what"], row["a"], row["b"]) for row in data["measured_on"]], right=3)
    _rows(console, ("table", "cells", "median", "p90", "B / A", "ranges apart", "only A", "only B"), [_table_row(t) for t in data["tables"]])
    worst = [(t["table"], *_cell_row(cell)) for t in data["tables"] for cell in t["worst"][:3]]
    _rows(console, ("worst cells", "at", "A, ms", "B, ms", "B against A"), worst, right=2)
    numbers = [(n["what"], wording.plain(n["a"]), wording.plain(n["b"])) for n in data["numbers"] if n["a"] != n["b"]]
    _rows(console, ("number", "A", "B"), numbers)
    lengths = [
        (r["drafter"], r["domain"], _with_error(r, "a"), _with_error(r, "b"), wording.DASH if r["z"] is None else wording.plain(r["z"], 1))
        for r in data["accepted_lengths"]
    ]
    _rows(console, ("accepted length", "domain", "A ± error", "B ± error", "z"), lengths, right=2)
    temperatures = [(t["drafter"], *(" ".join(f"{x:.2f}" for x in t[side]) for side in ("a", "b"))) for t in data["temperatures"]]
    _rows(console, ("temperatures", "A", "B"), temperatures, right=3)
    for side in ("a", "b"):
        if data["suspicious"][side]:
            console.print(f"{len(data['suspicious'][side])} suspicious in {side.upper()}: see `dsim profile show`", highlight=False)
    console.print(data["verdict"], highlight=False, soft_wrap=True)
    return _trimmed(sink)


def _console() -> tuple[Console, io.StringIO]:
    sink = io.StringIO()
    return Console(file=sink, width=110, no_color=True), sink


def _trimmed(sink: io.StringIO) -> str:
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip().splitlines())


def _list(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(f"\n{title}:", highlight=False)
        for line in lines:
            console.print(f"  - {line}", highlight=False, markup=False)


def _rows(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> None:
    """A table with an empty line after it; columns from `right` on are numbers. Nothing where there are no rows."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print()


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

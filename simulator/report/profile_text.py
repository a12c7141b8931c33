"""A profile in a few lines: what it is of, its tables with their provenance, what was assumed."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from simulator.measurements.profile import Profile


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
        "verify_tokens": [low, high],
        "kv_tokens": profile.kv_tokens(None),
        "drafters": drafters,
        "provenance": profile.provenance(),
        "assumed": profile.assumed,
        "not_identifiable": profile.not_identifiable,
    }
    return data, _text(profile, data)


def _text(profile: Profile, data: dict[str, Any]) -> str:
    sink = io.StringIO()
    console = Console(file=sink, width=110, no_color=True)
    console.print(f"{profile.name}: {profile.target}, {profile.gpus_per_replica:g} GPU(s) a replica", highlight=False)
    console.print(f"{profile.hardware}; {profile.engine}", highlight=False)
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
    for title, lines in (("assumed", data["assumed"]), ("cannot be known from this data", data["not_identifiable"])):
        if lines:
            console.print(f"\n{title}:", highlight=False)
            for line in lines:
                console.print(f"  - {line}", highlight=False)
    return "\n".join(line.rstrip() for line in sink.getvalue().rstrip().splitlines())

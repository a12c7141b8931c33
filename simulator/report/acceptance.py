"""Acceptance of the library or of one's own, for `dsim acceptance`: what it is, and what its recorded blocks give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from simulator.measurements.acceptance_library import Acceptance
from simulator.measurements.statistics import acceptance_statistics, visited_rows
from simulator.report.blocks import Lines, Terms, table
from simulator.report.page import Notice, Page, section
from simulator.report.wording import plain


def list_page(known: Sequence[Acceptance], target: str) -> Page:
    """A row for each acceptance."""
    columns = ["name", "target", "drafter", "block", "provenance", "accepted length", "benchmarks", *([f"for {target}"] if target else [])]
    rows = []
    for it in known:
        lengths = [domain.accepted_length for domain in it.domains.values()]
        facts = (it.name, it.target, it.family, str(it.gamma), it.provenance, f"{min(lengths):.2f} … {max(lengths):.2f}", str(len(lengths)))
        rows.append((*facts, it.fits(target)) if target else facts)
    found = table("acceptances", "Accepted length: of the least and the most accepted benchmark.", columns, rows, words=3)
    return _page("Acceptance that comes with dsim", section("list", "", found))


def acceptance_data(acceptance: Acceptance, target: str) -> dict[str, Any]:
    """All that `dsim acceptance show` says, as plain data: what was published, and what the recorded blocks give."""
    blocks = acceptance.recorded()
    rows = visited_rows(blocks)
    domains = {}
    for name, domain in acceptance.domains.items():
        found = acceptance_statistics(blocks, name, rows)
        error = found.accepted_length_error  # infinite for a single text
        recorded = {"accepted_length": round(found.accepted_length, 4), "standard_error": round(error, 4) if math.isfinite(error) else None}
        domains[name] = domain.model_dump(mode="json") | {"recorded": recorded | {"texts": found.sequences, "rounds": found.rows}}
    keys = ("name", "target", "family", "gamma", "confidence", "temperatures", "provenance", "source", "sample")
    return {key: getattr(acceptance, key) for key in keys} | {
        "domains": domains,
        "unknown": acceptance.unknown,
        "notes": acceptance.notes,
        "path": str(acceptance.folder),
        "for_target": target,
        "fits": acceptance.fits(target),
        "unsure": [{"parameter": it.parameter, "sd": it.sd, "note": it.note} for it in acceptance.unsure_for(target, acceptance.family)],
    }


def acceptance_page(acceptance: Acceptance, data: Mapping[str, Any]) -> Page:
    """The same for people."""
    slots = [str(k) for k in range(1, acceptance.gamma + 1)]
    by = "measured" if acceptance.provenance == "measured" else "published"
    lengths, positions = [], []
    for name, domain in data["domains"].items():
        found = domain["recorded"]
        recorded = f"{found['accepted_length']:.2f} ± {plain(found['standard_error'], 2)}"
        lengths.append((name, domain["kind"], f"{domain['accepted_length']:.2f}", recorded, f"{found['texts']}", f"{found['rounds']:,}"))
        positions.append((name, *(f"{c:.3f}" for c in domain["conditional"])))
    shapes = sorted({domain["shape"] for domain in data["domains"].values()})
    caption = f"P(slot accepted | slots before accepted); its course over the slots: {' and '.join(shapes)}."
    unsure = tuple(f"{it['parameter']} ± {it['sd']:.2f}: {it['note']}" for it in data["unsure"])
    other = data["fits"] == "another model"
    what = f"Acceptance of {acceptance.target}, not of {data['for_target']}"
    notices = [Notice(f"{what}.", f"count accepted tokens of one benchmark of {data['for_target']}", serious=True)] if other else []
    confidence = ("calibrated by temperatures" if acceptance.temperatures else "yes") if acceptance.confidence else "none"
    about = Terms(
        (
            ("target", acceptance.target), ("drafter", f"{acceptance.family}, blocks of {acceptance.gamma}"), ("confidence", confidence),
            ("provenance", acceptance.provenance), ("source", acceptance.source), ("sample", acceptance.sample),
        )
    )  # fmt: skip
    return _page(
        f"Acceptance {acceptance.name}",
        section("about", "What it is", about),
        section(
            "lengths",
            "Accepted length",
            table(
                "lengths",
                "Tokens a round when whole blocks are verified, bonus token included; recorded: of the texts that are replayed, ± a standard error.",
                ("domain", "kind", by, "recorded", "texts", "rounds"), lengths, words=2,
            ),
        ),
        section("positions", "Acceptance by position", table("positions", caption, ("domain", *slots), positions, words=1)),
        section("unsure", f"Not sure of, for {data['for_target']} (logits, of every domain)", Lines(unsure)),
        section("unknown", "Not known", Lines(tuple(acceptance.unknown))),
        section("notes", "Notes", Lines(tuple(acceptance.notes))),
        notices=tuple(notices),
    )  # fmt: skip


def _page(title: str, *parts: Any, notices: tuple[Notice, ...] = ()) -> Page:
    return Page(title=title, kind="dsim acceptance", name="", version=version("dsim"), sections=tuple(filter(None, parts)), notices=notices)

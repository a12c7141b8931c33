"""The tables of a profile's page, as cells of text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from simulator.measurements.agreement import KEYS, cost_rows, further_files
from simulator.measurements.cost import DraftTable, LinearDraft, MeasuredTable, PrefillTable
from simulator.measurements.profile import Profile
from simulator.report import wording
from simulator.report.blocks import Cell, Column, Row, Table, grouped, table
from simulator.report.profile.numbers import DrafterNumbers
from simulator.report.wording import DASH
from simulator.study.run.result import Estimate

TITLES = {"tokens": "tokens", "requests": "requests", "slots": "slots", "context_tokens": "context"}


def drafters(profile: Profile) -> Table:
    """What drafters there are, with their recorded blocks."""
    rows = []
    for name, drafter in profile.drafters.items():
        blocks = profile.blocks(name)
        sure = ("calibrated" if drafter.temperatures is not None else "raw") if drafter.confidence else "none"
        survival = " ".join(f"{s:.2f}" for s in blocks.mean_survival())
        rows.append((name, drafter.family, str(drafter.gamma), f"{len(blocks.accepted):,}", sure, ", ".join(blocks.domains), survival))
    words = (Column(title, words=True) for title in ("confidence", "domains", "survival by position, all anchors"))
    caption = "The drafters, and the recorded blocks behind their acceptance."
    return table("drafter-list", caption, ["drafter", "family", "block", "anchors", *words], rows, words=2)


def cells(profile: Profile, what: str) -> Table | None:
    """Every cell of the verify or prefill table; None for a formula."""
    cost = profile.costs.verify if what == "verify" else profile.costs.prefill
    if not isinstance(cost, MeasuredTable | PrefillTable):
        return None
    rows = cost_rows(profile.folder / cost.file)
    keys = [key for key in KEYS if key in rows and not rows[key].isna().all()]
    times = (Column(q, "ms") for q in ("p10", "p50", "p90"))
    columns: list[Column | str] = [*(TITLES[key] for key in keys), *times, "n", *(Column(title, words=True) for title in ("regime", "suspicious"))]
    listed: list[Row] = []
    for row in rows.sort_values([*keys[::-1]]).to_dict("records"):
        ms = (DASH if math.isnan(row[q]) else wording.plain(1000 * row[q]) for q in ("p10_s", "p50_s", "p90_s"))
        count = DASH if math.isnan(row["n"]) else f"{row['n']:,.0f}"
        doubtful = Cell(row["suspicious"], kind="backlogged" if row["suspicious"] else "")
        listed.append((*(wording.load(row[key]) for key in keys), *ms, count, "eager" if row["eager"] else "graph", doubtful))
    return table(f"{what}-cells", f"Every cell of the {what} table.", columns, listed, words=0)


def _draft_rows(profile: Profile, name: str) -> list[tuple[str, str, str]]:
    """What one drafter's parts cost in words, part by part: the formula, or the range of its cells."""
    drafter = profile.drafters[name]
    if not isinstance(drafter.draft, DraftTable):
        formula = " + ".join(f"{wording.plain(1000 * seconds)} ms{unit}" for unit, seconds in drafter.draft.terms().items() if seconds)
        if isinstance(drafter.draft, LinearDraft) and (strays := [at.part for at in drafter.draft.strays]):
            formula += f", by requests {min(strays):+.0%} … {max(strays):+.0%} of it"
        return [(name, "whole block", formula or "nothing of its own")]
    files = {"draft": drafter.draft.file} | further_files(drafter)
    parts = {"draft": "backbone" if len(files) > 1 else "whole block", "head": "sequential head", "absorb": "taking features in"}
    costs = []
    for part, file in files.items():
        rows = cost_rows(profile.folder / file)
        spread = f"{wording.plain(1000 * rows['p50_s'].min())}…{wording.plain(1000 * rows['p50_s'].max())} ms"
        spans = [f"{TITLES[k]} {wording.load(rows[k].min())}…{wording.load(rows[k].max())}" for k in KEYS if k in rows and not rows[k].isna().all()]
        doubtful = int(rows["suspicious"].ne("").sum())
        costs.append((name, parts[part], f"{spread} over {len(rows)} cells ({', '.join(spans)})" + (f"; {doubtful} suspicious" if doubtful else "")))
    return costs


def drafting(profile: Profile) -> Table:
    """What drafting costs."""
    rows = [row for name in profile.drafters for row in _draft_rows(profile, name)]
    return table("drafting-cost", "What drafting costs, part by part.", ("drafter", "part", "cost per round"), rows, words=3)


def acceptance(drafters: Sequence[DrafterNumbers]) -> Table:
    """Accepted length per drafter and domain with its interval."""
    lengths = (Column(length, "tokens per round") for length in ("accepted length", "over all anchors"))
    groups = (
        (n.name, [(d.domain, _cell(d.accepted_length), _cell(d.over_all_anchors), f"{d.sequences:,}", f"{d.visited:,}") for d in n.domains])
        for n in drafters
    )
    title = (
        "Accepted length, bonus included, over the rounds of a run that verifies everything, and over all anchors. 95 % intervals, texts as units."
    )
    return grouped("acceptance", title, ["domain", *lengths, "texts", "rounds"], groups)


def positions(drafters: Sequence[DrafterNumbers]) -> Table:
    """The numbers behind the conditional acceptance picture."""
    most = max(numbers.blocks.gamma for numbers in drafters)
    groups: Iterable[tuple[str, list[Row]]] = (
        (n.name, [[d.domain, *(_cell(c, 3) for c in d.conditional), *[""] * (most - len(d.conditional))] for d in n.domains]) for n in drafters
    )
    title = "Conditional acceptance: P(slot accepted, given those before it). 95 % intervals, texts as units."
    return grouped("positions", title, ("domain", *(f"slot {k}" for k in range(1, most + 1))), groups)


def calibration(numbers: DrafterNumbers) -> Table:
    """ECE, AUROC and Brier score per position, before and after, on the texts that were not fitted on."""
    fit = numbers.calibration
    assert fit is not None
    columns = [Column("position"), Column("t", "fitted here"), Column("t", "in the profile")]
    columns += [Column(name, when) for name in ("ECE, %", "AUROC", "Brier score") for when in ("before", "after")]
    columns += [Column("AUROC of the slot", "given those before")]
    rows = []
    for k in range(numbers.blocks.gamma):
        kept = numbers.drafter.temperatures
        row = [str(k + 1), f"{fit.temperatures[k]:.3f}", f"{kept[k]:.3f}" if kept else DASH]
        for name, factor, decimals in (("error", 100, 2), ("auroc", 1, 4), ("brier", 1, 4)):
            row += [_share(factor * float(getattr(scores, name)[k]), decimals) for scores in (fit.before, fit.after)]
        rows.append((*row, _share(fit.conditional_auroc[k], 4)))
    title = (
        f"Calibration of {numbers.name}: temperatures fitted on one half of the texts, all scores on the other half. Scores are of prefix survival; "
        "the last column ranks the slot's own confidences, which scaling leaves in order."
    )
    return table(f"calibration-{numbers.name}", title, columns, rows, words=0)


def _cell(estimate: Estimate | None, decimals: int = 2) -> Cell:
    return Cell(wording.plain(estimate.mean, decimals), wording.bounds(estimate, decimals)) if estimate else Cell(DASH)


def _share(value: float, decimals: int) -> str:
    return wording.plain(float(value), decimals) if math.isfinite(value) else DASH

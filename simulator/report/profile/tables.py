"""The tables of a profile's page, as cells of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulator.measurements.agreement import KEYS, cost_rows, further_files
from simulator.measurements.cost import DraftTable, MeasuredTable, PrefillTable
from simulator.measurements.profile import Profile
from simulator.report import wording
from simulator.report.blocks import Cell, Column, Group, Table
from simulator.report.profile.numbers import DrafterNumbers
from simulator.report.wording import DASH
from simulator.study.run.result import Estimate

TITLES = {"tokens": "tokens", "requests": "requests", "slots": "slots", "context_tokens": "context"}
DraftRow = tuple[str, str, str]  # drafter, part, what it costs


def drafters(profile: Profile) -> Table:
    """What drafters there are, with their recorded blocks."""
    numbers = tuple(Column(title) for title in ("block", "anchors"))
    words = [Column(title, words=True) for title in ("drafter", "family", "confidence", "domains", "survival by position, all anchors")]
    rows = []
    for name, drafter in profile.drafters.items():
        blocks = profile.blocks(name)
        sure = ("calibrated" if drafter.temperatures is not None else "raw") if drafter.confidence else "none"
        survival = " ".join(f"{s:.2f}" for s in blocks.mean_survival())
        texts = (name, drafter.family, str(drafter.gamma), f"{len(blocks.accepted):,}", sure, ", ".join(blocks.domains), survival)
        rows.append(tuple(Cell(text) for text in texts))
    return Table(
        "drafter-list",
        "The drafters, and the recorded blocks behind their acceptance.",
        (*words[:2], *numbers, *words[2:]),
        (Group("", tuple(rows)),),
    )


def cells(profile: Profile, what: str) -> Table | None:
    """Every cell of the verify or prefill table; None for a formula."""
    cost = profile.costs.verify if what == "verify" else profile.costs.prefill
    if not isinstance(cost, MeasuredTable | PrefillTable):
        return None
    rows = cost_rows(profile.folder / cost.file)
    keys = [key for key in KEYS if key in rows and not rows[key].isna().all()]
    columns = (*(Column(TITLES[key]) for key in keys), *(Column(q, "ms") for q in ("p10", "p50", "p90")), Column("n"))
    columns += (Column("regime", words=True), Column("suspicious", words=True))
    listed = []
    for row in rows.sort_values([*keys[::-1]]).to_dict("records"):
        times = (_ms(row[q]) for q in ("p10_s", "p50_s", "p90_s"))
        doubtful = Cell(row["suspicious"], kind="backlogged") if row["suspicious"] else Cell("")
        regime = Cell("eager" if row["eager"] else "graph")
        listed.append((*(Cell(wording.load(row[key])) for key in keys), *times, Cell(_count(row["n"])), regime, doubtful))
    return Table(f"{what}-cells", f"Every cell of the {what} table.", columns, (Group("", tuple(listed)),))


def draft_rows(profile: Profile, name: str) -> list[DraftRow]:
    """What one drafter's parts cost in words, part by part: the formula, or the range of its cells."""
    drafter = profile.drafters[name]
    if not isinstance(drafter.draft, DraftTable):
        formula = " + ".join(f"{wording.plain(1000 * seconds)} ms{unit}" for unit, seconds in drafter.draft.terms().items() if seconds)
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
    rows = [row for name in profile.drafters for row in draft_rows(profile, name)]
    columns = tuple(Column(title, words=True) for title in ("drafter", "part", "cost per round"))
    listed = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table("drafting-cost", "What drafting costs, part by part.", columns, (Group("", listed),))


def acceptance(drafters: Sequence[DrafterNumbers]) -> Table | None:
    """Accepted length per drafter and domain with its interval."""
    lengths = (Column("accepted length", "tokens per round"), Column("over all anchors", "tokens per round"))
    columns = (Column("domain", words=True), *lengths, Column("texts"), Column("rounds"))
    groups = []
    for numbers in drafters:
        rows = tuple(
            (Cell(d.domain), _cell(d.accepted_length), _cell(d.over_all_anchors), Cell(f"{d.sequences:,}"), Cell(f"{d.visited:,}"))
            for d in numbers.domains
        )
        groups.append(Group(numbers.name, rows))
    title = (
        "Accepted length, bonus included, over the rounds of a run that verifies everything, and over all anchors. 95 % intervals, texts as units."
    )
    return Table("acceptance", title, columns, tuple(groups)) if drafters else None


def positions(drafters: Sequence[DrafterNumbers]) -> Table | None:
    """The numbers behind the conditional acceptance picture."""
    most = max((numbers.blocks.gamma for numbers in drafters), default=0)
    columns = (Column("domain", words=True), *(Column(f"slot {k}") for k in range(1, most + 1)))
    groups = []
    for numbers in drafters:
        rows = []
        for d in numbers.domains:
            shown = [_cell(c, 3) for c in d.conditional]
            rows.append((Cell(d.domain), *shown, *[Cell("")] * (most - len(shown))))
        groups.append(Group(numbers.name, tuple(rows)))
    title = "Conditional acceptance: P(slot accepted, given those before it). 95 % intervals, texts as units."
    return Table("positions", title, columns, tuple(groups)) if drafters else None


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
        row = [Cell(str(k + 1)), Cell(f"{fit.temperatures[k]:.3f}"), Cell(f"{kept[k]:.3f}" if kept else DASH)]
        for before, after, factor, decimals in (
            (fit.before.error, fit.after.error, 100, 2),
            (fit.before.auroc, fit.after.auroc, 1, 4),
            (fit.before.brier, fit.after.brier, 1, 4),
        ):
            row += [Cell(_share(factor * float(v[k]), decimals)) for v in (before, after)]
        rows.append((*row, Cell(_share(fit.conditional_auroc[k], 4))))
    title = (
        f"Calibration of {numbers.name}: temperatures fitted on one half of the texts, all scores on the other half. Scores are of prefix survival; "
        "the last column ranks the slot's own confidences, which scaling leaves in order."
    )
    return Table(f"calibration-{numbers.name}", title, tuple(columns), (Group("", tuple(rows)),))


def _cell(estimate: Estimate | None, decimals: int = 2) -> Cell:
    return Cell(wording.plain(estimate.mean, decimals), wording.bounds(estimate, decimals)) if estimate else Cell(DASH)


def _share(value: float, decimals: int) -> str:
    return wording.plain(float(value), decimals) if math.isfinite(value) else DASH


def _ms(seconds: float) -> Cell:
    return Cell(DASH if math.isnan(seconds) else wording.plain(1000 * seconds))


def _count(n: float) -> str:
    return DASH if math.isnan(n) else f"{n:,.0f}"

"""A score shown: limits, errors by number and by cell, decisions, other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from simulator.report.blocks import Block, Cell, Column, Lines, Row, Table, folded, table
from simulator.report.board.seal import load_unit
from simulator.report.page import Page, section
from simulator.report.tables import without_empty
from simulator.report.wording import DASH, percent, plain
from simulator.study.sealed.numbers import NUMBERS, SPEED, THROUGHPUT
from simulator.study.sealed.result import CrossingFound, Limit, Pace, Score, ScoredCell, ScoredNumber

SHOWN = (SPEED, THROUGHPUT, "ttft_p50_s", "ttft_p90_s", "accepted_length")


def score_page(score: Score) -> Page:
    """All of it."""
    what = f"{score.name}: {'; '.join(text for text in (score.engine, score.model, score.hardware) if text)}"
    parts = (
        section("limits", "Limits of the board", limits_table(score.limits)),
        section("errors", "Errors", summary_table(score)),
        section("pace", "Pace of the machine", Lines(tuple(pace_lines(score)))),
        section("cells", "Every cell", *cell_tables(score)),
        section("decisions", "Decisions", *_decisions(score)),
        section("others", "Other tools", others_table(score)),
        section("remarks", "Before you rely on it", Lines(score.remarks)),
    )
    return Page(what, "dsim score", "", score.dsim_version, tuple(part for part in parts if part))


def limits_table(limits: Iterable[Limit]) -> Table:
    """Each limit, and whether it is kept."""
    rows: list[Row] = [[limit.what, size(limit.value), bound(limit), Cell("within" if limit.ok else "outside", kind="verdict")] for limit in limits]
    return table("limits", "", ("what", "found", "limit", "verdict"), rows)


def size(value: float | None) -> str:
    """A share, in per cent."""
    return percent(value, 1, signed=False)


def bound(limit: Limit) -> str:
    """`≤ 6 %`, or `80 % to 98 %`."""
    if limit.least is not None and limit.most is not None:
        return f"{percent(limit.least, 0, signed=False)} to {percent(limit.most, 0, signed=False)}"
    sign, value = ("≤", limit.most) if limit.least is None else ("≥", limit.least)
    return f"{sign} {percent(value, 0, signed=False)}"


def summary_table(score: Score) -> Table:
    """Sizes of errors by number."""
    rows: list[Row] = []
    for one in score.summary:
        kind = "closed loop" if one.kind == "concurrency" else "open loop"
        at = f"{one.worst_at.condition}, {one.worst_at.policy} at {one.worst_at.load:g}"
        held = f"{one.held} of {one.intervals}" if one.intervals else DASH
        rows.append([NUMBERS[one.number].title, kind, str(one.cells), size(one.median), size(one.p90), Cell(size(one.worst), at), held,
                     f"±{size(one.half_width)}" if one.half_width is not None else DASH, size(one.noise)])  # fmt: skip
    heads = ("number", Column("load", words=True), "cells", "median error", "p90", "worst", "in the 90 % interval", "its half width", "noise")
    return table("errors", "Predicted ÷ measured − 1, without sign. Noise: standard deviation of one measurement, from repeats.", heads, rows)


def cell_tables(score: Score) -> Iterator[Block]:
    """Measured and error of every cell, a table for each condition; ! where the interval does not hold it."""
    for condition in score.conditions:
        mine = [cell for cell in score.cells if cell.condition == condition.name]
        heads = [NUMBERS[name] for name in SHOWN if any(name in cell.numbers for cell in mine)]
        rows: list[Row] = [
            [cell.policy, f"{cell.load:g}", _repeats(cell), _pace(cell, score.pace), *(_number(cell, head.name) for head in heads)] for cell in mine
        ]
        unit = load_unit(condition.kind, condition.replicas)
        columns: tuple[Column | str, ...] = ("policy", unit, "repeats", "pace", *(Column(head.title, head.unit) for head in heads))
        caption = f"{condition.name}: predicted / measured, error; ! outside of the 90 % prediction interval."
        if block := folded(without_empty(table(condition.name, caption, columns, rows))):
            yield block


def _repeats(cell: ScoredCell) -> str:
    return f"{cell.repeats}" + (f" ({cell.failed} failed)" if cell.failed else "")


def _pace(cell: ScoredCell, pace: Pace | None) -> str:
    """Against that of the probes; an exclamation mark beyond what is marked."""
    return "" if cell.pace is None or pace is None else f"{percent(cell.pace - 1, 1)}{'!' if abs(cell.pace - 1) > pace.marked else ''}"


def pace_lines(score: Score) -> Iterator[str]:
    """How the machine's pace moved, and what is left of the errors at that of the probes."""
    pace = score.pace
    if pace is None:
        return
    told = f"{plain(pace.lowest)} to {plain(pace.highest)} times as long as beside the {pace.probes} probes (which differ by {size(pace.spread)})"
    off = f"{pace.off} of {pace.cells} cells were measured more than {size(pace.marked)} off it (!)"
    yield f"a fixed piece of work took {told}, {plain(pace.median)} in the median; {off}"
    for one in pace.errors:
        raw = score.errors_of(one.number)
        measured = f", {size(raw.median)} and {size(raw.worst)} as measured" if raw else ""
        noise = f"; repeats differ by {size(one.noise)}, {size(one.noise_measured)} as measured" if one.noise is not None else ""
        at = f"{NUMBERS[one.number].title} at the pace of the probes"
        yield f"{at}: off by {size(one.median)} in the median and {size(one.worst)} at worst{measured}{noise}"


def _number(cell: ScoredCell, name: str) -> str:
    number = cell.numbers.get(name)
    return DASH if number is None else numbers_cell(number, 1e3 if NUMBERS[name].unit == "ms" else 1.0)


def numbers_cell(number: ScoredNumber, factor: float = 1.0) -> str:
    """Predicted / measured, error; an exclamation mark outside of the interval."""
    mark = "!" if number.inside is False else ""
    return f"{plain(number.predicted * factor)} / {plain(number.measured * factor)}, {percent(number.error, 1)}{mark}"


def policies_table(score: Score) -> Table:
    """Errors of every policy under every condition: the median and the worst."""
    rows: list[Row] = []
    for condition, policy in dict.fromkeys((cell.condition, cell.policy) for cell in score.cells):
        mine = [cell for cell in score.cells if (cell.condition, cell.policy) == (condition, policy)]
        sizes = []
        for name in SHOWN:
            errors = [cell.numbers[name].error for cell in mine if name in cell.numbers]
            worst = max(errors, key=abs, default=None)
            sizes.append(DASH if worst is None else f"{size(float(np.median(np.abs(errors))))}, {percent(worst, 1)}")
        rows.append([policy, condition, str(len(mine)), *sizes])
    columns: tuple[Column | str, ...] = ("policy", Column("condition", words=True), "cells", *(NUMBERS[name].title for name in SHOWN))
    return without_empty(table("policies", "Median size of the errors, and the worst with its sign, by policy.", columns, rows), ("", DASH))


def decided(score: Score) -> Iterator[str]:
    """Ranking, regret, knees and crossings, a line each; those that are right together."""
    ranking = score.ranking
    yield f"{ranking.right} of {ranking.pairs} pairs of policies ranked rightly, {ranking.ties} more within noise"
    yield from _wrong(score)
    if costly := [one for one in score.regret if one.loss > 0]:
        worst = max(costly, key=lambda one: one.loss)
        at = f"load {worst.load:g}" if worst.load else f"{plain(worst.tps_per_user)} tok/s per user"
        right = len(score.regret) - len(costly)
        yield (f"{right} of {len(score.regret)} decisions are the best that was measured; the costliest loses "
               f"{size(worst.loss)} ({worst.condition}, {at}: {worst.chosen} instead of {worst.best})")  # fmt: skip
    elif score.regret:
        yield f"all {len(score.regret)} decisions are the best that was measured"
    same = [knee for knee in score.knees if knee.predicted == knee.measured]
    if score.knees:
        yield f"{len(same)} of {len(score.knees)} knees at the predicted load"
    for knee in score.knees:
        if knee not in same:
            yield f"{knee.condition}: knee of {knee.policy} predicted at {knee.predicted:g}, measured at {knee.measured:g} (loses {size(knee.loss)})"
    yield from map(_crossing, score.crossings)


def _wrong(score: Score) -> Iterator[str]:
    for pair in score.ranking.wrong:
        measured, predicted = percent(pair.measured, 1), percent(pair.predicted, 1)
        yield f"{pair.condition}, {pair.load:g}: {pair.first} measured {measured} over {pair.second}, predicted {predicted}"


def _decisions(score: Score) -> Iterator[Block]:
    ranking = score.ranking
    told = f"{ranking.right} of {ranking.pairs} pairs of policies at the same load in the right order; {ranking.ties} more differ by noise alone"
    yield Lines((told, *_wrong(score)), "Ranking")
    rows: list[Row] = [
        [one.condition, f"load {one.load:g}" if one.load else f"{plain(one.tps_per_user)} tok/s per user", one.chosen, one.best, size(one.loss)]
        for one in score.regret
    ]
    yield table("regret", "What following the prediction costs against the best that was measured.",
                ("condition", "at", "predicted best", "measured best", "regret"), rows, words=4)  # fmt: skip
    rows = [[knee.condition, knee.policy, f"{knee.predicted:g}", f"{knee.measured:g}", size(knee.loss)] for knee in score.knees]
    yield table("knees", "Knees: the load of the largest throughput × per-user speed.",
                ("condition", "policy", "predicted", "measured", "lost at the predicted one"), rows, words=2)  # fmt: skip
    yield Lines(tuple(map(_crossing, score.crossings)), "Crossings")


def _crossing(one: CrossingFound) -> str:
    told, seen = (", ".join(f"{load:.3g}" for load in loads) or "nowhere" for loads in (one.predicted, one.measured))
    return f"{one.condition}: {one.first} and {one.second} cross at a load of {told} (predicted), {seen} (measured)"


def others_table(score: Score) -> Table:
    """Errors of other tools beside dsim's for the same cells."""
    rows = [
        [one.tool, one.how, NUMBERS[one.number].title, str(one.cells), size(one.median), size(one.worst), size(one.ours_median), size(one.ours_worst)]
        for one in score.others
    ]
    heads = (
        "tool",
        Column("how it was asked", words=True),
        Column("number", words=True),
        "cells",
        "median error",
        "worst",
        "dsim, median",
        "dsim, worst",
    )
    return without_empty(table("others", "The same cells predicted by other tools.", heads, rows))

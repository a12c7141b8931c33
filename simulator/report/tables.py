"""The tables of a report, as cells of text: the page, the Markdown and the tests read the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simulator.report import wording
from simulator.report.page import Cell, Column, Group, Table
from simulator.report.reading import PARTS, Estimate, Point, Result, Story, estimate, number
from simulator.report.wording import DASH, Measure, measure

_VERDICT: tuple[str, ...] = (
    "tps_per_user_mean",
    "tps_per_user_p10",
    "tps_per_user_p50",
    "tps_per_user_p90",
    "throughput_tok_s_gpu",
    "verification_budget",
)
_VERDICT += ("accepted_length", "waste_fraction", "step_p50_s", "concurrency_mean", "waiting_mean", "preemptions", "unfinished")
_LATENCY = tuple(f"{name}_p{q}_s" for name in ("ttft", "tpot", "itl", "e2e") for q in (50, 90, 99))


def at_sla(result: Result, story: Story) -> Table | None:
    """Throughput at a promised per-user speed, and what it gains over the baseline."""
    rows = (result.get("gains") or {}).get("at_sla") or []
    title = f"Throughput at a promised per-user speed, and the gain over {story.baseline}. {_certainty(story)}"
    columns = (Column("gain"), Column("throughput", "tok/s/GPU"), Column("baseline", "tok/s/GPU"), Column("note", words=True))
    groups = []
    for sla in sorted({at for row in rows if (at := number(row.get("sla_tps"))) is not None}):
        cells = []
        for row in rows:
            if number(row.get("sla_tps")) == sla:
                least = estimate(row.get("at_least"))
                reached = Cell(f"≥ {wording.plain(least.mean, 0)}") if least else _cell(estimate(row.get("throughput")), 0)
                cells.append(
                    (
                        _name(story, row.get("policy")),
                        _gain(row.get("gain")),
                        reached,
                        _cell(estimate(row.get("baseline_throughput")), 0),
                        _text(row.get("note")),
                    )
                )
        groups.append(Group(f"at {wording.load(sla)} tok/s per user", tuple(cells)))
    return _trimmed(Table("at-sla", title, (Column("policy", words=True), *columns), tuple(groups))) if groups else None


def at_matched_throughput(result: Result, story: Story) -> Table | None:
    """Per-user speed where a policy delivers what the baseline delivers, and what it gains."""
    rows = (result.get("gains") or {}).get("at_matched_throughput") or []
    title = f"Per-user speed at the baseline’s throughput, and the gain over {story.baseline}. {_certainty(story)}"
    columns = (Column("gain"), Column("per-user speed", "tok/s"), Column("baseline", "tok/s"), Column("note", words=True))
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for row in rows:
        at = number(row.get("throughput"))
        if at is None:
            continue
        because = f" ({row['because']})" if row.get("because") else ""
        pair = (estimate(row.get("tps")), estimate(row.get("baseline_tps")))
        cells = (_name(story, row.get("policy")), _gain(row.get("gain")), *(_cell(found, 1) for found in pair), _text(row.get("note")))
        groups.setdefault(f"at {wording.plain(at, 0)} tok/s/GPU{because}", []).append(cells)
    listed = tuple(Group(name, tuple(found)) for name, found in groups.items())
    return _trimmed(Table("at-matched-throughput", title, (Column("policy", words=True), *columns), listed)) if listed else None


def validation(result: Result, story: Story) -> Table | None:
    """Simulated against published."""
    rows = (result.get("validation") or {}).get("rows") or []
    numbers = tuple(Column(title) for title in ("simulated", "published", "difference", "limit"))
    cells = []
    for row in rows:
        *found, verdict = wording.validation_cells(row)
        told = [Cell(text) for text in found[:-1]] + [Cell(found[-1], verdict, kind=verdict)]
        cells.append((Cell(str(row.get("what") or DASH)), *told, _name(story, row.get("policy")), Cell(wording.plain(number(row.get("n")), 0))))
    title = "Simulated against published. Curves: rms of relative differences over the simulated loads. Gains: difference in percentage points."
    columns = (Column("what", words=True), *numbers, Column("policy", words=True), Column("n"))
    return Table("validation", title, columns, (Group("", tuple(cells)),)) if cells else None


def latency(story: Story) -> Table:
    """TTFT, TPOT, ITL and end-to-end times of every point."""
    title = f"Latencies. ITL is the gap between bursts as an engine streams them; it is not the inverse of a speed. {_certainty(story)}"
    return _points("latency", title, story, [metric for metric in _LATENCY if story.has(metric)], verdict=False)


def verdicts(story: Story) -> Table:
    """Every point of the study."""
    metrics = [story.speed] if story.speed not in _VERDICT else []
    title = f"Every policy at every load ({story.load_unit}). {_certainty(story)}"
    return _points("points", title, story, [*metrics, *(metric for metric in _VERDICT if story.has(metric))], verdict=True)


def time_per_token(story: Story) -> Table:
    """The numbers behind the stacked bars."""
    known = [part for part in PARTS if story.has(f"user_s_per_token_{part}")]
    columns = tuple(Column(part.replace("verify_", "verify, ").replace("prefill", "prefill of others"), "ms") for part in known)
    groups = []
    for policy in story.policies:
        rows = []
        for point in story.points[policy.name]:
            found = [point.get(f"user_s_per_token_{part}") for part in known]
            total = sum(1000 * part.mean for part in found if part)
            rows.append((Cell(wording.load(point.load)), *(_cell(part and part.scaled(1000), 2) for part in found), Cell(wording.plain(total, 2))))
        groups.append(Group(policy.name, tuple(rows), "bound" if policy.bound else ""))
    title = f"A user’s time per output token, by cause. {_certainty(story)}"
    return Table("time-per-token", title, (Column("load"), *columns, Column("all", "ms")), tuple(groups))


def provenance(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Where every table of the profile comes from."""
    columns = tuple(Column(title, words=True) for title in ("table", "provenance", "source", "note"))
    cells = tuple(
        (_text(row.get("table")), Cell(str(row.get("provenance") or "unknown"), kind="provenance"), _text(row.get("source")), _text(row.get("note")))
        for row in rows
    )
    return Table("provenance", "Where every table of the profile comes from.", columns, (Group("", cells),))


def policies(story: Story) -> Table:
    """What each policy is."""
    rows = []
    for policy in story.policies:
        role = "bound: knows what no policy can know" if policy.bound else "baseline" if policy.name == story.baseline else ""
        rows.append((Cell(policy.name), _text(policy.drafter), _text(policy.verification), _text(role)))
    columns = tuple(Column(title, words=True) for title in ("policy", "drafter", "verification", "role"))
    return Table("policies", "The policies compared; all met the same traffic and the same luck.", columns, (Group("", tuple(rows)),))


def _trimmed(table: Table) -> Table:
    """Without its last column where that is empty in every row."""
    if any(row[-1].text for group in table.groups for row in group.rows):
        return table
    groups = tuple(Group(group.name, tuple(row[:-1] for row in group.rows), group.tag) for group in table.groups)
    return Table(table.name, table.caption, table.columns[:-1], groups)


def _points(name: str, title: str, story: Story, metrics: Sequence[str], verdict: bool) -> Table:
    shown = [(metric, measure(metric)) for metric in metrics]
    groups = []
    for policy in story.policies:
        rows = tuple(_row(point, shown, verdict) for point in story.points[policy.name])
        groups.append(Group(policy.name, rows, "bound" if policy.bound else ""))
    ends = (Column("requests"), Column("n")) if verdict else (Column("n"),)
    first = (Column("load"), Column("verdict", words=True)) if verdict else (Column("load"),)
    return Table(name, title, (*first, *(Column(m.title, m.unit) for _, m in shown), *ends), tuple(groups))


def _row(point: Point, shown: Sequence[tuple[str, Measure]], verdict: bool) -> tuple[Cell, ...]:
    numbers = (_cell(m.of(point, metric), m.decimals) for metric, m in shown)
    load, n = Cell(wording.load(point.load)), Cell(wording.plain(point.n, 0))
    if not verdict:
        return (load, *numbers, n)
    return (load, Cell(point.verdict, kind=point.verdict), *numbers, Cell(wording.plain(point.requests, 0)), n)


def _cell(found: Estimate | None, decimals: int | None = None) -> Cell:
    if found is None:
        return Cell(DASH)
    width = (found.high or 0) - (found.low or 0)
    return Cell(wording.plain(found.mean, decimals), wording.bounds(found, decimals) if width > 0 else "")


def _gain(raw: object) -> Cell:
    return Cell(wording.gain(estimate(raw)))


def _text(raw: object) -> Cell:
    return Cell(str(raw)) if raw not in (None, "") else Cell("")


def _name(story: Story, raw: object) -> Cell:
    policy = story.policy(str(raw))
    return Cell(DASH if raw is None else str(raw), "bound, not a plan" if policy and policy.bound else "")


def _certainty(story: Story) -> str:
    found = wording.certainty(story)
    return found[:1].upper() + found[1:] + "." if found else ""

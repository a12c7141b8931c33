"""The tables of a run."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Group, Table
from simulator.report.tables import estimated, without_empty
from simulator.report.wording import DASH, MEASURES
from simulator.study.run.metrics import METRICS, Metric
from simulator.study.run.result import PointResult, RunResult


def at_sla(result: RunResult) -> Table | None:
    """Throughput at a promised per-user speed, and what it gains over the baseline."""
    groups: dict[float, list[tuple[Cell, ...]]] = {}
    for row in sorted(result.gains.at_sla, key=lambda row: row.sla_tps):
        reached = Cell(f"≥ {wording.plain(row.at_least.mean, 0)}") if row.at_least else estimated(row.throughput, 0)
        cells = (_name(result, row.policy), Cell(wording.gain(row.gain)), reached, estimated(row.baseline_throughput, 0), Cell(row.note or ""))
        groups.setdefault(row.sla_tps, []).append(cells)
    title = f"Throughput at the per-user speed of an SLA, and the gain over {result.baseline}. {_certainty(result)}"
    columns = (Column("gain"), Column("throughput", "tok/s/GPU"), Column("baseline", "tok/s/GPU"), Column("note", words=True))
    listed = tuple(Group(f"at {wording.load(sla)} tok/s per user", tuple(rows)) for sla, rows in groups.items())
    return without_empty(Table("at-sla", title, (Column("policy", words=True), *columns), listed)) if listed else None


def at_matched_throughput(result: RunResult) -> Table | None:
    """Per-user speed where a policy delivers what the baseline delivers, and what it gains."""
    title = f"Per-user speed at the baseline’s throughput, and the gain over {result.baseline}. {_certainty(result)}"
    columns = (Column("gain"), Column("per-user speed", "tok/s"), Column("baseline", "tok/s"), Column("note", words=True))
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for row in result.gains.at_matched_throughput:
        if row.throughput is not None:
            speeds = (estimated(estimate, 1) for estimate in (row.tps, row.baseline_tps))
            cells = (_name(result, row.policy), Cell(wording.gain(row.gain)), *speeds, Cell(row.note or ""))
            groups.setdefault(f"at {wording.plain(row.throughput, 0)} tok/s/GPU ({row.because})", []).append(cells)
    listed = tuple(Group(name, tuple(rows)) for name, rows in groups.items())
    return without_empty(Table("at-matched-throughput", title, (Column("policy", words=True), *columns), listed)) if listed else None


def _shown(result: RunResult, place: str) -> list[Metric]:
    """The metrics of a table that are known at some point."""
    return [metric for metric in METRICS if metric.place == place and result.has(metric.name)]


def latency(result: RunResult) -> Table:
    """TTFT, TPOT, ITL and end-to-end times of every point."""
    title = f"Latencies. ITL is the gap between bursts as an engine streams them; it is not the inverse of a speed. {_certainty(result)}"
    return _points("latency", title, result, _shown(result, "latency"), verdict=False)


def verdicts(result: RunResult) -> Table:
    """Every point of the study."""
    speed = MEASURES[result.speed_metric]
    title = f"Every policy at every load ({result.load_unit}). {_certainty(result)}"
    return _points("points", title, result, [*([speed] if speed.place != "points" else []), *_shown(result, "points")], verdict=True)


def brief(result: RunResult) -> Table:
    """Every point in few numbers, intervals of the two that matter most."""
    shown = (MEASURES[result.speed_metric], MEASURES["throughput_tok_s_gpu"])
    groups = []
    for policy in result.policies:
        rows = []
        for point in result.points[policy.name]:
            means = (Cell(wording.plain(point.mean(name), 2)) for name in ("verification_budget", "accepted_length"))
            numbers = (*(_metric(point, metric) for metric in shown), *means)
            rows.append((Cell(wording.load(point.load)), *numbers, Cell("" if point.verdict == "stable" else point.verdict, kind=point.verdict)))
        groups.append(Group(policy.name, tuple(rows), "bound" if policy.bound else ""))
    columns = (Column("load"), *(Column(metric.title, metric.unit) for metric in shown), Column("budget"), Column("accepted"), Column("", words=True))
    return Table("brief", f"Every policy at every load ({result.load_unit}). {_certainty(result)}", columns, tuple(groups))


def time_per_token(result: RunResult) -> Table:
    """The numbers behind the stacked bars."""
    known = _shown(result, "parts")
    columns = tuple(Column(metric.title, metric.unit) for metric in known)
    groups = []
    for policy in result.policies:
        rows = []
        for point in result.points[policy.name]:
            total = sum(part.factor * (point.mean(part.name) or 0.0) for part in known)
            rows.append((Cell(wording.load(point.load)), *(_metric(point, part) for part in known), Cell(wording.plain(total, 2))))
        groups.append(Group(policy.name, tuple(rows), "bound" if policy.bound else ""))
    title = f"A user’s time per output token, by cause. {_certainty(result)}"
    return Table("time-per-token", title, (Column("load"), *columns, Column("all", "ms")), tuple(groups))


def policies(result: RunResult) -> Table:
    """What each policy is."""
    rows = []
    for policy in result.policies:
        role = "bound: knows the outcomes in advance" if policy.bound else "baseline" if policy.name == result.baseline else ""
        rows.append((Cell(policy.name), Cell(policy.drafter or ""), Cell(policy.rule), Cell(role)))
    columns = tuple(Column(title, words=True) for title in ("policy", "drafter", "verification", "role"))
    return Table("policies", "The policies compared; all see the same traffic and random draws.", columns, (Group("", tuple(rows)),))


def _points(name: str, title: str, result: RunResult, shown: Sequence[Metric], verdict: bool) -> Table:
    groups = []
    for policy in result.policies:
        rows = tuple(_row(point, shown, verdict) for point in result.points[policy.name])
        groups.append(Group(policy.name, rows, "bound" if policy.bound else ""))
    ends = (Column("requests"), Column("n")) if verdict else (Column("n"),)
    first = (Column("load"), Column("verdict", words=True)) if verdict else (Column("load"),)
    return Table(name, title, (*first, *(Column(metric.title, metric.unit) for metric in shown), *ends), tuple(groups))


def _row(point: PointResult, shown: Sequence[Metric], verdict: bool) -> tuple[Cell, ...]:
    numbers = (_metric(point, metric) for metric in shown)
    load, n = Cell(wording.load(point.load)), Cell(wording.plain(point.n, 0))
    if not verdict:
        return (load, *numbers, n)
    return (load, Cell(point.verdict, kind=point.verdict), *numbers, Cell(wording.plain(point.requests, 0)), n)


def _metric(point: PointResult, metric: Metric) -> Cell:
    estimate = point.get(metric.name)
    return estimated(estimate.scaled(metric.factor) if estimate else None, metric.decimals)


def _name(result: RunResult, name: str | None) -> Cell:
    policy = result.policy(name)
    return Cell(name or DASH, "bound, not a plan" if policy and policy.bound else "")


def _certainty(result: RunResult) -> str:
    certainty = wording.certainty(result)
    return certainty[:1].upper() + certainty[1:] + "." if certainty else ""

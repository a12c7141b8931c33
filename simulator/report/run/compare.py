"""Two results side by side: what differs between the scenarios, and which differences are more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Group, Table, Terms, Text, listed
from simulator.report.page import Page, Section, section, sections
from simulator.study.run.metrics import METRICS
from simulator.study.run.result import Estimate, Record, RunResult

LEVEL = 0.95  # of the intervals in a result
_SHOWN = {
    "tps_per_user_mean": "tok/s per user",
    "throughput_tok_s_gpu": "tok/s/GPU",
    "verification_budget": "budget",
    "accepted_length": "accepted length",
}
_ABSENT = "(absent)"


class Difference(Record):
    """b − a with Welch's interval; `relative` to a. Distinguishable: None where a side has no interval."""

    a: Estimate
    b: Estimate
    difference: float
    low: float | None = None
    high: float | None = None
    distinguishable: bool | None = None
    relative: float | None


class ComparedPoint(Record):
    """One policy at one load in both results."""

    policy: str
    load: float
    verdict_a: str
    verdict_b: str
    metrics: dict[str, Difference]


@dataclass(frozen=True)
class ComparedGain:
    """A gain over the baseline in both results; `at` is the promised speed, or the point whose throughput is matched."""

    where: str
    at: float | str
    policy: str
    gain: Difference

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"where": self.where, "at": self.at, "policy": self.policy, **self.gain.to_json()}


def compare(a: RunResult, b: RunResult) -> tuple[dict[str, Any], Page]:
    """Policies × loads that both results have, b against a; as data for JSON and as a page."""
    points, gains = list(_points(a, b)), list(_gains(a, b))
    keys = [{(p.policy, p.load) for p in result.frontier} for result in (a, b)]
    verdicts = [metric.distinguishable for point in points for metric in point.metrics.values()]
    verdicts += [row.gain.distinguishable for row in gains]
    data: dict[str, Any] = {
        "a": _identity(a),
        "b": _identity(b),
        "level": LEVEL,
        "scenario_differences": scenario_differences(a, b),
        "points": [point.to_json() for point in points],
        "only_in_a": [{"policy": policy, "load": load} for policy, load in sorted(keys[0] - keys[1])],
        "only_in_b": [{"policy": policy, "load": load} for policy, load in sorted(keys[1] - keys[0])],
        "gains": [row.to_json() for row in gains],
        "compared": len(verdicts),
        "distinguishable": verdicts.count(True),
        "expected_by_chance": round((1 - LEVEL) * sum(verdict is not None for verdict in verdicts), 2),
    }
    verdict = (
        f"{data['distinguishable']} of {data['compared']} differences are more than noise (Welch, {LEVEL:.0%}); "
        f"about {wording.plain(data['expected_by_chance'], 1)} would look so by chance alone."
    )
    compared = _Compared(data, points, gains)
    title = f"{b.scenario.name} against {a.scenario.name}"
    return data, Page(title, "dsim compare", "", b.dsim_version, sections(SECTIONS, compared), answer=(verdict,))


def difference(a: Estimate, b: Estimate, n_a: int, n_b: int) -> Difference:
    """b − a with Welch's interval, from the two intervals and their numbers of replications. It does not use that both may have met the same
    random draws, so it errs on the side of "not distinguishable"."""
    change = b.mean - a.mean
    relative = change / abs(a.mean) if a.mean else None
    errors = [_error(a, n_a), _error(b, n_b)]
    low = high = distinguishable = None
    known = [error for error in errors if error]
    if len(known) == 2:
        (ea, da), (eb, db) = known
        error = math.hypot(ea, eb)
        half = float(stdtrit(error**4 / (ea**4 / da + eb**4 / db), (1 + LEVEL) / 2)) * error if error else 0.0
        low, high, distinguishable = change - half, change + half, abs(change) > half
    return Difference(a=a, b=b, difference=change, low=low, high=high, distinguishable=distinguishable, relative=relative)


def scenario_differences(a: RunResult, b: RunResult) -> list[dict[str, str]]:
    """The keys of the scenarios, and of what they ran on, that differ: dotted names, both values as text."""
    flat = [dict(_flat(_compared(result))) for result in (a, b)]
    keys = list(dict.fromkeys([*flat[0], *flat[1]]))
    values = [(key, flat[0].get(key, _ABSENT), flat[1].get(key, _ABSENT)) for key in keys]
    return [{"key": key, "a": left, "b": right} for key, left, right in values if left != right]


def _compared(result: RunResult) -> dict[str, Any]:
    ran = {"seed": result.scenario.seed, "replications": result.scenario.replications}
    known = result.profile.model_dump(include={"name", "hardware", "engine", "target", "gpus_per_replica"})
    return {"dsim_version": result.dsim_version, "run": ran, "profile": known, "scenario": result.scenario.content}


def _flat(raw: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves as (dotted name, text); lists of named things (policies) by name, so that an insertion is one difference."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(raw, list) and raw and all(isinstance(item, Mapping) and "name" in item for item in raw):
        for item in raw:
            yield from _flat({key: value for key, value in item.items() if key != "name"} or {"listed": True}, f"{prefix}[{item['name']}]")
    else:
        yield prefix, "null" if raw is None else str(raw)


def _error(estimate: Estimate, n: int) -> tuple[float, int] | None:
    """Standard error and degrees of freedom behind a Student interval."""
    if estimate.low is None or estimate.high is None or n < 2:
        return None
    return (estimate.high - estimate.low) / 2 / float(stdtrit(n - 1, (1 + LEVEL) / 2)), n - 1


def _points(a: RunResult, b: RunResult) -> Iterator[ComparedPoint]:
    others = {(point.policy, point.load): point for point in b.frontier}
    compared = dict.fromkeys([a.speed_metric, *(metric.name for metric in METRICS if metric.compared)])
    for point in a.all_points():
        other = others.get((point.policy, point.load))
        if other is not None:
            pairs = {metric: (point.get(metric), other.get(metric)) for metric in compared}
            metrics = {metric: difference(x, y, point.n, other.n) for metric, (x, y) in pairs.items() if x and y}
            yield ComparedPoint(policy=point.policy, load=point.load, verdict_a=point.verdict, verdict_b=other.verdict, metrics=metrics)


def _gains(a: RunResult, b: RunResult) -> Iterator[ComparedGain]:
    """Gains at the same promise by the same policy."""
    counts = [min((p.n for p in result.frontier), default=0) for result in (a, b)]
    others = _gains_of(b)
    for key, x in _gains_of(a).items():
        if x and (y := others.get(key)):
            yield ComparedGain(*key, difference(x, y, *counts))


def _gains_of(result: RunResult) -> dict[tuple[str, float | str, str], Estimate | None]:
    """Where, at what and whose gain it is."""
    gains: dict[tuple[str, float | str, str], Estimate | None]
    gains = {("at_sla", row.sla_tps, row.policy): row.gain for row in result.gains.at_sla}
    return gains | {("at_matched_throughput", row.because, row.policy): row.gain for row in result.gains.at_matched_throughput}


def _identity(result: RunResult) -> dict[str, str]:
    scenario = result.scenario
    return {"scenario": scenario.name, "file": scenario.file, "profile": result.profile.name, "dsim_version": result.dsim_version}


@dataclass(frozen=True)
class _Compared:
    """What every section is made from."""

    data: Mapping[str, Any]
    points: Sequence[ComparedPoint]
    gains: Sequence[ComparedGain]


def _scenarios(compared: _Compared) -> Section | None:
    sides = []
    for side in ("a", "b"):
        names = (compared.data[side][key] for key in ("scenario", "file", "profile"))
        sides.append((side.upper(), " · ".join(str(name) for name in names if name)))
    rows = [(d["key"], d["a"], d["b"]) for d in compared.data["scenario_differences"]]
    same = None if rows else Text("The scenarios are the same.")
    return section("scenarios", "Scenarios", Terms(tuple(sides)), listed("differences", "What differs.", ("key", "A", "B"), rows, words=3), same)


def _results(compared: _Compared) -> Section | None:
    only = []
    for side in ("a", "b"):
        points = [f"{p['policy']} at {wording.load(p['load'])}" for p in compared.data[f"only_in_{side}"]]
        only += [Text(f"only in {side.upper()}: {', '.join(points)}")] if points else []
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for point in compared.points:
        groups.setdefault(point.policy, []).append(_point_row(point))
    columns = tuple(Column(title) for title in ("load", *_SHOWN.values()))
    rows = tuple(Group(policy, tuple(cells)) for policy, cells in groups.items())
    table = Table("compared", "A → B, and the change; * more than noise.", columns, rows)
    return section("points", "Points", table, None if rows else Text("No policy and load is in both."), *only)


def _gained(compared: _Compared) -> Section | None:
    rows = [_gain_row(row) for row in compared.gains]
    return section("gains", "Gains", listed("gains", "Gains over the baseline.", ("policy", "at", "A", "B", "B − A", ""), rows, words=2))


SECTIONS = (_scenarios, _results, _gained)


def _point_row(point: ComparedPoint) -> tuple[Cell, ...]:
    """`112.5 → 135.0` and `+20.0 % *` for the metrics that matter most; JSON has the others."""
    cells = []
    for metric, pair in ((metric, point.metrics.get(metric)) for metric in _SHOWN):
        if pair is None:
            cells.append(Cell(wording.DASH))
            continue
        a, b = (wording.plain(side.mean, wording.MEASURES[metric].decimals) for side in (pair.a, pair.b))
        change = wording.percent(pair.relative, 1) if pair.difference else "same"
        cells.append(Cell(f"{a} → {b}", f"{change} *" if pair.distinguishable else change))
    return (Cell(wording.load(point.load)), *cells)


def _gain_row(row: ComparedGain) -> tuple[str, ...]:
    gain = row.gain
    at = f"throughput of {row.at}" if isinstance(row.at, str) else f"{wording.load(row.at)} tok/s/user"
    points = wording.interval(Estimate(gain.difference, gain.low, gain.high).scaled(100), 1)
    mark = "*" if gain.distinguishable else "same" if gain.difference == 0 else ""
    return (row.policy, at, *(wording.percent(side.mean) for side in (gain.a, gain.b)), f"{points} points", mark)

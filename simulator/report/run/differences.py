"""What differs between two results, and which of it is more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from scipy.special import stdtrit

from simulator.errors import DsimError
from simulator.study.run.metrics import METRICS
from simulator.study.run.record import Record
from simulator.study.run.result import Estimate, GainAtSla, GainAtThroughput, PointResult, Range, RunResult

LEVEL = 0.95  # of the intervals in a result
_ABSENT = "(absent)"


class Difference(Record):
    """b − a with Welch's interval, which is simulation noise; `relative` to a. Distinguishable: None where a side has no interval. Beside it what
    each result predicts."""

    a: Estimate
    b: Estimate
    difference: float
    low: float | None = None
    high: float | None = None
    distinguishable: bool | None = None
    relative: float | None
    prediction_a: Range | None = None
    prediction_b: Range | None = None


class ComparedPoint(Record):
    """One policy at one load in both results."""

    policy: str
    load: float
    verdict_a: str
    verdict_b: str
    metrics: dict[str, Difference]


class ComparedGain(Difference):
    """A gain over the baseline in both results; `at` is the speed of the SLA, or the point whose throughput is matched."""

    where: str
    at: float | str
    policy: str


class Side(Record):
    """What one of the results is of."""

    scenario: str
    file: str
    profile: str
    dsim_version: str
    baseline: str


class KeyDifference(Record):
    """A key of the scenarios, or of what they ran on, with both values as text."""

    key: str
    a: str
    b: str


class PolicyAtLoad(Record):
    """A point that one of the results alone has."""

    policy: str
    load: float


class Compared(Record):
    """Policies × loads that both results have, b against a: how many of the differences were `compared` with noise, and how many were `untested`,
    because a side has no interval."""

    a: Side
    b: Side
    level: float
    load_unit: str
    scenario_differences: tuple[KeyDifference, ...]
    points: tuple[ComparedPoint, ...]
    only_in_a: tuple[PolicyAtLoad, ...]
    only_in_b: tuple[PolicyAtLoad, ...]
    gains: tuple[ComparedGain, ...]
    compared: int
    untested: int
    distinguishable: int
    expected_by_chance: float


def compare(a: RunResult, b: RunResult) -> Compared:
    """Two results, and how many of their differences are more than noise. Raises DsimError where their loads are not of one kind."""
    kinds = [f"{result.load_kind} ({result.load_unit})" for result in (a, b)]
    if kinds[0] != kinds[1]:
        problem = f"expected loads of one kind, got {kinds[0]} in A, {kinds[1]} in B"
        raise DsimError(problem, where="dsim compare", key="load", remedy="simulate one of them again with the arrivals of the other")
    points, gains = tuple(_points(a, b)), tuple(_gains(a, b))
    keys = [{(p.policy, p.load) for p in result.frontier} for result in (a, b)]
    only = [tuple(PolicyAtLoad(policy=policy, load=load) for policy, load in sorted(mine - other)) for mine, other in (keys, keys[::-1])]
    verdicts = [pair.distinguishable for pair in (*(pair for point in points for pair in point.metrics.values()), *gains)]
    tested = [verdict for verdict in verdicts if verdict is not None]
    return Compared(
        a=_side(a),
        b=_side(b),
        level=LEVEL,
        load_unit=a.load_unit,
        scenario_differences=scenario_differences(a, b),
        points=points,
        only_in_a=only[0],
        only_in_b=only[1],
        gains=gains,
        compared=len(tested),
        untested=len(verdicts) - len(tested),
        distinguishable=sum(tested),
        expected_by_chance=round((1 - LEVEL) * len(tested), 2),
    )


def difference(a: Estimate, b: Estimate, n_a: int, n_b: int) -> Difference:
    """b − a with Welch's interval, from the two intervals and their numbers of replications. It does not use that both may have met the same
    random draws, so it errs on the side of "not distinguishable"."""
    change = b.mean - a.mean
    relative = change / abs(a.mean) if a.mean else None
    low = high = distinguishable = None
    if (of_a := _error(a, n_a)) and (of_b := _error(b, n_b)):
        (ea, da), (eb, db) = of_a, of_b
        error = math.hypot(ea, eb)
        half = float(stdtrit(1 / ((ea / error) ** 4 / da + (eb / error) ** 4 / db), (1 + LEVEL) / 2)) * error if error else 0.0
        low, high, distinguishable = change - half, change + half, abs(change) > half
    return Difference(a=a, b=b, difference=change, low=low, high=high, distinguishable=distinguishable, relative=relative)


def scenario_differences(a: RunResult, b: RunResult) -> tuple[KeyDifference, ...]:
    """The keys of the scenarios, and of what they ran on, that differ: dotted names, both values as text."""
    left, right = (dict(_flat(_compared(result))) for result in (a, b))
    pairs = {key: (left.get(key, _ABSENT), right.get(key, _ABSENT)) for key in left | right}
    return tuple(KeyDifference(key=key, a=x, b=y) for key, (x, y) in pairs.items() if x != y)


def _compared(result: RunResult) -> dict[str, Any]:
    alone = {"dsim_version": result.dsim_version, "baseline": result.baseline, "trace": result.trace, "files": result.files}
    ran = {"seed": result.scenario.seed, "replications": result.scenario.replications}
    known = result.profile.model_dump(include={"name", "hardware", "engine", "target", "gpus_per_replica"})
    tables = {row.table: " · ".join(filter(None, (row.provenance, row.source, row.note))) for row in result.profile.provenance}
    known |= {"assumed": "; ".join(result.profile.assumed), "provenance": tables}
    return alone | {"run": ran, "profile": known, "scenario": result.scenario.content}


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
            metrics = {name: _predicted(difference(x, y, point.n, other.n), name, point, other) for name, (x, y) in pairs.items() if x and y}
            yield ComparedPoint(policy=point.policy, load=point.load, verdict_a=point.verdict, verdict_b=other.verdict, metrics=metrics)


def _predicted(told: Difference, metric: str, a: PointResult, b: PointResult) -> Difference:
    """With the prediction intervals of both sides, where they have some."""
    both = {"prediction_a": a.prediction.get(metric), "prediction_b": b.prediction.get(metric)}
    return told.model_copy(update={name: interval for name, interval in both.items() if interval})


def _gains(a: RunResult, b: RunResult) -> Iterator[ComparedGain]:
    """Gains at the same promise by the same policy, over the same baseline."""
    if a.baseline != b.baseline:
        return
    counts = [min((p.n for p in result.frontier), default=0) for result in (a, b)]
    others = _gains_of(b)
    for key, x in _gains_of(a).items():
        y = others.get(key)
        if x.gain and y and y.gain:
            where, at, policy = key
            both = {"prediction_a": x.prediction, "prediction_b": y.prediction}
            told = {name: interval for name, interval in both.items() if interval}
            yield ComparedGain(where=where, at=at, policy=policy, **difference(x.gain, y.gain, *counts).model_dump(exclude_unset=True), **told)


def _gains_of(result: RunResult) -> dict[tuple[str, float | str, str], GainAtSla | GainAtThroughput]:
    """Where, at what and whose gain it is."""
    gains: dict[tuple[str, float | str, str], GainAtSla | GainAtThroughput] = {}
    gains |= {("at_sla", row.sla_tps, row.policy): row for row in result.gains.at_sla}
    return gains | {("at_matched_throughput", row.because, row.policy): row for row in result.gains.at_matched_throughput}


def _side(result: RunResult) -> Side:
    return Side(
        scenario=result.scenario.name,
        file=result.scenario.file,
        profile=result.profile.name,
        dsim_version=result.dsim_version,
        baseline=result.baseline,
    )

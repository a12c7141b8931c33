"""Frontiers: throughput against per-user speed, read between the simulated loads, with intervals over replications."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from simulator.arrays import Floats
from simulator.study.run.result import Estimate, GainAtSla, GainAtThroughput, Gains, PointResult, PointRow

Judged = TypeVar("Judged", PointRow, PointResult)


@dataclass(frozen=True)
class Curve:
    """The undominated points of one policy in one replication, by rising speed; throughput falls along it."""

    speed: Floats  # tok/s/user
    throughput: Floats  # tok/s/GPU

    def throughput_at(self, speed: float) -> float | None:
        """Throughput at a promised speed: monotone cubic in (speed, log throughput), None outside the simulated loads."""
        return _between(self.speed, np.log(self.throughput), speed, np.exp)

    def at_least(self, speed: float) -> float | None:
        """Throughput at a promised speed that is kept at the highest load, too: no less than there."""
        return float(self.throughput[0]) if len(self.speed) and speed < self.speed[0] else self.throughput_at(speed)

    def speed_at(self, throughput: float) -> float | None:
        """Speed at a throughput, None outside the simulated loads."""
        return _between(np.log(self.throughput[::-1]), self.speed[::-1], float(np.log(throughput)), float)


def frontier(points: Iterable[tuple[float, float]]) -> Curve:
    """The undominated ones of some points (speed, throughput)."""
    kept: list[tuple[float, float]] = []
    for v, x in sorted(points, reverse=True):
        if x > 0 and (not kept or (x > kept[-1][1] and v < kept[-1][0])):
            kept.append((v, x))
    table = np.array(kept[::-1], dtype=np.float64).reshape(-1, 2)
    return Curve(table[:, 0], table[:, 1])


def _between(x: Floats, y: Floats, at: float, back: Any) -> float | None:
    if not len(x) or not x[0] <= at <= x[-1]:
        return None
    if len(x) == 1:
        return float(back(y[0]))
    from scipy.interpolate import PchipInterpolator

    return float(back(float(PchipInterpolator(x, y)(at))))


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Mean and 95 % Student interval over replications; no interval from fewer than two, nothing where any is unknown."""
    known = [v for v in values if v is not None]
    if not known or len(known) < len(values):
        return None
    mean = float(np.mean(known))
    if len(known) < 2:
        return Estimate(mean)
    half = float(student95(len(known) - 1) * np.std(known, ddof=1) / np.sqrt(len(known)))
    return Estimate(mean, mean - half, mean + half)


def student95(freedom: int) -> float:
    """The 97.5 % point of Student's t."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.975))


def curves(rows: Sequence[PointRow], policy: str, speed: str) -> dict[int, Curve]:
    """One frontier a replication from the rows of a policy that are evidence, of the loads that are so in all replications: read between others, some
    replications would be read at loads that the rest leaves out."""
    mine: dict[int, list[tuple[float, float]]] = {k: [] for k in sorted({r.replication for r in rows})}
    of_policy = [row for row in rows if row.policy == policy]
    usable = evidence(of_policy)
    dropped = {row.load for row in _others(of_policy, usable)}
    for row in [row for row in usable if row.load not in dropped] or usable:
        v, x = row[speed], row["throughput_tok_s_gpu"]
        if v and x:
            mine[row.replication].append((v, x))
    return {k: frontier(points) for k, points in mine.items()}


def evidence(rows: Sequence[Judged]) -> list[Judged]:
    """The rows or points of a policy from which an answer may be taken: those that are stable; without any, those that are not overloaded.
    Where requests queue, the speed of those that are served says nothing of those that wait."""
    return [r for r in rows if r.verdict == "stable"] or [r for r in rows if r.verdict != "overloaded"]


def queued_from(rows: Sequence[PointRow], policy: str) -> float | None:
    """The lowest load from which a policy's rows are no evidence in some replication, None where all are."""
    mine = [row for row in rows if row.policy == policy]
    return min((row.load for row in _others(mine, evidence(mine))), default=None)


def _others(rows: Sequence[PointRow], kept: Sequence[PointRow]) -> list[PointRow]:
    """Those that are not kept."""
    ids = {id(row) for row in kept}
    return [row for row in rows if id(row) not in ids]


def gains(rows: Sequence[PointRow], policies: Sequence[str], baseline: str, speed: str, promises: Sequence[float]) -> Gains:
    """Throughput gained at each promised speed, and speed gained at the throughput that the baseline has there; paired by replication."""
    base = curves(rows, baseline, speed)
    at_sla, matched = [], []
    limits = {policy: queued_from(rows, policy) for policy in policies}
    for promise in promises:
        reference = {k: curve.throughput_at(promise) for k, curve in base.items()}
        for policy in policies:
            mine = curves(rows, policy, speed)
            at_sla.append(_at_promise(promise, policy, mine, reference, baseline, limits[policy]))
            if policy != baseline:
                missed = _note(promise, baseline, base, reference, limits[baseline])
                matched.append(_at_match(promise, policy, mine, reference, baseline, missed))
    return Gains(baseline=baseline, at_sla=tuple(at_sla), at_matched_throughput=tuple(matched))


def _at_promise(
    promise: float, policy: str, mine: dict[int, Curve], reference: dict[int, float | None], baseline: str, limit: float | None
) -> GainAtSla:
    here = {k: curve.throughput_at(promise) for k, curve in mine.items()}
    throughput = estimate(list(here.values()))
    return GainAtSla(
        sla_tps=promise,
        policy=policy,
        throughput=throughput,
        baseline_throughput=estimate(list(reference.values())),
        gain=estimate([gain(here[k], reference[k]) for k in here]) if policy != baseline else None,
        at_least=None if throughput else estimate([curve.at_least(promise) for curve in mine.values()]),
        note=_note(promise, policy, mine, here, limit),
    )


def _at_match(
    promise: float, policy: str, mine: dict[int, Curve], reference: dict[int, float | None], baseline: str, missed: str | None
) -> GainAtThroughput:
    speeds = {k: curve.speed_at(there) if (there := reference[k]) is not None else None for k, curve in mine.items()}
    throughput = estimate(list(reference.values()))
    gained = estimate([gain(v, promise) for v in speeds.values()])
    note = f"{policy} was not simulated at that throughput: add loads" if gained is None else None
    return GainAtThroughput(
        throughput=throughput.mean if throughput else None,
        because=f"{baseline} at {promise:g} tok/s/user",
        policy=policy,
        sla_tps=promise,
        tps=estimate(list(speeds.values())),
        baseline_tps=Estimate(promise, promise, promise),
        gain=gained,
        note=note if throughput else missed,
    )


def _note(promise: float, policy: str, mine: dict[int, Curve], throughput: dict[int, float | None], limit: float | None) -> str | None:
    if all(value is not None for value in throughput.values()):
        return None
    kept = [curve.at_least(promise) is not None for curve in mine.values() if len(curve.speed)]
    if kept and all(kept) and limit is not None:
        return f"{policy} keeps {promise:g} tok/s/user until requests queue, at load {limit:g} or before: add loads below that"
    if kept and all(kept):
        some = " in some replications" if any(value is not None for value in throughput.values()) else ""
        return f"{policy} stays above {promise:g} tok/s/user at all simulated loads{some}: add higher loads"
    return f"{policy} does not reach {promise:g} tok/s/user at the simulated loads"


def gain(value: float | None, reference: float | None) -> float | None:
    """0.5 where a value is half as much again as its reference; None where one is not known."""
    return None if value is None or not reference else value / reference - 1

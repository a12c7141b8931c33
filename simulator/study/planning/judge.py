"""Is a promise kept? Decided on replications: accepted only when the next one, too, would keep it with 95 % confidence."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

from simulator.study.planning.sla import Sla
from simulator.study.planning.trial import TrialRow

Judgement = Literal["kept", "broken", "open"]
FAR = 0.15  # a miss by more than this is no bad luck, from one replication on


def margins(row: TrialRow, sla: Sla) -> list[float]:
    """How far each promise is kept, relative to it: 0.1 is a tenth better than promised. Refused or unanswered: -1 or less."""
    kept_by = [] if sla.speed is None else [(row.speed or 0.0) / sla.speed.tps - 1]
    if sla.ttft is not None:
        kept_by.append(-1.0 if row.ttft is None else 1 - row.ttft / sla.ttft.seconds)
    return kept_by + [-1.0 if used is None else 1 - used for used in row.limits_used.values()]


def queues(row: TrialRow, sla: Sla) -> bool:
    """Does a queue grow? Where no promise covers waiting, nothing else would notice one that stands in front of full replicas."""
    return row.verdict == "overloaded" or (not sla.covers_waiting and row.verdict == "backlogged")


def keeps(row: TrialRow, sla: Sla) -> bool:
    """Did this one replication keep every promise?"""
    return not queues(row, sla) and min(margins(row, sla)) >= 0


def hopeless(rows: Sequence[TrialRow], sla: Sla) -> bool:
    """Does one replication say enough: a queue grows, or a promise is missed by far?"""
    return any(queues(row, sla) or min(margins(row, sla)) < -FAR for row in rows)


def judge(rows: Sequence[TrialRow], sla: Sla) -> Judgement:
    """`kept` where the 95 % prediction bound of the next replication keeps every promise, `broken` where its counterpart breaks one (or one
    replication misses by far, or a queue grows), else `open`."""
    if hopeless(rows, sla):
        return "broken"
    kept_by = [margins(row, sla) for row in rows]
    if len(rows) < 2:
        return "open"
    bounds = [prediction([m[i] for m in kept_by]) for i in range(len(kept_by[0]))]
    if any(high < 0 for _, high in bounds):
        return "broken"
    return "kept" if all(low >= 0 for low, _ in bounds) else "open"


def prediction(values: Sequence[float]) -> tuple[float, float]:
    """Bounds below and above which the next value falls with 5 % each (Student), from two or more values."""
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    deviation = sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(t.ppf(0.95, n - 1)) * deviation * sqrt(1 + 1 / n)
    return mean - half, mean + half

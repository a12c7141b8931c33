"""A map over load and memory: which policy is best where, and where that flips."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import NonNegativeInt, PositiveFloat

from simulator.study.run.metrics import Verdict
from simulator.study.run.record import Record

Spot = tuple[float, float]  # a load and a share of the KV memory


class MemoryPoint(Record):
    """One policy at one load in one replication with `kv_share` times the KV memory (`kv_tokens` on a replica): its verdict and some metrics."""

    kv_share: PositiveFloat
    kv_tokens: NonNegativeInt
    policy: str
    load: PositiveFloat
    verdict: Verdict
    numbers: dict[str, float | None]


def by_spot(points: Iterable[MemoryPoint]) -> dict[Spot, list[MemoryPoint]]:
    """The points of every load and memory."""
    spots: dict[Spot, list[MemoryPoint]] = {}
    for point in points:
        spots.setdefault((point.load, point.kv_share), []).append(point)
    return spots


def best(points: Iterable[MemoryPoint], metric: str) -> tuple[MemoryPoint, float | None] | None:
    """Of several policies the one of which a metric is most, and how many times that of the next best it is; None where none is known."""
    known = sorted(((value, n, point) for n, point in enumerate(points) if (value := point.numbers.get(metric))), reverse=True)
    if not known:
        return None
    return known[0][2], known[0][0] / known[1][0] if len(known) > 1 else None

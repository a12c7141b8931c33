"""A result as the report reads it: policies, points and estimates, with everything missing or not finite turned into None."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Result = Mapping[str, Any]

PARTS = ("draft", "verify_accepted", "verify_rejected", "overhead", "prefill", "waiting")


class Estimate(NamedTuple):
    """A mean over replications and its interval; low and high are None where there is none (one replication)."""

    mean: float
    low: float | None
    high: float | None

    def scaled(self, factor: float) -> Estimate:
        """In another unit; `factor` is positive."""
        return Estimate(self.mean * factor, *(None if b is None else b * factor for b in (self.low, self.high)))


@dataclass(frozen=True)
class Policy:
    """One policy of the study. `bound`: an oracle, drawn dashed and never offered as a plan. `place`: its place in the list, for its colour."""

    name: str
    place: int
    bound: bool = False
    drafter: str = ""
    verification: str = ""


@dataclass(frozen=True)
class Point:
    """One policy at one load."""

    policy: str
    load: float
    n: int | None
    requests: int | None
    verdict: str
    metrics: Mapping[str, Any]

    def get(self, metric: str) -> Estimate | None:
        return estimate(self.metrics.get(metric))

    def mean(self, metric: str) -> float | None:
        found = self.get(metric)
        return found.mean if found else None


@dataclass(frozen=True)
class Story:
    """What every picture and table starts from."""

    policies: tuple[Policy, ...]
    points: Mapping[str, tuple[Point, ...]]  # by policy name, loads ascending
    baseline: str | None
    speed: str  # the metric that counts as per-user speed
    load_kind: str
    load_unit: str

    def all_points(self) -> Iterable[Point]:
        return (point for policy in self.policies for point in self.points[policy.name])

    def loads(self) -> list[float]:
        """Every load any policy met, ascending."""
        return sorted({point.load for point in self.all_points()})

    def policy(self, name: str) -> Policy | None:
        return next((policy for policy in self.policies if policy.name == name), None)

    def has(self, *metrics: str) -> bool:
        """Is any of these metrics known at any point?"""
        return any(point.get(metric) for point in self.all_points() for metric in metrics)


def number(raw: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(raw, bool) or raw is None:
        return None
    try:
        value = float(raw)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def estimate(raw: Any) -> Estimate | None:
    """{mean, low, high}, or a bare number, as an Estimate; None when there is no finite mean."""
    if isinstance(raw, Mapping):
        mean, low, high = (number(raw.get(key)) for key in ("mean", "low", "high"))
        if mean is None:
            return None
        return Estimate(mean, low, high) if low is not None and high is not None else Estimate(mean, None, None)
    mean = number(raw)
    return None if mean is None else Estimate(mean, None, None)


def read(result: Result) -> Story:
    """The frontier of a result, ordered: policies as the scenario names them, loads ascending."""
    policies = [_policy(raw, place) for place, raw in enumerate(result.get("policies") or [])]
    known = {policy.name for policy in policies}
    points = [_point(raw) for raw in result.get("frontier") or []]
    for point in points:
        if point is not None and point.policy not in known:
            known.add(point.policy)
            policies.append(Policy(point.policy, len(policies)))
    ordered = sorted((point for point in points if point is not None), key=lambda point: point.load)
    return Story(
        policies=tuple(policies),
        points={policy.name: tuple(point for point in ordered if point.policy == policy.name) for policy in policies},
        baseline=(result.get("gains") or {}).get("baseline"),
        speed=result.get("speed_metric") or "tps_per_user_mean",
        load_kind=result.get("load_kind") or "concurrency",
        load_unit=result.get("load_unit") or result.get("load_kind") or "load",
    )


def best_gains(result: Result, where: str, key: str) -> list[Mapping[str, Any]]:
    """For each SLA (or matched throughput) the row of the policy with the largest gain that could be run: no bound, not the baseline."""
    story = read(result)
    best: dict[float, tuple[float, Mapping[str, Any]]] = {}
    for row in (result.get("gains") or {}).get(where) or []:
        policy, gain, at = story.policy(str(row.get("policy"))), estimate(row.get("gain")), number(row.get(key))
        if at is None or gain is None or (policy and policy.bound) or row.get("policy") == story.baseline:
            continue
        if at not in best or gain.mean > best[at][0]:
            best[at] = (gain.mean, row)
    return [row for _, (_, row) in sorted(best.items())]


def _policy(raw: Mapping[str, Any], place: int) -> Policy:
    rule = raw.get("verification")
    if isinstance(rule, Mapping):
        rest = ", ".join(f"{key} {value}" for key, value in rule.items() if key != "kind" and value is not None)
        rule = f"{rule.get('kind', '')} ({rest})" if rest else str(rule.get("kind", ""))
    return Policy(str(raw.get("name")), place, bool(raw.get("bound")), str(raw.get("drafter") or ""), str(rule or ""))


def _point(raw: Mapping[str, Any]) -> Point | None:
    load = number(raw.get("load"))
    if load is None:
        return None
    n, requests = number(raw.get("n")), number(raw.get("requests"))
    return Point(
        policy=str(raw.get("policy")),
        load=load,
        n=None if n is None else int(n),
        requests=None if requests is None else int(requests),
        verdict=str(raw.get("verdict") or "unknown"),
        metrics=raw.get("metrics") or {},
    )

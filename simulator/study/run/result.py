"""What a run's result holds, as frozen classes: result.json, validation.json and the rows of points.csv are these, written down.
Files of other versions and foreign ones are judged by these types in `from_json` (record.py) and nowhere else: pages, figures and comparisons rely
on them. One file, because it is the shape of one file: result.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)  # fmt: skip

from simulator.complaints import shown
from simulator.quantities import Share
from simulator.study.run.classes import ClassRow
from simulator.study.run.client import PRINTED
from simulator.study.run.facts import PolicyFacts, PredictionFacts, ProfileFacts, ScenarioFacts
from simulator.study.run.launch import Launch
from simulator.study.run.memory import MemoryPoint
from simulator.study.run.metrics import OF_POOL, SHARES, Number, Speed, Verdict, names
from simulator.study.run.record import Document, Record, ShortText, distinct, known
from simulator.study.run.reuse import ReuseRow
from simulator.study.run.validated import Validation
from simulator.traffic.workload import LoadKind

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Estimate:
    """A mean over replications and its 95 % interval; low and high are None where there is none (one replication)."""

    mean: float
    low: float | None = None
    high: float | None = None

    def scaled(self, factor: float) -> Estimate:
        """In another unit; `factor` is positive."""
        return Estimate(self.mean * factor, *(None if bound is None else bound * factor for bound in (self.low, self.high)))

    def to_json(self) -> dict[str, float | None]:
        """As JSON holds it."""
        return {"mean": self.mean, "low": self.low, "high": self.high}


def _maybe(raw: object) -> object:
    return None if raw == UNKNOWN else raw


def _around(estimate: Estimate | None) -> Estimate | None:
    if estimate and (estimate.low is None) != (estimate.high is None):
        raise ValueError("an interval has two ends")
    if estimate and estimate.low is not None and estimate.high is not None and (estimate.low > estimate.mean or estimate.mean > estimate.high):
        raise ValueError(f"mean {estimate.mean:g} is outside its interval, {estimate.low:g} to {estimate.high:g}")
    return estimate


class Range(Record):
    """The middle 90 % of what is predicted: the simulation's random draws, all that the profile is not sure of, and the model's own error."""

    low: float
    high: float

    def scaled(self, factor: float) -> Range:
        """In another unit; `factor` is positive."""
        return Range(low=self.low * factor, high=self.high * factor)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        return self


UNKNOWN = {"mean": None, "low": None, "high": None}
Known = Annotated[Estimate, AfterValidator(_around)]
Maybe = Annotated[Known | None, BeforeValidator(_maybe), PlainSerializer(lambda e: e.to_json() if e else UNKNOWN)]  # None is three nulls in a file


def _known_of_groups(numbers: dict[str, Any]) -> dict[str, Any]:
    pool = {metric.name for metric in OF_POOL}
    _known_metrics({name: number for name, number in numbers.items() if name not in pool})
    return numbers


def _known_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    if unknown := next((name for name in metrics if name not in names()), None):
        raise ValueError(f"unknown metric {shown(unknown)}")
    return metrics


def _of_all_shares(curves: dict[str, Any]) -> dict[str, Any]:
    if unknown := next((name for name in curves if name not in ("ttft", "tpot")), None):
        raise ValueError(f"unknown distribution {shown(unknown)}")
    if short := next((name for name, values in curves.items() if len(values) != len(SHARES)), None):
        raise ValueError(f"expected {len(SHARES)} numbers of {short}, got {len(curves[short])}")
    return curves


def _known_numbers(numbers: dict[str, Any]) -> dict[str, Any]:
    _known_metrics({name: number for name, number in numbers.items() if name not in PRINTED})
    return numbers


def _printed(numbers: dict[str, Any]) -> dict[str, Any]:
    if unknown := next((name for name in numbers if name not in PRINTED), None):
        raise ValueError(f"no benchmark client prints {shown(unknown)}")
    return numbers


Curves = Annotated[dict[str, tuple[NonNegativeFloat, ...]], AfterValidator(_of_all_shares)]


class Row(Record):
    """One simulated run: its load, replication, verdict and every number by name."""

    load: PositiveFloat
    replication: NonNegativeInt
    verdict: Verdict
    numbers: dict[str, Number]

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name]


class GroupRow(Record):
    """What a group of replicas did at a point, of a fleet whose replicas differ, or the prefill workers."""

    name: ShortText
    requests: NonNegativeInt
    numbers: Annotated[dict[str, Number], AfterValidator(_known_of_groups)]


class GroupResult(Record):
    """The same over all replications."""

    name: ShortText
    requests: NonNegativeInt
    metrics: Annotated[dict[str, Maybe], AfterValidator(_known_of_groups)]


class PointRow(Row):
    """A row of points.csv: one policy at one load in one replication; its numbers are the metrics."""

    policy: str
    drafter: str
    load_kind: str
    requests: NonNegativeInt
    curves: Curves = {}  # TTFT and TPOT, seconds, at each of metrics.SHARES
    client: Annotated[dict[str, Number], AfterValidator(_printed)] = {}  # what a benchmark client prints, by its names
    reuse: tuple[ReuseRow, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    path: str  # of the engine, and why it is the plain one
    why_plain: str

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name] if name in self.numbers else self.client[name]


class PointResult(Record):
    """One policy at one load over all replications: every metric with its interval, and the worst verdict."""

    policy: str
    drafter: ShortText
    load: PositiveFloat
    n: PositiveInt
    requests: NonNegativeInt
    verdict: Verdict
    metrics: Annotated[dict[str, Maybe], AfterValidator(_known_metrics)]
    curves: Curves = {}  # TTFT and TPOT, seconds, at each of metrics.SHARES: means over replications
    client: Annotated[dict[str, Maybe], AfterValidator(_printed)] = {}  # what a benchmark client prints, by its names
    reuse: tuple[ReuseRow, ...] = ()  # of sessions, and of what a prefix cache held: sums over replications
    groups: tuple[GroupResult, ...] = ()  # of a fleet whose replicas differ, and prefill workers
    classes: tuple[ClassRow, ...] = ()  # of requests: counts summed over replications, times and rates in the mean
    prediction: Annotated[dict[str, Range], AfterValidator(_known_numbers)] = {}  # of metrics, and of what a client prints
    over_baseline: Range | None = None  # its speed at this load ÷ the baseline's - 1
    better_in: Share | None = None  # of the draws, those in which it is faster than the baseline

    def get(self, metric: str) -> Estimate | None:
        """A metric's estimate, None where it is not known."""
        return self.metrics.get(metric)

    def mean(self, metric: str) -> float | None:
        """Its mean."""
        estimate = self.metrics.get(metric)
        return estimate.mean if estimate else None


class GainAtSla(Record):
    """What a policy delivers (tok/s per GPU) at a promised speed, and gains over the baseline; `at_least` where, in some replication at
    least, all its loads keep the promise."""

    sla_tps: PositiveFloat
    policy: str
    throughput: Known | None
    baseline_throughput: Known | None
    gain: Known | None
    at_least: Known | None = None
    note: str | None
    prediction: Range | None = None  # of the gain
    delivers: Range | None = None  # of the throughput, or of what that is at least
    better_in: Share | None = None  # of the draws, those in which it delivers more than the baseline
    best_in: Share | None = None  # those in which no other that can be chosen delivers more

    @property
    def delivered(self) -> Estimate | None:
        """Its throughput, or what that is at least."""
        return self.throughput or self.at_least


class GainAtThroughput(Record):
    """How fast a policy is (tok/s per user) where it delivers what the baseline delivers at a promise, and what it gains."""

    throughput: float | None
    because: ShortText
    policy: str
    sla_tps: PositiveFloat
    tps: Known | None
    baseline_tps: Known | None
    gain: Known | None
    note: str | None
    prediction: Range | None = None  # of the gain
    better_in: Share | None = None  # of the draws, those in which it is faster than the baseline


class Gains(Record):
    """Gains over the baseline, paired by replication."""

    baseline: str
    at_sla: tuple[GainAtSla, ...]
    at_matched_throughput: tuple[GainAtThroughput, ...]


class PublishedCurve(Record):
    """A published curve to be drawn behind the simulated ones of `policy`; points are (x, y)."""

    label: ShortText
    policy: str
    x: str
    y: str
    source: str
    points: tuple[tuple[float, float], ...]


class Remark(Record):
    """What a reader must know before relying on a result, with its remedy."""

    severity: Literal["warning", "note"]
    text: str
    remedy: str = ""


class RunResult(Document):
    """All of result.json; every report is made from it."""

    dsim_version: ShortText
    scenario: ScenarioFacts
    profile: ProfileFacts
    conditions: tuple[str, ...] = ()
    policies: Annotated[tuple[PolicyFacts, ...], Field(min_length=1, max_length=1000)]
    load_kind: LoadKind
    load_unit: ShortText
    trace: str = ""  # what was read of a trace
    files: Annotated[dict[ShortText, ShortText], Field(max_length=1000)] = {}  # digests of what was read: of the profile, of the trace, …
    speed_metric: Speed  # the metric that counts as per-user speed
    frontier: tuple[PointResult, ...]
    gains: Gains
    memory: tuple[MemoryPoint, ...] = ()  # of a map over load and memory
    published: tuple[PublishedCurve, ...] = ()
    validation: Validation | None = None
    answer: tuple[str, ...] = ()
    warnings: tuple[Remark, ...] = ()
    launch: Launch | None = None
    prediction: PredictionFacts | None = None

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        policies = {policy.name for policy in self.policies}
        distinct("policies", (policy.name for policy in self.policies))
        distinct("frontier", (f"{point.policy} at load {point.load!r}" for point in self.frontier))
        known("gains.baseline", [self.gains.baseline], policies)
        known("launch.policy", [self.launch.policy] if self.launch else [], policies)
        known("frontier", (point.policy for point in self.frontier), policies)
        known("gains.at_sla", (row.policy for row in self.gains.at_sla), policies)
        known("gains.at_matched_throughput", (row.policy for row in self.gains.at_matched_throughput), policies)
        known("published", (curve.policy for curve in self.published), policies)
        return self

    @property
    def baseline(self) -> str:
        """The policy that the others are compared with."""
        return self.gains.baseline

    def policy(self, name: str | None) -> PolicyFacts | None:
        """The policy of that name, if there is one."""
        return next((policy for policy in self.policies if policy.name == name), None)

    @cached_property
    def choosable(self) -> frozenset[str]:
        """Policies that an engine can run, losslessly: what an answer may name."""
        return frozenset(policy.name for policy in self.policies if not policy.bound and not policy.peeks)

    def best_at_sla(self) -> dict[float, GainAtSla]:
        """At each promised speed that some policy keeps, in their order: who delivers most, as the answer names and pictures mark."""
        best: dict[float, GainAtSla] = {}
        for row in self.gains.at_sla:
            if row.delivered and row.policy in self.choosable:
                held = best.get(row.sla_tps)
                if held is None or held.delivered is None or row.delivered.mean > held.delivered.mean:
                    best[row.sla_tps] = row
        return best

    def best_at_match(self) -> list[GainAtThroughput]:
        """At each throughput to match: who is fastest; left out where that is a loss and another policy was not simulated there."""
        best = []
        for promise in dict.fromkeys(row.sla_tps for row in self.gains.at_matched_throughput):
            rows = [row for row in self.gains.at_matched_throughput if row.sla_tps == promise and row.policy in self.choosable]
            gained = [(row.gain.mean, row) for row in rows if row.gain]
            mean, fastest = max(gained, key=lambda pair: pair[0], default=(0.0, None))
            if fastest and (mean >= 0 or len(gained) == len(rows)):
                best.append(fastest)
        return best

    def place(self, policy: PolicyFacts) -> int:
        """Its place in the list, for its colour and mark."""
        return self.policies.index(policy)

    @cached_property
    def points(self) -> Mapping[str, tuple[PointResult, ...]]:
        """By policy, loads ascending."""
        ordered = sorted(self.frontier, key=lambda point: point.load)
        return {policy.name: tuple(point for point in ordered if point.policy == policy.name) for policy in self.policies}

    def all_points(self) -> Iterable[PointResult]:
        """Policy by policy, loads ascending."""
        return (point for points in self.points.values() for point in points)

    def loads(self) -> list[float]:
        """Every load that any policy met, ascending."""
        return sorted({point.load for point in self.frontier})

    def has(self, *metrics: str) -> bool:
        """Is any of these metrics known at any point?"""
        return any(point.metrics.get(metric) for point in self.frontier for metric in metrics)

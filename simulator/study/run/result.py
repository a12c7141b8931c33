"""What a run's result holds, as frozen classes: result.json, validation.json and the rows of points.csv are these, written down.
Files of other versions and foreign ones are judged in `from_json` and nowhere else. One file, because it is the shape of one file: result.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from simulator.errors import DsimError
from simulator.study.run.metrics import Number, Verdict

if TYPE_CHECKING:
    from simulator.measurements.profile import Profile


class Record(BaseModel):
    """Part of a result. Keys that a reader does not know are left out; those that were never set are not written."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, source: object, **more: Any) -> Self:
        """With what `source` has under the same names, and more."""
        return cls(**{name: getattr(source, name) for name in cls.model_fields if name not in more}, **more)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: what `from_json` reads."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def from_json(cls, data: object, where: Path | str = "", remedy: str = "make it again with this version of dsim") -> Self:
        """Read from parsed JSON. Raises DsimError with the first key that does not fit."""
        try:
            return cls.model_validate(data)
        except ValidationError as problem:
            first = problem.errors()[0]
            key = ".".join(map(str, first["loc"])) or None
            raise DsimError(f"not a result of this dsim ({first['msg']})", where=where, key=key, remedy=remedy) from None


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
    return None if isinstance(raw, Mapping) and raw.get("mean") is None else raw


UNKNOWN = {"mean": None, "low": None, "high": None}
Maybe = Annotated[Estimate | None, BeforeValidator(_maybe), PlainSerializer(lambda e: e.to_json() if e else UNKNOWN)]  # None is three nulls in a file


class Row(Record):
    """One simulated run: its load, replication, verdict and every number by name."""

    load: float
    replication: int
    verdict: Verdict
    numbers: dict[str, Number]

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name]


class PointRow(Row):
    """A row of points.csv: one policy at one load in one replication; its numbers are the metrics."""

    policy: str
    drafter: str
    load_kind: str
    requests: int
    curves: dict[str, tuple[float, ...]] = {}  # TTFT and TPOT, seconds, at each of metrics.SHARES
    path: str  # of the engine, and why it is the plain one
    why_plain: str


class ScenarioFacts(Record):
    """Which question, and how much was simulated."""

    name: str
    question: str = ""
    file: str
    seed: int
    replications: int
    overrides: tuple[str, ...] = ()
    content: dict[str, Any]  # of the YAML


class Source(Record):
    """Where a table of a profile comes from."""

    table: str
    provenance: str
    source: str = ""
    note: str = ""


def sources(profile: Profile) -> tuple[Source, ...]:
    """Those of all its tables."""
    return tuple(Source(**row) for row in profile.provenance())


class ProfileFacts(Record):
    """What was simulated, and what is known of it."""

    name: str
    hardware: str
    engine: str
    target: str
    gpus_per_replica: float
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    not_identifiable: tuple[str, ...] = ()
    provenance: tuple[Source, ...] = ()


class PolicyFacts(Record):
    """A policy of the study. `bound`: it knows what no policy can know, is drawn dashed and never a plan; `peeks`: its output is not lossless."""

    name: str
    drafter: str | None = None
    verification: dict[str, Any]
    bound: bool
    peeks: bool = False

    @property
    def rule(self) -> str:
        """`threshold (threshold 0.5, of survival)`."""
        rest = ", ".join(f"{key} {value}" for key, value in self.verification.items() if key != "kind" and value is not None)
        kind = str(self.verification.get("kind", ""))
        return f"{kind} ({rest})" if rest else kind


class PointResult(Record):
    """One policy at one load over all replications: every metric with its interval, and the worst verdict."""

    policy: str
    drafter: str
    load: float
    n: int
    requests: int
    verdict: Verdict
    metrics: dict[str, Maybe]
    curves: dict[str, tuple[float, ...]] = {}  # TTFT and TPOT, seconds, at each of metrics.SHARES: means over replications

    def get(self, metric: str) -> Estimate | None:
        """A metric's estimate, None where it is not known."""
        return self.metrics.get(metric)

    def mean(self, metric: str) -> float | None:
        """Its mean."""
        estimate = self.metrics.get(metric)
        return estimate.mean if estimate else None


class GainAtSla(Record):
    """What a policy delivers (tok/s per GPU) at a promised speed, and gains over the baseline; `at_least` where all its loads keep the promise."""

    sla_tps: float
    policy: str
    throughput: Estimate | None
    baseline_throughput: Estimate | None
    gain: Estimate | None
    at_least: Estimate | None = None
    note: str | None

    @property
    def delivered(self) -> Estimate | None:
        """Its throughput, or what that is at least."""
        return self.throughput or self.at_least


class GainAtThroughput(Record):
    """How fast a policy is (tok/s per user) where it delivers what the baseline delivers at a promise, and what it gains."""

    throughput: float | None
    because: str
    policy: str
    sla_tps: float
    tps: Estimate | None
    baseline_tps: Estimate | None
    gain: Estimate | None
    note: str | None


class Gains(Record):
    """Gains over the baseline, paired by replication."""

    baseline: str
    at_sla: tuple[GainAtSla, ...]
    at_matched_throughput: tuple[GainAtThroughput, ...]


class PublishedCurve(Record):
    """A published curve to be drawn behind the simulated ones of `policy`; points are (x, y)."""

    label: str
    policy: str
    x: str
    y: str
    source: str
    points: tuple[tuple[float, float], ...]


class ValidationRow(Record):
    """One comparison in a line. `difference` is relative (`unit` fraction or value), in gain (gain), or steps of a grid (concurrency)."""

    what: str
    policy: str | None = None
    simulated: Number = None
    interval: tuple[float | None, float | None] | None = None
    published: Number = None
    difference: Number
    unit: str = "fraction"
    n: int | None = None
    mean_absolute_difference: float | None = None
    fitted: bool = False
    limit: Number = None
    ok: bool | None = None

    @classmethod
    def judged(cls, what: str, difference: Number, limit: Number, **more: Any) -> Self:
        """A row that is ok where its difference is known and within its limit, if it has one."""
        ok = None if limit is None else difference is not None and abs(difference) <= limit
        return cls(what=what, difference=difference, limit=limit, ok=ok, **more)


class ValidationPoint(Record):
    """One compared cell: a metric of a policy at a load."""

    policy: str
    metric: str
    load: int | float | str
    table: str
    simulated: Number
    published: Number
    difference: Number
    fitted: bool = False


class Validation(Record):
    """A result beside what was published; `ok`: all limits are kept (None: there are none)."""

    rows: tuple[ValidationRow, ...]
    points: tuple[ValidationPoint, ...] = ()
    ok: bool | None = None


class Remark(Record):
    """What a reader must know before relying on a result, with its remedy."""

    severity: Literal["warning", "note"]
    text: str
    remedy: str = ""


class EngineLaunch(Record):
    """How an engine is started so that it comes nearest to a policy: environment, arguments, files beside the command, what is to be filled in, and
    what the engine does otherwise than was simulated."""

    engine: str
    environment: dict[str, str] = {}
    command: tuple[str, ...]
    files: dict[str, str] = {}
    fill_in: tuple[str, ...] = ()
    otherwise: tuple[str, ...] = ()


class Launch(Record):
    """What to deploy for a policy: one command for each of `replicas` servers."""

    policy: str
    replicas: int
    engines: tuple[EngineLaunch, ...]


class RunResult(Record):
    """All of result.json; every report is made from it."""

    dsim_version: str
    scenario: ScenarioFacts
    profile: ProfileFacts
    conditions: tuple[str, ...] = ()
    policies: tuple[PolicyFacts, ...]
    load_kind: str
    load_unit: str
    trace: str = ""  # what was read of a trace
    speed_metric: str  # the metric that counts as per-user speed
    frontier: tuple[PointResult, ...]
    gains: Gains
    published: tuple[PublishedCurve, ...] = ()
    validation: Validation | None = None
    answer: tuple[str, ...] = ()
    warnings: tuple[Remark, ...] = ()
    launch: Launch | None = None

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

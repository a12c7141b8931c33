"""A score: what a seal predicted beside what was measured, as frozen classes. docs/board/NAME.score.json is these, written down."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from simulator.quantities import Share
from simulator.study.run.record import Document, Record, ShortText, distinct
from simulator.study.sealed.seal import Condition, Sha256

Kind = Literal["concurrency", "rate_rps"]
KINDS: tuple[Kind, Kind] = ("concurrency", "rate_rps")


class ScoredNumber(Record):
    """A number of a cell. `error` is predicted ÷ measured − 1; `inside` says whether the prediction interval holds the measured mean."""

    measured: PositiveFloat
    predicted: PositiveFloat
    low: NonNegativeFloat | None
    high: NonNegativeFloat | None
    error: float
    inside: bool | None


class ScoredCell(Record):
    """One policy at one load: its measured files, and every number that both sides have."""

    condition: ShortText
    policy: ShortText
    load: PositiveFloat
    kind: Kind
    files: tuple[str, ...]
    repeats: PositiveInt
    requests: NonNegativeInt  # finished, of all repeats
    failed: NonNegativeInt
    numbers: dict[str, ScoredNumber]
    pace: PositiveFloat | None = None  # of the machine meanwhile, ÷ that beside the probes: above 1 it was slower
    files_sha256: tuple[Sha256, ...] = ()


class Place(Record):
    """A cell, by name."""

    condition: ShortText
    policy: ShortText
    load: PositiveFloat


class Summary(Record):
    """Sizes of the errors of a number over all cells of a kind of load, and how often its interval held: `share` of those that have one. `noise`
    is the standard deviation of one measurement's logarithm, from repeats of that kind, else of the other; null without any."""

    kind: Kind
    number: ShortText
    cells: PositiveInt
    median: NonNegativeFloat
    p90: NonNegativeFloat
    worst: NonNegativeFloat
    worst_at: Place
    held: NonNegativeInt
    intervals: NonNegativeInt
    half_width: NonNegativeFloat | None  # of an interval, over the prediction; the median
    noise: NonNegativeFloat | None


class Pair(Record):
    """Two policies at a load that were ranked wrongly: `first` was measured to be faster by `measured`, and predicted to be by `predicted`."""

    condition: ShortText
    load: PositiveFloat
    first: ShortText
    second: ShortText
    measured: float
    predicted: float


class Ranking(Record):
    """Pairs of policies at the same load whose measured speeds differ by more than noise, and how many were predicted in the right order."""

    pairs: NonNegativeInt
    right: NonNegativeInt
    ties: NonNegativeInt  # left out: within noise
    wrong: tuple[Pair, ...]


class Regret(Record):
    """What following the prediction costs: 1 − what its choice was measured to give ÷ what the best measured choice gives; per-user speed at a load,
    or throughput at a promised per-user speed."""

    condition: ShortText
    load: PositiveFloat | None = None
    tps_per_user: PositiveFloat | None = None
    chosen: ShortText
    best: ShortText
    loss: Share


class KneeFound(Record):
    """The knee of a policy, and what running at the predicted load costs in throughput × speed, measured."""

    condition: ShortText
    policy: ShortText
    predicted: PositiveFloat
    measured: PositiveFloat
    loss: Share


class CrossingFound(Record):
    """Loads at which two policies change places; none where they do not."""

    condition: ShortText
    first: ShortText
    second: ShortText
    predicted: tuple[PositiveFloat, ...]
    measured: tuple[PositiveFloat, ...]


class Limit(Record):
    """A limit of the board, what was found, and whether it is kept."""

    what: ShortText
    value: float
    least: float | None = None
    most: float | None = None
    ok: bool


class OtherTool(Record):
    """Predictions of another tool for the same cells, beside those of the seal for the cells that it has."""

    tool: ShortText
    how: str
    number: ShortText
    kind: Kind
    cells: PositiveInt
    median: NonNegativeFloat
    worst: NonNegativeFloat
    ours_median: NonNegativeFloat
    ours_worst: NonNegativeFloat


class AtPace(Record):
    """Errors of a number of closed loops as they would be at the pace of the probes, if speed went in inverse proportion to the pace; and the noise
    of repeats as measured and at that pace, null without any: the pace explains what they differ by only where the latter is smaller."""

    number: ShortText
    cells: PositiveInt
    median: NonNegativeFloat
    worst: NonNegativeFloat
    noise_measured: NonNegativeFloat | None
    noise: NonNegativeFloat | None


class Pace(Record):
    """How fast the machine was beside the measurements: seconds of a fixed piece of work ÷ their median beside the `probes`, the results that the
    profile was made from. `spread` is the standard deviation of the probes' logarithm; cells whose pace differs by more than `marked` are counted."""

    probes: PositiveInt
    spread: NonNegativeFloat
    cells: PositiveInt
    lowest: PositiveFloat
    median: PositiveFloat
    highest: PositiveFloat
    marked: Share
    off: NonNegativeInt
    errors: tuple[AtPace, ...]


class SealFacts(Record):
    """Which seal: its digest, when and by what it was made, and the digest of each condition's profile."""

    digest: Sha256
    sealed_at: ShortText
    dsim_version: ShortText
    commit: ShortText
    code: ShortText
    profiles: dict[str, Sha256]


class ConditionFacts(Record):
    """Under which conditions it was measured."""

    name: ShortText
    kind: Kind
    policies: tuple[str, ...]
    loads: tuple[PositiveFloat, ...]
    description: tuple[str, ...]
    replicas: PositiveInt = 1  # that a load of users is divided by

    @classmethod
    def of_sealed(cls, condition: Condition) -> Self:
        """Those of a condition of a seal."""
        loads, policies = sorted({cell.load for cell in condition.cells}), (policy.name for policy in condition.policies)
        return cls.of(condition, kind=condition.load_kind, policies=tuple(policies), loads=tuple(loads))


class Score(Document):
    """All of a score file."""

    kind: Literal["score"] = "score"
    name: Annotated[ShortText, Field(min_length=1)]
    dsim_version: ShortText
    scored_at: ShortText  # UTC
    engine: str
    hardware: str
    model: str
    seal: SealFacts
    first_measured: str  # as the files have it
    last_measured: str
    older: NonNegativeInt  # measurements that were there before the seal
    undated: NonNegativeInt = 0  # that do not say when they were made
    conditions: tuple[ConditionFacts, ...]
    cells: Annotated[tuple[ScoredCell, ...], Field(min_length=1)]
    not_measured: tuple[Place, ...]
    not_sealed: tuple[str, ...]  # files
    failed: NonNegativeInt  # requests of the measured cells
    summary: tuple[Summary, ...]
    ranking: Ranking
    regret: tuple[Regret, ...]
    knees: tuple[KneeFound, ...]
    crossings: tuple[CrossingFound, ...]
    others: tuple[OtherTool, ...] = ()
    pace: Pace | None = None
    limits: tuple[Limit, ...]
    remarks: tuple[str, ...]

    @model_validator(mode="after")
    def _cells_once(self) -> Self:
        distinct("cells", (f"{cell.condition}/{cell.policy} at {cell.load}" for cell in self.cells))
        return self

    @property
    def ok(self) -> bool:
        """Are all limits kept?"""
        return all(limit.ok for limit in self.limits)

    def errors_of(self, number: str, kind: Kind = "concurrency") -> Summary | None:
        """The errors of a number."""
        return next((summary for summary in self.summary if (summary.number, summary.kind) == (number, kind)), None)

    @property
    def mean_regret(self) -> float | None:
        """Over all decisions."""
        return sum(regret.loss for regret in self.regret) / len(self.regret) if self.regret else None

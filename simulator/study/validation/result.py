"""What a comparison with measurements holds, as frozen classes: the files of docs/validation, and the engine's check, are these, written down."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PlainSerializer, PositiveInt, model_validator

from simulator.study.run.facts import Source
from simulator.study.run.record import Document, Record, ShortText
from simulator.study.run.validated import ValidationPoint, ValidationRow, check_verdict

Measured = Annotated[
    float, BeforeValidator(lambda raw: math.nan if raw is None else raw), PlainSerializer(lambda value: None if math.isnan(value) else value)
]  # NaN where nothing was measured, which a file has as null


def today() -> str:
    """YYYY-MM-DD, UTC."""
    return datetime.now(UTC).date().isoformat()


class Fit(Record):
    """Costs fitted to a run's series, seconds, and the share of tokens that they leave over (rms)."""

    verify: dict[str, float]
    prefill: dict[str, float]
    clock_s: float
    left_over: float
    evaluations: int


class Comparison(Document):
    """A simulation beside what was measured: with what, under which conditions, and how far off. `headline` names the metrics whose errors count
    (None: all cells that were not fitted); `cells` are those errors where they are too many to be points. What a probe or an engine's check keep
    beside it is left out."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[ShortText, Field(min_length=1)]
    title: str
    system: str
    sources: tuple[str, ...]
    command: str
    dsim_version: ShortText = ""
    date: ShortText = ""  # when it was compared
    conditions: tuple[str, ...] = ()
    provenance: tuple[Source, ...] = ()
    assumed: tuple[str, ...] = ()
    not_identifiable: tuple[str, ...] = ()
    fits: dict[Annotated[str, Field(min_length=1)], Fit] = {}
    rows: tuple[ValidationRow, ...]
    points: tuple[ValidationPoint, ...]
    ok: bool | None
    compared_with: str = "published"
    headline: tuple[str, ...] | None = None
    cells: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _ok_where_its_rows_are(self) -> Self:
        check_verdict(self.ok, self.rows)
        return self


class Causes(Record):
    """The throughput's error in parts that multiply, and the host's time and the step-time noise beside them."""

    cost_model: Measured
    acceptance: Measured
    rest: Measured
    host_measured_s: Measured
    host_model_s: Measured
    step_noise: Measured


class EngineRun(Record):
    """One run of the engine beside its simulation, number by number; NaN where nothing was measured."""

    policy: ShortText
    concurrency: PositiveInt
    open_loop: bool
    requests: NonNegativeInt
    measured: dict[str, Measured]
    simulated: dict[str, Measured]
    simulated_std: dict[str, Measured]
    error: dict[str, Measured]
    why: Causes
    error_at_measured_pace: dict[str, Measured]

    @property
    def load(self) -> int | str:
        """Requests at a time, or `open`."""
        return "open" if self.open_loop else self.concurrency


class ErrorSummary(Record):
    """Sizes of errors over all runs; not set where no run has one."""

    median: NonNegativeFloat | None = None
    worst: NonNegativeFloat | None = None


class Ranking(Record):
    """Of `pairs` of policies, how often the better one was named; share NaN where there are none."""

    pairs: NonNegativeInt
    right: NonNegativeInt
    share: Measured


class EngineCheck(Record):
    """The simulator against an engine on the same requests."""

    runs: tuple[EngineRun, ...]
    summary: dict[str, ErrorSummary]  # by number
    ranking: Ranking
    replications: PositiveInt


class EngineComparison(Comparison, EngineCheck):
    """The same as a comparison of docs/validation: judged by limits, with its conditions."""

"""What a comparison with measurements holds, as frozen classes: the files of docs/validation, and the engine's check, are these, written down."""

from __future__ import annotations

from simulator.study.run.result import Record, Source, ValidationPoint, ValidationRow


class Fit(Record):
    """Costs fitted to a run's series, seconds, and the share of tokens that they leave over (rms)."""

    verify: dict[str, float]
    prefill: dict[str, float]
    clock_s: float
    left_over: float
    evaluations: int


class Comparison(Record):
    """A simulation beside what was measured: with what, under which conditions, and how far off. `headline` names the metrics whose errors count
    (None: all cells that were not fitted)."""

    name: str
    title: str
    system: str
    sources: tuple[str, ...]
    command: str
    dsim_version: str = ""
    conditions: tuple[str, ...] = ()
    provenance: tuple[Source, ...] = ()
    assumed: tuple[str, ...] = ()
    not_identifiable: tuple[str, ...] = ()
    fits: dict[str, Fit] = {}
    rows: tuple[ValidationRow, ...]
    points: tuple[ValidationPoint, ...]
    ok: bool | None
    compared_with: str = "published"
    headline: tuple[str, ...] | None = None


class Causes(Record):
    """The throughput's error in parts that multiply, and the host's time and the step-time noise beside them."""

    cost_model: float
    acceptance: float
    rest: float
    host_measured_s: float
    host_model_s: float
    step_noise: float


class EngineRun(Record):
    """One run of the engine beside its simulation, number by number; NaN where nothing was measured."""

    policy: str
    concurrency: int
    open_loop: bool
    requests: int
    measured: dict[str, float]
    simulated: dict[str, float]
    simulated_std: dict[str, float]
    error: dict[str, float]
    why: Causes
    error_at_measured_pace: dict[str, float]

    @property
    def load(self) -> int | str:
        """Requests at a time, or `open`."""
        return "open" if self.open_loop else self.concurrency


class ErrorSummary(Record):
    """Sizes of errors over all runs; not set where no run has one."""

    median: float | None = None
    worst: float | None = None


class Ranking(Record):
    """Of `pairs` of policies, how often the better one was named; share NaN where there are none."""

    pairs: int
    right: int
    share: float


class EngineCheck(Record):
    """The simulator against an engine on the same requests."""

    runs: tuple[EngineRun, ...]
    summary: dict[str, ErrorSummary]  # by number
    ranking: Ranking
    replications: int


class EngineComparison(Comparison, EngineCheck):
    """The same as a comparison of docs/validation: judged by limits, with its conditions."""

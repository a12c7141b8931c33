"""What a plan's result holds, as frozen classes: its result.json is these, written down."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PlainSerializer, PositiveFloat, PositiveInt, model_validator

from simulator.complaints import shown
from simulator.names import Anywhere
from simulator.study.planning.judge import Judgement
from simulator.study.planning.question import Price
from simulator.study.planning.sla import Sla
from simulator.study.run.classes import ClassRow
from simulator.study.run.facts import Source, UnsureFacts, WorthMeasuring
from simulator.study.run.launch import Launch
from simulator.study.run.metrics import Verdict
from simulator.study.run.record import Document, Record, ShortText, distinct, known, same_length
from simulator.study.run.result import Maybe, Range, Remark

Outcome = Literal["planned", "unattainable", "too few replicas", "not clear"]
METRICS = (
    "speed", "ttft", "throughput_tok_s_gpu", "accepted_length", "verification_budget", "waste_fraction", "concurrency_mean", "waiting_mean",
    "busy_fraction", "preemptions", "unfinished", "speed_kept", "ttft_kept", "requests", "goodput_rps", "goodput_rps_gpu", "goodput_share",
    "left", "stopped", "timed_out", "retries", "prefix_hit_share", "prompt_time_share", "sessions",
)  # fmt: skip
DRAWN = ("speed", "ttft", "throughput_tok_s_gpu", "accepted_length", "verification_budget", "concurrency_mean")  # by the page: never left out
_WHOLE = PlainSerializer(lambda model: model.model_dump())  # defaults too


class PlanFacts(Record):
    """Which question was asked."""

    name: ShortText
    question: str = ""
    file: Anywhere
    seed: NonNegativeInt
    overrides: tuple[str, ...] = ()
    content: dict[str, Any]  # of the YAML


class LoadFacts(Record):
    """What comes: requests per second in the mean and at the peak, and what a request is in the mean."""

    mean_rps: NonNegativeFloat
    peak_rps: NonNegativeFloat
    mean_prompt_tokens: NonNegativeFloat
    mean_output_tokens: NonNegativeFloat
    told: str
    trace: str = ""  # what was read of a trace


class OfferedProfile(Record):
    """A profile to choose from, its price, and what is known of it."""

    name: ShortText
    hardware: str
    engine: str
    target: str
    gpus_per_replica: PositiveFloat
    gpu_hour: PositiveFloat
    provenance: tuple[Source, ...] = ()
    assumed: tuple[str, ...] = ()
    not_identifiable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _drawn_and_known(metrics: dict[str, Any]) -> dict[str, Any]:
    if unknown := next((name for name in metrics if name not in METRICS), None):
        raise ValueError(f"unknown metric {shown(unknown)}")
    if missing := next((name for name in DRAWN if name not in metrics), None):
        raise ValueError(f"has no {missing}")
    return metrics


class FleetResult(Record):
    """A simulated fleet at the planned load: is the SLA kept, and every metric with its interval over `n` replications. `sure_speed` is what
    the next replication reaches with 95 % confidence, tok/s."""

    replicas: PositiveInt
    gpus: PositiveFloat
    rps_per_replica: NonNegativeFloat
    cost_per_mtok: NonNegativeFloat
    n: NonNegativeInt
    kept: Judgement
    verdict: Verdict
    sure_speed: float | None
    metrics: Annotated[dict[str, Maybe], AfterValidator(_drawn_and_known)]
    classes: tuple[ClassRow, ...] = ()  # of requests: counts summed over replications, times and rates in the mean

    def mean(self, metric: str) -> float | None:
        """Of a metric, None where it is not known."""
        estimate = self.metrics.get(metric)
        return estimate.mean if estimate else None


class SmallerFleet(Record):
    """The fleet with one replica less than needed: `kept` of its `n` replications keep the SLA."""

    replicas: NonNegativeInt
    n: NonNegativeInt
    kept: NonNegativeInt


class LossResult(Record):
    """What users see while one replica is lost."""

    speed: Maybe
    ttft: Maybe
    speed_kept: Maybe


class SureNeed(Record):
    """What a choice may need: GPUs in the middle 90 % of the draws (None where no fleet would do in some of those), the share of draws in which its
    fleet is enough and in which it costs least (None for a bound), and the replicas that are enough as often as asked."""

    gpus: Range | None
    enough_in: Annotated[float, Field(ge=0, le=1)]
    cheapest_in: Annotated[float, Field(ge=0, le=1)] | None
    replicas: PositiveInt | None


class PlanPrediction(Record):
    """What prediction intervals are made of: shares of the variance of the chosen fleet's need, and the benchmark worth most."""

    level: Annotated[float, Field(gt=0, lt=1)]
    draws: PositiveInt
    probability: Annotated[float, Field(gt=0, lt=1)]
    kind: str
    points: NonNegativeInt
    unsure: tuple[UnsureFacts, ...]
    model_share: Annotated[float, Field(ge=0, le=1)]
    measure: WorthMeasuring | None = None


class TokenPrices(Record):
    """What a fleet costs per million tokens of each kind: of prompts that are processed, of prompts that are in the cache, and of answers. The three
    add up to all that the fleet costs. `prompt_share` of the GPUs' time in steps goes to prompts, `cached_share` of it to what is cached."""

    input: NonNegativeFloat
    cached: NonNegativeFloat | None
    output: NonNegativeFloat
    prompt_share: Annotated[float, Field(ge=0, le=1)]
    cached_share: Annotated[float, Field(ge=0, le=1)]


class ChoiceResult(Record):
    """A profile, policy and setting: the least fleet, what it costs and carries, and the fleets around it. `replicas` are bought, of which
    `replicas_needed` carry the peak; None where the outcome is not `planned`. Costs are per hour and per million output tokens."""

    cell: int
    label: ShortText
    profile: ShortText
    policy: ShortText
    setting: ShortText
    verification: dict[str, Any]
    bound: bool
    outcome: Outcome
    alone_tps: float | None
    fluid_bound: float | None
    replicas_needed: PositiveInt | None
    replicas: PositiveInt | None
    gpus: PositiveFloat | None
    cost_per_hour: NonNegativeFloat | None
    cost_per_mtok: NonNegativeFloat | None
    carried_rps: float | None
    headroom: float | None
    points: tuple[FleetResult, ...]
    fewer: SmallerFleet | None
    loss: LossResult | None
    sure: SureNeed | None = None
    prices: TokenPrices | None = None
    sessions_per_gpu: NonNegativeFloat | None = None  # under way at the peak, pauses included

    @model_validator(mode="after")
    def _planned_in_full(self) -> Self:
        distinct("points", (fleet.replicas for fleet in self.points))
        size = (self.replicas_needed, self.replicas, self.gpus, self.cost_per_hour, self.cost_per_mtok)
        if self.outcome == "planned" and None in size:
            raise ValueError("is planned, but without replicas, GPUs or costs")
        return self

    @property
    def at_peak(self) -> FleetResult | None:
        """The fleet that just carries the peak."""
        return next((fleet for fleet in self.points if fleet.replicas == self.replicas_needed), None)


class ChoiceAtPromise(Record):
    """What a choice needs at another promised speed, from the simulated fleets; `exact` where the next smaller one fails as well."""

    cell: int
    replicas: PositiveInt | None
    gpus: PositiveFloat | None
    cost_per_mtok: NonNegativeFloat | None
    throughput: float | None
    speed: float | None
    exact: bool


class PromiseResult(Record):
    """All choices at a promised speed, and the cheapest."""

    tps: PositiveFloat
    cells: tuple[ChoiceAtPromise, ...]
    best: int | None


class ThreeWays(Record):
    """The same of a fleet that is always on, started by forecast, and started when needed."""

    fixed: float
    forecast: float
    reactive: float


class DayResult(Record):
    """Replicas through the span of the traffic, slot by slot, and what they cost; `reactive_short_share` of the requests meet too few."""

    cell: int
    span_s: PositiveFloat
    slot_s: PositiveFloat
    rate_rps: tuple[NonNegativeFloat, ...]
    needed: tuple[NonNegativeInt, ...]
    paid: tuple[NonNegativeInt, ...]
    reactive: tuple[NonNegativeInt, ...]
    fixed: NonNegativeInt
    start_up_s: NonNegativeFloat
    carries_rps: dict[str, float]  # by replicas
    replica_hours: ThreeWays
    cost_per_mtok: ThreeWays
    reactive_short_share: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _of_the_same_slots(self) -> Self:
        same_length(rate_rps=self.rate_rps, needed=self.needed, paid=self.paid, reactive=self.reactive)
        return self


class ChangeResult(Record):
    """One assumption moved: the replicas then needed, and what the unchanged fleet gives; `speed_change` is paired by replication."""

    name: str
    label: ShortText
    pair: str
    replicas: PositiveInt | None
    gpus: PositiveFloat | None
    speed: Maybe
    speed_change: Maybe
    ttft: Maybe
    keeps_unchanged: bool
    overloads: bool


class PairedGain(Record):
    """The promised speed under a scheduled choice against the best fixed one, same fleet and random draws."""

    scheduled: int
    fixed: int
    replicas: PositiveInt
    gain: Maybe
    n: NonNegativeInt
    distinguishable: bool
    worst_margin: float


class BreakEvenCurve(Record):
    """For one acceptance, by batch size: the best fixed length and what it gains over no drafting; from `stops_at` on nothing is gained."""

    acceptance: PositiveFloat
    best_length: tuple[NonNegativeInt, ...]
    gain: tuple[float, ...]
    stops_at: PositiveInt | None


class BreakEven(Record):
    """When speculation pays, for a profile and drafter; `batch` sizes, and the speed without drafting at each."""

    profile: ShortText
    drafter: ShortText
    batch: tuple[PositiveInt, ...]
    tps_without: tuple[float, ...]
    curves: tuple[BreakEvenCurve, ...]

    @model_validator(mode="after")
    def _of_the_same_batches(self) -> Self:
        same_length(batch=self.batch, tps_without=self.tps_without)
        for curve in self.curves:
            same_length(batch=self.batch, best_length=curve.best_length, gain=curve.gain)
        distinct("batch", self.batch)
        return self


class PlanResult(Document):
    """All of a plan's result.json; every report of it is made from it."""

    dsim_version: ShortText
    kind: Literal["plan"] = "plan"
    plan: PlanFacts
    sla: Annotated[Sla, _WHOLE]
    price: Annotated[Price, _WHOLE]
    load: LoadFacts
    profiles: tuple[OfferedProfile, ...]
    cells: tuple[ChoiceResult, ...]
    best: int
    promises: tuple[PositiveFloat, ...]
    by_promise: tuple[PromiseResult, ...]
    day: DayResult | None
    what_if: tuple[ChangeResult, ...]
    gains: tuple[PairedGain, ...]
    break_even: tuple[BreakEven, ...]
    conditions: tuple[str, ...]
    trials: NonNegativeInt
    warnings: tuple[Remark, ...] = ()
    answer: tuple[str, ...] = ()
    prediction: PlanPrediction | None = None
    launch: Launch | None = None

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        cells = {choice.cell for choice in self.cells}
        distinct("cells", (choice.cell for choice in self.cells))
        distinct("by_promise", (row.tps for row in self.by_promise))
        known("cells", (choice.profile for choice in self.cells), {profile.name for profile in self.profiles})
        known("best", [self.best], cells)
        known("day.cell", [self.day.cell] if self.day else [], cells)
        known("gains", (cell for pair in self.gains for cell in (pair.scheduled, pair.fixed)), cells)
        for place, row in enumerate(self.by_promise):
            known(f"by_promise.{place}.cells", (need.cell for need in row.cells), cells)
            known(f"by_promise.{place}.best", [] if row.best is None else [row.best], {need.cell for need in row.cells})
        if self.chosen.outcome != "planned":
            raise ValueError(f"best: choice {self.best} is not planned")
        return self

    def choice(self, cell: int) -> ChoiceResult:
        """The choice of that number."""
        return next(choice for choice in self.cells if choice.cell == cell)

    @property
    def has_speeds(self) -> bool:
        """Does any fleet's user have a speed? Answers of one token have none."""
        return any(fleet.mean("speed") for choice in self.cells for fleet in choice.points)

    @property
    def chosen(self) -> ChoiceResult:
        """The one that is planned."""
        return self.choice(self.best)

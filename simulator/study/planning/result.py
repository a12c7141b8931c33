"""What a plan's result holds, as frozen classes: its result.json is these, written down."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PlainSerializer

from simulator.study.planning.judge import Judgement
from simulator.study.planning.question import Price, Sla
from simulator.study.run.metrics import Verdict
from simulator.study.run.result import Launch, Maybe, Record, Remark, Source

Outcome = Literal["planned", "unattainable", "too few replicas", "not clear"]
_WHOLE = PlainSerializer(lambda model: model.model_dump())  # defaults too


class PlanFacts(Record):
    """Which question was asked."""

    name: str
    question: str = ""
    file: str
    seed: int
    overrides: tuple[str, ...] = ()
    content: dict[str, Any]  # of the YAML


class LoadFacts(Record):
    """What comes: requests per second in the mean and at the peak, and what a request is in the mean."""

    mean_rps: float
    peak_rps: float
    mean_prompt_tokens: float
    mean_output_tokens: float
    told: str
    trace: str = ""  # what was read of a trace


class OfferedProfile(Record):
    """A profile to choose from, its price, and what is known of it."""

    name: str
    hardware: str
    engine: str
    target: str
    gpus_per_replica: float
    gpu_hour: float
    provenance: tuple[Source, ...] = ()
    assumed: tuple[str, ...] = ()
    not_identifiable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class FleetResult(Record):
    """A simulated fleet at the planned load: is the SLA kept, and every metric with its interval over `n` replications. `sure_speed` is what
    the next replication reaches with 95 % confidence, tok/s."""

    replicas: int
    gpus: float
    rps_per_replica: float
    cost_per_mtok: float
    n: int
    kept: Judgement
    verdict: Verdict
    sure_speed: float | None
    metrics: dict[str, Maybe]

    def mean(self, metric: str) -> float | None:
        """Of a metric, None where it is not known."""
        estimate = self.metrics.get(metric)
        return estimate.mean if estimate else None


class SmallerFleet(Record):
    """The fleet with one replica less than needed: `kept` of its `n` replications keep the SLA."""

    replicas: int
    n: int
    kept: int


class LossResult(Record):
    """What users see while one replica is lost."""

    speed: Maybe
    ttft: Maybe
    speed_kept: Maybe


class ChoiceResult(Record):
    """A profile, policy and setting: the least fleet, what it costs and carries, and the fleets around it. `replicas` are bought, of which
    `replicas_needed` carry the peak; None where the outcome is not `planned`. Costs are per hour and per million output tokens."""

    cell: int
    label: str
    profile: str
    policy: str
    setting: str
    verification: dict[str, Any]
    bound: bool
    outcome: Outcome
    alone_tps: float | None
    fluid_bound: float | None
    replicas_needed: int | None
    replicas: int | None
    gpus: float | None
    cost_per_hour: float | None
    cost_per_mtok: float | None
    carried_rps: float | None
    headroom: float | None
    points: tuple[FleetResult, ...]
    fewer: SmallerFleet | None
    loss: LossResult | None

    @property
    def at_peak(self) -> FleetResult | None:
        """The fleet that just carries the peak."""
        return next((fleet for fleet in self.points if fleet.replicas == self.replicas_needed), None)


class ChoiceAtPromise(Record):
    """What a choice needs at another promised speed, from the simulated fleets; `exact` where the next smaller one fails as well."""

    cell: int
    replicas: int | None
    gpus: float | None
    cost_per_mtok: float | None
    throughput: float | None
    speed: float | None
    exact: bool


class PromiseResult(Record):
    """All choices at a promised speed, and the cheapest."""

    tps: float
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
    span_s: float
    slot_s: float
    rate_rps: tuple[float, ...]
    needed: tuple[int, ...]
    paid: tuple[int, ...]
    reactive: tuple[int, ...]
    fixed: int
    start_up_s: float
    carries_rps: dict[str, float]  # by replicas
    replica_hours: ThreeWays
    cost_per_mtok: ThreeWays
    reactive_short_share: float


class ChangeResult(Record):
    """One assumption moved: the replicas then needed, and what the unchanged fleet gives; `speed_change` is paired by replication."""

    name: str
    label: str
    pair: str
    replicas: int | None
    gpus: float | None
    speed: Maybe
    speed_change: Maybe
    ttft: Maybe
    keeps_unchanged: bool
    overloads: bool


class PairedGain(Record):
    """The promised speed under a scheduled choice against the best fixed one, same fleet and random draws."""

    scheduled: int
    fixed: int
    replicas: int
    gain: Maybe
    n: int
    distinguishable: bool
    worst_margin: float


class BreakEvenCurve(Record):
    """For one acceptance, by batch size: the best fixed length and what it gains over no drafting; from `stops_at` on nothing is gained."""

    acceptance: float
    best_length: tuple[int, ...]
    gain: tuple[float, ...]
    stops_at: int | None


class BreakEven(Record):
    """When speculation pays, for a profile and drafter; `batch` sizes, and the speed without drafting at each."""

    profile: str
    drafter: str
    batch: tuple[int, ...]
    tps_without: tuple[float, ...]
    curves: tuple[BreakEvenCurve, ...]


class PlanResult(Record):
    """All of a plan's result.json; every report of it is made from it."""

    dsim_version: str
    kind: Literal["plan"] = "plan"
    plan: PlanFacts
    sla: Annotated[Sla, _WHOLE]
    price: Annotated[Price, _WHOLE]
    load: LoadFacts
    profiles: tuple[OfferedProfile, ...]
    cells: tuple[ChoiceResult, ...]
    best: int
    promises: tuple[float, ...]
    by_promise: tuple[PromiseResult, ...]
    day: DayResult | None
    what_if: tuple[ChangeResult, ...]
    gains: tuple[PairedGain, ...]
    break_even: tuple[BreakEven, ...]
    conditions: tuple[str, ...]
    trials: int
    warnings: tuple[Remark, ...] = ()
    answer: tuple[str, ...] = ()
    launch: Launch | None = None

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

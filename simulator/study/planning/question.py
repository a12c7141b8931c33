"""What a plan asks: profiles, policies and engine settings to choose from, the traffic, the promise and the price, read from one YAML.
One file, because it is the shape of one file."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from simulator import shipped
from simulator.errors import ScenarioError, renamed
from simulator.misspelt import places
from simulator.names import Anywhere, FileName, Name
from simulator.policies.routing import LeastLoaded, Routing
from simulator.policies.verification import Verification
from simulator.quantities import (
    MOST_SECONDS,
    MOST_SLOTS,
    Factor,
    Flag,
    Gamma,
    Money,
    Rate,
    Replicas,
    Seconds,
    Seed,
    SomeSeconds,
    TokensPerSecond,
    Within,
)
from simulator.schema import Distinct, Frozen, validate
from simulator.study.planning.sla import Sla
from simulator.study.run.document import read_document
from simulator.study.run.effort import check_effort
from simulator.study.run.fleet import fleet_of
from simulator.study.run.limits import check_limits, check_machine
from simulator.study.run.scenario import Scenario, validate_scenario
from simulator.study.run.settings import EngineSettings, Policy
from simulator.study.run.shape import Shape, shape_of
from simulator.study.run.span import answer_s, filling_s
from simulator.traffic.workload import Workload

MOST_CHOICES = 2000
SEARCHED = 4  # trials of a choice, at least


class Offer(Frozen):
    """A profile to choose from; its GPU-hour where it costs another price than the rest."""

    profile: Anywhere
    gpu_hour: Money | None = None


def _offered(content: Any) -> Any:
    return {"profile": content} if isinstance(content, str) else content


Offered = Annotated[Offer, BeforeValidator(_offered, json_schema_input_type=Anywhere | Offer)]


class Price(Frozen):
    """What a GPU costs for an hour."""

    gpu_hour: Money
    currency: str = "USD"


class Setting(EngineSettings):
    """One way to set the engine, with a name."""

    name: Name = "default"


class AnyFixed(Frozen):
    """A fixed rule of the policy's `lengths`."""

    kind: Literal["fixed"] = "fixed"


class PlannedPolicy(Policy):
    """A policy as in a scenario; with `lengths` a fixed rule is offered at every one of them, as "NAME k=LENGTH"."""

    verification: Annotated[Verification, BeforeValidator(lambda rule: rule, json_schema_input_type=Verification | AnyFixed)]
    lengths: Annotated[list[Gamma], Field(min_length=1, max_length=MOST_SLOTS), Distinct] | None = None

    @model_validator(mode="before")
    @classmethod
    def _length_is_one_of_them(cls, content: Any) -> Any:
        rule = content.get("verification") if isinstance(content, dict) else None
        if isinstance(rule, dict) and rule.get("kind") == "fixed" and isinstance(content.get("lengths"), list) and content["lengths"]:
            return content | {"verification": {"length": content["lengths"][0]} | rule}
        return content

    @model_validator(mode="after")
    def _only_fixed_has_lengths(self) -> Self:
        if self.lengths and self.verification.kind != "fixed":
            raise ValueError("lengths go with {kind: fixed}")
        if self.load is not None:
            raise ValueError("a plan has one load: drop the policy's")
        return self


class FleetBounds(Frozen):
    """How many replicas may be had, how requests find them, and what a loss or a start costs in time.

    With `survive_loss` one replica may die in the peak window, and the promise is still kept.
    """

    min_replicas: Replicas = 1
    max_replicas: Replicas = 512
    routing: Routing = Field(default_factory=LeastLoaded)
    survive_loss: Flag = False
    start_up_s: Seconds = 300.0

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        least = self.min_replicas + self.survive_loss
        if self.max_replicas < least:
            extra = " and one more to survive a loss" if self.survive_loss else ""
            raise ValueError(f"max_replicas = {self.max_replicas} is below min_replicas = {self.min_replicas}{extra}")
        return self


class PlanRun(Frozen):
    """How much is simulated: seconds of warm-up and of peak (by default as long as the answers ask for), and how many replications at most."""

    seed: Seed = 0
    warmup_s: SomeSeconds | None = None
    window_s: SomeSeconds | None = None
    replications: Annotated[int, Within(2, 10_000, "replications")] = 8


class PlanFile(Frozen):
    """All of a plan's question. `load_rps` is the mean rate of the traffic, multiplied by `growth`; the plan is made for its peak."""

    name: FileName
    question: str = ""
    profiles: Annotated[list[Offered], Field(min_length=1, max_length=1000)]
    policies: Annotated[list[PlannedPolicy], Field(min_length=1, max_length=1000)]
    settings: Annotated[list[Setting], Field(min_length=1, max_length=1000, default_factory=lambda: [Setting()])]
    workload: Workload
    load_rps: Rate
    growth: Factor = 1.0
    sla: Sla
    price: Price
    fleet: FleetBounds = Field(default_factory=FleetBounds)
    run: PlanRun = Field(default_factory=PlanRun)
    promises: Annotated[list[TokensPerSecond], Field(max_length=1000), Distinct] = []
    what_if: Flag | Literal["short"] = True
    notes: list[str] = []
    _file: Path = PrivateAttr(default_factory=Path)
    _content: dict[str, Any] = PrivateAttr(default_factory=dict)
    _overrides: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = {
            "profiles": [offer.profile for offer in self.profiles],
            "policies": [policy.name for policy in self.policies],
            "settings": [setting.name for setting in self.settings],
        }
        for what, several in names.items():
            twice = sorted({name for name in several if several.count(name) > 1})
            if twice:
                raise ValueError(f"two {what} are called '{twice[0]}'")
        if not self.workload.windowed or self.workload.load_kind == "concurrency":
            raise ValueError("a plan wants traffic that comes whatever happens: arrivals of kind closed_loop or benchmark do not")
        if self.workload.sessions is not None and self.workload.load_kind == "rate_scale":
            raise ValueError("a plan wants sessions that come at a rate: use workload.sessions.arrivals of kind poisson with the recorded sessions")
        if self.workload.max_concurrency is not None:
            raise ValueError("a plan wants traffic that comes whatever happens: drop workload.max_concurrency, which holds requests back")
        if not (self.sla.speed or self.sla.ttft or self.workload.classes):
            raise ValueError("sla: expected speed, ttft or both, got neither; or workload.classes, each with an sla of its own")
        if not self.workload.classes and "class_share" in self.sla.model_fields_set:
            raise ValueError("sla.class_share is promised, but there are no workload.classes: drop it, or add them")
        self.sla._classes = {name: one.sla for name, one in self.workload.classes.items()}
        if self.sla.ttft is not None and any(s.prefill.where == "nowhere" for s in self.settings):
            raise ValueError("sla.ttft is promised, but prefill: {kind: instant} leaves prompts out")
        return self

    @property
    def peak_load_rps(self) -> float:
        """Mean requests per second, growth included."""
        return self.load_rps * self.growth


@dataclass(frozen=True)
class Choice:
    """One thing to choose: a profile, a policy and an engine setting."""

    profile: int
    policy: str
    setting: str
    scenario: Scenario
    gpu_hour: float

    @property
    def gpus_per_replica(self) -> float:
        """GPUs that one replica stands on."""
        return self.scenario.known.gpus_per_replica

    def gpus(self, replicas: int) -> float:
        """GPUs of a fleet, prefill workers included where they are counted."""
        return _with(self.scenario, replicas).gpus


class Plan:
    """A question ready to be answered: every choice checked against its profile, and the shape of the traffic known."""

    def __init__(self, question: PlanFile) -> None:
        self.question = question
        self.file, self.folder = question._file, question._file.parent
        trace = question.workload.trace
        if trace is not None and len(set(trace.load(self.folder).arrival_s[[0, -1]])) == 1:
            problem, remedy = f"has no rate over time ({trace.words(self.folder)})", "use a longer trace, or arrivals and lengths"
            raise ScenarioError(problem, where=self.file, key="workload.trace", remedy=remedy)
        self.shape: Shape = shape_of(question.workload, question.peak_load_rps, self.folder)
        self.speed_is_void = self.shape.longest_output <= 1 and question.sla.speed is not None
        if self.speed_is_void:
            if question.sla.ttft is None and not question.workload.classes:
                problem, remedy = "answers have one token, so nobody has a speed", "promise sla.ttft instead, such as {seconds: 1}"
                raise ScenarioError(problem, where=self.file, key="sla.speed", remedy=remedy)
            self.question = question = question.model_copy(update={"sla": question.sla.model_copy(update={"speed": None})})
        self.choices: list[Choice] = self._choices()
        trials = min(question.run.replications, SEARCHED)
        check_effort((choice.scenario for choice in self.choices), trials, trials * len(self.choices), "trial")
        with renamed(self.file, {"engine.max_batch": "fleet.max_replicas", "load": "load_rps"}):
            for cell in range(len(self.choices)):
                check_machine(self.scenario(cell, question.fleet.max_replicas))
        if all(self.bound(cell) for cell in range(len(self.choices))):
            remedy = "add a policy that can be run"
            raise ScenarioError("all policies are bounds that no engine can reach", where=self.file, key="policies", remedy=remedy)

    @cached_property
    def warmup_s(self) -> float:
        """Seconds before anything is measured: three answers or sessions long, 15 at least."""
        return self.question.run.warmup_s or filling_s(self.shape.session_s(self.answers_s[0]))

    @cached_property
    def window_s(self) -> float:
        """Seconds of peak that are measured: six answers long, 400 requests, half a minute at least."""
        return self.question.run.window_s or max(30.0, 6 * self.answers_s[0], 400 / self.question.peak_load_rps)

    @cached_property
    def drain_s(self) -> float:
        """Seconds after the window in which every request ends that is as fast as promised, the longest one too; half a minute at least."""
        longest_s, ttft = 1.2 * self.answers_s[1], self.question.sla.ttft
        promised_s = [(ttft.seconds if ttft else 0.0) + longest_s]
        for one in (each.sla for each in self.question.workload.classes.values()):
            after_s = longest_s if one.tpot_s is None else one.tpot_s * self.shape.longest_output
            promised_s += [one.e2e_s or 0.0, (one.ttft_s or 0.0) + after_s]
        return max(30.0, *promised_s)

    @cached_property
    def answers_s(self) -> tuple[float, float]:
        """Seconds that a mean answer takes, and the longest: at the promised speed, else under the slowest choice when it is busy."""
        if (tps := self.question.sla.tps) > 0:
            return self.shape.mean_output / tps, self.shape.longest_output / tps
        alone = self._made(self._raw("workload"), 1.0, 1.0, 1.0)
        taken = [answer_s(fleet_of(s, s.policies[0], 0), self.shape, float("inf"), s.workload.domains) for s in (choice.scenario for choice in alone)]
        return max(mean for mean, _ in taken), max(longest for _, longest in taken)

    @property
    def load(self) -> float:
        """The planned load in the workload's own unit: requests per second, or times the speed of the trace."""
        return self.shape.load(self.question.peak_load_rps)

    def _choices(self) -> list[Choice]:
        span = self.warmup_s, self.window_s, self.drain_s
        if sum(span) > MOST_SECONDS:
            problem = f"a trial takes {sum(span):,.0f} s, expected at most {MOST_SECONDS:,.0f}"
            raise ScenarioError(problem, where=self.file, key="run.window_s", remedy="set run.window_s and warmup_s, or raise load_rps")
        return self._made(self.shape.at_peak(self._raw("workload"), *span), *span)

    def _made(self, workload: dict[str, Any], warmup_s: float, window_s: float, drain_s: float) -> list[Choice]:
        """Every profile under every policy and setting."""
        question, choices = self.question, []
        many = len(question.profiles) * len(self._policies()) * len(question.settings)
        if many > MOST_CHOICES:
            problem = f"profiles, policies and settings make {many:,} choices, expected at most {MOST_CHOICES:,}"
            raise ScenarioError(problem, where=question._file, key="policies", remedy="leave some out")
        run = {"seed": question.run.seed, "warmup_s": warmup_s, "duration_s": window_s, "drain_s": drain_s}
        for number, offer in enumerate(question.profiles):
            for place, policy, content in self._policies():
                for at, (setting, raw) in enumerate(zip(question.settings, self._raw("settings") or [{}], strict=True)):
                    engine = {k: v for k, v in raw.items() if k != "name"}
                    keys = {"profile": f"profiles.{number}", "policies.0": f"policies.{place}", "engine": f"settings.{at}", "load": "load_rps"}
                    with renamed(question._file, keys):
                        scenario = self._scenario(offer.profile, content, engine, workload, run)
                        check_limits(scenario)
                    choices.append(Choice(number, policy, setting.name, scenario, offer.gpu_hour or question.price.gpu_hour))
        return choices

    def _policies(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Place in the file, name and content of every policy, fixed ones spread over their lengths."""
        out = []
        for place, (policy, raw) in enumerate(zip(self.question.policies, self._raw("policies"), strict=True)):
            plain = {k: v for k, v in raw.items() if k != "lengths"}
            lengths: Sequence[int | None] = policy.lengths or [None]
            for length in lengths:
                named = deepcopy(plain)
                if length is not None:
                    named |= {"name": f"{policy.name} k={length}", "verification": {"kind": "fixed", "length": length}}
                out.append((place, str(named["name"]), named))
        return out

    def _raw(self, key: str) -> Any:
        return deepcopy(self.question._content.get(key))

    def _scenario(self, profile: str, policy: dict[str, Any], engine: dict[str, Any], workload: dict[str, Any], run: dict[str, Any]) -> Scenario:
        question = self.question
        content: dict[str, Any] = {
            "name": question.name,
            "profile": profile,
            "policies": [policy],
            "workload": workload,
            "load": self.load,
            "fleet": {"routing": question.fleet.routing.model_dump()},
            "engine": engine,
            "run": run,
        }
        return validate_scenario(content, question._file)

    def scenario(self, cell: int, replicas: int) -> Scenario:
        """The scenario of a cell with `replicas` replicas."""
        return _with(self.choices[cell].scenario, replicas)

    def at_load(self, scenario: Scenario, load: float) -> Scenario:
        """A scenario of this plan whose measured window is the busiest at this load: the faster a trace is played, the more of it passes in a
        second."""
        if (trace := scenario.workload.trace) is None or load == self.load:
            return scenario
        window_s = self.shape.busiest_of_trace(load, self.warmup_s, self.window_s, self.drain_s)
        workload = scenario.workload.model_copy(update={"trace": trace.model_copy(update={"window_s": window_s})})
        return scenario.model_copy(update={"workload": workload})

    def bound(self, cell: int) -> bool:
        """Does a cell's policy know, or look at, what it must not? Shown, never chosen."""
        rule = self.choices[cell].scenario.policies[0].verification
        return rule.clairvoyant or rule.peeks

    def label(self, cell: int) -> str:
        """What a cell is called: its policy, and its profile and setting where there are several."""
        choice, question = self.choices[cell], self.question
        parts = [choice.policy]
        parts += [choice.scenario.known.name] if len(question.profiles) > 1 else []
        parts += [choice.setting] if len(question.settings) > 1 else []
        return " · ".join(parts)


def _with(scenario: Scenario, replicas: int) -> Scenario:
    return scenario.model_copy(update={"fleet": scenario.fleet.model_copy(update={"replicas": replicas})})


def load_plan(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """The plan's question in `path` with `key.to=value` overrides applied, all of it checked. Raises one-line errors."""
    path = shipped.scenario(path)
    content = read_document(path, "plan", overrides)
    return make_plan(content, path, overrides)


def make_plan(content: dict[str, Any], path: Path, overrides: Sequence[str] = ()) -> Plan:
    """A checked plan from the content of a YAML file that lies, or would lie, at `path`."""
    if "price" not in content and "profiles" in content:
        remedy = "add price: {gpu_hour: 2.5}, what a GPU costs you for an hour"
        raise ScenarioError("a plan needs a price", where=path, key="price", remedy=remedy)
    foreign = {"a scenario (dsim run)": frozenset(".".join(place.keys) for place in places(Scenario))}
    question = validate(PlanFile, content, path, context={"folder": path.parent}, foreign=foreign)
    question._file, question._content, question._overrides = path, content, list(overrides)
    return Plan(question)

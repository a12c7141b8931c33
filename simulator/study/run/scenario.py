"""A question as one frozen object, read from YAML and checked against its profile before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from simulator import shipped
from simulator.engine.given import Failures, ReplicaSettings
from simulator.errors import ScenarioError, TraceError
from simulator.measurements.acceptance_library import load_acceptance
from simulator.measurements.profile import Profile, load_profile
from simulator.names import Anywhere, FileName, Name
from simulator.policies.prefix_cache import Caching
from simulator.policies.routing import LeastLoaded, Routing
from simulator.policies.verification import Verification, VerificationPolicy
from simulator.quantities import (
    ContextTokens,
    KvTokens,
    PageTokens,
    Replicas,
    Replications,
    Requests,
    Seconds,
    Seed,
    SomeSeconds,
    Tokens,
    TokensPerSecond,
    Within,
)
from simulator.schema import Distinct, Frozen, validate
from simulator.study.run.checks import Check
from simulator.study.run.document import PLAN_KEYS, read_document
from simulator.study.run.goodput import Goodput
from simulator.study.run.metrics import Speed
from simulator.traffic.traces import TraceSource
from simulator.traffic.workload import Workload


def _finite(load: Any) -> Any:
    """An infinite rate is what benchmark clients have, which are users here."""
    if load == float("inf"):
        raise ValueError("expected a finite number; to send as fast as max_concurrency allows, use arrivals {kind: benchmark}")
    return load


def _listed(load: Any) -> Any:
    return [load] if isinstance(load, int | float) else load


Load = Annotated[float, Within(1e-6, 1e9, "users, requests per second or times the speed of the trace"), BeforeValidator(_finite)]
Loads = Annotated[list[Load], Field(min_length=1, max_length=10_000), Distinct, BeforeValidator(_listed)]


class Policy(Frozen):
    """A drafter of the profile and a verification rule, with a name; `load` where it is to be run at other loads than the rest."""

    name: Annotated[Name, Field(max_length=80)]
    drafter: Name | None = None
    verification: Verification
    load: Loads | None = None


class OtherAcceptance(Frozen):
    """Recorded blocks of a drafter that are not the profile's: an acceptance that `dsim acceptance list` shows, or the folder of one."""

    blocks: Anywhere


class FleetPlan(Frozen):
    """How many replicas serve, how requests are spread over them, and how often one fails."""

    replicas: Replicas = 1
    routing: Routing = Field(default_factory=LeastLoaded)
    failures: Failures | None = None


class EngineSettings(ReplicaSettings):
    """The engine of a replica; memory for KV, the longest context and the scheduler's cost table where they differ from the profile's.

    With `graph_sizes` a step is padded up to the next captured size; the scheduler looks its price up there, or one size lower.
    """

    kv_tokens: KvTokens | None = None
    max_context_tokens: ContextTokens | None = None
    page_tokens: PageTokens | None = None
    graph_sizes: Annotated[list[Tokens], Field(min_length=1, max_length=10_000), Distinct] | None = None
    prefix_cache: Caching | None = None
    scheduler_profile: Anywhere | None = None
    scheduler_rounds: Literal["up", "down"] = "up"


class RunPlan(Frozen):
    """How much is simulated. Open loop: seconds (warm-up and drain by default as long as the answers need); closed loop: requests."""

    seed: Seed = 0
    replications: Replications = 3
    requests: Requests = 200
    warmup_s: Seconds | None = None
    duration_s: SomeSeconds | None = None
    drain_s: Seconds | None = None


class Promise(Frozen):
    """Per-user speeds promised, and which statistic of per-user speed must keep them; limits that each request must keep to count as goodput."""

    tps_per_user: Annotated[list[TokensPerSecond], Field(max_length=1000), Distinct] = []
    speed: Speed = "tps_per_user_mean"
    goodput: Goodput | None = None


class Scenario(Frozen):
    """All of a question: profile, policies, traffic, loads, engine and how much to simulate."""

    name: FileName
    question: str = ""
    profile: Anywhere
    drafters: Annotated[dict[Name, OtherAcceptance], Field(max_length=1000)] = {}
    policies: Annotated[list[Policy], Field(min_length=1, max_length=1000)]
    baseline: Name | None = None
    workload: Workload
    load: Loads
    fleet: FleetPlan = Field(default_factory=FleetPlan)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    run: RunPlan = Field(default_factory=RunPlan)
    sla: Promise = Field(default_factory=Promise)
    validation: Annotated[list[Check], Field(max_length=1000)] = []
    notes: list[str] = []
    _file: Path = PrivateAttr(default_factory=Path)
    _content: dict[str, Any] = PrivateAttr(default_factory=dict)
    _overrides: list[str] = PrivateAttr(default_factory=list)
    _profile: Profile | None = PrivateAttr(None)
    _believed: Profile | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [policy.name for policy in self.policies]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two policies are called '{twice[0]}'")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"baseline '{self.baseline}' is none of the policies ({', '.join(names)})")
        for loads in (self.load, *(policy.load or [] for policy in self.policies)):
            if self.workload.load_kind == "concurrency" and any(load != int(load) for load in loads):
                raise ValueError("load counts users in a closed loop, so it must be whole")
        if self.workload.load_kind != "rate_scale" and self.workload.windowed and self.run.duration_s is None:
            raise ValueError(f"{'sessions' if self.workload.sessions else 'open-loop arrivals'} have no end: give run.duration_s")
        return self

    def with_policy(self, name: str, rule: VerificationPolicy, drafter: str | None = None) -> Scenario:
        """The scenario with one more policy, whose rule may be a class of the caller's. Raises DsimError."""
        key, known = f"policies.{len(self.policies)}", [policy.name for policy in self.policies]
        if name in known:
            raise ScenarioError(f"two policies are called '{name}'", where=self.file, key=key, remedy="choose another name")
        plain = validate(Policy, {"name": name, "drafter": drafter, "verification": {"kind": "none"}}, self.file)
        policy = plain.model_copy(update={"verification": rule})
        more = self.model_copy(update={"policies": [*self.policies, policy]})
        facts = {"name": name, "drafter": drafter, "verification": rule.model_dump()}
        more._content = self.content | {"policies": [*self.content["policies"], facts]}
        _check_policy(more, policy, key)
        return more

    @property
    def file(self) -> Path:
        """The YAML it came from."""
        return self._file

    @property
    def folder(self) -> Path:
        """What relative paths in it are relative to."""
        return self._file.parent

    @property
    def content(self) -> dict[str, Any]:
        """The YAML with all overrides applied."""
        return self._content

    @property
    def overrides(self) -> list[str]:
        """The --set arguments."""
        return self._overrides

    @property
    def known(self) -> Profile:
        """The profile, once loaded."""
        assert self._profile is not None
        return self._profile

    @property
    def believed(self) -> Profile:
        """The profile whose costs the schedulers go by."""
        return self._believed or self.known

    @property
    def base(self) -> str:
        """The policy that others are compared with."""
        return self.baseline or self.policies[0].name

    def loads(self, policy: Policy) -> list[float]:
        """The loads that a policy is run at, rising."""
        return sorted(policy.load or self.load)

    @property
    def highest_load(self) -> float:
        """Of all that any policy is run at."""
        return max(load for policy in self.policies for load in self.loads(policy))

    @property
    def point_count(self) -> int:
        """How many points a run has: policies at their loads, in every replication."""
        return sum(len(self.loads(policy)) for policy in self.policies) * self.run.replications

    def kv_tokens(self, policy: Policy) -> int | None:
        """Tokens of KV memory on a replica under a policy: as set here, else as the profile has it; None where unknown."""
        return self.engine.kv_tokens or self.known.kv_tokens(policy.drafter)

    @property
    def page_tokens(self) -> int:
        """Tokens in a page of KV memory: as set here, else as the profile's engine has it."""
        return self.engine.page_tokens or (self.known.kv.page_tokens if self.known.kv else 16)

    @property
    def max_context_tokens(self) -> int | None:
        """Tokens that prompt and answer may have: as set here, else as the profile's engine has it."""
        return self.engine.max_context_tokens or self.known.max_context_tokens

    @property
    def gpus(self) -> float:
        """GPUs that throughput is divided by: decode replicas, and prefill workers where their number is given."""
        return self.fleet.replicas * self.known.gpus_per_replica + self.engine.prefill.machines.gpus


def load_scenario(path: Path | str, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in `path` with `key.to=value` overrides applied, its profile loaded, everything that can be checked checked.

    Raises ScenarioError, ProfileError or TraceError, one line each.
    """
    path = shipped.scenario(path)
    content = read_document(path, "scenario", overrides)
    scenario = validate_scenario(content, path)
    scenario._overrides = list(overrides)
    return scenario


def validate_scenario(content: dict[str, Any], path: Path) -> Scenario:
    """A checked scenario from the content of a YAML file that lies, or would lie, at `path`."""
    scenario = validate(Scenario, content, path, context={"folder": path.parent}, foreign={"a plan (dsim plan)": PLAN_KEYS})
    scenario._file, scenario._content = path, content
    scenario._profile = _with_acceptance(scenario, _load_profile(scenario.profile, "profile", path))
    if scenario.engine.scheduler_profile is not None:
        scenario._believed = _load_profile(scenario.engine.scheduler_profile, "engine.scheduler_profile", path)
    for number, policy in enumerate(scenario.policies):
        _check_policy(scenario, policy, f"policies.{number}")
    if scenario.engine.prefill.where != "nowhere" and scenario.known.costs.prefill is None:
        raise ScenarioError(
            f"profile '{scenario.known.name}' has no prefill cost",
            where=path,
            key="engine.prefill.kind",
            remedy="use {kind: instant} to leave prompts out, or a profile with costs.prefill",
        )
    if scenario.sla.goodput is not None and scenario.sla.goodput.reads_prompts and scenario.engine.prefill.where == "nowhere":
        problem = f"expected tpot_s alone, since prefill: {{kind: instant}} leaves prompts out; got {scenario.sla.goodput.words}"
        raise ScenarioError(problem, where=path, key="sla.goodput", remedy="drop ttft_s and e2e_s, or use another engine.prefill")
    if scenario.fleet.failures is not None and not scenario.workload.windowed:
        remedy = "use other arrivals, or leave failures out"
        problem = "need requests that arrive whatever happens; users of a closed loop and benchmark clients would wait"
        raise ScenarioError(problem, where=path, key="fleet.failures", remedy=remedy)
    if scenario.workload.trace is not None:
        _check_trace(scenario, scenario.workload.trace)
    _check_cache(scenario)
    return scenario


def _check_cache(scenario: Scenario) -> None:
    """A simulated prefix cache has prompts whose content it can tell, and the other way round."""
    workload, simulated = scenario.workload, scenario.engine.prefix_cache is not None
    trace = workload.trace is not None and workload.trace.prefix_cache == "simulated"
    where = scenario.file
    if simulated and not trace and workload.sessions is None:
        problem = "needs requests that say what their prompts begin with: workload.sessions, or a trace with hash_ids"
        remedy = "set workload.trace.prefix_cache: simulated" if workload.trace is not None else "drop it, or set workload.cached_prompt_tokens"
        raise ScenarioError(problem, where=where, key="engine.prefix_cache", remedy=remedy)
    if trace and not simulated:
        problem = "simulated, but the engine has no prefix cache"
        raise ScenarioError(problem, where=where, key="workload.trace.prefix_cache", remedy="set engine.prefix_cache: {kind: vllm}, for example")
    if simulated and scenario.engine.prefill.where != "replica":
        problem = f"is simulated where prompts are processed on the replica, got prefill: {{kind: {scenario.engine.prefill.kind}}}"
        raise ScenarioError(problem, where=where, key="engine.prefix_cache", remedy="use {kind: chunked} or {kind: separate}")
    if scenario.fleet.routing.remembers and not trace and workload.sessions is None:
        problem = f"{scenario.fleet.routing.kind} needs requests of sessions, or with prompts whose content is told"
        remedy = "use least_loaded, or workload.sessions"
        raise ScenarioError(problem, where=where, key="fleet.routing", remedy=remedy)


def _with_acceptance(scenario: Scenario, profile: Profile) -> Profile:
    """The profile with the acceptance that the scenario gives its drafters."""
    for name, other in scenario.drafters.items():
        key = f"drafters.{name}"
        profile.drafter(name, key, scenario.file)
        acceptance = load_acceptance(other.blocks, scenario.file, f"{key}.blocks", scenario.folder)
        profile = acceptance.lent_to(profile, name, scenario.workload.domains, scenario.file, f"{key}.blocks")
    return profile


def _load_profile(name: str, key: str, path: Path) -> Profile:
    """The profile that `key` of the scenario at `path` names."""
    return load_profile(find_profile(name, path.parent), path, key)


def _check_trace(scenario: Scenario, source: TraceSource) -> None:
    """The trace can be read, and every drafter has blocks of the domains that it names."""
    names = source.load(scenario.folder).domains
    named = () if names == ("",) else names
    where = source.find(scenario.folder) if named else None
    if named and scenario.workload.domains:
        problem = "the trace names the domain of each request, and workload.domains a mix"
        raise TraceError(problem, where=where, key="domain", remedy="drop the column or workload.domains")
    for policy in scenario.policies if named else ():
        if policy.drafter is None:
            continue
        there = scenario.known.blocks(policy.drafter).domains
        missing = sorted(set(named) - set(there))
        if missing:
            problem = f"drafter '{policy.drafter}' has no recorded blocks of domain '{missing[0]}'"
            raise TraceError(problem, where=where, key="domain", remedy=f"domains there: {', '.join(there)}")


def find_profile(name: str, folder: Path) -> Path:
    """A profile folder: relative to the scenario, to the working folder, by name in profiles/ of either or of a parent, or shipped."""
    tries = [folder / name, Path(name)]
    tries += [parent / "profiles" / name for start in (folder, Path()) for parent in (start.resolve(), *start.resolve().parents)]
    return next((p for p in (*tries, shipped.profile(name)) if (p / "profile.yaml").is_file()), tries[0])


def _check_policy(scenario: Scenario, policy: Policy, key: str) -> None:
    """The policy against the drafter it names."""
    rule, where = policy.verification, scenario.file
    if policy.drafter is None:
        if rule.drafts:
            raise ScenarioError(f"policy '{policy.name}' verifies drafts but names no drafter", where=where, key=f"{key}.drafter", remedy="add it")
        return
    if not rule.drafts:
        remedy = "drop it: nothing is drafted"
        raise ScenarioError(f"policy '{policy.name}' names a drafter that it never uses", where=where, key=f"{key}.drafter", remedy=remedy)
    drafter = scenario.known.drafter(policy.drafter, f"{key}.drafter", where)
    scenario.believed.drafter(policy.drafter, f"{key}.drafter", where)
    if rule.needs_confidence and not drafter.confidence:
        remedy = "use fixed, by_batch or uniform, or a drafter with a confidence head"
        problem = f"rule '{rule.kind}' needs confidences and drafter '{policy.drafter}' has none"
        raise ScenarioError(problem, where=where, key=f"{key}.verification", remedy=remedy)
    if rule.longest(drafter.gamma) > drafter.gamma:
        problem = f"verifies {rule.longest(drafter.gamma)} tokens, drafter '{policy.drafter}' drafts {drafter.gamma}"
        raise ScenarioError(problem, where=where, key=f"{key}.verification", remedy=f"at most {drafter.gamma}")
    missing = sorted(set(scenario.workload.domains) - set(scenario.known.blocks(policy.drafter).domains))
    if missing:
        there = ", ".join(scenario.known.blocks(policy.drafter).domains)
        problem = f"drafter '{policy.drafter}' has no recorded blocks of domain '{missing[0]}'"
        raise ScenarioError(problem, where=where, key="workload.domains", remedy=f"domains there: {there}")

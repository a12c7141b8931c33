"""A question as one frozen object, read from YAML and checked against its profile before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, model_validator

from simulator import shipped
from simulator.errors import ScenarioError
from simulator.measurements.acceptance_library import load_acceptance
from simulator.measurements.profile import Profile, load_profile
from simulator.names import Anywhere, FileName, Name
from simulator.policies.prefill import Disaggregated
from simulator.policies.verification import VerificationPolicy
from simulator.schema import Frozen, validate
from simulator.study.run.checks import Check
from simulator.study.run.contradictions import (
    check_fleet,
    check_groups,
    check_page,
    check_policy,
    check_pool,
    check_promises,
    check_prompts,
    check_same,
    check_trace,
)
from simulator.study.run.document import PLAN_KEYS, read_document
from simulator.study.run.settings import POOL, EngineSettings, FleetPlan, KvShares, Loads, OtherAcceptance, Policy, Promise, RunPlan
from simulator.traffic.workload import Workload


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
    memory: KvShares = []
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
    _kv_share: float = PrivateAttr(1.0)
    _others: dict[str, Profile] = PrivateAttr(default_factory=dict)  # of groups of replicas, by name, and of prefill workers

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
        if self.workload.trace is None and self.workload.windowed and self.run.duration_s is None:
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
    def groups(self) -> list[tuple[str, Scenario]]:
        """The groups of a fleet whose replicas differ, each as a scenario of it alone."""
        several = []
        for group in self.fleet.groups:
            fleet = self.fleet.model_copy(update={"replicas": group.replicas, "groups": []})
            alone = self.model_copy(update={"fleet": fleet})
            alone._profile, alone._believed = self._others.get(group.name, self.known), self._believed
            several.append((group.name, alone))
        return several

    @property
    def others(self) -> dict[str, Profile]:
        """Profiles beside the scenario's, by the name of what has them."""
        return self._others

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
        tokens = self.engine.kv_tokens or self.known.kv_tokens(policy.drafter)
        return tokens if tokens is None else max(int(tokens * self._kv_share), 1)

    def with_memory(self, kv_share: float) -> Scenario:
        """The scenario with so many times the KV memory."""
        other = self.model_copy()
        other._kv_share = kv_share
        return other

    @property
    def page_tokens(self) -> int:
        """Tokens in a page of KV memory: as set here, else as the profile's engine has it."""
        return self.engine.page_tokens or (self.known.kv.page_tokens if self.known.kv else 16)

    @property
    def scheduler_sizes(self) -> list[int]:
        """Sizes that steps are padded to in the scheduler's table: as set here, else as its profile has them."""
        return self.engine.graph_sizes or getattr(self.believed.costs.verify, "padded_to", [])

    @property
    def max_context_tokens(self) -> int | None:
        """Tokens that prompt and answer may have: as set here, else as the profile's engine has it, the least of all groups."""
        known = [profile.max_context_tokens for profile in (self.known, *self._others.values()) if profile.max_context_tokens]
        return self.engine.max_context_tokens or min(known, default=None)

    @property
    def gpus(self) -> float:
        """GPUs that throughput is divided by: decode replicas, and prefill workers where their number is given."""
        replicas = sum(alone.fleet.replicas * alone.known.gpus_per_replica for _, alone in self.groups or [("", self)])
        return replicas + self.prefill_gpus

    @property
    def prefill_gpus(self) -> float:
        """Those of prefill workers: as given, else where there is a pool those of a replica of its profile for each."""
        machines = self.engine.prefill.machines
        if self.pooled and not machines.gpus:
            return (machines.at_a_time or 0) * self.prefilling.gpus_per_replica
        return machines.gpus

    @property
    def pooled(self) -> bool:
        """Do replicas fetch what prefill workers have computed, as far as they lack it?"""
        return self.engine.prefill.pooled

    @property
    def prefilling(self) -> Profile:
        """The profile of prefill workers."""
        return self._others.get(POOL, self.known)


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
    for number, group in enumerate(scenario.fleet.groups):
        if group.profile is not None:
            key = f"fleet.groups.{number}.profile"
            other = check_same(_load_profile(group.profile, key, path), scenario.known, key, path)
            scenario._others[group.name] = _with_acceptance(scenario, other, list(other.drafters))
    prefill = scenario.engine.prefill
    if isinstance(prefill, Disaggregated) and prefill.profile is not None:
        key = "engine.prefill.profile"
        scenario._others[POOL] = check_same(_load_profile(prefill.profile, key, path), scenario.known, key, path)
    for number, policy in enumerate(scenario.policies):
        _check_policy(scenario, policy, f"policies.{number}")
    if isinstance(prefill, Disaggregated):
        check_pool(prefill, scenario.policies, scenario.known, scenario.prefilling, path)
    check_groups(scenario.fleet, scenario.policies, path)
    for profile in (scenario.known, *scenario.others.values()):
        check_prompts(prefill, profile, path)
    check_promises(scenario.workload, scenario.engine, scenario.sla.goodput, path)
    check_trace(scenario.workload, scenario.policies, scenario.known, scenario.folder)
    check_fleet(scenario.fleet, scenario.engine, scenario.workload, path)
    if scenario.memory and any(scenario.kv_tokens(policy) is None for policy in scenario.policies):
        problem = f"profile '{scenario.known.name}' does not say how much KV memory there is"
        raise ScenarioError(problem, where=path, key="memory", remedy="set engine.kv_tokens, or drop it")
    _check_pages(scenario)
    for _, alone in scenario.groups or [("", scenario)]:
        if scenario.engine.scheduler_rounds == "down" and not alone.scheduler_sizes:
            problem = f"profile '{alone.believed.name}' does not say which sizes steps are padded to"
            raise ScenarioError(problem, where=path, key="engine.scheduler_rounds", remedy="set engine.graph_sizes, or drop it")
    return scenario


def _check_pages(scenario: Scenario) -> None:
    """The memory of every replica, with the least share of it that is asked for, and of every prefill worker has room for a page."""
    engine, file = scenario.engine, scenario.file
    for name, alone in scenario.groups or [("", scenario)]:
        for policy in scenario.policies:
            tokens = alone.kv_tokens(policy.on(name))
            check_page(tokens, scenario.page_tokens, "engine.kv_tokens" if engine.kv_tokens else "engine.page_tokens", file)
            check_page(alone.with_memory(min(scenario.memory, default=1.0)).kv_tokens(policy.on(name)), scenario.page_tokens, "memory", file)
    if isinstance(prefill := engine.prefill, Disaggregated) and prefill.pooled:
        check_page(prefill.kv_tokens or scenario.prefilling.kv_tokens(None), scenario.page_tokens, "engine.prefill.kv_tokens", file)


def _check_policy(scenario: Scenario, policy: Policy, key: str) -> None:
    """The policy at `key`, on every group of the fleet."""
    domains = list(scenario.workload.domains)
    check_policy(policy, key, scenario.known, scenario.believed, domains, scenario.file)
    for name, alone in scenario.groups:
        own = f"{key}.groups.{name}" if name in policy.groups else key
        check_policy(policy.on(name), own, alone.known, alone.believed, domains, scenario.file)


def _with_acceptance(scenario: Scenario, profile: Profile, drafters: Sequence[str] | None = None) -> Profile:
    """The profile with the acceptance that the scenario gives its drafters, or these of them."""
    for name, other in scenario.drafters.items():
        if drafters is not None and name not in drafters:
            continue
        key = f"drafters.{name}"
        profile.drafter(name, key, scenario.file)
        acceptance = load_acceptance(other.blocks, scenario.file, f"{key}.blocks", scenario.folder)
        profile = acceptance.lent_to(profile, name, scenario.workload.domains, scenario.file, f"{key}.blocks")
    return profile


def _load_profile(name: str, key: str, path: Path) -> Profile:
    """The profile that `key` of the scenario at `path` names."""
    return load_profile(_find_profile(name, path.parent), path, key)


def _find_profile(name: str, folder: Path) -> Path:
    """A profile folder: relative to the scenario, to the working folder, by name in profiles/ of either or of a parent, or shipped."""
    tries = [folder / name, Path(name)]
    tries += [parent / "profiles" / name for start in (folder, Path()) for parent in (start.resolve(), *start.resolve().parents)]
    return next((p for p in (*tries, shipped.profile(name)) if (p / "profile.yaml").is_file()), tries[0])

"""The parts of a question: what a policy is, the fleet and its engine, how much is simulated, and what is promised."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from simulator.engine.given import Failures, ReplicaSettings
from simulator.names import Anywhere, Name
from simulator.policies.prefix_cache import Caching
from simulator.policies.routing import LeastLoaded, Routing
from simulator.policies.verification import Verification
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
from simulator.schema import Distinct, Frozen
from simulator.study.run.metrics import Speed
from simulator.traffic.goodput import Goodput


def _finite(load: Any) -> Any:
    """An infinite rate is what benchmark clients have, which are users here."""
    if load == float("inf"):
        raise ValueError("expected a finite number; to send as fast as max_concurrency allows, use arrivals {kind: benchmark}")
    return load


def _listed(load: Any) -> Any:
    return [load] if isinstance(load, int | float) else load


Load = Annotated[float, Within(1e-6, 1e9, "users, requests per second or times the speed of the trace"), BeforeValidator(_finite)]
_List = Annotated[list[Load], Field(min_length=1, max_length=10_000), Distinct]
Loads = Annotated[_List, BeforeValidator(_listed, json_schema_input_type=PositiveFloat | _List)]


class Rule(Frozen):
    """What a group of replicas does: a drafter of its profile, and a verification rule."""

    drafter: Name | None = None
    verification: Verification


KvShares = Annotated[list[Annotated[float, Within(0.01, 100, "times the KV memory")]], Field(max_length=100), Distinct]


class Policy(Frozen):
    """A drafter of the profile and a verification rule, with a name; `load` where it is to be run at other loads than the rest, `groups` where some
    groups of the fleet do otherwise."""

    name: Annotated[Name, Field(max_length=80)]
    drafter: Name | None = None
    verification: Verification
    load: Loads | None = None
    groups: Annotated[dict[Name, Rule], Field(max_length=100)] = {}

    def on(self, group: str) -> Policy:
        """The policy as a group of the fleet has it."""
        rule = self.groups.get(group, self)
        return self.model_copy(update={"drafter": rule.drafter, "verification": rule.verification, "groups": {}})


class OtherAcceptance(Frozen):
    """Recorded blocks of a drafter that are not the profile's: an acceptance that `dsim acceptance list` shows, or the folder of one."""

    blocks: Anywhere


POOL = "prefill"  # what tables call the prefill workers


class Group(Frozen):
    """Replicas of one kind; `profile` where it is not the scenario's."""

    name: Name
    replicas: Replicas = 1
    profile: Anywhere | None = None


class FleetPlan(Frozen):
    """How many replicas serve, or which groups of them, how requests are spread over them, and how often one fails."""

    replicas: Replicas = 1
    groups: Annotated[list[Group], Field(max_length=100)] = []
    routing: Routing = Field(default_factory=LeastLoaded)
    failures: Failures | None = None

    @model_validator(mode="after")
    def _groups_add_up(self) -> Self:
        names = [group.name for group in self.groups]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two groups are called '{twice}'")
        if POOL in names:
            raise ValueError(f"no group can be called '{POOL}': that is what the prefill workers are called")
        if self.groups and "replicas" in self.model_fields_set:
            raise ValueError("expected replicas or groups, got both: each group has its own replicas")
        if self.groups:
            object.__setattr__(self, "replicas", sum(group.replicas for group in self.groups))
        return self


class EngineSettings(ReplicaSettings):
    """The engine of a replica; memory for KV, the longest context and the scheduler's cost table where they differ from the profile's.

    With `graph_sizes` a step is padded up to the next captured size; the scheduler looks its price up there, or with `scheduler_rounds: down` one
    size lower. Without, the sizes are those that the profile pads steps to.
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

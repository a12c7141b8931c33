"""What a scenario says that its profile, its traffic or its engine contradicts, each a refusal in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.errors import ScenarioError, TraceError
from simulator.measurements.models import plain_name
from simulator.measurements.profile import Profile
from simulator.policies.prefill import Disaggregated, Prefill
from simulator.study.run.settings import EngineSettings, FleetPlan, Policy
from simulator.traffic.goodput import Goodput
from simulator.traffic.workload import Workload


def check_policy(policy: Policy, key: str, known: Profile, believed: Profile, domains: Sequence[str], where: Path) -> None:
    """The policy at `key` against the drafter it names, and the domains of the requests."""
    rule = policy.verification
    if policy.drafter is None:
        if rule.drafts:
            raise ScenarioError(f"policy '{policy.name}' verifies drafts but names no drafter", where=where, key=f"{key}.drafter", remedy="add it")
        return
    if not rule.drafts:
        remedy = "drop it: nothing is drafted"
        raise ScenarioError(f"policy '{policy.name}' names a drafter that it never uses", where=where, key=f"{key}.drafter", remedy=remedy)
    drafter = known.drafter(policy.drafter, f"{key}.drafter", where)
    believed.drafter(policy.drafter, f"{key}.drafter", where)
    if rule.needs_confidence and not drafter.confidence:
        remedy = "use fixed, by_batch or uniform, or a drafter with a confidence head"
        problem = f"rule '{rule.kind}' needs confidences and drafter '{policy.drafter}' has none"
        raise ScenarioError(problem, where=where, key=f"{key}.verification", remedy=remedy)
    if rule.longest(drafter.gamma) > drafter.gamma:
        problem = f"verifies {rule.longest(drafter.gamma)} tokens, drafter '{policy.drafter}' drafts {drafter.gamma}"
        raise ScenarioError(problem, where=where, key=f"{key}.verification", remedy=f"at most {drafter.gamma}")
    missing = sorted(set(domains) - set(known.blocks(policy.drafter).domains))
    if missing:
        there = ", ".join(known.blocks(policy.drafter).domains)
        problem = f"drafter '{policy.drafter}' has no recorded blocks of domain '{missing[0]}'"
        raise ScenarioError(problem, where=where, key="workload.domains", remedy=f"domains there: {there}")


def check_groups(fleet: FleetPlan, policies: Sequence[Policy], where: Path) -> None:
    """Policies name groups that there are."""
    names = [group.name for group in fleet.groups]
    for number, policy in enumerate(policies):
        if unknown := next((name for name in policy.groups if name not in names), None):
            problem, remedy = f"the fleet has no group '{unknown}'", f"its groups: {', '.join(names)}" if names else "give fleet.groups"
            raise ScenarioError(problem, where=where, key=f"policies.{number}.groups", remedy=remedy)


def check_same(other: Profile, known: Profile, key: str, where: Path) -> Profile:
    """A profile beside the scenario's, which is of the same model."""
    if plain_name(other.target) == plain_name(known.target):
        return other
    problem = f"profile '{other.name}' is of {other.target}, the scenario's of {known.target}"
    raise ScenarioError(problem, where=where, key=key, remedy="use profiles of one model")


def check_pool(prefill: Disaggregated, policies: Sequence[Policy], known: Profile, pool: Profile, where: Path) -> None:
    """Prefill workers have a number where it matters, a price, and caches of the size that replicas have."""
    if (prefill.profile or prefill.prefix_cache) and prefill.workers is None:
        given = "profile" if prefill.profile else "prefix_cache"
        raise ScenarioError(
            f"{given} is of each worker, so there must be a number of them", where=where, key="engine.prefill.workers", remedy="set it"
        )
    if prefill.kv_tokens is not None and prefill.prefix_cache is None:
        problem = "memory of workers counts with a prefix cache in it"
        raise ScenarioError(problem, where=where, key="engine.prefill.kv_tokens", remedy="set engine.prefill.prefix_cache, or drop it")
    if prefill.bandwidth_bytes_s is not None and known.kv is None:
        problem = f"profile '{known.name}' does not say how many bytes of KV a token has"
        raise ScenarioError(problem, where=where, key="engine.prefill.bandwidth_bytes_s", remedy="set transfer_s, or add kv to the profile")
    if pool is known:
        return
    key = "engine.prefill.profile"
    if known.kv and pool.kv and known.kv.bytes_per_token != pool.kv.bytes_per_token:
        problem = f"expected {known.kv.bytes_per_token:,.0f} bytes of KV per token as on the replicas, got {pool.kv.bytes_per_token:,.0f}"
        raise ScenarioError(problem, where=where, key=key, remedy="use profiles of one precision and layout of the cache")
    for policy in policies:
        if policy.drafter and known.drafters[policy.drafter].draft.reads_prompts and policy.drafter not in pool.drafters:
            problem = f"drafter '{policy.drafter}' reads prompts, and profile '{pool.name}' has no such drafter"
            raise ScenarioError(problem, where=where, key=key, remedy=f"its drafters: {', '.join(sorted(pool.drafters)) or 'none'}")


def check_page(kv_tokens: int | None, page_tokens: int, key: str, where: Path) -> None:
    """There is room for a page."""
    if kv_tokens is not None and kv_tokens < page_tokens:
        remedy = "lower it" if key == "engine.page_tokens" else "raise it, or lower engine.page_tokens"
        problem = f"expected KV memory for at least one page of {page_tokens:,} tokens, got {kv_tokens:,}"
        raise ScenarioError(problem, where=where, key=key, remedy=remedy)


def check_prompts(prefill: Prefill, known: Profile, where: Path) -> None:
    """Prompts have a price, where they take time."""
    if prefill.where != "nowhere" and known.costs.prefill is None:
        problem, remedy = f"profile '{known.name}' has no prefill cost", "use {kind: instant} to leave prompts out, or a profile with costs.prefill"
        raise ScenarioError(problem, where=where, key="engine.prefill.kind", remedy=remedy)


def _check_limits(goodput: Goodput | None, prefill: Prefill, where: Path, key: str = "sla.goodput") -> None:
    """Limits cover the time of prompts only where they take time."""
    if goodput is not None and goodput.reads_prompts and prefill.where == "nowhere":
        problem = f"expected tpot_s alone, since prefill: {{kind: instant}} leaves prompts out; got {goodput.words}"
        raise ScenarioError(problem, where=where, key=key, remedy="drop ttft_s and e2e_s, or use another engine.prefill")


def check_promises(workload: Workload, engine: EngineSettings, goodput: Goodput | None, where: Path) -> None:
    """Limits can be kept; classes have the only ones, and there are priorities where requests are admitted by them."""
    _check_limits(goodput, engine.prefill, where)
    if engine.admission.ranks and not workload.classes:
        raise ScenarioError("needs workload.classes with priorities", where=where, key="engine.admission", remedy="add them, or use first_come")
    if not workload.classes:
        return
    if goodput is not None:
        problem = "each of workload.classes has a promise of its own"
        raise ScenarioError(problem, where=where, key="sla.goodput", remedy="drop it, or the classes")
    for name, one in workload.classes.items():
        _check_limits(one.sla, engine.prefill, where, f"workload.classes.{name}.sla")


def check_fleet(fleet: FleetPlan, engine: EngineSettings, workload: Workload, where: Path) -> None:
    """Replicas fail under traffic that does not wait for them; a simulated prefix cache, and a router that remembers, have prompts whose content
    can be told, and the other way round."""
    if fleet.failures is not None and not workload.windowed:
        problem = "need requests that arrive whatever happens; users of a closed loop and benchmark clients would wait"
        raise ScenarioError(problem, where=where, key="fleet.failures", remedy="use other arrivals, or leave failures out")
    simulated, key = engine.prefix_cache is not None, "engine.prefix_cache"
    if isinstance(engine.prefill, Disaggregated) and engine.prefill.prefix_cache is not None:
        simulated, key = True, key if simulated else "engine.prefill.prefix_cache"
    trace = workload.trace is not None and workload.trace.prefix_cache == "simulated"
    if simulated and not trace and workload.sessions is None:
        problem = "needs requests that say what their prompts begin with: workload.sessions, or a trace with hash_ids"
        remedy = "set workload.trace.prefix_cache: simulated" if workload.trace is not None else "drop it, or set workload.cached_prompt_tokens"
        raise ScenarioError(problem, where=where, key=key, remedy=remedy)
    if trace and not simulated:
        problem = "simulated, but the engine has no prefix cache"
        raise ScenarioError(problem, where=where, key="workload.trace.prefix_cache", remedy="set engine.prefix_cache: {kind: vllm}, for example")
    if simulated and engine.prefill.where != "replica" and not engine.prefill.pooled:
        problem = f"is simulated where prompts are processed on the replica, got prefill: {{kind: {engine.prefill.kind}}}"
        remedy = "use {kind: chunked} or {kind: separate}"
        if engine.prefill.where == "elsewhere":
            remedy += ", or give it a prefix_cache or bandwidth_bytes_s"
        raise ScenarioError(problem, where=where, key=key, remedy=remedy)
    if fleet.routing.remembers and not trace and workload.sessions is None:
        problem = f"{fleet.routing.kind} needs requests of sessions, or with prompts whose content is told"
        raise ScenarioError(problem, where=where, key="fleet.routing", remedy="use least_loaded, or workload.sessions")


def check_trace(workload: Workload, policies: Sequence[Policy], known: Profile, folder: Path) -> None:
    """The trace, where there is one, can be read, and every drafter has blocks of the domains that it names."""
    if workload.trace is None:
        return
    names = workload.trace.load(folder).domains
    named = () if names == ("",) else names
    where = workload.trace.find(folder) if named else None
    if named and workload.domains:
        problem = "the trace names the domain of each request, and workload.domains a mix"
        raise TraceError(problem, where=where, key="domain", remedy="drop the column or workload.domains")
    for policy in policies if named else ():
        if policy.drafter is None:
            continue
        there = known.blocks(policy.drafter).domains
        missing = sorted(set(named) - set(there))
        if missing:
            problem = f"drafter '{policy.drafter}' has no recorded blocks of domain '{missing[0]}'"
            raise TraceError(problem, where=where, key="domain", remedy=f"domains there: {', '.join(there)}")

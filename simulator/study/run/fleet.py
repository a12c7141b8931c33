"""The replicas of a scenario under one policy, with the random draws of one replication."""

from __future__ import annotations

from simulator.engine.given import Fleet, PrefillPool
from simulator.measurements.cost_kind import GraphSizes
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Profile
from simulator.measurements.replay import Replay, lay_out, nothing_drafted
from simulator.policies.prefill import Disaggregated
from simulator.policies.verification import Belief
from simulator.rng import stream
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy

TRUTH = Belief()


def fleet_of(scenario: Scenario, policy: Policy, replication: int) -> Fleet:
    """The replicas of a scenario under one policy, with one replication's luck."""
    profile, engine = scenario.known, scenario.engine
    replay = _replay(scenario, policy, replication)
    kv_tokens = scenario.kv_tokens(policy)
    down = engine.scheduler_rounds == "down"
    sizes = GraphSizes(tuple(engine.graph_sizes)) if engine.graph_sizes else None
    prices = _prices(profile, policy, replay.gamma, sizes)
    guess = GraphSizes(tuple(scenario.scheduler_sizes), down=True) if down else sizes
    belief = policy.verification.belief
    same = scenario.believed is profile and not down and belief == TRUTH
    return Fleet(
        replicas=scenario.fleet.replicas,
        settings=engine,
        policy=policy.verification,
        replay=replay,
        prices=prices,
        believed=prices if same else _prices(scenario.believed, policy, replay.gamma, guess, belief),
        router=scenario.fleet.routing,
        kv_pages=None if kv_tokens is None else kv_tokens // scenario.page_tokens,
        page_tokens=scenario.page_tokens,
        luck=stream(scenario.run.seed, "routing", replication),
        max_context=scenario.max_context_tokens,
        prefix_cache=engine.prefix_cache,
        pool=_pool(scenario, policy, replay.gamma, prices),
        kv_bytes_per_token=_kv_bytes(profile, policy),
        groups=tuple(fleet_of(alone, policy.on(name), replication) for name, alone in scenario.groups),
    )


def _pool(scenario: Scenario, policy: Policy, gamma: int, prices: RoundCost) -> PrefillPool | None:
    """Prefill workers, of which more is known than how many there are."""
    mode, profile = scenario.engine.prefill, scenario.prefilling
    if not isinstance(mode, Disaggregated) or not mode.pooled:
        return None
    drafts = policy if policy.drafter in profile.drafters else policy.model_copy(update={"drafter": None})
    kv_tokens = mode.kv_tokens or profile.kv_tokens(drafts.drafter)
    return PrefillPool(
        prices=prices if profile is scenario.known else _prices(profile, drafts, gamma, None),
        kv_pages=None if kv_tokens is None else kv_tokens // scenario.page_tokens,
        prefix_cache=mode.prefix_cache,
        bandwidth_bytes_s=mode.bandwidth_bytes_s,
    )


def _kv_bytes(profile: Profile, policy: Policy) -> float:
    """Bytes of a token's keys and values, the drafter's included, which move with them."""
    if profile.kv is None:
        return 0.0
    return profile.kv.bytes_per_token + (profile.drafter(policy.drafter).kv_bytes_per_token if policy.drafter else 0.0)


def _prices(profile: Profile, policy: Policy, gamma: int, sizes: GraphSizes | None, belief: Belief = TRUTH) -> RoundCost:
    """Prices of a policy's rounds, as they are or as its scheduler's table has them."""
    drafter, rule = profile.drafter(policy.drafter) if policy.drafter else None, policy.verification
    nothing = {"overhead": profile.costs.overhead.model_copy(update={"seconds": 0.0, "per_request_s": 0.0}), "scheduling": None}
    return RoundCost(
        profile.costs if belief.overhead else profile.costs.model_copy(update=nothing),
        drafter.draft if drafter else None,
        gamma,
        rule.longest(gamma),
        lambda requests, context_tokens: rule.drafted_at(requests, gamma, context_tokens),
        sizes,
        belief.probes,
        belief.rising,
        belief.context_tokens,
        rule.schedules,
    )


def _replay(scenario: Scenario, policy: Policy, replication: int) -> Replay:
    if policy.drafter is None:
        return nothing_drafted()
    drafter = scenario.known.drafter(policy.drafter)
    blocks = scenario.known.blocks(policy.drafter)
    return lay_out(blocks, drafter.temperatures, policy.verification.clairvoyant, scenario.run.seed, replication)

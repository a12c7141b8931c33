"""What if an assumption is wrong: each change turns the scenario, the fleet or the requests of a trial into those of another world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Flags, Floats
from simulator.engine.simulate import Fleet
from simulator.measurements.prices import ScaledPrices
from simulator.measurements.profile import Profile
from simulator.policies.verification import VerificationPolicy
from simulator.rng import stream
from simulator.study.run.scenario import Scenario
from simulator.traffic.request import RequestColumns

if TYPE_CHECKING:
    from simulator.measurements.draft_blocks import RecordedBlocks
    from simulator.study.planning.question import Plan

MIX_SHIFT = 0.3  # share of requests that move to another domain


@dataclass(frozen=True)
class Change:
    """One assumption moved: a name for files, words for people, and what it does to load, scenario, fleet and requests."""

    name: str
    label: str
    pair: str = ""  # changes of one pair are drawn on one bar
    load: float = 1.0
    prompts: float = 1.0
    scenario: Callable[[Scenario], Scenario] = lambda s: s
    fleet: Callable[[Fleet], Fleet] = lambda f: f

    def requests(self, columns: RequestColumns) -> RequestColumns:
        """Requests with their prompts made longer; what of them was cached stays cached."""
        if self.prompts == 1:
            return columns
        return replace(columns, prompt_tokens=np.maximum(np.rint(columns.prompt_tokens * self.prompts), 1).astype(np.int64))


def changes(plan: Plan, cell: int) -> dict[str, Change]:
    """All changes that mean something for a cell, by name. The same list in every process."""
    base = plan.choices[cell].scenario
    every = [*_everywhere(base), *_of_drafts(base), *_of_domains(base), *_of_schedulers(base)]
    short = plan.question.what_if == "short"
    return {c.name: c for c in every if plan.question.what_if and not (short and c.pair not in ("load", "cost", "acceptance"))}


def _everywhere(base: Scenario) -> list[Change]:
    instant = base.engine.prefill.where == "nowhere"
    longer = [] if instant or base.workload.sessions is not None else [Change("prompts-longer", "prompts twice as long", "prompts", prompts=2.0)]
    return [
        Change("load-up", "load +20 %", "load", load=1.2),
        Change("load-down", "load −20 %", "load", load=0.8),
        Change("cost-up", "steps cost 10 % more", "cost", fleet=_costs(1.1)),
        Change("cost-down", "steps cost 10 % less", "cost", fleet=_costs(0.9)),
        *longer,
    ]


def _of_drafts(base: Scenario) -> list[Change]:
    if base.policies[0].drafter is None:
        return []
    return [
        Change("acceptance-down", "acceptance 10 % lower", "acceptance", scenario=_acceptance(0.9)),
        Change("acceptance-up", "acceptance 10 % higher", "acceptance", scenario=_acceptance(1.1)),
    ]


def _of_domains(base: Scenario) -> list[Change]:
    """A share of requests moves to the domain with the lowest and to that with the highest acceptance."""
    name, mix = base.policies[0].drafter, base.workload.domains
    if name is None or not mix:
        return []
    blocks = base.known.blocks(name)
    level = {d: _accepted_of(blocks, d) for d in blocks.domains}
    worst, best = min(level, key=level.__getitem__), max(level, key=level.__getitem__)
    out = []
    for which, domain in (("worst", worst), ("best", best)):
        if set(mix) != {domain}:
            out.append(Change(f"mix-{which}", f"{100 * MIX_SHIFT:.0f} % of requests become {domain}", "mix", scenario=_mix(domain)))
    return out


def _of_schedulers(base: Scenario) -> list[Change]:
    rule, name = base.policies[0].verification, base.policies[0].drafter
    if not rule.needs_prices:
        return []
    out = [
        Change("table-flat", "scheduler thinks extra tokens cost half", "table", fleet=_believed(0.5)),
        Change("table-steep", "scheduler thinks extra tokens cost double", "table", fleet=_believed(2.0)),
    ]
    out += [Change(f"lag-{k}", f"confidences {k} steps old", "lag", scenario=_rule(other)) for k, other in rule.at_other_lags().items()]
    if rule.needs_confidence and name and base.known.drafter(name).temperatures:
        out.append(Change("uncalibrated", "calibration off", "calibration", scenario=_uncalibrated))
    return out


def _costs(factor: float) -> Callable[[Fleet], Fleet]:
    def change(fleet: Fleet) -> Fleet:
        prices = ScaledPrices(fleet.prices, factor)
        return replace(fleet, prices=prices, believed=prices if fleet.believed is fleet.prices else ScaledPrices(fleet.believed, factor))

    return change


def _believed(slope: float) -> Callable[[Fleet], Fleet]:
    return lambda fleet: replace(fleet, believed=ScaledPrices(fleet.believed, 1.0, slope))


def _rule(rule: VerificationPolicy) -> Callable[[Scenario], Scenario]:
    def change(scenario: Scenario) -> Scenario:
        return scenario.model_copy(update={"policies": [scenario.policies[0].model_copy(update={"verification": rule})]})

    return change


def _mix(domain: str) -> Callable[[Scenario], Scenario]:
    def change(scenario: Scenario) -> Scenario:
        before = scenario.workload.domains
        whole = sum(before.values())
        mix = {d: w / whole * (1 - MIX_SHIFT) for d, w in before.items()}
        mix[domain] = mix.get(domain, 0.0) + MIX_SHIFT
        return scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"domains": mix})})

    return change


def _uncalibrated(scenario: Scenario) -> Scenario:
    name, known = scenario.policies[0].drafter, scenario.known
    assert name is not None
    drafters = known.drafters | {name: known.drafter(name).model_copy(update={"temperatures": None})}
    return _with_profile(scenario, known.model_copy(update={"drafters": drafters}))


def _acceptance(factor: float) -> Callable[[Scenario], Scenario]:
    def change(scenario: Scenario) -> Scenario:
        name, known = scenario.policies[0].drafter, scenario.known
        assert name is not None
        profile = known.model_copy()
        profile._blocks = known._blocks | {name: moved_acceptance(known.blocks(name), factor)}
        return _with_profile(scenario, profile)

    return change


def _with_profile(scenario: Scenario, profile: Profile) -> Scenario:
    changed = scenario.model_copy()
    changed._profile, changed._believed = profile, scenario._believed or scenario.known
    return changed


@lru_cache(maxsize=8)
def moved_acceptance(blocks: RecordedBlocks, factor: float) -> RecordedBlocks:
    """Blocks whose conditional acceptance c_k is factor c_k, capped at 1 - (1 - c_k) / 2; confidences move with it, so calibration stays.

    Lower: every accepted token survives with probability c' / c. Higher: every rejection becomes an acceptance with probability
    (c' - c) / (1 - c), and the block goes on with the mean acceptance of the slots that follow. Domain by domain.
    """
    accepted, confidence = blocks.accepted.copy(), None if blocks.confidence is None else blocks.confidence.copy()
    luck = stream(0, "moved acceptance").random((len(accepted), blocks.gamma))
    domain, there = np.repeat(blocks.sequence_domain, blocks.length), blocks.is_proposed
    for d in range(len(blocks.domains)):
        rows = domain == d
        c = _conditional(blocks.accepted[rows], there[rows])  # [γ]
        moved = np.minimum(factor * c, 1 - (1 - c) / 2)
        accepted[rows] = _redrawn(blocks.accepted[rows], c, moved, np.where(there[rows], luck[rows], 1.0))
        if confidence is not None:
            confidence[rows] = np.where(there[rows], _moved(confidence[rows], c, moved), 0.0)
    return replace(blocks, accepted=accepted, confidence=confidence, acceptance=None)


def _redrawn(accepted: NDArray[np.int64], c: Floats, moved: Floats, luck: Floats) -> NDArray[np.int64]:
    """New accepted lengths [n]; slot after slot, each reached token kept, lost or won. With a luck of 1 nothing is."""
    out = np.zeros_like(accepted)
    going, beyond = np.ones(len(accepted), dtype=bool), np.zeros(len(accepted), dtype=bool)
    for k in range(len(c)):
        was = accepted > k
        keep, win = min(moved[k] / c[k], 1.0) if c[k] > 0 else 1.0, max(moved[k] - c[k], 0.0) / max(1 - c[k], 1e-12)
        takes = np.where(beyond, luck[:, k] < moved[k], np.where(was, luck[:, k] < keep, luck[:, k] < win))
        beyond |= going & takes & ~was
        going &= takes
        out += going
    return out


def _moved(confidence: Floats, c: Floats, moved: Floats) -> Floats:
    """Confidences [n, γ] moved as the acceptance is."""
    lower = moved <= c
    down = confidence * np.where(lower, moved / np.maximum(c, 1e-12), 1.0)
    up = confidence + (1 - confidence) * np.where(lower, 0.0, (moved - c) / np.maximum(1 - c, 1e-12))
    return np.clip(np.where(lower, down, up), 1e-6, 1 - 1e-6)


def _conditional(accepted: NDArray[np.int64], there: Flags) -> Floats:
    """P(slot k accepted | it is proposed, `there` [n, γ], and slots before it accepted), [γ]."""
    slots = np.arange(1, there.shape[1] + 1)
    reached = ((accepted[:, None] >= slots - 1) & there).sum(axis=0)
    return np.asarray((accepted[:, None] >= slots).sum(axis=0) / np.maximum(reached, 1))


def _accepted_of(blocks: RecordedBlocks, domain: str) -> float:
    """Mean accepted drafted tokens of a domain's anchors."""
    rows = np.isin(blocks.sequence_of_row, blocks.sequences_of(domain))
    return float(blocks.accepted[rows].mean())

"""A profile with one of the numbers that it is not sure of moved: what a run would be if the truth lay there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from simulator.arrays import Flags, Floats
from simulator.measurements.cost import Costs, DraftCost, LinearPrefill, PrefillCost, VerifyCost
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Profile
from simulator.measurements.uncertainty import OF_ACCEPTANCE, Parameter, Unsure
from simulator.rng import stream

_RARE = 1e-6  # an acceptance nearer to 0 or 1 is taken as this near: its logit ends there


@dataclass(frozen=True)
class MovedVerify:
    """A verify cost times `factor`; what tokens beyond the measured ones add times `growth`, and what drafted tokens add times `verified`."""

    cost: VerifyCost
    factor: float = 1.0
    verified: float = 1.0
    growth: float = 1.0

    @property
    def varies_with(self) -> str:
        """Where drafted tokens have another price than anchors, the number of requests counts."""
        return self.cost.varies_with if self.verified == 1 else "shape"

    def most(self, what: Any) -> float | None:
        """That of the cost."""
        return self.cost.most(what)

    def tokens_range(self) -> tuple[float, float]:
        """That of the cost."""
        return self.cost.tokens_range()

    def seconds(self, tokens: ArrayLike, requests: float = 1, context_tokens: float = 0) -> Floats:
        """As the cost's own."""
        time = self._grown(np.asarray(tokens, dtype=np.float64), requests, context_tokens)
        if self.verified != 1:
            anchors = float(self._grown(np.asarray(float(requests)), requests, context_tokens))
            time = np.where(np.asarray(tokens) > requests, anchors + (time - anchors) * self.verified, time)
        return np.asarray(time * self.factor)

    def _grown(self, tokens: Floats, requests: float, context_tokens: float) -> Floats:
        time, last = self.cost.seconds(tokens, requests, context_tokens), self.cost.tokens_range()[1]
        if self.growth == 1 or not (tokens > last).any():
            return time
        there = float(self.cost.seconds(last, requests, context_tokens))
        return np.where(tokens > last, there + (time - there) * self.growth, time)


@dataclass(frozen=True)
class MovedDraft:
    """A draft cost times `factor` (of prompts: `prompts`), plus `share` of the target's step of as many requests, never below 0; where every step
    under the drafter takes more or less, that is what `share` is added to, of a step of one request."""

    cost: DraftCost
    verify: VerifyCost
    gamma: int
    factor: float = 1.0
    share: float = 0.0
    prompts: float = 1.0

    @property
    def every_step_s(self) -> float:
        """As the cost's own, moved."""
        own = self.cost.every_step_s
        return own * self.factor + self.share * float(self.verify.seconds(1)) if own else 0.0

    @property
    def ahead(self) -> bool | None:
        """That of the cost."""
        return self.cost.ahead

    @property
    def reads_prompts(self) -> bool:
        """That of the cost."""
        return self.cost.reads_prompts

    def prompt_s(self, tokens: float, context_tokens: float) -> float:
        """As the cost's own."""
        return self.cost.prompt_s(tokens, context_tokens) * self.prompts

    @property
    def takes_in(self) -> bool:
        """That of the cost."""
        return self.cost.takes_in

    def absorb_s(self, tokens: ArrayLike, context_tokens: float) -> Floats:
        """As the cost's own."""
        return self.cost.absorb_s(tokens, context_tokens) * self.factor

    def seconds(self, requests: float, context_tokens: float, slots: int) -> float:
        """Time to draft for each of `requests` requests; of fewer slots, the share that the cost itself has of them."""
        time, whole = (self.cost.seconds(requests, context_tokens, n) for n in (slots, self.gamma))
        part = 0.0 if self.cost.every_step_s else time / whole if whole > 0 else 1.0
        return max(time * self.factor + part * self.share * float(self.verify.seconds(requests, requests)), 0.0)


@dataclass(frozen=True)
class MovedPrefill:
    """A table of prompts times `factor`; asked for its prices on both paths of the engine."""

    cost: PrefillCost
    factor: float

    @property
    def apart(self) -> bool:
        """That of the cost."""
        return self.cost.apart

    def seconds(self, tokens: float, attended_tokens: float = 0) -> float:
        """As the cost's own."""
        return self.cost.seconds(tokens, attended_tokens) * self.factor

    def shared_s(self, tokens: float, beside: int) -> float | None:
        """As the cost's own."""
        paid = self.cost.shared_s(tokens, beside)
        return None if paid is None else paid * self.factor


@dataclass(frozen=True)
class MovedScheduling:
    """The time of a step in which a rule goes by prices, never below 0."""

    seconds: float
    per_request_s: float = 0.0


def perturbed(profile: Profile, unsure: Unsure, size: float) -> Profile:
    """The profile, one of its numbers moved by `size` standard deviations. Nothing is written; the profile itself stays as it is."""
    by = size * unsure.sd
    if by == 0:
        return profile
    names = [unsure.drafter] if unsure.drafter else list(profile.drafters)
    if unsure.parameter in OF_ACCEPTANCE:
        moved = profile.model_copy()
        moved._blocks = {name: profile.blocks(name) for name in profile.drafters}
        for name in names:
            gamma = profile.drafters[name].gamma
            shift = by * (np.ones(gamma) if unsure.parameter == "level" else np.linspace(-0.5, 0.5, gamma) if gamma > 1 else np.zeros(1))
            moved._blocks[name] = shifted(profile.blocks(name), shift, profile.drafters[name].temperatures)
        return moved
    of_target = unsure.parameter == "prefill" and unsure.drafter is None
    drafts = {name: draft for name in names if not of_target and (draft := _draft(profile, name, unsure.parameter, by)) is not None}
    drafters = {name: drafter.model_copy(update={"draft": drafts.get(name, drafter.draft)}) for name, drafter in profile.drafters.items()}
    if unsure.parameter == "prefill" and not of_target:
        return profile.model_copy(update={"drafters": drafters})
    return profile.model_copy(update={"costs": _costs(profile.costs, unsure.parameter, by), "drafters": drafters})


def _draft(profile: Profile, name: str, parameter: Parameter, by: float) -> MovedDraft | None:
    """The draft cost of a drafter, where the parameter moves it."""
    made: Mapping[str, float] = {
        "draft": {"share": by}, "pace": {"factor": exp(by), "prompts": exp(by)}, "prefill": {"prompts": exp(by)},
    }.get(parameter, {})  # fmt: skip
    drafter = profile.drafters[name]
    return MovedDraft(drafter.draft, profile.costs.verify, drafter.gamma, **made) if made else None


def _costs(costs: Costs, parameter: Parameter, by: float) -> Costs:
    """The costs of a target, where the parameter moves them."""
    factor, changes = exp(by), dict[str, Any]()
    if parameter in ("step", "verified", "growth", "pace"):
        changes["verify"] = MovedVerify(costs.verify, **{"factor" if parameter in ("step", "pace") else parameter: factor})
    if parameter in ("step", "pace"):
        overhead = costs.overhead
        times = {name: getattr(overhead, name) * factor for name in ("seconds", "per_request_s")}
        changes["overhead"] = overhead.model_copy(update=times)
    known = costs.scheduling
    if parameter == "scheduling":
        usual = known.seconds if known else 0.0
        changes["scheduling"] = MovedScheduling(max(usual + by * float(costs.verify.seconds(1)), 0.0), known.per_request_s if known else 0.0)
    elif parameter == "pace" and known:
        changes["scheduling"] = MovedScheduling(known.seconds * factor, known.per_request_s * factor)
    if parameter == "pace" and costs.front_end:
        changes["front_end"] = costs.front_end.model_copy(update={"seconds": costs.front_end.seconds * factor})
    if parameter in ("prefill", "pace") and costs.prefill is not None:
        changes["prefill"] = _prefill(costs.prefill, factor)
    return costs.model_copy(update=changes)


def _prefill(cost: PrefillCost, factor: float) -> LinearPrefill | MovedPrefill:
    if not isinstance(cost, LinearPrefill):
        return MovedPrefill(cost, factor)
    return cost.model_copy(update={name: getattr(cost, name) * factor for name in ("base_s", "per_token_s", "per_token_context_s")})


def shifted(blocks: RecordedBlocks, shift: Floats, temperatures: list[float] | None = None) -> RecordedBlocks:
    """Blocks whose conditional acceptance, of every domain and slot, has its logit moved by `shift` [γ].

    The outcomes of the recorded rows are decided again with random draws that are the same for every shift, so that a row changes at one shift and
    stays changed beyond it. Downwards an accepted slot stays so with the ratio of the two acceptances, upwards a rejected one becomes accepted with
    the share of the rest, whatever its own difficulty; the slots after it, of which the recording says nothing, are accepted as the domain's are.
    Confidences and acceptances move by the same rule, so that calibrated ones stay calibrated.
    """
    if not shift.any():
        return blocks
    there = blocks.is_proposed  # [N, γ]
    reached = (np.arange(blocks.gamma) <= blocks.accepted[:, None]) & there
    taken = np.arange(blocks.gamma) < blocks.accepted[:, None]
    before, after = _conditionals(blocks, reached, taken, shift)
    lower, higher = np.minimum(after / before, 1.0), np.maximum((after - before) / (1 - before), 0.0)  # [N, γ]
    draws = stream(0, "moved acceptance").random((2, *taken.shape))
    again = np.where(taken, draws[0] < lower, draws[0] < higher)
    accepted = np.logical_and.accumulate(np.where(reached, again, draws[1] < after) & there, axis=1).sum(axis=1, dtype=np.int64)
    drawn = (np.arange(blocks.gamma) <= accepted[:, None]) & there
    acceptance = blocks.acceptance
    if acceptance is not None:
        acceptance = np.where(drawn, np.where(reached, acceptance * lower + (1 - acceptance) * higher, after), np.nan)
    confidence = blocks.confidence
    if confidence is not None:
        warmth = np.ones(blocks.gamma) if temperatures is None else np.asarray(temperatures)
        seen = blocks.conditional(temperatures)
        seen = np.clip(seen * lower + (1 - seen) * higher, _RARE, 1 - _RARE)
        confidence = np.where(there, 1 / (1 + (1 / seen - 1) ** warmth), 0.0)  # raw again: the logit times the temperature
    return replace(blocks, accepted=accepted, confidence=confidence, acceptance=acceptance)


def _conditionals(blocks: RecordedBlocks, reached: Flags, taken: Flags, shift: Floats) -> tuple[Floats, Floats]:
    """Conditional acceptance of each row's domain and slot before and after the shift, [N, γ]."""
    domain = blocks.sequence_domain[blocks.sequence_of_row]
    count = len(blocks.domains)
    tried, had = (np.array([np.bincount(domain, weights=of[:, k], minlength=count) for k in range(blocks.gamma)]).T for of in (reached, taken))
    share = np.divide(had, tried, out=np.full(tried.shape, 0.5), where=tried > 0)  # no row came so far: nor do they soon
    before = np.clip(share, _RARE, 1 - _RARE)  # [D, γ]
    after = 1 / (1 + (1 / before - 1) * np.exp(-shift))
    return before[domain], after[domain]

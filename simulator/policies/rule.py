"""What a rule is that says how many drafted tokens to verify: a frozen object that maps arrays to lengths, for the simulator and a real engine alike.

A rule sees confidences and the price of a round; outcomes are not in its view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from simulator.errors import DsimError
from simulator.kind import Kind, Lowered

Floats = NDArray[np.floating[Any]]
Lengths = NDArray[np.int64]  # [R], each in 0..γ


@dataclass(slots=True)
class StepView:
    """What a policy may look at in one step of R requests that have γ drafted tokens each.

    `lagged_survival[i]` are the survivals that the same R requests had i + 1 steps ago, 1.0 where a request had none yet.
    `round_s[j]` is the time of the whole round (draft, verify, overhead) that verifies j drafted tokens beside the R anchors.
    Drafters without a confidence head give `confidence=None` and their recorded mean survivals in every row of `survival`.
    Drafters that may propose fewer than γ tokens say how many: confidences and survivals beyond are 0, and no more is verified, whatever
    the lengths.
    """

    requests: int
    gamma: int
    confidence: Floats | None  # [R, γ] calibrated, conditional: P(slot k accepted | slots before it accepted)
    survival: Floats  # [R, γ] their running products, non-increasing along γ
    lagged_survival: Sequence[Floats]  # each [R, γ]
    round_s: Floats  # [R γ + 1] seconds
    proposed: Lengths | None = field(default=None, kw_only=True)  # [R]; None: always γ
    lagged_proposed: Sequence[Lengths] = field(default=(), kw_only=True)  # each [R], γ where a request had none yet

    def survival_at(self, lag: int) -> Floats:
        """Survivals as known `lag` steps ago (0: now)  # [R, γ]."""
        return self.survival if lag == 0 else self.lagged_survival[lag - 1]

    def verified_at(self, lag: int) -> Lengths:
        """Tokens verified in all where every request has length 0 … γ, by what was proposed `lag` steps ago  # [γ+1]."""
        lengths = np.arange(self.gamma + 1)
        proposed = self.proposed if lag == 0 else self.lagged_proposed[lag - 1] if self.lagged_proposed else None
        return self.requests * lengths if proposed is None else np.minimum(lengths, proposed[:, None]).sum(axis=0)


@dataclass(slots=True)
class EngineView(StepView):
    """A view as engines fill it, with what rules with a memory look at: `context_tokens` of a request, as the round is priced; `smoothed`, the
    survivals by the running means of a rule with `smoothing`; `kept`, the rule's own numbers in this replica (`keeps` of them, 0 at the start),
    which it may change."""

    context_tokens: float = 0.0
    smoothed: Floats | None = None  # [R, γ]
    kept: Floats = field(default_factory=lambda: np.zeros(0))  # [keeps]


class Belief(NamedTuple):
    """How a scheduler's table of round times differs from the truth: `probes` are the tokens it was measured at, of which it takes the largest not
    above; `rising` makes it a running maximum over tokens; without `overhead` it knows no host time; `context_tokens` is the one context length
    it was measured at."""

    probes: tuple[int, ...] = ()
    rising: bool = False
    overhead: bool = True
    context_tokens: float | None = None


class Serving(NamedTuple):
    """How an engine is set to follow a rule: tokens to draft of each request (0: no speculation); whether that number is looked up by batch size
    (`table` of [first, last, length], empty where the profile's best lengths come nearest); `lag` where lengths are scheduled by step costs and
    confidences so many steps old; `profile_context` is the context that vLLM is to measure its step costs at. `beyond` is what no engine can be
    set to, in words."""

    length: int
    by_batch: bool = False
    table: tuple[tuple[int, int, int], ...] = ()
    lag: int | None = None
    beyond: tuple[str, ...] = ()
    profile_context: int | None = None


class VerificationPolicy(Kind):
    """Turns a view into lengths.

    Lowering: `lowered(rows, most)`, where `rows` is a view of all recorded rows (without lags and prices), and no batch is larger than `most`.
    """

    needs_confidence: ClassVar[bool] = False  # refuses a drafter without a confidence head
    needs_prices: ClassVar[bool] = False  # the choice goes by what the round is thought to cost
    drafts: ClassVar[bool] = True
    clairvoyant: ClassVar[bool] = False  # the engine shows it the outcome as its survivals: a bound, never a plan
    yardstick: ClassVar[bool] = False  # what a plan compares rules with that go by confidences and prices
    keeps: ClassVar[int] = 0  # numbers that it remembers in a replica, from step to step
    drafts_choice: ClassVar[bool] = False  # drafts what it chooses in the step, where `drafted` does not tell beforehand

    @property
    def belief(self) -> Belief:
        """What its table of round times is like."""
        return Belief()

    @property
    def smoothing(self) -> float | None:
        """The weight of the past in running means of each request's confidences; None where it has none."""
        return None

    @property
    def lag_steps(self) -> int:
        """How many steps back it looks."""
        return 0

    @property
    def schedules(self) -> bool:
        """Does an engine weigh confidences against prices in every step, and take time for it? A bound takes none."""
        return self.needs_prices and not self.clairvoyant

    @property
    def peeks(self) -> bool:
        """Does the choice for a slot depend on the tokens at or after it, so that it is not lossless?"""
        return self.clairvoyant

    def longest(self, gamma: int) -> int:
        """The most drafted tokens it may ever verify of one request."""
        return gamma

    def drafted(self, requests: int, gamma: int) -> int:
        """Tokens drafted of each of `requests` requests."""
        return min(self.longest(gamma), gamma)

    def drafted_at(self, requests: int, gamma: int, context_tokens: float) -> int:
        """The same where it depends on the context of a request as well."""
        return self.drafted(requests, gamma)

    def choose(self, view: StepView) -> Lengths:
        """Drafted tokens to verify of each request. # [R], each in 0..γ"""
        return np.full(view.requests, self.drafted(view.requests, view.gamma), dtype=np.int64)

    def chosen(self, view: StepView) -> Lengths:
        """Its choice, within what is proposed; that of a rule which dsim does not have is checked. Raises DsimError where it is not lengths."""
        lengths = self._checked(view)
        return lengths if view.proposed is None else np.minimum(lengths, view.proposed)

    def _checked(self, view: StepView) -> Lengths:
        lengths = self.choose(view)
        if "lowered" in vars(type(self)):
            return lengths
        most, checked = min(self.longest(view.gamma), view.gamma), np.asarray(lengths)
        whole = checked.shape == (view.requests,) and checked.dtype.kind in "iu"
        if not whole or checked.min(initial=0) < 0 or checked.max(initial=0) > most:
            expected = f"{view.requests} whole numbers from 0 to {most} in an array"
            raise DsimError(f"expected {expected}, got {lengths!r}", key=f"choose() of rule '{self.kind}'")
        return checked.astype(np.int64)

    def at_other_lags(self) -> dict[int, Self]:
        """The same rule with confidences so many steps old, where that can be said of it."""
        return {}

    def serving(self, gamma: int) -> Serving:
        """How vLLM and SGLang come nearest to it. A rule that says nothing is one that they do not have."""
        return Serving(min(self.longest(gamma), gamma), beyond=(f"the rule '{self.kind}': whole blocks are verified instead",))

    def by_batch(self, rows: StepView, most: int) -> Lowered:
        """Lowering of a rule that verifies all that it drafts."""
        return Lowered("by_batch", table=np.array([0, *(self.drafted(requests, rows.gamma) for requests in range(1, most + 1))]))


def throughputs(survival: Floats, round_s: Floats, least: int = 0, start: int = 0) -> tuple[Floats, Floats]:
    """Survivals beyond the first `least` slots, which hold `start` tokens, in descending order [n], and Θ after admitting 0..n of those above
    zero [≤ n+1]."""
    requests = survival.shape[0]
    ranked = np.sort(survival[:, least:], axis=None)[::-1]
    possible = ranked.size if ranked.size == 0 or ranked[-1] > 0 else int(np.count_nonzero(ranked > 0))
    committed = np.empty(possible + 1)
    committed[0] = requests + (survival[:, :least].cumsum()[-1] if least else 0.0)
    ranked[:possible].cumsum(out=committed[1:])
    committed[1:] += committed[0]
    return ranked, committed / round_s[start : start + possible + 1]


def first_fall(gain: Floats) -> int:
    """How many admissions Algorithm 1 makes before one does not raise Θ."""
    stops = gain[1:] <= gain[:-1]
    at = int(stops.argmax()) if stops.size else 0
    return at if stops.size and stops[at] else stops.size


def admit(survival: Floats, admitted: int, least: int, ranked: Floats | None) -> Lengths:
    """Lengths [R] when the `admitted` likeliest tokens beyond the first `least` slots are taken; ties by smaller slot, then request."""
    requests = survival.shape[0]
    free = survival[:, least:]
    if admitted <= 0 or free.size == 0:
        return np.full(requests, least, dtype=np.int64)
    admitted = min(admitted, free.size)
    worst = ranked[admitted - 1] if ranked is not None else np.partition(free, free.size - admitted, axis=None)[free.size - admitted]
    # What cannot be accepted is not verified, whatever the budget.
    lengths: Lengths = np.add.reduce(free >= worst if worst > 0 else free > 0, axis=1, dtype=np.int64)
    surplus = int(np.add.reduce(lengths)) - admitted
    if surplus > 0:
        tied = np.flatnonzero((free == worst).T)[-surplus:] % requests
        lengths -= np.bincount(tied, minlength=requests)
    return lengths + least if least else lengths

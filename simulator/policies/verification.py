"""How many drafted tokens to verify: every policy a frozen object that maps arrays to lengths, for the simulator and a real engine alike.

A policy sees confidences and the price of a round; outcomes are not in its view. Rules and sources: docs/design.md, DSpark paper §3.2.2 and §5.2.
All rules stand in one file, to be read beside each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from simulator.errors import DsimError
from simulator.kind import Kind, Lowered
from simulator.quantities import Lag, Share, Slots, Within

Floats = NDArray[np.floating[Any]]
Lengths = NDArray[np.int64]  # [R], each in 0..γ
Row = Annotated[int, Within(0, 1e10, "requests")]  # of a table by batch size: the last row may end at 2^31 - 1


@dataclass(slots=True)
class StepView:
    """What a policy may look at in one step of R requests that have γ drafted tokens each.

    `lagged_survival[i]` are the survivals that the same R requests had i + 1 steps ago, 1.0 where a request had none yet.
    `round_s[j]` is the time of the whole round (draft, verify, overhead) that verifies j drafted tokens beside the R anchors.
    Drafters without a confidence head give `confidence=None` and their recorded mean survivals in every row of `survival`.
    """

    requests: int
    gamma: int
    confidence: Floats | None  # [R, γ] calibrated, conditional: P(slot k accepted | slots before it accepted)
    survival: Floats  # [R, γ] their running products, non-increasing along γ
    lagged_survival: Sequence[Floats]  # each [R, γ]
    round_s: Floats  # [R γ + 1] seconds

    def survival_at(self, lag: int) -> Floats:
        """Survivals as known `lag` steps ago (0: now)  # [R, γ]."""
        return self.survival if lag == 0 else self.lagged_survival[lag - 1]


class Serving(NamedTuple):
    """How an engine is set to follow a rule: tokens to draft of each request (0: no speculation); whether that number is looked up by batch size
    (`table` of [first, last, length], empty where the profile's best lengths come nearest); `lag` where lengths are scheduled by step costs and
    confidences so many steps old. `beyond` is what no engine can be set to, in words."""

    length: int
    by_batch: bool = False
    table: tuple[tuple[int, int, int], ...] = ()
    lag: int | None = None
    beyond: tuple[str, ...] = ()


class VerificationPolicy(Kind):
    """Turns a view into lengths.

    Lowering: `lowered(rows, most)`, where `rows` is a view of all recorded rows (without lags and prices), and no batch is larger than `most`.
    """

    needs_confidence: ClassVar[bool] = False  # refuses a drafter without a confidence head
    needs_prices: ClassVar[bool] = False  # the choice goes by what the round is thought to cost
    drafts: ClassVar[bool] = True
    clairvoyant: ClassVar[bool] = False  # the engine shows it the outcome as its survivals: a bound, never a plan
    yardstick: ClassVar[bool] = False  # what a plan compares rules with that go by confidences and prices

    @property
    def lag_steps(self) -> int:
        """How many steps back it looks."""
        return 0

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

    def choose(self, view: StepView) -> Lengths:
        """Drafted tokens to verify of each request. # [R], each in 0..γ"""
        return np.full(view.requests, self.drafted(view.requests, view.gamma), dtype=np.int64)

    def chosen(self, view: StepView) -> Lengths:
        """Its choice; that of a rule which dsim does not have itself is checked. Raises DsimError where it is not lengths."""
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


class NoSpeculation(VerificationPolicy):
    """Ordinary decoding: nothing drafted, nothing paid for it."""

    kind: Literal["none"] = "none"
    drafts: ClassVar = False
    lowered: ClassVar = VerificationPolicy.by_batch

    def longest(self, gamma: int) -> int:
        return 0

    def serving(self, gamma: int) -> Serving:
        return Serving(0)


class FixedLength(VerificationPolicy):
    """The same number of every request. MTP-1 is length 1 with the MTP drafter."""

    kind: Literal["fixed"] = "fixed"
    length: Slots
    yardstick: ClassVar = True
    lowered: ClassVar = VerificationPolicy.by_batch

    def longest(self, gamma: int) -> int:
        return self.length

    def serving(self, gamma: int) -> Serving:
        return Serving(min(self.length, gamma))


class Threshold(VerificationPolicy):
    """The prefix before the first slot whose confidence falls below `threshold`: conditional per slot (DeepSpec) or survival."""

    kind: Literal["threshold"] = "threshold"
    threshold: Share
    of: Literal["conditional", "survival"] = "conditional"
    needs_confidence: ClassVar = True

    def choose(self, view: StepView) -> Lengths:
        assert view.confidence is not None
        tested = view.confidence if self.of == "conditional" else view.survival
        lengths: Lengths = np.logical_and.accumulate(tested >= self.threshold, axis=1).sum(axis=1, dtype=np.int64)
        return lengths

    def serving(self, gamma: int) -> Serving:
        return Serving(gamma, beyond=(f"a threshold of {self.threshold:g} on confidences: whole blocks are verified instead",))

    def lowered(self, rows: StepView, most: int) -> Lowered:
        return Lowered("by_row", table=self.choose(rows))


class ByBatch(VerificationPolicy):
    """One length for the batch, looked up by its size: `table` of [first, last, length], ends included, last row open-ended
    (vLLM's num_speculative_tokens_per_batch_size)."""

    kind: Literal["by_batch"] = "by_batch"
    table: Annotated[list[tuple[Row, Row, Slots]], Field(min_length=1, max_length=10_000)]
    lowered: ClassVar = VerificationPolicy.by_batch

    @model_validator(mode="after")
    def _covers(self) -> Self:
        expected = 1
        for first, last, length in self.table:
            if first != expected or last < first or length < 0:
                row = [first, last, length]
                raise ValueError(f"rows [first, last, length] must follow each other from batch size 1 (row {row} should begin at {expected})")
            expected = last + 1
        return self

    def longest(self, gamma: int) -> int:
        return max(length for _, _, length in self.table)

    def drafted(self, requests: int, gamma: int) -> int:
        return min(self.table[max(bisect_right(self.table, requests, key=lambda row: row[0]) - 1, 0)][2], gamma)

    def serving(self, gamma: int) -> Serving:
        table = tuple((first, last, min(length, gamma)) for first, last, length in self.table)
        return Serving(min(self.longest(gamma), gamma), by_batch=True, table=table)


class ConfidenceScheduled(VerificationPolicy):
    """The hardware-aware scheduler: as many of the most likely tokens of the batch as pay for themselves.

    synchronous: Algorithm 1 (paper §3.2.2) on present confidences, lossless by its early stop.
    asynchronous: §5.2, the budget is the global optimum on confidences `lag` steps old, spent on the best present tokens.
    Requests that joined since count with survival 1, those that left count no more, so the budget follows the batch.
    """

    kind: Literal["confidence_scheduled"] = "confidence_scheduled"
    mode: Literal["synchronous", "asynchronous"] = "asynchronous"
    lag: Lag = 2
    min_length: Annotated[int, Within(0, 1, "tokens")] = 0
    needs_confidence: ClassVar = True
    needs_prices: ClassVar = True

    @property
    def lag_steps(self) -> int:
        return 0 if self.mode == "synchronous" else self.lag

    @property
    def peeks(self) -> bool:
        return self.mode == "asynchronous" and self.lag == 0

    def choose(self, view: StepView) -> Lengths:
        least = min(self.min_length, view.gamma)
        ranked, gain = _throughputs(view.survival_at(self.lag_steps), view.round_s, least)
        admitted = _first_fall(gain) if self.mode == "synchronous" else int(gain.argmax())
        present = ranked if self.lag_steps == 0 else None
        return _admit(view.survival, admitted, least, present)

    def at_other_lags(self) -> dict[int, Self]:
        lags = (0, 1, 2) if self.mode == "asynchronous" else ()
        return {lag: self.model_copy(update={"lag": lag}) for lag in lags if lag != self.lag}

    def serving(self, gamma: int) -> Serving:
        early = ("Algorithm 1, which stops early (mode: synchronous): the budget is the best one of earlier confidences",)
        least = ("at least one drafted token of each request (min_length: 1): it may verify none",)
        beyond = (early if self.mode == "synchronous" else ()) + (least if self.min_length else ())
        return Serving(gamma, lag=self.lag_steps, beyond=beyond)

    def lowered(self, rows: StepView, most: int) -> Lowered:
        return Lowered("scheduled", {"least": min(self.min_length, rows.gamma), "lag": self.lag_steps, "stop_early": self.mode == "synchronous"})


class Uniform(VerificationPolicy):
    """One length for the whole batch that maximises the same objective on mean survivals, for engines without ragged verification."""

    kind: Literal["uniform"] = "uniform"
    lag: Lag = 2
    min_length: Annotated[int, Within(0, 1, "tokens")] = 0
    needs_prices: ClassVar = True

    @property
    def lag_steps(self) -> int:
        return self.lag

    @property
    def peeks(self) -> bool:
        return self.lag == 0

    def choose(self, view: StepView) -> Lengths:
        mean = view.survival_at(self.lag).cumsum(axis=0)[-1] / view.requests  # summed request by request, as compiled code does
        committed = np.concatenate(([1.0], 1.0 + mean.cumsum()))  # [γ+1]
        gain = committed / view.round_s[:: view.requests]
        length = int(gain[self.min_length :].argmax()) + self.min_length
        return np.full(view.requests, length, dtype=np.int64)

    def at_other_lags(self) -> dict[int, Self]:
        return {lag: self.model_copy(update={"lag": lag}) for lag in (0, 1, 2) if lag != self.lag}

    def serving(self, gamma: int) -> Serving:
        return Serving(
            gamma, by_batch=True, beyond=("one length for the batch, chosen in every step from confidences: a length set beforehand instead",)
        )

    def lowered(self, rows: StepView, most: int) -> Lowered:
        return Lowered("uniform", {"least": min(self.min_length, rows.gamma), "lag": self.lag})


class Oracle(VerificationPolicy):
    """Knows what will be accepted, verifies of it what pays. An upper bound on every policy; never a plan."""

    kind: Literal["oracle"] = "oracle"
    clairvoyant: ClassVar = True
    needs_prices: ClassVar = True
    lowered: ClassVar = Lowered("scheduled")

    def choose(self, view: StepView) -> Lengths:
        ranked, gain = _throughputs(view.survival, view.round_s, 0)
        return _admit(view.survival, int(gain.argmax()), 0, ranked)


Verification = Annotated[
    NoSpeculation | FixedLength | Threshold | ByBatch | ConfidenceScheduled | Uniform | Oracle,
    Field(discriminator="kind"),
]


def _throughputs(survival: Floats, round_s: Floats, least: int) -> tuple[Floats, Floats]:
    """Survivals beyond the first `least` slots in descending order [n], and Θ after admitting 0..n of those above zero [≤ n+1]."""
    requests = survival.shape[0]
    ranked = np.sort(survival[:, least:], axis=None)[::-1]
    possible = ranked.size if ranked.size == 0 or ranked[-1] > 0 else int(np.count_nonzero(ranked > 0))
    committed = np.empty(possible + 1)
    committed[0] = requests + (survival[:, :least].cumsum()[-1] if least else 0.0)
    ranked[:possible].cumsum(out=committed[1:])
    committed[1:] += committed[0]
    start = requests * least
    return ranked, committed / round_s[start : start + possible + 1]


def _first_fall(gain: Floats) -> int:
    """How many admissions Algorithm 1 makes before one does not raise Θ."""
    stops = gain[1:] <= gain[:-1]
    at = int(stops.argmax()) if stops.size else 0
    return at if stops.size and stops[at] else stops.size


def _admit(survival: Floats, admitted: int, least: int, ranked: Floats | None) -> Lengths:
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

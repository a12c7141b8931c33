"""How many drafted tokens to verify: the rules, each a class and a word of the union.

Rules and sources: docs/design.md, DSpark paper §3.2.2 and §5.2. What a rule is: rule.py. Lengths from tables: tables.py. The
schedulers of vLLM, SGLang and vLLM-Ascend: schedulers.py.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from simulator.kind import Lowered
from simulator.policies.rule import Belief, EngineView, Floats, Lengths, Serving, StepView, VerificationPolicy, admit, first_fall, throughputs
from simulator.policies.schedulers import AscendAdaptive, SglangAdaptive, VllmAdaptive
from simulator.policies.tables import ByBatch, ByBatchAndContext, Tiered
from simulator.quantities import Lag, Share, Slots, Within

__all__ = [
    "AscendAdaptive",
    "Belief",
    "ByBatch",
    "ByBatchAndContext",
    "ConfidenceScheduled",
    "EngineView",
    "FixedLength",
    "Floats",
    "Lengths",
    "NoSpeculation",
    "Oracle",
    "Serving",
    "SglangAdaptive",
    "StepView",
    "Threshold",
    "Tiered",
    "Uniform",
    "Verification",
    "VerificationPolicy",
    "VllmAdaptive",
]


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
        ranked, gain = throughputs(view.survival_at(self.lag_steps), view.round_s, least, int(view.verified_at(self.lag_steps)[least]))
        admitted = first_fall(gain) if self.mode == "synchronous" else int(gain.argmax())
        present = ranked if self.lag_steps == 0 else None
        return admit(view.survival, admitted, least, present)

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
        gain = committed / view.round_s[view.verified_at(self.lag)]
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
        ranked, gain = throughputs(view.survival, view.round_s)
        return admit(view.survival, int(gain.argmax()), 0, ranked)


Verification = Annotated[
    NoSpeculation
    | FixedLength
    | Threshold
    | ByBatch
    | ByBatchAndContext
    | Tiered
    | ConfidenceScheduled
    | Uniform
    | VllmAdaptive
    | SglangAdaptive
    | AscendAdaptive
    | Oracle,
    Field(discriminator="kind"),
]

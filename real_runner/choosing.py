"""What the policy is shown on real hardware: the same EngineView as in the simulator, filled from the confidence head and a cost table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.errors import DsimError
from simulator.measurements.prices import reads_to_longest
from simulator.policies.verification import EngineView, VerificationPolicy


class RoundCosts(Protocol):
    """How long a whole round takes (draft, verify, overhead)."""

    def round_s(self, requests: int, context_tokens: float, gamma: int) -> Floats:
        """Seconds by the number of drafted tokens verified beside the `requests` anchors  # [R γ + 1]."""
        ...


class _Unknown:
    """Stands where the price of a round would be, and refuses as soon as a policy looks."""

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy

    def __getattr__(self, name: str) -> Any:
        raise DsimError(self._what, remedy=self._remedy)

    def __getitem__(self, at: Any) -> Any:
        raise DsimError(self._what, remedy=self._remedy)


class Chooser:
    """Asks the policy for lengths; remembers the survivals of the last rounds per slot for policies that look back.

    `temperatures` [γ] are sequential temperature scaling's, applied to the confidence logits; `survival` [γ] the recorded mean survivals that a
    drafter without a confidence head is given.
    """

    def __init__(
        self,
        policy: VerificationPolicy,
        gamma: int,
        slots: int,
        *,
        has_confidence: bool,
        costs: RoundCosts | None,
        temperatures: Sequence[float] | None = None,
        survival: Sequence[float] | None = None,
    ) -> None:
        self.policy, self.gamma, self.costs, self.has_confidence = policy, gamma, costs, has_confidence
        self._temperatures = np.asarray(temperatures or [1.0] * gamma, dtype=np.float64)[:gamma]
        self._survival = None if survival is None else np.asarray(survival, dtype=np.float64)[:gamma]
        self._past = [np.ones((slots, gamma)) for _ in range(policy.lag_steps)]
        self._means = np.full((slots, gamma), -1.0)  # running ones of confidences; below 0: none yet
        self._kept = np.zeros(policy.keeps)
        self._refuse()

    def _refuse(self) -> None:
        kind = self.policy.kind
        if self.policy.clairvoyant:
            raise DsimError(f"policy {kind!r} knows outcomes in advance: an engine cannot run it", key="verification")
        if self.policy.needs_confidence and self.policy.drafts and not self.has_confidence:
            raise DsimError(f"policy {kind!r} needs confidences, and the drafter has no confidence head", key="verification")
        if self.gamma and self.policy.drafts:
            self.policy.choose(self._view(np.zeros((1, self.gamma)), np.zeros(1, dtype=np.int64), 0.0))
            self._kept[:] = 0.0

    def joined(self, slot: int) -> None:
        """A new request in `slot`: it counts with survival 1 until it has a past."""
        for past in self._past:
            past[slot] = 1.0
        self._means[slot] = -1.0

    def moved(self, slot: int, into: int) -> None:
        """The request of `slot` is in `into` now."""
        for kept in (*self._past, self._means):
            kept[into] = kept[slot]

    def choose(self, logits: Floats | None, slots: Integers, contexts: Integers) -> tuple[Integers, Floats | None]:
        """Lengths [R] for the requests in `slots` [R] with confidence `logits` [R, γ] and cached `contexts` [R], and the confidences that the
        policy saw."""
        if self.gamma == 0 or not self.policy.drafts:
            return np.zeros(len(slots), dtype=np.int64), None
        view = self._view(logits, slots, float(contexts.max() * len(slots) if reads_to_longest(self.costs) else contexts.sum()))
        lengths = self.policy.chosen(view)
        for newer, older in zip(self._past[-2::-1], self._past[:0:-1], strict=True):
            older[slots] = newer[slots]
        if self._past:
            self._past[0][slots] = view.survival
        if self.policy.smoothing is not None and view.confidence is not None:
            self._means[slots] = self._mixed(view.confidence, slots)
        confidence = None if view.confidence is None else np.asarray(view.confidence, dtype=np.float64)
        return lengths, confidence

    def _view(self, logits: Floats | None, slots: Integers, context_tokens: float) -> EngineView:
        confidence, survival = None, self._survival
        if self.has_confidence and logits is not None:
            confidence = 1.0 / (1.0 + np.exp(-logits / self._temperatures))
            survival = confidence.cumprod(axis=1)
        elif survival is not None:
            survival = np.broadcast_to(survival, (len(slots), self.gamma))
        else:
            survival = _Unknown(f"policy {self.policy.kind!r} needs survivals, the drafter has no confidence head", "give recorded mean ones")
        price: Any = _Unknown(f"policy {self.policy.kind!r} needs the time of a round", "give a cost table, or measure one first")
        if self.costs is not None:
            price = self.costs.round_s(len(slots), context_tokens, self.gamma)
        lagged = [past[slots] for past in self._past]
        if isinstance(survival, _Unknown):
            lagged = [survival for _ in self._past]  # type: ignore[misc]
        means = None
        if self.policy.smoothing is not None and confidence is not None:
            means = self._means[slots] if self.policy.lag_steps else self._mixed(confidence, slots)
            means = np.where(means < 0, 1.0, means).cumprod(axis=1)
        mean_context = context_tokens / max(len(slots), 1)
        return EngineView(len(slots), self.gamma, confidence, survival, lagged, price, mean_context, means, self._kept)  # type: ignore[arg-type]

    def _mixed(self, confidence: Floats, slots: Integers) -> Floats:
        """The running means of the requests in `slots` with their present confidences  # [R, γ]"""
        before, weight = self._means[slots], self.policy.smoothing or 0.0
        return np.where(before < 0, confidence, weight * before + (1 - weight) * confidence)

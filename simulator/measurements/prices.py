"""The price of a whole round (draft, verify, overhead) and of prompts beside it, as the engine and the policies ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import frexp, ldexp
from typing import Any, Protocol

import numpy as np

from simulator.arrays import Floats
from simulator.errors import ProfileError
from simulator.kind import Lowered, lowering
from simulator.measurements.cost import Costs, DraftCost
from simulator.measurements.cost_kind import GraphSizes

_MOST_PRICES = 1 << 24  # seconds kept of each kind: 128 MB


class RoundPrices(Protocol):
    """What the engine and a policy ask of a cost model. `context_tokens` is that of a request: the mean, or the longest where the model says
    `to_longest`. `round_s` is a round in which all requests propose; `proposing` is only said to `draft_s` where some propose nothing."""

    overhead_s: float

    def round_s(self, requests: int, context_tokens: float) -> Floats: ...

    def draft_s(self, requests: int, context_tokens: float, slots: int | None = None, proposing: int | None = None) -> float: ...

    def chunk_s(self, tokens: int, attended_tokens: float, beside: int) -> float: ...

    def prefill_s(self, tokens: float, attended_tokens: float = 0) -> float: ...


def rounded_context(context_tokens: float) -> float:
    """Context to three significant digits or so: few prices are ever asked for, the error is below 0.4 % of the context's share."""
    if context_tokens <= 0:
        return 0.0
    mantissa, exponent = frexp(context_tokens)
    return ldexp(round(mantissa * 256), exponent - 8)


def round_prices(prices: RoundPrices, requests: int, context_tokens: float, proposing: int | None) -> tuple[Floats, float]:
    """Time of rounds at 0 .. Rγ drafted tokens, and of drafting in them, where `proposing` of the requests propose anything (None: all)."""
    round_s, draft_s = prices.round_s(requests, context_tokens), prices.draft_s(requests, context_tokens)
    if proposing is None:
        return round_s, draft_s
    paid_s = prices.draft_s(requests, context_tokens, proposing=proposing)
    return round_s - (draft_s - paid_s), paid_s


class RoundCost:
    """Prices rounds of one drafter that drafts `slots` of its `gamma` tokens: the cost model that a replica and its policy share.

    `drafted(requests, context_tokens)` gives the slots where they depend on the batch; `sizes` pads steps to captured graphs. As a scheduler's table:
    steps cost what the largest of `probes` not above them does, times of the target are `rising`, and all are those `at_context`. `scheduled`: the
    lengths of every round are chosen by prices, which takes time too.
    """

    def __init__(
        self,
        costs: Costs,
        draft: DraftCost | None,
        gamma: int,
        slots: int,
        drafted: Callable[[int, float], int] | None = None,
        sizes: GraphSizes | None = None,
        probes: Sequence[int] = (),
        rising: bool = False,
        at_context: float | None = None,
        scheduled: bool = False,
    ) -> None:
        self.costs, self.draft, self.gamma, self.slots = costs, draft, gamma, slots
        self.drafted, self.sizes, self.probes, self.rising, self.at_context = drafted, sizes, probes, rising, at_context
        self.front_end_s = costs.front_end.seconds if costs.front_end else 0.0
        scheduling = costs.scheduling if scheduled else None
        self.scheduling_s = scheduling.seconds if scheduling else 0.0
        self._per_request_s = costs.overhead.per_request_s + (scheduling.per_request_s if scheduling else 0.0)
        drafting = draft if slots > 0 else None
        self.overhead_s, self.to_longest = costs.overhead.seconds + (drafting.every_step_s if drafting else 0.0), costs.contexts == "longest"
        self._absorbing = drafting if drafting is not None and drafting.takes_in else None
        self._reading = drafting if drafting is not None and drafting.reads_prompts else None
        self._ahead = drafting is not None and bool(drafting.ahead)
        self._curves: dict[tuple[int, float], Floats] = {}
        self._drafts: dict[tuple[int, float, int], float] = {}
        self._absorbs: dict[float, Floats] = {}
        self._kept = {"curves": 0, "absorbs": 0}
        self._shared = costs.verify.varies_with == "tokens"  # all batches share one curve

    def draft_s(self, requests: int, context_tokens: float, slots: int | None = None, proposing: int | None = None) -> float:
        """Time to draft in a round of `requests` requests, as many tokens as `drafted` says, or `slots`: paid for those of them that propose
        anything (None: all)."""
        context_tokens = context_tokens if self.at_context is None else self.at_context
        if slots is None:
            slots = self.slots if self.drafted is None else self.drafted(requests, rounded_context(context_tokens))
        drafting = requests if proposing is None else proposing
        if not (self.draft and drafting and slots):
            return 0.0
        key = (drafting, rounded_context(context_tokens), slots)
        if key not in self._drafts:
            self._drafts[key] = self.draft.seconds(*key)
        return self._drafts[key]

    def _absorb(self, most: int, context_tokens: float) -> Floats:
        """Time to take in the features of 0 .. `most` tokens and somewhat more; cached by context."""
        if self._absorbing is None:
            return np.zeros(most + 1)
        key = rounded_context(context_tokens)
        known = self._absorbs.get(key)
        if known is None or len(known) <= most:
            known = self._absorbing.absorb_s(np.arange(2 * most + 1), key)
            self._keep("absorbs", self._absorbs, key, known)
        return known

    def _curve(self, requests: int, context_tokens: float) -> Floats:
        """Verify time at 0 .. requests (γ + 1) tokens and somewhat above; cached by requests and, finely rounded, by context."""
        key = (0, 0.0) if self._shared else (requests, rounded_context(context_tokens))
        known = self._curves.get(key)
        most = requests * (self.gamma + 1) + 1
        if known is None or len(known) < most:
            tokens = np.arange(2 * most)
            if self.probes:
                tokens = np.asarray(self.probes)[np.maximum(np.searchsorted(self.probes, tokens, side="right") - 1, 0)]
            known = self.costs.verify.seconds(self.sizes.padded(tokens) if self.sizes else tokens, max(requests, 1), key[1])
            known = np.maximum.accumulate(known) if self.rising else known
            self._keep("curves", self._curves, key, known)
        return known

    def _keep(self, what: str, kept: dict[Any, Floats], key: Any, prices: Floats) -> None:
        """Keep prices, in bounded memory: when it is full, all begins anew."""
        self._kept[what] += len(prices)
        if self._kept[what] > _MOST_PRICES:
            kept.clear()
            self._kept[what] = len(prices)
        kept[key] = prices

    def round_s(self, requests: int, context_tokens: float) -> Floats:
        """Time of the whole round at B = R + 0 .. Rγ tokens  # [R γ + 1]."""
        most = requests * (self.gamma + 1)
        context_tokens = context_tokens if self.at_context is None else self.at_context
        curve = self._curve(requests, context_tokens)[requests : most + 1] + self._absorb(most, context_tokens)[requests : most + 1]
        return curve + (self.draft_s(requests, context_tokens) + self.overhead_s + self.scheduling_s + self._per_request_s * requests)

    def chunk_s(self, tokens: int, attended_tokens: float, beside: int) -> float:
        """Time that `tokens` prompt tokens add to a step in which `beside` tokens decode: what those pay for both is not paid again."""
        alone, cost = self.prefill_s(tokens, attended_tokens), self.costs.prefill
        paid = cost.shared_s(tokens, beside) if beside and cost else None
        return alone if paid is None else max(alone - (paid + self._by_drafter(0, 0)), 0.0)

    def prefill_s(self, tokens: float, attended_tokens: float = 0) -> float:
        """Time of a prefill step, the drafter's own work on the prompts included. Raises ProfileError where the profile has no prefill cost."""
        if self.costs.prefill is None:
            raise ProfileError("has no prefill cost", key="costs.prefill", remedy="measure it, or use prefill: {kind: instant}")
        return self.costs.prefill.seconds(tokens, attended_tokens) + self._by_drafter(tokens, max(attended_tokens - tokens / 2, 0.0))

    def _by_drafter(self, tokens: float, context_tokens: float) -> float:
        """Time that the drafter takes beside `tokens` prompt tokens; that of one request's block where it drafts ahead."""
        drafted_s = self.draft_s(1, context_tokens) if self._ahead else 0.0
        return (self._reading.prompt_s(tokens, context_tokens) if self._reading else 0.0) + drafted_s

    def lowered(self) -> Lowered:
        """Rounds are asked for, size by size; prompts as well, unless their time is a line."""
        return (None if self._reading or self._ahead else lowering(self.costs.prefill)) or Lowered("asked")


def reads_to_longest(prices: object) -> bool:
    """Is a step priced at the longest context of its requests? A model that does not say so goes by the mean."""
    return bool(getattr(prices, "to_longest", False))


def scheduling_s(prices: object) -> float:
    """Time in every round that the choice of lengths takes; a model that does not say so takes none."""
    return float(getattr(prices, "scheduling_s", 0.0))


def front_end_s(prices: object) -> float:
    """Time from sending to the engine's queue; a model that does not say so has none."""
    return float(getattr(prices, "front_end_s", 0.0))


class ScaledPrices:
    """Prices times `factor`, and what a round's drafted tokens add times `slope` again."""

    def __init__(self, prices: RoundPrices, factor: float = 1.0, slope: float = 1.0) -> None:
        self.prices, self.factor, self.slope = prices, factor, slope
        self.overhead_s, self.to_longest = prices.overhead_s * factor, reads_to_longest(prices)
        self.scheduling_s, self.front_end_s = scheduling_s(prices) * factor, front_end_s(prices) * factor

    def round_s(self, requests: int, context_tokens: float) -> Floats:
        scaled = self.prices.round_s(requests, context_tokens) * self.factor
        return scaled if self.slope == 1 else scaled[0] + (scaled - scaled[0]) * self.slope

    def draft_s(self, requests: int, context_tokens: float, slots: int | None = None, proposing: int | None = None) -> float:
        return self.prices.draft_s(requests, context_tokens, slots, proposing) * self.factor

    def chunk_s(self, tokens: int, attended_tokens: float, beside: int) -> float:
        return self.prices.chunk_s(tokens, attended_tokens, beside) * self.factor

    def prefill_s(self, tokens: float, attended_tokens: float = 0) -> float:
        return self.prices.prefill_s(tokens, attended_tokens) * self.factor

    def lowered(self) -> Lowered | None:
        """As what is scaled; a line that is scaled twice is asked for, since the order of two factors moves the last bit."""
        inner = lowering(self.prices)
        twice = inner is not None and "prompt_factor" in inner.settings
        return Lowered("asked") if twice else inner and Lowered(inner.branch, {**inner.settings, "prompt_factor": self.factor})

"""Cells of a cost table, and which of them it gets: the corners first, then one more value of an axis at a time, each making the grid whole again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from real_runner.drafters.drafter import Drafter
from real_runner.layout import Tiers

Kind = Literal["verify", "prefill", "backbone", "head", "absorb", "overhead"]
CONTEXTS = 5  # of a grid without tiers, spaced by the same factor
SHORTEST = 16  # tokens of context
PREFILL_MOST = 2048  # tokens of a prefill step: what the engine takes at once


@dataclass(frozen=True, slots=True, order=True)
class CostCell:
    """What is measured: the keys that its kind has, 0 for the others. `context` is cached by each request before the step."""

    kind: Kind
    drafter: str = ""
    requests: int = 0
    tokens: int = 0
    slots: int = 0
    context: int = 0

    def __str__(self) -> str:
        keys = ", ".join(f"{name} {value}" for name in ("requests", "tokens", "slots", "context") if (value := getattr(self, name)))
        return f"{self.kind}{f' of {self.drafter}' if self.drafter else ''} at {keys}"

    @property
    def shrinks(self) -> bool:
        """Where memory ends, is it measured with fewer requests? Otherwise it is left out, with all that are larger."""
        return self.kind not in ("prefill", "overhead")

    @property
    def caches(self) -> tuple[str, str, int]:
        """Cells with the same need the same caches; the parts of a drafter share theirs."""
        return ("" if self.kind in ("backbone", "head", "absorb") else self.kind, self.drafter, self.context)

    def covers(self, other: CostCell) -> bool:
        """Is this cell as large as `other` or larger, and of its kind?"""
        return self.kind == other.kind and self.tokens >= other.tokens and self.requests >= other.requests and self.context >= other.context


@dataclass(frozen=True, slots=True)
class Shapes:
    """What a table may ask for at most: verified tokens of a request, and room in a cache row beside the context."""

    gamma: int
    beside: int

    @classmethod
    def of(cls, drafters: Mapping[str, Drafter]) -> Shapes:
        gamma = max((drafter.gamma for drafter in drafters.values()), default=0)
        block = max((max(drafter.spec.block, drafter.gamma) for drafter in drafters.values()), default=0)
        return cls(gamma, gamma + block + 2)


@dataclass(frozen=True, slots=True)
class Axes:
    """Values that the grid has so far. `lengths` are verified tokens of each request; `tiers` token counts beside those that lengths make."""

    requests: tuple[int, ...]
    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    slots: tuple[float, ...]  # shares of a drafter's block
    absorbed: tuple[float, ...]  # shares of the most tokens, as powers: max ** share
    prefill: tuple[int, ...]
    before: tuple[int, ...]  # contexts before a prefill
    tiers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Everything there is to measure of these drafters within these limits."""

    drafters: Mapping[str, Drafter]
    max_requests: int
    max_context: int
    tiers: Tiers | None

    @cached_property
    def shapes(self) -> Shapes:
        """What it may ask for at most."""
        return Shapes.of(self.drafters)

    @property
    def requests(self) -> list[int]:
        """1, 2, 4, … and the most."""
        return sorted({*(2**k for k in range(self.max_requests.bit_length()) if 2**k < self.max_requests), self.max_requests})

    @property
    def contexts(self) -> list[int]:
        """Without tiers the same factor apart; with them the longest that each captured reach holds."""
        if self.tiers is not None:
            fitting = [reach - self.shapes.beside for reach in self.tiers.reach]
            return [*(c for c in fitting if 0 < c < self.max_context), self.max_context]
        low = min(SHORTEST, self.max_context)
        return sorted({round(c) for c in np.geomspace(low, self.max_context, CONTEXTS)})

    @property
    def prefill(self) -> list[int]:
        """Tokens of a prefill step."""
        most = max(SHORTEST, min(PREFILL_MOST, self.max_context))
        return sorted({1, *(4**k for k in range(2, 7) if 4**k < most), most})

    def steps(self) -> list[Axes]:
        """Axes that grow; the first are what no table can do without."""
        gamma = self.shapes.gamma
        requests, contexts, lengths = in_halves(self.requests), in_halves(self.contexts), in_halves(list(range(gamma + 1)))
        prefill = in_halves(self.prefill)
        before = sorted({0, self.max_context})
        axes = Axes(_first(requests, 3), _first(lengths, 2), _first(contexts, 2), (0.0, 1.0), (0.0, 0.5, 1.0), _first(prefill, 3), tuple(before))
        steps = [axes]

        def more(**change: tuple[float, ...]) -> None:
            steps.append(replace(steps[-1], **{name: tuple(sorted({*getattr(steps[-1], name), *values})) for name, values in change.items()}))

        for length in lengths[2:3]:
            more(lengths=(length,))
        for count in requests[3:]:
            more(requests=(count,))
        for context in contexts[2:3]:
            more(contexts=(context,))
        more(lengths=(min(1, gamma),), slots=(0.5,))
        more(absorbed=(0.25, 0.75), prefill=tuple(prefill), before=(self.max_context // 4,))
        for length in lengths[3:]:
            more(lengths=(length,))
        for context in contexts[3:]:
            more(contexts=(context,))
        for part in self._tiers_in_halves():
            more(tiers=part)
        return [one for at, one in enumerate(steps) if at == 0 or one != steps[at - 1]]

    def _tiers_in_halves(self) -> Iterator[tuple[int, ...]]:
        """The captured token counts that are needed, in generations of halves."""
        if self.tiers is None or not self.shapes.gamma:
            return
        needed = [tier for tier in self.tiers.tokens if tier <= self.tiers.pad(self.max_requests * (self.shapes.gamma + 1))]
        order, at, size = in_halves(needed), 0, 2
        while at < len(order):
            yield tuple(order[at : at + size])
            at, size = at + size, 2 * size

    def cells(self, axes: Axes) -> set[CostCell]:
        """All cells of a grid with these axes."""
        return {*self._verify(axes), *self._drafting(axes), *self._prefill(axes), *self._overhead(axes)}

    def _verify(self, axes: Axes) -> Iterator[CostCell]:
        for requests in axes.requests:
            for tokens in self._tokens(requests, axes):
                yield from (CostCell("verify", requests=requests, tokens=tokens, context=context) for context in axes.contexts)

    def _tokens(self, requests: int, axes: Axes) -> list[int]:
        """Tokens of the steps of so many requests; with tiers one that fills each tier asked for, as far as the requests do."""
        most = requests * (self.shapes.gamma + 1)
        wanted = [requests * (length + 1) for length in axes.lengths]
        if self.tiers is None:
            return wanted
        pad = self.tiers.pad
        by_tier = {pad(requests): requests} | {
            pad(t): min(pad(t), most) for t in (*wanted, *(t for t in axes.tiers if requests < t <= pad(most))) if pad(t) > pad(requests)
        }
        return sorted(by_tier.values())

    def _drafting(self, axes: Axes) -> Iterator[CostCell]:
        for name, drafter in self.drafters.items():
            gamma, chain = drafter.gamma, drafter.spec.one_by_one
            ends = (axes.contexts[0], axes.contexts[-1]) if chain else axes.contexts[:1]  # only a chain's attention is in these parts
            slots = sorted({max(1, round(share * gamma)) for share in axes.slots})
            for requests in axes.requests:
                once = axes.contexts[:1] if chain else axes.contexts
                yield from (CostCell("backbone", name, requests, context=context) for context in once)
                yield from (CostCell("head", name, requests, slots=slot, context=context) for slot in slots for context in ends)
            most = self.max_requests * (gamma + 1)
            for tokens in sorted({round(most**share) for share in axes.absorbed}):
                yield from (CostCell("absorb", name, -(-tokens // (gamma + 1)), tokens, context=context) for context in ends)

    def _prefill(self, axes: Axes) -> Iterator[CostCell]:
        for tokens in axes.prefill:
            yield from (CostCell("prefill", tokens=tokens, context=context) for context in axes.before)

    def _overhead(self, axes: Axes) -> Iterator[CostCell]:
        few = in_halves(self.requests)[:3]
        yield from (CostCell("overhead", requests=requests) for requests in few if requests in axes.requests)


def in_halves(values: list[int]) -> list[int]:
    """The ends, then the middle, then the middles of the halves, and so on."""
    order = [0, len(values) - 1]
    spans = [(0, len(values) - 1)]
    while spans:
        low, high = spans.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            spans += [(low, middle), (middle, high)]
    return [values[at] for at in dict.fromkeys(order)]


def _first(values: list[int], count: int) -> tuple[int, ...]:
    return tuple(sorted(values[:count]))

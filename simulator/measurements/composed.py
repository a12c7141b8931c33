"""Costs that are composed of operators: those that see tokens, and attention, which sees requests and their context.

A verification step reads a request's cache once, however many of its tokens it verifies, so attention is priced by requests and context; its
arithmetic grows with the queries and is a second bound. Tokens that decode and prompt tokens of one step go through the same operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, PrivateAttr

from simulator.arrays import Floats
from simulator.measurements.cost_kind import GraphSizes, PromptCost, TableCost
from simulator.measurements.cost_table import CostTable, read_cost_table
from simulator.names import Inside
from simulator.quantities import StepSeconds, Tokens

_MOST_KNOWN = 1 << 18


class OperatorCost(TableCost):
    """`file` (key tokens) is the time of the operators that see tokens; `attention` that of attention."""

    attention: Inside
    _attention: CostTable | None = PrivateAttr(None)

    @property
    def files(self) -> list[str]:
        return [self.file, self.attention]

    @property
    def reads(self) -> CostTable:
        """Attention's rows, once read."""
        attention = self._attention
        assert attention is not None, "the profile loader attaches tables"
        return attention

    def operators_s(self, tokens: ArrayLike) -> Floats:
        """Seconds of the operators that see tokens."""
        return self.table.seconds(np.asarray(tokens, dtype=np.float64), 1, 0)


class OperatorVerify(OperatorCost):
    """T(B, R, c) = operators(B, padded) + max(attention(R, c), B c `query_s`), where R requests hold c tokens each and have B tokens in the step.

    `attention` has the keys requests and context_tokens; `query_s` is attention's arithmetic, in seconds per query token and cached token.
    `padded_to` are the graph sizes of the engine: steps up to the largest run at the next size.
    """

    kind: Literal["operators"] = "operators"
    query_s: StepSeconds = 0.0
    padded_to: Annotated[list[Tokens], Field(max_length=10_000)] = []

    def attach(self, folder: Path) -> None:
        self._table = read_cost_table(folder / self.file, "tokens", "linear")
        self._attention = read_cost_table(folder / self.attention, "requests", "linear")

    def most(self, what: Literal["tokens", "requests", "context_tokens"]) -> float | None:
        if what == "tokens":
            return self.table.highest
        return self.reads.highest if what == "requests" else float(self.reads.contexts[-1])

    def tokens_range(self) -> tuple[float, float]:
        """The tokens per step that operators were priced at."""
        return self.table.lowest, self.table.highest

    def at_cell(self, cell: Mapping[str, float], gamma: int) -> float:
        inside = self.table.lowest <= cell["tokens"] <= self.table.highest
        return float(self.seconds(cell["tokens"], cell.get("requests", 1.0), cell.get("context_tokens", 0.0))) if inside else 0.0

    @property
    def varies_with(self) -> Literal["tokens", "context", "shape"]:
        """What it depends on beside the tokens in the step."""
        return "shape"

    def seconds(self, tokens: ArrayLike, requests: float = 1, context_tokens: float = 0) -> Floats:
        """Time of steps of `tokens` tokens of `requests` requests that hold `context_tokens` each on average."""
        b = np.asarray(tokens, dtype=np.float64)
        operators = self.operators_s(GraphSizes(tuple(self.padded_to)).padded(b) if self.padded_to else b)
        read = float(self.reads.seconds(np.asarray(float(requests)), 1, context_tokens))
        return np.asarray(operators + np.maximum(read, b * context_tokens * self.query_s))


class OperatorPrefill(OperatorCost, PromptCost):
    """Prompt tokens beside those that decode: T(n, a) = operators(n) + attention(n, a) alone, where n tokens attend to `a` earlier ones on average;
    beside B decoding tokens, operators(B + n) − operators(B) + attention(n, a).

    `attention` has the keys tokens and context_tokens, which is `a`.
    """

    kind: Literal["operators"] = "operators"
    _known: dict[float | tuple[float, float], float] = PrivateAttr(default_factory=dict)  # prices that were asked for before

    def attach(self, folder: Path) -> None:
        self._table = read_cost_table(folder / self.file, "tokens", "linear")
        self._attention = read_cost_table(folder / self.attention, "tokens", "linear")
        self._known.clear()

    def seconds(self, tokens: float, attended_tokens: float = 0) -> float:
        """Time of a prefill step of `tokens` new tokens that attend to `attended_tokens` earlier ones on average."""
        attention = self._asked((tokens, attended_tokens), lambda: self.reads.seconds(np.asarray(float(tokens)), 1, attended_tokens))
        return self._operators_s(tokens) + attention

    def at_cell(self, cell: Mapping[str, float], gamma: int) -> float:
        return self.seconds(cell["tokens"], cell.get("context_tokens", 0.0) + cell["tokens"] / 2)

    def shared_s(self, tokens: float, beside: int) -> float | None:
        if self.apart:
            return None
        return self._operators_s(tokens) + self._operators_s(beside) - self._operators_s(tokens + beside)

    def _operators_s(self, tokens: float) -> float:
        return self._asked(tokens, lambda: self.operators_s(tokens))

    def _asked(self, key: float | tuple[float, float], price: Callable[[], Floats]) -> float:
        known = self._known  # once: pydantic takes a while to find it
        if (seconds := known.get(key)) is None:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            seconds = known[key] = float(price())
        return seconds

"""Lengths from tables: by batch size, with bands that a batch must leave, and by batch size and context."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from simulator.kind import Lowered
from simulator.policies.rule import EngineView, Lengths, Serving, StepView, VerificationPolicy
from simulator.quantities import Slots, Within

Row = Annotated[int, Within(0, 1e10, "requests")]  # of a table by batch size: the last row may end at 2^31 - 1
Context = Annotated[int, Within(0, 1e10, "tokens")]


def _follow(rows: Sequence[tuple[int, int]], start: int, what: str) -> None:
    """Ranges [first, last] without gaps from `start`. Raises ValueError."""
    expected = start
    for first, last in rows:
        if first != expected or last < first:
            raise ValueError(f"{what} must follow each other from {start} ([{first}, {last}] should begin at {expected})")
        expected = last + 1


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

    def row(self, requests: int) -> int:
        """Which row a batch is in."""
        return max(bisect_right(self.table, requests, key=lambda row: row[0]) - 1, 0)

    def drafted(self, requests: int, gamma: int) -> int:
        return min(self.table[self.row(requests)][2], gamma)

    def serving(self, gamma: int) -> Serving:
        table = tuple((first, last, min(length, gamma)) for first, last, length in self.table)
        return Serving(min(self.longest(gamma), gamma), by_batch=True, table=table)


class Tiered(ByBatch):
    """A table by batch size with hysteresis: the length changes only when the batch is more than `band` requests outside the row that it is in, so
    that a batch at a border does not go to and fro (vllm-project/vllm issue 49548 tells what that costs; vLLM-Ascend's dynamic_spec.py and SGLang's
    adaptive_spec_params.py have such bands). As many tokens are drafted as verified."""

    kind: Literal["tiered"] = "tiered"  # type: ignore[assignment]
    band: Annotated[int, Within(0, 1e6, "requests")]
    keeps: ClassVar = 1  # the row it is in, counted from 1
    drafts_choice: ClassVar = True

    def choose(self, view: StepView) -> Lengths:
        assert isinstance(view, EngineView)
        at = int(view.kept[0]) - 1
        last_row = len(self.table) - 1
        if at < 0 or not self._within(at, view.requests, last_row):
            at = self.row(view.requests)
            view.kept[0] = at + 1
        return np.full(view.requests, min(self.table[at][2], view.gamma), dtype=np.int64)

    def _within(self, at: int, requests: int, last_row: int) -> bool:
        first, last, _ = self.table[at]
        return first - self.band <= requests and (at == last_row or requests <= last + self.band)

    def serving(self, gamma: int) -> Serving:
        beyond = f"a band of {self.band} requests around each range of batch sizes: the length follows the batch in every step"
        return super().serving(gamma)._replace(beyond=(beyond,) if self.band else ())


class ByBatchAndContext(VerificationPolicy):
    """One length for the batch, looked up by its size and by the context of its requests as the step is priced (their mean, or the longest):
    `table` of [first, last, from, to, length], ends included; the last ranges are open-ended (vllm-project/vllm issue 48627, pull request 48944)."""

    kind: Literal["by_batch_and_context"] = "by_batch_and_context"
    table: Annotated[list[tuple[Row, Row, Context, Context, Slots]], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _covers(self) -> Self:
        batches = self._batches()
        _follow(list(batches), 1, "ranges of batch sizes [first, last]")
        for (first, last), rows in batches.items():
            _follow([(low, high) for low, high, _ in rows], 0, f"ranges of context tokens of batches of {first} to {last}")
        return self

    def _batches(self) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """Context ranges and lengths by range of batch sizes, in the table's order."""
        found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for first, last, low, high, length in self.table:
            found.setdefault((first, last), []).append((low, high, length))
        return found

    def longest(self, gamma: int) -> int:
        return max(row[-1] for row in self.table)

    def drafted(self, requests: int, gamma: int) -> int:
        return self.drafted_at(requests, gamma, 0.0)

    def drafted_at(self, requests: int, gamma: int, context_tokens: float) -> int:
        batches = list(self._batches().items())
        rows = batches[max(bisect_right(batches, requests, key=lambda item: item[0][0]) - 1, 0)][1]
        return min(rows[min(bisect_left(rows, context_tokens, key=lambda row: row[1]), len(rows) - 1)][2], gamma)

    def choose(self, view: StepView) -> Lengths:
        assert isinstance(view, EngineView)
        return np.full(view.requests, self.drafted_at(view.requests, view.gamma, view.context_tokens), dtype=np.int64)

    def serving(self, gamma: int) -> Serving:
        table = tuple((first, last, min(rows[0][-1], gamma)) for (first, last), rows in self._batches().items())
        beyond = "lengths by context: those of the shortest contexts at each batch size instead"
        return Serving(min(self.longest(gamma), gamma), by_batch=True, table=table, beyond=(beyond,))

    def lowered(self, rows: StepView, most: int) -> Lowered:
        """Where ranges of contexts end, anywhere in the table, then lengths by batch size and range."""
        ends = sorted({min(high, 2**31 - 1) for _, _, _, high, _ in self.table})
        lengths = [[self.drafted_at(max(size, 1), rows.gamma, float(end)) for end in ends] for size in range(most + 1)]
        return Lowered("by_context", {"contexts": len(ends)}, np.array([*ends, *np.ravel(lengths)], dtype=np.int64))

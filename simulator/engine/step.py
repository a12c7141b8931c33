"""What a step was: one record each, columns over a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class StepRecord(NamedTuple):
    """One step of one replica. Times in seconds; tokens over the whole batch.

    `verified`, `accepted` count drafted tokens only; `committed` is what reached users (bonus included, cut at a request's end);
    B = requests + verified. `running` requests sit in the batch, `requests` of them decode (none in a step of prompts only).
    `waiting` is the queue when the step starts (admitted requests whose prompt gets nothing in
    this step included), `waiting_end` when it ends.
    `draft_s + verify_s + overhead_s + prefill_s` is the step's length.
    """

    replica: int
    start_s: float
    end_s: float
    requests: int
    running: int
    joined: int
    verified: int
    accepted: int
    committed: int
    draft_s: float
    verify_s: float
    overhead_s: float
    prefill_s: float
    prefill_tokens: int
    context_tokens: int
    waiting: int
    waiting_end: int


class Steps:
    """Columns of all steps of a run, in order of their end."""

    def __init__(self, records: Sequence[StepRecord] | NDArray[np.float64]) -> None:
        table = np.asarray(records, dtype=np.float64).reshape(-1, len(StepRecord._fields))
        table = table[np.lexsort((table[:, 0], table[:, 2]))]
        self.columns: dict[str, NDArray[np.float64]] = {name: table[:, i] for i, name in enumerate(StepRecord._fields)}

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["end_s"])

    def within(self, start_s: float, end_s: float) -> dict[str, NDArray[np.float64]]:
        """The columns of the steps that ended in (start, end]."""
        inside = (self["end_s"] > start_s) & (self["end_s"] <= end_s)
        return {name: column[inside] for name, column in self.columns.items()}

"""What every cost of steps is: where it came from, what it reads, and the sizes that an engine pads steps to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import PrivateAttr

from simulator.arrays import Floats
from simulator.measurements.cost_table import CostTable
from simulator.names import Inside
from simulator.quantities import Flag
from simulator.schema import Frozen

Provenance = Literal["measured", "imported", "published", "fitted", "estimated", "synthetic"]


class Sourced(Frozen):
    """A table or number of a profile says where it came from."""

    provenance: Provenance
    source: str = ""
    note: str = ""


class Cost(Sourced):
    """A cost of steps.

    Lowering of a prefill cost: `lowered()`; the other costs are asked for their prices, once each, on both paths.
    """

    def most(self, what: Literal["tokens", "requests", "context_tokens"]) -> float | None:
        """The most of it in a step that was measured; None where the cost does not depend on it, or has no end of its own."""
        return None

    @property
    def files(self) -> list[str]:
        """What it reads from the profile's folder."""
        return []

    def attach(self, folder: Path) -> None:
        """Read its files, where it has any. Raises ProfileError with file, line and column."""

    def at_cell(self, cell: Mapping[str, float], gamma: int) -> float:
        """A formula's seconds where a table has a cell (by the table's keys); 0 where its data says nothing."""
        return 0.0


class TableCost(Cost):
    """A cost that is read from a CSV file."""

    file: Inside
    _table: CostTable | None = PrivateAttr(None)

    @property
    def files(self) -> list[str]:
        return [self.file]

    @property
    def table(self) -> CostTable:
        """The rows, once read."""
        table = self._table
        assert table is not None, "the profile loader attaches tables"
        return table

    def most(self, what: Literal["tokens", "requests", "context_tokens"]) -> float | None:
        if what == "tokens":
            return self.table.highest
        grid = self.table.requests if what == "requests" else self.table.contexts
        return float(grid[-1]) if len(grid) > 1 else None


class PromptCost(Cost):
    """The cost of prompts. `apart`: the engine runs them in a pass of their own, so that a step that decodes as well pays the fixed part of both."""

    apart: Flag = False

    def seconds(self, tokens: float, attended_tokens: float = 0) -> float:
        """Time of a prefill step of `tokens` new tokens that attend to `attended_tokens` earlier ones on average."""
        raise NotImplementedError

    def shared_s(self, tokens: float, beside: int) -> float | None:
        """What of `tokens` prompt tokens a step that decodes `beside` tokens pays already: the fixed part; None where nothing is shared."""
        return None if self.apart else self.seconds(0)


@dataclass(frozen=True)
class GraphSizes:
    """Captured graph sizes, rising: a step runs at the next size up (padding is physical), above the largest at its own. `down`: a scheduler
    that looks one size lower."""

    sizes: tuple[int, ...]
    down: bool = False

    def padded(self, tokens: ArrayLike) -> Floats:
        """The size that each number of tokens is priced at."""
        tokens, sizes = np.asarray(tokens, dtype=np.float64), np.array(sorted(self.sizes), dtype=np.float64)
        at = np.searchsorted(sizes, tokens, side="right" if self.down else "left") - self.down
        inside = (tokens <= sizes[-1]) & (at >= 0)
        return np.where(inside, sizes[np.clip(at, 0, len(sizes) - 1)], tokens)

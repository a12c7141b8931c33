"""Measured cells as the CSV tables and the cost entries of a profile."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from real_runner.cost_grid import CostCell, Grid
from real_runner.layout import padded
from real_runner.timing import Quantiles
from simulator.files import write_whole
from simulator.measurements.cost import Costs, DraftTable, MeasuredTable, Overhead, PrefillTable

SPREAD, DRIFT, FEW = 0.10, 0.05, 5  # a cell beyond these is suspicious
QUANTILES = ("p10_s", "p50_s", "p90_s")
TABLES = {  # by kind of cell: file, where {} is a drafter's name; what a row is; its keys
    "verify": ("verify.csv", "a step of so many tokens of so many requests, each with so much context before it", ("requests", "tokens", "context")),
    "prefill": ("prefill.csv", "prompt tokens of one request behind the context before them", ("tokens", "context")),
    "backbone": ("draft-{}.csv", "drafting, what is paid once a round", ("requests", "context")),
    "head": ("head-{}.csv", "drafting, what so many slots add", ("requests", "slots", "context")),
    "absorb": ("absorb-{}.csv", "taking in the target's features of so many tokens", ("tokens", "context")),
}


@dataclass
class CostTables:
    """What was measured of every cell, and again at the end; `most` are the requests that fit, by context."""

    first: Mapping[CostCell, Quantiles]
    again: Mapping[CostCell, Quantiles]
    grid: Grid
    most: Mapping[int, int]
    source: str
    captured: bool
    remarks: list[str]

    def marks(self, cell: CostCell) -> list[str]:
        """Why a cell is not to be trusted."""
        quantiles, marks = self.first[cell], []
        if quantiles.n < FEW:
            marks.append(f"{quantiles.n} repeats")
        if quantiles.relative > SPREAD:
            marks.append(f"spread {quantiles.relative:.0%}")
        if abs(drift := self.drift(cell)) > DRIFT:
            marks.append(f"{drift:+.0%} when measured again")
        return marks

    def drift(self, cell: CostCell) -> float:
        """How much longer the cell took at the end; 0 where it was not measured again."""
        later, first = self.again.get(cell), self.first[cell]
        return 0.0 if later is None or first.p50_s <= 0 else later.p50_s / first.p50_s - 1

    @cached_property
    def cells(self) -> list[CostCell]:
        """Those that go into tables: a number of requests that ran out of memory once is not kept by halves."""
        return [cell for cell in sorted(self.first) if cell.requests <= self.most.get(cell.context, self.grid.max_requests)]

    @property
    def suspicious(self) -> list[str]:
        """One line per cell."""
        return [f"{cell}: {', '.join(marks)}" for cell in self.cells if (marks := self.marks(cell))]

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the tables."""
        drifts = [self.drift(cell) for cell in self.again if cell in self.first]
        if not drifts:
            return self.remarks
        return [*self.remarks, f"{len(drifts)} cells measured again at the end took {np.median(drifts):+.1%} (median; {min(drifts):+.0%} to "
                f"{max(drifts):+.0%})."]  # fmt: skip

    @property
    def costs(self) -> Costs:
        """Verify, prefill and overhead of the profile."""
        tiers = self.grid.tiers
        return Costs(
            verify=MeasuredTable(
                provenance="measured", source=self.source, file="verify.csv", between="linear", contexts="linear" if tiers is None else "step",
                padded_to=[] if tiers is None else list(tiers.tokens),
            ),
            prefill=PrefillTable(provenance="measured", source=self.source, file="prefill.csv", apart=True),
            overhead=self.overhead, contexts="longest",
        )  # fmt: skip

    @property
    def overhead(self) -> Overhead:
        """Host time of a step: seconds + per_request · R, the nearest to the medians."""
        from scipy.optimize import nnls

        known = {cell.requests: quantiles.p50_s for cell, quantiles in self.first.items() if cell.kind == "overhead"}
        medians = ", ".join(f"{1e3 * seconds:.3g} ms at {requests}" for requests, seconds in sorted(known.items()))
        (fixed, each), _ = nnls(np.array([[1.0, requests] for requests in known]), np.maximum(list(known.values()), 0.0)) if known else ((0, 0), 0)
        if len(known) == 1:
            fixed, each = max(next(iter(known.values())), 0.0), 0.0
        note = f"the engine's steps less their parts, medians by requests: {medians}; without a policy that looks at confidences"
        return Overhead(provenance="measured", source=self.source, note=note, seconds=float(fixed), per_request_s=float(each))

    def draft_cost(self, name: str) -> DraftTable:
        """Drafting of one drafter: backbone, head and taking in apart."""
        files = {"file": f"draft-{name}.csv", "head": f"head-{name}.csv", "absorb": f"absorb-{name}.csv"}
        contexts = "linear" if self.grid.tiers is None else "step"
        return DraftTable(provenance="measured", source=self.source, between="linear", contexts=contexts, **files)

    def write(self, folder: Path) -> None:
        """verify.csv, prefill.csv and, of each drafter, draft-, head- and absorb-<name>.csv."""
        for kind, (file, what, keys) in TABLES.items():
            for name in self.grid.drafters if "{}" in file else [""]:
                rows = [self._row(cell, keys) for cell in self.cells if cell.kind == kind and cell.drafter == name]
                rows.sort(key=lambda row: [row[key] for key in ("requests", "context_tokens", "tokens", "slots") if key in row])
                text = io.StringIO()
                text.write(f"# {self.source}; {what}; seconds\n")
                table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
                write_whole(folder / file.format(name), text.getvalue())

    def _row(self, cell: CostCell, keys: Sequence[str]) -> dict[str, Any]:
        quantiles = self.first[cell]
        row: dict[str, Any] = {"context_tokens" if key == "context" else key: getattr(cell, key) for key in keys}
        if cell.kind == "verify":
            row["tokens"] = padded(cell.tokens, self.grid.tiers)
        row |= {name: f"{getattr(quantiles, name):.6g}" for name in QUANTILES}
        regime = "graph" if self.captured and cell.kind != "prefill" else "eager"
        return {**row, "n": quantiles.n, "regime": regime, "suspicious": "; ".join(self.marks(cell))}

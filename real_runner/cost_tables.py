"""The cost tables of a profile: cells of the engine's own steps, measured in random order within a time budget, and again at the end for drift."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from real_runner.cost_cells import CellBench
from real_runner.cost_files import CostTables
from real_runner.cost_grid import CostCell, Grid
from real_runner.cost_journal import Journal
from real_runner.drafters.drafter import Drafter
from real_runner.environment import copy_rate, machine
from real_runner.failures import OutOfMemory, memory_of
from real_runner.layout import Tiers
from real_runner.target import Target
from real_runner.timing import Quantiles, repeated
from simulator.errors import DsimError
from simulator.progress import Progress
from simulator.rng import stream

AGAIN = 0.1  # of the cells are measured again at the end
SHARE_LEAST_S, SHARE_MOST_S = 0.05, 2.0  # repeats of one cell
SETTLE = 0.25  # of its share: warm-up


def measure_cost_tables(
    target: Target, drafters: Mapping[str, Drafter], *, temperature: float, max_requests: int, max_context: int, budget_s: float, folder: Path,
    tiers: Tiers | None, progress: Progress, seed: int = 0,
) -> CostTables:  # fmt: skip
    """Costs of the engine's steps, for up to `max_requests` requests of `max_context` tokens of context each, in about `budget_s` seconds.

    Every cell is kept in `folder/cells.jsonl` as soon as it is measured: a call of the same plan goes on from there. The corners are measured
    whatever the budget. Raises DsimError where not even one request fits in memory.
    """
    grid = Grid(drafters, max_requests, max_context, tiers)
    plan = _plan(target, drafters, temperature, max_requests, max_context, budget_s, tiers, seed)
    journal = Journal(folder / "cells.jsonl", plan, progress)
    work = _Work(grid, CellBench(target, drafters, tiers, temperature, seed), journal, budget_s, seed)
    with progress.stage("costs", budget_s, min(journal.spent_s, budget_s)):
        work.grow(progress)
        work.check(progress)
    work.bench.release()
    facts = machine(target)
    source = f"real_runner on {facts['device']}, {facts['dtype']}, temperature {temperature:g}"
    captured = tiers is not None and target.device.type == "cuda"
    return CostTables(journal.first, journal.again, grid, work.most, source, captured, work.notes())


def _plan(
    target: Target, drafters: Mapping[str, Drafter], temperature: float, max_requests: int, max_context: int, budget_s: float, tiers: Tiers | None,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """All that the times depend on."""
    shapes = {
        name: [drafter.spec.family, drafter.gamma, drafter.spec.block, list(drafter.spec.taps), drafter.spec.markov_rank, drafter.spec.markov_kind,
               drafter.spec.confidence, drafter.spec.draft_vocabulary, drafter.spec.backbone]
        for name, drafter in drafters.items()
    }  # fmt: skip
    model = [Path(target.name).name, target.config.model_type, target.layers, target.hidden, target.vocabulary]
    return {
        "machine": machine(target), "target": model, "drafters": shapes, "temperature": temperature, "max_requests": max_requests,
        "max_context": max_context, "budget_s": budget_s, "tiers": None if tiers is None else tiers.model_dump(mode="json"), "seed": seed,
    }  # fmt: skip


@dataclass
class _Work:
    """The measuring: what fits, what is next, what it takes."""

    grid: Grid
    bench: CellBench
    journal: Journal
    budget_s: float
    seed: int

    def __post_init__(self) -> None:
        self.most = dict.fromkeys(self.grid.contexts, self.grid.max_requests)  # requests that fit, by context
        self.steps = [self.grid.cells(axes) for axes in self.grid.steps()]
        self.taken = 0
        for cell, slots in self.journal.lost:
            self._shrink(cell, slots)
        self.share_s = float(np.clip(0.85 * self.budget_s / len(self.steps[-1]), SHARE_LEAST_S, SHARE_MOST_S))

    def grow(self, progress: Progress) -> None:
        """The corners, then step after step of the grid while the budget lasts."""
        for at, cells in enumerate(self.steps):
            new = sorted(cell for cell in cells - (self.steps[at - 1] if at else set()) if self._fits(cell))
            expected = sum(self._expected(cell) for cell in new) * (1 + AGAIN)
            again = AGAIN * sum(self._expected(cell) for cell in self.journal.first)
            if not self.journal.decide(at, at == 0 or self.journal.spent_s + expected + again <= self.budget_s):
                return
            self._measure(new, f"grid {at}", progress)
            self.taken = at + 1

    def _expected(self, cell: CostCell) -> float:
        """Seconds that a cell of its kind took so far."""
        known = self.journal.spent.get(cell.kind)
        return float(np.mean(known)) if known else self.share_s * (1 + SETTLE)

    def check(self, progress: Progress) -> None:
        """A tenth of the cells again, the corners among them: has the machine changed meanwhile."""
        there = sorted(cell for cell in self.journal.first if cell.kind != "overhead" and self._fits(cell))
        corners = [cell for cell in there if self._is_corner(cell)]
        rest = [cell for cell in there if not self._is_corner(cell)]
        count = max(0, round(AGAIN * len(there) - len(corners)))
        chosen = stream(self.seed, "again").permutation(len(rest))[:count]
        self._measure([*corners, *(rest[i] for i in sorted(chosen))], "again", progress, again=True)

    def _is_corner(self, cell: CostCell) -> bool:
        """Verify at the ends of all axes."""
        if cell.kind != "verify":
            return False
        most = self.most[cell.context]
        ends = cell.context in (self.grid.contexts[0], self.grid.contexts[-1]) and cell.requests in (1, most)
        return ends and cell.tokens in (cell.requests, cell.requests * (self.grid.shapes.gamma + 1))

    def _measure(self, cells: Iterable[CostCell], cause: str, progress: Progress, again: bool = False) -> None:
        """Cells that are not there yet, in random order; those that share caches follow each other."""
        rng = stream(self.seed, f"order of {cause}")
        groups: dict[tuple[str, str, int], list[CostCell]] = {}
        for cell in cells:
            groups.setdefault(cell.caches, []).append(cell)
        places = list(groups.values())
        for place in rng.permutation(len(places)):
            for at in rng.permutation(len(places[place])):
                cell = places[place][at]
                if cell not in (self.journal.again if again else self.journal.first):
                    self._one(cell, progress, again)

    def _one(self, cell: CostCell, progress: Progress, again: bool) -> None:
        """Measures a cell, where memory ends with fewer cache rows; drops it where it does not fit at all."""
        while self._fits(cell):
            begun, slots = time.monotonic(), self._slots(cell)
            quantiles = self._tried(cell, slots)
            spent_s = time.monotonic() - begun
            if quantiles is not None:
                self.journal.measured(cell, quantiles, spent_s, again)
                progress.advance(spent_s, str(cell))
                return
            self.bench.release()
            self.journal.did_not_fit(cell, slots)
            self._shrink(cell, slots)
            left = f"at most {self.most[cell.context]} requests from context {cell.context} on" if cell.shrinks else "skipped, and all larger ones"
            progress.say(f"out of memory for {cell}: {left}")

    def _tried(self, cell: CostCell, slots: int) -> Quantiles | None:
        """Times of a cell; None where it does not fit. By then no frame holds the caches any more, so that they can be freed."""
        try:
            with memory_of(str(cell)):
                if cell.kind == "overhead":
                    return Quantiles.of(self.bench.overheads(cell.requests))
                once = self.bench.prepare(cell, slots)
                with torch.no_grad():
                    return repeated(once, self.share_s, SETTLE * self.share_s)
        except OutOfMemory:
            return None

    def _slots(self, cell: CostCell) -> int:
        """Rows of the caches; of a prefill the tokens of its one row."""
        if cell.kind == "prefill":
            return self.grid.max_context + self.grid.prefill[-1]
        return self.most[cell.context] if cell.shrinks else cell.requests

    def _fits(self, cell: CostCell) -> bool:
        """Nothing as large has run out of memory."""
        if cell.shrinks:
            return cell.requests <= self.most[cell.context]
        return not any(cell.covers(lost) for lost, _ in self.journal.lost)

    def _shrink(self, cell: CostCell, slots: int) -> None:
        """Where `slots` requests do not fit at a context, they do not at a longer one. Raises DsimError where nothing is left."""
        if not cell.shrinks:
            return
        fewer = [requests for requests in self.grid.requests if requests < slots]
        if not fewer:
            raise DsimError(f"out of memory for one request at context {cell.context}", key="max_context", remedy="measure shorter contexts")
        for context in self.most:
            if context >= cell.context:
                self.most[context] = min(self.most[context], fewer[-1])

    def _floor(self) -> list[str]:
        """How far one token of one request is above reading the weights once: engines with fewer kernels are nearer, and gain less by drafts."""
        alone = [cell for cell in self.journal.first if cell.kind == "verify" and cell.tokens == cell.requests == 1]
        if not alone:
            return []
        step_s = self.journal.first[min(alone)].p50_s
        target, rate = self.bench.target, copy_rate(self.bench.target.device)
        looked_up = 0 if target.embedding.weight is target.head.weight else target.embedding.weight.numel()
        read = (sum(p.numel() for p in target.model.parameters()) - looked_up) * target.dtype.itemsize
        return [f"A verify step of one token takes {1e3 * step_s:.3g} ms, {step_s * rate / read:.2g} times what reading its weights takes "
                f"({read / 1e9:.3g} GB at the {rate / 1e12:.3g} TB/s of a copy): a serving engine with fewer kernels is nearer to that."]  # fmt: skip

    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        notes = [f"Cost cells: {len(self.journal.first)} of the {len(self.steps[-1])} of the full grid, in {self.journal.spent_s:.0f} s."]
        if self.journal.spent_s > 1.1 * self.budget_s:
            notes.append(f"The smallest grid took {self.journal.spent_s:.0f} s, more than the budget of {self.budget_s:.0f} s.")
        notes += self._floor()
        for context, requests in self.most.items():
            if requests < self.grid.max_requests:
                notes.append(f"Out of memory above {requests} requests at context {context}: not measured there.")
        notes += [f"Out of memory for {cell}: skipped, and all larger ones." for cell, _ in self.journal.lost if not cell.shrinks]
        if self.bench.longest:
            notes.append(f"Verify and overhead are measured beside {self.bench.longest}, every request verifying as much as the others.")
        return notes

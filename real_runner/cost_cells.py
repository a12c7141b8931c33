"""One cell of a cost table: a part of the engine's step at one shape, run on the engine's own graphs and kernels, timed once per call.

Caches of the machine are left as the engine leaves them. Verify and prefill stream all of the target's weights, so a repeat finds the caches
as the step before it does in serving. The drafter's parts are small and would stay cached when repeated alone, while in serving the target
passes between: before each of their repeats as many bytes are touched as the target's weights take (at most FLUSH_MOST).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from real_runner.cost_grid import CostCell, Shapes
from real_runner.costs import full_rounds
from real_runner.drafters.drafter import DraftBatch, Drafter
from real_runner.failures import memory_of
from real_runner.graphs import Captured
from real_runner.layout import Layout, Tiers, lay_out, padded, ship
from real_runner.rounds import Device, Plan, Verified
from real_runner.target import Target
from real_runner.timing import Stopwatch
from simulator.arrays import Integers

Once = Callable[[], float]
FLUSH_MOST = 256 * 2**20  # bytes
ROUNDS, PROMPT = 10, 16  # of the engine, for what a step takes beside its parts
KEEP_FREE = 0.1  # of a CPU's memory: a cache that needs more would swap or be killed rather than refused


class CellBench:
    """Makes a cell ready to run; keeps the caches of the last (drafter, slots, length) that were asked for."""

    def __init__(self, target: Target, drafters: Mapping[str, Drafter], tiers: Tiers | None, temperature: float, seed: int) -> None:
        self.target, self.drafters, self.tiers, self.temperature, self.seed = target, drafters, tiers, temperature, seed
        self.shapes = Shapes.of(drafters)
        self.longest = max(drafters, key=lambda name: drafters[name].gamma, default="")
        self._watch = Stopwatch(target.device)
        self._prepared: tuple[tuple[str, int, int], Device] | None = None
        self._flush: Tensor | None = None

    def prepare(self, cell: CostCell, slots: int) -> Once:
        """One repeat of the cell in seconds, with caches of `slots` rows. Raises DsimError where it does not fit in memory."""
        make = {"verify": self._verify, "prefill": self._prefill, "backbone": self._backbone, "head": self._head, "absorb": self._absorb}
        return make[cell.kind](cell, slots)

    def overheads(self, requests: int) -> list[float]:
        """What full steps of the engine take beside drafting, verifying and prefill, seconds each; by the longest drafter."""
        self.release()
        gamma = self.shapes.gamma
        room = (requests, PROMPT + (gamma + 1) * (ROUNDS + 3) + self.shapes.beside)
        drafter = self.drafters.get(self.longest)
        with memory_of(f"the engine with {requests} requests"):
            steps = full_rounds(self.target, drafter, requests, gamma, room, self.tiers, PROMPT, ROUNDS, self.seed, self.temperature)
        return [step.end_s - step.start_s - step.draft_s - step.verify_s for step in steps]

    def release(self) -> None:
        """Frees the caches of target and drafters."""
        self._prepared, self.target.kv = None, None
        for drafter in self.drafters.values():
            drafter.kv = None
        if self.target.device.type == "cuda":
            gc.collect()  # a cycle may hold what did not fit
            torch.cuda.empty_cache()

    def _ready(self, group: str, slots: int, length: int) -> Device:
        """A device with caches for the target ("verify": and the longest drafter; "prefill": alone), or for the drafter called `group`."""
        room = (group, slots, length)
        if self._prepared is not None and self._prepared[0] == room:
            device = self._prepared[1]
            if isinstance(device.runner, Captured):
                device.runner = Captured()  # graphs of the cell before are of no use any more
        else:
            self.release()
            drafter = None if group == "prefill" else self.drafters.get(self.longest if group == "verify" else group)
            widest = None if self.tiers is None else (self.tiers.pad(slots), drafter.gamma if drafter is not None else 0)
            device = Device(self.target, drafter, (slots, length), temperature=self.temperature, seed=self.seed, widest=widest)
            with memory_of(f"caches of {slots} requests × {length} tokens"):
                if group in ("verify", "prefill"):
                    self._must_fit(slots * length)
                    device.claim()
                elif drafter is not None:
                    self.target.tap(drafter.taps)
                    drafter.allocate(slots, length)
                    if self.tiers is not None and self.target.device.type == "cuda":
                        device.runner = Captured()
                self._touch(device)
            self._prepared = room, device
        return device

    def _must_fit(self, tokens: int) -> None:
        """Refuses so many tokens in the target's cache, by what it keeps of one, on a CPU that has no memory for them."""
        if self.target.device.type != "cpu":
            return
        self.target.allocate(1, PROMPT)
        assert self.target.kv is not None
        needed, self.target.kv = tokens * self.target.kv.bytes_per_token, None
        if needed > (1 - KEEP_FREE) * psutil.virtual_memory().available:
            raise MemoryError

    def _touch(self, device: Device) -> None:
        """Fills the caches: memory that was never written is all one page and reads faster. On a GPU random numbers, as equal ones draw less power
        and so clock higher."""
        for cache in (self.target.kv, device.drafter.kv if device.drafter is not None else None):
            for layer in cache._layers.values() if cache is not None else ():
                for tensor in layer:
                    tensor.normal_() if tensor.is_cuda else tensor.fill_(0.01)

    def _timed(self, run: Callable[[], Any], before: Callable[[], Any] | None = None) -> Once:
        """Seconds of `run` alone, as the engine's own stopwatch takes them; `before` is done first, and not waited for."""
        wait = partial(torch.cuda.synchronize, self.target.device) if self.target.device.type == "cuda" else lambda: None

        @torch.no_grad()
        def once() -> float:
            wait()
            if before is not None:
                before()
            self._watch.mark("")
            run()
            self._watch.mark("cell")
            wait()
            return self._watch.read()["cell"]

        return once

    def _flushed(self) -> None:
        if self._flush is None:
            weights = sum(p.numel() * p.element_size() for p in self.target.model.parameters())
            self._flush = torch.zeros(min(weights, FLUSH_MOST) // 4, dtype=torch.int32, device=self.target.device)
        self._flush.add_(1)

    def _batch(self, cell: CostCell, slots: int, gamma: int, length: int) -> tuple[Layout, Plan]:
        """`tokens` of the cell spread over its requests, as evenly as they go."""
        rows, requests = np.arange(cell.requests), cell.requests
        drafted = cell.tokens - requests
        lengths = np.full(requests, drafted // requests) + (rows < drafted % requests)
        width = None if self.tiers is None else gamma + 1
        reach = cell.context + int(lengths.max()) + 1
        layout = lay_out(rows, lengths + 1, reach, (slots, length), self.tiers, width)
        return layout, Plan.of(layout, rows, lengths, rows, gamma, padded(requests, self.tiers), slots)

    def _length(self, cell: CostCell) -> int:
        """Tokens of a cache row, as the engine has them."""
        length = cell.context + self.shapes.beside
        return length if self.tiers is None else self.tiers.room(length)

    def _stand(self, device: Device, cell: CostCell) -> None:
        """Everywhere behind the cell's context, with tokens that differ: equal rows would draw less power."""
        device.state.anchor.random_(0, self.target.vocabulary)
        device.state.start.fill_(cell.context)
        device.state.start[-1:].zero_()

    def _draft_rows(self, drafter: Drafter, cell: CostCell, slots: int) -> tuple[Layout, Integers]:
        """Layout of a drafting, and its slots, padded."""
        rows, requests = np.arange(cell.requests), padded(cell.requests, self.tiers)
        layout = drafter.lay_out(rows, cell.context, cache=(slots, self._length(cell)), tiers=self.tiers, requests=requests)
        return layout, np.append(rows, np.full(requests - cell.requests, slots))

    def _verify(self, cell: CostCell, slots: int) -> Once:
        length = self._length(cell)
        device = self._ready("verify", slots, length)
        self._stand(device, cell)
        gamma = -(-(cell.tokens - cell.requests) // cell.requests)  # of an engine that verifies as much of every request
        layout, plan = self._batch(cell, slots, gamma, length)
        proposal = None
        if gamma:
            assert device.drafter is not None
            proposal = device.random_proposal(plan.requests, device.drafter.gamma)
        return self._timed(lambda: device.verify(layout, plan, ship(plan.packed, self.target.device), proposal))

    def _prefill(self, cell: CostCell, slots: int) -> Once:
        device = self._ready("prefill", 1, slots)  # of one request, `slots` tokens long
        only, count = np.zeros(1, dtype=np.int64), np.array([cell.tokens])
        layout = lay_out(only, count, cell.context + cell.tokens, (1, slots), None)
        ids = np.arange(cell.tokens) % self.target.vocabulary
        after, first = np.append(ids[1:], -1), device.new_tokens(1)
        return self._timed(lambda: device.prefill(layout, ids, after, only, only, cell.context, first))

    def _drafting(self, cell: CostCell, slots: int) -> tuple[Device, Drafter, DraftBatch, Integers]:
        """What a drafting part of the cell runs on, and the slots as they are shipped."""
        device, place = self._ready(cell.drafter, slots, self._length(cell)), self.target.device
        self._stand(device, cell)
        assert device.drafter is not None
        layout, where = self._draft_rows(device.drafter, cell, slots)
        state = device.state
        return device, device.drafter, DraftBatch(ship(layout.ints, place), layout, ship(where, place), state.start, state.anchor), where

    def _backbone(self, cell: CostCell, slots: int) -> Once:
        """What is paid once a round: inputs and, of a block drafter, its layers."""
        device, drafter, batch, where = self._drafting(cell, slots)
        runner, layout, place = device.runner, batch.layout, self.target.device

        def step(ints: Tensor, slots: Tensor) -> tuple[Tensor | None, ...]:
            return (drafter.begin(replace(batch, ints=ints, slots=slots)),)

        return self._timed(lambda: runner.run(("backbone", layout.key), step, ship(layout.ints, place), ship(where, place)), self._flushed)

    def _head(self, cell: CostCell, slots: int) -> Once:
        """What `slots` drafted tokens add, one after the other; of a chain drafter that is everything."""
        device, drafter, batch, where = self._drafting(cell, slots)
        laws = None  # where the engine keeps what was drawn from, when shapes are padded
        if self.tiers is not None:
            laws = torch.empty(len(where), cell.slots, self.target.vocabulary, device=self.target.device)
        with torch.no_grad():
            hidden = drafter.begin(batch).clone()

        def step(hidden: Tensor, slots: Tensor, draws: Tensor) -> tuple[Tensor | None, ...]:
            made = drafter.sample(hidden, replace(batch, slots=slots), self.temperature, draws)
            if laws is not None and made.probabilities is not None:
                laws.copy_(made.probabilities)
            return made.tokens, made.confidence

        key = ("head", batch.layout.key, cell.slots)
        return self._timed(lambda: device.runner.run(key, step, hidden, batch.slots, device.draws(len(where), cell.slots)), self._flushed)

    def _absorb(self, cell: CostCell, slots: int) -> Once:
        """Taking in the features of a verified batch, as few requests as make up its tokens, and moving on."""
        length = self._length(cell)
        device = self._ready(cell.drafter, slots, length)
        drafter, place = device.drafter, self.target.device
        assert drafter is not None
        layout, plan = self._batch(cell, slots, drafter.gamma, length)
        made = torch.zeros(plan.requests, dtype=torch.long, device=place)
        outcome = Verified(made, made.clone(), torch.zeros(plan.requests, drafter.gamma, dtype=torch.long, device=place))
        features = torch.randn((plan.tokens, len(drafter.taps) * self.target.hidden), device=place, dtype=self.target.dtype)
        packed = ship(plan.packed, place)

        def before() -> None:
            self._stand(device, cell)
            self._flushed()

        return self._timed(lambda: device.take_in(layout, plan, packed, outcome, features), before)

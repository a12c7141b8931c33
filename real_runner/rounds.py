"""The device's side of a round: draft, verify, take in. Shapes are the host's to choose; nothing here waits for the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from real_runner import sampling
from real_runner.drafters.drafter import DraftBatch, Drafter, Proposal
from real_runner.failures import memory_of
from real_runner.graphs import Captured, Eager, Runner, refuse_waiting_rope
from real_runner.layout import Layout, ship
from real_runner.slots import SlotCache
from real_runner.target import Target
from simulator.arrays import Integers


@dataclass(slots=True)
class DeviceState:
    """Per slot, and one spare that padding writes to; the spare stands at 0  # [slots + 1] each."""

    start: Tensor  # position of the anchor
    anchor: Tensor  # the last committed token

    def advance(self, slots: Tensor, committed: Tensor, anchor: Tensor) -> None:
        """Moves the requests in `slots` [R] on by `committed` [R] tokens."""
        self.start[slots] = self.start[slots] + committed
        self.anchor[slots] = anchor
        self.start[-1:].zero_()


@dataclass(slots=True)
class Verified:
    """Outcome of a round for R requests, still on the device."""

    accepted: Tensor  # [R]
    bonus: Tensor  # [R]
    drafted: Tensor  # [R, γ]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which of R requests verify how much. One array, so that one copy ships it; padded up with requests of the spare slot that verify nothing."""

    packed: Integers  # ints [3, B] of the layout, cells [B], where [3, R], row_of [R, γ+1], one after the other
    tokens: int  # B
    requests: int  # R
    gamma: int

    @classmethod
    def of(cls, layout: Layout, slots: Integers, lengths: Integers, from_row: Integers, gamma: int, padded: int, spare: int) -> Plan:
        """For the requests in `slots` [n] with verified `lengths` [n] and rows `from_row` [n] of the proposal; `padded` ≥ n are made."""
        where = np.zeros((3, padded), dtype=np.int64)
        where[0] = spare
        where[:, : len(slots)] = slots, lengths, from_row
        column = np.arange(gamma + 1)
        row_of = np.zeros((padded, gamma + 1), dtype=np.int64)
        row_of[: len(slots)] = layout.firsts[:, None] + np.minimum(column, lengths[:, None])
        cells = np.zeros(layout.ints.shape[1], dtype=np.int64)
        kept = column <= lengths[:, None]
        cells[: int(kept.sum())] = (np.arange(len(slots))[:, None] * (gamma + 1) + column)[kept]
        packed = np.concatenate([layout.ints.ravel(), cells, where.ravel(), row_of.ravel()])
        return cls(packed, len(cells), padded, gamma)

    def split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views of the shipped array: ints [3, B], cells [B] (places of the tokens in [R, γ+1]), where [3, R] (slot, length, row of the
        proposal), row_of [R, γ+1] (places of those in B, the last verified one repeated)."""
        flat, requests = 4 * self.tokens, self.requests
        ints, where, row_of = packed[:flat].view(4, -1), packed[flat : flat + 3 * requests].view(3, -1), packed[flat + 3 * requests :]
        return ints[:3], ints[3], where, row_of.view(requests, self.gamma + 1)


@dataclass(slots=True)
class Report:
    """What one read brings."""

    accepted: Integers  # [R] of the verification that was flying
    bonus: Integers  # [R]
    drafted: Integers  # [R, γ]
    first: Integers  # [n] first tokens of the prefilled
    confidence: NDArray[np.float64] | None  # [rows drafted for, γ] logits


class Device:
    """Runs the parts of a round, each from a captured graph where the runner captures."""

    def __init__(
        self, target: Target, drafter: Drafter | None, room: tuple[int, int], *, temperature: float, seed: int, widest: tuple[int, int] | None
    ) -> None:
        """`room` is (slots, length); `widest`, where shapes are padded, the most (requests, tokens) that are ever drafted at once."""
        self.target, self.drafter, self.room, self.widest = target, drafter, room, widest
        self._laws: Tensor | None = None  # what the drafter drew from, [rows, γ, V]: too large to copy, so it stays where it is
        zeros = torch.zeros(room[0] + 1, dtype=torch.long, device=target.device)
        self.state = DeviceState(zeros, zeros.clone())
        self.runner: Runner = Eager()
        self._claimed: tuple[SlotCache | None, ...] = ()
        self.temperature = temperature
        self.greedy = temperature < sampling.GREEDY_BELOW
        self._generator = torch.Generator(device=target.device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """From here on the draws are those of a new device."""
        self._generator.manual_seed(seed)

    def fits(self, target: Target, drafter: Drafter | None, room: tuple[int, int], temperature: float, widest: tuple[int, int] | None) -> bool:
        """May another engine go on with its caches and graphs?"""
        mine = (self.target, self.drafter, self.room, self.temperature, self.widest)
        return mine == (target, drafter, room, temperature, widest)

    def claim(self) -> None:
        """Caches of this engine's size in target and drafter, and its taps; the caches stay until another engine makes its own."""
        target, drafter = self.target, self.drafter
        target.tap(drafter.taps if drafter is not None else ())
        held = (target.kv, drafter.kv if drafter is not None else None)
        if self._claimed and all(mine is now for mine, now in zip(self._claimed, held, strict=True)):
            return
        target.allocate(*self.room)
        if drafter is not None:
            with memory_of(f"the draft cache of {self.room[0]} slots × {self.room[1]} tokens"):
                drafter.allocate(*self.room)
        self._claimed = (target.kv, drafter.kv if drafter is not None else None)
        self.runner = Eager()
        if self.widest is not None and target.device.type == "cuda" and target.capturable:
            for model in (target.model, *([] if drafter is None else [drafter.backbone])):
                refuse_waiting_rope(model.config)
            self.runner = Captured()
        if self.widest is not None and drafter is not None and not self.greedy:
            with memory_of(f"the drafter's laws over {target.vocabulary} tokens for {self.widest[0]} requests"):
                self._laws = torch.empty((*self.widest, target.vocabulary), device=target.device)

    def _runner(self, layout: Layout) -> Runner:
        return self.runner if layout.tiered else Eager()

    def read(self, outcome: Verified | None, first: Tensor | None, confidence: Tensor | None) -> Report:
        """The one place in a round where the host waits for the device: everything in one copy."""
        parts = [] if outcome is None else [outcome.accepted, outcome.bonus, outcome.drafted]
        parts += [] if first is None else [first]
        parts += [] if confidence is None else [confidence.double().view(torch.long)]
        host = torch.cat([part.reshape(-1) for part in parts]).cpu().numpy() if parts else np.empty(0, dtype=np.int64)
        pieces = iter(np.split(host, np.cumsum([part.numel() for part in parts])))
        none = host[:0]
        accepted, bonus, drafted = (none, none, none) if outcome is None else (next(pieces), next(pieces), next(pieces))
        drafted = drafted.reshape(len(accepted), drafted.size // max(1, len(accepted)))
        tokens = none if first is None else next(pieces)
        logits = None if confidence is None else next(pieces).view(np.float64).reshape(tuple(confidence.shape))
        return Report(accepted, bonus, drafted, tokens, logits)

    def draws(self, *shape: int) -> Tensor:
        """Uniform numbers."""
        return torch.rand(shape, generator=self._generator, device=self.target.device)

    def new_tokens(self, count: int) -> Tensor:
        """Room for one token each of `count` requests."""
        return torch.zeros(count, dtype=torch.long, device=self.target.device)

    def prefill(self, layout: Layout, ids: Integers, after: Integers, slots: Integers, into: Integers, at: int, first: Tensor) -> None:
        """Prompt tokens `ids` [B] from position `at` on, through the target and into the caches. `after` [B] is what follows each, -1 where the
        prompt ends: there a token is drawn, the request's anchor. It goes `into` [R] of `first`; an unfinished prompt's is overwritten later."""
        device, counts = self.target.device, np.diff(np.append(layout.firsts, layout.ints.shape[1]))
        packed = ship(np.concatenate([layout.ints, ids[None], after[None]]), device)
        where, last, lengths, place = ship(np.stack([slots, layout.firsts + counts - 1, counts, into]), device)
        self.state.start.index_fill_(0, where, at)
        step = self.target.step(packed[3], layout.flat(packed[:3], self.state.start), last)
        drawn = step.logits.argmax(dim=-1)
        if not self.greedy:
            drawn = sampling.draw(sampling.probabilities(step.logits, self.temperature), self.draws(len(slots)))
        if self.drafter is not None:
            following = packed[4].clone()
            following[last] = torch.where(following[last] < 0, drawn, following[last])
            self.drafter.absorb(step.features, following, last, where, packed[:3], layout, self.state.start)
        self.state.advance(where, lengths, drawn)
        first[place] = drawn

    def move(self, slot: int, into: int) -> None:
        """Takes the request of a slot to another that is free."""
        assert self.target.kv is not None, "claim first"
        self.target.kv.move(slot, into)
        if self.drafter is not None:
            self.drafter.move(slot, into)
        for state in (self.state.start, self.state.anchor):
            state[into] = state[slot]

    def random_proposal(self, requests: int, gamma: int) -> Proposal:
        """Tokens as if drafted from a flat law: a verification of them takes the time that it takes of drafted ones."""
        shape, place = (requests, gamma), self.target.device
        if not self.greedy:
            if self._laws is None or len(self._laws) < requests:
                self._laws = torch.empty((*shape, self.target.vocabulary), device=place)
            self._laws.fill_(1 / self.target.vocabulary)
        return Proposal(torch.randint(self.target.vocabulary, shape, generator=self._generator, device=place), None, None)

    def draft(self, layout: Layout, slots: Integers, gamma: int) -> Proposal:
        """γ tokens for each of the requests in `slots` [R]."""
        assert self.drafter is not None
        drafter, state = self.drafter, self.state

        def step(ints: Tensor, where: Tensor, draws: Tensor) -> tuple[Tensor | None, ...]:
            made = drafter.propose(DraftBatch(ints, layout, where, state.start, state.anchor), self.temperature, draws)
            if made.probabilities is None or self.widest is None:
                self._laws = made.probabilities
            elif self._laws is not None:
                self._laws[: len(where)].copy_(made.probabilities)
            return made.tokens, made.confidence

        device = self.target.device
        inputs = ship(layout.ints, device), ship(slots, device), self.draws(len(slots), gamma)
        tokens, confidence = self._runner(layout).run(("draft", layout.key, len(slots), gamma), step, *inputs)
        assert tokens is not None
        return Proposal(tokens, None, confidence)

    def verify(self, layout: Layout, plan: Plan, packed: Tensor, proposal: Proposal | None) -> tuple[Verified, Tensor]:
        """The anchors and the drafted tokens the plan asks for, through the target; also its features [B, m·d]."""
        target, state, gamma = self.target, self.state, plan.gamma

        def step(packed: Tensor, *more: Tensor) -> tuple[Tensor | None, ...]:
            ints, cells, where, row_of = plan.split(packed)
            slots, lengths, from_row = where
            drafted = more[0][from_row][:, :gamma] if gamma else slots.new_empty(len(slots), 0)
            ids = torch.cat([state.anchor[slots].unsqueeze(1), drafted], dim=1).view(-1)[cells]
            seen = target.step(ids, layout.flat(ints, state.start))
            if self.greedy:
                accepted, bonus = sampling.verify_greedy(seen.logits, drafted, lengths, row_of)
            else:
                law = self._laws if gamma else None
                accepted, bonus = sampling.verify_sampled(seen.logits, drafted, lengths, row_of, self.temperature, more[-1], law, from_row)
            return accepted, bonus, drafted, seen.features

        inputs = [packed]
        if gamma and proposal is not None:
            inputs.append(proposal.tokens)
        inputs += [] if self.greedy else [self.draws(plan.requests, gamma + 1)]
        key = ("verify", layout.key, plan.requests, gamma, tuple(tuple(tensor.shape) for tensor in inputs))
        accepted, bonus, drafted, features = (kept for kept in self._runner(layout).run(key, step, *inputs) if kept is not None)
        return Verified(accepted.clone(), bonus.clone(), drafted.clone()), features

    def take_in(self, layout: Layout, plan: Plan, packed: Tensor, outcome: Verified, features: Tensor) -> None:
        """Accepted tokens into the draft cache, and the requests on to their new anchors."""
        drafter, state = self.drafter, self.state

        def step(packed: Tensor, accepted: Tensor, bonus: Tensor, drafted: Tensor, features: Tensor) -> tuple[Tensor | None, ...]:
            ints, cells, where, row_of = plan.split(packed)
            if drafter is not None:
                column = torch.arange(plan.gamma + 1, device=cells.device)
                padded = torch.nn.functional.pad(drafted, (0, 1))
                following = torch.where(column == accepted.unsqueeze(1), bonus.unsqueeze(1), padded).view(-1)[cells]
                last = row_of.gather(1, accepted.unsqueeze(1)).squeeze(1)
                drafter.absorb(features, following, last, where[0], ints, layout, state.start)
            state.advance(where[0], accepted + 1, bonus)
            return ()

        self._runner(layout).run(
            ("take in", layout.key, plan.requests, plan.gamma), step, packed, outcome.accepted, outcome.bonus, outcome.drafted, features
        )

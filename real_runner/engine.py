"""The batched speculative serving loop: continuous batching, ragged verification under the simulator's own policies.

The host waits for the device once a round: it reads the accepted counts of the last verification together with the confidences of the block
drafted from them. Lengths are then chosen, verification enqueued, and the next block drafted behind it.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from real_runner.choosing import Chooser, RoundCosts
from real_runner.drafters.drafter import Drafter, Proposal
from real_runner.failures import memory_of
from real_runner.layout import Tiers, lay_out, padded, ship
from real_runner.records import Round, ServedRequest, Step
from real_runner.rounds import Device, Plan, Report, Verified
from real_runner.target import Target
from real_runner.timing import Stopwatch
from simulator.arrays import Integers
from simulator.errors import DsimError
from simulator.policies.verification import VerificationPolicy


@dataclass(slots=True)
class _Flying:
    """A verification whose outcome has not been read."""

    requests: list[ServedRequest]
    lengths: Integers
    confidence: NDArray[np.float64] | None
    outcome: Verified


class Engine:
    """`slots` requests of at most `length` tokens at a time. `tiers` pads shapes and, on CUDA, captures a graph for each; None does neither.
    `device` of an engine before is taken over where it fits, with its graphs."""

    def __init__(
        self,
        target: Target,
        drafter: Drafter | None,
        policy: VerificationPolicy,
        *,
        slots: int,
        length: int,
        temperature: float = 0.0,
        seed: int = 0,
        costs: RoundCosts | None = None,
        survival: Sequence[float] | None = None,
        temperatures: Sequence[float] | None = None,
        tiers: Tiers | None = None,
        prefill_tokens: int = 8192,
        prefill_chunk: int = 2048,
        stop_at_eos: bool = True,
        device: Device | None = None,
    ) -> None:
        length = length if tiers is None else tiers.room(length)
        self.gamma = 0 if drafter is None or not policy.drafts else min(drafter.gamma, policy.longest(drafter.gamma))
        self.target, self.policy, self.tiers, self.slots, self.length = target, policy, tiers, slots, length
        self.drafter = drafter if self.gamma else None
        if drafter is None and policy.drafts and policy.longest(1) > 0:
            raise DsimError(f"policy {policy.kind!r} verifies drafted tokens, but there is no drafter", key="verification", remedy="give one")
        has_confidence = self.drafter is not None and self.drafter.spec.confidence != "none"
        self.chooser = Chooser(policy, self.gamma, slots, has_confidence=has_confidence, costs=costs, temperatures=temperatures, survival=survival)
        widest = None if tiers is None else (tiers.pad(slots), self.gamma)
        if device is None or not device.fits(target, self.drafter, (slots, length), temperature, widest):
            device = Device(target, self.drafter, (slots, length), temperature=temperature, seed=seed, widest=widest)
        self.device = device
        device.reseed(seed)
        self.lossless = not policy.peeks or self.device.greedy
        self.eos = target.eos if stop_at_eos else frozenset[int]()
        self.prefill_tokens, self.prefill_chunk = prefill_tokens, prefill_chunk
        self.waiting: deque[ServedRequest] = deque()
        self.active: list[ServedRequest] = []  # in the order of slots
        self.finished: list[ServedRequest] = []
        self.steps: list[Step] = []
        self._free = list(range(slots))
        self._joined: list[ServedRequest] = []  # prefilled, first token not read yet
        self._first: torch.Tensor | None = None
        self._flying: _Flying | None = None
        self._open: Step | None = None
        self._watch = Stopwatch(target.device)
        self.begin()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._begun

    def begin(self) -> None:
        """Starts the clock; takes target and drafter back from an engine that was made later."""
        self.device.claim()
        self._begun = time.perf_counter()

    def submit(self, request: ServedRequest) -> None:
        """Queues a request; refuses one that could not fit."""
        block = self.drafter.spec.block if self.drafter else 0
        need = len(request.prompt) + request.max_tokens + self.gamma + max(self.gamma, block) + 1
        if not request.prompt or request.max_tokens < 1:
            raise DsimError("a request needs a prompt and at least one token to generate", key=f"request {request.request}")
        if need > self.length:
            raise DsimError(f"{need} tokens with its blocks, but a slot holds {self.length}", key=f"request {request.request}")
        if max(request.prompt) >= self.target.vocabulary or min(request.prompt) < 0:
            raise DsimError(f"a token outside the vocabulary of {self.target.vocabulary}", key=f"request {request.request}")
        self.waiting.append(request)

    def run(self, requests: Sequence[ServedRequest] = ()) -> list[ServedRequest]:
        """Serves these, and what was submitted, to the end; requests that have not arrived yet wait."""
        for request in sorted(requests, key=lambda r: r.arrival_s):
            self.submit(request)
        self.begin()
        while self.step():
            pass
        return self.finished

    @torch.no_grad()
    def step(self) -> bool:
        """Admit, draft, read what is known by now, choose, verify. False when there is nothing left to do."""
        if self._open is None:
            self._open = Step(start_s=self.now())
        made = self.device.runner.captured
        self._admit(self._open)
        self._close_up()
        if not self.active:
            self._open = None
            if self.waiting:
                time.sleep(max(0.0, min(self.waiting[0].arrival_s - self.now(), 0.05)))
            return bool(self.waiting)
        drafted_for, proposal = list(self.active), self._draft()
        logits = self._settle(self._open, proposal)
        self._open.captured_graphs += self.device.runner.captured - made
        self.steps.append(self._open)
        self._open = Step(start_s=self._open.end_s)
        made = self.device.runner.captured
        self._verify(self._open, drafted_for, proposal, logits)
        self._open.captured_graphs += self.device.runner.captured - made
        return bool(self.active or self.waiting)

    def _admit(self, step: Step) -> None:
        """Gives waiting requests free slots and prefills them, as many as the token budget allows and one at least."""
        joining: list[ServedRequest] = []
        budget, now = self.prefill_tokens, self.now()
        while self._free and self.waiting and self.waiting[0].arrival_s <= now and (not joining or len(self.waiting[0].prompt) <= budget):
            request = self.waiting.popleft()
            request.slot = heapq.heappop(self._free)
            budget -= len(request.prompt)
            joining.append(request)
            self.chooser.joined(request.slot)
        step.waiting = sum(1 for _ in takewhile(lambda request: request.arrival_s <= now, self.waiting))
        if not joining:
            return
        joining.sort(key=lambda r: r.slot)
        slots = np.array([r.slot for r in joining])
        counts = np.array([len(r.prompt) for r in joining])
        self._watch.mark("")
        with memory_of(f"a prefill of {counts.sum()} tokens"):
            self._first = self.device.new_tokens(len(joining))
            for at in range(0, int(counts.max()), self.prefill_chunk):
                rows = np.flatnonzero(counts > at)
                part = np.minimum(counts[rows] - at, self.prefill_chunk)
                layout = lay_out(slots[rows], part, at + int(part.max()), (self.slots, self.length), None)
                ids = [r.prompt[at : at + n] for r, n in zip((joining[i] for i in rows), part, strict=True)]
                after = [[*joining[i].prompt, -1][at + 1 : at + n + 1] for i, n in zip(rows, part, strict=True)]
                self.device.prefill(layout, np.concatenate(ids), np.concatenate(after), slots[rows], rows, at, self._first)
        self._watch.mark("prefill")
        self._joined = joining
        step.prefill_tokens += int(counts.sum())
        self.active = sorted(self.active + joining, key=lambda r: r.slot)

    def _close_up(self) -> None:
        """With tiers a step pays for every row up to the highest: requests move into free rows before them where that makes a tier less."""
        while self.tiers is not None and self.active and self._free:
            last, into = self.active[-1], self._free[0]
            if into > last.slot or self.tiers.pad(last.slot + 1) == self.tiers.pad(len(self.active)):
                return
            self.device.move(last.slot, into)
            self.chooser.moved(last.slot, into)
            heapq.heapreplace(self._free, last.slot)
            last.slot = into
            self.active.sort(key=lambda r: r.slot)

    def _draft(self) -> Proposal | None:
        """A block for every active request, behind the verification that is still flying."""
        if self.drafter is None:
            return None
        ahead = dict(zip((r.slot for r in self._flying.requests), self._flying.lengths + 1, strict=True)) if self._flying else {}
        slots = np.array([r.slot for r in self.active])
        reach = max(len(r.prompt) if not r.output else r.start + int(ahead.get(r.slot, 0)) for r in self.active)
        count = padded(len(slots), self.tiers)
        layout = self.drafter.lay_out(slots, reach, cache=(self.slots, self.length), tiers=self.tiers, requests=count)
        self._watch.mark("")
        with memory_of(f"drafting for {len(slots)} requests"):
            proposal = self.device.draft(layout, np.append(slots, np.full(count - len(slots), self.slots)), self.gamma)
        self._watch.mark("draft")
        return proposal

    def _settle(self, step: Step, proposal: Proposal | None) -> NDArray[np.float64] | None:
        """Reads outcomes and confidences; commits, retires, closes the step. Returns the confidence logits [R, γ] of what was drafted."""
        confidence = proposal.confidence if proposal is not None and self.chooser.has_confidence else None
        report = self.device.read(self._flying.outcome if self._flying else None, self._first, confidence)
        step.end_s = self.now()
        for name, seconds in self._watch.read().items():
            setattr(step, f"{name}_s", getattr(step, f"{name}_s") + seconds)
        if self._flying is not None:
            self._commit(step, self._flying, report)
        for request, token in zip(self._joined, report.first, strict=True):
            request.output.append(int(token))
            request.first_token_s = step.end_s
        over = [r for r in self.active if len(r.output) >= r.max_tokens or r.output[-1] in self.eos]
        for request in over:
            request.finish_s = step.end_s
            self.finished.append(request)
            heapq.heappush(self._free, request.slot)
        self.active = [r for r in self.active if r not in over]
        self._joined, self._first, self._flying = [], None, None
        return report.confidence

    def _commit(self, step: Step, flying: _Flying, report: Report) -> None:
        """Accepted tokens and the one after them, cut at the end of the text and at the request's limit."""
        for row, request in enumerate(flying.requests):
            accepted, drafted = int(report.accepted[row]), report.drafted[row].tolist()
            ended = next((at + 1 for at, token in enumerate(drafted[:accepted]) if token in self.eos), None)
            tokens = drafted[:ended] if ended is not None else [*drafted[:accepted], int(report.bonus[row])]
            kept = tokens[: request.max_tokens - len(request.output)]
            confidence = None if flying.confidence is None else flying.confidence[row]
            taken = accepted if ended is None else ended
            part = Round(request.request, request.output[-1], drafted, int(flying.lengths[row]), taken, confidence, ended is not None)
            step.rounds.append(part)
            step.committed += len(kept)
            request.output.extend(kept)

    def _verify(self, step: Step, drafted_for: list[ServedRequest], proposal: Proposal | None, logits: NDArray[np.float64] | None) -> None:
        """Chooses lengths for those still active and sends the flat batch through the target."""
        if not self.active:
            return
        slots = np.array([r.slot for r in self.active])
        starts = np.array([r.start for r in self.active])
        row = {request.slot: at for at, request in enumerate(drafted_for)}
        from_row = np.array([row[slot] for slot in slots])
        step.context_tokens, step.longest_context = int(starts.sum()), int(starts.max())
        lengths, confidence = self.chooser.choose(None if logits is None else logits[from_row], slots, starts)
        step.tokens = int(lengths.sum()) + len(slots)
        width = None if self.tiers is None else self.gamma + 1
        layout = lay_out(slots, lengths + 1, int((starts + lengths).max()) + 1, (self.slots, self.length), self.tiers, width)
        plan = Plan.of(layout, slots, lengths, from_row, self.gamma, padded(len(slots), self.tiers), self.slots)
        self._watch.mark("")
        with memory_of(f"a step of {step.tokens} tokens"):
            packed = ship(plan.packed, self.target.device)
            outcome, features = self.device.verify(layout, plan, packed, proposal)
            self._watch.mark("verify")
            self.device.take_in(layout, plan, packed, outcome, features)
            self._watch.mark("draft")
        self._flying = _Flying(list(self.active), lengths, confidence, outcome)

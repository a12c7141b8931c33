"""One replica as a SimPy process: admit, plan, draft, choose, wait, commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import simpy

from simulator.engine.batch import CONTEXT, PAGES, Batch
from simulator.engine.given import Fleet
from simulator.engine.pages import KvCache, prefix_cache
from simulator.engine.pool import Pool
from simulator.engine.records import Buffer, StepRecord
from simulator.measurements.prices import reads_to_longest, round_prices, rounded_context, scheduling_s
from simulator.policies.verification import Lengths
from simulator.traffic.request import Request

Hear = Callable[[Request], None]


class Replica:
    """Continuous batching at the granularity of steps.

    `finished(request)` is told of every request that is done or rejected; `evicted(request)` of one thrown out whose
    context must be computed again elsewhere. `steps` and `gaps` take rows; with a `pool`, keys and values are fetched from there.
    """

    def __init__(
        self, env: simpy.Environment, number: int, fleet: Fleet, finished: Hear, evicted: Hear, steps: Buffer, gaps: Buffer, pool: Pool | None = None
    ) -> None:
        self.env, self.number, self.settings, self.policy = env, number, fleet.settings, fleet.policy
        self.prices, self.believed, self.kv = fleet.prices, fleet.believed, _memory(fleet)
        self.finished, self.evicted = finished, evicted
        self.steps, self.join_gaps = steps, gaps  # rows of Sink.steps and Sink.joins
        self.batch, self.to_longest = Batch(fleet.replay, fleet.settings.max_batch, fleet.policy.smoothing), reads_to_longest(fleet.prices)
        self.scheduling_s = scheduling_s(fleet.prices)
        self.kept = np.zeros(fleet.policy.keeps)  # what the policy remembers here
        self.lookahead = fleet.lookahead
        self.waiting: deque[Request] = deque()
        self.prefilling: deque[tuple[Request, int]] = deque()
        self.pool, self.kv_bytes_per_token = pool, fleet.kv_bytes_per_token
        self.moving: dict[Request, int] = {}  # admitted, and pages of each: their keys and values come from prefill machines
        self.moved: list[Request] = []  # those that have come
        self.last_round_s = 0.0  # when those in the batch last got tokens
        self.preemptions = 0
        self.rule = fleet.prefix_cache
        self.leaving = False  # is anybody who runs here gone?
        self._idle: simpy.Event | None = None
        self.process = env.process(self._run())

    @property
    def held(self) -> int:
        """Requests waiting or running here."""
        return len(self.waiting) + len(self.prefilling) + len(self.moving) + len(self.batch)

    @property
    def pages(self) -> dict[Request, int]:
        """What requests that run here hold."""
        return dict(self.prefilling) | self.moving | dict(zip(self.batch.requests, self.batch.state[PAGES, : len(self.batch)].tolist(), strict=False))

    def submit(self, request: Request) -> None:
        """A request arrives (with its prompt processed, unless prompts are processed here)."""
        most = request.spec.prompt_tokens + request.spec.output_tokens + self.lookahead
        if self.kv.capacity is not None and self.kv.pages(most) > self.kv.capacity:
            request.rejected = True
            self.finished(request)
            return
        self.waiting.append(request)
        self._wake()

    def _wake(self) -> None:
        if self._idle is not None:
            self._idle.succeed()
            self._idle = None

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            self._let_go()
            self._admit()
            if not self.batch and not self.prefilling:
                self._idle = self.env.event()
                yield self._idle
                continue
            self._make_room()
            yield from self._step()

    def _admit(self) -> None:
        """Waiting requests enter while there are slots and pages for their context and one round; those whose keys and values have come decode."""
        settings, order, here = self.settings, self.settings.admission, self.settings.prefill.where == "replica"
        for request in self.moved:
            pages = self.moving.pop(request)
            if request.gone:
                self.kv.leave(request, pages)
            else:
                self._start(request, pages)
        self.moved.clear()
        while self.waiting and len(self.batch) + len(self.prefilling) + len(self.moving) < settings.max_batch:
            chosen = order.next([r.priority if order.ranks else r.spec.prompt_tokens for r in self.waiting]) if order.looks else 0
            request = self.waiting[chosen]
            pages = self.kv.pages(request.context_tokens + self.lookahead)
            if not self.kv.admit(request, pages):
                return
            del self.waiting[chosen]
            if request.hit_tokens < 0:
                request.hit_tokens = request.cached_tokens
            if here:
                request.prefilled_tokens = request.cached_tokens
                self.prefilling.append((request, pages))
            elif self.pool is not None:
                self.moving[request] = pages
                self.env.process(self._fetch(request, self.pool))
            else:
                self._start(request, pages)

    def _fetch(self, request: Request, pool: Pool) -> Generator[simpy.Event, Any, None]:
        """The keys and values of a request that are not here come over, those of its last token excepted, which has none yet."""
        known = request.context_tokens - 1
        yield from pool.fetch(request, known - min(request.cached_tokens, known), self.kv_bytes_per_token)
        if request in self.moving:  # or the replica has died meanwhile
            self.kv.computed(request, known)
            self.moved.append(request)
            self._wake()

    def _start(self, request: Request, pages: int) -> None:
        """The context is in the cache: emit the first token if it is still owed, then decode."""
        if request.emitted_tokens == 0:
            request.first_token_s = request.last_emit_s = request.left_s = self.env.now
            request.emitted_tokens = 1
        if request.emitted_tokens >= request.last_tokens:
            self._finish(request, pages)
        else:
            request.waited_s += self.env.now - request.left_s
            self.batch.join(request, pages)

    def _make_room(self) -> None:
        """Take pages for the coming round; while they do not fit, the last to have come is thrown out and recomputed."""
        if self.kv.capacity is None:
            return
        while self.batch:
            size, state = len(self.batch), self.batch.state
            needed = -(-(state[CONTEXT, :size] + self.lookahead) // self.kv.page_tokens)
            more = int((needed - state[PAGES, :size]).sum())
            if self.kv.fits(more):
                self.kv.take(more)
                state[PAGES, :size] = needed
                return
            self._evict()

    def _evict(self) -> None:
        """Preemption by recomputation: its pages go back, its tokens stay, it waits at the head of the queue."""
        running, prompts = self.batch.requests, [r for r, _ in self.prefilling]
        last = max(r.priority for r in (*prompts, *running)) if self.settings.admission.ranks else None
        meant = [place for place, r in enumerate(prompts) if last is None or r.priority == last]
        if meant:
            request, pages = self.prefilling[meant[-1]]
            del self.prefilling[meant[-1]]
        else:
            slots = [s for s, r in enumerate(running) if last is None or r.priority == last]
            youngest = max(slots, key=lambda s: (running[s].spec.arrival_s, running[s].spec.index))
            if self.batch.requests[youngest] not in self.batch.newcomers:
                self.batch.requests[youngest].last_emit_s = self.last_round_s
            request, pages = self.batch.leave(youngest)
            request.left_s = self.env.now
            self.kv.computed(request, request.context_tokens - 1)  # its last token was never sent through the target
        self.kv.leave(request, pages)
        request.prefilled_tokens = 0
        request.preemptions += 1
        self.preemptions += 1
        if self.settings.prefill.where == "elsewhere":
            self.evicted(request)
        else:
            self.waiting.appendleft(request)

    def _step(self) -> Generator[simpy.Event, Any, None]:
        """One step: choose lengths, share the step with prompts, wait, commit, record."""
        start, size, waiting = self.env.now, len(self.batch), len(self.waiting)
        pending = sum(r.to_prefill for r, _ in self.prefilling)
        decodes = size > 0 and self.settings.prefill.decodes(pending)
        overhead_s = self.prices.overhead_s + self.scheduling_s if decodes else self.prices.overhead_s
        lengths, verified, draft_s, verify_s = self._choose(size, overhead_s) if decodes else (None, 0, 0.0, 0.0)
        chunk = self.settings.prefill.chunk(size + verified if decodes else 0, pending)
        pieces = self._pieces(chunk) if chunk else []
        attended = sum(tokens * (r.prefilled_tokens + tokens / 2) for r, tokens in pieces)
        prefill_s = self.prices.chunk_s(chunk, attended / chunk, size + verified if decodes else 0) if pieces else 0.0
        context, waiting = self.batch.context_total, waiting + len(self.prefilling) - len(pieces)
        yield self.env.timeout(draft_s + verify_s + overhead_s + prefill_s)
        accepted = committed = joined = 0
        if lengths is not None:
            joined, self.last_round_s = len(self.batch.newcomers), self.env.now
            for request in self.batch.newcomers:  # decode for the first time since they came: their gap to the last token, for ITL
                self.join_gaps.append((self.env.now, self.env.now - request.last_emit_s, request.waited_s, self.number))
                request.waited_s = 0.0
            self.batch.newcomers.clear()
            known = self.batch.state[CONTEXT, :size].tolist() if self.rule is not None else []
            accepted, committed = self.batch.commit(lengths, self.policy.lag_steps)
        now, requests = self.env.now, size if decodes else 0
        self.steps.append(
            StepRecord(
                self.number, start, now, requests, size, joined, verified, accepted, committed,
                draft_s, verify_s, overhead_s, prefill_s, chunk, context, waiting, len(self.waiting) + len(self.prefilling) - len(pieces),
            )
        )  # fmt: skip
        if lengths is not None:
            for slot in self.batch.done():
                request, pages = self.batch.leave(slot)
                if self.rule is not None:
                    self.kv.computed(request, self.rule.left_tokens(request.context_tokens, known[slot]))
                self._finish(request, pages)
        for request, tokens in pieces:
            request.prefilled_tokens += tokens
            self.kv.computed(request, request.prefilled_tokens)
        while pieces and self.prefilling and self.prefilling[0][0].to_prefill == 0:
            self._start(*self.prefilling.popleft())

    def _choose(self, size: int, overhead_s: float) -> tuple[Lengths, int, float, float]:
        """Lengths by the policy, and what the round then costs: lengths, verified tokens, draft and verify seconds."""
        context, proposing = rounded_context(self.batch.context(self.to_longest)), self.batch.proposing()
        round_s, draft_s = round_prices(self.prices, size, context, proposing)
        believed = round_s if self.believed is self.prices else round_prices(self.believed, size, context, proposing)[0]
        lengths = self.policy.chosen(self.batch.view(believed, self.policy.lag_steps, context, self.kept))
        verified = int(lengths.sum())
        verify_s = float(round_s[verified]) - draft_s - overhead_s
        if self.policy.drafts_choice:
            draft_s = self.prices.draft_s(size, context, int(lengths.max()), proposing)
        return lengths, verified, draft_s, verify_s

    def _pieces(self, chunk: int) -> list[tuple[Request, int]]:
        """Who gets how many of the `chunk` prompt tokens: in order of admission."""
        pieces = []
        for request, _ in self.prefilling:
            tokens = min(chunk, request.to_prefill)
            pieces.append((request, tokens))
            chunk -= tokens
            if not chunk:
                break
        return pieces

    def drop(self, request: Request) -> None:
        """Its user is gone: it waits no more, or ends with the step that is under way."""
        if request in self.waiting:
            self.waiting.remove(request)
            return
        self.leaving = True
        if request in self.batch.requests:
            self.batch.tell(request)

    def _let_go(self) -> None:
        """Those who are gone give back their pages, and what they leave behind is that of a preempted one."""
        if not self.leaving:
            return
        for slot in reversed(range(len(self.batch))):
            if self.batch.requests[slot].gone:
                request, pages = self.batch.leave(slot)
                self.kv.computed(request, request.context_tokens - 1)
                self.kv.leave(request, pages)
        for request, pages in self.prefilling:
            if request.gone:
                self.kv.leave(request, pages)
        self.prefilling = deque((request, pages) for request, pages in self.prefilling if not request.gone)
        self.leaving = False

    def _finish(self, request: Request, pages: int) -> None:
        self.kv.leave(request, pages)
        if request.gone:
            return
        request.finish_s = self.env.now
        self.finished(request)

    def die(self) -> list[Request]:
        """End in the middle of whatever it does; what it held, in order of arrival, with what each had emitted."""
        running = [self.batch.leave(slot)[0] for slot in reversed(range(len(self.batch)))]
        held = (*self.waiting, *(request for request, _ in self.prefilling), *self.moving, *running)
        lost = [r for r in held if not r.gone]
        self.moving.clear()
        self.process.defused = True
        if self.process.is_alive and self.process.target is not None:
            self.process.interrupt()
        return sorted(lost, key=lambda r: (r.spec.arrival_s, r.spec.index))


def _memory(fleet: Fleet) -> KvCache:
    """The pages of a replica."""
    if fleet.prefix_cache is None:
        return KvCache(fleet.kv_pages, fleet.page_tokens)
    return prefix_cache(fleet.kv_pages, fleet.page_tokens, fleet.prefix_cache, fleet.policy.drafts)

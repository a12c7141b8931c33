"""Machines that process prompts for the replicas: what each has in its cache, and the link over which caches move."""

from __future__ import annotations

from collections.abc import Generator
from copy import copy
from typing import Any

import simpy

from simulator.engine.clock import Clock
from simulator.engine.given import Fleet
from simulator.engine.link import Link
from simulator.engine.pages import prefix_cache
from simulator.engine.records import Buffer, Outside
from simulator.traffic.request import Request


class Pool:
    """The workers of a run. A prompt is computed by the free worker that has most of it; its keys and values stay there until they have moved to a
    replica, which fetches what it lacks when it has admitted the request. `done` takes rows of Outside."""

    def __init__(self, env: Clock, fleet: Fleet, done: Buffer) -> None:
        assert fleet.pool is not None
        self.env, self.of, self.done = env, fleet.pool, done
        self.latency_s, workers = fleet.settings.prefill.machines.moving_s, fleet.settings.prefill.machines.at_a_time or 0
        self.link = Link(env, self.of.bandwidth_bytes_s) if self.of.bandwidth_bytes_s else None
        pages = (self.of.kv_pages, fleet.page_tokens)
        rule, drafts = self.of.prefix_cache, fleet.policy.drafts
        self.caches = [prefix_cache(*pages, rule, drafts) for _ in range(workers)] if rule else []
        self.free = set(range(workers))
        self.room: dict[int, simpy.Event] = {}  # that a worker waits for
        self.kept: dict[Request, tuple[int, Request, int]] = {}  # where its prompt is: worker, the request as that has it, pages

    def fits(self, request: Request) -> bool:
        """Can a worker ever hold it?"""
        most = request.spec.prompt_tokens + request.spec.output_tokens
        return not self.caches or self.of.kv_pages is None or self.caches[0].pages(most) <= self.of.kv_pages

    def compute(self, request: Request) -> Generator[simpy.Event, Any, None]:
        """A free worker processes a prompt: what of it is not in its cache."""
        cached = min(request.spec.cached_prompt_tokens, request.to_prefill - 1) if not request.preemptions else 0
        worker = -1
        if self.caches:
            worker = max(self.free, key=lambda number: (self.caches[number].matched(request), -number))
            self.free.remove(worker)
            job, pages = copy(request), self.caches[worker].pages(request.context_tokens)
            while not self.caches[worker].admit(job, pages):
                self.room[worker] = self.env.event()
                yield self.room[worker]
            self.kept[request] = worker, job, pages
            cached, request.withheld_tokens = job.cached_tokens, job.withheld_tokens
        if request.hit_tokens < 0:
            request.hit_tokens = cached
        start_s, tokens = self.env.now, request.to_prefill - cached
        yield self.env.timeout(self.of.prices.prefill_s(tokens, cached + tokens / 2))
        self.done.append((Outside.PROMPT, start_s, self.env.now, tokens))
        if worker >= 0:
            self.free.add(worker)
            if request in self.kept:  # or its user has left meanwhile
                self.caches[worker].computed(job, request.context_tokens)

    def fetch(self, request: Request, tokens: int, bytes_per_token: float) -> Generator[simpy.Event, Any, None]:
        """The keys and values of so many tokens move to a replica."""
        start_s, size_bytes = self.env.now, tokens * bytes_per_token
        yield self.env.timeout(self.latency_s)
        if self.link is not None and size_bytes:
            yield self.link.send(size_bytes)
        self.done.append((Outside.MOVE, start_s, self.env.now, size_bytes))
        self.leave(request)

    def leave(self, request: Request) -> None:
        """Its prompt is not needed here any more, except by others that begin alike."""
        if request in self.kept:
            worker, job, pages = self.kept.pop(request)
            self.caches[worker].leave(job, pages)
            if worker in self.room:
                self.room.pop(worker).succeed()

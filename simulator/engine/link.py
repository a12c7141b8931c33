"""A link that all transfers under way share alike (egalitarian processor sharing)."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count

import simpy

from simulator.engine.clock import Clock


class Link:
    """`bytes_s` bytes per second: n transfers get bytes_s / n each. `share` is what one that is under way all the while has got by now, in bytes."""

    def __init__(self, env: Clock, bytes_s: float) -> None:
        self.env, self.bytes_s = env, bytes_s
        self.ends: list[tuple[float, int, simpy.Event]] = []  # heap: the share at which each is done
        self.share, self.since_s, self.plans, self.order = 0.0, 0.0, 0, count()

    def send(self, size_bytes: float) -> simpy.Event:
        """Something begins to move; the event of its arrival."""
        self._catch_up()
        there = self.env.event()
        heappush(self.ends, (self.share + size_bytes, next(self.order), there))
        self._plan()
        return there

    def _catch_up(self) -> None:
        if self.ends:
            self.share += (self.env.now - self.since_s) * self.bytes_s / len(self.ends)
        else:
            self.share = 0.0
        self.since_s = self.env.now

    def _plan(self) -> None:
        """The next one arrives, unless others begin before it does."""
        self.plans += 1
        if self.ends:
            plan = self.plans
            due = self.env.timeout(max(self.ends[0][0] - self.share, 0.0) * len(self.ends) / self.bytes_s)
            assert due.callbacks is not None
            due.callbacks.append(lambda _: self._arrive(plan))

    def _arrive(self, plan: int) -> None:
        if plan != self.plans:
            return
        self._catch_up()
        self.share = self.ends[0][0]  # as planned, whatever floats have made of it
        while self.ends and self.ends[0][0] <= self.share:
            heappop(self.ends)[2].succeed()
        self._plan()

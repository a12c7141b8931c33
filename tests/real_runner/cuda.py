"""A stand-in for the part of torch.cuda that captures and times: it notes the order of what is asked, and graphs really replay."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch


class Fake:
    """`log` holds what was asked; `device_s` is the clock that events read. Patches torch.cuda until the test is over."""

    def __init__(self, monkeypatch):
        self.log, self.device_s, self.pools, self.capturing, self.fail = [], 0.0, [], False, None
        self.main, self.made = SimpleNamespace(name="main"), 0
        self.main.wait_stream = lambda other: self.log.append(f"main waits for {other.name}")
        self.now = self.main
        for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph", "Event"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def Stream(self):
        self.made += 1
        side = SimpleNamespace(name=f"side {self.made}")
        side.wait_stream = lambda other: self.log.append(f"{side.name} waits for {other.name}")
        return side

    def current_stream(self):
        return self.now

    @contextmanager
    def stream(self, stream):
        self.log.append(f"on {stream.name}")
        before, self.now = self.now, stream
        yield
        self.now = before

    def CUDAGraph(self):
        graph = SimpleNamespace(steps=[])
        graph.pool = lambda: ("pool of", id(graph))
        graph.replay = lambda: (self.log.append("replay"), [step() for step in graph.steps])
        return graph

    @contextmanager
    def graph(self, graph, pool=None):
        self.log.append("capture")
        self.pools.append(pool)
        self.capturing = True
        try:
            yield
            if self.fail is not None:
                raise self.fail
        finally:
            self.capturing = False
            self.log.append("captured")

    def Event(self, enable_timing):
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda: setattr(event, "at", self.device_s)
        event.elapsed_time = lambda other: 1000 * (other.at - event.at)
        return event

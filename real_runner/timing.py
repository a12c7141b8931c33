"""Times of the parts of a round: device events on CUDA, read when the host waits anyway; the monotonic clock elsewhere."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Marks the ends of named parts; `read` gives seconds per name since the last read."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> None:
        """What ran since the mark before was `name`; the empty name is nobody's."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def read(self) -> dict[str, float]:
        """Seconds per name. On CUDA the marked work must be over: call it after a synchronising copy."""
        spent: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            seconds = before.elapsed_time(after) / 1000 if self._cuda else after - before
            if name:
                spent[name] = spent.get(name, 0.0) + seconds
        self._marks.clear()
        return spent

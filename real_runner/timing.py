"""Times of the parts of a round: device events on CUDA, read when the host waits anyway; the monotonic clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

MOST = 500  # repeats of a cell


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


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of repeats, seconds."""

    p10_s: float
    p25_s: float
    p50_s: float
    p75_s: float
    p90_s: float
    n: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Quantiles:
        return cls(*np.quantile(seconds, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist(), len(seconds))

    @property
    def relative(self) -> float:
        """Interquartile range ÷ median."""
        return (self.p75_s - self.p25_s) / self.p50_s if self.p50_s > 0 else 0.0


def repeated(once: Callable[[], float], budget_s: float, settle_s: float, *, steady: float = 0.03, least: int = 5, enough: int = 10) -> Quantiles:
    """Repeats of `once` (which gives seconds) until the interquartile range is within `steady` of the median, `enough` times at least, or until
    `budget_s` are spent and there are `least` of them; ten budgets are never passed. Warmed up for `settle_s` and two calls before."""
    begun, calls = time.monotonic(), 0
    while calls < 2 or time.monotonic() - begun < settle_s:
        once()
        calls += 1
    begun, seconds = time.monotonic(), [once()]
    while True:
        spent = time.monotonic() - begun
        over = spent >= budget_s and len(seconds) >= least
        if over or spent >= 10 * budget_s or len(seconds) >= MOST:
            return Quantiles.of(seconds)
        if len(seconds) >= enough and Quantiles.of(seconds).relative <= steady:
            return Quantiles.of(seconds)
        seconds.append(once())

"""Recorded traffic as a scenario names it: which file, how to read it, and which part of it to play."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import model_validator

from simulator.arrays import Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_REQUESTS, Flag, PageTokens, Seconds, Within
from simulator.traffic.gathering import Wanted
from simulator.traffic.public import PublicSource
from simulator.traffic.recording import Recording, recorded, spoken
from simulator.traffic.request import RequestColumns
from simulator.traffic.trace_files import trace_file
from simulator.traffic.trace_forms import Columns, Format, Unit, layout

_MOST_WINDOWS = 8  # of a file that are kept in memory
PrefixCache = Literal["none", "infinite", "simulated"]


class TraceSource(PublicSource):
    """A recorded trace: a `path` (relative to the scenario file, else to the working folder), or the `name` of a public trace. The path wins.

    `unit` is that of the arrivals and `columns` has the file's names where it follows no form that dsim knows. `drop_empty_rows` leaves out requests
    without prompt or output tokens. `prefix_cache: infinite` counts as cached the leading blocks of hash_ids of any earlier request, of
    `block_tokens` tokens each. `window_s` keeps the arrivals in [start, end) of the trace; what a prefix cache holds from before the window
    counts. `prefix_cache: simulated` leaves that to `engine.prefix_cache`, which plays hash_ids against its memory. `repeat` plays them that
    many times in a row: a round is as long as the window, that of a whole file ends its mean gap after the last arrival.
    """

    key: ClassVar = "trace"

    format: Format = "auto"
    unit: Unit | None = None
    columns: Columns = Columns()
    drop_empty_rows: Flag = False
    block_tokens: PageTokens | None = None
    window_s: tuple[Seconds, Seconds] | None = None
    prefix_cache: PrefixCache = "none"
    repeat: Annotated[int, Within(1, 1_000_000, "times")] = 1

    @model_validator(mode="after")
    def _window_is_valid(self) -> Self:
        if self.window_s and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s must end after it starts, but is {list(self.window_s)}")
        return self

    def load(self, folder: Path) -> RequestColumns:
        """The trace, or the window of it, read once per process and file. `folder` is the scenario file's."""
        recording = self.recording(folder)
        trace = recording.requests
        if self.window_s:
            if not len(trace):
                remedy = f"its arrivals span 0 to {recording.last_s:.6g} s"
                raise TraceError(
                    f"no request arrives in {list(self.window_s)}", where=self.find(folder), key="workload.trace.window_s", remedy=remedy
                )
            trace = replace(trace, arrival_s=trace.arrival_s - self.window_s[0])
        if len(trace) * self.repeat > MOST_REQUESTS:
            problem = f"{len(trace):,} requests {self.repeat:,} times over are {len(trace) * self.repeat:,}, expected at most {MOST_REQUESTS:,}"
            raise TraceError(problem, where=self.find(folder), key="workload.trace.repeat", remedy="lower it")
        if self.repeat == 1:
            return trace
        whole_window = self.window_s is not None and recording.last_s >= self.window_s[1]
        period_s = self.window_s[1] - self.window_s[0] if self.window_s and whole_window else _period_s(trace)
        return _repeated(trace, recording.again_cached_tokens, self.repeat, period_s)

    def recording(self, folder: Path) -> Recording:
        """What the window plays of the trace, and how all of it was read, once per process and file."""
        path = self.find(folder)
        try:
            stat = path.stat()
        except (OSError, ValueError) as problem:
            raise TraceError(f"cannot be read ({problem})", where=path, remedy="check the path") from None
        version = stat.st_mtime_ns, stat.st_size
        kept = _kept(path, self.model_copy(update={"window_s": None, "repeat": 1}), version)
        if self.window_s not in kept:
            if len(kept) >= _MOST_WINDOWS:
                kept.clear()
            kept[self.window_s] = _within(kept[None], self.window_s) if None in kept else self._read(path)
        return kept[self.window_s]

    def _read(self, path: Path) -> Recording:
        file = trace_file(path)
        while True:
            chosen = layout(file, self.format, self.columns)
            wanted = Wanted(chosen, self.unit, self.drop_empty_rows, self.prefix_cache != "none", self.window_s)
            recording = recorded(file, wanted, self.block_tokens, self.prefix_cache == "simulated")
            if not file.more_names:
                return recording
            file = replace(file, names=(*file.names, *file.more_names))  # later rows of JSON have keys that may change the layout

    def words(self, folder: Path) -> str:
        """What was read and what is played of it, in one line."""
        recording = self.recording(folder)
        if not self.window_s and self.repeat == 1:
            return recording.words
        played = self.load(folder)
        return f"{recording.words}; played: {spoken(len(played), float(played.arrival_s[-1] - played.arrival_s[0]))}"

    def find(self, folder: Path) -> Path:
        """The file of the trace."""
        if self.path is not None:
            beside, from_here = (folder / self.path.expanduser()).resolve(), self.path.expanduser().resolve()
            if not beside.exists() and not from_here.exists():
                raise TraceError("no such file", where=beside, remedy="pass --set workload.trace.path=FILE")
            return beside if beside.exists() else from_here
        return self.cached()


def _period_s(trace: RequestColumns) -> float:
    """From a trace's start to its next round: its mean gap after the last arrival."""
    n = len(trace)
    return float(trace.arrival_s[-1] * (n / (n - 1))) if n > 1 else 1.0


def _repeated(trace: RequestColumns, again_cached_tokens: Integers, times: int, period_s: float) -> RequestColumns:
    """A trace `times` times in a row, a round every `period_s`; after the first all prompts have been seen."""
    n = len(trace)
    arrival_s = (np.arange(times)[:, None] * period_s + trace.arrival_s).ravel()
    cached = np.concatenate([trace.cached_prompt_tokens, np.tile(again_cached_tokens, times - 1)])
    return replace(trace[np.tile(np.arange(n), times)], arrival_s=arrival_s, cached_prompt_tokens=cached)


def _within(whole: Recording, window_s: tuple[float, float] | None) -> Recording:
    """The recording of a window of a trace that has been read."""
    assert window_s is not None
    first, end = np.searchsorted(whole.requests.arrival_s, window_s)
    return replace(whole, requests=whole.requests[first:end], again_cached_tokens=whole.again_cached_tokens[first:end])


@lru_cache(maxsize=8)
def _kept(path: Path, source: TraceSource, version: tuple[int, int]) -> dict[tuple[float, float] | None, Recording]:
    """What has been read of a file, by window; of None, all of it."""
    return {}

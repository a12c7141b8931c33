"""Recorded traffic as a scenario names it: which file, how to read it, and which part of it to play."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from simulator.errors import TraceError
from simulator.traffic.public import PublicSource
from simulator.traffic.recording import Recording, recorded, spoken
from simulator.traffic.request import RequestColumns
from simulator.traffic.trace_files import read_table
from simulator.traffic.trace_forms import Columns, Format, Unit, layout

PrefixCache = Literal["none", "infinite"]
NonNegative = Annotated[float, Field(ge=0)]


class TraceSource(PublicSource):
    """A recorded trace: a `path` (relative to the scenario file, else to the working folder), or the `name` of a public trace. The path wins.

    `unit` is that of the arrivals and `columns` has the file's names where it follows no form that dsim knows. `drop_empty_rows` leaves out requests
    without prompt or output tokens. `prefix_cache: infinite` counts as cached the leading blocks of hash_ids of any earlier request, of
    `block_tokens` tokens each. `window_s` keeps the arrivals in [start, end) of the trace; what a prefix cache holds from before the window
    counts. `repeat` plays them that many times in a row.
    """

    key: ClassVar = "trace"

    format: Format = "auto"
    unit: Unit | None = None
    columns: Columns = Columns()
    drop_empty_rows: bool = False
    block_tokens: PositiveInt | None = None
    window_s: tuple[NonNegative, NonNegative] | None = None
    prefix_cache: PrefixCache = "none"
    repeat: PositiveInt = 1

    @model_validator(mode="after")
    def _window_is_valid(self) -> Self:
        if self.window_s and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s must end after it starts, but is {list(self.window_s)}")
        return self

    def load(self, folder: Path) -> RequestColumns:
        """The trace, read once per process and file. `folder` is the scenario file's."""
        trace = self.recording(folder).requests
        if self.window_s:
            first, end = np.searchsorted(trace.arrival_s, self.window_s)
            if first == end:
                remedy = f"its arrivals span 0 to {trace.arrival_s[-1]:.6g} s"
                raise TraceError(
                    f"no request arrives in {list(self.window_s)}", where=self.find(folder), key="workload.trace.window_s", remedy=remedy
                )
            trace = replace(trace[first:end], arrival_s=trace.arrival_s[first:end] - self.window_s[0])
        return _repeated(trace, self.repeat) if self.repeat > 1 else trace

    def recording(self, folder: Path) -> Recording:
        """The whole trace and how it was read, once per process and file."""
        path = self.find(folder)
        stat = path.stat()
        asked = self.model_copy(update={"window_s": None, "repeat": 1})
        return _read_once(path, asked, (stat.st_mtime_ns, stat.st_size))

    def words(self, folder: Path) -> str:
        """What was read and what is played of it, in one line."""
        recording = self.recording(folder)
        if not self.window_s and self.repeat == 1:
            return recording.words
        return f"{recording.words}; played: {spoken(self.load(folder).arrival_s)}"

    def find(self, folder: Path) -> Path:
        """The file of the trace."""
        if self.path is not None:
            beside, from_here = (folder / self.path.expanduser()).resolve(), self.path.expanduser().resolve()
            if not beside.exists() and not from_here.exists():
                raise TraceError("no such file", where=beside, remedy="pass --set workload.trace.path=FILE")
            return beside if beside.exists() else from_here
        return self.cached()


def _repeated(trace: RequestColumns, times: int) -> RequestColumns:
    """A trace `times` times in a row, its mean gap between the last arrival and the first of the next round."""
    n = len(trace)
    period_s = trace.arrival_s[-1] * (n / (n - 1)) if n > 1 else 1.0
    return replace(trace[np.tile(np.arange(n), times)], arrival_s=(np.arange(times)[:, None] * period_s + trace.arrival_s).ravel())


@lru_cache(maxsize=8)
def _read_once(path: Path, source: TraceSource, version: tuple[int, int]) -> Recording:
    table = read_table(path)
    return recorded(
        table,
        layout(table, source.format, source.columns),
        unit=source.unit,
        block_tokens=source.block_tokens,
        drop_empty_rows=source.drop_empty_rows,
        cached=source.prefix_cache == "infinite",
    )

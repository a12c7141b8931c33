"""The rows of a trace as they are read, some thousands at a time: what is kept of them, and what must be known of all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_REQUESTS
from simulator.traffic.prefix_blocks import hash_lists
from simulator.traffic.trace_files import TraceFile
from simulator.traffic.trace_forms import AZURE, PER_SECOND, Layout, Unit
from simulator.traffic.trace_tables import Table

_EPOCH_S = (1e9, 4e9)  # Unix times of 2001 to 2096
_KEPT = ("row", "time", "prompt", "output", "cached", "domain")


@dataclass(frozen=True)
class Wanted:
    """What to read of a file: its columns, the unit of arrivals where one is configured, and the window in seconds of which rows are kept."""

    layout: Layout
    unit: Unit | None
    drop_empty_rows: bool
    cached: bool
    window_s: tuple[float, float] | None = None

    @property
    def columns(self) -> dict[str, str]:
        """The file's columns to read, by our names."""
        return {ours: name for ours, name in self.layout.columns.items() if ours != "hash_ids" or self.cached}


@dataclass(frozen=True)
class Clock:
    """How times become seconds: their unit, or None for date-times in nanoseconds, and the first of all."""

    unit: Unit | None
    origin: float

    def seconds(self, time: NDArray[Any]) -> Floats:
        """Seconds from the first date-time, else as the file counts them. # [n] -> [n]"""
        return np.asarray((time - int(self.origin)) / 1e9 if self.unit is None else time / PER_SECOND[self.unit])

    @property
    def origin_s(self) -> float:
        """The first of all `seconds`."""
        return 0.0 if self.unit is None else self.origin / PER_SECOND[self.unit]


@dataclass(frozen=True)
class Extreme:
    """A time, the cell that has it, and where that is."""

    time: float
    cell: str
    where: str


@dataclass
class Gathering:
    """What has been read so far. `clock` is that of the window: right at the end if the first rows have the first arrival, else read again with it.

    `rows` are those with tokens, `kept` those that the window wants;
    `low` and `high` are the first and last times. `parts` are the columns that are kept, `blocks` has the number of
    hash_ids of every row with its prompt's tokens.
    """

    wanted: Wanted
    clock: Clock | None = None
    stamped: bool | None = None  # are arrivals date-times?
    zoned: bool | None = None
    all_rows: int = 0
    rows: int = 0
    kept: int = 0
    first_empty: tuple[str, str] = ("", "")  # its place and column
    first_cells: str = ""
    low: Extreme | None = None
    high: Extreme | None = None
    sum_times: float = 0.0
    fraction: Extreme | None = None  # the first time that is not a whole number
    longest_tokens: int = 0
    domains: dict[str, int] = field(default_factory=dict)
    parts: list[tuple[NDArray[Any], ...]] = field(default_factory=list)
    blocks: list[tuple[Integers, Integers, Integers]] = field(default_factory=list)  # row of the file, blocks, tokens of the prompt
    ids: list[tuple[Integers, Integers]] = field(default_factory=list)  # of rows that are kept: their number in each row, and all of them

    def add(self, table: Table) -> None:
        """Check some rows and keep what is wanted of them. Raises TraceError."""
        columns, first = self.wanted.columns, self.all_rows
        self.all_rows += len(table.frame)
        prompt, output = (table.whole(columns[name], least=0) for name in ("prompt_tokens", "output_tokens"))
        has = (prompt > 0) & (output > 0)
        if not has.all():
            if not self.first_empty[0]:
                empty = int(np.argmin(has))
                self.first_empty = table.where(empty), columns["prompt_tokens" if prompt[empty] == 0 else "output_tokens"]
            table, prompt, output = table.without(~has), prompt[has], output[has]
            if not len(prompt):
                return
        time = self._times(table, columns["arrival_s"])
        self.longest_tokens = max(self.longest_tokens, int((prompt + output).max()))
        cached, domain = np.zeros_like(prompt), np.zeros_like(prompt)
        if "cached_prompt_tokens" in columns:
            name = columns["cached_prompt_tokens"]
            cached = table.whole(name, least=0)
            table.refuse(cached >= prompt, name, "must be below prompt_tokens", "the last prompt token is never cached")
        if "domain" in columns:
            domain = table.texts(columns["domain"], self.domains)
        keep = self._keep(time)
        if self.wanted.cached:
            counts, ids = hash_lists(table, columns["hash_ids"])
            self.blocks.append((np.flatnonzero(has) + first, counts, prompt))
            self.ids.append((counts[keep], ids[np.repeat(keep, counts)]))
        kept: tuple[NDArray[Any], ...] = (np.arange(self.rows, self.rows + len(time)), time, prompt, output, cached, domain)
        self.rows += len(time)
        self.kept += int(keep.sum())
        if self.kept > MOST_REQUESTS:
            remedy = "play a part of it: write workload.trace.window_s"
            raise TraceError(f"has more than {MOST_REQUESTS:,} requests", where=table.path, key="workload.trace", remedy=remedy)
        if keep.any():
            self.parts.append(kept if keep.all() else tuple(column[keep] for column in kept))

    def _times(self, table: Table, column: str) -> NDArray[Any]:
        """Arrivals as the file has them: numbers, or date-times in nanoseconds. # [n]"""
        if self.stamped is None:
            self.stamped = table.has_stamps(column) or (self.wanted.layout.form is AZURE and self.wanted.unit is None)
            self.first_cells = ", ".join(f"{cell}"[:40] for cell in table.frame[column].head(3))
            if self.stamped and self.wanted.unit is not None:
                problem = f"'{column}' holds date-times, which have no unit"
                raise TraceError(problem, where=table.path, key="workload.trace.unit", remedy="drop it")
        time: NDArray[Any]
        if self.stamped:
            time, self.zoned = table.stamps_ns(column, self.zoned)
        else:
            time = table.numbers(column, least=0, expected="a number or a date-time such as 2024-05-12 00:00:01.5")
        if self.fraction is None and not self.stamped and (broken := time != np.rint(time)).any():
            self.fraction = _extreme(table, column, time, int(np.argmax(broken)))
        low, high = int(time.argmin()), int(time.argmax())
        if self.low is None or time[low] < self.low.time:
            self.low = _extreme(table, column, time, low)
        if self.high is None or time[high] > self.high.time:
            self.high = _extreme(table, column, time, high)
        self.sum_times += float(time.sum(dtype=np.float64))
        return time

    def _keep(self, time: NDArray[Any]) -> Flags:
        """The rows that the window wants; before it too where a prefix cache has seen them."""
        if self.wanted.window_s is None:
            return np.ones(len(time), dtype=bool)
        self.clock = self.clock or self.right_clock
        arrival_s = self.clock.seconds(time) - self.clock.origin_s
        before = arrival_s < self.wanted.window_s[1]
        return before if self.wanted.cached else before & (arrival_s >= self.wanted.window_s[0])

    @property
    def unit(self) -> Unit | None:
        """The unit of arrivals as configured, as the file's form or names have it, or as Unix times of this century show it."""
        return self.wanted.unit or self.wanted.layout.unit or self.unix_unit

    @property
    def unix_unit(self) -> Unit | None:
        """The unit in which all times are Unix times of this century, if any."""
        assert self.low is not None
        assert self.high is not None
        return unix_unit(self.low.time, self.high.time)

    @property
    def right_clock(self) -> Clock:
        """The clock of what has been read so far."""
        assert self.low is not None
        return Clock(None if self.stamped else self.unit or "s", self.low.time)

    def columns(self) -> list[NDArray[Any]]:
        """Row, time, prompt, output, cached and domain of what is kept. # [n] each"""
        return [np.concatenate(column) for column in zip(*self.parts, strict=True)] if self.parts else [np.zeros(0, dtype=np.int64)] * len(_KEPT)


def _extreme(table: Table, column: str, time: NDArray[Any], row: int) -> Extreme:
    return Extreme(time[row].item(), f"{table.frame[column].iloc[row]}"[:40], table.where(row))


def unix_unit(low: float, high: float) -> Unit | None:
    """The unit in which both are Unix times of this century, if any."""
    return next((unit for unit, per in PER_SECOND.items() if _EPOCH_S[0] <= low / per and high / per <= _EPOCH_S[1]), None)


def gathered(file: TraceFile, wanted: Wanted, clock: Clock | None = None) -> Gathering:
    """All of a file, read once. Raises TraceError for the first row that does not fit."""
    sessions = [name for name in ("delay", "session_id") if file.json and name in file.names]
    result = Gathering(wanted, clock)
    for table in file.tables(dict.fromkeys([*wanted.columns.values(), *sessions])):
        _refuse_sessions(table, wanted.columns["arrival_s"])
        result.add(table)
    return result


def _refuse_sessions(table: Table, arrival: str) -> None:
    """Raise TraceError where a request waits for the answer before it in its session: then the file does not say when it comes."""
    bad = np.zeros(len(table.frame), dtype=bool)
    for name in {"delay", "session_id"} & set(table.frame.columns) if table.json else ():
        bad |= table.frame[name].notna().to_numpy(dtype=bool) & (name == "delay" or table.frame[arrival].isna().to_numpy(dtype=bool))
    if bad.any():
        remedy = "play the file as sessions, with workload.sessions.recorded instead of workload.trace, or give every request its own arrival"
        problem = "the turns of a session wait for the answer before them"
        raise TraceError(problem, where=table.where(int(np.argmax(bad))), key="session_id", remedy=remedy)

"""The rows of a file of sessions as columns: names, times and tokens as they stand in it, and as sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_REQUESTS, TokensPerSecond
from simulator.traffic.prefix_blocks import hash_lists
from simulator.traffic.session_forms import SessionForm
from simulator.traffic.trace_files import TraceFile
from simulator.traffic.trace_forms import PER_SECOND, Unit
from simulator.traffic.trace_tables import Table

KEY = "workload.sessions.recorded"
Deviation = Literal["orphans", "overlaps", "shorter", "empty"]
_COUNTS = ("turn", "call")
_NUMBERS = (*_COUNTS, "arrival_s", "end_s", "pause_s")
_IDS = ("session", "request", "parent", "joins")
_EXACT = 2.0**53
_LARGEST = 4e18  # nanoseconds since 1970 of the year 2096


@dataclass(frozen=True)
class Reading:
    """How to read a file: its form, the unit of its times, tokens per second of answers whose end it does not have, deviations that are accepted,
    whether its hash_ids count, the tokens of their blocks, and what pauses that it does not say are drawn from, in words."""

    form: SessionForm
    unit: Unit
    answers_tps: TokensPerSecond | None = None
    accept: frozenset[Deviation] = frozenset()
    hash_ids: bool = True
    block_tokens: int | None = None
    drawn: str = ""


@dataclass
class Rows:
    """The columns of a file, by our names; numbers that a row lacks are NaN, names None. # [n] each; `ids` of all rows in turn # [m]"""

    file: TraceFile
    columns: Mapping[str, str]
    numbers: dict[str, Floats]
    tokens: dict[str, Integers]
    names: dict[str, list[str | None]]
    blocks: Integers | None = None
    ids: Integers | None = None

    def error(self, row: int, ours: str, problem: str, remedy: str = "fix or drop the row") -> TraceError:
        """The error about a row."""
        return TraceError(problem, where=self.file.where(row), key=self.columns.get(ours, ours), remedy=remedy)

    def __len__(self) -> int:
        return len(self.tokens["output_tokens"])


@dataclass(frozen=True)
class Recorded:
    """The sessions of a file as columns, those of session s being rows at[s] : at[s + 1], a turn before those that follow it. # [n] each

    `starts_s` # [S] are when sessions begin, from the first, None where the file does not say. Of each row: tokens, seconds after the answers that it
    waits for (NaN where they are drawn), its number of turns before, whether it is a call of an agent, how many rows it `waits` for, and the `count`
    rows from number `then` of the session on that wait for it. Prompts are known by up to three `texts`, numbers of the rows that began them, -1 for
    none, of which all but the last end at `until` # [n, 3], [n, 2]; or in files with hash_ids by ids[first : first + blocks], of `hashed_tokens`
    each, up to `told` tokens. `shared` # [K] ids are in several sessions.
    """

    at: Integers
    starts_s: Floats | None
    prompt_tokens: Integers
    output_tokens: Integers
    pause_s: Floats
    turn: Integers
    call: Integers
    waits: Integers
    then: Integers
    count: Integers
    said_tokens: Integers
    texts: Integers
    until: Integers
    form: str  # how the file writes them
    forks: str  # the first place where several turns follow one, if any
    notes: tuple[str, ...]
    hashed_tokens: int = 0
    ids: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    blocks: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    told: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    shared: Flags = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __len__(self) -> int:
        return len(self.at) - 1


def read_rows(file: TraceFile, reading: Reading) -> Rows:
    """All rows. Raises TraceError for the first cell that is no number, no number of tokens or no name."""
    columns = {ours: name for ours, name in reading.form.columns.items() if name in file.names and (ours != "hash_ids" or reading.hash_ids)}
    parts: dict[str, list[Any]] = {ours: [] for ours in columns}
    counts: list[Integers] = []
    n = 0
    for table in file.tables(dict.fromkeys(columns.values())):
        n += len(table.frame)
        if n > MOST_REQUESTS:
            raise TraceError(f"has more than {MOST_REQUESTS:,} requests", where=file.path, key=KEY, remedy="drop some sessions")
        for ours, name in columns.items():
            if ours in _NUMBERS:
                parts[ours].append(_numbers(table, name) / (1.0 if ours in _COUNTS else PER_SECOND[reading.unit]))
            elif ours in _IDS:
                parts[ours] += _names(table, name)
            elif ours == "hash_ids":
                count, ids = hash_lists(table, name)
                counts.append(count)
                parts[ours].append(ids)
            else:
                parts[ours].append(table.whole(name, least=0))
    whole: dict[str, Any] = {ours: part if ours in _IDS else np.concatenate(part) for ours, part in parts.items()}
    numbers, names = ({ours: whole[ours] for ours in kind if ours in whole} for kind in (_NUMBERS, _IDS))
    tokens = {ours: column for ours, column in whole.items() if ours.endswith("_tokens")}
    return Rows(file, columns, numbers, tokens, names, np.concatenate(counts) if counts else None, whole.get("hash_ids"))


def _numbers(table: Table, column: str) -> Floats:
    """A column of numbers, NaN where a row has none. # [n]"""
    missing = table.frame[column].isna().to_numpy(dtype=bool)
    values = np.full(len(missing), np.nan)
    if not missing.all():
        values[~missing] = table.without(missing).numbers(column, least=-_LARGEST, most=_LARGEST)
    return values


def _names(table: Table, column: str) -> list[str | None]:
    """A column of names, None where a row has none, -1 or nothing. Raises TraceError for what is neither a text nor a whole number."""
    cells = table.frame[column]
    if table.block is not None and cells.dtype.kind in "iuf":  # 01 is not 1
        cells = table.block.frame([column], as_written=True)[column].loc[cells.index]
    missing = cells.isna().to_numpy(dtype=bool)
    found = [None if gone else _name(cell) for cell, gone in zip(cells.tolist(), missing, strict=True)]
    table.refuse(np.array([name == "" for name in found], dtype=bool), column, "not a name")
    return [None if name == "-1" else name for name in found]


def _name(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() and abs(cell) < _EXACT else ""
    return str(cell).strip() if isinstance(cell, str | int) and not isinstance(cell, bool) else ""

"""Sessions that were recorded: which file, how it is read, and its sessions by number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import Flag, PageTokens, TokensPerSecond
from simulator.rng import stream, uniform_at
from simulator.schema import Beside, Distinct
from simulator.traffic.content import Hashed, Lineage
from simulator.traffic.nested_sessions import unnested
from simulator.traffic.pauses import Pause, SomePause
from simulator.traffic.public import PublicSource
from simulator.traffic.request import REQUESTS, Place, RequestSpec
from simulator.traffic.session_chains import sessions_of
from simulator.traffic.session_forms import SessionColumns, session_form
from simulator.traffic.session_rows import Deviation, Reading, Recorded, read_rows
from simulator.traffic.trace_files import trace_file, version_of
from simulator.traffic.trace_forms import Unit


class RecordedSessions(PublicSource):
    """Recorded sessions: a `path`, relative to the scenario file, or the `name` of a public trace.

    `unit` is that of times, and `columns` has the file's names where it follows no form that dsim knows. A turn is sent as long after the answer
    before it as was recorded; where the file has no ends of answers, they are taken to come at `answers_tps` tokens per second, or what it does not
    say of pauses is drawn from `think_s`. What contradicts itself is refused unless `accept` has it: `orphans` (turns whose parent is missing begin a
    session), `overlaps` (turns that came before the answer to their parent had ended follow at once), `shorter` (prompts shorter than what the
    session holds are new text), `empty` (prompts and answers without a token count 1). `hash_ids: false` goes by lengths alone; blocks have
    `block_tokens` each.
    """

    key: ClassVar = "trace"
    place: ClassVar = "workload.sessions.recorded"

    path: Annotated[Path, Beside] | None = None
    unit: Unit | None = None
    columns: SessionColumns = SessionColumns()
    answers_tps: TokensPerSecond | None = None
    think_s: SomePause = None
    accept: Annotated[tuple[Deviation, ...], Distinct] = ()
    hash_ids: Flag = True
    block_tokens: PageTokens | None = None

    @property
    def file(self) -> Path:
        """The file. Raises TraceError where it is not there."""
        if self.path is None:
            return self.cached()
        if not self.path.exists():
            raise TraceError("no such file", where=self.path, key=self.place, remedy="check the path")
        return self.path

    @property
    def sessions(self) -> Recorded:
        """What is in the file, read once per process. Raises TraceError."""
        return _read(self.file, self, version_of(self.file))

    @property
    def pauses_s(self) -> float:
        """Seconds of all pauses between turns together, once drawn where they are."""
        whole = RecordedSource(self.sessions, 0, 0, True, think_s=self.think_s)
        return float(whole.drawn(0, len(self.sessions))[1]["pause_s"].sum())

    @property
    def words(self) -> str:
        """What was read, in one line."""
        found = self.sessions
        span = "" if found.starts_s is None else f" that begin over {found.starts_s[-1]:,.4g} s"
        waits = found.waits > 0
        pause = f"{self.pauses_s / waits.sum():,.3g} s between turns" if waits.any() else "one turn each"
        hashed = f"prefix blocks of {found.hashed_tokens:,} tokens" if found.hashed_tokens else "prompts known by their lengths"
        count = f"{len(found):,} sessions of {len(found.turn) / len(found):.3g} requests{span}"
        return ", ".join((count, found.form, pause, hashed, *found.notes))


@lru_cache(maxsize=4)
def _read(path: Path, source: RecordedSessions, version: tuple[int, int]) -> Recorded:
    file, nested = unnested(trace_file(path))
    if nested and source.unit not in (None, "s"):
        raise TraceError(f"times of {nested.title} say their unit themselves", where=path, key=f"{source.place}.unit", remedy="drop it")
    while True:
        form = session_form(file, source.columns)
        form = replace(form, title=nested.title, block_tokens=nested.block_tokens) if nested else form
        unit = source.unit or ("s" if source.columns != SessionColumns() else form.unit)
        drawn = source.think_s.words if source.think_s else ""
        reading = Reading(form, unit, source.answers_tps, frozenset(source.accept), source.hash_ids, source.block_tokens, drawn)
        rows = read_rows(file, reading)
        if not file.more_names:
            return sessions_of(rows, reading)
        file = replace(file, names=(*file.names, *file.more_names))  # later rows of JSON have keys that may change the form


@dataclass(frozen=True, slots=True)
class RecordedSource:
    """The sessions of a file by number: `in_order`, else every one once in an order drawn anew for each round, with texts of its own but for those
    that several sessions of the file have. Pauses that it does not have are of `think_s`."""

    recorded: Recorded
    seed: int
    replication: int
    in_order: bool
    domain_names: tuple[str, ...] = ("",)
    domains: Callable[[Integers], Integers] = np.zeros_like
    think_s: Pause = None
    _orders: dict[int, Integers] = field(default_factory=dict, repr=False, compare=False)

    @property
    def hashed_tokens(self) -> int:
        """Tokens of a block of recorded names; 0 where contents are lineages."""
        return self.recorded.hashed_tokens

    @property
    def most_calls(self) -> int:
        """The most requests that follow one that is done."""
        return max(int(self.recorded.count.max()), 1)

    def session(self, number: int) -> list[RequestSpec]:
        """Its requests, a turn before those that follow it. Times are those since the answers that they wait for."""
        of, (round_, place) = self.recorded, divmod(number, len(self.recorded))
        if not self.in_order:
            place = int(self._order(round_)[place])
        rows = slice(int(of.at[place]), int(of.at[place + 1]))
        domain = self.domain_names[int(self.domains(np.array([number]))[0])]
        columns = (of.turn, of.call, of.waits, of.then, of.count, of.said_tokens, of.prompt_tokens, of.output_tokens)
        names: dict[tuple[int, int], tuple[int, ...]] = {}
        specs = []
        row_of = np.arange(rows.stop - rows.start)
        pauses_s = self._pauses_s(rows.start + row_of, np.full_like(row_of, number), row_of)
        turns = zip(*(column[rows].tolist() for column in columns), pauses_s.tolist(), strict=True)
        for row, (turn, call, waits, then, count, said, prompt, output, pause_s) in enumerate(turns):
            index = number * REQUESTS + row
            at = Place(number, turn, then, count, waits, pause_s, bool(call), said)
            here = rows.start + row
            content = self._hashed(here, round_, index, names) if of.hashed_tokens else self._lineage(here, number * REQUESTS)
            specs.append(RequestSpec(index, np.nan, prompt, output, domain, 0, content, at))
        return specs

    def _rows(self, first: int, count: int) -> tuple[Integers, Integers, Integers, Integers]:
        """Where each of some sessions begins among their rows # [count + 1]; of each row, its place in the file, session and round # [n]"""
        of, numbers = self.recorded, np.arange(first, first + count)
        round_, place = np.divmod(numbers, len(of))
        if not self.in_order:
            place = np.array([self._order(int(r))[p] for r, p in zip(round_, place, strict=True)], dtype=np.int64)
        each = of.at[place + 1] - of.at[place]
        at = np.append(0, np.cumsum(each))
        rows = np.arange(at[-1]) + np.repeat(of.at[place] - at[:-1], each)
        return at, rows, np.repeat(numbers, each), np.repeat(round_, each)

    def drawn(self, first: int, count: int) -> tuple[Integers, dict[str, Integers | Floats], Integers]:
        """Sessions first, first + 1, … as columns, as SessionSource.drawn has them. # [count + 1], [n] each, [n, 5]"""
        of, (at, rows, session, _) = self.recorded, self._rows(first, count)
        row = np.arange(len(rows)) - at[session - first]
        columns: dict[str, Integers | Floats] = {
            "request": session * REQUESTS + row, "session": session, "turn": of.turn[rows], "prompt": of.prompt_tokens[rows],
            "output": of.output_tokens[rows], "domain": self.domains(session), "then": of.then[rows], "count": of.count[rows],
            "waits": of.waits[rows], "said": of.said_tokens[rows], "call": of.call[rows],
            "pause_s": self._pauses_s(rows, session, row),
        }  # fmt: skip
        contents = np.zeros((len(rows), 5), dtype=np.int64)
        texts, until, used = of.texts[rows], of.until[rows], (of.texts[rows] >= 0).sum(axis=1)
        for some in (1, 2, 3):  # texts of a row, at the end
            mine = used == some
            contents[mine, 3 - some : 3] = texts[mine, :some] + session[mine, None] * REQUESTS
            contents[mine, 6 - some :] = until[mine, : some - 1]
        return at, columns, contents

    def _pauses_s(self, rows: Integers, session: Integers, row: Integers) -> Floats:
        """Seconds before rows of the file, which are so many in so many sessions. # [n]"""
        pauses_s = self.recorded.pause_s[rows]
        if self.think_s is None:
            return pauses_s
        drawn = self.think_s.at(uniform_at(self.seed, "session think", self.replication, session, row))
        return np.where(np.isnan(pauses_s), drawn, pauses_s)

    def hashes(self, first: int, count: int, named: int) -> tuple[Integers, Integers]:
        """Ids of the prompts of some sessions, and of each row its first id (`named` come before), tokens told and answer. # [m], [n, 3]"""
        of, (at, rows, session, round_) = self.recorded, self._rows(first, count)
        key = np.stack([session, of.first[rows], of.blocks[rows], round_], axis=-1)
        kept, which = np.unique(key, axis=0, return_inverse=True)  # turns share them
        begins = np.cumsum(kept[:, 2]) - kept[:, 2]
        ids = of.ids[np.arange(int(kept[:, 2].sum())) + np.repeat(kept[:, 1] - begins, kept[:, 2])]
        ids = np.where(of.shared[ids], ids, ids + np.repeat(kept[:, 3], kept[:, 2]) * len(of.shared))
        answer = 1 + session * REQUESTS + np.arange(len(rows)) - at[session - first]
        return ids, np.stack([named + begins[which.reshape(-1)], of.told[rows], answer], axis=-1)

    def _order(self, round_: int) -> Integers:
        if round_ not in self._orders:
            self._orders[round_] = stream(self.seed, "recorded sessions", self.replication, round_).permutation(len(self.recorded))
        return self._orders[round_]

    def _lineage(self, row: int, first: int) -> Lineage:
        texts = [first + text for text in self.recorded.texts[row].tolist() if text >= 0]
        return Lineage(tuple(texts), tuple(self.recorded.until[row, : len(texts) - 1].tolist()))

    def _hashed(self, row: int, round_: int, index: int, names: dict[tuple[int, int], tuple[int, ...]]) -> Hashed:
        of = self.recorded
        key = int(of.first[row]), int(of.blocks[row])
        if key not in names:
            ids = of.ids[key[0] : key[0] + key[1]]
            names[key] = tuple(np.where(of.shared[ids], ids, ids + round_ * len(of.shared)).tolist())
        return Hashed(names[key], of.hashed_tokens, int(of.told[row]), 1 + index)


def starts_s(recorded: Recorded, speed: float, horizon_s: float) -> Floats:
    """When recorded sessions begin in [0, horizon_s) where they come `speed` times as fast. # [n]"""
    assert recorded.starts_s is not None
    times = recorded.starts_s / speed
    return times[: np.searchsorted(times, horizon_s)]

"""What a run writes down as it goes, for whoever keeps, counts or files it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from math import nan
from typing import NamedTuple, Protocol

import numpy as np

from simulator.arrays import Floats
from simulator.traffic.request import Ending, Request, RequestSpec

_BUFFERED = 4096


class StepRecord(NamedTuple):
    """One step of one replica. Times in seconds; tokens over the whole batch.

    `verified`, `accepted` count drafted tokens only; `committed` is what reached users (bonus included, cut at a request's end);
    B = requests + verified. `running` requests sit in the batch, `requests` of them decode (none in a step of prompts only).
    `waiting` is the queue when the step starts (admitted requests whose prompt gets nothing in
    this step included), `waiting_end` when it ends.
    `draft_s + verify_s + overhead_s + prefill_s` is the step's length.
    """

    replica: int
    start_s: float
    end_s: float
    requests: int
    running: int
    joined: int
    verified: int
    accepted: int
    committed: int
    draft_s: float
    verify_s: float
    overhead_s: float
    prefill_s: float
    prefill_tokens: int
    context_tokens: int
    waiting: int
    waiting_end: int


class Steps:
    """Columns of all steps of a run, in order of their end."""

    def __init__(self, records: Sequence[StepRecord] | Floats) -> None:
        table = np.asarray(records, dtype=np.float64).reshape(-1, len(StepRecord._fields))
        table = table[np.lexsort((table[:, 0], table[:, 2]))]
        self.columns: dict[str, Floats] = {name: table[:, i] for i, name in enumerate(StepRecord._fields)}

    def __getitem__(self, name: str) -> Floats:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["end_s"])


class RequestRecord(NamedTuple):
    """One request when it is done or rejected, or as it stands at the end; `made` counts requests as they came, `domain` in the run's names.
    `sent_s` is the arrival, or later where the client held it back. `said_tokens` of its prompt were said earlier in its session, and of those the
    engine withholds `withheld_tokens` from its prefix cache. `replica` is the one that it was last sent to, -1 where it is on its way to one.
    `ending` is an Ending; of one that ended otherwise, `ended_s` says when."""

    made: int
    request: int
    user: int
    turn: int
    domain: int
    measured: int
    arrival_s: float
    first_token_s: float
    finish_s: float
    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int
    emitted_tokens: int
    preemptions: int
    rejected: int
    sent_s: float
    said_tokens: int = 0
    withheld_tokens: int = 0
    replica: int = -1
    ending: int = 0
    ended_s: float = nan
    retries: int = 0


class Outside(IntEnum):
    """What is done outside replicas: a prompt on a prefill worker, or the transfer of its keys and values to a replica."""

    PROMPT = 0
    MOVE = 1


class Sink(Protocol):
    """Takes the rows of a run in the order in which things happened, some thousands at a time; rows are the sink's to keep."""

    def warm(self, start_s: float) -> None:
        """Closed loop: metrics count what ends after this; rows of before may still follow."""

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord # [n, 17]."""

    def requests(self, rows: Floats, domains: Sequence[str]) -> None:
        """Rows of RequestRecord # [n, 22]: as they finish, and last, in order of arrival, those that did not."""

    def joins(self, rows: Floats) -> None:
        """First rounds: when, seconds since the request's last token, seconds of them in no batch, on which replica # [n, 4]."""

    def waits(self, rows: Floats) -> None:
        """From when to when a request waited for a front end or a prefill worker, infinite where it still does # [n, 2]."""

    def outside(self, rows: Floats) -> None:
        """Which Outside, from when to when, tokens of the prompt that were computed or bytes that moved # [n, 4]."""


@dataclass(frozen=True)
class End:
    """How a run ended: the window that metrics are taken over, what was left, and which path ran (with the reason where it is the plain one)."""

    start_s: float
    end_s: float
    unfinished: int
    rejected: int
    preemptions: int
    kv_pages_left: int  # in use at the end, beside what running requests hold: 0 unless pages leak
    lost_tokens: int = 0  # committed by requests that then lost them with their replica, within the window
    path: str = "plain"
    why_plain: str = ""


@dataclass(frozen=True, kw_only=True)
class Run(End):
    """What happened: how it ended, steps, and requests with their stamps."""

    steps: Steps
    requests: list[Request]
    join_gaps: Floats  # [n, 4] rows of Sink.joins
    prefill_waits: Floats  # [m, 2] from when to when a request waited for a front end or a prefill worker (infinite: still does)
    outside: Floats = field(default_factory=lambda: np.empty((0, 4)))  # [k, 4] rows of Sink.outside


class Buffer:
    """A list of rows that hands itself over when it is long."""

    def __init__(self, take: Callable[[Floats], None]) -> None:
        self.take = take
        self.rows: list[Sequence[float]] = []

    def append(self, row: Sequence[float]) -> None:
        """One row more."""
        self.rows.append(row)
        if len(self.rows) >= _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Hand over what is there."""
        if self.rows:
            self.take(np.array(self.rows, dtype=np.float64))
            self.rows.clear()


class Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        widths = (len(StepRecord._fields), len(RequestRecord._fields), 4, 2, 4)
        self._parts = [[np.empty((0, width))] for width in widths]
        self._domains: Sequence[str] = ()
        self.steps, self._requests, self.joins, self.waits, self.outside = (part.append for part in self._parts)

    def warm(self, start_s: float) -> None:
        """Said again at the end."""

    def requests(self, rows: Floats, domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        self._requests(rows)
        self._domains = domains

    def run(self, end: End) -> Run:
        """The whole run, requests in the order in which they came."""
        steps, rows, joins, waits, outside = map(np.concatenate, self._parts)
        requests = [request_of(RequestRecord(*row), self._domains) for row in rows[rows[:, 0].argsort()].tolist()]
        return Run(**vars(end), steps=Steps(steps), requests=requests, join_gaps=joins, prefill_waits=waits, outside=outside)


def request_of(record: RequestRecord, domains: Sequence[str]) -> Request:
    """The request of a row."""
    numbers = (int(record.request), record.arrival_s, int(record.prompt_tokens), int(record.output_tokens))
    spec = RequestSpec(*numbers, domains[int(record.domain)], int(record.cached_prompt_tokens))
    return Request(
        spec, made=int(record.made), user=int(record.user), turn=int(record.turn), measured=bool(record.measured),
        first_token_s=record.first_token_s, finish_s=record.finish_s, emitted_tokens=int(record.emitted_tokens),
        preemptions=int(record.preemptions), rejected=bool(record.rejected), sent_s=record.sent_s, replica=int(record.replica),
        ending=Ending(int(record.ending)), ended_s=record.ended_s, retries=int(record.retries),
    )  # fmt: skip


def record_of(request: Request, domain: int) -> RequestRecord:
    """The row of a request."""
    spec = request.spec
    return RequestRecord(
        request.made, spec.index, request.user, request.turn, domain, request.measured, spec.arrival_s, request.first_token_s, request.finish_s,
        spec.prompt_tokens, spec.output_tokens, _cached(request), request.emitted_tokens, request.preemptions, request.rejected,
        request.sent_s, spec.place.said_tokens if spec.place else 0, request.withheld_tokens, request.replica,
        request.ending, request.ended_s, request.retries,
    )  # fmt: skip


def _cached(request: Request) -> int:
    """Tokens of its prompt that were in the cache: as found, where one was simulated."""
    return request.spec.cached_prompt_tokens if request.spec.content is None else max(request.hit_tokens, 0)

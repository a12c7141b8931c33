"""Sessions that are drawn: what they consist of, and a source of them, in which each is a function of seed and number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.quantities import Within
from simulator.rng import uniform_at
from simulator.schema import Frozen
from simulator.traffic.content import Lineage
from simulator.traffic.counts import Count
from simulator.traffic.lengths import Lengths
from simulator.traffic.pauses import Pause
from simulator.traffic.request import REQUESTS, Place, RequestSpec

Share = Annotated[float, Within(0, 1)]
_BATCH = 64  # sessions that are drawn at once


class SystemPrompts(Frozen):
    """Texts with which sessions begin: `count` of them, of which the k-th most popular is met in proportion to 1 ÷ k^`zipf`."""

    count: Annotated[int, Within(1, 1_000_000, "texts")] = 1
    tokens: Lengths
    zipf: Annotated[float, Within(0, 10)] = 1.0


class Tools(Frozen):
    """A `share` of the turns after the first is no user's but a tool's: its result has `new_tokens` and comes after `pause_s`."""

    share: Share
    new_tokens: Lengths
    pause_s: Pause = None


class FanOut(Frozen):
    """After a `share` of the answers an agent starts `calls` requests at once, and goes on when all are done, with their answers in its prompt.

    A call has `new_tokens` and an answer of `output_tokens`; with `context: shared` it begins with all that the session holds, with `own` with
    nothing.
    """

    share: Share
    calls: Count
    new_tokens: Lengths
    output_tokens: Lengths
    context: Literal["shared", "own"] = "shared"


class DrawnSessions(Frozen):
    """What sessions consist of that no file has: `turns` requests, each with `new_tokens` and an answer, and pauses between them."""

    turns: Count | None = None
    new_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    think_s: Pause = None
    system: SystemPrompts | None = None
    tools: Tools | None = None
    fan_out: FanOut | None = None


class Drawn(NamedTuple):
    """Requests of sessions as columns. Those of the i-th are rows `at[i]` .. `at[i + 1]` - 1: every turn, and after it what it calls."""

    at: Integers  # [sessions + 1]
    columns: dict[str, Integers | Floats]  # each [n]: what RequestSpec and Place have, `prompt` and `output` in tokens, `domain` by its place
    lineages: Integers  # [n, 5] three texts, and the tokens up to which the first two go, 0 where there is none

    def specs(self, session: int, domain_names: tuple[str, ...]) -> list[RequestSpec]:
        """One of the sessions as requests. Times are those since the requests that they wait for."""
        rows = slice(int(self.at[session]), int(self.at[session + 1]))
        names = ("request", "prompt", "output", "domain", "session", "turn", "then", "count", "waits", "pause_s", "call", "said")
        values = zip(*(self.columns[name][rows].tolist() for name in names), self.lineages[rows].tolist(), strict=True)
        return [
            RequestSpec(
                request,
                np.nan,
                prompt,
                output,
                domain_names[domain],
                0,
                _lineage(texts),
                Place(number, turn, then, count, waits, pause_s, bool(call), said),
            )
            for request, prompt, output, domain, number, turn, then, count, waits, pause_s, call, said, texts in values
        ]


def _lineage(texts: list[int]) -> Lineage:
    until = tuple(tokens for tokens in texts[3:] if tokens)
    return Lineage(tuple(texts[2 - len(until) : 3]), until)


@dataclass(frozen=True, slots=True)
class SessionSource:
    """The sessions of one replication, by number; `domains` gives the place of each one's domain in `domain_names`."""

    sessions: DrawnSessions
    seed: int
    replication: int
    domain_names: tuple[str, ...] = ("",)
    domains: Callable[[Integers], Integers] = np.zeros_like
    _batches: dict[int, list[list[RequestSpec]]] = field(default_factory=dict, repr=False, compare=False)
    hashed_tokens: ClassVar[int] = 0  # contents are lineages

    @property
    def most_calls(self) -> int:
        """The most requests that follow one that is done."""
        return 1 if self.sessions.fan_out is None else self.sessions.fan_out.calls.largest

    def session(self, number: int) -> list[RequestSpec]:
        """Its requests in order."""
        batch, place = divmod(number, _BATCH)
        if batch not in self._batches:
            if len(self._batches) > 64:  # sessions that live longer are drawn again when they are asked for
                del self._batches[next(iter(self._batches))]
            drawn = self.drawn(batch * _BATCH, _BATCH)
            self._batches[batch] = [drawn.specs(session, self.domain_names) for session in range(_BATCH)]
        return self._batches[batch][place]

    def _uniform(self, cause: str, *index: Integers) -> Floats:
        return uniform_at(self.seed, f"session {cause}", self.replication, *index)

    def drawn(self, first: int, count: int) -> Drawn:
        """Sessions first, first + 1, …, so many of them. Long, since all of it is one table, a column after the other."""
        of, sessions = self.sessions, np.arange(first, first + count)
        assert of.turns is not None
        assert of.output_tokens is not None
        turns = of.turns.at(self._uniform("turns", sessions))
        each = np.repeat(np.arange(count), turns)  # of all turns, the place of its session
        turn = np.arange(len(each)) - np.repeat(np.cumsum(turns) - turns, turns)
        calls = self._calls(sessions[each], turn)
        row = _before(calls + 1, turn)
        last = (turn + 1 == turns[each]) | (row + calls + 2 > REQUESTS)
        there = _before(last.astype(np.int64), turn) == 0
        each, turn, row, last = each[there], turn[there], row[there], last[there]
        called = np.where(last, 0, calls[there])
        session = sessions[each]
        new, pause_s = self._said(session, turn)
        output = of.output_tokens.at(self._uniform("output", session, turn))
        caller = np.repeat(np.arange(len(turn)), called)  # of all calls, the place of the turn that they follow
        call = np.arange(len(caller)) - np.repeat(np.cumsum(called) - called, called)
        task, answer = self._tasks(session[caller], turn[caller], call)
        answers = np.zeros(len(turn), dtype=np.int64)
        np.add.at(answers, caller, answer)
        system, begins = (value[each] for value in self._systems(sessions))
        said = begins + _before(new + output + answers, turn)
        held = said + new + output  # what calls find
        own = of.fan_out is not None and of.fan_out.context == "own"
        number = row[caller] + 1 + call
        place = np.concatenate([np.arange(len(turn)) + np.cumsum(called) - called, np.arange(len(caller)) + caller + 1])
        waits = np.where(turn, np.maximum(np.roll(called, 1), 1), 0)
        follow, domain, first_request = np.where(last, 0, np.maximum(called, 1)), self.domains(sessions)[each], session * REQUESTS
        texts = _texts(system, begins, first_request + (0 if of.system is None else of.system.count))
        forks = _forks(texts[caller], number, held[caller])
        if own:
            forks = _texts(np.full_like(caller, -1), caller, forks[:, 2])
        both: dict[str, tuple[Any, Any]] = {
            "request": (first_request + row, first_request[caller] + number),
            "session": (session, session[caller]),
            "turn": (turn, turn[caller]),
            "prompt": (said + new, np.where(own, task, held[caller] + task)),
            "output": (output, answer),
            "domain": (domain, domain[caller]),
            "then": (row + 1, (row + 1 + called)[caller]),
            "count": (follow, np.ones_like(caller)),
            "waits": (waits, np.ones_like(caller)),
            "said": (np.where(turn, said, 0), np.where(own, 0, held[caller])),
            "call": (np.zeros_like(turn), np.ones_like(caller)),
            "pause_s": (np.where(turn, pause_s, 0.0), np.zeros(len(caller))),
        }
        order = np.argsort(place)
        ends = np.cumsum(np.bincount(each, called + 1, count).astype(np.int64))
        columns = {name: np.concatenate(parts)[order] for name, parts in both.items()}
        return Drawn(np.append(0, ends), columns, np.concatenate([texts, forks])[order])

    def _calls(self, session: Integers, turn: Integers) -> Integers:
        """How many calls an agent makes after each turn. # [n], [n] -> [n]"""
        fan_out = self.sessions.fan_out
        if fan_out is None:
            return np.zeros(len(turn), dtype=np.int64)
        calls = fan_out.calls.at(self._uniform("calls", session, turn))
        return np.where(self._uniform("fan out", session, turn) < fan_out.share, calls, 0)

    def _said(self, session: Integers, turn: Integers) -> tuple[Integers, Floats]:
        """New tokens of turns, and seconds before them. # [n], [n] -> [n], [n]"""
        of = self.sessions
        assert of.new_tokens is not None
        new, pause_s = of.new_tokens.at(self._uniform("new", session, turn)), _pauses(of.think_s, self._uniform("think", session, turn))
        if of.tools is None:
            return new, pause_s
        tool = (self._uniform("tool", session, turn) < of.tools.share) & (turn > 0)
        result, run_s = of.tools.new_tokens.at(self._uniform("result", session, turn)), _pauses(of.tools.pause_s, self._uniform("run", session, turn))
        return np.where(tool, result, new), np.where(tool, run_s, pause_s)

    def _tasks(self, *call: Integers) -> tuple[Integers, Integers]:
        """Tokens of calls' tasks and of their answers, by session, turn and number. # [n] -> [n], [n]"""
        fan_out = self.sessions.fan_out
        if fan_out is None:
            return np.zeros_like(call[0]), np.zeros_like(call[0])
        return fan_out.new_tokens.at(self._uniform("task", *call)), fan_out.output_tokens.at(self._uniform("called", *call))

    def _systems(self, session: Integers) -> tuple[Integers, Integers]:
        """The system prompt of each session, -1 for none, and its tokens. # [n], [n]"""
        system = self.sessions.system
        if system is None:
            return np.full(len(session), -1), np.zeros(len(session), dtype=np.int64)
        popularity = np.cumsum(np.arange(1, system.count + 1) ** -system.zipf)
        which = np.minimum(np.searchsorted(popularity / popularity[-1], self._uniform("system", session), side="right"), system.count - 1)
        return which, system.tokens.at(uniform_at(self.seed, "system prompt", 0, which))


def _texts(system: Integers, begins: Integers, own: Integers) -> Integers:
    """Lineages that begin with a system prompt of so many tokens, -1 for none, and go on with a text of their own. # [n], [n], [n] -> [n, 5]"""
    has, none = system >= 0, np.zeros_like(own)
    return np.stack([none, np.where(has, system, 0), own, none, np.where(has, begins, 0)], axis=-1)


def _forks(texts: Integers, number: Integers, held: Integers) -> Integers:
    """Lineages of calls that begin with all that a session of such lineages holds. # [n, 5], [n], [n] -> [n, 5]"""
    return np.stack([texts[:, 1], texts[:, 2], texts[:, 2] + number, texts[:, 4], held], axis=-1)


def _before(values: Integers, turn: Integers) -> Integers:
    """Sums over the turns of a session before each. # [n], [n] -> [n]"""
    total = np.cumsum(values)
    total -= values
    before: Integers = total - total[np.arange(len(turn)) - turn]
    return before


def _pauses(pause: Pause, u: Floats) -> Floats:
    return np.zeros_like(u) if pause is None else pause.at(u)

"""Sessions: requests that follow one another, each with all that was said before it and something new. A session is a function of seed and number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from simulator.arrays import Floats, Integers
from simulator.quantities import Within
from simulator.rng import uniform_at
from simulator.schema import Frozen
from simulator.traffic.arrivals import Constant, Gamma, Poisson, RateCurve
from simulator.traffic.content import Lineage
from simulator.traffic.counts import Count
from simulator.traffic.lengths import Lengths
from simulator.traffic.pauses import Pause
from simulator.traffic.process import ArrivalProcess
from simulator.traffic.request import Place, RequestSpec

Share = Annotated[float, Within(0, 1)]
_BATCH = 64  # sessions that are drawn at once
_SAMPLED = 256
REQUESTS = 1 << 12  # of a session at most: numbers of requests and texts do not depend on other sessions


class AtOnce(ArrivalProcess):
    """So many sessions at a time: where one ends, the next begins. It is a service under way: at the start every session is at a random turn."""

    kind: Literal["closed_loop"] = "closed_loop"
    load_kind = "concurrency"

    @property
    def words(self) -> str:
        return "a session begins where another ends"


SessionArrivals = Annotated[AtOnce | Poisson | Gamma | Constant | RateCurve, Field(discriminator="kind")]


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


class Sessions(Frozen):
    """Sessions of `turns` requests. The prompt of each is a system prompt, all turns before with their answers, and `new_tokens` of its own; it is
    sent `think_s` after the answer before it. `arrivals` are of sessions: `load` is sessions per second, or at a time on every replica."""

    arrivals: SessionArrivals
    turns: Count
    new_tokens: Lengths
    output_tokens: Lengths
    think_s: Pause = None
    system: SystemPrompts | None = None
    tools: Tools | None = None
    fan_out: FanOut | None = None

    @cached_property
    def sample(self) -> Sample:
        """What some sessions are like."""
        source = SessionSource(self, 0, 0)
        specs = [spec for number in range(_SAMPLED) for spec in source.session(number)]
        pauses_s = sum(spec.place.pause_s for spec in specs if spec.place is not None)
        prompt, output = (np.array([getattr(spec, name) for spec in specs]) for name in ("prompt_tokens", "output_tokens"))
        return Sample(prompt, output, len(specs) / _SAMPLED, pauses_s / _SAMPLED)


@dataclass(frozen=True)
class Sample:
    """Requests of some sessions: tokens of prompts and of answers # [n]; requests of a session, and seconds of its pauses, in the mean."""

    prompt_tokens: Integers
    output_tokens: Integers
    requests: float
    pauses_s: float


@dataclass(frozen=True, slots=True)
class SessionSource:
    """The sessions of one replication, by number; `domains` gives the place of each one's domain in `domain_names`."""

    sessions: Sessions
    seed: int
    replication: int
    domain_names: tuple[str, ...] = ("",)
    domains: Callable[[Integers], Integers] = np.zeros_like
    _batches: dict[int, list[list[RequestSpec]]] = field(default_factory=dict, repr=False, compare=False)

    def session(self, number: int) -> list[RequestSpec]:
        """Its requests in order: every turn, and after it what it calls. Times are those since the requests that they wait for."""
        batch, place = divmod(number, _BATCH)
        if batch not in self._batches:
            if len(self._batches) > 64:  # sessions that live longer are drawn again when they are asked for
                del self._batches[next(iter(self._batches))]
            self._batches[batch] = self._drawn(batch * _BATCH)
        return self._batches[batch][place]

    def _uniform(self, cause: str, *index: Integers) -> Floats:
        return uniform_at(self.seed, f"session {cause}", self.replication, *index)

    def _drawn(self, first: int) -> list[list[RequestSpec]]:
        """Sessions first, first + 1, …, _BATCH of them."""
        of, session = self.sessions, np.arange(first, first + _BATCH)
        turns = of.turns.at(self._uniform("turns", session))
        system, begins = self._systems(session)
        turn = np.arange(int(turns.max()))[None, :]
        number = session[:, None]
        new, pause_s = of.new_tokens.at(self._uniform("new", number, turn)), _pauses(of.think_s, self._uniform("think", number, turn))
        if of.tools is not None:
            tool = (self._uniform("tool", number, turn) < of.tools.share) & (turn > 0)
            new = np.where(tool, of.tools.new_tokens.at(self._uniform("result", number, turn)), new)
            pause_s = np.where(tool, _pauses(of.tools.pause_s, self._uniform("run", number, turn)), pause_s)
        output = of.output_tokens.at(self._uniform("output", number, turn))
        calls = np.zeros_like(new)
        if of.fan_out is not None:
            calls = of.fan_out.calls.at(self._uniform("calls", number, turn))
            calls = np.where(self._uniform("fan out", number, turn) < of.fan_out.share, calls, 0)
        rows = zip(session, turns, system, begins, new, output, calls, pause_s, strict=True)
        domains = [self.domain_names[place] for place in self.domains(session)]
        return [self._requests(domain, *(value.tolist() for value in row)) for domain, row in zip(domains, rows, strict=True)]

    def _systems(self, session: Integers) -> tuple[Integers, Integers]:
        """The system prompt of each session, -1 for none, and its tokens. # [n], [n]"""
        system = self.sessions.system
        if system is None:
            return np.full(len(session), -1), np.zeros(len(session), dtype=np.int64)
        popularity = np.cumsum(np.arange(1, system.count + 1) ** -system.zipf)
        which = np.minimum(np.searchsorted(popularity / popularity[-1], self._uniform("system", session), side="right"), system.count - 1)
        return which, system.tokens.at(uniform_at(self.seed, "system prompt", 0, which))

    def _requests(
        self,
        domain: str,
        session: int,
        turns: int,
        system: int,
        begins: int,
        new: list[int],
        output: list[int],
        calls: list[int],
        pause_s: list[float],
    ) -> list[RequestSpec]:
        """One session as requests."""
        found: list[RequestSpec] = []
        first = session * REQUESTS
        text = first + (0 if self.sessions.system is None else self.sessions.system.count)
        own, until = ((system, text), (begins,)) if system >= 0 else ((text,), ())
        context, waits = begins, 0
        for turn in range(turns):
            said, context = context if turn else 0, context + new[turn]
            last = turn + 1 == turns or len(found) + calls[turn] + 2 > REQUESTS
            called = 0 if last else calls[turn]
            then = len(found) + 1
            more = 0 if last else called or 1
            place = Place(session, turn, then, more, waits, pause_s[turn] if turn else 0.0, said_tokens=said)
            found.append(RequestSpec(first + len(found), np.nan, context, output[turn], domain, 0, Lineage(own, until), place))
            context += output[turn]
            waits = called or 1
            for call in range(called):
                task, answer = self._call(session, turn, call)
                own_context = self.sessions.fan_out is not None and self.sessions.fan_out.context == "own"
                texts, forks = ((text + len(found),), ()) if own_context else ((*own, text + len(found)), (*until, context))
                prompt = task if own_context else context + task
                place = Place(session, turn, then + called, 1, 1, call=True, said_tokens=0 if own_context else context)
                found.append(RequestSpec(first + len(found), np.nan, prompt, answer, domain, 0, Lineage(texts, forks), place))
            context += sum(spec.output_tokens for spec in found[then : then + called])
            if last:
                break
        return found

    def _call(self, session: int, turn: int, call: int) -> tuple[int, int]:
        """Tokens of a call's task and of its answer."""
        assert self.sessions.fan_out is not None
        at = np.array([session]), np.array([turn]), np.array([call])
        task = self.sessions.fan_out.new_tokens.at(self._uniform("task", *at))
        return int(task[0]), int(self.sessions.fan_out.output_tokens.at(self._uniform("called", *at))[0])


def _pauses(pause: Pause, u: Floats) -> Floats:
    return np.zeros_like(u) if pause is None else pause.at(u)

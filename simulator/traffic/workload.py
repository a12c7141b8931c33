"""The traffic of a scenario. Arrivals and draws depend only on seed, replication and request, never on the policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from simulator.arrays import Floats, Integers
from simulator.errors import ScenarioError, TraceError
from simulator.names import Label
from simulator.quantities import TokensOrNone, Users, Weight
from simulator.rng import stream, uniform_at
from simulator.schema import Frozen
from simulator.traffic.arrivals import Arrivals, ClosedLoop
from simulator.traffic.benchmark import Benchmark
from simulator.traffic.class_lengths import drawn, laws, together
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.impatience import Impatience, RequestClass, Senders
from simulator.traffic.lengths import Lengths
from simulator.traffic.pauses import Pause
from simulator.traffic.recorded_sessions import RecordedSource
from simulator.traffic.request import REQUESTS, RequestColumns, RequestSpec
from simulator.traffic.servegen import ServeGenSource
from simulator.traffic.sessions import Sessions
from simulator.traffic.traces import TraceSource

LoadKind = Literal["concurrency", "rate_rps", "rate_scale"]
_A = {"trace": "a trace has", "servegen": "a servegen has", "sessions": "sessions have"}
_TURNS = 16  # drawn at once, for all users


class Workload(Frozen):
    """Traffic: a recorded `trace`, the clients of a `servegen` service, `sessions`, or `arrivals` with independent lengths of prompts and outputs.

    `domains` are relative weights; without them requests have no domain (""). The client has at most `max_concurrency` requests in flight, whatever
    the rate, and holds the others back. `cached_prompt_tokens` at the beginning of every prompt are in the server's prefix cache, at most all but
    the last of it: with `arrivals` alone. `impatience`: who does not wait for the end. `classes` of requests have promises of their own.
    """

    trace: TraceSource | None = None
    servegen: ServeGenSource | None = None
    sessions: Sessions | None = None
    arrivals: Arrivals | None = None
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    domains: dict[Label, Weight] = Field(default_factory=dict)
    max_concurrency: Users | None = None
    cached_prompt_tokens: TokensOrNone = 0
    impatience: Impatience | None = None
    classes: Annotated[dict[Label, RequestClass], Field(max_length=100)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if self.client is not None:
            self._take_flags(self.client)
        names = ("arrivals", "prompt_tokens", "output_tokens")
        present = [name for name in names if getattr(self, name) is not None]
        recorded = [name for name in ("trace", "servegen", "sessions") if getattr(self, name) is not None]
        if len(recorded) > 1:
            raise ValueError(f"expected one source of traffic, got {' and '.join(recorded)}: drop one")
        if recorded and present:
            raise ValueError(f"{_A[recorded[0]]} its own arrivals and lengths: drop {recorded[0]} or {', '.join(present)}")
        if recorded and self.cached_prompt_tokens:
            raise ValueError(f"{_A[recorded[0]]} prompts of which is known what is cached: drop cached_prompt_tokens")
        if recorded and any(one.prompt_tokens or one.output_tokens for one in self.classes.values()):
            raise ValueError(f"{_A[recorded[0]]} lengths of requests already: drop prompt_tokens and output_tokens of classes")
        missing = [name for name in names if name not in present and (name == "arrivals" or not all(laws(self.classes, name, None)))]
        if not recorded and missing:
            raise ValueError(f"expected a trace, or arrivals, prompt_tokens and output_tokens; missing: {', '.join(missing)}")
        if self.max_concurrency is not None and self.sessions is not None:
            raise ValueError("in sessions a request waits for the one before it, so max_concurrency cannot hold it back: drop it")
        if self.max_concurrency is not None and self.client is not None:
            raise ValueError("a benchmark client has its max_concurrency among its flags: move it to arrivals")
        if self.client is not None and (self.impatience or self.classes):
            raise ValueError("a benchmark client waits for every answer, and all its requests are alike: drop impatience and classes")
        if self.max_concurrency is not None and self.load_kind == "concurrency":
            raise ValueError("max_concurrency goes with a rate: in a closed loop, load is the number of requests in flight")
        return self

    def _take_flags(self, client: Benchmark) -> None:
        """Lengths of a benchmark client whose flags have them."""
        flags = {"prompt_tokens": client.random_input_len, "output_tokens": client.random_output_len}
        for name, tokens in flags.items():
            if tokens is None:
                continue
            if getattr(self, name) not in (None, lengths := client.lengths(tokens)):
                raise ValueError(f"{name} and the client's random_input_len and random_output_len both say how long requests are: drop one")
            object.__setattr__(self, name, lengths)

    @property
    def client(self) -> Benchmark | None:
        """The benchmark client that sends the requests, if one does."""
        return self.arrivals if isinstance(self.arrivals, Benchmark) else None

    @property
    def windowed(self) -> bool:
        """Do requests come whatever happens, so that those of a window are measured: is it an open loop without end?"""
        return self.sessions is not None or (self.load_kind != "concurrency" and self.client is None)

    @property
    def load_kind(self) -> LoadKind:
        """The unit of `load`: users at once, requests per second, or a multiple of the trace's speed."""
        if self.trace is not None:
            return "rate_scale"
        if self.sessions is not None:
            return self.sessions.arrivals.load_kind
        if self.client is not None:
            return "concurrency" if self.client.load_flag == "max_concurrency" else "rate_rps"
        return "rate_rps" if self.arrivals is None else self.arrivals.load_kind

    def open_loop(self, load: float, horizon_s: float | None, seed: int, replication: int, folder: Path = Path()) -> RequestColumns:
        """Requests in order of arrival in [0, horizon_s). `folder` is the scenario file's.

        A trace is played `load` times as fast, without a horizon to its end; replications differ in the domains alone.
        """
        assert load > 0
        if self.trace is not None:
            return self._replay(load, horizon_s, seed, replication, folder)
        assert self.load_kind != "concurrency", "a closed loop has no arrivals of its own"
        if horizon_s is None:
            raise ScenarioError("endless arrivals need a horizon", key="horizon_s", remedy="add it")
        if self.servegen is None:
            assert self.arrivals is not None
            return self._independent(self.arrivals.times(load, horizon_s, stream(seed, "arrivals", replication)), seed, replication)
        arrival_s, prompt, output, index = self.servegen.requests(load, horizon_s, seed, replication)
        domain = self._domains(seed, replication, index)
        return RequestColumns(index, arrival_s, prompt, output, np.zeros_like(index), domain, self.domain_names)

    def expected(self, load: float, horizon_s: float) -> float:
        """Requests of an open loop without a trace in [0, horizon_s), in the mean."""
        if self.servegen is not None:
            return self.servegen.expected(load, horizon_s)
        assert self.arrivals is not None
        return self.arrivals.expected(load, horizon_s)

    def closed_loop(self, users: int, seed: int, replication: int) -> ClosedLoopSource:
        """The requests of `users` users, each sending one after another."""
        assert isinstance(self.arrivals, ClosedLoop), "only a closed loop has users"
        assert users > 0
        return ClosedLoopSource(self, users, seed, replication, self.arrivals.think_s)

    def senders(self, seed: int, replication: int) -> Senders | None:
        """Who sends the requests, where they are impatient or of several classes, whose order in the file has no effect; a session is one user's."""
        if self.impatience is None and not self.classes:
            return None
        return Senders(self.impatience, dict(sorted(self.classes.items())), seed, replication, REQUESTS if self.sessions is not None else 1)

    @property
    def leave(self) -> bool:
        """Does anybody not wait for the end?"""
        return (senders := self.senders(0, 0)) is not None and senders.leave

    def session_starts_s(self, load: float, replicas: int, horizon_s: float, seed: int, replication: int) -> tuple[Floats, Floats | None]:
        """When sessions come; or those that are under way at the start, and how far each is."""
        assert self.sessions is not None
        if self.load_kind == "concurrency":
            users = int(load) * replicas
            return np.zeros(users), uniform_at(seed, "session under way", replication, np.arange(users))
        return self.sessions.starts_s(load, horizon_s, stream(seed, "arrivals", replication)), None

    def session_source(self, seed: int, replication: int) -> SessionSource | RecordedSource:
        """The sessions by their numbers."""
        assert self.sessions is not None
        return self.sessions.source(seed, replication, self.domain_names, lambda numbers: self._domains(seed, replication, numbers))

    def sent(self, load: float, replicas: int, seed: int, replication: int) -> RequestColumns:
        """The requests of a benchmark client, when each is there to be sent."""
        assert self.client is not None
        count = self.client.prompts(load, replicas)
        times = self.client.sent_s(count, self.client.rate_rps(load), stream(seed, "arrivals", replication))
        return self._independent(times, seed, replication)

    def _independent(self, arrival_s: Floats, seed: int, replication: int) -> RequestColumns:
        """Requests at these times, each with lengths and a domain of its own."""
        index = np.arange(len(arrival_s))
        prompt, output, cached, domain = self._draw(seed, replication, index, index)
        return RequestColumns(index, arrival_s, prompt, output, cached, domain, self.domain_names)

    def _replay(self, speed: float, horizon_s: float | None, seed: int, replication: int, folder: Path) -> RequestColumns:
        assert self.trace is not None
        trace = self.trace.load(folder)
        arrival_s = trace.arrival_s / speed
        n = len(trace) if horizon_s is None else int(np.searchsorted(arrival_s, horizon_s))
        if trace.domains != ("",) and self.domains:
            where, remedy = self.trace.find(folder), "drop the column or workload.domains"
            raise TraceError("both the trace and workload.domains define domains", where=where, key="domain", remedy=remedy)
        played = replace(trace[:n], request=np.arange(n), arrival_s=arrival_s[:n])
        if trace.domains == ("",):
            return replace(played, domain=self._domains(seed, replication, played.request), domains=self.domain_names)
        used, domain = np.unique(played.domain, return_inverse=True)
        return replace(played, domain=domain, domains=tuple(trace.domains[i] for i in used))

    def _draw(self, seed: int, replication: int, number: Integers, *index: Integers) -> tuple[Integers, Integers, Integers, Integers]:
        """Prompt, output and cached tokens and domain (index into `domain_names`) of requests of these numbers, drawn at each index (broadcast)."""
        senders = self.senders(seed, replication)
        group = senders.group(number) if senders is not None and senders.classes else None
        prompt = drawn(laws(self.classes, "prompt_tokens", self.prompt_tokens), uniform_at(seed, "prompt", replication, *index), group)
        output = drawn(laws(self.classes, "output_tokens", self.output_tokens), uniform_at(seed, "output", replication, *index), group)
        cached = np.minimum(self.cached_prompt_tokens, prompt - 1)
        return prompt, output, cached, self._domains(seed, replication, *index)

    @property
    def prompts(self) -> Lengths | None:
        """Lengths of all prompts together, None where they are recorded."""
        return together(self.classes, "prompt_tokens", self.prompt_tokens)

    @property
    def outputs(self) -> Lengths | None:
        """Lengths of all answers together, None where they are recorded."""
        return together(self.classes, "output_tokens", self.output_tokens)

    @property
    def domain_names(self) -> tuple[str, ...]:
        """Names of the domains, sorted, so that their order in the file has no effect."""
        return tuple(sorted(self.domains)) or ("",)

    def _domains(self, seed: int, replication: int, *index: Integers) -> Integers:
        """The domain (index into `domain_names`) at each index (broadcast)."""
        names = self.domain_names
        edges = np.cumsum([self.domains.get(name, 1.0) for name in names])
        u = uniform_at(seed, "domain", replication, *index)
        return np.minimum(np.searchsorted(edges / edges[-1], u, side="right"), len(names) - 1)


@dataclass(frozen=True, slots=True)
class ClosedLoopSource:
    """The requests of a closed loop. Lengths, domain and the pause before depend only on (user, turn)."""

    workload: Workload
    users: int
    seed: int
    replication: int
    think_s: Pause = None
    _chunks: dict[int, list[list[list[int]]]] = field(default_factory=dict, repr=False, compare=False)  # `draw` by turn and user

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec:
        """Request number `turn` of `user`, sent at `arrival_s`."""
        assert 0 <= user < self.users
        chunk, row = divmod(turn, _TURNS)
        if chunk not in self._chunks:
            turns = np.arange(chunk * _TURNS, (chunk + 1) * _TURNS)[:, None]
            self._chunks[chunk] = self.draw(np.arange(self.users)[None, :], turns).tolist()
        prompt, output, cached, domain = self._chunks[chunk][row][user]
        return RequestSpec(turn * self.users + user, arrival_s, prompt, output, self.domains[domain], cached)

    def pause_s(self, user: int | Integers, turn: int | Integers) -> Floats:
        """Seconds that users pause before their turns (broadcast); before turn 0, what is left of a pause that is under way at the start."""
        if self.think_s is None:
            return np.zeros(np.broadcast(user, turn).shape)
        pauses, first = self.think_s.at(uniform_at(self.seed, "think", self.replication, user, turn)), np.equal(turn, 0)
        if not first.any():
            return pauses
        rest = self.think_s.rest(*(uniform_at(self.seed, cause, self.replication, user) for cause in ("think first", "think rest")))
        return np.where(first, rest, pauses)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that `draw` indexes."""
        return self.workload.domain_names

    def draw(self, user: Integers, turn: Integers) -> Integers:
        """Prompt, output and cached tokens and domain of the turns of users (broadcast). # [..., 4]"""
        return np.stack(np.broadcast_arrays(*self.workload._draw(self.seed, self.replication, turn * self.users + user, user, turn)), axis=-1)

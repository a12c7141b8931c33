"""The traffic of a scenario. Every arrival and draw depends on seed, replication and request alone, never on what a policy does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from simulator.errors import ScenarioError, TraceError
from simulator.rng import stream, uniform_at
from simulator.schema import Frozen
from simulator.traffic.arrivals import Arrivals, ClosedLoop
from simulator.traffic.lengths import Lengths
from simulator.traffic.request import RequestSpec
from simulator.traffic.servegen import ServeGenSource
from simulator.traffic.traces import TraceSource

Floats = NDArray[np.float64]
LoadKind = Literal["concurrency", "rate_rps", "rate_scale"]
_TURNS = 16  # drawn at a time for all users


class Workload(Frozen):
    """What comes: a recorded `trace`, the clients of a `servegen` service, or `arrivals` with lengths of prompts and outputs (drawn
    independently of each other).

    `domains` are the relative weights with which a request falls into each; without it requests have no domain ("").
    """

    trace: TraceSource | None = None
    servegen: ServeGenSource | None = None
    arrivals: Arrivals | None = None
    prompt_tokens: Lengths | None = None
    output_tokens: Lengths | None = None
    domains: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        names = ("arrivals", "prompt_tokens", "output_tokens")
        given = [name for name in names if getattr(self, name) is not None]
        recorded = [name for name in ("trace", "servegen") if getattr(self, name) is not None]
        if len(recorded) == 2:
            raise ValueError("traffic comes from one place: drop trace or servegen")
        if recorded and given:
            raise ValueError(f"a {recorded[0]} brings its own arrivals and lengths: drop the {recorded[0]} or {', '.join(given)}")
        missing = [name for name in names if name not in given]
        if not recorded and missing:
            raise ValueError(f"without a trace, arrivals, prompt_tokens and output_tokens are needed; missing: {', '.join(missing)}")
        return self

    @property
    def load_kind(self) -> LoadKind:
        """What the number called load means: users at once, requests per second, or a multiple of the trace's speed."""
        if self.trace is not None:
            return "rate_scale"
        return "concurrency" if isinstance(self.arrivals, ClosedLoop) else "rate_rps"

    def open_loop(self, load: float, horizon_s: float | None, seed: int, replication: int, folder: Path = Path()) -> list[RequestSpec]:
        """Requests in order of arrival in [0, horizon_s). `folder` is the scenario file's.

        Of a trace, played `load` times as fast, every replication has the same arrivals and lengths and other domains; without a horizon
        it is played to its end.
        """
        assert load > 0
        if self.trace is not None:
            return self._replay(load, horizon_s, seed, replication, folder)
        assert not isinstance(self.arrivals, ClosedLoop), "a closed loop has no arrivals of its own"
        if horizon_s is None:
            raise ScenarioError("arrivals without end need a horizon", key="horizon_s", remedy="add it")
        if self.servegen is not None:
            arrival_s, prompt, output, index = self.servegen.requests(load, horizon_s, seed, replication)
            domain = self._domains(seed, replication, index)
            return [RequestSpec(*v) for v in zip(index.tolist(), arrival_s.tolist(), prompt.tolist(), output.tolist(), domain.tolist(), strict=True)]
        assert self.arrivals is not None
        arrival_s = self.arrivals.times(load, horizon_s, stream(seed, "arrivals", replication))
        index = np.arange(len(arrival_s))
        prompt, output, domain = self._draw(seed, replication, index)
        columns = zip(index.tolist(), arrival_s.tolist(), prompt.tolist(), output.tolist(), domain.tolist(), strict=True)
        return [RequestSpec(*values) for values in columns]

    def closed_loop(self, users: int, seed: int, replication: int) -> ClosedLoopSource:
        """The requests that `users` users send one after the other."""
        assert isinstance(self.arrivals, ClosedLoop), "only a closed loop has users"
        assert users > 0
        return ClosedLoopSource(self, users, seed, replication, self.arrivals.think_s)

    def _replay(self, speed: float, horizon_s: float | None, seed: int, replication: int, folder: Path) -> list[RequestSpec]:
        assert self.trace is not None
        trace = self.trace.load(folder)
        arrival_s = trace.arrival_s / speed
        n = len(trace) if horizon_s is None else int(np.searchsorted(arrival_s, horizon_s))
        if trace.domain is not None and self.domains:
            where, remedy = self.trace.find(folder), "drop the column or workload.domains"
            raise TraceError("the trace names the domain of each request, and workload.domains a mix", where=where, key="domain", remedy=remedy)
        domain = list(trace.domain[:n]) if trace.domain is not None else self._domains(seed, replication, np.arange(n)).tolist()
        lengths = (column[:n].tolist() for column in (trace.prompt_tokens, trace.output_tokens, trace.cached_prompt_tokens))
        columns = zip(range(n), arrival_s[:n].tolist(), *lengths, domain, strict=True)
        return [RequestSpec(i, at_s, prompt, output, name, cached) for i, at_s, prompt, output, cached, name in columns]

    def _draw(self, seed: int, replication: int, *index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.object_]]:
        """Prompt and output tokens and domain at each index (broadcast)."""
        assert self.prompt_tokens is not None
        assert self.output_tokens is not None
        prompt = self.prompt_tokens.at(uniform_at(seed, "prompt", replication, *index))
        output = self.output_tokens.at(uniform_at(seed, "output", replication, *index))
        return prompt, output, self._domains(seed, replication, *index)

    def _domains(self, seed: int, replication: int, *index: NDArray[np.int64]) -> NDArray[np.object_]:
        """The domain at each index (broadcast). Names in alphabetical order, so that their order in the file means nothing."""
        names = sorted(self.domains) or [""]
        edges = np.cumsum([self.domains.get(name, 1.0) for name in names])
        u = uniform_at(seed, "domain", replication, *index)
        return np.array(names, dtype=object)[np.minimum(np.searchsorted(edges / edges[-1], u, side="right"), len(names) - 1)]


@dataclass(frozen=True, slots=True)
class ClosedLoopSource:
    """The requests of a closed loop, each known by (user, turn): its lengths and domain depend on nothing else."""

    workload: Workload
    users: int
    seed: int
    replication: int
    think_s: float
    _chunks: dict[int, tuple[list[list[int]], list[list[int]], list[list[str]]]] = field(default_factory=dict, repr=False, compare=False)

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec:
        """The `turn`-th request of `user`, who sends it at `arrival_s`."""
        assert 0 <= user < self.users
        chunk, row = divmod(turn, _TURNS)
        prompt, output, domain = self._chunks.get(chunk) or self._drawn(chunk)
        return RequestSpec(turn * self.users + user, arrival_s, prompt[row][user], output[row][user], domain[row][user])

    def _drawn(self, chunk: int) -> tuple[list[list[int]], list[list[int]], list[list[str]]]:
        """Lengths and domains of a chunk of turns, [turn][user]."""
        turns = np.arange(chunk * _TURNS, (chunk + 1) * _TURNS)[:, None]
        prompt, output, domain = self.workload._draw(self.seed, self.replication, np.arange(self.users)[None, :], turns)
        self._chunks[chunk] = prompt.tolist(), output.tolist(), domain.tolist()
        return self._chunks[chunk]

"""Sessions: requests that follow one another, each with all that was said before it and something new, drawn or recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.traffic.arrivals import Constant, Gamma, Poisson, RateCurve
from simulator.traffic.drawn_sessions import DrawnSessions, SessionSource
from simulator.traffic.process import ArrivalProcess
from simulator.traffic.recorded_sessions import RecordedSessions, RecordedSource, starts_s
from simulator.traffic.session_rows import Recorded

_SAMPLED = 256
_DRAWN = ("turns", "new_tokens", "output_tokens")


class AtOnce(ArrivalProcess):
    """So many sessions at a time: where one ends, the next begins. It is a service under way: at the start every session is at a random turn."""

    kind: Literal["closed_loop"] = "closed_loop"
    load_kind = "concurrency"

    @property
    def words(self) -> str:
        return "a session begins where another ends"


class AsRecorded(ArrivalProcess):
    """Recorded sessions begin when they did, `load` times as fast; pauses stay as they were."""

    kind: Literal["recorded"] = "recorded"
    load_kind = "rate_scale"

    @property
    def words(self) -> str:
        return "recorded"


SessionArrivals = Annotated[AtOnce | AsRecorded | Poisson | Gamma | Constant | RateCurve, Field(discriminator="kind")]


class Sessions(DrawnSessions):
    """Sessions of `turns` requests. The prompt of each is a system prompt, all turns before with their answers, and `new_tokens` of its own; it is
    sent `think_s` after the answer before it. `arrivals` are of sessions: `load` is sessions per second, or at a time on every replica. `recorded`
    sessions have all but the arrivals from a file."""

    recorded: RecordedSessions | None = None
    arrivals: SessionArrivals

    @model_validator(mode="after")
    def _are_drawn_or_recorded(self) -> Self:
        present = [name for name in (*_DRAWN, "think_s", "system", "tools", "fan_out") if getattr(self, name) is not None]
        if self.recorded is None:
            missing = [name for name in _DRAWN if name not in present]
            if missing:
                raise ValueError(f"expected turns, new_tokens and output_tokens, or recorded: {{path: FILE}}; missing: {', '.join(missing)}")
            if isinstance(self.arrivals, AsRecorded):
                raise ValueError("arrivals of kind recorded are those of recorded sessions: add recorded: {path: FILE}, or use poisson")
            return self
        if present:
            drawn = " (recorded.think_s is for pauses that the file does not say)" if "think_s" in present else ""
            raise ValueError(f"recorded sessions have turns, lengths and pauses of their own: drop recorded or {', '.join(present)}{drawn}")
        key, file = "workload.sessions.arrivals", self.recorded.sessions
        if isinstance(self.arrivals, AsRecorded) and file.starts_s is None:
            problem = "the file does not say when every session begins"
            raise TraceError(problem, where=self.recorded.file, key=key, remedy="use arrivals of kind poisson or closed_loop")
        if isinstance(self.arrivals, AtOnce) and file.forks:
            problem = "several turns follow this one, and a closed loop begins sessions in their middle"
            raise TraceError(problem, where=file.forks, key=key, remedy="use other arrivals, or drop the rows")
        return self

    @property
    def _played(self) -> Recorded | None:
        """The file whose own arrivals are played, if any are."""
        return self.recorded.sessions if self.recorded is not None and isinstance(self.arrivals, AsRecorded) else None

    def source(self, seed: int, replication: int, names: tuple[str, ...], domains: Callable[[Integers], Integers]) -> SessionSource | RecordedSource:
        """The sessions of a replication by number."""
        if self.recorded is None:
            return SessionSource(self, seed, replication, names, domains)
        return RecordedSource(self.recorded.sessions, seed, replication, self._played is not None, names, domains, self.recorded.think_s)

    def starts_s(self, load: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        """When sessions begin, in [0, horizon_s). # [n]"""
        return self.arrivals.times(load, horizon_s, rng) if self._played is None else starts_s(self._played, load, horizon_s)

    def expected(self, load: float, horizon_s: float) -> float:
        """Sessions that begin in [0, horizon_s), in the mean."""
        return self.arrivals.expected(load, horizon_s) if self._played is None else len(starts_s(self._played, load, horizon_s))

    @property
    def recorded_s(self) -> float | None:
        """Seconds in which sessions that begin as recorded do so, at a load of 1; None for others."""
        return None if self._played is None or self._played.starts_s is None else max(float(self._played.starts_s[-1]), 1e-9)

    @property
    def unit_rps(self) -> float:
        """Sessions per second at a load of 1."""
        return 1.0 if self.recorded_s is None or self._played is None else len(self._played) / self.recorded_s

    @cached_property
    def sample(self) -> Sample:
        """What some sessions are like; of recorded ones, all."""
        if self.recorded is not None:
            file = self.recorded.sessions
            return Sample(file.prompt_tokens, file.output_tokens, len(file.turn) / len(file), self.recorded.pauses_s / len(file))
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

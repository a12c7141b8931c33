"""A production service from ServeGen client parameters (alibaba/ServeGen, arXiv 2505.09999): each client with its own bursts and lengths."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.rng import stream, uniform_at
from simulator.schema import Frozen
from simulator.traffic import public
from simulator.traffic.arrivals import Gamma, Poisson, partial_sums

_PER_WINDOW = 2**20  # more requests of one client in a window than this would share their luck


@dataclass(frozen=True)
class Window:
    """One client in one stretch of time: requests per second, coefficient of variation and family of its gaps."""

    start_s: float
    rate_rps: float
    cv: float
    family: Literal["Gamma", "Weibull", "Poisson"]
    shape: float

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        """Arrivals in [0, horizon_s) at another rate with the same burstiness, from a stationary start. # [n]"""
        if self.family == "Poisson":
            return Poisson().times(rate_rps, horizon_s, rng)
        if self.family == "Gamma":
            return Gamma(cv=min(self.cv, 100.0)).times(rate_rps, horizon_s, rng)
        from scipy.special import gamma

        c, scale = self.shape, 1 / float(gamma(1 + 1 / self.shape))
        residual = rng.random() * scale * rng.standard_gamma(1 + 1 / c) ** (1 / c)  # uniform in a length-biased gap
        rest = partial_sums(lambda n: scale * rng.weibull(c, n), rate_rps * horizon_s - residual)
        times = (residual + np.concatenate([[0.0], rest])) / rate_rps
        return np.asarray(times[times < horizon_s], dtype=np.float64)


@dataclass(frozen=True)
class Lengths:
    """Token counts that a client was seen with, rising, and the cumulative share of each."""

    tokens: Integers
    share: Floats

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        return self.tokens[np.minimum(np.searchsorted(self.share, u, side="right"), len(self.tokens) - 1)]

    @property
    def mean(self) -> float:
        """The mean length."""
        return float(np.dot(self.tokens, np.diff(self.share, prepend=0.0)))


@dataclass(frozen=True)
class Client:
    """One user of the service: its windows and, by time, its lengths of prompts and outputs."""

    name: str
    windows: tuple[Window, ...]
    lengths_from_s: Floats
    prompt: tuple[Lengths, ...]
    output: tuple[Lengths, ...]

    def lengths(self, time_s: float) -> tuple[Lengths, Lengths]:
        """Prompt and output lengths at a time; where none were seen, those before, else the first."""
        at = max(int(np.searchsorted(self.lengths_from_s, time_s, side="right")) - 1, 0)
        return self.prompt[at], self.output[at]


@dataclass(frozen=True)
class Service:
    """All clients, on one grid of windows of `window_s` seconds."""

    clients: tuple[Client, ...]
    starts_s: Floats  # [W]
    window_s: float

    @property
    def rates(self) -> Floats:
        """Requests per second of every client in every window. # [C, W]"""
        return np.array([[w.rate_rps for w in client.windows] for client in self.clients])

    @property
    def mean_rps(self) -> float:
        """Requests per second of all clients over the whole record."""
        return float(self.rates.sum(axis=0).mean())

    @property
    def span_s(self) -> float:
        """Length of the whole record."""
        return float(len(self.starts_s) * self.window_s)


class ServeGenSource(Frozen):
    """A folder of ServeGen clients: `NAME-trace.csv` (start, rate, cv, family, two parameters) beside `NAME-dataset.json`.

    The folder is a `path`, or the `name` of a public one (`dsim traces`); a path goes before a name. `load` is the mean rate over the whole
    record, to which every client is scaled alike; `clients` keeps the busiest. A run starts `start_s` into the record, which begins anew when
    it ends.
    """

    path: Path | None = None
    name: str | None = None
    clients: PositiveInt | None = None
    start_s: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        given = path.expanduser()
        here = (Path((info.context or {}).get("folder", ".")) / given).resolve()
        return here if here.exists() else given.resolve()

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        return None if name is None else public.known_name(name, clients=True)

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.path is None and self.name is None:
            raise ValueError("a service needs the path of a folder or the name of a public one (see `dsim traces`)")
        return self

    @cached_property
    def folder(self) -> Path:
        """Where its files lie. Raises TraceError where a public one is not on this machine."""
        if self.path is not None:
            return self.path
        assert self.name is not None
        return public.find(self.name, "servegen", "workload.servegen.path=FOLDER")

    def service(self) -> Service:
        """The clients, read once per process. Raises TraceError with file and line."""
        read = _read(self.folder)
        if self.clients is None or self.clients >= len(read.clients):
            return read
        busiest = np.sort(np.argsort(-read.rates.sum(axis=1), kind="stable")[: self.clients])
        return Service(tuple(read.clients[i] for i in busiest), read.starts_s, read.window_s)

    def files(self) -> list[Path]:
        """All files that the numbers come from."""
        return sorted([*self.folder.glob("*-trace.csv"), *self.folder.glob("*-dataset.json")])

    def requests(self, load_rps: float, horizon_s: float, seed: int, replication: int) -> tuple[Floats, Integers, Integers, Integers]:
        """Arrival times, prompt and output tokens and indices of all requests in [0, horizon_s), in order of arrival. # [n] each"""
        service = self.service()
        scale = load_rps / service.mean_rps
        parts = [part for number in range(len(service.clients)) for part in self._client(service, number, scale, horizon_s, seed, replication)]
        arrival, prompt, output, index = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(arrival, kind="stable")
        return arrival[order], prompt[order], output[order], index[order]

    def _client(
        self, service: Service, number: int, scale: float, horizon_s: float, seed: int, replication: int
    ) -> list[tuple[Floats, Integers, Integers, Integers]]:
        """One client, window by window; at least one (perhaps empty) part."""
        client, width, out = service.clients[number], service.window_s, []
        first, last = int(self.start_s // width), int(np.ceil((self.start_s + horizon_s) / width))
        for turn in range(first, max(last, first + 1)):
            window = client.windows[turn % len(client.windows)]
            prompt, output = client.lengths(window.start_s)
            times = np.empty(0)
            if window.rate_rps > 0:
                times = (
                    window.times(window.rate_rps * scale, width, stream(seed, "servegen", replication, number, turn)) + turn * width - self.start_s
                )
            place = np.arange(len(times), dtype=np.int64)
            index = (turn * len(service.clients) + number) * _PER_WINDOW + place
            lengths = [law.at(uniform_at(seed, what, replication, number, turn, place)) for what, law in (("prompt", prompt), ("output", output))]
            kept = (times >= 0) & (times < horizon_s)
            out.append((times[kept], lengths[0][kept], lengths[1][kept], index[kept]))
        return out


@lru_cache(maxsize=2)
def _read(folder: Path) -> Service:
    traces = sorted(folder.glob("*-trace.csv"), key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])
    if not traces:
        what = "no such folder" if not folder.is_dir() else "holds no *-trace.csv"
        raise TraceError(what, where=folder, key="servegen.path", remedy="name a folder of ServeGen clients, such as data/reason/deepseek-r1")
    clients = tuple(_client(trace) for trace in traces)
    starts = np.array([w.start_s for w in clients[0].windows])
    for client, trace in zip(clients, traces, strict=True):
        if [w.start_s for w in client.windows] != starts.tolist():
            raise TraceError("has other windows than the first client", where=trace, remedy="keep one service to a folder")
    if len(starts) < 2 or np.ptp(np.diff(starts)) > 0:
        raise TraceError("windows must be of one length, two at least", where=traces[0], remedy="keep ServeGen's own files")
    service = Service(clients, starts, float(starts[1] - starts[0]))
    if not service.rates.any():
        raise TraceError("no client has a rate above 0", where=folder, remedy="name another service")
    return service


def _client(trace: Path) -> Client:
    windows = []
    for number, line in enumerate(trace.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split(",")
        try:
            start, rate, cv = float(fields[0]), float(fields[1]), float(fields[2] or 0)
            family, shape = fields[3], float(fields[4] or 0)
        except (ValueError, IndexError):
            raise TraceError("is not start,rate,cv,family,parameter,parameter", where=f"{trace}:{number}", remedy="mend or drop the line") from None
        if not (np.isfinite([start, rate, cv, shape]).all() and rate >= 0):
            raise TraceError("rate must be a number of at least 0", where=f"{trace}:{number}", remedy="mend or drop the line")
        windows.append(_window(start, rate, cv, family, shape))
    dataset = trace.with_name(trace.name.removesuffix("-trace.csv") + "-dataset.json")
    times, prompt, output = _dataset(dataset)
    return Client(trace.name.removesuffix("-trace.csv"), tuple(windows), times, prompt, output)


def _window(start: float, rate: float, cv: float, family: str, shape: float) -> Window:
    """A window whose law cannot be read falls back on its cv, and without one on independent arrivals."""
    if family == "Weibull" and shape > 0:
        return Window(start, rate, cv, "Weibull", shape)
    return Window(start, rate, cv, "Gamma" if cv > 0 else "Poisson", shape)


def _dataset(path: Path) -> tuple[Floats, tuple[Lengths, ...], tuple[Lengths, ...]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        times = sorted((t for t in content if content[t]["input_tokens"] != "{}" and content[t]["output_tokens"] != "{}"), key=float)
        if not times:
            raise ValueError("no lengths at all")
        laws = [[_lengths(content[t][column]) for t in times] for column in ("input_tokens", "output_tokens")]
    except FileNotFoundError:
        remedy = "a plan needs lengths: use a service that ships them, such as reason/deepseek-r1"
        raise TraceError("no such file", where=path, key="servegen.path", remedy=remedy) from None
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise TraceError(f"is no ServeGen dataset ({problem})", where=path, remedy="keep ServeGen's own files") from None
    return np.array([float(t) for t in times]), tuple(laws[0]), tuple(laws[1])


def _lengths(text: str) -> Lengths:
    """A distribution written as a Python dict of length to share."""
    flat = np.array(text.strip("{} ").replace(":", ",").split(","), dtype=np.float64)  # ten times as fast as parsing it as Python
    tokens, weight = flat.reshape(-1, 2).T
    if not (np.isfinite(flat).all() and weight.min() >= 0 and weight.sum() > 0):
        raise ValueError("shares must be numbers of at least 0")
    order = np.argsort(tokens)
    share = np.cumsum(weight[order])
    return Lengths(np.maximum(tokens[order], 1).astype(np.int64), share / share[-1])

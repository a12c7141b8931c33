"""A production service from ServeGen client parameters (arXiv 2505.09999): each client has its own bursts and lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import ValidationInfo, field_validator

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import Seconds, Within
from simulator.reading.json_files import read_json
from simulator.rng import stream, uniform_at
from simulator.schema import beside
from simulator.traffic.arrivals import Gamma, Poisson, renewals
from simulator.traffic.public import PublicSource

_PER_WINDOW = 2**20  # requests of one client in a window; more would share their random draws


@dataclass(frozen=True)
class Window:
    """One client in one window: requests per second, and the distribution of the gaps between them (family, coefficient of variation, shape)."""

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
        return renewals(lambda n: scale * rng.weibull(c, n), residual, rate_rps, horizon_s)


@dataclass(frozen=True)
class Lengths:
    """Recorded token counts of a client, ascending, and their cumulative shares."""

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

    windows: tuple[Window, ...]
    lengths_from_s: Floats
    prompt: tuple[Lengths, ...]
    output: tuple[Lengths, ...]

    def lengths(self, time_s: float) -> tuple[Lengths, Lengths]:
        """Prompt and output lengths at a time: the last recorded before it, else the first."""
        row = max(int(np.searchsorted(self.lengths_from_s, time_s, side="right")) - 1, 0)
        return self.prompt[row], self.output[row]


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


class ServeGenSource(PublicSource):
    """A folder of ServeGen clients: `NAME-trace.csv` (start, rate, cv, family, two parameters) beside `NAME-dataset.json`.

    The folder is a `path`, or the `name` of a public one (`dsim traces list`); a path wins over a name. `load` is the mean rate over the whole
    record; every client is scaled alike. `clients` keeps that many, the busiest. A run starts `start_s` into the record, which repeats when it ends.
    """

    key: ClassVar = "servegen"

    clients: Annotated[int, Within(1, 1_000_000, "clients")] | None = None
    start_s: Seconds = 0.0

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        absolute = beside(path, info)
        return absolute if absolute.exists() else path.expanduser().resolve()

    @cached_property
    def folder(self) -> Path:
        """The folder of its files. Raises TraceError where a public one has not been downloaded."""
        return self.path or self.cached()

    def service(self) -> Service:
        """The clients, read once per process. Raises TraceError with file and line."""
        service = _read(self.folder)
        if self.clients is None or self.clients >= len(service.clients):
            return service
        busiest = np.sort(np.argsort(-service.rates.sum(axis=1), kind="stable")[: self.clients])
        return replace(service, clients=tuple(service.clients[i] for i in busiest))

    def files(self) -> list[Path]:
        """All files of the service."""
        return sorted([*self.folder.glob("*-trace.csv"), *self.folder.glob("*-dataset.json")])

    def requests(self, load_rps: float, horizon_s: float, seed: int, replication: int) -> tuple[Floats, Integers, Integers, Integers]:
        """Arrival times, prompt and output tokens and indices of all requests in [0, horizon_s), in order of arrival. # [n] each"""
        service = self.service()
        scale, width = load_rps / service.mean_rps, service.window_s
        first, last = int(self.start_s // width), int(np.ceil((self.start_s + horizon_s) / width))
        parts = []
        for number, client in enumerate(service.clients):
            for turn in range(first, max(last, first + 1)):
                window = client.windows[turn % len(client.windows)]
                times = np.empty(0)
                if window.rate_rps > 0:
                    times = window.times(window.rate_rps * scale, width, stream(seed, "servegen", replication, number, turn))
                    times = times + turn * width - self.start_s
                place = np.arange(len(times), dtype=np.int64)
                laws = zip(("prompt", "output"), client.lengths(window.start_s), strict=True)
                lengths = [law.at(uniform_at(seed, what, replication, number, turn, place)) for what, law in laws]
                part = (times, *lengths, (turn * len(service.clients) + number) * _PER_WINDOW + place)
                parts.append([column[(times >= 0) & (times < horizon_s)] for column in part])
        arrival, prompt, output, index = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(arrival, kind="stable")
        return arrival[order], prompt[order], output[order], index[order]


@lru_cache(maxsize=2)
def _read(folder: Path) -> Service:
    traces = sorted(folder.glob("*-trace.csv"), key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])
    if not traces:
        problem = "has no *-trace.csv" if folder.is_dir() else "no such folder"
        raise TraceError(problem, where=folder, key="servegen.path", remedy="name a folder of ServeGen clients, such as data/reason/deepseek-r1")
    clients = tuple(_client(trace) for trace in traces)
    starts = np.array([w.start_s for w in clients[0].windows])
    for client, trace in zip(clients, traces, strict=True):
        if [w.start_s for w in client.windows] != starts.tolist():
            raise TraceError("its windows differ from those of the first client", where=trace, remedy="use one folder per service")
    if len(starts) < 2 or np.ptp(np.diff(starts)) > 0 or starts[1] <= starts[0]:
        raise TraceError("expected at least two windows of equal length", where=traces[0], remedy="use ServeGen's own files")
    service = Service(clients, starts, float(starts[1] - starts[0]))
    if not service.rates.any():
        raise TraceError("no client has a rate above 0", where=folder, remedy="choose another service")
    return service


def _client(trace: Path) -> Client:
    windows = []
    for number, line in enumerate(trace.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split(",")
        try:
            start, rate, cv = float(fields[0]), float(fields[1]), float(fields[2] or 0)
            family, shape = fields[3], float(fields[4] or 0)
        except (ValueError, IndexError):
            raise TraceError("expected start,rate,cv,family,parameter,parameter", where=f"{trace}:{number}", remedy="fix or drop the line") from None
        if not (np.isfinite([start, rate, cv, shape]).all() and rate >= 0 and cv >= 0):
            raise TraceError("rate and cv must be numbers of at least 0", where=f"{trace}:{number}", remedy="fix or drop the line")
        if family not in ("", "Gamma", "Weibull"):
            raise TraceError(f"expected Gamma or Weibull, got '{family}'", where=f"{trace}:{number}", remedy="use ServeGen's own files")
        known = family == "Weibull" and shape > 0  # else gaps follow a gamma law with the cv, and without a cv they are exponential
        windows.append(Window(start, rate, cv, "Weibull" if known else "Gamma" if cv > 0 else "Poisson", shape))
    return Client(tuple(windows), *_dataset(trace.with_name(trace.name.removesuffix("-trace.csv") + "-dataset.json")))


def _dataset(path: Path) -> tuple[Floats, tuple[Lengths, ...], tuple[Lengths, ...]]:
    content = read_json(path, TraceError, "use a service that has lengths, such as reason/deepseek-r1")
    try:
        times = sorted((t for t in content if content[t]["input_tokens"] != "{}" and content[t]["output_tokens"] != "{}"), key=float)
        if not times:
            raise ValueError("no lengths")
        laws = [[_lengths(content[t][column]) for t in times] for column in ("input_tokens", "output_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise TraceError(f"not a valid ServeGen dataset ({problem})", where=path, remedy="use ServeGen's own files") from None
    return np.array([float(t) for t in times]), tuple(laws[0]), tuple(laws[1])


def _lengths(text: str) -> Lengths:
    """A distribution, written as a Python dict from length to share."""
    flat = np.array(text.strip("{} ").replace(":", ",").split(","), dtype=np.float64)  # ten times as fast as ast.literal_eval
    tokens, weight = flat.reshape(-1, 2).T
    if not (np.isfinite(flat).all() and weight.min() >= 0 and weight.sum() > 0):
        raise ValueError("shares must be numbers of at least 0")
    if not (tokens >= 0).all() or (tokens != np.rint(tokens)).any():
        raise ValueError("lengths must be whole numbers of at least 0")
    order = np.argsort(tokens)
    share = np.cumsum(weight[order])
    return Lengths(np.maximum(tokens[order], 1).astype(np.int64), share / share[-1])

"""ServeGen client parameters (arXiv 2505.09999) as they are read and drawn from: each client has its own bursts and lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.complaints import shown
from simulator.errors import TraceError
from simulator.quantities import MOST_TOKENS
from simulator.reading.json_files import read_json
from simulator.reading.opening import read_text
from simulator.traffic.arrivals import Gamma, Poisson, renewals

_MOST_RPS, _MOST_CV = 1e6, 100.0
MOST_S = 1e9
_SHAPES = (0.2, 20.0)  # of Weibull gaps: a cv of 16 to 0.06
_OWN_FILES = "use ServeGen's own files"
_NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
_LETTERS = set("0123456789.eE+-:, ")


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
            return Gamma(cv=self.cv).times(rate_rps, horizon_s, rng)
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

    @cached_property
    def rates(self) -> Floats:
        """Requests per second of every client in every window. # [C, W]"""
        return np.array([[w.rate_rps for w in client.windows] for client in self.clients])

    @cached_property
    def mean_rps(self) -> float:
        """Requests per second of all clients over the whole record."""
        return float(self.rates.sum(axis=0).mean())

    @property
    def span_s(self) -> float:
        """Length of the whole record."""
        return float(len(self.starts_s) * self.window_s)


@lru_cache(maxsize=2)
def read_service(folder: Path) -> Service:
    traces = sorted(
        folder.glob("*-trace.csv"), key=lambda p: [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", p.name)]
    )
    if not traces:
        problem = "has no *-trace.csv" if folder.is_dir() else "no such folder"
        raise TraceError(problem, where=folder, key="servegen.path", remedy="name a folder of ServeGen clients, such as data/reason/deepseek-r1")
    clients = tuple(_client(trace) for trace in traces)
    starts = np.array([w.start_s for w in clients[0].windows])
    if len(starts) < 2 or np.ptp(np.diff(starts)) > 0 or starts[1] - starts[0] < 1:
        raise TraceError("expected at least two windows of equal length, of a second or more", where=traces[0], remedy=_OWN_FILES)
    for client, trace in zip(clients, traces, strict=True):
        if [w.start_s for w in client.windows] != starts.tolist():
            raise TraceError("its windows differ from those of the first client", where=trace, remedy="use one folder per service")
    service = Service(clients, starts, float(starts[1] - starts[0]))
    if not service.rates.any():
        raise TraceError("no client has a rate above 0", where=folder, remedy="choose another service")
    return service


def _client(trace: Path) -> Client:
    windows = [_window(line, f"{trace}:{number}") for number, line in enumerate(read_text(trace, TraceError).splitlines(), 1) if line.strip()]
    return Client(tuple(windows), *_dataset(trace.with_name(trace.name.removesuffix("-trace.csv") + "-dataset.json")))


def _window(line: str, where: str) -> Window:
    fields = line.split(",")
    if len(fields) != 6 or not all(_NUMBER.fullmatch(field or "0") for place, field in enumerate(fields) if place != 3):
        raise TraceError("expected start,rate,cv,family,parameter,parameter", where=where, remedy="fix or drop the line")
    (start, rate, cv, shape), family = (float(fields[place] or 0) for place in (0, 1, 2, 4)), fields[3]
    for name, value, most in (("start", start, MOST_S), ("rate", rate, _MOST_RPS), ("cv", cv, _MOST_CV)):
        if not 0 <= value <= most:
            raise TraceError(f"{name} must be from 0 to {most:g}, got {value:g}", where=where, remedy="fix or drop the line")
    if family not in ("", "Gamma", "Weibull"):
        raise TraceError(f"expected Gamma or Weibull, got {shown(family)}", where=where, remedy=_OWN_FILES)
    if family == "Weibull" and shape and not _SHAPES[0] <= shape <= _SHAPES[1]:
        raise TraceError(f"a Weibull shape must be from {_SHAPES[0]:g} to {_SHAPES[1]:g}, got {shape:g}", where=where, remedy="fix or drop the line")
    known = family == "Weibull" and shape > 0  # else gaps follow a gamma law with the cv, and without a cv they are exponential
    return Window(start, rate, cv, "Weibull" if known else "Gamma" if cv > 0 else "Poisson", shape)


def _dataset(path: Path) -> tuple[Floats, tuple[Lengths, ...], tuple[Lengths, ...]]:
    content = read_json(path, TraceError, "use a service that has lengths, such as reason/deepseek-r1")
    from_s: list[float] = []
    laws: tuple[list[Lengths], list[Lengths]] = [], []
    for time, row in content.items():
        texts = [row.get(column) if isinstance(row, dict) else None for column in ("input_tokens", "output_tokens")]
        if "{}" in texts:
            continue
        try:
            if not _NUMBER.fullmatch(time) or not 0 <= float(time) <= MOST_S:
                raise ValueError(f"expected a time from 0 to {MOST_S:g} s")
            for law, text in zip(laws, texts, strict=True):
                law.append(_lengths(text))
        except ValueError as problem:
            raise TraceError(f"not a valid ServeGen dataset ({problem})", where=path, key=time[:40], remedy=_OWN_FILES) from None
        from_s.append(float(time))
    if not from_s:
        raise TraceError("not a valid ServeGen dataset (no lengths)", where=path, remedy=_OWN_FILES)
    order = np.argsort(from_s, kind="stable").tolist()
    times = np.array(from_s)[order]
    if (np.diff(times) == 0).any():
        raise TraceError("not a valid ServeGen dataset (a time appears twice)", where=path, remedy=_OWN_FILES)
    return times, tuple(laws[0][i] for i in order), tuple(laws[1][i] for i in order)


def _lengths(text: object) -> Lengths:
    """A distribution, written as a Python dict from length to share."""
    example = "expected lengths with their shares, such as {120: 0.25, 300: 0.75}"
    if not isinstance(text, str) or not (text.startswith("{") and text.endswith("}")) or not set(text[1:-1]) <= _LETTERS:
        raise ValueError(example)
    letters = np.frombuffer(text.encode(), dtype=np.uint8)
    marks = letters[(letters == ord(":")) | (letters == ord(","))]
    if len(marks) % 2 == 0 or (marks[0::2] != ord(":")).any() or (marks[1::2] != ord(",")).any():
        raise ValueError(example)
    try:
        flat = np.array(text[1:-1].replace(":", ",").split(","), dtype=np.float64)  # ten times as fast as ast.literal_eval
    except ValueError:
        raise ValueError(example) from None
    tokens, weight = flat.reshape(-1, 2).T
    if weight.min() < 0 or not 1e-15 <= weight.max() <= 1e15:
        raise ValueError("shares must be numbers from 0 to 1e15, one of them above 1e-15")
    if not ((tokens >= 0) & (tokens <= MOST_TOKENS)).all() or (tokens != np.rint(tokens)).any():
        raise ValueError(f"lengths must be whole numbers from 0 to {MOST_TOKENS:,}")
    order = np.argsort(tokens)
    if (np.diff(tokens[order]) == 0).any():
        raise ValueError("a length appears twice")
    share = np.cumsum(weight[order])
    return Lengths(np.maximum(tokens[order], 1).astype(np.int64), share / share[-1])

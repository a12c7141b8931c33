"""A production service from ServeGen client parameters (arXiv 2505.09999): each client has its own bursts and lengths."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import ValidationInfo, field_validator

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_REQUESTS, Seconds, Within
from simulator.rng import stream, uniform_at
from simulator.schema import beside
from simulator.traffic.public import PublicSource
from simulator.traffic.servegen_files import Service, read_service

_PER_WINDOW = 2**20  # requests of one client in a window; more would share their random draws
_MOST_TURNS = 5_000_000  # windows of all clients in a run


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
        service = read_service(self.folder)
        if self.clients is None or self.clients >= len(service.clients):
            return service
        busiest = np.sort(np.argsort(-service.rates.sum(axis=1), kind="stable")[: self.clients])
        return replace(service, clients=tuple(service.clients[i] for i in busiest))

    def files(self) -> list[Path]:
        """All files of the service."""
        return sorted([*self.folder.glob("*-trace.csv"), *self.folder.glob("*-dataset.json")])

    def expected(self, load_rps: float, horizon_s: float) -> float:
        """Requests in [0, horizon_s), in the mean; where the run ends or begins in a window, those of the whole window."""
        service = self.service()
        rates, width = service.rates.sum(axis=0), service.window_s
        first, last = self.start_s // width, -((self.start_s + horizon_s) // -width)
        rounds, rest = divmod(last - first, len(rates))
        part = np.arange(first, first + rest).astype(np.int64) % len(rates)
        return float((rounds * rates.sum() + rates[part].sum()) * width * load_rps / service.mean_rps)

    def requests(self, load_rps: float, horizon_s: float, seed: int, replication: int) -> tuple[Floats, Integers, Integers, Integers]:
        """Arrival times, prompt and output tokens and indices of all requests in [0, horizon_s), in order of arrival. # [n] each"""
        service = self.service()
        scale, width = load_rps / service.mean_rps, service.window_s
        first, last = int(self.start_s // width), int(np.ceil((self.start_s + horizon_s) / width))
        if (last - first) * len(service.clients) > _MOST_TURNS:
            problem = f"the run has {last - first:,} windows of {width:g} s of {len(service.clients):,} clients"
            raise TraceError(problem, where=self.folder, key="servegen", remedy="shorten it, or set servegen.clients")
        if (busiest := service.rates.max() * scale * width) > _PER_WINDOW / 2:
            problem = f"a client sends {busiest:,.0f} requests in a window of {width:g} s, expected at most {_PER_WINDOW // 2:,}"
            raise TraceError(problem, where=self.folder, key="load", remedy="lower it")
        if (expected := self.expected(load_rps, horizon_s)) > MOST_REQUESTS:
            problem = f"the run has about {expected:,.0f} requests, expected at most {MOST_REQUESTS:,}"
            raise TraceError(problem, where=self.folder, key="load", remedy="lower it, or shorten the run")
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

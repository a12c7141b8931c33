"""What an engine's series adds to its operators, and how it is fitted on the even half: a host time per step, a factor on collectives, a front end.

Three numbers for each (engine, major version), by least absolute errors of logarithms. Runs of no known version, older ones, are series 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simulator.arrays import Floats
from simulator.errors import DsimError
from simulator.reading.csv_files import read_csv
from simulator.study.validation.silicon.predicted import Predicted
from simulator.study.validation.silicon.sample import Run
from simulator.study.validation.silicon.setups import setup_of
from simulator.study.work.kept import digest

HOSTS = Path(__file__).parents[2] / "estimate" / "host.csv"  # of every estimate; made by benchmarks/silicon.py
COLUMNS = ("engine", "major", "host_s", "collective", "frontend_s")
_LEAST_RUNS = 20
_HOSTS_S = np.arange(0, 0.0051, 0.0001)
_COLLECTIVES = np.array([0.5, 0.7, 1.0, 1.25, 1.5, 2.0])
_FRONTENDS_S = np.arange(0, 0.3001, 0.001)
_MOST_ERROR = 0.5  # of a logarithm: a run that is off by a factor (another batch limit, speculation) weighs no more than one that is off by 1.6
_LATEST = (1 << 30,)


@dataclass(frozen=True)
class Host:
    """Seconds of the host per step, a factor on collectives, seconds before a request is in the engine."""

    host_s: float = 0.0
    collective: float = 1.0
    frontend_s: float = 0.0


@dataclass(frozen=True)
class Hosts:
    """By engine and series: a run has those of its engine's latest series that is not later than its own, else of the earliest."""

    fitted: Mapping[tuple[str, str], Host] = field(default_factory=dict)

    def of(self, run: Run) -> Host:
        """That of a run's engine; nothing where none was fitted."""
        series = sorted((_numbers(major), major) for engine, major in self.fitted if engine == run.engine)
        if not series:
            return Host()
        before = [major for numbers, major in series if numbers <= _numbers(run.series)]
        return self.fitted[run.engine, before[-1] if before else series[0][1]]

    @property
    def digest(self) -> str:
        """Changes with any of the numbers."""
        return digest(sorted([list(key), list(vars(host).values())] for key, host in self.fitted.items()))


def read_hosts() -> Hosts:
    """Those that come with dsim."""
    rows = read_csv(HOSTS, COLUMNS, DsimError).astype(str).to_dict("records")
    return Hosts({(row["engine"], row["major"]): Host(*(float(row[name]) for name in COLUMNS[2:])) for row in rows})


def fit_hosts(runs: Sequence[Run], predicted: Sequence[Predicted]) -> Hosts:
    """Fitted on these runs, which were predicted with nothing added."""
    pairs = [(run, row) for run, row in zip(runs, predicted, strict=True) if not row.why and row.tpot_s > 0]
    fitted = {}
    for key in sorted({(run.engine, run.series) for run, _ in pairs}):
        mine = [(run, row) for run, row in pairs if (run.engine, run.series) == key]
        if len(mine) >= _LEAST_RUNS and key[1] != "nightly":
            fitted[key[0], f"{key[1]}.x"] = _fit(mine)  # a word: 0.10 is not 0.1
    return Hosts(fitted)


def with_host(run: Run, row: Predicted, host: Host) -> Predicted:
    """A run that was predicted with nothing added, as it would be with this: what is added to a step is added to every one."""
    tpot_s = row.tpot_s + row.steps * (host.host_s + (host.collective - 1) * row.collective_s)
    ttft_s = row.alone_ttft_s + setup_of(run).wait_steps * tpot_s + host.frontend_s
    return row.model_copy(update={"tpot_s": tpot_s, "ttft_s": ttft_s})


def _fit(pairs: Sequence[tuple[Run, Predicted]]) -> Host:
    columns = ((run.tpot_s, row.tpot_s, row.steps, row.collective_s, run.ttft_s, row.alone_ttft_s, setup_of(run).wait_steps) for run, row in pairs)
    measured, tpot, steps, shared, ttft, alone, waits = (np.array(values) for values in zip(*columns, strict=True))
    choices = [(_error(measured, tpot + steps * (h + (c - 1) * shared)), h, c) for h in _HOSTS_S.tolist() for c in _COLLECTIVES.tolist()]
    _, host_s, collective = min(choices)
    pace = tpot + steps * (host_s + (collective - 1) * shared)
    _, frontend_s = min((_error(ttft, alone + waits * pace + f), f) for f in _FRONTENDS_S.tolist())
    return Host(host_s, collective, frontend_s)


def _error(measured: Floats, predicted: Floats) -> float:
    return float(np.minimum(np.abs(np.log(np.maximum(predicted, 1e-9) / measured)), _MOST_ERROR).mean())


def _numbers(series: str) -> tuple[int, ...]:
    return _LATEST if series == "nightly" else tuple(int(digits) for digits in re.findall(r"\d+", series))

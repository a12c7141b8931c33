"""How what an engine's series adds to its operators is fitted on the even half: a host time per step, a factor on collectives, a front end.

Three numbers for each (engine, major version), by least absolute errors of logarithms. Runs of no known version, older ones, are series 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.arrays import Floats
from simulator.study.estimate.hosts import Host, Hosts
from simulator.study.validation.silicon.predicted import Predicted
from simulator.study.validation.silicon.sample import Run
from simulator.study.validation.silicon.setups import setup_of

_LEAST_RUNS = 20
_HOSTS_S = np.arange(0, 0.0051, 0.0001)
_COLLECTIVES = np.array([0.5, 0.7, 1.0, 1.25, 1.5, 2.0])
_FRONTENDS_S = np.arange(0, 0.3001, 0.001)
_MOST_ERROR = 0.5  # of a logarithm: a run that is off by a factor (another batch limit, speculation) weighs no more than one that is off by 1.6


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

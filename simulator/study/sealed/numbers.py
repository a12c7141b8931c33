"""The numbers of a cell that are sealed and scored, each defined as benchmark clients print it (vllm/benchmarks/serve.py, `calculate_metrics`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.study.run.client import names
from simulator.study.run.result import Range
from simulator.traffic.benchmark import Client

Values = Sequence[float] | Floats
SPEED, THROUGHPUT = "tps_per_user", "throughput_tok_s"


@dataclass(frozen=True)
class Number:
    """A number of a cell: what vLLM's client calls it, in which unit (`inverse`: it is milliseconds of which this is the rate), and what it is."""

    name: str
    printed: str
    factor: float
    inverse: bool
    title: str
    unit: str
    doc: str


NUMBERS = {
    number.name: number
    for number in (
        Number(SPEED, "mean_tpot_ms", 1e3, True, "per-user speed", "tok/s", "1 ÷ mean over requests of (latency − TTFT) ÷ (output tokens − 1)"),
        Number(THROUGHPUT, "output_throughput", 1.0, False, "throughput", "tok/s", "output tokens ÷ seconds from start to last answer"),
        *(
            Number(f"{time}_{word}_s", f"{printed}_{time}_ms", 1e-3, False, f"{time.upper()} {word}", "ms", f"{word} over requests, seconds")
            for time in ("tpot", "ttft")
            for word, printed in (("mean", "mean"), ("p50", "median"), ("p90", "p90"))
        ),
        Number("accepted_length", "spec_decode_acceptance_length", 1.0, False, "accepted length", "tok/round",
               "tokens of a request and decode round, rounds that drafted nothing included"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Predicted:
    """A number and its 90 % prediction interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def predicted(client: Client, values: Mapping[str, Any], intervals: Mapping[str, Range]) -> dict[str, Predicted]:
    """The numbers of a cell, from what the simulated client prints (estimates by its own names) and their prediction intervals."""
    own, found = names(client), {}
    for number in NUMBERS.values():
        name = own.get(number.printed, "")
        if (estimate := values.get(name)) is None or not estimate.mean:
            continue
        ends = (intervals[name].low, intervals[name].high) if name in intervals else (None, None)
        value, low, high = (None if end is None else number.factor / end if number.inverse else number.factor * end for end in (estimate.mean, *ends))
        found[number.name] = Predicted(value, *((high, low) if number.inverse else (low, high)))  # type: ignore[arg-type]
    return found


def measured(point: LoadPoint) -> dict[str, float]:
    """The numbers that a result file has."""
    values = {
        SPEED: point.tps_per_user, THROUGHPUT: point.throughput_tok_s, "accepted_length": point.accepted_length,
        "tpot_mean_s": 1 / point.tps_per_user, "tpot_p50_s": point.tpot_p50_s, "tpot_p90_s": point.tpot_p90_s,
        "ttft_mean_s": point.ttft_s, "ttft_p50_s": point.ttft_p50_s, "ttft_p90_s": point.ttft_p90_s,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value}


def noise_of(cells: Iterable[Values]) -> float | None:
    """Standard deviation of one measurement's logarithm, pooled over the repeats of each cell; None where no cell has any."""
    repeated = [np.log(values) for values in cells if len(values) > 1]
    return sqrt(sum(float(np.var(logs)) * len(logs) for logs in repeated) / sum(len(logs) - 1 for logs in repeated)) if repeated else None

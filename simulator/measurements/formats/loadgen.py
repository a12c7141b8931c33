"""Results of load generators, an operating point each: AIPerf and GenAI-Perf (profile_export_aiperf.json, schema 1.5), GuideLLM (benchmarks.json,
vllm-project/guidellm at 06cef29); those of engines are in bench.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.fit import SPEED, USERS
from simulator.measurements.formats.reading import Count, Document, Line, Part, read_document
from simulator.measurements.formats.rounds import SpecCounters
from simulator.quantities import Within, spoken

STREAMED = "measure streamed answers of two tokens or more"
THROUGHPUT = (1e-3, 1e9)  # tokens per second

Mean = Annotated[float, Within(0, 1e12)]


@dataclass(frozen=True)
class LoadPoint:
    """What users saw at one load. Speed is (tokens - 1) / (last - first token) of a request, its mean or the inverse of mean TPOT; tokens
    committed and verified per decode round (bonus and anchor included) and survival by position, over the rounds that proposed, are None where the
    file does not have them."""

    source: str
    tps_per_user: float
    throughput_tok_s: float
    ttft_s: float | None = None
    accepted_length: float | None = None
    budget: float | None = None
    survival: list[float] | None = None
    engine: str = ""
    model: str = ""
    proposing: float | None = None  # share of decode rounds in which anything was drafted; 0 without speculation
    slots: int | None = None  # most tokens drafted of a request and round (k); 0 without speculation
    rounds: float | None = None  # decode rounds of all requests that acceptance was counted over
    prompt_tokens: float | None = None  # mean of a request
    output_tokens: float | None = None  # mean of a request, the first included
    requests: int | None = None  # that finished
    failed: int | None = None
    offered: float | None = None  # most requests in flight that the client allowed (--max-concurrency)
    duration_s: float | None = None
    adaptive: bool = False  # lengths were cut by the engine: what lies beyond the cut was never tried

    @property
    def concurrency(self) -> float:
        """Requests decoding at once: throughput, less first tokens where answers are known to be that short, ÷ speed (Little's law)."""
        after_first = 1 - 1 / self.output_tokens if self.output_tokens and self.output_tokens > 1 else 1.0
        return self.throughput_tok_s * after_first / self.tps_per_user

    def counted(self, counters: SpecCounters) -> LoadPoint:
        """The point with what an engine counted of its rounds."""
        return replace(
            self, accepted_length=counters.accepted_length, budget=counters.budget, survival=counters.survival or None, proposing=counters.proposing,
            slots=counters.slots or None, rounds=counters.rounds or counters.drafts, adaptive=counters.cut,
        )  # fmt: skip


@dataclass(frozen=True)
class Loads:
    """Operating points of some files, which of them had no finished request and were left out, and what a reader has to know about them."""

    points: list[LoadPoint]
    left_out: list[str]
    remarks: list[str] = field(default_factory=list)


def read_loads(files: Iterable[Path], read: Callable[[Path], Loads]) -> Loads:
    """The points of all files. Raises DsimError, also where a point is there twice, where they are of two engines or models, and where no request
    finished at all."""
    every = [(file, read(file)) for file in files]
    seen: dict[LoadPoint, str] = {}
    for file, loads in every:
        for point in loads.points:
            _check_range(point, file)
            numbers = replace(point, source="", survival=None)
            if numbers in seen:
                raise DsimError(f"{point.source} has the numbers of {seen[numbers]}", where=file, remedy="give every measurement once")
            first = next(iter(seen), point)
            if point.engine != first.engine:
                raise DsimError(f"{point.source} and {seen[first]} are of two engines", where=file, remedy="give the results of one server")
            if point.model != first.model and point.model and first.model:
                problem = f"{point.source} is of model {shown(point.model)}, and {seen[first]} of {shown(first.model)}"
                raise DsimError(problem, where=file, remedy="give the results of one server")
            seen[numbers] = point.source
    left_out = [name for _, loads in every for name in loads.left_out]
    if left_out and not seen:
        raise DsimError("no request finished", where=every[0][0], remedy="measure lower loads, or for longer")
    points = [point for _, loads in every for point in loads.points]
    return Loads(points, left_out, [remark for _, loads in every for remark in loads.remarks])


def _check_range(point: LoadPoint, file: Path) -> None:
    """Raises DsimError where no server is that slow, fast or large: the unit is another one."""
    for what, value, (least, most) in (
        ("tokens per second and user", point.tps_per_user, SPEED),
        ("tokens per second", point.throughput_tok_s, THROUGHPUT),
        ("requests in flight (throughput ÷ speed)", point.concurrency, USERS),
    ):
        if not least <= value <= most:
            problem = f"{point.source}: expected {spoken(least)} to {spoken(most)} {what}, got {value:g}"
            raise DsimError(problem, where=file, remedy="check the units")


_PER_S = re.compile(r"(?:output )?tok(?:en)?s? ?(?:/|per) ?(?P<time>\S+?)(?: ?(?:/|per) ?user)?")
_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
_SPELT = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "msec": "ms", "millisecond": "ms", "milliseconds": "ms", "µs": "us", "μs": "us",
          "microsecond": "us", "microseconds": "us", "nanosecond": "ns", "nanoseconds": "ns", "minute": "min", "minutes": "min"}  # fmt: skip


class _Metric(Part):
    unit: Line
    avg: Mean


class _Export(Part):
    """AIPerf's or GenAI-Perf's export."""

    output_token_throughput: _Metric
    output_token_throughput_per_user: _Metric
    time_to_first_token: _Metric | None = None


def read_aiperf(path: Path) -> Loads:
    """A profile_export_aiperf.json, or GenAI-Perf's; the unit of a metric says what its numbers are. Raises DsimError with file and field."""
    document = read_document(path, "output_token_throughput", "output_token_throughput_per_user", "request_latency", "inter_token_latency")
    if all(document.content.get(key) is None for key in ("output_token_throughput_per_user", "time_to_first_token", "inter_token_latency")):
        raise document.fail("output_token_throughput_per_user", "is missing: it was not streamed", "measure with --streaming")
    export = document.read(_Export)
    speed = _value(document, "output_token_throughput_per_user", export.output_token_throughput_per_user, _tokens_per_s)
    throughput = _value(document, "output_token_throughput", export.output_token_throughput, _tokens_per_s)
    ttft = None
    if export.time_to_first_token is not None:
        ttft = _value(document, "time_to_first_token", export.time_to_first_token, _seconds)
    return Loads([LoadPoint(path.name, speed, throughput, ttft)], [])


def _seconds(unit: str) -> float | None:
    """Seconds in a unit of time, None of another one."""
    return _S.get(_SPELT.get(unit, unit))


def _tokens_per_s(unit: str) -> float | None:
    """Tokens per second in a unit, None of another one."""
    match = _PER_S.fullmatch(unit)
    seconds = _seconds(match["time"]) if match else None
    return 1 / seconds if seconds else None


def _value(document: Document, name: str, metric: _Metric, read_unit: Callable[[str], float | None]) -> float:
    factor = read_unit(" ".join(metric.unit.lower().split()))
    if factor is None:
        known = "tokens/sec, tokens/s/user, tok/s" if read_unit is _tokens_per_s else "ms, s, us, ns"
        raise document.fail(f"{name}.unit", f"unknown unit {shown(metric.unit)}", f"known units: {known}")
    if metric.avg == 0:
        raise document.fail(f"{name}.avg", "expected a number above 0, got 0", "measure it again")
    return metric.avg * factor


class _Mean(Part):
    mean: Mean | None = None


class _Statistic(Part):
    successful: _Mean | None = None


class _Totals(Part):
    successful: Count | None = None


class _Metrics(Part):
    request_totals: _Totals | None = None
    inter_token_latency_ms: _Statistic
    output_tokens_per_second: _Statistic
    time_to_first_token_ms: _Statistic


class _Benchmark(Part):
    metrics: _Metrics


class _Report(Part):
    benchmarks: Annotated[list[_Benchmark], Field(min_length=1, max_length=10_000, fail_fast=True)]


def read_guidellm(path: Path) -> Loads:
    """Every benchmark of a benchmarks.json, of its successful requests; those without any are left out. GuideLLM's inter-token latency is
    (last - first token) / (tokens - 1) of a request, weighted by its tokens; its time per output token counts the first token too and is not used.
    Raises DsimError with file and field."""
    document = read_document(path, "benchmarks")
    points, left_out = [], []
    for number, benchmark in enumerate(document.read(_Report).benchmarks):
        name, metrics = f"{path.name}, benchmark {number}", benchmark.metrics
        keys = ("inter_token_latency_ms", "output_tokens_per_second", "time_to_first_token_ms")
        means = {key: metric.successful and metric.successful.mean for key in keys if (metric := getattr(metrics, key))}
        if (metrics.request_totals and metrics.request_totals.successful == 0) or not any(means.values()):
            left_out.append(name)
            continue
        for key, mean in means.items():
            if not mean:
                problem = f"expected a number above 0, got {shown(mean)}"
                raise document.fail(f"benchmarks.{number}.metrics.{key}.successful.mean", problem, STREAMED)
        latency, throughput, ttft = (float(mean or 0) for mean in means.values())
        points.append(LoadPoint(name, 1e3 / latency, throughput, ttft / 1e3))
    return Loads(points, left_out)

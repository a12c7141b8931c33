"""Results of AIPerf and GenAI-Perf: profile_export_aiperf.json (schemas 1.4 and 1.5), with the counters of the server beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from simulator.complaints import shown
from simulator.measurements.formats.loadgen import LoadPoint, Loads, after_first
from simulator.measurements.formats.reading import Count, Document, Line, Part, read_document
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.formats.scrapes import counters_of
from simulator.quantities import Within

Mean = Annotated[float, Within(0, 1e12)]
TOLD = 0.1  # relative difference of tokens counted by server and client, up to which only their tokenizers differ
APART = 5.0  # ratio of the mean speed to one over the mean time per token, beyond which one of them has another unit

_PER_S = re.compile(r"(?:output )?tok(?:en)?s? ?(?:/|per) ?(?P<time>\S+?)(?: ?(?:/|per) ?user)?")
_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
_SPELT = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "msec": "ms", "millisecond": "ms", "milliseconds": "ms", "µs": "us", "μs": "us",
          "microsecond": "us", "microseconds": "us", "nanosecond": "ns", "nanoseconds": "ns", "minute": "min", "minutes": "min"}  # fmt: skip


class _Metric(Part):
    unit: Line
    avg: Mean


class _Named(Part):
    name: Line


class _Models(Part):
    items: Annotated[list[_Named], Field(max_length=1000)] | None = None


class _Phase(Part):
    kind: Line | None = None
    type: Line | None = None
    concurrency: Annotated[float, Within(0, 1e9, "requests")] | None = None


class _Loadgen(Part):
    concurrency: Annotated[float, Within(0, 1e9, "requests")] | None = None
    request_rate: Annotated[float, Within(0, 1e9, "requests per second")] | None = None


class _Endpoint(Part):
    model_names: Annotated[list[Line], Field(max_length=1000)] | None = None


class _Input(Part):
    """What AIPerf was asked; `loadgen` and `endpoint` are of versions before 0.9."""

    models: _Models | None = None
    phases: Annotated[list[_Phase], Field(max_length=1000)] | None = None
    loadgen: _Loadgen | None = None
    endpoint: _Endpoint | None = None

    @property
    def offered(self) -> float | None:
        """Requests in flight that the client kept up, where it did nothing else."""
        if self.phases is None and self.loadgen is not None:
            return None if self.loadgen.request_rate else self.loadgen.concurrency or None
        measured = [phase for phase in self.phases or () if phase.kind in (None, "profiling")]
        return measured[0].concurrency or None if len(measured) == 1 and measured[0].type == "concurrency" else None

    @property
    def model(self) -> str:
        """The model, where there is one."""
        names = [model.name for model in (self.models and self.models.items) or ()] or (self.endpoint and self.endpoint.model_names) or []
        return names[0] if len(names) == 1 else ""


class _Failure(Part):
    count: Count


class _Export(Part):
    """AIPerf's or GenAI-Perf's export."""

    output_token_throughput: _Metric
    output_token_throughput_per_user: _Metric | None = None
    inter_token_latency: _Metric | None = None
    inter_chunk_latency: _Metric | None = None
    time_to_first_token: _Metric | None = None
    request_latency: _Metric | None = None
    benchmark_duration: _Metric | None = None
    input_sequence_length: _Metric | None = None
    output_sequence_length: _Metric | None = None
    request_count: _Metric | None = None
    error_request_count: _Metric | None = None
    error_summary: Annotated[list[_Failure], Field(max_length=10_000)] | None = None
    usage_prompt_tokens: _Metric | None = None
    usage_completion_tokens: _Metric | None = None
    input_config: _Input | None = None
    benchmark_id: Line | None = None
    end_time: Line | None = None  # local time of the client's machine

    @property
    def failed(self) -> int | None:
        """Requests that failed."""
        if self.error_request_count is None and self.error_summary is not None:
            return sum(failure.count for failure in self.error_summary)
        return _count(self.error_request_count)


def read_aiperf(path: Path, pieces: bool = True) -> Loads:
    """A profile_export_aiperf.json, or GenAI-Perf's, with the server_metrics_export.json of the same benchmark beside it; the unit of a metric says
    what its numbers are. The time per token is the mean over requests: the mean of their speeds is another number where users are unlike (by a sixth
    with two kinds of text under speculation). `pieces`: those of an answer tell whether the server speculates. Raises DsimError with file and
    field."""
    document = read_document(path, "output_token_throughput", "output_token_throughput_per_user", "request_latency", "inter_token_latency")
    if all(document.content.get(key) is None for key in ("output_token_throughput_per_user", "time_to_first_token", "inter_token_latency")):
        raise document.fail("output_token_throughput_per_user", "is missing: it was not streamed", "measure with --streaming")
    export = document.read(_Export)
    told = export.input_config or _Input()
    remarks: list[str] = []
    whole_s, ttft_s = (_maybe(document, name, getattr(export, name)) for name in ("request_latency", "time_to_first_token"))
    point = LoadPoint(
        source=path.name, tps_per_user=_speed(document, export), model=told.model, requests=_count(export.request_count), failed=export.failed,
        throughput_tok_s=_value(document, "output_token_throughput", export.output_token_throughput, _tokens_per_s),
        ttft_s=ttft_s, answer_s=after_first(whole_s, ttft_s), prompt_tokens=_mean(export.input_sequence_length),
        output_tokens=_mean(export.output_sequence_length), offered=told.offered,
        duration_s=_maybe(document, "benchmark_duration", export.benchmark_duration), measured_at=export.end_time or "",
    )  # fmt: skip
    gap_s = _maybe(document, "inter_chunk_latency", export.inter_chunk_latency) if pieces else None
    counters = _of_server(path, export.benchmark_id)
    point = point.one_token_pieces(gap_s) if counters is None else point.counted(counters)
    if prompt := _mean(export.usage_prompt_tokens):
        point = replace(point, prompt_tokens=prompt)
    if usage := _mean(export.usage_completion_tokens):
        point, remarks = _by_usage(point, usage)
    if counters is not None:
        remarks += counters.remarks(path.name, point.requests * point.output_tokens if point.requests and point.output_tokens else None)
    return Loads([point], [], remarks)


def _by_usage(point: LoadPoint, usage: float) -> tuple[LoadPoint, list[str]]:
    """The point in tokens of the server, which counts `usage` of an answer, instead of those that the client's tokenizer makes of its text."""
    seen = point.output_tokens
    if not seen or min(seen, usage) <= 1 or usage == seen:
        return point, []
    if abs(usage / seen - 1) > TOLD:
        problem = f"{point.source}: the server counted {usage:.4g} tokens of an answer, and the client saw {seen:.4g}"
        return point, [f"{problem}: speeds are of what it saw"]
    speed, throughput = point.tps_per_user * (usage - 1) / (seen - 1), point.throughput_tok_s * usage / seen
    return replace(point, tps_per_user=speed, throughput_tok_s=throughput, output_tokens=usage), []


def _of_server(path: Path, benchmark: str | None) -> SpecCounters | None:
    """Counters of the server that AIPerf left beside its export, of the same benchmark."""
    beside = path.with_name("server_metrics_export.json")
    if benchmark is None or not beside.is_file():
        return None
    metrics = read_document(beside, "metrics")
    return counters_of(metrics) if metrics.content.get("benchmark_id") == benchmark else None


def _speed(document: Document, export: _Export) -> float:
    """Tokens per second of a user: one over the mean time per token, else the mean of speeds. Raises DsimError where they are worlds apart."""
    key = "output_token_throughput_per_user"
    mean = None if export.output_token_throughput_per_user is None else _value(document, key, export.output_token_throughput_per_user, _tokens_per_s)
    if export.inter_token_latency is None:
        if mean is None:
            raise document.fail(key, "is missing", "measure with --streaming")
        return mean
    speed = 1 / _value(document, "inter_token_latency", export.inter_token_latency, _seconds)
    if mean is not None and not 1 / APART < mean / speed < APART:
        problem = f"says {mean:.4g} tokens per second, and inter_token_latency {speed:.4g}"
        raise document.fail(key, problem, "check the units")
    return speed


def _count(metric: _Metric | None) -> int | None:
    return None if metric is None else int(metric.avg)


def _mean(metric: _Metric | None) -> float | None:
    return None if metric is None else metric.avg or None


def _maybe(document: Document, name: str, metric: _Metric | None) -> float | None:
    return None if metric is None else _value(document, name, metric, _seconds)


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

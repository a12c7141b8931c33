"""Results of GuideLLM: benchmarks.json (vllm-project/guidellm at 06cef29, benchmark/schemas)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from simulator.complaints import shown
from simulator.measurements.formats.loadgen import STREAMED, LoadPoint, Loads
from simulator.measurements.formats.reading import Count, Line, Part, Seconds, read_document
from simulator.quantities import Within

Mean = Annotated[float, Within(0, 1e12)]


class _Mean(Part):
    mean: Mean | None = None


class _Statistic(Part):
    successful: _Mean | None = None
    total: _Mean | None = None


class _Totals(Part):
    successful: Count | None = None
    errored: Count | None = None


class _Metrics(Part):
    request_totals: _Totals | None = None
    inter_token_latency_ms: _Statistic
    output_tokens_per_second: _Statistic
    time_to_first_token_ms: _Statistic
    prompt_token_count: _Statistic | None = None
    output_token_count: _Statistic | None = None
    output_tokens_per_iteration: _Statistic | None = None

    def mean(self, name: str, of: str = "successful") -> float | None:
        """Mean of a metric over the successful requests, or the total of all."""
        statistic = getattr(self, name)
        part = statistic and getattr(statistic, of)
        return part.mean if part else None


class _Strategy(Part):
    type_: Line | None = None
    streams: Count | None = None


class _Backend(Part):
    model: Line | None = None


class _Config(Part):
    strategy: _Strategy | None = None
    backend: _Backend | None = None


class _Benchmark(Part):
    config: _Config | None = None
    duration: Seconds | None = None
    end_time: Annotated[float, Within(0, 1e11, "seconds")] | None = None  # since 1970
    metrics: _Metrics


class _Report(Part):
    benchmarks: Annotated[list[_Benchmark], Field(min_length=1, max_length=10_000, fail_fast=True)]


def read_guidellm(path: Path, pieces: bool = True) -> Loads:
    """Every benchmark of a benchmarks.json; those without a successful request are left out. Times are those of successful requests, throughput is of
    all: a run that ends by time leaves unfinished requests, which were in the batch too. GuideLLM's inter-token latency is (last - first token) /
    (tokens - 1) of a request, weighted by its tokens; its time per output token counts the first token too and is not used. `pieces`:
    those of an answer tell whether the server speculates. Raises DsimError with file and field."""
    document = read_document(path, "benchmarks")
    points, left_out = [], []
    for number, benchmark in enumerate(document.read(_Report).benchmarks):
        name, metrics = f"{path.name}, benchmark {number}", benchmark.metrics
        keys = ("inter_token_latency_ms", "output_tokens_per_second", "time_to_first_token_ms")
        means = {key: metrics.mean(key) for key in keys}
        totals = metrics.request_totals or _Totals()
        if totals.successful == 0 or not any(means.values()):
            left_out.append(name)
            continue
        for key, mean in means.items():
            if not mean:
                problem = f"expected a number above 0, got {shown(mean)}"
                raise document.fail(f"benchmarks.{number}.metrics.{key}.successful.mean", problem, STREAMED)
        latency, throughput, ttft = (float(mean or 0) for mean in means.values())
        config = benchmark.config or _Config()
        strategy, backend = config.strategy or _Strategy(), config.backend or _Backend()
        point = LoadPoint(
            source=name, tps_per_user=1e3 / latency, throughput_tok_s=max(metrics.mean("output_tokens_per_second", "total") or 0, throughput),
            ttft_s=ttft / 1e3, model=backend.model or "", prompt_tokens=metrics.mean("prompt_token_count") or None,
            output_tokens=metrics.mean("output_token_count") or None, requests=totals.successful, failed=totals.errored,
            offered={"concurrent": strategy.streams or None, "synchronous": 1}.get(strategy.type_ or ""), duration_s=benchmark.duration,
            measured_at=datetime.fromtimestamp(benchmark.end_time, UTC).isoformat(timespec="seconds") if benchmark.end_time else "",
        )  # fmt: skip
        tokens = metrics.mean("output_tokens_per_iteration") if pieces else None
        points.append(point.one_token_pieces(tokens / point.tps_per_user if tokens else None))
    return Loads(points, left_out)

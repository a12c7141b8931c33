"""Results of load generators, an operating point each: `vllm bench serve` (vllm-project/vllm at 009e6d4, benchmarks/serve.py), AIPerf
(profile_export_aiperf.json, schema 1.5), GuideLLM (benchmarks.json, vllm-project/guidellm at 06cef29)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from simulator.measurements.formats.reading import Fields, read_fields


@dataclass(frozen=True)
class LoadPoint:
    """What users saw at one load. Speed is (tokens - 1) / (last - first token) of a request, its mean or the inverse of mean TPOT; tokens
    committed and verified per round (bonus and anchor included) and survival by position are None where the file does not have them."""

    source: str
    tps_per_user: float
    throughput_tok_s: float
    ttft_s: float | None = None
    accepted_length: float | None = None
    budget: float | None = None
    survival: list[float] | None = None

    @property
    def concurrency(self) -> float:
        """Requests decoding at once: throughput ÷ speed (Little's law)."""
        return self.throughput_tok_s / self.tps_per_user


def read_vllm_bench(path: Path) -> list[LoadPoint]:
    """A result of `vllm bench serve --save-result`. Raises DsimError with file and field."""
    fields = read_fields(path)
    length = budget = survival = None
    if "spec_decode_acceptance_length" in fields:
        length = fields.number("spec_decode_acceptance_length", 1)
        budget = 1 + fields.number("spec_decode_draft_tokens") / fields.number("spec_decode_num_drafts", above=True)
        if "spec_decode_per_position_acceptance_rates" in fields and fields.content["spec_decode_per_position_acceptance_rates"]:
            survival = fields.numbers("spec_decode_per_position_acceptance_rates")
    speed = 1e3 / fields.number("mean_tpot_ms", above=True)
    ttft = fields.number("mean_ttft_ms") / 1e3 if "mean_ttft_ms" in fields else None
    return [LoadPoint(path.name, speed, fields.number("output_throughput", above=True), ttft, length, budget, survival)]


_PER_S = {"tokens/sec": 1.0, "tokens/sec/user": 1.0}
_S = {"ms": 1e-3, "sec": 1.0, "s": 1.0, "us": 1e-6, "ns": 1e-9}


def read_aiperf(path: Path) -> list[LoadPoint]:
    """A profile_export_aiperf.json; the unit of a metric says what its numbers are. Raises DsimError with file and field."""
    fields = read_fields(path)
    speed = _metric(fields, "output_token_throughput_per_user", _PER_S)
    throughput = _metric(fields, "output_token_throughput", _PER_S)
    ttft = _metric(fields, "time_to_first_token", _S) if "time_to_first_token" in fields else None
    return [LoadPoint(path.name, speed, throughput, ttft)]


def _metric(fields: Fields, name: str, units: dict[str, float]) -> float:
    metric = fields.object(name)
    unit = metric.text("unit", "")
    if unit not in units:
        raise metric.fail("unit", f"unknown unit '{unit}'", f"known units: {', '.join(units)}")
    return metric.number("avg", above=True) * units[unit]


def read_guidellm(path: Path) -> list[LoadPoint]:
    """Every benchmark of a benchmarks.json, of its successful requests. GuideLLM's inter-token latency is (last - first token) / (tokens - 1) of a
    request, weighted by its tokens; its time per output token counts the first token too and is not used. Raises DsimError with file and field."""
    points = []
    for number, benchmark in enumerate(read_fields(path).objects("benchmarks")):
        metrics = benchmark.object("metrics")
        mean = {}
        for name in ("inter_token_latency_ms", "output_tokens_per_second", "time_to_first_token_ms"):
            mean[name] = metrics.object(name).object("successful").number("mean", above=True)
        speed = 1e3 / mean["inter_token_latency_ms"]
        points.append(LoadPoint(f"{path.name}, benchmark {number}", speed, mean["output_tokens_per_second"], mean["time_to_first_token_ms"] / 1e3))
    return points

"""Results of load generators, an operating point each: `vllm bench serve` (vllm-project/vllm at 009e6d4, benchmarks/serve.py), SGLang's
`bench_serving` (sgl-project/sglang, python/sglang/bench_serving.py), AIPerf and GenAI-Perf (profile_export_aiperf.json, schema 1.5), GuideLLM
(benchmarks.json, vllm-project/guidellm at 06cef29)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from simulator.errors import DsimError
from simulator.measurements.formats.reading import Fields, read_each, read_fields

STREAMED = "measure streamed answers of two tokens or more"


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
    engine: str = ""

    @property
    def concurrency(self) -> float:
        """Requests decoding at once: throughput ÷ speed (Little's law)."""
        return self.throughput_tok_s / self.tps_per_user


@dataclass(frozen=True)
class Loads:
    """Operating points of some files, and which of them had no finished request and were left out."""

    points: list[LoadPoint]
    left_out: list[str]


def read_loads(files: Iterable[Path], read: Callable[[Path], Loads]) -> Loads:
    """The points of all files. Raises DsimError, also where a point is there twice or no request finished at all."""
    every = [(file, read(file)) for file in files]
    seen: dict[LoadPoint, str] = {}
    for file, loads in every:
        for point in loads.points:
            numbers = replace(point, source="", survival=None)
            if numbers in seen:
                raise DsimError(f"{point.source} has the numbers of {seen[numbers]}", where=file, remedy="give every measurement once")
            seen[numbers] = point.source
    left_out = [name for _, loads in every for name in loads.left_out]
    if left_out and not seen:
        raise DsimError("no request finished", where=every[0][0], remedy="measure lower loads, or for longer")
    return Loads([point for _, loads in every for point in loads.points], left_out)


def read_bench(path: Path) -> Loads:
    """Results of `vllm bench serve --save-result` (one) and `--append-result` or SGLang's `bench_serving --output-file` (one on each line).
    Raises DsimError with file and field."""
    points, left_out = [], []
    for name, fields in read_each(path, "mean_tpot_ms", "output_throughput"):
        if fields.content.get("completed") == 0:
            left_out.append(name)
        else:
            points.append(_bench(name, fields))
    return Loads(points, left_out)


def _bench(name: str, fields: Fields) -> LoadPoint:
    length = budget = survival = None
    if "spec_decode_acceptance_length" in fields:
        length = fields.number("spec_decode_acceptance_length", 1)
        budget = 1 + fields.number("spec_decode_draft_tokens") / fields.number("spec_decode_num_drafts", above=True)
        survival = _survival(fields)
    elif "accept_length" in fields:  # SGLang's, which does not say how many tokens a round verifies
        length = fields.number("accept_length", 1)
    speed = 1e3 / fields.number("mean_tpot_ms", above=True, remedy=STREAMED)
    ttft = fields.number("mean_ttft_ms") / 1e3 if "mean_ttft_ms" in fields else None
    engine = "SGLang" if "accept_length" in fields.content or fields.text("backend", "").startswith("sglang") else ""
    return LoadPoint(name, speed, fields.number("output_throughput", above=True), ttft, length, budget, survival, engine)


def _survival(fields: Fields) -> list[float] | None:
    """Acceptance by position; the last ones are null, or no number, where no draft was that long."""
    key = "spec_decode_per_position_acceptance_rates"
    if not fields.content.get(key):
        return None
    rates = fields.content[key]
    while isinstance(rates, list) and rates and (rates[-1] is None or (isinstance(rates[-1], float) and math.isnan(rates[-1]))):
        rates = rates[:-1]
    if not rates:
        return None
    survival = Fields(fields.path, {key: rates}, fields.at).numbers(key)
    for place, (before, after) in enumerate(pairwise([1.0, *survival])):
        if after > before:
            raise fields.fail(f"{key}.{place}", f"expected at most {before:g}, the rate of the position before, got {after:g}")
    return survival


_PER_S = re.compile(r"(?:output )?tok(?:en)?s? ?(?:/|per) ?(?P<time>\S+?)(?: ?(?:/|per) ?user)?")
_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
_SPELT = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "msec": "ms", "millisecond": "ms", "milliseconds": "ms", "µs": "us", "μs": "us",
          "microsecond": "us", "microseconds": "us", "nanosecond": "ns", "nanoseconds": "ns", "minute": "min", "minutes": "min"}  # fmt: skip


def read_aiperf(path: Path) -> Loads:
    """A profile_export_aiperf.json, or GenAI-Perf's; the unit of a metric says what its numbers are. Raises DsimError with file and field."""
    fields = read_fields(path, "output_token_throughput", "output_token_throughput_per_user", "request_latency", "inter_token_latency")
    if not any(key in fields for key in ("output_token_throughput_per_user", "time_to_first_token", "inter_token_latency")):
        raise fields.fail("output_token_throughput_per_user", "is missing: it was not streamed", "measure with --streaming")
    speed = _metric(fields, "output_token_throughput_per_user", _tokens_per_s)
    throughput = _metric(fields, "output_token_throughput", _tokens_per_s)
    ttft = _metric(fields, "time_to_first_token", _seconds) if "time_to_first_token" in fields else None
    return Loads([LoadPoint(path.name, speed, throughput, ttft)], [])


def _seconds(unit: str) -> float | None:
    """Seconds in a unit of time, None of another one."""
    return _S.get(_SPELT.get(unit, unit))


def _tokens_per_s(unit: str) -> float | None:
    """Tokens per second in a unit, None of another one."""
    match = _PER_S.fullmatch(unit)
    seconds = _seconds(match["time"]) if match else None
    return 1 / seconds if seconds else None


def _metric(fields: Fields, name: str, read_unit: Callable[[str], float | None]) -> float:
    metric = fields.object(name)
    unit = metric.text("unit", "none")
    factor = read_unit(" ".join(unit.lower().split()))
    if factor is None:
        known = "tokens/sec, tokens/s/user, tok/s" if read_unit is _tokens_per_s else "ms, s, us, ns"
        raise metric.fail("unit", f"unknown unit '{unit}'", f"known units: {known}")
    return metric.number("avg", above=True) * factor


def read_guidellm(path: Path) -> Loads:
    """Every benchmark of a benchmarks.json, of its successful requests; those without any are left out. GuideLLM's inter-token latency is
    (last - first token) / (tokens - 1) of a request, weighted by its tokens; its time per output token counts the first token too and is not used.
    Raises DsimError with file and field."""
    points, left_out = [], []
    for number, benchmark in enumerate(read_fields(path, "benchmarks").objects("benchmarks")):
        name, metrics = f"{path.name}, benchmark {number}", benchmark.object("metrics")
        totals = metrics.content.get("request_totals")
        if (isinstance(totals, dict) and totals.get("successful") == 0) or all(_nothing(metrics.content.get(key)) for key in _GUIDELLM):
            left_out.append(name)
            continue
        latency, throughput, ttft = (metrics.object(key).object("successful").number("mean", above=True, remedy=STREAMED) for key in _GUIDELLM)
        points.append(LoadPoint(name, 1e3 / latency, throughput, ttft / 1e3))
    return Loads(points, left_out)


_GUIDELLM = ("inter_token_latency_ms", "output_tokens_per_second", "time_to_first_token_ms")


def _nothing(metric: object) -> bool:
    """Has a metric no value of successful requests?"""
    successful = metric.get("successful") if isinstance(metric, dict) else None
    return isinstance(metric, dict) and (successful is None or (isinstance(successful, dict) and not successful.get("mean")))

"""A run as a benchmark client prints it: the names and definitions of `vllm bench serve` (vllm/benchmarks/serve.py, which InferenceMAX took over) and
of SGLang's bench_serving.py."""

from __future__ import annotations

from math import inf
from typing import get_args

from simulator.engine.records import End
from simulator.study.run.meter import Meter
from simulator.study.run.metrics import Number
from simulator.study.run.spread import Spread
from simulator.traffic.benchmark import Client

_TIMES = ("ttft", "tpot", "itl", "e2el")
_SHARES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_SGLANG = {
    "total_token_throughput": "total_throughput",
    "spec_decode_acceptance_length": "accept_length",
    **{f"{statistic}_e2el_ms": f"{statistic}_e2e_latency_ms" for statistic in ("mean", "median", "std", "p90", "p95", "p99")},
}  # what is called differently there
_NOT_SGLANG = ("failed", "spec_decode_acceptance_rate")
_NOT_VLLM = ("input_throughput", "concurrency")
_ALL = (
    "completed", "failed", "duration", "total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput", "input_throughput",
    "output_throughput", "total_token_throughput", "concurrency", "spec_decode_acceptance_rate", "spec_decode_acceptance_length",
    *(f"{statistic}_{time}_ms" for time in _TIMES for statistic in ("mean", "median", "std", "p90", "p95", "p99")),
)  # fmt: skip


def names(client: Client) -> dict[str, str]:
    """What a client prints, in its order: its own names of the numbers."""
    if client == "sglang":
        return {name: _SGLANG.get(name, name) for name in _ALL if name not in _NOT_SGLANG}
    return {name: name for name in _ALL if name not in _NOT_VLLM}


PRINTED = frozenset(own for client in get_args(Client) for own in names(client).values())


def printed(client: Client, meter: Meter, end: End, prompts: bool) -> dict[str, Number]:
    """The numbers of a run that was measured whole, by the client's names: times in milliseconds, tokens and requests per second of the whole fleet,
    the acceptance rate in per cent. None where they are not known: TTFT without `prompts`, and what needs the tokens of each chunk."""
    meter.flush()
    sums, duration = meter.sums, end.end_s or inf  # nothing takes no time: all were refused
    done, tokens_in, tokens_out = (float(sums[name]) for name in ("requests_done", "prompt_tokens", "output_tokens"))
    requests, verified, accepted = (float(sums[name]) for name in ("requests", "verified", "accepted"))
    numbers: dict[str, Number] = {
        "completed": int(done),
        "failed": end.rejected + end.unfinished,
        "duration": end.end_s,
        "total_input_tokens": int(tokens_in),
        "total_output_tokens": int(tokens_out),
        "request_throughput": done / duration,
        "request_goodput": float(sums["good"]) / duration if meter.goodput else None,
        "input_throughput": tokens_in / duration,
        "output_throughput": tokens_out / duration,
        "total_token_throughput": (tokens_in + tokens_out) / duration,
        "concurrency": (meter.e2e_s.mean or 0.0) * done / duration,
        "spec_decode_acceptance_rate": 100 * accepted / verified if verified else None,
        "spec_decode_acceptance_length": 1 + accepted / requests if verified else None,
    }
    spreads = {"ttft": meter.ttft_s if prompts else Spread(), "tpot": meter.tpot_s, "itl": meter.itl_s, "e2el": meter.e2e_s}
    for time, spread in spreads.items():
        numbers |= {f"{name}_{time}_ms": value for name, value in _statistics(spread).items()}
    if client == "sglang" and accepted:  # it shares the gap of a chunk among the tokens of the chunk
        numbers |= dict.fromkeys((name for name in numbers if name.endswith("_itl_ms")), None)
        numbers["mean_itl_ms"] = 1000 * float(sums["decode_s"] / sums["decode_tokens"])
    return {own: numbers[name] for name, own in names(client).items()}


def _statistics(spread: Spread) -> dict[str, Number]:
    """In milliseconds."""
    quantiles = dict(zip(_SHARES, spread.quantiles(list(_SHARES.values())), strict=True))
    seconds = {"mean": spread.mean, "median": quantiles.pop("median"), "std": spread.deviation, **quantiles}
    return {name: None if value is None else 1000 * float(value) for name, value in seconds.items()}

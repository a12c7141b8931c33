"""Results of the engines' own load generators: `vllm bench serve` (vllm-project/vllm at 009e6d4, benchmarks/serve.py) and SGLang's `bench_serving`
(sgl-project/sglang, python/sglang/bench_serving.py); and the former's of llama.cpp, whose counters lie beside them."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import STREAMED, THROUGHPUT, LoadPoint, Loads, after_first
from simulator.measurements.formats.reading import AGREE, Count, Document, Line, Milliseconds, Part, Seconds, read_each
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.formats.scrapes import counters_around, scrapes_around
from simulator.measurements.formats.server_info import ServerInfo
from simulator.quantities import MOST_SLOTS, Share, Within


def _known(rates: Any) -> Any:
    """Acceptance by position without the last ones that are null, or no number: no draft was that long."""
    rates = list(rates) if isinstance(rates, list) else rates
    while isinstance(rates, list) and rates and (rates[-1] is None or rates[-1] != rates[-1]):
        rates.pop()
    return rates


def _finite(rate: Any) -> Any:
    """A rate of arrivals, or what else they followed; None where all came at once."""
    return None if rate in ("inf", math.inf) else rate


def _numeric(text: Any) -> Any:
    """A number, also from --metadata, which writes texts."""
    with suppress(ValueError):
        return float(text) if isinstance(text, str) else text
    return text


Length = Annotated[float, Within(1, MOST_SLOTS + 1, "tokens")]


class _Bench(Part):
    """A result of `vllm bench serve` or of SGLang's `bench_serving`."""

    completed: Count | None = None
    failed: Count | None = None
    num_prompts: Count | None = None
    max_concurrency: Count | None = None
    request_rate: Annotated[Annotated[float, Within(1e-9, 1e9, "requests per second")] | Line | None, BeforeValidator(_finite)] = None
    ramp_up_strategy: Line | None = None
    burstiness: Annotated[float, Within(1e-6, 1e6)] | None = None
    duration: Seconds | None = None
    total_input_tokens: Count | None = None
    total_output_tokens: Count | None = None
    mean_tpot_ms: Annotated[float, Within(0, 1e6, "ms")]
    mean_itl_ms: Milliseconds | None = None
    output_throughput: Annotated[float, Within(0, THROUGHPUT[1], "tokens per second")]
    mean_ttft_ms: Milliseconds | None = None
    mean_e2el_ms: Milliseconds | None = None
    mean_e2e_latency_ms: Milliseconds | None = None  # SGLang's name of it
    median_ttft_ms: Milliseconds | None = None
    p90_ttft_ms: Milliseconds | None = None
    median_tpot_ms: Milliseconds | None = None
    p90_tpot_ms: Milliseconds | None = None
    date: Line | None = None
    backend: Line | None = None
    model_id: Line | None = None
    pace_s: Annotated[Annotated[float, Within(1e-6, 1e6, "seconds")] | None, BeforeValidator(_numeric)] = None  # by --metadata pace_s=…
    server_info: ServerInfo | None = None
    accept_length: Length | None = None  # SGLang's, which does not say how many tokens a round verifies
    spec_decode_acceptance_length: Length | None = None
    spec_decode_num_drafts: Count | None = None
    spec_decode_draft_tokens: Count | None = None
    spec_decode_accepted_tokens: Count | None = None
    spec_decode_acceptance_rate: Annotated[float, Within(0, 100, "%")] | None = None
    spec_decode_per_position_acceptance_rates: Annotated[list[Share], Field(max_length=MOST_SLOTS), BeforeValidator(_known)] | None = None

    @property
    def finished(self) -> int | None:
        """Requests that did. Older files say num_prompts alone."""
        return self.completed if self.completed is not None else self.num_prompts

    @property
    def generated(self) -> float | None:
        """Tokens of all answers, where the throughput agrees."""
        if self.duration is None:
            return self.total_output_tokens
        tokens = self.output_throughput * self.duration
        if self.total_output_tokens is None:
            return tokens
        return self.total_output_tokens if abs(tokens - self.total_output_tokens) <= AGREE * tokens else None

    @property
    def lost(self) -> int | None:
        """Requests that failed."""
        if self.failed is None and self.completed is not None and self.num_prompts is not None:
            return max(self.num_prompts - self.completed, 0)
        return self.failed

    @property
    def rate_rps(self) -> float | None:
        """Requests per second that the client sent, where arrivals had one rate."""
        return None if isinstance(self.request_rate, str) else self.request_rate

    @property
    def offered(self) -> int | None:
        """Requests in flight that the client kept up; a rate of arrivals keeps none."""
        return None if self.at_a_rate else self.max_concurrency or None

    @property
    def held_to(self) -> int | None:
        """Requests in flight that the client allowed where they came at a rate."""
        return self.max_concurrency or None if self.at_a_rate else None

    @property
    def at_a_rate(self) -> bool:
        """Did prompts come over time, at one rate or a rising one?"""
        return self.request_rate is not None or self.ramp_up_strategy is not None

    @property
    def answer_s(self) -> float | None:
        """From the first token to the last, in the mean over requests."""
        return after_first(_seconds(self.mean_e2el_ms or self.mean_e2e_latency_ms), _seconds(self.mean_ttft_ms))


def read_llama_cpp(path: Path) -> Loads:
    """A result of `vllm bench serve` against llama-server, with the scrapes of its /metrics where they lie beside it (c4.json: c4-before.txt and
    c4-after.txt). Every token is a piece of its own there, accepted drafts too, so that pieces say nothing. Raises DsimError."""
    loads = read_bench(path, pieces=False)
    before, after = scrapes_around(path)
    if before.exists() != after.exists():
        there, missing = (before, after) if before.exists() else (after, before)
        remedy = f"measure again with both, or move {there.name} and name scrapes with --metrics"
        raise DsimError(f"is missing, and {there.name} is there", where=missing, remedy=remedy)
    counters = counters_around(path)
    if counters is None or len(loads.points) != 1:
        return loads
    point = loads.points[0]
    if counters.engine != "llamacpp":
        problem = f"is a scrape of {counters.engine}"
        raise DsimError(problem, where=after, remedy="give dsim import the command of that engine")
    counters = replace(counters, answers=point.requests)
    received = point.output_tokens * point.requests if point.output_tokens and point.requests else None
    return replace(loads, points=[point.counted(counters)], remarks=[*loads.remarks, *counters.remarks(path.name, received)])


def read_bench(path: Path, pieces: bool = True) -> Loads:
    """Results of `vllm bench serve --save-result` (one) and `--append-result` or SGLang's `bench_serving --output-file` (one on each line). `pieces`:
    those of an answer tell whether the server speculates. Raises DsimError with file and field."""
    points: list[LoadPoint] = []
    left_out: list[str] = []
    remarks: list[str] = []
    for document in read_each(path, "mean_tpot_ms", "output_throughput"):
        bench = document.read(_Bench, {"mean_tpot_ms": STREAMED})
        if bench.completed == 0 and bench.mean_tpot_ms == bench.output_throughput == 0:
            left_out.append(document.name)
        else:
            points.append(_bench(document, bench, remarks, pieces))
    return Loads(points, left_out, remarks)


def _bench(document: Document, bench: _Bench, remarks: list[str], pieces: bool) -> LoadPoint:
    for key, value, remedy in (("mean_tpot_ms", bench.mean_tpot_ms, STREAMED), ("output_throughput", bench.output_throughput, None)):
        if value == 0:
            raise document.fail(key, "expected a number above 0, got 0", remedy)
    if bench.completed == 0:
        raise document.fail("completed", f"counts no finished request, and mean_tpot_ms is {bench.mean_tpot_ms:g}", "measure it again")
    sglang = bench.backend.startswith("sglang") if bench.backend else "accept_length" in document.content
    server = (bench.server_info if sglang else None) or ServerInfo()
    finished, generated = bench.finished, bench.generated
    point = LoadPoint(
        source=document.name, tps_per_user=1e3 / bench.mean_tpot_ms, throughput_tok_s=bench.output_throughput, engine="SGLang" if sglang else "",
        ttft_s=None if bench.mean_ttft_ms is None else bench.mean_ttft_ms / 1e3, model=bench.model_id or "", accepted_length=bench.accept_length,
        prompt_tokens=bench.total_input_tokens / finished if bench.total_input_tokens and finished else None,
        output_tokens=generated / finished if generated and finished else None,
        requests=finished, failed=bench.lost, offered=bench.offered, held_to=bench.held_to, duration_s=bench.duration, rate_rps=bench.rate_rps,
        ttft_p50_s=_seconds(bench.median_ttft_ms), ttft_p90_s=_seconds(bench.p90_ttft_ms), tpot_p50_s=_seconds(bench.median_tpot_ms),
        tpot_p90_s=_seconds(bench.p90_tpot_ms), measured_at=bench.date or "", pace_s=bench.pace_s, answer_s=bench.answer_s,
        burstiness=bench.burstiness, engines=server.dp_size or 1, gpus=server.gpus,
    )  # fmt: skip
    if generated is None and bench.total_output_tokens:
        told = f"{bench.total_output_tokens:,} tokens, and {bench.output_throughput:,.4g} a second for {bench.duration:.4g} seconds"
        remarks.append(f"{document.name}: says {told}: rounds and lengths of answers cannot be read from it")
    if bench.spec_decode_acceptance_length is not None:
        counters = _counters(document, bench, bench.spec_decode_acceptance_length)
        remarks += counters.remarks(document.name, generated)
        return point.counted(counters)
    if server.drafts_trees:
        problem = f"drafts trees of {server.speculative_num_draft_tokens or 'more'} tokens, of which a round accepts one branch: dsim knows chains"
        raise document.fail("server_info.speculative_eagle_topk", problem, "benchmark with --speculative-eagle-topk 1")
    if bench.accept_length is not None:  # SGLang verifies in every decode round
        since = "accept_length is SGLang's mean since its start or last flush, of one rank"
        remarks.append(f"{document.name}: {since}: flush between benchmarks, or give scrapes with --metrics, which take its place")
        rounds = (generated - finished) / bench.accept_length if generated and finished else None
        budget = server.speculative_num_draft_tokens
        return replace(point, proposing=1.0, rounds=rounds, budget=float(budget) if budget else None)
    if server.plain:
        rounds = float(generated - finished) if generated and finished else None
        return replace(point, accepted_length=1.0, budget=1.0, proposing=0.0, slots=0, rounds=rounds)
    if sglang or not pieces:  # SGLang's client shares a gap out among the tokens that end it
        return point
    return point.one_token_pieces(bench.mean_itl_ms / 1e3 if bench.mean_itl_ms else None)


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1e3 if milliseconds else None


def _counters(document: Document, bench: _Bench, length: float) -> SpecCounters:
    """What the client found in /metrics of its run, where it agrees with the accepted length. Raises DsimError."""
    drafts, drafted, accepted = (f"spec_decode_{name}" for name in ("num_drafts", "draft_tokens", "accepted_tokens"))
    rounds, tokens, taken = (getattr(bench, key) for key in (drafts, drafted, accepted))
    for key, value in ((drafts, rounds), (drafted, tokens)):
        if not value:
            raise document.fail(key, "expected a number above 0, got " + ("nothing" if value is None else "0"))
    if not rounds <= tokens <= MOST_SLOTS * rounds:
        raise document.fail(drafted, f"expected 1 to {MOST_SLOTS} tokens for each of {rounds} drafts, got {tokens}")
    if taken is not None and taken > tokens:
        raise document.fail(accepted, f"expected at most the {tokens} drafted tokens, got {taken}")
    key = "spec_decode_per_position_acceptance_rates"
    survival = bench.spec_decode_per_position_acceptance_rates or None
    for place, (before, after) in enumerate(pairwise([1.0, *(survival or [])])):
        if after > before:
            raise document.fail(f"{key}.{place}", f"expected at most {before:g}, the rate of the position before, got {after:g}")
    counted = {accepted: 1 + taken / rounds if taken is not None else None, key: 1 + sum(survival) if survival else None}
    if bench.spec_decode_acceptance_rate is not None:
        counted["spec_decode_acceptance_rate"] = 1 + bench.spec_decode_acceptance_rate / 100 * tokens / rounds
    for name, value in counted.items():
        if value is not None and abs(value / length - 1) > AGREE:
            problem = f"accounts for {value:.4g} tokens per round, and spec_decode_acceptance_length is {length:.4g}"
            raise document.fail(name, problem, "save the result again: its numbers contradict each other")
    return SpecCounters(
        drafts=rounds, draft_tokens=tokens, accepted_tokens=(length - 1) * rounds if taken is None else taken,
        per_position=[rate * rounds for rate in survival or ()], generated=bench.generated if bench.finished else None, answers=bench.finished,
        prompt_tokens=bench.total_input_tokens,
    )  # fmt: skip

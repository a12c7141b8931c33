"""What vLLM (`vllm:…`), llama.cpp (`llamacpp:…`) and SGLang (`sglang:…`) call their counts of decode rounds and answers, and what these mean.

Names as in vllm-project/vllm at 016a858 (v1/spec_decode/metrics.py) and 0.32.0 (v1/metrics/loggers.py), ggml-org/llama.cpp b11434
(tools/server/server-task.cpp) and sgl-project/sglang pull 25689; the table in docs/exchange.md says what each means.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.rounds import PER_POSITION, SpecCounters, checked
from simulator.quantities import MOST_SLOTS

SPEC = "spec_decode_num_"
SCRAPE = "scrape /metrics of a server that speculates"

# what an engine calls the counts of SpecCounters beside those of speculation, the first name that a scrape has
ENGINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "vllm": {
        "generated": ("generation_tokens",),
        "answers": ("time_to_first_token_seconds_count", "request_success"),
        "decode_rounds": ("inter_token_latency_seconds_count",),
        "prompt_tokens": ("prompt_tokens",),
        "cached_tokens": ("prompt_tokens_cached", "prefix_cache_hits"),
    },
    "llamacpp": {"generated": ("tokens_predicted",), "prompt_tokens": ("prompt_tokens",), "cached_tokens": ("prompt_tokens_cached",)},
    "sglang": {
        "generated": ("generation_tokens",),
        "answers": ("num_requests",),
        "decode_rounds": ("spec_verify_calls",),
        "prompt_tokens": ("prompt_tokens",),
        "cached_tokens": ("cached_tokens",),
        "mean": ("spec_accept_length",),
    },
}
Count = tuple[str, str, Mapping[str, str], float]  # engine, name, labels, value
USED = {engine: {name for each in names.values() for name in each} for engine, names in ENGINES.items()}


def is_used(engine: str, name: str) -> bool:
    """Whether a count of an engine, by its name without `_total`, is one of those that are read."""
    return name in USED[engine] or (name.startswith(SPEC) and not name.endswith("_created"))


def gathered(counts: Iterable[Count], where: Path | str, model: str | None) -> SpecCounters | None:
    """Counts of one engine and model, added up over its ranks. Raises DsimError."""
    totals: dict[str, float] = defaultdict(float)
    positions: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    models: set[str] = set()
    engines: set[str] = set()
    ranks: set[str] = set()
    for engine, name, labels, value in counts:
        called = labels.get("model_name")
        models |= {called} if called else set()
        if model is not None and called not in (None, model):
            continue
        engines.add(engine)
        ranks |= {labels["engine"]} if "engine" in labels else set()
        if name.endswith("_per_pos"):
            positions[name][labels.get("position", "")] += value
        else:
            totals[name] += value
    _one_server(engines, models, model, where)
    if not engines:
        return None
    return replace(_assembled(engines.pop(), totals, positions, where), model=model or next(iter(models), ""), engines=max(len(ranks), 1))


def _one_server(engines: set[str], models: set[str], model: str | None, where: Path | str) -> None:
    """Raises DsimError where the counters are of several engines or models."""
    if len(engines) > 1:
        raise DsimError(f"has counters of {' and '.join(sorted(engines))}", where=where, remedy="scrape one server")
    if model is not None and models and model not in models:
        raise DsimError(f"expected one of {shown(', '.join(sorted(models)))}, got {shown(model)}", where=where, key="--model")
    if model is None and len(models) > 1:
        names = shown(", ".join(sorted(models)))
        raise DsimError(f"has counters of {len(models)} models, {names}", where=where, key="model_name", remedy="choose one with --model")


def _assembled(engine: str, totals: Mapping[str, float], positions: Mapping[str, Mapping[str, float]], where: Path | str) -> SpecCounters:
    told: dict[str, Any] = {count: next((totals[name] for name in names if name in totals), None) for count, names in ENGINES[engine].items()}
    mean = told.pop("mean", None)
    if engine == "sglang":
        return _sglang(told, bool(mean), where)  # a server that does not speculate says 0
    if engine == "llamacpp" and None not in (told["prompt_tokens"], told["cached_tokens"]):
        told["prompt_tokens"] += told["cached_tokens"]  # counted apart there
    if not any(name.startswith(SPEC) for name in (*totals, *positions)):
        return SpecCounters(0, 0, 0, [], engine=engine, **told)
    names = ("drafts", "draft_tokens", "accepted_tokens")
    for name in names:
        if f"{SPEC}{name}" not in totals:
            raise DsimError("is missing", where=where, key=f"{engine}:{SPEC}{name}", remedy=SCRAPE)
    drafts, drafted, accepted = (totals[f"{SPEC}{name}"] for name in names)
    taken = _by_position(positions.get(f"{SPEC}{PER_POSITION}", {}), engine, where, needed=drafts > 0 or engine == "vllm")
    had = positions.get(f"{SPEC}draft_tokens_per_pos")
    tried = _by_position(had, engine, where) if had else None
    return checked(SpecCounters(drafts, drafted, accepted, taken, tried, engine=engine, **told), where, f"{engine}:{SPEC}")


def _sglang(told: Mapping[str, Any], speculates: bool, where: Path | str) -> SpecCounters:
    """SGLang verifies in every decode round, and counts tokens, requests and these calls as requests finish. What is accepted is the rest, cut at the
    ends of answers. No positions are counted, and `spec_accept_length` is a mean of the last steps alone. Raises DsimError."""
    generated, answers, calls = (told[name] for name in ("generated", "answers", "decode_rounds"))
    key = "sglang:spec_verify_calls_total"
    if not calls and speculates:
        remedy = "give results of bench_serving with --bench, or --accepted-length and --budget and no counters"
        raise DsimError("is missing, and spec_accept_length is a mean of the last steps alone", where=where, key=key, remedy=remedy)
    if not calls or generated is None or answers is None:
        return SpecCounters(0, None, 0, [], engine="sglang", **{**told, "decode_rounds": None})
    if calls > (most := generated - answers):
        problem = f"expected at most {most:,.0f} calls for as many tokens after the first of an answer, got {calls:,.0f}"
        raise DsimError(problem, where=where, key=key, remedy="scrape /metrics again while nothing runs")
    return SpecCounters(calls, None, most - calls, [], engine="sglang", **told)


def _by_position(counts: Mapping[str, float], engine: str, where: Path | str, needed: bool = True) -> list[float]:
    key = f"{engine}:{SPEC}{PER_POSITION}"
    if len(counts) > MOST_SLOTS:
        raise DsimError(f"expected at most {MOST_SLOTS} positions, got {len(counts)}", where=where, key=key)
    names = [str(k) for k in range(len(counts))]
    if (needed and not names) or set(names) != set(counts):
        labels = shown(", ".join(sorted(counts)))
        raise DsimError(f"expected positions from 0 on, got {labels}", where=where, key=key, remedy="scrape /metrics again")
    return [counts[name] for name in names]

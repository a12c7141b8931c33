"""Scrapes of /metrics: what vLLM (`vllm:…`), llama.cpp (`llamacpp:…`) and SGLang (`sglang:…`) counted of decode rounds and answers.

Names as in vllm-project/vllm at 016a858 (v1/spec_decode/metrics.py) and 0.32.0 (v1/metrics/loggers.py), ggml-org/llama.cpp b11434
(tools/server/server-task.cpp) and sgl-project/sglang pull 25689; the table in docs/exchange.md says what each means.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.rounds import COUNTS, PER_POSITION, SpecCounters, checked
from simulator.quantities import MOST_SLOTS
from simulator.reading.opening import read_text

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

MOST_SAMPLES, LONGEST = 20_000, 10_000  # samples of a scrape that are used (of all engines), and characters of one
MOST_COUNT = 1e15
SPEC = "spec_decode_num_"
SCRAPE = "scrape /metrics of a server that speculates"
_LINE = re.compile(r"(vllm|llamacpp|sglang):([a-z_]+)(?=[{\s])")


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
USED = {engine: {name for each in names.values() for name in each} for engine, names in ENGINES.items()}


def read_counters(path: Path, before: Path | None = None, model: str | None = None) -> SpecCounters:
    """Counters of all engines of one model in a scrape of /metrics, less those of an earlier scrape. Raises DsimError with file and counter, also
    where no round drafted anything, and where the scrape has several models and `model` does not choose one."""
    counters = _counters(path, model)
    if before is not None:
        counters = counted_between(_counters(before, model), counters, path)
    if not counters.slots and counters.engine == "vllm":
        raise DsimError("is missing", where=path, key=f"vllm:{SPEC}drafts", remedy=SCRAPE)
    if counters.drafts == 0:
        raise DsimError("counts no drafted round", where=path, key=f"{counters.engine}:{SPEC}drafts", remedy="scrape again after some traffic")
    return counters


def counted_between(before: SpecCounters, after: SpecCounters, where: Path | str) -> SpecCounters:
    """What was counted between two scrapes of one server. Raises DsimError where a counter fell."""
    for what, then, now in (("engine", before.engine, after.engine), ("model", before.model, after.model)):
        if then != now:
            raise DsimError(f"is of {what} {shown(now)}, and the earlier scrape of {shown(then)}", where=where, remedy="scrape one server")
    prefix = f"{after.engine}:{SPEC}"
    if (count := before.slots) != after.slots:
        problem = f"expected {count} positions as in the earlier scrape, got {after.slots}"
        raise DsimError(problem, where=where, key=f"{prefix}{PER_POSITION}", remedy="scrape one server")

    def grown(name: str, then: float, now: float) -> float:
        if now < then:
            problem = f"fell from {then:.15g} to {now:.15g} between the scrapes"
            raise DsimError(problem, where=where, key=name, remedy="the server was restarted, or the files are exchanged: scrape again")
        return now - then

    counted: dict[str, Any] = {"engine": after.engine, "model": after.model}
    for name in COUNTS:
        then, now = getattr(before, name), getattr(after, name)
        key = f"{prefix}{name}" if name in ("drafts", "draft_tokens", "accepted_tokens") else f"{after.engine}: {name}"
        if then is None or now is None:
            counted[name] = None
        elif isinstance(now, list):
            counted[name] = [grown(f"{prefix}{PER_POSITION}", early, late) for early, late in zip(then, now, strict=True)]
        else:
            counted[name] = grown(key, then, now)
    return checked(SpecCounters(**counted), where, prefix)


def counters_in(text: str, where: Path | str, model: str | None = None) -> SpecCounters | None:
    """The counters in a scrape, None where it has none of an engine that is known. Raises DsimError where they are broken."""
    totals: dict[str, float] = defaultdict(float)
    positions: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    models: set[str] = set()
    engines: set[str] = set()
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        match = _LINE.match(line)
        name = match[2].removesuffix("_total") if match else ""
        if match is None or not (name in USED[match[1]] or (name.startswith(SPEC) and not name.endswith("_created"))):
            continue
        if len(seen) == MOST_SAMPLES:
            raise DsimError(f"expected at most {MOST_SAMPLES:,} counters of speculation", where=where, remedy="scrape one server")
        sample = _sample(line, f"{where}:{number}")
        if (series := (name, frozenset(sample.labels.items()))) in seen:
            raise DsimError("appears twice", where=f"{where}:{number}", key=sample.name, remedy="give one scrape in a file")
        seen.add(series)
        called = sample.labels.get("model_name")
        if model is not None and called not in (None, model):
            models.add(str(called))
            continue
        engines.add(match[1])
        models |= {called} if called else set()
        if name.endswith("_per_pos"):
            positions[name][sample.labels.get("position", "")] += sample.value
        else:
            totals[name] += sample.value
    _one_server(engines, models, model, where)
    if not engines:
        return None
    counters = _assembled(engines.pop(), totals, positions, where)
    return replace(counters, model=model or next(iter(models), ""))


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
        return _sglang(told, mean is not None, where)
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
        remedy = "give results of bench_serving with --bench"
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


def _sample(line: str, where: str) -> Sample:
    """The sample on a line of Prometheus' text format. Raises DsimError where it is no count."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        if len(line) > LONGEST:
            raise ValueError
        (sample,) = (sample for family in text_string_to_metric_families(line) for sample in family.samples)
    except (ValueError, LookupError):
        raise DsimError(f"expected a Prometheus sample, got {shown(line)}", where=where, remedy="scrape /metrics again") from None
    gauge = sample.name.endswith("spec_accept_length")
    if not (0 <= sample.value <= MOST_COUNT and (gauge or sample.value == int(sample.value))):
        raise DsimError(f"expected a count, got {sample.value:g}", where=where, key=sample.name[:80], remedy="scrape /metrics again")
    return sample


def _counters(path: Path, model: str | None) -> SpecCounters:
    text = read_text(path)
    if text.lstrip().startswith(("{", "[")):
        raise DsimError("expected a scrape of /metrics, got JSON", where=path, remedy=SCRAPE)
    counters = counters_in(text, path, model)
    if counters is None:
        raise DsimError("is missing", where=path, key=f"vllm:{SPEC}drafts", remedy=SCRAPE)
    return counters

"""`dsim import`: a profile from files of engines, which says what they could not tell. Operating points are in import_points.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.measurements.cost import DraftTable, LinearDraft, Overhead
from simulator.measurements.formats.sglang import AdditiveSps, SampledSps, StepTime, read_sps, read_step_records, read_sts
from simulator.measurements.formats.vllm import CostCurves, read_cost_curves
from simulator.study.profiles.about import About
from simulator.study.profiles.counted import acceptance
from simulator.study.profiles.given_points import named_files
from simulator.study.profiles.import_points import PointFiles, fit_points
from simulator.study.profiles.parts import DrafterPart, Parts
from simulator.study.profiles.scraped import read_scrapes

Say = Callable[[str], None]
FOR_BENCHMARKS = ("check", "accepted_length", "budget", "token_budget", "max_batch")  # options of PointFiles


def import_sglang(
    about: About, sps: Path | None, sts: Path | None, records: Path | None, files: PointFiles, say: Say = lambda _: None
) -> dict[str, Any]:
    """An SPS table, a calibration, a dump of decode steps and results of `bench_serving` of SGLang. Step costs come from the table, else from the
    results, else from times in the dump. Raises DsimError."""
    about.check()
    if not files.bench:
        files.refuse("metrics", "before", "slots", "model", *FOR_BENCHMARKS)
    parts = Parts()
    left_out: list[str] = []
    dump = read_step_records(records, about.drafter) if records else None
    if sps is not None and files.bench:
        raise DsimError("an SPS table and results of bench_serving both have step costs", key="--bench", remedy="give one of --sps and --bench")
    if sps is not None:
        _sps_cost(parts, read_sps(sps), sps.name)
    elif files.bench:
        left_out = fit_points(parts, about, files, say, "--bench")
    elif dump is not None and dump.times:
        _step_times(parts, dump.times, records.name if records else "")
    else:
        remedy = "give an SPS table, results of bench_serving with --bench, or records with step_cpu_time"
        raise DsimError("the files have no step costs", key="--sps", remedy=remedy)
    blocks = dump.blocks if dump is not None else None
    temperatures = read_sts(sts) if sts is not None else None
    if temperatures is not None:
        if blocks is None or blocks.confidence is None:
            raise DsimError("a calibration needs recorded confidences", where=sts, key="temperatures", remedy="give --records with confidences too")
        if len(temperatures) != blocks.gamma:
            problem = f"expected {blocks.gamma} positions as in the records, got {len(temperatures)}"
            raise DsimError(problem, where=sts, key="temperatures", remedy="give the calibration of this drafter")
        parts.assumed.append("the records were taken without the calibration, as SGLang's own collection is")
    if blocks is not None:
        known = parts.drafters.get(about.drafter)
        draft = known.draft if known else LinearDraft(provenance="imported", source=sps.name if sps else "", note="within the step times")
        note = "anchors within an accepted block repeat the round before them: they were never drafted from"
        parts.drafters[about.drafter] = DrafterPart(draft, blocks, "dspark", temperatures, note)
        parts.assumed.append("where a policy stops short of a whole accepted block, the next block is like the one it stopped in")
        parts.unknown += ["domains of the requests", "acceptance probabilities"]
    return parts.write(about, "SGLang", left_out)


def by_tokens(rows: Iterable[tuple[float, float]]) -> str:
    """A cost table of (tokens, seconds)."""
    return "tokens,p50_s\n" + "".join(f"{tokens:.15g},{seconds:.8g}\n" for tokens, seconds in rows)


def _sps_cost(parts: Parts, table: SampledSps | AdditiveSps, name: str) -> None:
    if isinstance(table, SampledSps):
        text = by_tokens(zip(table.tokens, (1 / s for s in table.steps_per_s), strict=True))
        note = "whole steps, drafting included, each measured at tokens ÷ (γ + 1) requests; interpolated, where SGLang takes the probe below"
        parts.unknown.append("cost per token as opposed to cost per request: the table has whole blocks only")
    else:
        text = "tokens,requests,p50_s\n" + "".join(f"{m:.15g},{r:.15g},{table.seconds(r, m):.8g}\n" for r in table.requests for m in table.tokens)
        note = "bias + alpha(requests) + theta(tokens), whole steps, drafting included"
    parts.measured(text, f"SGLang SPS table {name}", note)
    parts.assumed.append("ordinary decoding is priced like a step of as many tokens with drafting")


def _step_times(parts: Parts, times: Sequence[StepTime], name: str) -> None:
    """Step costs from the most frequent shape of each number of tokens."""
    by_tokens: dict[int, StepTime] = {}
    for time in sorted(times, key=lambda time: -time.n):
        by_tokens.setdefault(time.tokens, time)
    if len(by_tokens) < 2:
        raise DsimError("expected steps of two sizes or more", where=name, key="num_verify_tokens", remedy="record several loads, or give --sps")
    rows = [f"{t.tokens},{t.p10_s:.8g},{t.seconds:.8g},{t.p90_s:.8g},{t.n}\n" for _, t in sorted(by_tokens.items())]
    note = "whole steps, drafting included; the most frequent shape of each number of tokens"
    parts.measured("tokens,p10_s,p50_s,p90_s,n\n" + "".join(rows), f"SGLang step records {name}", note)
    parts.unknown.append("cost per token as opposed to cost per request")


def import_vllm(about: About, curves: Path | None, files: PointFiles, say: Say = lambda _: None) -> dict[str, Any]:
    """Step costs from cost curves of adaptive verification or from results of `vllm bench serve`; acceptance from counters or those results.
    Raises DsimError."""
    about.check()
    parts = Parts()
    if curves is not None and files.bench:
        raise DsimError("cost curves and results of vllm bench serve both have step costs", key="--bench", remedy="give one of --curves and --bench")
    if curves is None:
        if files.before and not files.metrics:
            raise DsimError("an earlier scrape needs a later one", key="--metrics", remedy="give --metrics too")
        if not files.bench:
            read_scrapes(named_files(files.metrics, "--metrics"), (), files.model, [], about.drafter)  # a file of another kind is called by its name
            raise DsimError("the files have no step costs", key="--curves", remedy="give cost curves, or results of vllm bench serve with --bench")
        left_out = fit_points(parts, about, files, say, "--bench")
        return parts.write(about, "SGLang" if parts.engine == "SGLang" else "vLLM", left_out)
    files.refuse(*FOR_BENCHMARKS)
    draft = _curve_cost(parts, read_cost_curves(curves), curves.name)
    after, before = named_files(files.metrics, "--metrics"), named_files(files.before, "--metrics-before")
    for name, counters in read_scrapes(after, before, files.model, parts.remarks, about.drafter).items():
        if (known := acceptance(name, (), counters)) is not None:
            note = "acceptance counted by position; variation along a text is the parametric generator's"
            blocks = known.blocks(name, files.slots or known.slots)
            parts.drafters[name] = DrafterPart(draft, blocks, note=note, counted=known.slots)
            parts.assumed.append(f"acceptance varies along a text as in the parametric generator's defaults: counters are averages ({known.source})")
            parts.unknown += ["confidences", "acceptance by domain"]
    if not parts.drafters:
        parts.unknown.append("acceptance: it is in none of the files, so there is no drafter")
    return parts.write(about, "vLLM")


def _curve_cost(parts: Parts, curves: CostCurves, name: str) -> DraftTable:
    """Fills in step costs; the cost of drafting."""
    source = f"vLLM cost curves {name}"
    rows = [f"{x:.15g},{y / 1e3:.8g},{'eager' if curves.graph_limit and x > curves.graph_limit else 'graph'}\n" for x, y in curves.verify]
    parts.files["draft.csv"] = "requests,p50_s\n" + "".join(f"{x:.15g},{y / 1e3:.8g}\n" for x, y in curves.draft)
    note = "medians of dummy steps at one context length, padded to captured graphs"
    parts.measured("tokens,p50_s,regime\n" + "".join(rows), source, note, between="step")
    parts.overhead = Overhead(provenance="imported", source=source, note="not in the curves: add the time that your server spends between steps")
    parts.unknown += ["cost of context: one context length was profiled", "host time between steps"]
    return DraftTable(provenance="imported", source=source, note="medians of dummy steps", file="draft.csv", between="step")

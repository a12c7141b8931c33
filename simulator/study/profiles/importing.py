"""`dsim import`: a profile from files of engines and load generators, which says what they could not tell.

Long because SGLang, vLLM and the load generators fill the same parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, DraftCost, DraftTable, LinearDraft, MeasuredTable, Overhead, PrefillCost, VerifyCost
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import CostFit, Telemetry, fit_cost
from simulator.measurements.formats.loadgen import LoadPoint, Loads
from simulator.measurements.formats.scrapes import read_counters
from simulator.measurements.formats.sglang import AdditiveSps, SampledSps, StepTime, read_sps, read_step_records, read_sts
from simulator.measurements.formats.vllm import CostCurves, read_cost_curves
from simulator.measurements.profile import Drafter
from simulator.quantities import MOST_SLOTS
from simulator.study.profiles.about import DOMAIN, SLOPE, About, without_head

CONSTANT = 0.02  # relative differences between points below which budget and accepted length count as constant
CONTRADICTS = 0.1  # relative difference above which an option is taken for a mistake, where the files count it themselves
COUNT_ALL = "count the bonus token and the anchor; without speculation both are 1"


@dataclass
class _Parts:
    """A profile in the making: costs, at most one drafter, tables beside profile.yaml, what was assumed and what remains unknown."""

    verify: VerifyCost | None = None
    overhead: Overhead = field(default_factory=lambda: Overhead(provenance="imported", note="within the step times"))
    prefill: PrefillCost | None = None
    draft: DraftCost | None = None
    blocks: RecordedBlocks | None = None
    family: Literal["dspark", "other"] = "other"
    temperatures: list[float] | None = None
    note: str = ""
    files: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def measured(self, text: str, source: str, note: str, between: Literal["linear", "step"] = "linear") -> None:
        """Step costs from a table, written as verify.csv."""
        self.files["verify.csv"] = text
        self.verify = MeasuredTable(provenance="imported", source=source, note=note, file="verify.csv", between=between)

    def drafter(self, name: str) -> tuple[Drafter, RecordedBlocks] | None:
        """The drafter and its blocks, None without blocks."""
        if self.blocks is None:
            return None
        assert self.draft is not None
        return Drafter(
            family=self.family, gamma=self.blocks.gamma, draft=self.draft, blocks=f"{name}.parquet", confidence=self.blocks.confidence is not None,
            temperatures=self.temperatures, note=self.note,
        ), self.blocks  # fmt: skip


def import_sglang(
    about: About, sps: Path | None, sts: Path | None, records: Path | None, loads: Loads, assumed_length: float | None, assumed_budget: float | None
) -> dict[str, Any]:
    """An SPS table, a calibration, a dump of decode steps and results of `bench_serving` of SGLang. Step costs come from the table, else from the
    results, else from times in the dump."""
    about.check()
    parts, fit = _Parts(family="dspark"), None
    dump = read_step_records(records, about.drafter) if records else None
    if sps is not None and loads.points:
        raise DsimError("an SPS table and results of bench_serving both have step costs", key="--bench", remedy="give one of --sps and --bench")
    if sps is not None:
        _sps_cost(parts, read_sps(sps), sps.name)
    elif loads.points:
        fit = _fit(parts, loads, assumed_length, assumed_budget)
    elif dump is not None and dump.times:
        _step_times(parts, dump.times, records.name if records else "")
    else:
        remedy = "give an SPS table, results of bench_serving with --bench, or records with step_cpu_time"
        raise DsimError("the files have no step costs", key="--sps", remedy=remedy)
    if dump is not None and dump.blocks is not None:
        parts.blocks = dump.blocks
        parts.draft = LinearDraft(provenance="imported", source=sps.name if sps else "", note="within the step times")
        parts.note = "anchors within an accepted block repeat the round before them: they were never drafted from"
        parts.assumed.append("where a policy stops short of a whole accepted block, the next block is like the one it stopped in")
        parts.unknown += ["domains of the requests", "acceptance probabilities"]
    if sts is not None:
        parts.temperatures = read_sts(sts)
        if parts.blocks is None or parts.blocks.confidence is None:
            raise DsimError("a calibration needs recorded confidences", where=sts, key="temperatures", remedy="give --records with confidences too")
        if len(parts.temperatures) != parts.blocks.gamma:
            problem = f"expected {parts.blocks.gamma} positions as in the records, got {len(parts.temperatures)}"
            raise DsimError(problem, where=sts, key="temperatures", remedy="give the calibration of this drafter")
        parts.assumed.append("the records were taken without the calibration, as SGLang's own collection is")
    return _write(about, parts, "SGLang", fit, loads.left_out)


def _by_tokens(rows: Iterable[tuple[float, float]]) -> str:
    """A cost table of (tokens, seconds)."""
    return "tokens,p50_s\n" + "".join(f"{tokens:.15g},{seconds:.8g}\n" for tokens, seconds in rows)


def _sps_cost(parts: _Parts, table: SampledSps | AdditiveSps, name: str) -> None:
    if isinstance(table, SampledSps):
        text = _by_tokens(zip(table.tokens, (1 / s for s in table.steps_per_s), strict=True))
        note = "whole steps, drafting included, each measured at tokens ÷ (γ + 1) requests; interpolated, where SGLang takes the probe below"
        parts.unknown.append("cost per token as opposed to cost per request: the table has whole blocks only")
    else:
        text = "tokens,requests,p50_s\n" + "".join(f"{m:.15g},{r:.15g},{table.seconds(r, m):.8g}\n" for r in table.requests for m in table.tokens)
        note = "bias + alpha(requests) + theta(tokens), whole steps, drafting included"
    parts.measured(text, f"SGLang SPS table {name}", note)
    parts.assumed.append("ordinary decoding is priced like a step of as many tokens with drafting")


def _step_times(parts: _Parts, times: Sequence[StepTime], name: str) -> None:
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


def import_vllm(
    about: About, curves: Path | None, metrics: Path | None, before: Path | None,
    loads: Loads, assumed_length: float | None, assumed_budget: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Step costs from cost curves of adaptive verification or from results of `vllm bench serve`; acceptance from counters or those results."""
    about.check()
    parts = _Parts()
    if before is not None and metrics is None:
        raise DsimError("an earlier scrape needs a later one", key="--metrics", remedy="give --metrics too")
    survival, source, fit, points = None, "", None, loads.points
    if metrics is not None:
        counters = read_counters(metrics, before)
        survival, source = counters.survival, f"vLLM counters {metrics.name}, {counters.drafts:,.0f} rounds"
    if curves is not None:
        _curve_cost(parts, read_cost_curves(curves), curves.name)
    elif points:
        fit = _fit(parts, loads, assumed_length, assumed_budget)
        parts.draft = LinearDraft(provenance="imported", note="within the fitted step cost")
    else:
        raise DsimError("the files have no step costs", key="--curves", remedy="give cost curves, or results of vllm bench serve with --bench")
    counted = max((point for point in points if point.survival), key=lambda point: len(point.survival or []), default=None)
    if survival is None and counted is not None:  # a run may have drafted to the last position, and another not
        survival, source = counted.survival, f"{counted.engine or 'vllm'} bench serve, {counted.source}"
    if survival:
        _acceptance(parts, survival, source, about.drafter)
    elif parts.draft is not None:
        parts.unknown.append("acceptance: it is in none of the files, so there is no drafter")
    engines = {point.engine for point in points} if curves is None and metrics is None else set()
    return _write(about, parts, "SGLang" if engines == {"SGLang"} else "vLLM", fit, loads.left_out)


def _curve_cost(parts: _Parts, curves: CostCurves, name: str) -> None:
    source = f"vLLM cost curves {name}"
    rows = [f"{x:.15g},{y / 1e3:.8g},{'eager' if curves.graph_limit and x > curves.graph_limit else 'graph'}\n" for x, y in curves.verify]
    parts.files["draft.csv"] = "requests,p50_s\n" + "".join(f"{x:.15g},{y / 1e3:.8g}\n" for x, y in curves.draft)
    note = "medians of dummy steps at one context length, padded to captured graphs"
    parts.measured("tokens,p50_s,regime\n" + "".join(rows), source, note, between="step")
    parts.draft = DraftTable(provenance="imported", source=source, note="medians of dummy steps", file="draft.csv", between="step")
    parts.overhead = Overhead(provenance="imported", source=source, note="not in the curves: add the time that your server spends between steps")
    parts.unknown += ["cost of context: one context length was profiled", "host time between steps"]


def import_load(
    about: About, tool: str, loads: Loads, assumed_length: float | None, assumed_budget: float | None, smooth_within: float = np.inf
) -> dict[str, Any]:
    """Two operating points of a load generator or more. Where the fitted curve misses them by more than `smooth_within` (rms), their own step times
    become a table."""
    about.check()
    parts = _Parts()
    return _write(about, parts, tool, _fit(parts, loads, assumed_length, assumed_budget, smooth_within), loads.left_out)


def _fit(parts: _Parts, loads: Loads, assumed_length: float | None, assumed_budget: float | None, smooth_within: float = np.inf) -> CostFit:
    """T(B) from speed and requests in flight; tokens committed and verified per round from the files, or as assumed."""
    points = loads.points
    check_per_round(assumed_length, assumed_budget)
    length, lengths = _per_round("accepted_length", points, assumed_length)
    budget, budgets = _per_round("budget", points, assumed_budget)
    if np.ptp(budgets) > CONSTANT * budget:
        problem = f"expected one number of tokens verified per request, got {min(budgets):.2f} to {max(budgets):.2f}"
        raise DsimError(problem, key="budget", remedy="give results of one fixed length")
    _check_length(length, budget)
    speed = np.array([p.tps_per_user for p in points]) * length / lengths
    telemetry = Telemetry(np.array([p.concurrency for p in points]), speed)
    source = ", ".join(p.source for p in points[:4]) + (f" and {len(points) - 4} more" if len(points) > 4 else "")
    fit = fit_cost(telemetry, length, budget, source=source)
    parts.verify = fit.curve.model_copy(update={"provenance": "imported"})
    parts.assumed.append(f"accepted length {length:g} and {budget:g} tokens per request and step" + ("" if assumed_length else ", from the files"))
    parts.assumed.append(SLOPE)
    parts.unknown += ["drafting, host time and prompts as opposed to the rest of the step", "prefill cost and memory for KV"]
    if fit.rms > smooth_within:  # a round commits `length` tokens of each request at the per-user speed
        rows = sorted((point.concurrency * budget, length / point.tps_per_user) for point in points)
        note = f"the step times of {len(points)} operating points, as a smooth curve misses them by {fit.rms:.1%} rms; interpolated linearly"
        parts.measured(_by_tokens(rows), fit.curve.source, note)
        parts.unknown.append(f"steps of more than {rows[-1][0]:g} tokens")
    return fit


def check_per_round(length: float | None, budget: float | None) -> None:
    """Raises DsimError where an option cannot be tokens of a request and round."""
    for option, value in (("--accepted-length", length), ("--budget", budget)):
        if value is not None and not 1 <= value <= MOST_SLOTS + 1:
            raise DsimError(f"expected 1 to {MOST_SLOTS + 1} tokens of a request and round, got {value:g}", key=option, remedy=COUNT_ALL)
    if length is not None and budget is not None:
        _check_length(length, budget)


def _check_length(length: float, budget: float) -> None:
    if not 1 <= length <= budget:
        raise DsimError(f"expected 1 to the budget of {budget:g}, got {length:g}", key="--accepted-length", remedy=COUNT_ALL)


def _per_round(name: str, points: Sequence[LoadPoint], assumed: float | None) -> tuple[float, Any]:
    """accepted_length or budget of a round: the mean, and the value of every point. Raises where neither files nor options say it, or both do."""
    counted, option = [getattr(p, name) for p in points], f"--{name.replace('_', '-')}"
    for point, value in zip(points, counted, strict=True):
        if assumed is not None and value is not None and abs(assumed / value - 1) > CONTRADICTS:
            raise DsimError(f"{point.source} counts {value:.3g}, got {assumed:g}", key=option, remedy="leave the option out")
    values = [value if assumed is None else assumed for value in counted]
    if None in values:
        problem = f"does not say the {name.replace('_', ' ')} of a round"
        raise DsimError(problem, where=points[values.index(None)].source, key=option, remedy="give the option; without speculation it is 1")
    return float(np.mean(values)) if assumed is None else assumed, np.array(values, dtype=np.float64)


def _acceptance(parts: _Parts, survival: Sequence[float], source: str, drafter: str) -> None:
    """Synthetic blocks with the survival at every position, without a confidence head; positions that were never accepted are dropped."""
    alive = [s for s in survival if s > 0]
    conditional = [min(max(s / before, 1e-4), 1 - 1e-4) for s, before in zip(alive, [1.0, *alive], strict=False)]
    if not conditional:
        raise DsimError("counts no accepted token", where=source, key="per position", remedy="scrape again after some traffic")
    shape = ParametricAcceptance(conditional={DOMAIN: conditional}, miscalibration=[1.0] * len(conditional))
    parts.blocks = without_head(shape.generate(drafter, "imported", f"{source}: survival by position"))
    parts.note = "marginals imported; variation along a text is the parametric generator's default"
    parts.assumed.append("acceptance varies along a text as in the parametric generator's defaults: counters are averages")
    parts.unknown += ["confidences", "acceptance by domain"]


def _write(about: About, parts: _Parts, tool: str, fit: CostFit | None = None, left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the profile; what was imported, for people and programs."""
    assert parts.verify is not None
    omitted = [f"left out, because no request finished: {name}" for name in left_out]
    parts.unknown += omitted
    costs = Costs(verify=parts.verify, prefill=parts.prefill, overhead=parts.overhead)
    about = replace(about, engine=tool) if about.engine == "not stated" else about
    drafter = parts.drafter(about.drafter)
    drafters = {about.drafter: drafter} if drafter else {}
    profile = about.write(costs, drafters, parts.assumed, parts.unknown, f"Made by dsim import from files of {tool}", parts.files)
    lines = [*omitted]
    if parts.blocks is not None:
        survival = " ".join(f"{s:.2f}" for s in parts.blocks.mean_survival())
        lines.append(f"drafter {about.drafter}: γ = {parts.blocks.gamma}, survival by position {survival} over all anchors")
    if fit is not None:
        fitted = f"step cost fitted to {fit.points} operating points, error {fit.rms:.2%} rms, {fit.worst:.1%} at most"
        lines.append(f"step cost: {parts.verify.note}" if "verify.csv" in parts.files else fitted)
    lines.append(f"profile written to {about.out}")
    data = {"profile": str(about.out), "drafters": list(profile.drafters), "rms": fit.rms if fit else None}
    lists = {"assumed": parts.assumed, "not_identifiable": parts.unknown, "left_out": list(left_out), "text": "\n".join(lines)}
    return data | lists | {"costs": profile.costs}

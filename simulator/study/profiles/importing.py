"""`dsim import`: what engines and load generators wrote, to a profile of provenance «imported» that says what the files could not tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import DsimError
from simulator.files import why_not_writable, write_whole
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, DraftCost, DraftTable, FittedCurve, LinearDraft, MeasuredTable, Overhead, VerifyCost
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import CostFit, Telemetry, fit_cost
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.sglang import AdditiveSps, SampledSps, StepTime, read_sps, read_step_records, read_sts
from simulator.measurements.formats.vllm import CostCurves, read_cost_curves, read_counters
from simulator.measurements.profile import Drafter, Profile, load_profile, save_profile
from simulator.measurements.recorded_run import read_recorded_run
from simulator.study.profiles.fit_run import fit_run
from simulator.study.profiles.telemetry import DOMAIN, without_head

CONSTANT = 0.02  # relative differences between points below which budget and accepted length count as constant


@dataclass(frozen=True)
class About:
    """What the files do not say of themselves."""

    out: Path
    name: str | None = None
    hardware: str = "not stated"
    engine: str = "not stated"
    target: str = "not stated"
    gpus_per_replica: float = 1.0
    drafter: str = "drafter"
    force: bool = False

    def check(self) -> None:
        """A profile may be written there. Raises DsimError."""
        if (self.out / "profile.yaml").exists() and not self.force:
            raise DsimError("there is a profile already", where=self.out, remedy="choose another --out, or --force to replace it")
        if not 0 < self.gpus_per_replica < float("inf"):
            raise DsimError(f"{self.gpus_per_replica:g} GPUs is not positive", key="--gpus-per-replica")


_LENGTH, _BUDGET = ("accepted_length", "--accepted-length"), ("budget", "--budget")  # of a round: in the points, and as options


@dataclass
class _Draft:
    """A profile in the making: costs, at most one drafter, tables to be written beside profile.yaml."""

    verify: VerifyCost | None = None
    overhead: Overhead = field(default_factory=lambda: Overhead(provenance="imported", note="within the step times"))
    prefill: Any = None
    draft: DraftCost | None = None
    blocks: RecordedBlocks | None = None
    family: Any = "other"
    temperatures: list[float] | None = None
    note: str = ""
    files: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def import_sglang(about: About, sps: Path | None, sts: Path | None, records: Path | None) -> dict[str, Any]:
    """An SPS table, a calibration and a dump of decode steps of SGLang. A cost is needed: the table, or step times in the dump."""
    about.check()
    draft = _Draft(family="dspark")
    dump = read_step_records(records, about.drafter) if records else None
    if sps is not None:
        _sps_cost(draft, read_sps(sps), sps.name)
    elif dump is not None and dump.times:
        _step_times(draft, dump.times, records.name if records else "")
    else:
        raise DsimError("no step cost among the files", key="--sps", remedy="give an SPS table, or records with step_cpu_time")
    if dump is not None and dump.blocks is not None:
        draft.blocks = dump.blocks
        draft.draft = LinearDraft(provenance="imported", source=sps.name if sps else "", note="within the step times")
        draft.note = "anchors within an accepted block repeat the round before them: they were never drafted from"
        draft.assumed.append("where a policy stops short of a whole accepted block, the next block is like the one it stopped in")
        draft.unknown += ["domains of the requests", "acceptance probabilities of the draws"]
    if sts is not None:
        draft.temperatures = read_sts(sts)
        if draft.blocks is None or draft.blocks.confidence is None:
            raise DsimError("a calibration needs recorded confidences", where=sts, key="temperatures", remedy="give --records with confidences too")
        if len(draft.temperatures) != draft.blocks.gamma:
            found = f"has {len(draft.temperatures)} positions, the records {draft.blocks.gamma}"
            raise DsimError(found, where=sts, key="temperatures", remedy="give the calibration of this drafter")
        draft.assumed.append("the records were taken without the calibration, as SGLang's own collection is")
    return _write(about, draft, "SGLang")


def _by_tokens(rows: Iterable[tuple[float, float]]) -> str:
    """A cost table of (tokens, seconds)."""
    return "tokens,p50_s\n" + "".join(f"{tokens:g},{seconds:.8g}\n" for tokens, seconds in rows)


def _sps_cost(draft: _Draft, table: SampledSps | AdditiveSps, name: str) -> None:
    if isinstance(table, SampledSps):
        rows = zip(table.tokens, (1 / s for s in table.steps_per_s), strict=True)
        draft.files["verify.csv"] = _by_tokens(rows)
        note = "whole steps, drafting included, each measured at tokens ÷ (γ + 1) requests; interpolated, where SGLang takes the probe below"
        draft.unknown.append("cost per token against cost per request: the table was taken at whole blocks only")
    else:
        cells = [(m, r, table.seconds(r, m)) for r in table.requests for m in table.tokens]
        draft.files["verify.csv"] = "tokens,requests,p50_s\n" + "".join(f"{m:g},{r:g},{seconds:.8g}\n" for m, r, seconds in cells)
        note = "bias + alpha(requests) + theta(tokens), whole steps, drafting included"
    draft.verify = MeasuredTable(provenance="imported", source=f"SGLang SPS table {name}", note=note, file="verify.csv", between="linear")
    draft.assumed.append("ordinary decoding is priced like a step of as many tokens with drafting")


def _step_times(draft: _Draft, times: Sequence[StepTime], name: str) -> None:
    """Of each number of tokens the shape that was seen most."""
    by_tokens: dict[int, StepTime] = {}
    for time in times:
        if time.tokens not in by_tokens or time.n > by_tokens[time.tokens].n:
            by_tokens[time.tokens] = time
    if len(by_tokens) < 2:
        raise DsimError("has steps of one size alone", where=name, key="num_verify_tokens", remedy="record under several loads, or give --sps")
    rows = [f"{t.tokens},{t.p10_s:.8g},{t.seconds:.8g},{t.p90_s:.8g},{t.n}\n" for _, t in sorted(by_tokens.items())]
    draft.files["verify.csv"] = "tokens,p10_s,p50_s,p90_s,n\n" + "".join(rows)
    note = "whole steps, drafting included; of each number of tokens the shape seen most"
    draft.verify = MeasuredTable(provenance="imported", source=f"SGLang step records {name}", note=note, file="verify.csv", between="linear")
    draft.unknown.append("cost per token against cost per request")


def import_vllm(
    about: About,
    curves: Path | None,
    metrics: Path | None,
    before: Path | None,
    points: Sequence[LoadPoint],
    assumed_length: float | None,
    assumed_budget: float | None,
) -> dict[str, Any]:
    """Cost curves of adaptive verification or results of `vllm bench serve` for the cost; counters, or what the results say, for acceptance."""
    about.check()
    draft = _Draft()
    if before is not None and metrics is None:
        raise DsimError("an earlier scrape needs a later one", key="--metrics", remedy="give --metrics too")
    survival, source = (None, "")
    if metrics is not None:
        counters = read_counters(metrics, before)
        survival, source = counters.survival, f"vLLM counters {metrics.name}, {counters.drafts:,.0f} rounds"
    fit = None
    if curves is not None:
        found = read_cost_curves(curves)
        _curve_cost(draft, found, curves.name)
    elif points:
        fit = _fit(draft, points, assumed_length, assumed_budget, about)
        survival = survival or points[0].survival
        source = source or f"vllm bench serve, {points[0].source}"
        draft.draft = LinearDraft(provenance="imported", note="within the fitted step cost")
    else:
        raise DsimError("no step cost among the files", key="--curves", remedy="give the cost curves, or results of vllm bench serve with --bench")
    if survival:
        _acceptance(draft, survival, source, about.drafter)
    elif draft.draft is not None:
        draft.unknown.append("acceptance: none of the files tells it, so there is no drafter")
    return _write(about, draft, "vLLM", fit)


def _curve_cost(draft: _Draft, curves: CostCurves, name: str) -> None:
    source = f"vLLM cost curves {name}"
    rows = [f"{x:g},{y / 1e3:.8g},{'eager' if curves.graph_limit and x > curves.graph_limit else 'graph'}\n" for x, y in curves.verify]
    draft.files["verify.csv"] = "tokens,p50_s,regime\n" + "".join(rows)
    draft.files["draft.csv"] = "requests,p50_s\n" + "".join(f"{x:g},{y / 1e3:.8g}\n" for x, y in curves.draft)
    note = "medians of dummy steps at one context length, padded to captured graphs"
    draft.verify = MeasuredTable(provenance="imported", source=source, note=note, file="verify.csv", between="step")
    draft.draft = DraftTable(provenance="imported", source=source, note="medians of dummy steps", file="draft.csv", between="step")
    draft.overhead = Overhead(provenance="imported", source=source, note="not in the curves: add what your server spends between steps")
    draft.unknown += ["cost of context: one context length was profiled", "host time between steps"]


def import_load(
    about: About, tool: str, points: Sequence[LoadPoint], assumed_length: float | None, assumed_budget: float | None, smooth_within: float = np.inf
) -> dict[str, Any]:
    """Operating points of a load generator, at least two. Where the fitted curve misses them by more than `smooth_within` (rms), their own step
    times become a table."""
    about.check()
    draft = _Draft()
    fit = _fit(draft, points, assumed_length, assumed_budget, about)
    if fit.rms > smooth_within:
        length, _ = _told(*_LENGTH, points, assumed_length)
        budget, _ = _told(*_BUDGET, points, assumed_budget)
        _as_measured(draft, points, fit, length, budget)
    return _write(about, draft, tool, fit)


def _as_measured(draft: _Draft, points: Sequence[LoadPoint], fit: CostFit, length: float, budget: float) -> None:
    """A table of the points' step times: a round commits `length` tokens of each request at the per-user speed."""
    rows = sorted((point.concurrency * budget, length / point.tps_per_user) for point in points)
    draft.files["verify.csv"] = _by_tokens(rows)
    note = f"the step times of {len(points)} operating points, for a smooth curve misses them by {fit.rms:.1%} rms; read straight between them"
    draft.verify = MeasuredTable(provenance="imported", source=fit.curve.source, note=note, file="verify.csv", between="linear")
    draft.unknown.append(f"steps of more than {rows[-1][0]:g} tokens")


def _fit(draft: _Draft, points: Sequence[LoadPoint], assumed_length: float | None, assumed_budget: float | None, about: About) -> CostFit:
    """T(B) from speed and requests in flight; what a round commits and verifies as each file tells, or as was said."""
    length, lengths = _told(*_LENGTH, points, assumed_length)
    budget, budgets = _told(*_BUDGET, points, assumed_budget)
    if np.ptp(budgets) > CONSTANT * budget:
        problem = f"tokens verified per request differ between the files ({min(budgets):.2f} to {max(budgets):.2f})"
        raise DsimError(problem, key="budget", remedy="give results of one fixed length")
    if not 1 <= length <= budget:
        remedy = "count the bonus token and the anchor; no speculation: 1 and 1"
        raise DsimError(f"accepted length {length:g} lies outside 1 … {budget:g}, the verification budget", key="--accepted-length", remedy=remedy)
    speed = np.array([p.tps_per_user for p in points]) * length / lengths
    telemetry = Telemetry(np.array([p.concurrency for p in points]), speed)
    source = ", ".join(p.source for p in points[:4]) + (f" and {len(points) - 4} more" if len(points) > 4 else "")
    found = fit_cost(telemetry, length, budget, source=source)
    draft.verify = found.curve.model_copy(update={"provenance": "imported"})
    draft.assumed.append(
        f"accepted length {length:g} and {budget:g} tokens per request and step" + (" as the files say" if not assumed_length else "")
    )
    draft.assumed.append("the slope belongs to verified tokens: one policy alone cannot tell a cost per token from a cost per request")
    draft.unknown += ["drafting, host time and prompts apart from the step", "prefill cost and memory for KV"]
    return found


def _told(name: str, option: str, points: Sequence[LoadPoint], assumed: float | None) -> tuple[float, Any]:
    """A number of rounds: its mean and the one of every point."""
    told = [getattr(p, name) for p in points]
    if assumed is not None:
        return assumed, np.full(len(points), assumed)
    if any(value is None for value in told):
        silent = next(p.source for p, value in zip(points, told, strict=True) if value is None)
        problem = f"does not tell the {name.replace('_', ' ')} of a round"
        raise DsimError(problem, where=silent, key=option, remedy="say it; without speculation both are 1")
    return float(np.mean(told)), np.array(told, dtype=np.float64)


def _acceptance(draft: _Draft, survival: Sequence[float], source: str, drafter: str) -> None:
    """Blocks made up from the survival at every position, without a confidence head; positions never accepted are left off."""
    alive = [s for s in survival if s > 0]
    conditional = [min(max(s / before, 1e-4), 1 - 1e-4) for s, before in zip(alive, [1.0, *alive], strict=False)]
    if not conditional:
        raise DsimError("no drafted token was ever accepted", where=source, key="per position", remedy="scrape again after some traffic")
    shape = ParametricAcceptance(conditional={DOMAIN: conditional}, miscalibration=[1.0] * len(conditional))
    draft.blocks = without_head(shape.generate(drafter, "imported", f"{source}: survival by position"))
    draft.note = "marginals imported; how acceptance varies along a text is the parametric generator's default"
    draft.assumed.append("acceptance varies along a text as the parametric generator's defaults do: counters are averages")
    draft.unknown += ["confidences", "acceptance by domain"]


def import_recorded_run(about: About, folder: Path) -> dict[str, Any]:
    """A real run with stamps and a per-second series: its costs, fitted with the simulated engine in the loop."""
    about.check()
    run = read_recorded_run(folder)
    fit = fit_run(run)
    draft = _Draft(verify=fit.costs.verify, overhead=fit.costs.overhead, prefill=fit.costs.prefill)
    draft.unknown += ["host time apart from the step", "memory for KV"]
    known = {"engine": run.engine, "target": run.model, "gpus_per_replica": run.gpus}
    merged = {key: value if getattr(about, key) in ("not stated", 1.0) else getattr(about, key) for key, value in known.items()}
    return _write(About(**{**vars(about), **merged}), draft, run.engine)


def _write(about: About, draft: _Draft, tool: str, fit: CostFit | None = None) -> dict[str, Any]:
    """Tables, blocks and profile.yaml, and what was found for people and machines."""
    assert draft.verify is not None
    why = why_not_writable(about.out)
    if why is not None:
        raise DsimError(f"cannot write ({why})", where=about.out, remedy="choose another --out")
    drafters = {}
    if draft.blocks is not None:
        assert draft.draft is not None
        drafters[about.drafter] = Drafter(
            family=draft.family, gamma=draft.blocks.gamma, draft=draft.draft, blocks=f"{about.drafter}.parquet",
            confidence=draft.blocks.confidence is not None, temperatures=draft.temperatures, note=draft.note,
        )  # fmt: skip
    profile = Profile(
        format=1,
        name=about.name or about.out.resolve().name,
        hardware=about.hardware,
        engine=about.engine if about.engine != "not stated" else tool,
        target=about.target,
        gpus_per_replica=about.gpus_per_replica,
        costs=Costs(verify=draft.verify, prefill=draft.prefill, overhead=draft.overhead),
        drafters=drafters,
        assumed=draft.assumed,
        not_identifiable=draft.unknown,
    )
    for name, text in draft.files.items():
        write_whole(about.out / name, text)
    if draft.blocks is not None:
        draft.blocks.save(about.out / f"{about.drafter}.parquet")
    save_profile(profile, about.out, f"Made by dsim import from files of {tool}")
    lines = [f"profile written to {about.out}"]
    if isinstance(draft.verify, FittedCurve) and fit is not None:
        lines.insert(0, f"step cost fitted to {fit.points} operating points, {fit.rms:.2%} rms, {fit.worst:.1%} at worst")
    elif fit is not None:
        lines.insert(0, f"step cost: {draft.verify.note}")
    if draft.blocks is not None:
        survival = " ".join(f"{s:.2f}" for s in draft.blocks.mean_survival())
        lines.insert(0, f"drafter {about.drafter}: block of {draft.blocks.gamma}, survival by position {survival} over all anchors")
    data = {"profile": str(about.out), "drafters": list(drafters), "rms": fit.rms if fit else None}
    costs = load_profile(about.out).costs  # with its tables
    return data | {"assumed": draft.assumed, "not_identifiable": draft.unknown, "text": "\n".join(lines), "costs": costs}

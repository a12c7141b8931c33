"""`dsim import` of operating points: result files and scrapes of one server, several runs and drafters together, to one profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.cost import Costs
from simulator.measurements.formats.loadgen import Loads
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.uncertainty import Uncertainty, Unsure
from simulator.study.profiles.about import About
from simulator.study.profiles.counted import Counted, acceptance, gamma_of
from simulator.study.profiles.given_points import Cell, Options, completed, named_files, read_cells
from simulator.study.profiles.joint_fit import FRONT_END, Compared, JointFit, Say, fit_cells, noise_of, speeds
from simulator.study.profiles.parts import DrafterPart, Parts
from simulator.study.profiles.scraped import filled, read_scrapes
from simulator.study.profiles.simulated import AS_MOST, TOKEN_BUDGET, Cache, Working
from simulator.study.profiles.workload import check_workload

IMPORTED = {"provenance": "imported"}
_FRONT_END = f"a request reaches the engine {1e3 * FRONT_END.seconds:g} ms after it is sent: no file says how long it takes"
PROPOSES_ALIKE = 0.25  # difference in the share of rounds that propose, from which files are not of one drafter


@dataclass(frozen=True)
class PointFiles:
    """Files and options of a command line: results to fit and to check, scrapes and earlier ones, and how results are read."""

    bench: Sequence[str | Path]
    check: Sequence[str | Path]
    metrics: Sequence[str | Path]
    before: Sequence[str | Path]
    read: Callable[[Path], Loads]
    model: str | None = None
    accepted_length: float | None = None
    budget: float | None = None
    slots: int | None = None
    token_budget: int = TOKEN_BUDGET
    max_batch: int | None = None

    def refuse(self, *names: str) -> None:
        """Raises DsimError where one of these options was given, which only results of a benchmark have a use for."""
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in names and value and value != option.default:
                key = "--metrics-before" if option.name == "before" else f"--{option.name.replace('_', '-')}"
                raise DsimError("is of no use without --bench", key=key, remedy="leave it out, or give results of a benchmark with --bench")


def import_points(about: About, tool: str, files: PointFiles, say: Say = lambda _: None, cache: Cache = "own") -> dict[str, Any]:
    """The profile of a server from results of a load generator. Raises DsimError."""
    about.check()
    parts = Parts()
    left_out = fit_points(parts, about, files, say, cache=cache)
    return parts.write(about, tool, left_out)


def fit_points(parts: Parts, about: About, files: PointFiles, say: Say = lambda _: None, option: str = "FILE", cache: Cache = "own") -> list[str]:
    """Fills in costs and drafters from the files; which benchmarks were left out. Raises DsimError."""
    options = Options(files.accepted_length, files.budget, about.drafter)
    options.check()
    fit, check = named_files(files.bench, option), named_files(files.check, "--check")
    after, before = named_files(files.metrics, "--metrics"), named_files(files.before, "--metrics-before")
    cells, loads = read_cells(fit, check, files.read)
    scrapes = read_scrapes(after, before, files.model, parts.remarks, about.drafter, cells)
    parts.remarks += loads.remarks
    cells = completed(filled(cells, scrapes, about.drafter, files.model is not None), options)
    if about.gpus_per_replica == 1:
        parts.remarks += _of_one_gpu(cells, [each for counters in scrapes.values() for each in counters])
    counted = {name: acceptance(name, cells, scrapes.get(name, ())) for name in dict.fromkeys(cell.drafter for cell in cells) if name}
    ahead = _drafts_ahead(cells, [each for counters in scrapes.values() for each in counters], option)
    working = Working(cache, ahead, files.token_budget, files.max_batch)
    fill_in(parts, cells, {name: known for name, known in counted.items() if known}, files.slots, say, working)
    if parts.costs is not None and parts.costs.prefill is not None:
        parts.assumed.append(f"prompts were processed in chunks, in steps of at most {files.token_budget:,} tokens (--token-budget)")
    return loads.left_out


def _of_one_gpu(cells: Sequence[Cell], scrapes: Sequence[SpecCounters]) -> list[str]:
    """What is to be said of files that were not measured on one GPU."""
    engines = max([*(cell.point.engines for cell in cells), *(each.engines for each in scrapes)])
    gpus = max(cell.point.gpus for cell in cells)
    if engines > 1:
        what = f"{engines} engines (data parallel) are counted as one: batch and token budget are of all"
        return [f"{what}; give --gpus-per-replica and --token-budget of all of them"]
    return [f"the server had {gpus} GPUs (tp_size × pp_size): give --gpus-per-replica {gpus}"] if gpus > 1 else []


def _drafts_ahead(cells: Sequence[Cell], scrapes: Sequence[SpecCounters], option: str) -> bool:
    """Does the engine draft at the end of a step? vLLM does (v1/worker/gpu_model_runner.py, sample_tokens); others draft when the next one begins."""
    if scrapes:
        return all(each.engine == "vllm" for each in scrapes)
    return option == "--bench" and not any(cell.point.engine for cell in cells)


def fill_in(
    parts: Parts,
    cells: Sequence[Cell],
    counted: dict[str, Counted],
    slots: int | None = None,
    say: Say = lambda _: None,
    working: Working = AS_MOST,
) -> JointFit:
    """Costs, drafters and what is not known of them from the cells and the acceptance of each drafter. Raises DsimError."""
    check_workload(cells)
    _check_drafters(cells)
    gamma = {name: gamma_of(known, [cell for cell in cells if cell.drafter == name], slots) for name, known in counted.items()}
    plain = any(not cell.drafter for cell in cells if not cell.held_out)
    apart = {name for name, known in counted.items() if known.by_position or plain}
    fit = fit_cells(cells, {name: known.blocks(name, gamma[name]) for name, known in counted.items()}, apart, say, working)
    parts.costs = _imported(fit.costs)
    drafters = {name: drafting for name, drafting in fit.drafting.items() if name in apart}
    for name, drafting in drafters.items():
        note = "acceptance counted by position; variation along a text is the parametric generator's"
        parts.drafters[name] = DrafterPart(drafting.cost.model_copy(update=IMPORTED), drafting.blocks, note=note, counted=counted[name].slots)
        parts.assumed += _assumed(name, counted[name], gamma[name])
        parts.unknown.append(f"{name}: {'its' if counted[name].apart else 'acceptance by domain, and its'} confidences")
        if counted[name].apart:
            names = ", ".join(drafting.blocks.domains)
            parts.remarks.append(f"{name} has the domains {names}: a scenario says its own (workload.domains), else its requests are of all of them")
    parts.assumed += [*fit.surface.assumed, _FRONT_END]
    parts.unknown += fit.surface.unknown
    extra = [unsure for name in drafters for unsure in counted[name].unsure(name, gamma[name])]
    parts.uncertainty = merged(fit.surface.uncertainty, extra)
    parts.remarks = [*_headlines(fit, bool(set(counted) - apart)), *parts.remarks]
    parts.table = _table(fit.compared)
    engines = {row.cell.point.engine for row in fit.compared}
    parts.engine = engines.pop() if len(engines) == 1 else ""
    parts.data |= {
        "rms": fit.rms, "worst": fit.worst, "noise": noise_of([row.cell for row in fit.compared]),
        "users": fit.manner, "cells": [row.to_json() for row in fit.compared],
    }  # fmt: skip
    return fit


def _imported(costs: Costs) -> Costs:
    """Costs from files of others."""
    prefill = costs.prefill and costs.prefill.model_copy(update=IMPORTED)
    parts = {"verify": costs.verify.model_copy(update=IMPORTED), "prefill": prefill, "overhead": costs.overhead.model_copy(update=IMPORTED)}
    return costs.model_copy(update=parts)


def _check_drafters(cells: Sequence[Cell]) -> None:
    """Raises DsimError where a file is kept out whose drafter the fit does not know, or files of one drafter cannot be of one."""
    fitted = [cell for cell in cells if not cell.held_out]
    if not fitted:
        raise DsimError("no result is left to fit", key="--check", remedy="give some of the files without --check")
    known = {cell.drafter for cell in fitted}
    for cell in cells:
        if cell.drafter not in known and cell.drafter:
            problem = f"is of drafter '{cell.drafter}', of which no result is in the fit"
            raise DsimError(problem, where=cell.point.source, key="--check", remedy="give a result of it to the fit")
    for name, domain in sorted({(cell.drafter, cell.domain) for cell in cells if cell.drafter}):
        mine = [cell for cell in cells if (cell.drafter, cell.domain) == (name, domain)]
        shares = [(cell.point.proposing, cell) for cell in mine if cell.point.proposing is not None]
        shares.sort(key=lambda pair: pair[0])
        if shares and shares[-1][0] - shares[0][0] > PROPOSES_ALIKE:
            (low, a), (high, b) = shares[0], shares[-1]
            problem = f"drafted in {low:.0%} of its rounds, and {b.point.source} in {high:.0%}: they are not of one drafter"
            raise DsimError(problem, where=a.point.source, remedy="name each file's drafter: ngram=c1.json")


def _assumed(name: str, counted: Counted, gamma: int) -> list[str]:
    """What a drafter's blocks take for granted."""
    told = [f"{name}: acceptance varies along a text as in the parametric generator's defaults: counters are averages ({counted.told})"]
    if gamma > counted.slots:
        rule = "the conditional acceptance of the counted ones from the second on" if counted.slots > 1 else "that of the first"
        told.append(f"{name}: positions {counted.slots + 1} to {gamma} were never drafted, and have {rule}")
    return told


def merged(told: Uncertainty | None, extra: Sequence[Unsure]) -> Uncertainty | None:
    """A fit's uncertainty with what is known of acceptance beside it, in place of what the fit says of the same."""
    if told is None:
        return None
    at = {(unsure.parameter, unsure.drafter): unsure for unsure in extra}
    parameters = [at.pop((unsure.parameter, unsure.drafter), unsure) for unsure in told.parameters]
    correlation = told.correlation
    if correlation is not None and at:
        n, more = len(parameters), len(at)
        whole = np.eye(n + more)
        whole[:n, :n] = correlation
        correlation = whole.tolist()
    return told.model_copy(update={"parameters": [*parameters, *at.values()], "correlation": correlation})


def _headlines(fit: JointFit, inside: bool) -> list[str]:
    """What these points cannot say, and residuals."""
    drafted, lines = {bool(row.cell.drafter) for row in fit.compared if not row.cell.held_out}, []
    if drafted == {False}:
        lines.append("no point speculates, so these points cannot answer questions about k: the slope is taken as the cost of verified tokens, and")
        lines[-1] += " drafting is not known; one benchmark with speculation would tell"
    elif drafted == {True}:
        what = "drafting is within the step cost" if inside else "what drafting costs is assumed"
        lines.append(f"no point is without speculation: {what}, so the speed without is not known; one such benchmark would tell")
    fitted, apart = (np.abs(speeds([row for row in fit.compared if row.cell.held_out == out])) for out in (False, True))
    lines.append(f"simulated against measured speed at the {len(fitted)} fitted points: {fit.rms:.1%} rms, {fitted.max():.1%} at most")
    if len(apart):
        lines.append(f"at the {len(apart)} points kept out of the fit: {np.median(apart):.1%} in the median, {apart.max():.1%} at most")
    else:
        lines.append("no point was kept out of the fit (--check FILE), so how well it predicts is not known")
    if (noise := noise_of([row.cell for row in fit.compared])) is not None:
        lines.append(f"repeated points differ by {noise:.1%} among each other")
    return lines


def _table(rows: Sequence[Compared]) -> list[str]:
    """Measured, simulated and the difference of every cell."""
    wide = max(len(row.cell.point.source) for row in rows)
    head = f"{'':{wide}}  users  k  {'tok/s/user':>24}  {'tok/s':>24}  {'accepted length':>20}  {'TTFT, ms':>22}"
    lines = [head]
    for row in sorted(
        rows, key=lambda row: (row.cell.held_out, row.cell.drafter, row.cell.slots, row.cell.point.offered or row.cell.point.concurrency)
    ):
        point, seen = row.cell.point, row.seen
        texts = [
            _pair(point.tps_per_user, seen.tps_per_user, 2, 24), _pair(point.throughput_tok_s, seen.throughput_tok_s, 1, 24),
            _pair(point.accepted_length, seen.accepted_length, 2, 20) if row.cell.slots else " " * 20,
            _pair(_ms(point.ttft_s), _ms(seen.ttft_s), 0, 22),
        ]  # fmt: skip
        apart = "  kept out" if row.cell.held_out else ""
        lines.append(f"{point.source:{wide}}  {point.offered or point.concurrency:5.0f}  {row.cell.slots}  {'  '.join(texts)}{apart}".rstrip())
    return lines


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _pair(measured: float | None, simulated: float | None, digits: int, width: int) -> str:
    """Measured, simulated, difference."""
    if measured is None or simulated is None:
        return " " * width
    return f"{measured:.{digits}f} {simulated:.{digits}f} {simulated / measured - 1:+6.1%}".rjust(width)

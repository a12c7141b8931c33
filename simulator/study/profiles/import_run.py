"""`dsim import vllm-run`: the profile of one replica from a recorded run, and the run held against its simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.measurements.recorded_run import RecordedRun, read_recorded_run
from simulator.study.profiles.about import About
from simulator.study.profiles.fit_run import Row, RunFit, compare_run, fit_run

Say = Callable[[str], None]
LEFT_OVER, MOST_LEFT_OVER = 0.01, 0.05  # of all tokens, rms: a fit that leaves more is warned of; is no fit
CACHED = 0.05  # share of the prompts' tokens, from which it is said
NO_HALF = 0.1  # by which the share of the output tokens in the half kept back may differ from a half
SHOWN = ("TTFT p50", "TTFT p90", "TPOT p50", "TPOT p90", "E2E p50", "E2E p90")


def import_recorded_run(about: About, folder: Path, say: Say = lambda _: None) -> dict[str, Any]:
    """A recorded run with a series per second: costs of a replica, fitted with the simulated engines in the loop, once to all of it for the profile
    and once to its first half, to see how well that foresees the whole. Raises DsimError, also where no costs explain the run."""
    about.check()
    run = read_recorded_run(folder)
    say("fitting to the whole series")
    fit = fit_run(run, progress=say)
    if fit.residual > MOST_LEFT_OVER:
        problem = f"the simulated engine misses the running totals by {fit.residual:.1%} of all tokens rms under the best costs"
        remedy = "check the settings of the engine in meta.json: data_parallel_size, max_num_seqs, max_num_batched_tokens"
        raise DsimError(problem, where=folder, remedy=remedy)
    warnings = [f"the fit leaves {fit.residual:.1%} of all tokens over (rms): the engine did something else too"] if fit.residual > LEFT_OVER else []
    comparison = _rows(run, fit, "fitted to all of it")
    if run.cached_share > CACHED:
        cached = f"{run.cached_share:.0%} of the prompts' tokens came from a cache, and are fitted as if computed"
        warnings.append(f"{cached}: prompts that are not in it cost more")
    if abs(run.kept_back - 0.5) > NO_HALF:
        warnings.append(f"no half was kept back: after {run.half_s:g} s the series has {run.kept_back:.0%} of the output tokens, record a longer run")
    else:
        say("fitting to the first half")
        comparison += _rows(run, fit_run(run, run.half_s, say), f"fitted to its first {run.half_s:g} s")
    assumed = [_replicas(run)] + ([_front_end(fit)] if fit.front_end_s else [])
    unknown = ["host time as opposed to the rest of the step", "memory for KV", *warnings]
    about = replace(about, engine=run.engine, target=run.model, gpus_per_replica=run.gpus)
    about.write(fit.costs, {}, assumed, unknown, f"Made by dsim import from files of {run.engine}")
    lines = [f"{run.replicas} replicas of {run.gpus:g} GPUs" if run.replicas > 1 else f"one replica of {run.gpus:g} GPUs", *map(_line, comparison)]
    lines += [f"left over: {fit.residual:.2%} of all tokens rms", *(f"warning: {text}" for text in warnings), f"profile written to {about.out}"]
    data = {"profile": str(about.out), "drafters": [], "replicas": run.replicas, "rms": fit.residual, "front_end_s": fit.front_end_s}
    lists = {"assumed": assumed, "not_identifiable": unknown, "left_out": [], "warnings": warnings, "comparison": comparison}
    return data | lists | {"text": "\n".join(lines), "costs": fit.costs}


def _rows(run: RecordedRun, fit: RunFit, fitted: str) -> list[Row]:
    """What is shown of a comparison."""
    rows = {row["what"]: row for row in compare_run(run, fit)}
    return [rows[what] | {"fit": fitted} for what in SHOWN if what in rows]


def _line(row: Row) -> str:
    return f"{row['what']}: simulated {row['simulated']:.4g} s, measured {row['published']:.4g} s, {row['difference']:+.1%} ({row['fit']})"


def _replicas(run: RecordedRun) -> str:
    if run.replicas == 1:
        return "one engine served the run"
    return f"{run.replicas} data parallel ranks served the run, replicas with at most {run.max_batch} requests each; this profile is of one"


def _front_end(fit: RunFit) -> str:
    return (
        f"requests reached the engine {fit.front_end_s * 1e3:.1f} ms after their arrival in the mean, beyond the wait for a step; "
        "no cost has it: add it to TTFT"
    )

"""Step costs fitted to the per-second series of a real run with the simulated engine in the loop, and the run compared with its simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.engine.given import ReplicaSettings
from simulator.engine.simulate import OpenTraffic, Run, simulate
from simulator.errors import DsimError
from simulator.measurements.cost import Costs
from simulator.measurements.fit import rms
from simulator.measurements.prices import RoundCost
from simulator.measurements.recorded_run import RecordedRun
from simulator.measurements.replay import nothing_drafted
from simulator.policies.prefill import Chunked
from simulator.policies.verification import NoSpeculation
from simulator.schema import validate
from simulator.study.profiles.one_replica import one_replica
from simulator.traffic.request import RequestSpec

Row = dict[str, Any]
STATISTICS: dict[str, Callable[[Floats], Any]] = {"mean": np.mean} | {f"p{q}": partial(np.percentile, q=q) for q in (10, 50, 90, 99)}


@dataclass(frozen=True)
class RunFit:
    """Fitted costs, the time of the first arrival on the clock of the series, and the residual of the two running totals."""

    costs: Costs
    clock_s: float
    residual: float  # rms over the rows of the series, as a fraction of all tokens
    evaluations: int


def fit_run(run: RecordedRun, seconds: float | None = None, progress: Callable[[str], None] = lambda _: None) -> RunFit:
    """Five costs and a clock offset such that the simulated engine, with the run's own requests and settings, has the running totals of prompt and
    output tokens in the first `seconds` of the series (all of it by default). Of the requests' timestamps only arrivals are used.

    The simulation is a step function of the costs, so Nelder and Mead's simplex searches their logarithms: a wide one from a start read off the
    series, then a narrower one from its optimum.
    """
    from scipy.optimize import minimize

    at_s = run.series["t"][run.series["t"] <= (seconds or np.inf)]
    start = _start(run)
    measured = [np.cumsum(run.series[name] * run.tick_s)[: len(at_s)] for name in ("gen_throughput", "prompt_throughput")]
    tried = 0

    def misfit(x: Floats) -> float:
        nonlocal tried
        tried += 1
        values = start * np.exp(x)
        simulated = token_totals(simulate_run(run, costs_of(values, run)), at_s - float(values[5]))
        left = rms(np.concatenate([(a - b) / b[-1] for a, b in zip(simulated, measured, strict=True)]))
        if tried % 25 == 0:
            progress(f"trial {tried}: {left:.3%} of all tokens")
        return left

    at, left_over = np.zeros(6), np.inf
    for width in (0.5, 0.15):
        simplex = np.vstack([at, at + width * np.eye(6)])
        result = minimize(misfit, at, method="Nelder-Mead", options={"maxfev": 200, "xatol": 3e-3, "fatol": 2e-5, "initial_simplex": simplex})
        at, left_over = result.x, float(result.fun)
    best = start * np.exp(at)
    return RunFit(costs_of(best, run, float(at_s[-1]), left_over), float(best[5]), left_over, tried)


def _start(run: RecordedRun) -> Floats:
    """Costs to begin with: a step of few and of many requests from seconds without prompts, a prompt token from the busiest seconds."""
    series = run.series
    plain = (series["prompt_throughput"] == 0) & (series["gen_throughput"] > 0) & (series["running"] > 0)
    if not plain.any() or not series["prompt_throughput"].any():
        problem = "has no row with tokens and no prompt" if series["prompt_throughput"].any() else "has no prompt"
        raise DsimError(problem, where=run.folder / "timeseries.csv", remedy="record a longer run")
    step, requests = series["running"][plain] / series["gen_throughput"][plain], series["running"][plain]
    slope, base = np.polyfit(requests, step, 1) if len(np.unique(requests)) > 1 else (0.0, float(np.median(step)))
    context = float(run.prompt_tokens.mean() + run.output_tokens.mean() / 2)
    base = max(float(base), float(step.min()) / 2)
    slope = max(float(slope), 0.2 * base / float(series["running"].max()))  # a full batch costs something, whatever the noise says
    prompt = 1 / float(np.percentile(series["prompt_throughput"], 95) or series["prompt_throughput"].max())
    return np.array([base, slope / 2, slope / 2 / context, prompt, prompt / 100 / context, 0.1])


def costs_of(values: Floats, run: RecordedRun, seconds: float = 0.0, residual: float = 0.0) -> Costs:
    """Costs from base, per token, per context token, per prompt token and per prompt token and attended token, seconds, five digits each."""
    base, token, context, prompt, prompt_context = (float(f"{v:.5g}") for v in values[:5])
    source = f"{run.engine}, {run.model}: per-second series of a run of {len(run)} requests"
    note = f"fitted to the first {seconds:g} seconds with the simulated engine in the loop; {residual:.2%} of all tokens rms" if seconds else ""
    low = float(max(run.series["running"].min(), 1.0))
    origin = {"provenance": "fitted", "source": source}
    verify = {"kind": "curve", "base_s": base, "per_token_s": token, "per_context_token_s": context, "note": note} | origin
    prefill = {"kind": "linear", "base_s": base, "per_token_s": prompt, "per_token_context_s": prompt_context, "note": note} | origin
    content = {
        "verify": verify | {"measured_tokens": (low, float(max(run.series["running"].max(), low)))},
        "prefill": prefill,
        "overhead": {"note": "within the step cost; the series cannot show it apart"} | origin,
    }
    return validate(Costs, content, run.folder, DsimError)


def simulate_run(run: RecordedRun, costs: Costs) -> Run:
    """The run's own requests under the engine settings that it was recorded with; memory for KV is ample."""
    columns = zip(run.arrival_s.tolist(), run.prompt_tokens.tolist(), run.output_tokens.tolist(), strict=True)
    specs = [RequestSpec(i, at_s, prompt, output, "") for i, (at_s, prompt, output) in enumerate(columns)]
    settings = ReplicaSettings(max_batch=run.max_batch, prefill=Chunked(token_budget=run.token_budget))
    fleet = one_replica(settings, NoSpeculation(), nothing_drafted(), RoundCost(costs, None, 0, 0))
    return simulate(OpenTraffic(specs, 0.0, 1e9, 1e9), fleet)  # to the end


def token_totals(simulated: Run, at_s: Floats) -> tuple[Floats, Floats]:
    """Output and prompt tokens up to each time of the run's clock, [n] each; a prompt counts when its first token is out."""
    first = np.array([r.first_token_s for r in simulated.requests])
    order = np.argsort(first)
    prompts = np.concatenate(([0.0], np.cumsum(np.array([r.spec.prompt_tokens for r in simulated.requests])[order])))
    rounds = np.concatenate(([0.0], np.cumsum(simulated.steps["committed"])))  # steps are in order of their end
    started = np.searchsorted(first[order], at_s, side="right")
    return rounds[np.searchsorted(simulated.steps["end_s"], at_s, side="right")] + started, prompts[started]


def compare_run(run: RecordedRun, fit: RunFit) -> list[Row]:
    """Quantiles of TTFT, TPOT and E2E, and means of running and waiting requests: rows with simulated, published, difference."""
    simulated = simulate_run(run, fit.costs)
    arrival, first, last = np.array([(r.spec.arrival_s, r.first_token_s, r.finish_s) for r in simulated.requests]).T
    gaps = np.maximum(run.output_tokens - 1, 1)
    pairs = {
        "TTFT": (first - arrival, run.first_token_s - run.arrival_s),
        "TTFT from queued": (first - arrival, run.first_token_s - run.queued_s),
        "TPOT": ((last - first) / gaps, (run.last_token_s - run.first_token_s) / gaps),
        "E2E": (last - arrival, run.last_token_s - run.arrival_s),
    }
    statistics = [(name, statistic, of, *both) for name, both in pairs.items() for statistic, of in STATISTICS.items()]
    rows = [_row(f"{name} {statistic}", of, ours, theirs) for name, statistic, of, ours, theirs in statistics if of(theirs) > 0]
    for name, ours in _inside(simulated, fit.clock_s, run.series["t"]).items():
        theirs = run.series[name]
        if not theirs.any():  # nobody waited
            continue
        row = _row(f"{name} requests, mean over seconds", np.mean, ours, theirs)
        rows.append(row | {"mean_absolute_difference": float(np.abs(ours - theirs).mean())})
    return rows


def _row(what: str, statistic: Callable[[Floats], Any], ours: Floats, theirs: Floats) -> Row:
    simulated, published = float(statistic(ours)), float(statistic(theirs))
    return {"what": what, "simulated": simulated, "published": published, "difference": simulated / published - 1, "n": len(theirs)}


def _inside(simulated: Run, clock_s: float, at_s: Floats) -> dict[str, Floats]:
    """Requests running (decoding, or with prompt tokens in the step) and waiting at each time of the series' clock."""
    steps, requests = simulated.steps, simulated.requests
    times = (steps["end_s"], np.sort([r.spec.arrival_s for r in requests]), np.sort([r.finish_s for r in requests]))
    done, arrived, gone = (np.searchsorted(stamps + clock_s, at_s, side="right") for stamps in times)
    waiting = np.minimum(np.where(done > 0, steps["waiting_end"][np.maximum(done - 1, 0)], 0.0), arrived - gone)  # as the last step left them
    return {"running": arrived - gone - waiting, "waiting": waiting}

"""Step costs fitted to the per-second series of a real run with the simulated engine in the loop, and the run compared with its simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.engine.given import ReplicaSettings
from simulator.engine.simulate import OpenTraffic, Run, simulate
from simulator.errors import DsimError
from simulator.measurements.cost import Costs
from simulator.measurements.fit import rms
from simulator.measurements.prices import RoundCost
from simulator.measurements.recorded_run import RecordedRun
from simulator.measurements.replay import nothing_drafted
from simulator.policies.prefill import Chunked
from simulator.policies.routing import LeastLoaded
from simulator.policies.verification import NoSpeculation
from simulator.schema import validate
from simulator.study.profiles.one_replica import one_replica
from simulator.traffic.request import RequestSpec

Row = dict[str, Any]
TRIALS = 200  # simulations of each of the two simplexes
RESOLVED_TICKS = 10.0  # median TTFT in rows of the series from which on the series shows it
TTFT_WEIGHT = 0.05  # of some hundred requests quantiles of TTFT are known to some 5 %, running totals to some 0.25 %
FRONT_END = 0.1  # share of the wait for a step within which a longer wait to be queued is noise
TTFT_QUANTILES = np.arange(10, 91, 10)
STATISTICS: dict[str, Callable[[Floats], Any]] = {"mean": np.mean} | {f"p{q}": partial(np.percentile, q=q) for q in (10, 50, 90, 99)}


@dataclass(frozen=True)
class RunFit:
    """Fitted costs, the time of the first arrival on the clock of the series, and the residual of the two running totals."""

    costs: Costs
    clock_s: float
    residual: float  # rms over the rows of the series, as a fraction of all tokens
    evaluations: int
    front_end_s: float = 0.0  # from arrival to queued beyond the wait for a step to end, mean


def fit_run(run: RecordedRun, seconds: float | None = None, progress: Callable[[str], None] = lambda _: None) -> RunFit:
    """Five costs and a clock offset such that the simulated engine, with the run's own requests, replicas and settings, has the running totals of
    prompt and output tokens in the first `seconds` of the series (all of it by default). Of the requests' timestamps arrivals are used, and where
    first tokens come too soon for the rows of the series to show when, the quantiles of TTFT in that time.

    The simulation is a step function of the costs, so Nelder and Mead's simplex searches their logarithms: a wide one from a start read off the
    series, then a narrower one from its optimum, with requests as late at the engine as they were queued later than the first optimum explains.
    """
    from scipy.optimize import minimize

    at_s = run.series["t"][run.series["t"] <= (seconds or np.inf)]
    start = _start(run)
    measured = [np.cumsum(run.series[name] * run.tick_s)[: len(at_s)] for name in ("gen_throughput", "prompt_throughput")]
    early = _unresolved(run, float(at_s[-1]))
    tried, front_end_s = 0, 0.0

    def totals_off(simulated: Run, clock_s: float) -> float:
        totals = token_totals(simulated, at_s - clock_s)
        return rms(np.concatenate([(a - b) / b[-1] for a, b in zip(totals, measured, strict=True)]))

    def misfit(x: Floats) -> float:
        nonlocal tried
        tried += 1
        values = start * np.exp(x)
        simulated = simulate_run(run, costs_of(values, run), front_end_s)
        left = totals_off(simulated, float(values[5]))
        if tried % 25 == 0:
            progress(f"trial {tried}: {left:.3%} of all tokens")
        return float(np.hypot(left, TTFT_WEIGHT * _ttft_off(run, simulated, early)))

    at = np.zeros(6)
    for width in (0.5, 0.15):
        simplex = np.vstack([at, at + width * np.eye(6)])
        result = minimize(misfit, at, method="Nelder-Mead", options={"maxfev": TRIALS, "xatol": 3e-3, "fatol": 2e-5, "initial_simplex": simplex})
        at = result.x
        best = start * np.exp(at)
        simulated = simulate_run(run, costs_of(best, run), front_end_s)
        left_over, known_s = totals_off(simulated, float(best[5])), front_end_s
        front_end_s = _front_end(run, simulated)
    return RunFit(costs_of(best, run, float(at_s[-1]), left_over), float(best[5]), left_over, tried, known_s)


def _unresolved(run: RecordedRun, until_s: float) -> Integers:
    """The requests with a first token until then, where the rows of the series are too far apart to show their TTFT; else none."""
    early = np.flatnonzero(run.first_token_s <= until_s)
    ttft = (run.first_token_s - run.arrival_s)[early]
    return early if len(early) and np.median(ttft) < RESOLVED_TICKS * run.tick_s else early[:0]


def _ttft_off(run: RecordedRun, simulated: Run, of: Integers) -> float:
    """How far quantiles of the simulated TTFT of these requests are from those measured: rms of logarithms."""
    if not len(of):
        return 0.0
    first = np.empty(len(run))
    first[[r.spec.index for r in simulated.requests]] = [r.first_token_s for r in simulated.requests]
    ours, theirs = (np.maximum(np.percentile((stamps - run.arrival_s)[of], TTFT_QUANTILES), 1e-6) for stamps in (first, run.first_token_s))
    return rms(np.log(ours / theirs))


def _front_end(run: RecordedRun, simulated: Run) -> float:
    """How much longer requests took from arrival to queue than until a step of the simulated engines ended, mean; a wait that is as good as
    that of steps is none. Requests are queued between steps, at vLLM as here."""
    waits, steps = [], simulated.steps
    for replica in range(run.replicas):
        starts, ends = (steps[name][steps["replica"] == replica] for name in ("start_s", "end_s"))
        begun = np.searchsorted(starts, run.arrival_s)
        inside = begun > np.searchsorted(ends, run.arrival_s)
        waits.append(np.where(inside, ends[begun - 1] - run.arrival_s, 0.0) if len(ends) else np.zeros(len(run)))
    measured, explained = (float(np.mean(wait)) for wait in (run.queued_s - run.arrival_s, waits))
    return measured - explained if measured > (1 + FRONT_END) * explained else 0.0


def _start(run: RecordedRun) -> Floats:
    """Costs to begin with: a step of few and of many requests from seconds without prompts, a prompt token from the busiest seconds."""
    series = run.series
    plain = (series["prompt_throughput"] == 0) & (series["gen_throughput"] > 0) & (series["running"] > 0)
    if not plain.any() or not series["prompt_throughput"].any():
        problem = "has no row with tokens and no prompt" if series["prompt_throughput"].any() else "has no prompt"
        raise DsimError(problem, where=run.folder / "timeseries.csv", remedy="record a longer run")
    step, requests = series["running"][plain] / series["gen_throughput"][plain], series["running"][plain] / run.replicas
    slope, base = np.polyfit(requests, step, 1) if len(np.unique(requests)) > 1 else (0.0, float(np.median(step)))
    context = float(run.prompt_tokens.mean() + run.output_tokens.mean() / 2)
    base = max(float(base), float(step.min()) / 2)
    slope = max(float(slope), 0.2 * base / float(series["running"].max() / run.replicas))  # a full batch costs something, whatever the noise says
    prompt = run.replicas / float(np.percentile(series["prompt_throughput"], 95) or series["prompt_throughput"].max())
    return np.array([base, slope / 2, slope / 2 / context, prompt, prompt / 100 / context, 0.1])


def costs_of(values: Floats, run: RecordedRun, seconds: float = 0.0, residual: float = 0.0) -> Costs:
    """Costs from base, per token, per context token, per prompt token and per prompt token and attended token, seconds, five digits each."""
    base, token, context, prompt, prompt_context = (float(f"{v:.5g}") for v in values[:5])
    of = f" on {run.replicas} replicas" if run.replicas > 1 else ""
    source = f"{run.engine}, {run.model}: per-second series of a run of {len(run)} requests{of}"
    note = f"fitted to the first {seconds:g} seconds with the simulated engine in the loop; {residual:.2%} of all tokens rms" if seconds else ""
    low, high = (float(max(extreme / run.replicas, 1.0)) for extreme in (run.series["running"].min(), run.series["running"].max()))
    origin = {"provenance": "fitted", "source": source}
    verify = {"kind": "curve", "base_s": base, "per_token_s": token, "per_context_token_s": context, "note": note} | origin
    prefill = {"kind": "linear", "base_s": base, "per_token_s": prompt, "per_token_context_s": prompt_context, "note": note} | origin
    content = {
        "verify": verify | {"measured_tokens": (low, high)},
        "prefill": prefill,
        "overhead": {"note": "within the step cost; the series cannot show it apart"} | origin,
    }
    return validate(Costs, content, run.folder, DsimError)


def simulate_run(run: RecordedRun, costs: Costs, front_end_s: float = 0.0) -> Run:
    """The run's own requests, `front_end_s` after their arrival, under the engine settings that it was recorded with; memory for KV is ample.

    vLLM gives a request to the data parallel rank with the least 4 × waiting + running (v1/engine/core_client.py, `DPLBAsyncMPClient`), the first of
    equals: where nobody waits, or as many everywhere run as can, that is the rank that holds fewest."""
    columns = zip((run.arrival_s + front_end_s).tolist(), run.prompt_tokens.tolist(), run.output_tokens.tolist(), strict=True)
    specs = [RequestSpec(i, at_s, prompt, output, "") for i, (at_s, prompt, output) in enumerate(columns)]
    settings = ReplicaSettings(max_batch=run.max_batch, prefill=Chunked(token_budget=run.token_budget))
    fleet = one_replica(settings, NoSpeculation(), nothing_drafted(), RoundCost(costs, None, 0, 0))
    fleet = fleet if run.replicas == 1 else replace(fleet, replicas=run.replicas, router=LeastLoaded())
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
    simulated = simulate_run(run, fit.costs, fit.front_end_s)
    arrival, first, last = np.array([(r.spec.arrival_s - fit.front_end_s, r.first_token_s, r.finish_s) for r in simulated.requests]).T
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
    """Requests running (decoding, or with prompt tokens in the step) and waiting at each time of the series' clock, on all replicas."""
    steps, requests = simulated.steps, simulated.requests
    times = (np.sort([r.spec.arrival_s for r in requests]), np.sort([r.finish_s for r in requests]))
    arrived, gone = (np.searchsorted(stamps + clock_s, at_s, side="right") for stamps in times)
    left = np.zeros(len(at_s))
    for replica in np.unique(steps["replica"]):  # as the last step of each left them
        own = steps["replica"] == replica
        done = np.searchsorted(steps["end_s"][own] + clock_s, at_s, side="right")
        left += np.where(done > 0, steps["waiting_end"][own][np.maximum(done - 1, 0)], 0.0)
    waiting = np.minimum(left, arrived - gone)
    return {"running": arrived - gone - waiting, "waiting": waiting}

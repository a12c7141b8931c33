"""The simulator against a real engine on the same requests: errors side by side, and where they come from.

The engine's runs are folders of `requests.csv`, `steps.csv` and `run.json` (`dsim validate --engine`). For each, the requests that
were really served (prompt, domain, and as many tokens as each really got) are simulated under the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from simulator.complaints import shown
from simulator.engine.simulate import ClosedTraffic, Fleet, OpenTraffic, Run, simulate
from simulator.errors import DsimError
from simulator.measurements.prices import RoundCost, ScaledPrices
from simulator.measurements.replay import lay_out
from simulator.study.run.facts import Source
from simulator.study.run.fleet import fleet_of
from simulator.study.run.scenario import Scenario
from simulator.study.run.validated import ValidationPoint, ValidationRow, all_within
from simulator.study.validation.engine_runs import HEADLINE, NUMBERS, Listed, MeasuredSpan, RunFacts, ServedRun, numbers, refuse_stalls, window_of
from simulator.study.validation.result import Causes, EngineCheck, EngineComparison, EngineRun, ErrorSummary, Ranking
from simulator.traffic.request import RequestSpec

if TYPE_CHECKING:
    import pandas as pd

LEFT = ("tps_per_user_p50", "throughput_tok_s", "ttft_p50_s")  # looked at again with the engine's own pace put in


def compare(scenario: Scenario, runs: Sequence[ServedRun], replications: int = 5) -> EngineCheck:
    """Every run beside its simulation, and over all of them: median and worst error, and how often the better policy was named."""
    rows = [_compared(scenario, run, replications) for run in runs]
    return EngineCheck(runs=tuple(rows), summary=_summary(rows), ranking=_ranking(rows), replications=replications)


def _compared(scenario: Scenario, run: ServedRun, replications: int) -> EngineRun:
    window = window_of(run)
    refuse_stalls(run, window)
    real = numbers(run.requests, run.steps, window)
    simulated = [_simulated(scenario, run, replication) for replication in range(replications)]
    mean = {name: float(np.mean([one[name] for one in simulated])) for name in NUMBERS}
    why = _why(scenario, run, window, real, mean)
    pace = 1 + why.cost_model
    paced = [_simulated(scenario, run, replication, pace) for replication in range(replications)] if np.isfinite(pace) else simulated
    return EngineRun.of(
        run,
        policy=run.policy.name,
        requests=int(window.counted.sum()),
        measured=real,
        simulated=mean,
        simulated_std={name: float(np.std([one[name] for one in simulated], ddof=1)) for name in NUMBERS} if replications > 1 else {},
        error={name: _off(mean[name], real[name]) for name in NUMBERS},
        why=why,
        error_at_measured_pace={name: _off(float(np.mean([one[name] for one in paced])), real[name]) for name in LEFT},
    )


def _off(simulated: float, measured: float) -> float:
    """By how much, relative; not known where nothing was measured."""
    return simulated / measured - 1 if measured else float("nan")


def _simulated(scenario: Scenario, run: ServedRun, replication: int, pace: float = 1.0) -> dict[str, float]:
    """The run's own requests; with `pace`, steps take so many times what the profile says."""
    fleet, texts = _pinned(scenario, run, _fleet(scenario, run, replication), replication)
    if pace != 1.0:
        slower = ScaledPrices(fleet.prices, pace)
        fleet = replace(fleet, prices=slower, believed=slower if fleet.believed is fleet.prices else fleet.believed)
    ordered = run.requests.sort_values("request")
    specs = [
        RequestSpec(int(i), float(at), int(prompt), max(int(out), 1), texts[int(i)] if texts else str(domain))
        for i, at, prompt, out, domain in ordered[["request", "arrival_s", "prompt_tokens", "output_tokens", "domain"]].itertuples(index=False)
    ]
    if run.open_loop:
        traffic: OpenTraffic | ClosedTraffic = OpenTraffic(specs, 0.0, float(np.nextafter(specs[-1].arrival_s, np.inf)), 1e6)
    else:
        turns = -(-len(specs) // run.concurrency)
        traffic = ClosedTraffic(run.concurrency, Listed(specs, _gap_s(run)), turns, np.ones(run.concurrency))
    done = simulate(traffic, fleet)
    frames = _frames(done, len(specs))
    if not len(frames[0]):
        return dict.fromkeys(NUMBERS, float("nan"))
    return numbers(*frames, window_of(ServedRun(run.policy, run.concurrency, run.open_loop, *frames)))


def _gap_s(run: ServedRun) -> float:
    """Seconds from a request's end to the next one's arrival, on average: whoever sends them learns of the end when the engine's step is over."""
    ends, comes = np.sort(run.requests["finish_s"].to_numpy()), np.sort(run.requests["arrival_s"].to_numpy())
    gaps = comes[run.concurrency :] - ends[: -run.concurrency]
    return float(max(gaps.mean(), 0.0)) if len(gaps) else 0.0


def _fleet(scenario: Scenario, run: ServedRun, replication: int) -> Fleet:
    """The scenario's, with as many places as the engine had."""
    settings = scenario.engine.model_copy(update={"max_batch": run.concurrency})
    return fleet_of(scenario.model_copy(update={"engine": settings}), run.policy, replication)


def _pinned(scenario: Scenario, run: ServedRun, fleet: Fleet, replication: int) -> tuple[Fleet, list[str] | None]:
    """Every request along the recorded text of its own prompt, where the profile was recorded on the same prompts: each text a domain of its own."""
    if run.policy.drafter is None:
        return fleet, None
    drafter, blocks = scenario.known.drafter(run.policy.drafter), scenario.known.blocks(run.policy.drafter)
    if unknown := next((domain for domain in run.requests["domain"] if domain not in blocks.domains), None):
        problem = f"drafter '{run.policy.drafter}' has no recorded blocks of domain {shown(unknown)}, which a run has"
        raise DsimError(problem, where=scenario.known.folder, remedy=f"domains: {', '.join(blocks.domains)}")
    if run.prompts is None:
        return fleet, None
    first = {domain: int(blocks.sequences_of(domain)[0]) for domain in blocks.domains}
    count = {domain: len(blocks.sequences_of(domain)) for domain in blocks.domains}
    asked = list(zip(run.requests.sort_values("request")["domain"], run.prompts, strict=False))
    if any(number >= count[domain] for domain, number in asked):
        return fleet, None
    names = tuple(f"text {sequence}" for sequence in range(len(blocks.length)))
    apart = replace(blocks, domains=names, sequence_domain=np.arange(len(names)))
    replay = lay_out(apart, drafter.temperatures, run.policy.verification.clairvoyant, scenario.run.seed, replication)
    return replace(fleet, replay=replay), [names[first[domain] + number] for domain, number in asked]


def _frames(run: Run, count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables like the engine's, of the first `count` requests."""
    import pandas as pd

    rows = [
        (r.spec.index, r.spec.arrival_s, r.first_token_s, r.finish_s, r.spec.prompt_tokens, r.spec.output_tokens, r.spec.domain)
        for r in run.requests
        if r.finished and r.spec.index < count
    ]
    columns = ["request", "arrival_s", "first_token_s", "finish_s", "prompt_tokens", "output_tokens", "domain"]
    return pd.DataFrame(rows, columns=columns), pd.DataFrame(run.steps.columns)


def _why(scenario: Scenario, run: ServedRun, window: MeasuredSpan, real: dict[str, float], mean: dict[str, float]) -> Causes:
    """The throughput's error in parts that multiply: cost model (the engine's own steps priced by it), acceptance, and what is left
    (batching, queueing, prompts); the host's time and the step-time noise beside them."""
    steps = run.steps[(run.steps["end_s"] > window.start_s) & (run.steps["end_s"] <= window.end_s)]
    plain = steps[(steps["requests"] > 0) & (steps["prefill_tokens"] == 0)]
    prices = _fleet(scenario, run, 0).prices
    assert isinstance(prices, RoundCost)
    context = plain["longest_context"] if prices.to_longest and "longest_context" in plain else plain["context_tokens"] / plain["requests"]
    longest = run.policy.verification.longest(scenario.known.drafter(run.policy.drafter).gamma) if run.policy.drafter else 0
    if (beyond := plain["verified"] > plain["requests"] * longest).any():
        row = plain[beyond].iloc[0]
        problem = f"a step of {row['requests']:g} requests that verified {row['verified']:g} tokens, with blocks of {longest}"
        raise DsimError(problem, where=f"run of policy '{run.policy.name}'", remedy="serve it again")
    cells = zip(plain["requests"], context, plain["verified"], strict=True)
    priced = np.array([float(prices.round_s(int(requests), at)[int(verified)]) for requests, at, verified in cells])
    length = (plain["end_s"] - plain["start_s"]).to_numpy()
    cost = float(length.sum() / priced.sum() - 1) if len(priced) else float("nan")
    acceptance = _off(mean["accepted_length"], real["accepted_length"])
    total = _off(mean["throughput_tok_s"], real["throughput_tok_s"])
    ratio = length / priced if len(priced) else np.array([np.nan])
    return Causes(
        cost_model=cost,
        acceptance=acceptance,
        rest=_off(1 + total, (1 + cost) * (1 + acceptance)),
        host_measured_s=float(plain["overhead_s"].mean()),
        host_model_s=prices.overhead_s,
        step_noise=float((np.percentile(ratio, 90) - np.percentile(ratio, 10)) / np.median(ratio)),
    )


def _summary(runs: Sequence[EngineRun]) -> dict[str, ErrorSummary]:
    errors = {name: [abs(run.error[name]) for run in runs if np.isfinite(run.error[name])] for name in NUMBERS}
    return {name: ErrorSummary(median=float(np.median(sizes)), worst=max(sizes)) if sizes else ErrorSummary() for name, sizes in errors.items()}


def _ranking(runs: Sequence[EngineRun]) -> Ranking:
    """Over pairs of policies at one concurrency that differ by more than 3 % in measured throughput: how often the simulator names the better."""
    speeds = [(run.load, run.measured["throughput_tok_s"], run.simulated["throughput_tok_s"]) for run in runs]
    named = [(mine > other) == (a > b) for (load, a, mine), (same, b, other) in combinations(speeds, 2) if load == same and abs(a / b - 1) > NOISE]
    return Ranking(pairs=len(named), right=sum(named), share=sum(named) / len(named) if named else float("nan"))


NOISE = 0.03
LIMITS = {"tps_per_user_p50": (0.05, 0.12), "throughput_tok_s": (0.05, 0.12), "accepted_length": (None, 0.02), "verification_budget": (None, 0.02)}
NAMED = 0.95  # of the pairs of policies


def judged(scenario: Scenario, check: EngineCheck, command: str, about: RunFacts) -> EngineComparison:
    """A check as a comparison of docs/validation.md: limits kept or not, every cell, and under which conditions; `about`: of a run."""
    ranking, rows = check.ranking, []
    for name, bounds in LIMITS.items():
        for which, limit in zip(("median", "worst"), bounds, strict=True):
            if limit is not None:
                rows.append(ValidationRow.judged(f"{NUMBERS[name]}: {which} error", getattr(check.summary[name], which), limit))
    if ranking.pairs:
        what = f"pairs of policies whose better one is not named ({ranking.pairs} pairs, measured throughputs more than 3 % apart)"
        rows.append(ValidationRow.judged(what, 1 - ranking.share, 1 - NAMED))
    profile = scenario.known
    return EngineComparison(
        **dict(check),
        name=f"{profile.name}-engine",
        title="The real engine on a scenario's requests, simulated request by request",
        command=command,
        system=f"{profile.target} on {profile.hardware}, {profile.engine}",
        sources=("this repository's engine, really run",),
        rows=tuple(rows),
        points=tuple(_point(run, name) for name in (*LIMITS, "ttft_p50_s", "step_p50_s") for run in check.runs),
        ok=all_within(rows),
        compared_with="measured",
        headline=tuple(NUMBERS[name] for name in HEADLINE),
        conditions=tuple(_conditions(check.runs, about)),
        provenance=(Source(table="step costs and acceptance", provenance="measured"),),
    )


def _point(run: EngineRun, name: str) -> ValidationPoint:
    simulated, measured, error = (value if np.isfinite(value) else None for value in (run.simulated[name], run.measured[name], run.error[name]))
    return ValidationPoint(
        policy=run.policy, metric=NUMBERS[name], load=run.load, table="measured", simulated=simulated, published=measured, difference=error
    )


def _known(number: float | None) -> str:
    return "?" if number is None else f"{number:g}"


def _conditions(runs: Sequence[EngineRun], about: RunFacts) -> list[str]:
    load = about.asked.load
    counts = [run.requests for run in runs]
    causes = ("cost_model", "acceptance", "rest")
    parts = [f"{cause.replace('_', ' ')} {np.median(np.abs([getattr(run.why, cause) for run in runs])):.1%}" for cause in causes]
    noise = [run.why.step_noise for run in runs]
    left = [f"{NUMBERS[name]} {np.nanmedian(np.abs([run.error_at_measured_pace[name] for run in runs])):.1%}" for name in LEFT]
    return [
        "Served on: " + ", ".join(f"{key} {value}" for key, value in about.machine.items() if value is not None) + ".",
        f"{min(counts)} to {max(counts)} measured requests a run of {_known(load.max_tokens)} tokens at most, temperature "
        f"{_known(load.temperature)}; each is simulated with its own prompt, length and recorded text.",
        "The throughput's error in parts that multiply (medians of their sizes): " + ", ".join(parts) + ".",
        "With the engine's own mean step time put in for the profile's, the median errors left are: " + ", ".join(left) + ".",
        f"Noise: single steps spread around their price (p10 to p90) by {np.median(noise):.0%} in the median run and {max(noise):.0%} in the "
        "noisiest.",
    ]

"""Rows of a sweep to the result of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.study.run.conditions import conditions, paths
from simulator.study.run.metrics import METRICS, Verdict
from simulator.study.run.pareto import estimate, gains
from simulator.study.run.result import (
    Estimate,
    GainAtSla,
    Gains,
    PointResult,
    PointRow,
    PolicyFacts,
    ProfileFacts,
    PublishedCurve,
    RunResult,
    ScenarioFacts,
    Validation,
    sources,
)
from simulator.study.run.scenario import Policy, Scenario
from simulator.study.run.warnings import warnings
from simulator.study.run.wording import gain, gain_mean

UNITS = {
    "concurrency": "concurrent requests per replica",
    "rate_rps": "requests per second, whole fleet",
    "rate_scale": "times the speed of the trace",
}


def build_result(
    scenario: Scenario, rows: Sequence[PointRow], published: Sequence[PublishedCurve] = (), validation: Validation | None = None
) -> RunResult:
    """Everything a reader needs: frontier with intervals, gains, provenance, warnings; with the `published` curves and the comparison."""
    from importlib.metadata import version

    profile, plan = scenario.known, scenario.run
    names = [p.name for p in scenario.policies]
    points = tuple(_point(scenario, rows, policy, load) for policy in scenario.policies for load in scenario.loads(policy))
    gained = gains(rows, names, scenario.base, scenario.sla.speed, scenario.sla.tps_per_user)
    return RunResult(
        dsim_version=version("dsim"),
        scenario=ScenarioFacts.of(scenario, file=shown_file(scenario.file, "scenarios"), seed=plan.seed, replications=plan.replications),
        profile=ProfileFacts.of(profile, provenance=sources(profile)),
        conditions=(*conditions(scenario), paths(rows)),
        policies=tuple(_policy(p) for p in scenario.policies),
        load_kind=scenario.workload.load_kind,
        load_unit=UNITS[scenario.workload.load_kind],
        trace=trace.words(scenario.folder) if (trace := scenario.workload.trace) else "",
        speed_metric=scenario.sla.speed,
        frontier=points,
        gains=gained,
        published=tuple(published),
        validation=validation,
        answer=tuple(_answer(scenario, points, gained)),
        warnings=tuple(warnings(scenario, rows, points)),
    )


def shown_file(file: Path, folder: str) -> str:
    """Its name, with the folder of shipped ones where it lies in one."""
    return file.name if file.parent.name != Path(folder).name else f"{folder}/{file.name}"


def _policy(policy: Policy) -> PolicyFacts:
    rule = policy.verification
    peeks = rule.peeks and not rule.clairvoyant
    return PolicyFacts.of(policy, verification=rule.model_dump(mode="json"), bound=rule.clairvoyant, peeks=peeks)


def _point(scenario: Scenario, rows: Sequence[PointRow], policy: Policy, load: float) -> PointResult:
    """One policy at one load: every metric with its interval over replications, and the worst verdict."""
    mine = [r for r in rows if r.policy == policy.name and r.load == load]
    return PointResult(
        policy=policy.name,
        drafter=policy.drafter or "",
        load=load,
        n=len(mine),
        requests=sum(r.requests for r in mine),
        verdict=worst([r.verdict for r in mine]),
        metrics={metric.name: estimate([r[metric.name] for r in mine]) for metric in METRICS},
    )


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The gravest of some verdicts."""
    order: tuple[Verdict, ...] = ("overloaded", "backlogged")
    return next((verdict for verdict in order if verdict in verdicts), "stable")


def _answer(scenario: Scenario, points: Sequence[PointResult], gained: Gains) -> list[str]:
    """Two lines: the most throughput at a promise, the most speed at matched throughput; bounds are never an answer."""
    real = {p.name for p in scenario.policies if not p.verification.clairvoyant and not p.verification.peeks}
    lines = []
    reached = [(row, delivered) for row in gained.at_sla if row.policy in real and (delivered := row.throughput or row.at_least)]
    reached = [(row, delivered) for row, delivered in reached if row.sla_tps == reached[0][0].sla_tps]
    carried = all(p.verdict != "overloaded" for p in points)
    if len(reached) > 1 and carried and all(row.at_least for row, _ in reached):
        names = ", ".join(row.policy for row, _ in reached)
        lines.append(f"All of {names} deliver {reached[0][0].sla_tps:g} tok/s to each user at every simulated load: raise load to tell them apart.")
    elif reached:
        lines.append(_at_promise(reached, gained.baseline))
    matched = [row for row in gained.at_matched_throughput if row.policy in real and row.gain is not None]
    if matched:
        best = max((row for row in matched if row.sla_tps == matched[0].sla_tps), key=lambda row: row.gain.mean if row.gain else 0.0)
        assert best.tps is not None  # there is a gain
        lines.append(
            f"At the throughput of {best.because} ({best.throughput:,.0f} tok/s per GPU), {best.policy} gives each user "
            f"{best.tps.mean:.0f} tok/s, {gain(best.gain)}."
        )
    if len(lines) < 2:
        usable = [p for p in points if p.policy in real and p.verdict != "overloaded" and p.mean("throughput_tok_s_gpu")]
        if not usable and not lines:
            return ["Every point is overloaded: no policy can carry these loads.", "Lower the load or add replicas (fleet.replicas)."]
        lines += _at_highest_load(scenario, usable) if usable else []
    return lines[:2]


def _at_promise(reached: Sequence[tuple[GainAtSla, Estimate]], baseline: str) -> str:
    """Who delivers most at the first promise; a policy that keeps it at every simulated load delivers at least what it does at the highest."""
    best, delivered = max(reached, key=lambda pair: pair[1].mean)
    gained = f", {gain(best.gain)} over {baseline}" if best.gain else ""
    most = "" if best.throughput else "at least "
    return f"At {best.sla_tps:g} tok/s for each user, {best.policy} delivers the most: {most}{delivered.mean:,.0f} tok/s per GPU{gained}."


def _at_highest_load(scenario: Scenario, usable: Sequence[PointResult]) -> list[str]:
    """Without promises: who is fastest at the highest load that some policy still carries."""
    speed, top = scenario.sla.speed, max(p.load for p in usable)
    here = {p.policy: (p.mean(speed) or 0.0, p.mean("throughput_tok_s_gpu")) for p in usable if p.load == top}
    best = max(here, key=lambda policy: here[policy][0])
    tps, throughput = here[best]
    line = (
        f"At load {top:g} ({UNITS[scenario.workload.load_kind]}) {best} is the fastest: {tps:.0f} tok/s per user at {throughput:,.0f} tok/s per GPU."
    )
    if scenario.base not in here:
        return [line, f"{scenario.base} does not carry that load."]
    if scenario.base == best:
        return [line, "No other policy is faster there."]
    base, _ = here[scenario.base]
    faster = gain_mean(Estimate(tps / base - 1))
    return [line, f"That is {faster} over {scenario.base} ({base:.0f} tok/s per user) on the same requests."]

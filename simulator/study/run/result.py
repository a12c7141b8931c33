"""Rows of a sweep to the result: what result.json holds and every report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.study.run.conditions import conditions, paths
from simulator.study.run.metrics import NUMBERS
from simulator.study.run.pareto import estimate, gains
from simulator.study.run.scenario import Policy, Scenario
from simulator.study.run.warnings import warnings

Row = dict[str, Any]
UNITS = {
    "concurrency": "concurrent requests per replica",
    "rate_rps": "requests per second, whole fleet",
    "rate_scale": "times the speed of the trace",
}


def build_result(scenario: Scenario, rows: Sequence[Row], published: Sequence[Row] = (), validation: Row | None = None) -> dict[str, Any]:
    """Everything a reader needs: frontier with intervals, gains, provenance, warnings; `published` curves and the comparison with them as given."""
    from importlib.metadata import version

    profile, plan = scenario.known, scenario.run
    names = [p.name for p in scenario.policies]
    points = [_point(scenario, rows, policy, load) for policy in scenario.policies for load in scenario.loads(policy)]
    found = gains(rows, names, scenario.base, scenario.sla.speed, scenario.sla.tps_per_user)
    return {
        "dsim_version": version("dsim"),
        "scenario": {
            "name": scenario.name,
            "question": scenario.question,
            "file": scenario.file.name if scenario.file.parent.name != "scenarios" else f"scenarios/{scenario.file.name}",
            "seed": plan.seed,
            "replications": plan.replications,
            "overrides": scenario.overrides,
            "content": scenario.content,
        },
        "profile": {
            "name": profile.name,
            "hardware": profile.hardware,
            "engine": profile.engine,
            "target": profile.target,
            "gpus_per_replica": profile.gpus_per_replica,
            "notes": profile.notes,
            "assumed": profile.assumed,
            "not_identifiable": profile.not_identifiable,
            "provenance": profile.provenance(),
        },
        "conditions": [*conditions(scenario), paths(rows)],
        "policies": [_policy(p) for p in scenario.policies],
        "load_kind": scenario.workload.load_kind,
        "load_unit": UNITS[scenario.workload.load_kind],
        "speed_metric": scenario.sla.speed,
        "frontier": points,
        "gains": found,
        "published": list(published),
        "validation": validation,
        "answer": _answer(scenario, points, found),
        "warnings": list(warnings(scenario, rows, points)),
    }


def _policy(policy: Policy) -> dict[str, Any]:
    rule = policy.verification
    shown = rule.model_dump(mode="json")
    return {
        "name": policy.name,
        "drafter": policy.drafter,
        "verification": shown,
        "bound": rule.clairvoyant,
        "peeks": rule.peeks and not rule.clairvoyant,
    }


def _point(scenario: Scenario, rows: Sequence[Row], policy: Policy, load: float) -> Row:
    """One policy at one load: every metric with its interval over replications, and the worst verdict."""
    mine = [r for r in rows if r["policy"] == policy.name and r["load"] == load]
    verdicts = [r["verdict"] for r in mine]
    worst = next((v for v in ("overloaded", "backlogged") if v in verdicts), "stable")
    return {
        "policy": policy.name,
        "drafter": policy.drafter or "",
        "load": load,
        "n": len(mine),
        "requests": sum(r["requests"] for r in mine),
        "verdict": worst,
        "metrics": {name: estimate([r[name] for r in mine]) for name in NUMBERS},
    }


def _answer(scenario: Scenario, points: Sequence[Row], found: Row) -> list[str]:
    """Two lines: the most throughput at a promise, the most speed at matched throughput; bounds are never an answer."""
    real = {p.name for p in scenario.policies if not p.verification.clairvoyant and not p.verification.peeks}
    lines = []
    reached = [r for r in found["at_sla"] if r["policy"] in real and (r["throughput"] or r["at_least"])]
    reached = [r for r in reached if r["sla_tps"] == reached[0]["sla_tps"]]
    carried = all(p["verdict"] != "overloaded" for p in points)
    if len(reached) > 1 and carried and all(r["at_least"] for r in reached):
        names = ", ".join(r["policy"] for r in reached)
        lines.append(f"All of {names} keep {reached[0]['sla_tps']:g} tok/s for each user at every simulated load: raise load to tell them apart.")
    elif reached:
        lines.append(_at_promise(reached, found["baseline"]))
    matched = [r for r in found["at_matched_throughput"] if r["policy"] in real and r["gain"] is not None]
    if matched:
        first = matched[0]["sla_tps"]
        best = max((r for r in matched if r["sla_tps"] == first), key=lambda r: r["gain"]["mean"])
        lines.append(
            f"At the throughput of {best['because']} ({best['throughput']:,.0f} tok/s per GPU), {best['policy']} gives each user "
            f"{best['tps']['mean']:.0f} tok/s, {_percent(best['gain'])}."
        )
    if len(lines) < 2:
        usable = [p for p in points if p["policy"] in real and p["verdict"] != "overloaded" and p["metrics"]["throughput_tok_s_gpu"]["mean"]]
        if not usable and not lines:
            return ["Every point is overloaded: no policy carries these loads.", "Lower the load or add replicas (fleet.replicas)."]
        lines += _at_highest_load(scenario, usable) if usable else []
    return lines[:2]


def _at_promise(reached: list[Row], baseline: str) -> str:
    """Who delivers most at the first promise; a policy that keeps it at every simulated load delivers at least what it does at the highest."""
    promise = reached[0]["sla_tps"]
    best = max(reached, key=lambda r: (r["throughput"] or r["at_least"])["mean"])
    gain = f", {_percent(best['gain'])} over {baseline}" if best["gain"] else ""
    most = "" if best["throughput"] else "at least "
    delivered = (best["throughput"] or best["at_least"])["mean"]
    return f"At {promise:g} tok/s for each user, {best['policy']} delivers most: {most}{delivered:,.0f} tok/s per GPU{gain}."


def _at_highest_load(scenario: Scenario, usable: list[Row]) -> list[str]:
    """Without promises: who is fastest at the highest load that some policy still carries."""
    speed, top = scenario.sla.speed, max(p["load"] for p in usable)
    here = [p for p in usable if p["load"] == top]
    best = max(here, key=lambda p: p["metrics"][speed]["mean"] or 0.0)
    told = f"{best['metrics'][speed]['mean']:.0f} tok/s per user at {best['metrics']['throughput_tok_s_gpu']['mean']:,.0f} tok/s per GPU"
    base = next((p for p in here if p["policy"] == scenario.base), None)
    line = f"At load {top:g} ({UNITS[scenario.workload.load_kind]}) {best['policy']} is the fastest: {told}."
    if base is None:
        return [line, f"{scenario.base} does not carry that load."]
    if base is best:
        return [line, "No other policy is faster there."]
    faster = best["metrics"][speed]["mean"] / base["metrics"][speed]["mean"] - 1
    return [line, f"That is {faster:+.0%} over {scenario.base} ({base['metrics'][speed]['mean']:.0f} tok/s per user) on the same requests."]


def _percent(gain: Row) -> str:
    text = f"{gain['mean']:+.0%}"
    return text if gain["low"] is None else f"{text} ({100 * gain['low']:.0f} … {100 * gain['high']:.0f} %)"

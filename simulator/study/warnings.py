"""What a reader must know before believing a result, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from simulator.study.scenario import Scenario

Row = dict[str, Any]

VERDICTS = {
    "overloaded": (
        "requests pile up: speeds and latencies there grow with the length of the run and are left out of frontiers",
        "lower load, or add replicas",
    ),
    "backlogged": ("a queue stands before the replicas", "raise engine.max_batch or KV memory, or add replicas"),
}
COUNTS = {
    "rejected": ("Requests that fit in no replica", "give more KV memory"),
    "unfinished": ("Measured requests not finished", "raise run.drain_s or lower the load"),
    "preemptions": ("Requests thrown out for want of KV memory and computed again", "give more KV memory or lower engine.max_batch"),
}


def warnings(scenario: Scenario, rows: Sequence[Row], points: Sequence[Row]) -> Iterator[Row]:
    """Warnings and notes of a result, gravest first: severity, text, remedy."""
    yield from _verdicts(points)
    yield from _carried(scenario, points)
    yield from _range(scenario, rows)
    yield from _samples(scenario, points)
    yield from _counts(points)
    yield from _losslessness(scenario)


def _warning(text: str, remedy: str) -> Row:
    return {"severity": "warning", "text": text, "remedy": remedy}


def _note(text: str, remedy: str) -> Row:
    return {"severity": "note", "text": text, "remedy": remedy}


def _verdicts(points: Sequence[Row]) -> Iterator[Row]:
    for verdict, (told, remedy) in VERDICTS.items():
        bad = [f"{p['policy']} at {p['load']:g}" for p in points if p["verdict"] == verdict]
        if bad:
            yield _warning(f"{verdict.capitalize()}: {_some(bad)}: {told}.", remedy)


def _carried(scenario: Scenario, points: Sequence[Row]) -> Iterator[Row]:
    """Where some policy is overloaded: the highest simulated load that each still carries."""
    if all(p["verdict"] != "overloaded" for p in points):
        return
    told = []
    for policy in scenario.policies:
        carried = [p["load"] for p in points if p["policy"] == policy.name and p["verdict"] != "overloaded"]
        told.append(f"{policy.name} {max(carried):g}" if carried else f"{policy.name} none")
    yield _note(f"Highest simulated load that is carried: {', '.join(told)}.", "add loads in between to find the limit")


def _samples(scenario: Scenario, points: Sequence[Row]) -> Iterator[Row]:
    few = [f"{p['policy']} at {p['load']:g} ({p['requests']})" for p in points if p["requests"] < 100]
    if few:
        closed = scenario.workload.load_kind == "concurrency"
        remedy = "raise run.requests" if closed else "raise run.duration_s or widen the trace's window"
        yield _warning(f"Fewer than 100 measured requests: {_some(few)}; high quantiles are not to be trusted.", remedy)
    replications = scenario.run.replications
    if replications < 3:
        told = "No interval" if replications == 1 else "Very wide intervals"
        yield _warning(f"{told}: {replications} replication(s).", "raise run.replications to 3 or more")


def _range(scenario: Scenario, rows: Sequence[Row]) -> Iterator[Row]:
    """Steps whose tokens lie beyond what the cost was measured at: prices there are extrapolated."""
    low, high = scenario.known.costs.verify.tokens_range()
    above = sorted({(r["policy"], r["load"]) for r in rows if (r["tokens_per_step_max"] or 0) > high})
    below = sorted({(r["policy"], r["load"]) for r in rows if r["tokens_per_step_p50"] and r["tokens_per_step_p50"] < low})
    for side, cells in ((f"more than the {high:.0f}", above), (f"fewer than the {low:.0f}", below)):
        if cells:
            named = _some([f"{policy} at {load:g}" for policy, load in cells])
            text = f"Steps of {side} tokens that the cost was measured at: {named}; their cost is extrapolated."
            yield _warning(text, "measure the profile there, or change load")


def _counts(points: Sequence[Row]) -> Iterator[Row]:
    for what, (told, remedy) in COUNTS.items():
        where = [f"{p['policy']} at {p['load']:g} ({m:.0f})" for p in points if (m := p["metrics"][what]["mean"])]
        if where:
            yield _warning(f"{told} (mean of a replication): {_some(where)}.", remedy)


def _losslessness(scenario: Scenario) -> Iterator[Row]:
    for policy in scenario.policies:
        if policy.verification.clairvoyant:
            yield _note(f"{policy.name} knows outcomes beforehand: a bound, not a plan.", "compare with it, do not buy by it")
        elif policy.verification.peeks:
            text = f"{policy.name} judges tokens by confidences that depend on them: its output is not lossless, and replay of it not exact."
            yield _warning(text, "use lag 1 or 2, or mode synchronous")


def _some(items: list[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")

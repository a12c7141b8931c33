"""What a reader must know before believing a result, each with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.engine.ahead import NOT_KEPT
from simulator.measurements.profile import Profile
from simulator.rng import stream
from simulator.study.run.result import PointResult, PointRow, Remark
from simulator.study.run.scenario import Scenario
from simulator.study.run.slower import slower
from simulator.study.run.span import span_of
from simulator.study.run.wording import count
from simulator.traffic.arrivals import ClosedLoop

LENGTHS = 1000  # requests drawn to know a workload's lengths

VERDICTS = {
    "overloaded": (
        "the queue grows: latencies grow with the length of the run, so these points are left out of frontiers",
        "lower load, or add replicas",
    ),
    "backlogged": ("requests queue in front of the replicas", "raise engine.max_batch or KV memory, or add replicas"),
}
COUNTS = {
    "rejected": ("Requests too long for the KV memory of a replica or its longest context", "give more KV memory or raise engine.max_context_tokens"),
    "truncated": ("Answers that end early, where prompt and answer fill the longest context", "raise engine.max_context_tokens"),
    "unfinished": ("Measured requests that did not finish", "raise run.drain_s or lower the load"),
    "preemptions": ("Preempted requests (KV memory full, computed again)", "give more KV memory or lower engine.max_batch"),
}


def warnings(scenario: Scenario, rows: Sequence[PointRow], points: Sequence[PointResult]) -> Iterator[Remark]:
    """Warnings and notes of a result, gravest first: severity, text, remedy."""
    yield from _another_model(scenario)
    yield from _estimated(scenario)
    yield from _verdicts(points)
    yield from _carried(scenario, points)
    yield from _prompts_left_out(scenario)
    yield from _filling(scenario, points)
    yield from _outlasts(scenario)
    yield from _range(scenario, rows)
    yield from _requests_range(scenario, rows)
    yield from _lengths_range(scenario)
    yield from _samples(scenario, points)
    yield from _counts(points)
    yield from _unranked(scenario)
    yield from _client(scenario, points)
    yield from _losslessness(scenario)
    yield from slower(scenario, points)
    yield from _idle(scenario)
    if any(row.why_plain == NOT_KEPT for row in rows):
        text = "No folder for compiled code can be written: small runs take the plain path, large ones compile it every time."
        yield _note(text, "set NUMBA_CACHE_DIR to a folder you can write to")


def _unranked(scenario: Scenario) -> Iterator[Remark]:
    """Priorities that no order goes by."""
    if len({one.priority for one in scenario.workload.classes.values()}) > 1 and not scenario.engine.admission.ranks:
        text = f"Priorities of classes have no effect: requests are admitted by {scenario.engine.admission.words}."
        yield _note(text, "set engine.admission: {kind: priority}")


def _another_model(scenario: Scenario) -> Iterator[Remark]:
    used = dict.fromkeys(policy.drafter for policy in scenario.policies if policy.drafter is not None)
    if (text := another_model(scenario.known, used)) is not None:
        yield _warning(text, f"count accepted tokens of one benchmark of {scenario.known.target}")


def another_model(profile: Profile, drafters: Iterable[str]) -> str | None:
    """Of these drafters of a profile, those whose acceptance is that of a drafter of another target, in a sentence."""
    others = [f"{name} ({other})" for name in drafters if (other := profile.drafters[name].acceptance_of) is not None]
    if not others:
        return None
    return f"Acceptance of another model than {profile.target}: {_some(others)}. Prediction intervals count how far published models differ."


def _estimated(scenario: Scenario) -> Iterator[Remark]:
    if (known := scenario.known).costs.verify.provenance == "estimated":
        text = f"Step costs are estimated from kernel times that others measured, not measured on {known.hardware} with this engine."
        yield _note(text, "measure the profile, or compare it with one benchmark, where you can")


def _idle(scenario: Scenario) -> Iterator[Remark]:
    """Keys of `run` that were set and that these arrivals do not read."""
    seconds = ("warmup_s", "duration_s", "drain_s")
    idle: tuple[str, ...] = ("requests",)
    traffic, other = "arrivals", "run.duration_s"
    if scenario.workload.client is not None:
        idle, traffic, other = ("requests", *seconds), "a benchmark client", "workload.arrivals.num_prompts"
    elif scenario.workload.load_kind == "concurrency" and not scenario.workload.windowed:
        idle, traffic, other = seconds, "a closed loop", "run.requests"
    keys = [f"run.{key}" for key in idle if key in scenario.run.model_fields_set and getattr(scenario.run, key) is not None]
    if keys:
        yield _note(f"No effect with {traffic}: {', '.join(keys)}.", f"set {other} instead")


def _warning(text: str, remedy: str) -> Remark:
    return Remark(severity="warning", text=text, remedy=remedy)


def _note(text: str, remedy: str) -> Remark:
    return Remark(severity="note", text=text, remedy=remedy)


def _verdicts(points: Sequence[PointResult]) -> Iterator[Remark]:
    for verdict, (meaning, remedy) in VERDICTS.items():
        bad = [f"{p.policy} at {p.load:g}" for p in points if p.verdict == verdict]
        if bad:
            yield _warning(f"{verdict.capitalize()}: {_some(bad)}: {meaning}.", remedy)


def _carried(scenario: Scenario, points: Sequence[PointResult]) -> Iterator[Remark]:
    """Where some policy is overloaded: the highest simulated load that each still carries."""
    if all(p.verdict != "overloaded" for p in points):
        return
    highest = []
    for policy in scenario.policies:
        carried = [p.load for p in points if p.policy == policy.name and p.verdict != "overloaded"]
        highest.append(f"{policy.name} {max(carried):g}" if carried else f"{policy.name} none")
    yield _note(f"Highest simulated load that each policy carries: {', '.join(highest)}.", "add loads in between to find the limit")


def _outlasts(scenario: Scenario) -> Iterator[Remark]:
    """Where a recording is over before the measurement ends: of recorded sessions the load falls, of a trace less is measured."""
    sessions, trace, load, duration_s = scenario.workload.sessions, scenario.workload.trace, scenario.highest_load, scenario.run.duration_s
    recorded_s = None if sessions is None else sessions.recorded_s
    recorded_s = float(trace.load(scenario.folder).arrival_s[-1]) if trace is not None else recorded_s
    if recorded_s is None or duration_s is None:
        return
    over_s, until_s = recorded_s / load, span_of(scenario).warmup_s + duration_s
    if over_s < until_s and trace is not None:
        text = f"At load {load:g} the trace is over after {over_s:.4g} s, warm-up and run.duration_s after {until_s:.4g} s."
        yield _warning(f"{text} The window ends with the trace.", "shorten run.duration_s, lower the load, or raise workload.trace.repeat")
    elif over_s < until_s:
        text = f"At load {load:g} the last recorded session begins after {over_s:.4g} s, the measurement ends after {until_s:.4g} s."
        yield _warning(f"{text} The load falls.", "shorten run.duration_s, lower the load, or use arrivals of kind poisson")


def _filling(scenario: Scenario, points: Sequence[PointResult]) -> Iterator[Remark]:
    """Where a fleet that starts empty is not full when the measurement starts."""
    if not scenario.workload.windowed:
        return
    span = span_of(scenario)
    warmup_s = span.warmup_s
    answers = [(e2e_s, p) for p in points if p.verdict == "stable" and warmup_s < 2 * (e2e_s := p.mean("e2e_p50_s") or 0.0)]
    if answers:
        named = _some([f"{p.policy} at {p.load:g}" for _, p in answers])
        need_s = 2 * max(e2e_s for e2e_s, _ in answers)
        text = f"Still filling: {named}: the warm-up of {warmup_s:g} s is shorter than two answers ({need_s:.0f} s), so the batches still grow."
        remedies = ["raise run.warmup_s" if span.reason else "raise run.warmup_s or leave it out"]
        remedies += ["play more of the trace"] if scenario.workload.trace is not None else []
        yield _warning(text, ", or ".join(remedies))


def _prompts_left_out(scenario: Scenario) -> Iterator[Remark]:
    """Where a profile knows what prompts cost, and the scenario takes them as free."""
    cost = scenario.known.costs.prefill
    if scenario.engine.prefill.where == "nowhere" and cost is not None and cost.provenance != "synthetic":
        text = "Prompts take no time here (prefill: instant), though the profile prices them: users look faster than they will be."
        yield _warning(text, "set engine.prefill: {kind: chunked, ...} as the engine does")


def _samples(scenario: Scenario, points: Sequence[PointResult]) -> Iterator[Remark]:
    few = [f"{p.policy} at {p.load:g} ({p.requests})" for p in points if p.requests < 100]
    if few:
        closed = not scenario.workload.windowed
        remedy = "raise run.requests" if closed else "raise run.duration_s or widen the trace's window"
        remedy = "raise workload.arrivals.num_prompts" if scenario.workload.client is not None else remedy
        yield _warning(f"Fewer than 100 measured requests: {_some(few)}; high quantiles are unreliable.", remedy)
    replications = scenario.run.replications
    if replications < 3:
        interval = "No interval" if replications == 1 else "Very wide intervals"
        yield _warning(f"{interval}: {count(replications, 'replication')}.", "raise run.replications to 3 or more")


def _range(scenario: Scenario, rows: Sequence[PointRow]) -> Iterator[Remark]:
    """Steps whose tokens lie beyond what the cost was measured at: prices there are extrapolated."""
    lows, highs = zip(*(profile.costs.verify.tokens_range() for profile in (scenario.known, *scenario.others.values())), strict=True)
    low, high = max(lows), min(highs)
    above = sorted({(r.policy, r.load) for r in rows if (r["tokens_per_step_max"] or 0) > high})
    below = sorted({(r.policy, r.load) for r in rows if r["tokens_per_step_p50"] and r["tokens_per_step_p50"] < low})
    for side, cells in ((f"more than the {high:.0f}", above), (f"fewer than the {low:.0f}", below)):
        if cells:
            named = _some([f"{policy} at {load:g}" for policy, load in cells])
            text = f"Steps of {side} tokens that the cost was measured at: {named}; their cost is extrapolated."
            yield _warning(text, "measure the profile there, or change load")


def _requests_range(scenario: Scenario, rows: Sequence[PointRow]) -> Iterator[Remark]:
    """Batches of more requests than a table holds: at least as many as ran on average, or as the tokens of the largest step are of."""
    verify = scenario.known.costs.verify
    if (most := verify.most("requests")) is None:
        return
    budgets = {policy.name: 1 + _verified(scenario, policy.drafter, policy.verification) for policy in scenario.policies}
    above = set()
    for row in rows:
        together = max(row["concurrency_mean"] or 0.0, (row["tokens_per_step_max"] or 0.0) / budgets[row.policy])
        if together > most:
            above.add((row.policy, row.load))
    if above:
        named = _some([f"{policy} at {load:g}" for policy, load in sorted(above)])
        text = f"Batches of more than the {most:.0f} requests that the cost was measured at: {named}; their cost is too low."
        yield _warning(text, "measure the profile with a higher --max-requests, or lower engine.max_batch")


def _verified(scenario: Scenario, drafter: str | None, rule: Any) -> int:
    """The most drafted tokens of a request that are verified in a step."""
    return int(rule.longest(scenario.known.drafter(drafter).gamma)) if drafter is not None else 0


def _lengths_range(scenario: Scenario) -> Iterator[Remark]:
    """Contexts and prompts longer than what a table holds."""
    verify, prefill, mode = scenario.known.costs.verify, scenario.known.costs.prefill, scenario.engine.prefill
    prompt, output = _lengths(scenario)
    if (most := verify.most("context_tokens")) is not None:
        context = float((output * (prompt + output / 2)).sum() / output.sum())
        if context > most:
            text = f"Contexts of {context:,.0f} tokens on average while decoding, and the cost was measured up to {most:,.0f}: it is too low there."
            yield _warning(text, "measure the profile with a higher --max-context")
    if prefill is None or mode.where == "nowhere":
        return
    long = round(float(np.quantile(prompt, 0.9)))
    at_once = mode.chunk(0, long) if mode.where == "replica" else long
    if (tokens := prefill.most("tokens")) is not None and at_once > tokens:
        text = f"Prompts of up to {at_once:,.0f} tokens in a step, and prefill was measured up to {tokens:,.0f}: it is extrapolated."
        yield _warning(text, "measure the profile with a higher --max-context, or lower the token budget of prefill")
    if (behind := prefill.most("context_tokens")) is not None and long - at_once > behind:
        text = f"Prompts of {long:,.0f} tokens in parts, and prefill was measured behind {behind:,.0f} at most: it is too low."
        yield _warning(text, "measure the profile with a higher --max-context")


def _lengths(scenario: Scenario) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Prompt and output tokens of the trace's or service's requests, or of so many drawn ones."""
    workload = scenario.workload
    if workload.servegen is not None:
        rate = workload.servegen.service().mean_rps  # as recorded, over some thousands of requests
        _, prompt, output, _ = workload.servegen.requests(rate, 5 * LENGTHS / rate, scenario.run.seed, 0)
        return prompt.astype(np.float64), output.astype(np.float64)
    if workload.sessions is not None:
        sample = workload.sessions.sample
        return sample.prompt_tokens.astype(np.float64), sample.output_tokens.astype(np.float64)
    if workload.trace is not None:
        trace = workload.trace.load(scenario.folder)
        return np.asarray(trace.prompt_tokens, dtype=np.float64), np.asarray(trace.output_tokens, dtype=np.float64)
    assert workload.prompts is not None
    assert workload.outputs is not None
    luck = stream(scenario.run.seed, "lengths of warnings").random((2, LENGTHS))
    return np.asarray(workload.prompts.at(luck[0]), dtype=np.float64), np.asarray(workload.outputs.at(luck[1]), dtype=np.float64)


def _counts(points: Sequence[PointResult]) -> Iterator[Remark]:
    for name, (what, remedy) in COUNTS.items():
        where = [f"{p.policy} at {p.load:g} ({m:.0f})" for p in points if (m := p.mean(name))]
        if where:
            yield _warning(f"{what}, mean per replication: {_some(where)}.", remedy)


def _client(scenario: Scenario, points: Sequence[PointResult]) -> Iterator[Remark]:
    """What the way in which requests are sent does to latencies."""
    held = [f"{p.policy} at {p.load:g} ({m:.3g} s)" for p in points if (m := p.mean("client_wait_mean_s"))]
    if held:
        text = f"Requests waited at the client for one of {scenario.workload.max_concurrency} places, on average: {_some(held)}; no latency shows it."
        yield _warning(text, "raise workload.max_concurrency, or lower the load")
    users, client = scenario.workload.arrivals, scenario.workload.client
    if isinstance(users, ClosedLoop) and users.think_s is not None and users.think_s.in_step:
        text = f"All users pause for the same time ({users.think_s.words}): those who meet once stay in step, and queue together again and again."
        yield _warning(text, "give workload.arrivals.think_s as a number of seconds (exponential) or as another kind")
    load, replicas = scenario.highest_load, scenario.fleet.replicas
    most = client and client.in_flight(load, replicas)
    if client is not None and client.at_once and most and (prompts := client.prompts(load, replicas)) < 5 * most:
        text = f"{prompts:,} prompts with {most:,} in flight: the ramp and the tail are a large part of what is measured, as in such a benchmark."
        yield _note(text, "for a service under way use arrivals {kind: closed_loop}")


def _losslessness(scenario: Scenario) -> Iterator[Remark]:
    for policy in scenario.policies:
        rules = [policy.verification, *(rule.verification for rule in policy.groups.values())]
        if any(rule.clairvoyant for rule in rules):
            yield _note(f"{policy.name} knows the outcomes in advance: an upper bound.", "use it for comparison only")
        elif any(rule.peeks for rule in rules):
            text = f"{policy.name} decides about a token using that token's own confidence, so its output is not lossless and its replay not exact."
            yield _warning(text, "use lag 1 or 2, or mode synchronous")


def _some(items: list[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")

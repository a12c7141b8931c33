"""What a reader must know of how a scenario was simulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from simulator.measurements.profile import Profile
from simulator.study.run.point import parts
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import Scenario
from simulator.study.run.span import span_of
from simulator.study.run.wording import count
from simulator.traffic.arrivals import ClosedLoop


def conditions(scenario: Scenario) -> Iterator[str]:
    """What a reader must know of how it was simulated, a sentence each."""
    plan, engine = scenario.run, scenario.engine
    yield f"Prefill: {engine.prefill.words}."
    alone = scenario.groups or [("", scenario)]
    sizes = [tokens for name, one in alone for policy in scenario.policies if (tokens := one.kv_tokens(policy.on(name))) is not None]
    kv = min(sizes, default=None)
    yield f"KV memory: {kv:,} tokens per replica, in pages of {scenario.page_tokens}." if kv else "KV memory: unknown, so it sets no limit."
    yield from _sessions(scenario)
    yield from _fleet(scenario)
    repeats = f"{count(plan.replications, 'replication')}, seed {plan.seed}."
    if (most := scenario.max_context_tokens) is not None:
        yield f"Context: at most {most:,} tokens; prompts that leave no room for an answer are refused, and answers end there."
    if (client := scenario.workload.client) is not None:
        yield f"{client.told} All of it is measured, ramp and tail included; TTFT and E2E count from sending. {repeats}"
    elif isinstance(users := scenario.workload.arrivals, ClosedLoop):
        yield f"Closed loop: at least {plan.requests} measured requests per replication; {users.words}. {repeats}"
    else:
        length = f"for {plan.duration_s:g} s" if plan.duration_s is not None else "to the end of the trace"
        span = span_of(scenario)
        why = f" ({span.reason})" if span.reason else ""
        loop = "Closed" if scenario.workload.load_kind == "concurrency" else "Open"
        yield f"{loop} loop: {span.warmup_s:g} s of warm-up{why}, then measured {length}. {repeats}"
    if (in_flight := scenario.workload.max_concurrency) is not None:
        yield f"At most {in_flight} requests are in flight: the client holds the others back, and TTFT and E2E count from when it sends them."
    yield from _endings(scenario)
    if scenario.sla.goodput is not None:
        yield f"Goodput counts requests with {scenario.sla.goodput.words}."
    if engine.scheduler_profile is not None:
        yield f"Schedulers use the costs of profile '{scenario.believed.name}', the replicas those of '{scenario.known.name}'."
    if (trace := scenario.workload.trace) is not None:
        yield f"Trace: {trace.words(scenario.folder)}."
        yield "Every replication plays the same trace: intervals cover the random draws of acceptance, not those of traffic."
    if (verify := scenario.known.costs.verify).provenance == "estimated":
        yield f"Step costs are estimated, not measured on {scenario.known.hardware}: {verify.source}."
    if scenario.known.costs.verify.varies_with == "tokens":
        yield "The profile has no cost of long contexts in decoding: speeds after long prompts are optimistic."
    yield from scenario.notes


def _fleet(scenario: Scenario) -> Iterator[str]:
    """Of its replicas."""
    fleet, engine = scenario.fleet, scenario.engine
    apart = parts(scenario)
    spread = f", routed {fleet.routing.words}" if fleet.replicas > 1 else ""
    size = f"{count(fleet.replicas, 'replica')} of {count(scenario.known.gpus_per_replica, 'GPU')}"
    if fleet.groups:
        size = "; ".join(f"{name}, {count(alone.fleet.replicas, 'replica')} of {_machine(alone.known)}" for name, alone in scenario.groups)
    yield f"Fleet: {size}{spread}, at most {count(engine.max_batch, 'request')} in a batch."
    if scenario.pooled and (workers := engine.prefill.machines.at_a_time):
        each, machine = scenario.prefill_gpus / workers, scenario.prefilling
        yield f"Prefill workers: {workers} of {count(each, 'GPU')}, {machine.hardware} (profile '{machine.name}')."
    if (failures := fleet.failures) is not None:
        yield (
            f"Every replica fails once in {failures.every_hours:g} hours on average (exponential) and restarts, empty, after "
            f"{failures.restart_s:g} s; its requests start over elsewhere, and their TTFT counts from their arrival."
        )
    if apart > 1:
        yield f"Routing ignores how busy the replicas are, so they are simulated as {apart} independent fleets."


def _machine(profile: Profile) -> str:
    return f"{count(profile.gpus_per_replica, 'GPU')}, {profile.hardware} (profile '{profile.name}')"


def _endings(scenario: Scenario) -> Iterator[str]:
    """Of requests that end otherwise, and of classes."""
    if (impatience := scenario.workload.impatience) is not None:
        yield f"{impatience.words}; who leaves gives memory back when the step under way ends, and is in no latency."
    for name, one in scenario.workload.classes.items():
        own = f" {one.impatience.words}." if one.impatience else ""
        yield f"Class {name}, priority {one.priority}: {one.sla.words}.{own}"


def _sessions(scenario: Scenario) -> Iterator[str]:
    """Of sessions, and of what a prefix cache does with them."""
    if (cache := scenario.engine.prefix_cache) is not None:
        yield f"Prefix cache: {cache.words}; whole blocks of {scenario.page_tokens:,} tokens, the least recently used evicted first."
    if (sessions := scenario.workload.sessions) is not None:
        sample = sessions.sample
        prompt = f"{sample.prompt_tokens.mean():,.0f}"
        yield (
            f"Sessions of {sample.requests:.3g} requests on average, whose prompts have {prompt} tokens with all that was said before; "
            f"pauses of {sample.pauses_s:,.3g} s a session."
        )
        if sessions.recorded is not None:
            yield f"Recorded: {sessions.recorded.words}."


def paths(rows: Sequence[PointRow]) -> str:
    """Which path of the engine ran."""
    why = sorted({row.why_plain for row in rows if row.path == "plain"})
    if not why:
        return "Engine: compiled."
    some = "" if all(row.path == "plain" for row in rows) else " in part"
    return f"Engine: plain Python{some} ({'; '.join(why)}), slower than compiled, with the same numbers."

"""A plan's answer in sentences: under which conditions, with which warnings, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from simulator.study.planning.finding import Search
from simulator.study.planning.question import Plan
from simulator.study.planning.result import ChoiceResult, PlanPrediction, PlanResult, SureNeed
from simulator.study.planning.search import enough
from simulator.study.run.result import Remark
from simulator.study.run.warnings import COUNTS, another_model
from simulator.study.run.wording import count, money, percent, share

LEAST_ROOM = 5e-4  # of the load, to be told as such


def conditions(plan: Plan, peak_rps: float) -> Iterator[str]:
    """What every number holds under."""
    question = plan.question
    yield f"Traffic: {plan.shape.told}; {question.peak_load_rps:g} requests per second on average, {peak_rps:.3g} in the busiest {plan.window_s:g} s."
    yield f"Every trial: {plan.warmup_s:g} s of warm-up, {plan.window_s:g} s measured. A request unanswered {plan.drain_s:g} s later breaks the SLA."
    yield (
        "A fleet is accepted if, with 95 % confidence, another replication would also meet the SLA (Student prediction bound, 2 to "
        f"{question.run.replications} replications, common random numbers)."
    )
    yield f"Routing: {question.fleet.routing.words}. The search assumes that more replicas or less load never break the SLA."
    if (trace := question.workload.trace) is not None:
        yield f"Trace: {trace.words(plan.folder)}."
        yield "Every replication plays the same trace: intervals cover the random draws of acceptance, not those of traffic."
    if (of := question.workload.sessions) is not None and of.recorded is not None:
        yield f"Recorded: {of.recorded.words}."
    yield "Costs count GPU hours only, over the whole span of the traffic, per million output tokens."
    yield from question.notes


def warnings(plan: Plan, search: Search, result: PlanResult) -> Iterator[Remark]:
    """What a reader must know before buying, each with its remedy."""
    yield from _of_profiles(result)
    yield from of_acceptance(plan)
    yield from _of_sla(plan)
    for number in sorted(search.cells):
        yield from _of_cell(plan, search, number)
    yield from _of_best(plan, search, result)
    yield from _of_traffic(plan, search, result)


def _warn(text: str, remedy: str, severity: Literal["warning", "note"] = "warning") -> Remark:
    return Remark(severity=severity, text=text, remedy=remedy)


def _of_profiles(result: PlanResult) -> Iterator[Remark]:
    for profile in result.profiles:
        if any(source.table == "verify cost" and source.provenance == "estimated" for source in profile.provenance):
            yield _warn(f"{profile.name}: step costs are estimated, not measured.", "compare them with one benchmark where you can")
        made_up = sorted({source.table for source in profile.provenance if source.provenance == "synthetic"})
        if made_up:
            yield _warn(f"{profile.name}: assumed, not measured: {', '.join(made_up)}.", "measure them; the what-ifs show what depends on them")


def of_acceptance(plan: Plan) -> Iterator[Remark]:
    """Drafters whose acceptance is that of a drafter of another target."""
    used: dict[int, dict[str, None]] = {}
    for choice in plan.choices:
        used.setdefault(choice.profile, {}).update({p.drafter: None for p in choice.scenario.policies if p.drafter is not None})
    for number, names in used.items():
        known = next(c.scenario.known for c in plan.choices if c.profile == number)
        if (text := another_model(known, names)) is not None:
            yield _warn(text, f"count accepted tokens of one benchmark of {known.target}")


def _of_sla(plan: Plan) -> Iterator[Remark]:
    """What nobody can be promised."""
    if plan.speed_is_void:
        yield _warn("Answers have one token, so nobody has a speed: the fleet is chosen by the TTFT alone.", "leave sla.speed out", "note")
    instant = sorted({choice.setting for choice in plan.choices if choice.scenario.engine.prefill.where == "nowhere"})
    if instant:
        some = f" under {', '.join(instant)}" if len(plan.question.settings) > 1 else ""
        text = f"Prompts are not simulated{some} (prefill: instant): the fleet is chosen for decoding alone, and the TTFT is not known."
        yield _warn(text, "set prefill in settings, with a profile that has costs of prefill")


def _of_cell(plan: Plan, search: Search, number: int) -> Iterator[Remark]:
    """Prices beyond the measured range, searches that did not end clearly, policies that look where they must not."""
    at, base = search.cells[number], plan.choices[number].scenario
    low, high = base.known.costs.verify.tokens_range()
    rows = at.known.peak(plan.load).get(at.needed or 0, [])
    most = max((r["tokens_per_step_max"] or 0 for r in rows), default=0)
    least = min((r["tokens_per_step_p50"] or low for r in rows), default=low)
    if most > high or least < low:
        side = f"up to {most:.0f}" if most > high else f"of {least:.0f}"
        text = f"{plan.label(number)}: steps {side} tokens, outside the measured range of {low:.0f} to {high:.0f}."
        yield _warn(text, "measure the profile there", "warning" if number == search.best else "note")
    if at.outcome == "not clear":
        most = plan.question.fleet.max_replicas
        yield _warn(f"{plan.label(number)}: it is not clear whether {count(most, 'replica')} would meet the SLA.", "raise run.replications")
    if base.policies[0].verification.peeks:
        yield _warn(
            f"{plan.label(number)} uses information that no engine has: an upper bound, or not lossless.", "use it for comparison only", "note"
        )


def _of_best(plan: Plan, search: Search, result: PlanResult) -> Iterator[Remark]:
    best, costs = search.cells[search.best], plan.choices[search.best].scenario.known
    fewer = result.chosen.fewer
    if fewer and fewer.kept * 2 > fewer.n:
        text = f"One replica fewer meets the SLA in {fewer.kept} of {fewer.n} replications, but not with 95 % confidence."
        yield _warn(text, "raise run.window_s or run.replications to decide", "note")
    elif fewer and result.chosen.headroom is not None and best.needed and enough(best.needed, 1 + result.chosen.headroom) < best.needed:
        text = f"{best.needed} replicas carry {percent(result.chosen.headroom)} load, though {fewer.replicas} miss the SLA: both cannot be."
        yield _warn(text, "raise run.window_s or run.replications, or leave run.warmup_s out")
    rows = best.known.peak(plan.load).get(best.needed or 0, [])
    if rows and min(r["requests"] or 0 for r in rows) < 100:
        yield _warn("Fewer than 100 measured requests in a replication: quantiles are rough.", "raise run.window_s")
    for metric in ("rejected", "truncated"):
        what, remedy = COUNTS[metric]
        if some := sum(r[metric] or 0 for r in rows):
            yield _warn(f"{what}, mean per replication: {some / len(rows):.0f}.", remedy.replace("engine.", "settings."))
    if costs.costs.verify.varies_with == "tokens":
        yield _warn("The profile has no cost of long contexts: decoding after long prompts is simulated too fast.", "measure by context", "note")
    if costs.kv is None and plan.choices[search.best].scenario.engine.kv_tokens is None:
        yield _warn("KV memory is unknown and not limited.", "set settings.kv_tokens", "note")


def _of_traffic(plan: Plan, search: Search, result: PlanResult) -> Iterator[Remark]:
    answer_s = plan.answers_s[0]
    if plan.warmup_s < 2 * answer_s:
        text = f"The warm-up is shorter than two answers ({2 * answer_s:.0f} s): the fleet still fills when measured; the plan may be too small."
        yield _warn(text, "raise run.warmup_s, or leave it out")
    if plan.window_s > plan.shape.span_s:
        yield _warn(f"The traffic lasts {plan.shape.span_s:.0f} s at this rate, less than the window.", "shorten run.window_s")
    elif not plan.shape.repeats and plan.warmup_s + plan.window_s > plan.shape.span_s:
        text = f"The traffic lasts {plan.shape.span_s:.0f} s at this rate, less than warm-up and window."
        yield _warn(text, "shorten run.warmup_s or run.window_s")
    if not result.day and len(plan.shape.curve_rps) > 1:
        text = "The traffic is short against the start-up time of a replica: it cannot show autoscaling."
        yield _warn(text, "use a day's traffic", "note")


def answer_lines(plan: Plan, result: PlanResult) -> Iterator[str]:
    """What to buy, what comes next, and what users will see."""
    question, best = plan.question, result.chosen
    assert best.replicas is not None
    assert best.gpus is not None
    fleet = count(best.replicas, "replica") + ("" if best.gpus == best.replicas else f" ({count(best.gpus, 'GPU')})")
    sla, limits = question.sla, []
    limits += [f"{sla.speed.tps:g} tok/s for {share(sla.speed.share)} of users"] if sla.speed else []
    limits += [f"a first token within {sla.ttft.seconds:g} s for {share(sla.ttft.share)}{'' if sla.speed else ' of users'}"] if sla.ttft else []
    limits += [f"the SLA of each class ({sla.class_words}) for {share(sla.class_share)} of its requests"] if sla.class_words else []
    promise = " and ".join(limits)
    spare = ", one of them a spare," if question.fleet.survive_loss else ""
    yield (
        f"{best.label} on {fleet}{spare} meets {promise} at {question.peak_load_rps:g} requests per second: "
        f"{money(best.cost_per_mtok)} {question.price.currency} per million output tokens, {money(best.cost_per_hour)} per hour."
    )
    if (prices := best.prices) is not None:
        cached = "" if prices.cached is None else f", {money(prices.cached)} of cached ones"
        held = "" if best.sessions_per_gpu is None else f" A GPU holds {best.sessions_per_gpu:.3g} sessions, pauses included."
        yield (
            f"Split by the GPU time of each, that is {money(prices.input)} {question.price.currency} per million prompt tokens that are "
            f"processed{cached} and {money(prices.output)} of answers.{held}"
        )
    if (sure := best.sure) is not None and result.prediction is not None:
        yield _how_sure(plan, best, sure, result.prediction)
    others = [c for c in result.cells if c.outcome == "planned" and c.cell != best.cell and not c.bound]
    if others:
        yield _next_best(min(others, key=lambda c: (c.cost_per_hour or 0.0, -(c.headroom or 0))), best)
    if best.headroom is not None and best.at_peak is not None:
        speed, first, seen = best.at_peak.mean("speed"), best.at_peak.mean("ttft"), []
        seen += [] if speed is None else [f"{share(sla.speed_share)} of users see {speed:.3g} tok/s or more"]
        of = "" if seen else " of users"
        seen += [] if first is None else [f"{share(sla.ttft_share)}{of} wait at most {first * 1000:.0f} ms for the first token"]
        seen += [f"{share(row.good / row.requests)} of {row.name} requests keep their SLA" for row in best.at_peak.classes if row.requests]
        peak = f"At the peak {' and '.join(seen)}; " if seen else ""
        room = f"{percent(best.headroom)} load still fits" if best.headroom >= LEAST_ROOM else "no more load fits"
        yield f"{peak}{room}{'' if seen else ' at the peak'}."


def _how_sure(plan: Plan, best: ChoiceResult, sure: SureNeed, prediction: PlanPrediction) -> str:
    """How often the fleet is enough, what it may take, and the fleet at the probability that was asked for."""
    of, often = prediction.draws, round(100 * sure.enough_in)
    text = f"By all that the profile does not know, this fleet is enough in {often} of 100 draws"
    if sure.gpus is not None:
        text += f"; the prediction interval is {sure.gpus.low:g} to {count(sure.gpus.high, 'GPU')} ({percent_of(prediction.level)} of {of} draws)"
    wanted = percent_of(prediction.probability)
    if sure.replicas is None:
        text += f"; no fleet is enough with a probability of {wanted}"
    elif best.replicas is not None and sure.replicas > best.replicas:
        text += f"; {count(sure.replicas, 'replica')} are enough with a probability of {wanted}"
    if sure.cheapest_in is not None:
        text += f". It costs least in {round(100 * sure.cheapest_in)} of 100"
    return f"{text}."


def percent_of(part: float) -> str:
    """Of a whole, in percent without a sign."""
    return f"{100 * part:g} %"


def _next_best(nearest: ChoiceResult, best: ChoiceResult) -> str:
    more = (nearest.cost_per_hour or 0.0) / (best.cost_per_hour or 1.0) - 1
    costs = f"costs {percent(more)}" if abs(more) > 0.005 else "costs the same"
    least, most = (f"{cell.carried_rps or 0:.3g}" for cell in (nearest, best))
    more_load = "as many requests per second" if least == most else f"{least} requests per second instead of {most}"
    carries = f" and carries {more_load}" if nearest.carried_rps else ""
    return f"Next best: {nearest.label} on {count(nearest.gpus or 0.0, 'GPU')}. It {costs}{carries}."

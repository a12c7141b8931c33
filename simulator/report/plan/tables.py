"""The tables of a plan, as cells of text: the page, the Markdown, the terminal and the notebook read the same ones."""

from __future__ import annotations

from dataclasses import replace

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Lines, Row, Table, grouped, table
from simulator.report.run.unsure import WORTH_IT, shares, worth_most
from simulator.report.tables import estimated, without_empty
from simulator.report.tables import provenance as sources
from simulator.report.wording import money
from simulator.study.planning.result import ChoiceAtPromise, PlanPrediction, PlanResult, PromiseResult
from simulator.study.run.result import Estimate
from simulator.study.run.wording import count


def choices(result: PlanResult) -> Table:
    """What each cell needs and costs, cheapest first."""
    currency = result.price.currency
    columns = (
        "policy",
        "replicas",
        "GPUs",
        Column("cost", f"{currency} per million output tokens"),
        Column("cost", f"{currency} per hour", spare=True),
        Column("headroom", "load that still fits"),
        Column("speed", "tok/s at the peak"),
        Column("TTFT", "ms at the peak", spare=True),
        Column("one replica fewer", "meets it", spare=True),
        Column("at most", "tok/s, alone on a replica", spare=True),
        Column("verdict", words=True),
    )
    rows: list[Row] = []
    for choice in sorted(result.cells, key=lambda c: (c.cost_per_hour is None, c.cost_per_hour or 0, -(c.headroom or 0))):
        metrics, fewer = choice.at_peak.metrics if choice.at_peak else {}, choice.fewer
        label = Cell(choice.label, "the plan" if choice.cell == result.best else "bound, not a plan" if choice.bound else "")
        needed = (wording.load(choice.replicas), wording.load(choice.gpus), money(choice.cost_per_mtok), money(choice.cost_per_hour))
        reached = (wording.percent(choice.headroom), estimated(metrics.get("speed"), 1), estimated(_ms(metrics.get("ttft")), 0))
        kept = f"{fewer.kept} of {fewer.n}" if fewer else wording.DASH
        rows.append([label, *needed, *reached, kept, wording.plain(choice.alone_tps, 1), _OUTCOMES[choice.outcome]])
    brackets = f"Speed: what {wording.share(result.sla.speed_share)} of users reach; brackets" if result.has_speeds else "Brackets"
    caption = f"Smallest fleets that meet the SLA. {brackets}: 95 % over replications."
    return without_empty(table("choices", caption, columns, rows), ("", wording.DASH))


_OUTCOMES = {
    "planned": "meets the SLA",
    "unattainable": "not attainable with any fleet",
    "too few replicas": "not with the replicas allowed",
    "not clear": "undecided: needs more replications",
}


def _ms(seconds: Estimate | None) -> Estimate | None:
    return seconds.scaled(1000) if seconds else None


def token_prices(result: PlanResult) -> Table | None:
    """Of every planned choice: sessions per GPU, and the price of each kind of token."""
    planned = [(choice, choice.prices) for choice in sorted(result.cells, key=lambda c: c.cost_per_hour or 0.0) if choice.prices is not None]
    if not planned:
        return None
    unit = f"{result.price.currency} per million"
    columns = (
        "policy", Column("sessions", "per GPU, pauses included"), Column("input", unit), Column("cached input", unit), Column("output", unit),
        Column("prompts", "% of GPU time"), Column("of it over cached tokens", "%"),
    )  # fmt: skip
    rows = [
        (
            choice.label,
            wording.plain(choice.sessions_per_gpu, 1),
            *(money(price) for price in (prices.input, prices.cached, prices.output)),
            wording.plain(100 * prices.prompt_share, 0),
            wording.plain(100 * prices.cached_share, 0),
        )
        for choice, prices in planned
    ]
    caption = (
        "What the fleet costs, split among tokens by the GPU time that each kind takes: prompts that are processed, prompts from the cache "
        "(attention over them), answers; idle time is split alike. The three add up to the fleet, so output costs less than where it pays for all."
    )
    return without_empty(table("token-prices", caption, columns, rows), ("", wording.DASH))


def sure(result: PlanResult) -> Table:
    """Of every planned choice: the GPUs it may need, how often its fleet is enough and it costs least, and the fleet that is enough as often as
    asked."""
    assert result.prediction is not None
    level, wanted = (f"{100 * part:g} %" for part in (result.prediction.level, result.prediction.probability))
    columns = (
        "policy", "GPUs", Column("prediction interval", f"GPUs, {level}"), Column("enough in", "of 100 draws"),
        Column("costs least in", "of 100 draws"), Column("replicas", f"enough with {wanted}"),
    )  # fmt: skip
    rows: list[Row] = []
    for choice in sorted(result.cells, key=lambda c: (c.cost_per_hour is None, c.cost_per_hour or 0)):
        if (told := choice.sure) is None:
            continue
        need = wording.DASH if told.gpus is None else f"{wording.load(told.gpus.low)} to {wording.load(told.gpus.high)}"
        least = wording.DASH if told.cheapest_in is None else f"{100 * told.cheapest_in:.0f}"
        rows.append([choice.label, wording.load(choice.gpus), need, f"{100 * told.enough_in:.0f}", least, wording.load(told.replicas)])
    caption = (
        "What each choice may need, by all that the profile does not know and the model's own error in past comparisons; the same draws for all, and "
        "of two that cost the same both cost least. The simulated fleets before cover random draws alone: their 95 % are simulation noise."
    )
    return table("sure", caption, columns, rows)


def unsure(told: PlanPrediction, about: str) -> Table:
    """Shares of the variance of what the chosen fleet needs."""
    rows = [*shares(told.unsure), ("the model itself", wording.percent(told.model_share, 0, signed=False), "in past comparisons")]
    title = f"What widens the prediction interval of {about}: shares of its variance."
    return table("unsure", title, ("what", Column("share"), Column("what is known, and what would tell", words=True)), rows, words=4)


def worth(told: PlanPrediction) -> Lines:
    """The one measurement that would narrow the interval most, where one would."""
    if told.measure is None or told.measure.left > WORTH_IT:
        return Lines(())
    return Lines((worth_most(told.measure, count(told.measure.load, "user")),))


def points(result: PlanResult) -> Table:
    """Every simulated fleet at the planned load."""
    columns = (
        "replicas", "GPUs", Column("load", "requests/s each"), Column("speed", "tok/s"), Column("lower bound", "tok/s"), Column("TTFT", "ms"),
        Column("throughput", "tok/s/GPU"), "accepted length", Column("budget", "tok/request/step"), "in service", "n", Column("SLA", words=True),
    )  # fmt: skip
    means = {"throughput_tok_s_gpu": 0, "accepted_length": 2, "verification_budget": 2, "concurrency_mean": 1}  # and their decimals
    groups = []
    for choice in result.cells:
        rows: list[Row] = []
        for fleet in choice.points:
            size = (wording.load(fleet.replicas), wording.load(fleet.gpus), wording.plain(fleet.rps_per_replica))
            ttft = _ms(fleet.metrics.get("ttft"))
            speed = (estimated(fleet.metrics.get("speed"), 1), wording.plain(fleet.sure_speed, 1), wording.plain(ttft.mean if ttft else None, 0))
            kept = fleet.kept if fleet.verdict == "stable" else f"{fleet.kept}, {fleet.verdict}"
            rows.append([*size, *speed, *(wording.plain(fleet.mean(name), digits) for name, digits in means.items()), str(fleet.n), kept])
        if rows:
            groups.append((choice.label, rows))
    caption = "Every simulated fleet at the planned load. Lower bound: what the next replication reaches with 95 % confidence."
    return without_empty(grouped("points", caption, columns, groups, words=0), ("", wording.DASH))


def what_if(result: PlanResult) -> Table | None:
    """The answer when one assumption is another."""
    if not result.what_if:
        return None
    columns = (
        "if", "replicas needed", "GPUs", Column("SLA speed of the unchanged fleet", "change"), Column("its TTFT", "ms"),
        Column("the unchanged fleet", words=True),
    )  # fmt: skip
    rows = []
    for change in result.what_if:
        kept = "still meets the SLA" if change.keeps_unchanged else "is overloaded" if change.overloads else "may miss the SLA"
        needed = "more than allowed" if change.replicas is None else wording.load(change.replicas)
        speed = Cell(wording.gain_mean(change.speed_change), wording.gain_bounds(change.speed_change))
        first = estimated(None if result.sla.speed else _ms(change.ttft), 0)
        rows.append((change.label, needed, wording.load(change.gpus), speed, first, kept))
    caption = (
        f"{result.chosen.label} on {count(result.chosen.replicas or 0, 'replica')}, one assumption changed at a time; same traffic and random draws."
    )
    return without_empty(table("what-if", caption, columns, rows), ("", wording.DASH))


def day(result: PlanResult) -> Table | None:
    """What a day costs, scaled in three ways."""
    if not (span := result.day):
        return None
    hours, cost, short = span.replica_hours, span.cost_per_mtok, span.reactive_short_share
    ways = (
        ("always on", hours.fixed, cost.fixed, 0.0),
        ("started by forecast", hours.forecast, cost.forecast, 0.0),
        ("started when needed", hours.reactive, cost.reactive, short),
    )
    rows = ((way, wording.plain(h, 1), money(c), wording.percent(late, 1, signed=False)) for way, h, c, late in ways)
    unit = f"{result.price.currency} per million output tokens"
    columns = ("fleet", "replica-hours", Column("cost", unit), "requests that meet too few replicas")
    caption = f"One span of the traffic ({span.span_s / 3600:.3g} h); a replica takes {span.start_up_s:g} s to start, paid from the beginning."
    return table("day-costs", caption, columns, rows)


def gains(result: PlanResult) -> Table | None:
    """Confidence scheduling against the best fixed length."""
    if not result.gains:
        return None
    rows: list[Row] = []
    for pair in result.gains:
        verdict = "more than noise" if pair.distinguishable else "not distinguishable"
        names = (result.choice(cell).label for cell in (pair.scheduled, pair.fixed))
        gained = Cell(wording.gain_mean(pair.gain), wording.gain_bounds(pair.gain))
        rows.append([*names, str(pair.replicas), gained, verdict])
    columns = ("scheduled", "best fixed", "replicas", "SLA speed gained", Column("verdict", words=True))
    caption = "Confidence scheduling against the best fixed length beside it: same fleet, traffic and random draws; 95 % interval."
    return table("gains", caption, columns, rows, words=2)


def break_even(result: PlanResult) -> Table | None:
    """Best fixed length by batch, and where speculation stops paying, by acceptance."""
    if not result.break_even:
        return None
    sizes = sorted({size for pays in result.break_even for size in pays.batch})  # those of one setting need not be those of another
    columns = (Column("acceptance", "of the profile's"), *(Column(f"{n}", "requests") for n in sizes), Column("stops paying at", "requests"))
    groups = []
    for pays in result.break_even:
        rows: list[Row] = []
        for curve in pays.curves:
            best = dict(zip(pays.batch, zip(curve.best_length, curve.gain, strict=True), strict=True))
            cells = [Cell(f"k = {best[n][0]}", wording.percent(best[n][1])) if n in best else Cell("") for n in sizes]
            stops = wording.load(curve.stops_at) if curve.stops_at else "not here"
            rows.append([wording.percent(curve.acceptance, 0, signed=False), *cells, stops])
        groups.append((f"{pays.drafter} on {pays.profile}", rows))
    caption = "Best fixed length by requests in a batch and its gain in speed over no drafting; in the mean, without queues or prompts."
    return grouped("break-even", caption, columns, groups)


def provenance(result: PlanResult) -> Table:
    """Where every number came from."""
    groups = tuple(replace(sources(profile.provenance).groups[0], name=profile.name) for profile in result.profiles)
    return replace(sources(()), caption="Where every table came from.", groups=groups)


def at_promise(result: PlanResult, promise: PromiseResult) -> Table:
    """What every choice needs at another promised speed."""
    cost = Column("cost", f"{result.price.currency} per million output tokens")
    rows = []
    for c in promise.cells:
        label = Cell(result.choice(c.cell).label, "best" if c.cell == promise.best else "")
        rows.append((label, _replicas(c), wording.load(c.gpus), money(c.cost_per_mtok), wording.plain(c.throughput, 0)))
    caption = f"At {promise.tps:g} tok/s, from the simulated fleets. ≤: the next smaller fleet was not simulated. –: none of them meets it."
    return table(f"at-promise-{promise.tps:g}", caption, ("policy", "replicas", "GPUs", cost, Column("throughput", "tok/s/GPU")), rows)


def best_at(result: PlanResult, promise: PromiseResult) -> str:
    """The cheapest choice at another promised speed, in a sentence."""
    best = next((c for c in promise.cells if c.cell == promise.best), None)
    if best is None:
        return f"No simulated fleet meets {promise.tps:g} tok/s."
    return (
        f"{result.choice(best.cell).label} meets {promise.tps:g} tok/s on {'' if best.exact else '≤ '}"
        f"{count(best.replicas or 0, 'replica')}, {count(best.gpus or 0, 'GPU')}: "
        f"{money(best.cost_per_mtok)} {result.price.currency} per million output tokens at {wording.plain(best.throughput, 0)} tok/s per GPU."
    )


def _replicas(choice: ChoiceAtPromise) -> str:
    return wording.DASH if choice.replicas is None else ("" if choice.exact else "≤ ") + wording.load(choice.replicas)

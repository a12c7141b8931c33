"""A plan's page: what to choose and what it costs, charts to explore it, and what it all rests on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from simulator.report import wording
from simulator.report.blocks import NOTEBOOK, PAGES, TERMINAL, USUAL, Chart, Folded, Lines, Picture, Slider, Stop, Terms, Toggles, folded, only
from simulator.report.classes import by_class
from simulator.report.deploy import last_lines, what_to_deploy
from simulator.report.page import Page, Section, notices, section, sections
from simulator.report.plan import plots, tables
from simulator.report.render.files import write
from simulator.report.reproduce import reproduce
from simulator.report.wording import money
from simulator.study.planning.result import PlanResult


def write_plan_report(result: PlanResult, folder: Path) -> Path:
    """Write report.html, report.md and the pictures into `folder`; the path of report.html."""
    return write(plan_page(result), folder)


def plan_page(result: PlanResult) -> Page:
    """The page of a plan."""
    plan = result.plan
    return Page(
        title=plan.question or plan.name,
        kind="dsim plan",
        name=plan.name,
        version=result.dsim_version,
        sections=sections(SECTIONS, result),
        answer=result.answer,
        facts=_facts(result),
        notices=notices(result.warnings),
        script="plan",
        data={key: value for key, value in result.to_json().items() if key not in ("plan", "profiles", "conditions", "warnings", "launch")},
    )


def _facts(result: PlanResult) -> tuple[tuple[str, str], ...]:
    best, load, currency = result.chosen, result.load, result.price.currency
    profile = next(profile for profile in result.profiles if profile.name == best.profile)
    return (
        ("replicas", wording.load(best.replicas)),
        ("GPUs", wording.load(best.gpus)),
        (f"{currency} per million output tokens", money(best.cost_per_mtok)),
        (f"{currency} per hour", money(best.cost_per_hour)),
        ("load that still fits", wording.percent(best.headroom)),
        ("a GPU-hour", f"{money(profile.gpu_hour)} {currency}"),
        ("load", f"{wording.load(load.mean_rps)} requests/s, {wording.plain(load.peak_rps, 1)} at the peak"),
        *((("trace", load.trace),) if load.trace else ()),
        ("hardware", profile.hardware),
        ("model", profile.target),
        ("trials", str(result.trials)),
    )


def _share(result: PlanResult) -> str:
    """Of the users who must reach the speed of the SLA, in percent."""
    return wording.share(result.sla.speed_share)


def _choices(result: PlanResult) -> Section | None:
    read = only(TERMINAL, Lines((result.load.trace,) if result.load.trace else (), "Trace"))
    best = result.chosen
    classes = by_class("replicas", {best.label: [(wording.load(best.at_peak.replicas), best.at_peak.classes)]} if best.at_peak else {})
    every = only(USUAL | NOTEBOOK, tables.choices(result))
    return section("choose", "Choices", read, every, classes, tables.token_prices(result), tables.gains(result))


def _how_sure(result: PlanResult) -> Section | None:
    """What prediction intervals say beside the simulation's own noise."""
    if result.prediction is None:
        return None
    return section(
        "sure", "How sure is this plan?", tables.sure(result), tables.unsure(result.prediction, result.chosen.label), tables.worth(result.prediction)
    )


def _other_speeds(result: PlanResult) -> Section | None:
    if not result.by_promise:
        return None
    stops = (Stop(f"{row.tps:g} tok/s", tables.best_at(result, row), (tables.at_promise(result, row),)) for row in result.by_promise)
    at = next((place for place, row in enumerate(result.by_promise) if row.tps == result.sla.tps), 0)
    slider = Slider("tps", f"SLA: speed for {_share(result)} of users", tuple(stops), at)
    return section("promise", "Another SLA", slider, _curve(result), on=PAGES)


def _curve(result: PlanResult) -> Picture | None:
    alt = f"GPUs above and cost below that each choice needs, by the speed promised to {_share(result)} of users"
    caption = "Hollow: fewer may do, the next smaller fleet was not simulated."
    return Picture("gpus_by_promise", f"{alt}.", partial(plots.gpus_by_promise, result), caption) if len(result.by_promise) > 1 else None


def _frontier(result: PlanResult) -> Section | None:
    if not result.has_speeds:
        return None
    alt = f"Throughput in tokens per second and GPU against the speed that {_share(result)} of users reach, one line per choice"
    caption = (
        "Up and to the right is better. Each point is a fleet at the planned load: hover or tap for its size, load, accepted length and budget. "
        "Hollow: a queue stands or grows."
    )
    still = Picture("plan_frontier", f"{alt}.", partial(plots.frontier, result))
    chart = Chart("chart-frontier", f"{alt}, one point per fleet size. The table “Every simulated fleet” holds the numbers.", caption, still)
    toggles = Toggles("Show", tuple((str(choice.cell), choice.label) for choice in result.cells))
    return section("frontier", "The frontier", only(PAGES | NOTEBOOK, chart), toggles, short="Frontier", lead=True)


def _what_if(result: PlanResult) -> Section | None:
    if not result.what_if:
        return None
    alt = "Bars: change of the SLA speed of the unchanged fleet, per assumption changed. The table below holds the numbers."
    caption = "The planned fleet, unchanged, when one assumption changes; whiskers: 95 %. In brackets: the replicas then needed."
    still = Picture("plan_what_if", "Change of the SLA speed by assumption", partial(plots.tornado, result))
    drawn = any(change.speed_change for change in result.what_if)
    chart = Chart("chart-what-if", alt, caption, still) if drawn else None
    return section("what-ifs", "What if an assumption is wrong", chart, only(USUAL | NOTEBOOK, tables.what_if(result)), short="What if")


def _day(result: PlanResult) -> Section | None:
    if not result.day:
        return None
    alt = "Requests per second and replicas over the span of the traffic: needed, started by forecast, and always on. The table below holds the sums."
    start = f"{result.day.start_up_s:g} s"
    caption = f"Replicas by the rate: how many are needed, how many run when each is started {start} ahead, and the planned fleet always on."
    still = Picture("plan_day", "Rate and replicas through the day", partial(plots.day, result))
    return section("day", "Through the day", Chart("chart-day", alt, caption, still), tables.day(result), short="The day")


def _break_even(result: PlanResult) -> Section | None:
    table = tables.break_even(result)
    if table is None:
        return None
    alt = "Gain in speed of the best fixed block length over no drafting, by requests in a batch, one line per acceptance. The table has the numbers."
    caption = (
        "Gain of the best fixed length over no drafting, by requests in a batch; lines: acceptance relative to the profile’s. "
        "In the mean, without queues or prompts."
    )
    still = Picture("plan_break_even", "Gain of the best fixed length by requests in a batch", partial(plots.break_even, result))
    shown = Folded("Table: best length and gain", (table,))
    return section("pays", "When speculation pays", Chart("chart-pays", alt, caption, still), shown, short="Break-even", on=PAGES)


def _every_fleet(result: PlanResult) -> Section | None:
    fleets = {choice.label: [(wording.load(fleet.replicas), fleet.classes) for fleet in choice.points] for choice in result.cells}
    classes = by_class("replicas", fleets)
    return section("every", "Every simulated fleet", folded(tables.points(result)), classes and folded(classes), short="Every fleet", on=PAGES)


def _grounds(result: PlanResult) -> Section | None:
    assumed = (
        Folded(f"What was assumed for {profile.name}, and what its data cannot show", (Lines(lines),))
        for profile in result.profiles
        if (lines := profile.assumed + profile.not_identifiable)
    )
    return section("grounds", "Data and assumptions", Lines(result.conditions), tables.provenance(result), *assumed, short="Data", on=PAGES)


def _reproduce(result: PlanResult) -> Section | None:
    return reproduce("plan", result.plan, result.dsim_version)


def _definitions(_: PlanResult) -> Section | None:
    return section("words", "Definitions", Terms(WORDS), on=PAGES)


SECTIONS = (
    _choices, _how_sure, what_to_deploy, _other_speeds, _frontier, _what_if, _day, _break_even, _every_fleet, _grounds, _reproduce, _definitions,
    last_lines,
)  # fmt: skip

WORDS = (
    ("SLA", "The speed that a share of the users must reach, each over its own answer, and the longest wait for the first token."),
    ("meets the SLA", "With 95 % confidence, another replication would meet it too (Student's prediction bound over replications)."),
    ("speed", "(output tokens − 1) / (last token − first token) of a request; the share of users in the SLA reaches at least the value shown."),
    ("TTFT", "From arrival to the first token. A request that died with its replica counts from its arrival to the first token it keeps."),
    ("headroom", "How much more load the planned fleet still carries, found to within 3 %."),
    ("cost", "GPUs × price, whether busy or not, over the tokens of the whole span of the traffic."),
    ("budget", "Tokens per request sent through the target in a step, the anchor included."),
    ("accepted length", "Tokens committed per request and step, the bonus token included."),
    ("fluid bound", "Replicas that would do if nothing queued and every user were the mean one; where the search begins."),
)

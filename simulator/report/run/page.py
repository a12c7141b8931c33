"""A run's page: the answer, the frontier, what is gained over the baseline, every point, and what it all rests on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from simulator.report import wording
from simulator.report.blocks import NOTEBOOK, PAGES, TERMINAL, Draw, Lines, Picture, Sketch, Terms, folded, only
from simulator.report.classes import by_class
from simulator.report.deploy import last_lines, what_to_deploy
from simulator.report.page import Page, Section, notices, section, sections
from simulator.report.render.files import write
from simulator.report.reproduce import reproduce
from simulator.report.run import groups, reuse, sketch, tables, unsure
from simulator.report.run.plots import cache, frontier, load, tokens
from simulator.report.tables import provenance, validation
from simulator.study.run.metrics import METRICS
from simulator.study.run.result import RunResult
from simulator.study.run.wording import count


def write_report(result: RunResult, folder: Path) -> Path:
    """Write report.html, report.md and the pictures into `folder`; the path of report.html."""
    return write(run_page(result), folder)


def run_page(result: RunResult) -> Page:
    """The page of a run."""
    return Page(
        title=result.scenario.question or result.scenario.name,
        kind="dsim run",
        name=result.scenario.name,
        version=result.dsim_version,
        sections=sections(SECTIONS, result),
        answer=result.answer or ("There is no answer: see the warnings.",),
        facts=_facts(result),
        notices=notices(result.warnings),
    )


def _facts(result: RunResult) -> tuple[tuple[str, str], ...]:
    """The lines under the answer: what was simulated, on what."""
    loads, profile = result.loads(), result.profile
    span = "" if not loads else wording.load(loads[0]) if len(loads) == 1 else f"{wording.load(loads[0])}…{wording.load(loads[-1])}"
    differ = any(point.groups for point in result.frontier)
    facts = (
        ("model", profile.target),
        ("hardware", profile.hardware + ("" if differ else f", {count(profile.gpus_per_replica, 'GPU')} per replica")),
        ("engine", profile.engine),
        ("profile", profile.name),
        ("load", f"{span} {result.load_unit}".strip()),
        ("trace", result.trace),
        ("replications", str(result.scenario.replications)),
    )
    return tuple((name, value) for name, value in facts if value)


def _at_a_glance(result: RunResult) -> Section | None:
    return section("glance", "At a glance", Lines((result.trace,) if result.trace else (), "Trace"), tables.brief(result), on=TERMINAL)


def _frontier(result: RunResult) -> Section | None:
    arrows = "Arrows: what the best policy gains at the SLA (up) and at the baseline’s throughput (across)." if result.gains.at_sla else ""
    caption = _sentences("Up and to the right is better.", arrows, _published_curves(result, "tps_per_user"))
    what = "Throughput in tokens per second and GPU against per-user speed in tokens per second, one line per policy"
    picture = _picture("pareto", what, partial(frontier.pareto, result), result, caption)
    return section("frontier", "The frontier", only(PAGES | NOTEBOOK, picture), short="Frontier", lead=True)


def _client(result: RunResult) -> Section | None:
    if not any(point.client for point in result.frontier):
        return None
    whole, brief = only(PAGES | NOTEBOOK, tables.client(result)), only(TERMINAL, tables.client_brief(result))
    return section("client", "As the benchmark client prints it", whole, brief, short="Client")


def _policies(result: RunResult) -> Section | None:
    return section("compared", "Policies", tables.policies(result), on=PAGES)


def _gains(result: RunResult) -> Section | None:
    return section("gains", "Gains", tables.ratios(result), tables.at_sla(result), tables.at_matched_throughput(result))


def _unsure(result: RunResult) -> Section | None:
    return section("unsure", "What this answer is not sure of", unsure.unsure(result), unsure.worth(result), short="Not sure of")


def _published(result: RunResult) -> Section | None:
    table = validation(result.validation.rows) if result.validation else None
    return section("published", "Compared with published results", table, short="Published", on=PAGES)


def _by_load(result: RunResult) -> Section | None:
    anchor = "The budget counts the anchor: a policy that verifies one drafted token has 2."
    caption = _sentences(anchor, _published_curves(result, result.load_kind))
    what = "Throughput above and verification budget below, over load, one line per policy"
    over_load = _picture("against_load", what, partial(load.against_load, result), result, caption)
    what = "Accepted length, bonus included, over load, one line per policy"
    length = _picture("accepted_length", what, partial(load.accepted_length, result), result, "The bonus token is included.")
    return section("load", "By load", over_load, length if result.has("accepted_length") else None, on=PAGES)


def _latency(result: RunResult) -> Section | None:
    known = [name for name in ("TTFT", "TPOT") if result.has(f"{name.lower()}_p50_s")]
    what = f"{' above, and below '.join(known)}, p50 and p99 in milliseconds, over load, one line per policy"
    picture = _picture("latency", what, partial(load.latency, result), result) if load.latency_tells(result) else None
    what = f"Share of requests by {' and by '.join(known)}, one line per policy"
    spread = _picture("distribution", what, partial(load.distribution, result), result) if any(p.curves for p in result.frontier) else None
    return section("latencies", "Latency", picture, spread, folded(tables.latency(result)), on=PAGES)


def _cache(result: RunResult) -> Section | None:
    if not result.has("prefix_hit_share"):
        return None
    what = "Share of prompt tokens from the prefix cache above, per-user speed in the middle, TTFT p90 below, over load, one line per policy"
    caption = "Where the order of the lower lines turns, what speculation takes from the cache outweighs what it gives."
    over_load = _picture("prefix_cache", what, partial(cache.prefix_hits, result), result, caption)
    what = "Share of prompt tokens from the prefix cache, and mean TTFT, by turn of a session, and the share over time, one line per policy"
    turns = (
        _picture("by_turn", what, partial(cache.by_turn, result), result)
        if any(row.by == "turn" for p in result.frontier for row in p.reuse)
        else None
    )
    return section("cache", "Prefix cache", over_load, turns, folded(reuse.table_of(result)), short="Prefix cache", on=PAGES)


def _memory(result: RunResult) -> Section | None:
    if not result.memory:
        return None
    what = "The best policy in every cell of load and KV memory, as colours"
    caption = "Thick lines: where the best policy changes. One replication; next to a line the two may differ by noise alone."
    return section(
        "memory",
        "Which policy, by load and memory",
        _picture("memory", what, partial(cache.memory, result), result, caption),
        short="Memory",
        on=PAGES,
    )


def _goodput(result: RunResult) -> Section | None:
    if not result.has("goodput_rps_gpu"):
        return None
    what = "Requests per second and GPU that keep every limit above, their share below, over load, one line per policy"
    picture = _picture("goodput", what, partial(load.goodput, result), result, "Each request is judged on its own, by sla.goodput or by its class.")
    classes = {policy: [(wording.load(point.load), point.classes) for point in points] for policy, points in result.points.items()}
    return section("goodput", "Goodput", picture, by_class("load", classes), on=PAGES)


def _groups(result: RunResult) -> Section | None:
    return section("groups", "Groups of machines", folded(groups.by_group(result)), short="Groups", on=PAGES | NOTEBOOK)


def _every_point(result: RunResult) -> Section | None:
    return section("every-point", "Every point", folded(tables.verdicts(result)), on=PAGES)


def _time_per_token(result: RunResult) -> Section | None:
    if not result.has(*(metric.name for metric in METRICS if metric.place == "parts")):
        return None
    what = "Stacked bars: a user’s milliseconds per token by cause, per policy at a few loads"
    caption = "Time in verification is shared between accepted and rejected tokens by their number."
    picture = _picture("time_per_token", what, partial(tokens.time_per_token, result), result, caption)
    return section("time", "Where a user’s time goes", picture, folded(tables.time_per_token(result)), short="Time per token", on=PAGES)


def _grounds(result: RunResult) -> Section | None:
    profile = result.profile
    return section(
        "grounds",
        "Data and assumptions",
        Lines(result.conditions, "Conditions"),
        Lines(profile.assumed, "Assumed, not measured"),
        Lines(profile.not_identifiable, "Not identifiable from this data"),
        Lines(profile.notes, "Notes on the profile"),
        provenance(profile.provenance),
        short="Data",
        on=PAGES,
    )


def _reproduce(result: RunResult) -> Section | None:
    return reproduce("run", result.scenario, result.dsim_version)


def _definitions(_: RunResult) -> Section | None:
    return section("words", "Definitions", Terms(wording.DEFINITIONS), on=PAGES)


def _sketch(result: RunResult) -> Section | None:
    return section("sketch", "The frontier", Sketch(partial(sketch.frontier, result)))


SECTIONS = (
    _at_a_glance, _client, _frontier, _policies, _gains, _unsure, what_to_deploy, _published, _by_load, _latency, _cache, _memory, _goodput, _groups,
    _every_point, _time_per_token, _grounds, _reproduce, _definitions, _sketch, last_lines,
)  # fmt: skip


def _picture(stem: str, what: str, draw: Draw, result: RunResult, caption: str = "") -> Picture:
    return Picture(stem, f"{what}: {', '.join(policy.name for policy in result.policies)}.", draw, caption)


def _published_curves(result: RunResult, x: str) -> str:
    """Those in a picture, named."""
    curves = [curve for curve in result.published if curve.points and curve.x == x]
    labels = [curve.label if not curve.source or curve.source in curve.label else f"{curve.label} ({curve.source})" for curve in curves]
    return f"Published, drawn broad and pale: {'; '.join(labels)}." if labels else ""


def _sentences(*parts: str) -> str:
    return " ".join(filter(None, parts))

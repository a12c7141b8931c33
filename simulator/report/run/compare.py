"""Two results side by side, for `dsim compare`: what differs between the scenarios, and which differences are more than noise."""

from __future__ import annotations

from simulator.report import wording
from simulator.report.blocks import Cell, Row, Terms, Text, grouped, table
from simulator.report.page import Page, Section, section, sections
from simulator.report.run.differences import Compared, ComparedGain, ComparedPoint
from simulator.report.tables import without_empty
from simulator.study.run.result import Estimate

_CAPTION = "A → B, and the change; * more than simulation noise; in brackets the prediction intervals (90 %) of both."
_LONG = 160  # characters of a value; JSON has the whole
_SHOWN = {
    "tps_per_user_mean": "tok/s per user",
    "ttft_p99_s": "TTFT p99, ms",  # in place of a speed, which answers of one token have not
    "throughput_tok_s_gpu": "tok/s/GPU",
    "verification_budget": "budget",
    "accepted_length": "accepted length",
}
_WITH_PREDICTIONS = ("tps_per_user_mean", "ttft_p99_s", "throughput_tok_s_gpu")  # there is no room for more


def compare_page(compared: Compared) -> Page:
    """Both side by side; a terminal alone shows it."""
    title = f"{compared.b.scenario} against {compared.a.scenario}"
    return Page(title, "dsim compare", "", compared.b.dsim_version, sections(SECTIONS, compared), answer=(_tested(compared),))


def _tested(compared: Compared) -> str:
    """How many of the differences that can be tested are more than noise."""
    if not compared.compared:
        remedy = ": simulate both with run.replications of 2 or more" if compared.untested else ""
        return f"No difference could be tested against simulation noise{remedy}."
    counted = (
        f"{compared.distinguishable} of {compared.compared} differences are more than simulation noise (Welch, {wording.share(compared.level)}); "
        f"about {wording.plain(compared.expected_by_chance, 1)} would look so by chance alone."
    )
    return counted + (f" {compared.untested} more could not be tested: a side has no interval." if compared.untested else "")


def _scenarios(compared: Compared) -> Section | None:
    sides = (("A", compared.a), ("B", compared.b))
    terms = Terms(tuple((letter, " · ".join(filter(None, (side.scenario, side.file, side.profile)))) for letter, side in sides))
    rows = [(d.key, wording.short(d.a, _LONG), wording.short(d.b, _LONG)) for d in compared.scenario_differences]
    same = None if rows else Text("The scenarios are the same.")
    return section("scenarios", "Scenarios", terms, table("differences", "What differs.", ("key", "A", "B"), rows, words=3), same)


def _results(compared: Compared) -> Section | None:
    only = []
    for letter, points in (("A", compared.only_in_a), ("B", compared.only_in_b)):
        loads: dict[str, list[str]] = {}
        for place in points:
            loads.setdefault(place.policy, []).append(wording.load(place.load))
        if loads:
            only.append(Text(f"Only in {letter}: " + "; ".join(f"{policy} at {', '.join(at)}" for policy, at in loads.items()) + "."))
    groups: dict[str, list[Row]] = {}
    for point in compared.points:
        groups.setdefault(point.policy, []).append(_point_row(point))
    whole = grouped(
        "compared",
        _CAPTION,
        ("load", *_SHOWN.values()),
        groups.items(),
        words=0,
    )
    speeds = any("tps_per_user_mean" in point.metrics for point in compared.points)
    both = whole.cut([i for i in range(len(whole.columns)) if i != 2]) if speeds or not groups else without_empty(whole, ("", wording.DASH))
    return section("points", "Points", both, None if groups else Text("No policy and load is in both."), *only)


def _gained(compared: Compared) -> Section | None:
    columns = ("policy", "at", "A", "B", "B − A", "")
    return section("gains", "Gains", table("gains", "Gains over the baseline.", columns, map(_gain_row, compared.gains), words=2))


SECTIONS = (_scenarios, _results, _gained)


def _point_row(point: ComparedPoint) -> Row:
    """`112.5 → 135.0` and `+20.0 % *` for the metrics that matter most; JSON has the others."""
    cells = []
    for metric in _SHOWN:
        if (pair := point.metrics.get(metric)) is None:
            cells.append(Cell(wording.DASH))
            continue
        shown = wording.MEASURES[metric]
        a, b = (wording.plain(side.mean * shown.factor, shown.decimals) for side in (pair.a, pair.b))
        change = wording.percent(pair.relative, 1) if pair.difference else "same"
        sides = (pair.prediction_a, pair.prediction_b) if metric in _WITH_PREDICTIONS else ()
        told = [wording.predicted(side and side.scaled(shown.factor), shown.decimals) for side in sides]
        cells.append(Cell(f"{a} → {b}", f"{change} *" if pair.distinguishable else change, more=_both(*told) if told else ""))
    return (wording.load(point.load), *cells)


def _both(a: str, b: str) -> str:
    """`[100…120] → [120…140]`; empty where neither has one."""
    return f"{a or wording.DASH} → {b or wording.DASH}" if a or b else ""


def _gain_row(gain: ComparedGain) -> tuple[Cell | str, ...]:
    at = f"throughput of {gain.at}" if isinstance(gain.at, str) else f"{wording.load(gain.at)} tok/s/user"
    points = wording.interval(Estimate(gain.difference, gain.low, gain.high).scaled(100), 1)
    mark = "*" if gain.distinguishable else "same" if gain.difference == 0 else ""
    sides = ((gain.a, gain.prediction_a), (gain.b, gain.prediction_b))
    cells = (Cell(wording.percent(side.mean), more=wording.gain_predicted(side, told)) for side, told in sides)
    return (gain.policy, at, *cells, f"{points} points", mark)

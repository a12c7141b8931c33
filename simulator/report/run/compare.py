"""Two results side by side, for `dsim compare`: what differs between the scenarios, and which differences are more than noise."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Row, Table, Terms, Text, grouped, table
from simulator.report.page import Page, Section, section, sections
from simulator.report.run.differences import Compared, ComparedGain, ComparedPoint
from simulator.study.run.result import Estimate

_CAPTION = "A → B, and the change; * more than simulation noise; in brackets the prediction intervals (90 %) of both."
_OTHERS = "What else differs by more than simulation noise, and verdicts other than stable."
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
    known = {name for point in compared.points for name in point.metrics}
    first = [name for name in _SHOWN if name in known and not (name == "ttft_p99_s" and "tps_per_user_mean" in known)]
    starred = {name for point in compared.points for name, pair in point.metrics.items() if pair.distinguishable}
    others = [name for name in wording.MEASURES if name in starred and name not in first]
    unstable = any(verdict != "stable" for point in compared.points for verdict in (point.verdict_a, point.verdict_b))
    more = _table(compared, "others", _OTHERS, others, unstable) if others or unstable else None
    none = None if compared.points else Text("No policy and load is in both.")
    return section("points", "Points", _table(compared, "compared", f"Load: {compared.load_unit}. {_CAPTION}", first), more, none, *only)


def _table(compared: Compared, name: str, caption: str, metrics: Sequence[str], verdicts: bool = False) -> Table:
    """Some metrics of every point, and its verdicts where they are wanted."""
    groups: dict[str, list[Row]] = {}
    for point in compared.points:
        cells = [_cell(point, metric) for metric in metrics]
        groups.setdefault(point.policy, []).append((wording.load(point.load), *cells, *([_verdict(point)] if verdicts else [])))
    heads = (_SHOWN.get(metric) or f"{wording.MEASURES[metric].title}, {wording.MEASURES[metric].unit}" for metric in metrics)
    columns: list[Column | str] = ["load", *heads, *([Column("verdict", words=True)] if verdicts else [])]
    return grouped(name, caption, columns, groups.items(), words=0)


def _gained(compared: Compared) -> Section | None:
    columns, a, b = ("policy", "at", "A", "B", "B − A", ""), compared.a.baseline, compared.b.baseline
    apart = Text(f"Gains are not compared: they are over {a} in A, over {b} in B. Set one baseline for both.") if a != b else None
    return section("gains", "Gains", table("gains", f"Gains over {a}.", columns, map(_gain_row, compared.gains), words=2), apart)


SECTIONS = (_scenarios, _results, _gained)


def _cell(point: ComparedPoint, metric: str) -> Cell:
    """`112.5 → 135.0` and `+20.0 % *`."""
    if (pair := point.metrics.get(metric)) is None:
        return Cell(wording.DASH)
    shown = wording.MEASURES[metric]
    a, b = (wording.plain(side.mean * shown.factor, shown.decimals) for side in (pair.a, pair.b))
    change = wording.percent(pair.relative, 1) if pair.difference else "same"
    sides = (pair.prediction_a, pair.prediction_b) if metric in _WITH_PREDICTIONS else ()
    told = [wording.predicted(side and side.scaled(shown.factor), shown.decimals) for side in sides]
    return Cell(f"{a} → {b}", f"{change} *" if pair.distinguishable else change, more=_both(*told) if told else "")


def _verdict(point: ComparedPoint) -> Cell:
    """`stable → overloaded`; empty where both are stable."""
    a, b = point.verdict_a, point.verdict_b
    return Cell(f"{a} → {b}" if a != b else "" if b == "stable" else b, kind=b)


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

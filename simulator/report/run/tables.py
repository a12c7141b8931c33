"""The tables of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from simulator.report import wording
from simulator.report.blocks import Cell, Column, Lines, Row, Table, grouped, table
from simulator.report.tables import estimated, without_empty
from simulator.report.wording import DASH, MEASURES
from simulator.study.run.metrics import METRICS, Metric
from simulator.study.run.result import Estimate, GainAtSla, GainAtThroughput, PointResult, Range, RunResult


def at_sla(result: RunResult) -> Table:
    """Throughput at a promised per-user speed, and what it gains over the baseline."""
    groups: dict[float, list[Row]] = {}
    for row in sorted(result.gains.at_sla, key=lambda row: row.sla_tps):
        told = wording.predicted(row.delivers, 0)
        reached = Cell(f"≥ {wording.plain(row.at_least.mean, 0)}", more=told) if row.at_least else estimated(row.throughput, 0, row.delivers)
        surely = (_in_draws(row.better_in), _in_draws(row.best_in))
        cells: Row = [_name(result, row.policy), _gain(row), *surely, reached, _mean(row.baseline_throughput, 0), row.note or ""]
        groups.setdefault(row.sla_tps, []).append(cells)
    title = f"Throughput at the per-user speed of an SLA, and the gain over {result.baseline}. {_certainty(result)}"
    columns = (
        "policy",
        "gain",
        "better in",
        "best in",
        Column("throughput", "tok/s/GPU"),
        Column("baseline", "tok/s/GPU"),
        Column("note", words=True),
    )
    named = ((f"at {wording.load(sla)} tok/s per user", rows) for sla, rows in groups.items())
    return without_empty(grouped("at-sla", title, columns, named))


def ratios(result: RunResult) -> Lines:
    """What policies deliver as multiples of the baseline, a sentence for each promise; the best first, bounds last."""
    groups: dict[float, list[tuple[bool, float, str]]] = {}
    for row in result.gains.at_sla:
        policy = result.policy(row.policy)
        if row.gain is not None and policy is not None and policy.name != result.baseline:
            name = f"{policy.name} (bound)" if policy.bound else policy.name
            groups.setdefault(row.sla_tps, []).append((policy.bound, -row.gain.mean, f"{name} {_times(row.gain, row.prediction)}"))
    sentences = ((sla, "; ".join(words for *_, words in sorted(rows))) for sla, rows in sorted(groups.items()))
    return Lines(tuple(f"At {wording.load(sla)} tok/s per user, times the throughput of {result.baseline}: {words}." for sla, words in sentences))


def _times(gain: Estimate, prediction: Range | None) -> str:
    """`1.51 × (simulation noise 1.49…1.53, prediction interval 1.3…1.7)` of a gain of 51 %."""
    ratio = Estimate(1 + gain.mean, *(None if bound is None else 1 + bound for bound in (gain.low, gain.high)))
    told = wording.predicted(Range(low=1 + prediction.low, high=1 + prediction.high), 2) if prediction else ""
    around = wording.intervals(wording.bounds(ratio, 2), told)
    return f"{wording.plain(ratio.mean, 2)} ×" + (f" ({around})" if around else "")


def _gain(row: GainAtSla | GainAtThroughput) -> Cell:
    if row.gain is None:
        return Cell(DASH)
    return Cell(wording.gain_mean(row.gain), wording.gain_bounds(row.gain), more=wording.gain_predicted(row.gain, row.prediction))


def _mean(estimate: Estimate | None, decimals: int) -> str:
    return wording.plain(estimate.mean if estimate else None, decimals)


def _in_draws(share: float | None) -> str:
    """`97 %`; nearly all are not all."""
    if share is None:
        return ""
    return "> 99 %" if 0.995 <= share < 1 else "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def at_matched_throughput(result: RunResult) -> Table:
    """Per-user speed where a policy delivers what the baseline delivers, and what it gains."""
    title = f"Per-user speed at the baseline’s throughput, and the gain over {result.baseline}. {_certainty(result)}"
    columns = (
        "policy",
        "gain",
        Column("better in", "of draws"),
        Column("per-user speed", "tok/s"),
        Column("baseline", "tok/s"),
        Column("note", words=True),
    )
    groups: dict[str, list[Row]] = {}
    for row in result.gains.at_matched_throughput:
        if row.throughput is not None:
            told = row.prediction and Range(low=(1 + row.prediction.low) * row.sla_tps, high=(1 + row.prediction.high) * row.sla_tps)
            speeds = (estimated(row.tps, 1, told), _mean(row.baseline_tps, 1))
            name = f"at {wording.plain(row.throughput, 0)} tok/s/GPU ({row.because})"
            surely = _in_draws(row.better_in)
            groups.setdefault(name, []).append([_name(result, row.policy), _gain(row), surely, *speeds, row.note or ""])
    return without_empty(grouped("at-matched-throughput", title, columns, groups.items()))


def latency(result: RunResult) -> Table:
    """TTFT, TPOT, ITL and end-to-end times of every point."""
    title = f"Latencies. ITL is the gap between bursts as an engine streams them; it is not the inverse of a speed. {_certainty(result)}"
    shown = _shown(result, "latency")
    return _points(result, "latency", title, (*_heads(shown), Column("n")), lambda point: (*_metrics(point, shown), wording.plain(point.n, 0)))


def verdicts(result: RunResult) -> Table:
    """Every point of the study."""
    speed = MEASURES[result.speed_metric]
    shown = [*([speed] if speed.place != "points" else []), *_shown(result, "points")]

    def row(point: PointResult) -> Row:
        counts = (wording.plain(number, 0) for number in (point.requests, point.n))
        return (Cell(point.verdict, kind=point.verdict), *_metrics(point, shown), *counts)

    columns = (Column("verdict", words=True), *_heads(shown), Column("requests"), Column("n"))
    return _points(result, "points", f"Every policy at every load ({result.load_unit}). {_certainty(result)}", columns, row)


def brief(result: RunResult) -> Table:
    """Every point in few numbers, intervals of the two that matter most."""
    told = result.speed_metric if result.has(result.speed_metric) else "ttft_p90_s"  # answers of one token have no speed
    shown = [MEASURES[told], MEASURES["throughput_tok_s_gpu"]]

    def row(point: PointResult) -> Row:
        means = (wording.plain(point.mean(name), 2) for name in ("verification_budget", "accepted_length"))
        return (*_metrics(point, shown), *means, Cell("" if point.verdict == "stable" else point.verdict, kind=point.verdict))

    columns = (*_heads(shown), Column("budget"), Column("accepted"), Column("", words=True))
    title = f"Every policy at every load ({result.load_unit}). {_certainty(result)}"
    whole = _points(result, "brief", title, columns, row)
    return whole if result.has(result.speed_metric) else without_empty(whole, ("", DASH))


def time_per_token(result: RunResult) -> Table:
    """The numbers behind the stacked bars."""
    known = _shown(result, "parts")

    def row(point: PointResult) -> Row:
        return (*_metrics(point, known), wording.plain(sum(part.factor * (point.mean(part.name) or 0.0) for part in known), 2))

    title = f"A user’s time per output token, by cause. {_certainty(result)}"
    return _points(result, "time-per-token", title, (*_heads(known), Column("all", "ms")), row)


def client(result: RunResult) -> Table:
    """What a benchmark client prints, term by term under its names, of every policy at every load."""
    loads = result.loads()
    groups = ((policy, _terms({point.load: point for point in points}, loads)) for policy, points in result.points.items())
    columns = (Column(result.load_unit, words=True), *(Column(wording.load(load)) for load in loads))
    title = f"Term by term under the client’s names: times in milliseconds, throughput of the whole server. {_certainty(result)}"
    return grouped("client", title, columns, groups)


def client_brief(result: RunResult) -> Table:
    """The same in means, of which a terminal has room for many loads, with fewer percentiles."""
    whole = client(result)
    groups = []
    for group in whole.groups:
        rows = (row for row in group.rows if not row[0].text.startswith(("std_", "p90_", "p95_")))
        groups.append((group.name, [[cell.text for cell in row] for row in rows]))
    return grouped(
        whole.name, "Term by term under the client’s names, means: times in milliseconds, throughput of the whole server.", whole.columns, groups
    )


def _terms(at: dict[float, PointResult], loads: list[float]) -> list[Row]:
    """A row for each name that is known at some load."""
    names = dict.fromkeys(name for point in at.values() for name, known in point.client.items() if known)
    here = [at.get(load) for load in loads]
    return [(name, *(_term(point, name) for point in here)) for name in names]


def _term(point: PointResult | None, name: str) -> Cell:
    return estimated(point.client.get(name), _digits(name), point.prediction.get(name)) if point else Cell(DASH)


def _digits(name: str) -> int:
    return 0 if name in ("completed", "failed") or (name.startswith("total_") and name.endswith("_tokens")) else 2


def policies(result: RunResult) -> Table:
    """What each policy is."""
    rows = []
    for policy in result.policies:
        role = "bound: knows the outcomes in advance" if policy.bound else "baseline" if policy.name == result.baseline else ""
        rows.append((policy.name, policy.drafter or "", policy.rule, role))
    title = "The policies compared; all see the same traffic and random draws."
    return table("policies", title, ("policy", "drafter", "verification", "role"), rows, words=4)


def _points(result: RunResult, name: str, title: str, columns: Iterable[Column], row: Callable[[PointResult], Row]) -> Table:
    """A row for each point after its load, grouped by policy."""
    groups = ((policy, [(wording.load(point.load), *row(point)) for point in points]) for policy, points in result.points.items())
    return grouped(name, title, (Column("load"), *columns), groups, tags={policy.name: "bound" for policy in result.policies if policy.bound})


def _shown(result: RunResult, place: str) -> list[Metric]:
    """The metrics of a table that are known at some point."""
    return [metric for metric in METRICS if metric.place == place and result.has(metric.name)]


def _heads(metrics: Iterable[Metric]) -> list[Column]:
    return [Column(metric.title, metric.unit) for metric in metrics]


def _metrics(point: PointResult, metrics: Iterable[Metric]) -> list[Cell]:
    known = ((metric, point.get(metric.name), point.prediction.get(metric.name)) for metric in metrics)
    return [
        estimated(estimate.scaled(metric.factor) if estimate else None, metric.decimals, told and told.scaled(metric.factor))
        for metric, estimate, told in known
    ]


def _name(result: RunResult, name: str | None) -> Cell:
    policy = result.policy(name)
    return Cell(name or DASH, "bound, not a plan" if policy and policy.bound else "")


def _certainty(result: RunResult) -> str:
    certainty = wording.certainty(result, ("", "in brackets the "))
    return certainty[:1].upper() + certainty[1:] + "." if certainty else ""

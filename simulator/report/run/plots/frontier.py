"""The frontier (the form of Figure 7): what each GPU delivers against what each user sees, one line per policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.report import style, wording
from simulator.report.layout import canvas, dress, titled, without_data
from simulator.report.run.plots.labels import Occupied, arrow, label_points, vertical
from simulator.report.style import Look
from simulator.study.run.facts import PolicyFacts
from simulator.study.run.result import Estimate, PointResult, RunResult

_Y = "throughput_tok_s_gpu"
_SLAS_DRAWN = 3


def pareto(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Throughput (tok/s/GPU) over per-user speed (tok/s/user); up and to the right is better."""
    with style.dressed(look):
        figure, (axes,) = canvas(look, 5.4)
        bands = [_band(axes, policy, result, look) for policy in result.policies]
        lines = [_line(axes, policy, result, look) for policy in result.policies]
        overlays = draw_published(axes, result, "tps_per_user", _Y, look)
        _limits(axes, [xy for line in (*lines, *overlays, *bands) for xy in line])
        promises = _shown(axes, result)
        for axis in (axes.xaxis, axes.yaxis):
            style.thousands(axis)
        axes.set_xlabel(f"per-user speed, {wording.speed_unit(result)}")
        titled(axes, "throughput, tok/s/GPU", pad=17 if promises else 6)
        handles = [style.handle(policy, result, look) for policy in result.policies]
        handles += style.hollow_handle(result, look) + style.published_handle(bool(overlays), look)
        subtitle = "; ".join(filter(None, (f"points labelled with the load: {result.load_unit}", wording.certainty(result))))
        dress(figure, look, "Throughput against per-user speed", subtitle, handles, above=0.08 if promises else 0.0)
        occupied = Occupied(axes, look.scale)
        for line in (*lines, *overlays, *_bars(result)):
            occupied.add_line(line)
        _promises(axes, result, promises, occupied)
        if look.title:  # it explains them
            label_points(axes, occupied, _labels(result, look))
    return figure


def draw_published(axes: Axes, result: RunResult, x: str, y: str, look: Look) -> list[list[tuple[float, float]]]:
    """Published curves with these axes, broad and pale under ours, in the colour of the policy they belong to."""
    drawn = []
    for curve in result.published:
        if (curve.x, curve.y) == (x, y) and curve.points:
            points, policy = sorted(curve.points), result.policy(curve.policy)
            tint = style.colour(policy, result, look) if policy else style.FAINT
            axes.plot(*zip(*points, strict=True), color=tint, linewidth=4.5, alpha=0.25, zorder=1.5, solid_capstyle="butt")
            drawn.append(points)
    return drawn


def draw_points(
    axes: Axes, policy: PolicyFacts, result: RunResult, points: Sequence[tuple[Estimate, Estimate, str]], look: Look, tips: Sequence[str] = ()
) -> list[tuple[float, float]]:
    """A policy's line: (x, y, verdict) per load; intervals as bars, unsettled points hollow. A page shows the `tips` of points where somebody
    points at them. Returns the means."""
    tint = style.colour(policy, result, look)
    means = [(x.mean, y.mean) for x, y, _ in points]
    if not means:
        return []
    axes.plot(*zip(*means, strict=True), color=tint, linewidth=1.8, linestyle="--" if policy.bound else "-", zorder=3)
    gap = (math.nan, math.nan)
    bars = [spot for x, y, _ in points if x.low is not None and x.high is not None for spot in ((x.low, y.mean), (x.high, y.mean), gap)]
    bars += [spot for x, y, _ in points if y.low is not None and y.high is not None for spot in ((x.mean, y.low), (x.mean, y.high), gap)]
    if bars:
        axes.plot(*zip(*bars, strict=True), color=tint, linewidth=1.1, alpha=0.7, zorder=2.9, solid_capstyle="butt")
    for settled, face in ((True, tint), (False, style.PAPER)):
        chosen = [i for i, (_, _, verdict) in enumerate(points) if (verdict not in ("overloaded", "backlogged")) == settled]
        spots = [means[i] for i in chosen]
        if spots:
            shape: dict[str, Any] = {"marker": style.marker(policy, result), "markersize": 5, "markerfacecolor": face, "markeredgewidth": 1.2}
            (marks,) = axes.plot(*zip(*spots, strict=True), color=tint, linestyle="none", zorder=4, **shape)
            if tips:
                marks.set_gid(style.tips(tips[i] for i in chosen))
    return means


def _line(axes: Axes, policy: PolicyFacts, result: RunResult, look: Look) -> list[tuple[float, float]]:
    known = [(point, x, y) for point in result.points[policy.name] if (x := point.get(result.speed_metric)) and (y := point.get(_Y))]
    tips = [_tip(point, x, y, result) for point, x, y in known]
    return draw_points(axes, policy, result, [(x, y, point.verdict) for point, x, y in known], look, tips)


def _band(axes: Axes, policy: PolicyFacts, result: RunResult, look: Look) -> list[tuple[float, float]]:
    """Prediction intervals as an area from the slow and little ends of all points to the fast and much ones, as both are off together."""
    points = [point.prediction for point in result.points[policy.name] if point.verdict != "overloaded"]
    ends = [(told[result.speed_metric], told[_Y]) for told in points if result.speed_metric in told and _Y in told]
    if not ends or policy.bound:
        return []
    low, high = [(x.low, y.low) for x, y in ends], [(x.high, y.high) for x, y in ends]
    draw_band(axes, [*low, *reversed(high)], style.colour(policy, result, look))
    return [*low, *high]


def draw_band(axes: Axes, outline: Sequence[tuple[float, float]], tint: str) -> None:
    """An area under the lines, in the colour of its policy."""
    axes.fill(*zip(*outline, strict=True), facecolor=tint, alpha=0.1, edgecolor=tint, linewidth=0.5, zorder=1.2)


def _tip(point: PointResult, x: Estimate, y: Estimate, result: RunResult) -> str:
    more = (
        f"{what} {wording.plain(mean, 2)}"
        for what, mean in (("budget", point.mean("verification_budget")), ("accepted length", point.mean("accepted_length")))
        if mean is not None
    )
    verdict = "" if point.verdict == "stable" else point.verdict
    speed, throughput = (
        " ".join(filter(None, (wording.interval(told), wording.predicted(point.prediction.get(name)), unit)))
        for told, name, unit in ((x, result.speed_metric, wording.speed_unit(result)), (y, _Y, "tok/s/GPU"))
    )
    lines = (f"{point.policy} at {wording.load(point.load)}", speed, throughput, ", ".join(more), verdict)
    return "\n".join(filter(None, lines))


def _bars(result: RunResult) -> list[list[tuple[float, float]]]:
    """The intervals' bars, so that no label stands on one."""
    estimates = [(point.get(result.speed_metric), point.get(_Y)) for point in result.all_points()]
    level = [[(x.low, y.mean), (x.high, y.mean)] for x, y in estimates if x and y and x.low is not None and x.high is not None]
    upright = [[(x.mean, y.low), (x.mean, y.high)] for x, y in estimates if x and y and y.low is not None and y.high is not None]
    return level + upright


def _limits(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Throughput from zero; speed from zero only where points come near it."""
    if not points:
        without_data(axes, "no point has both a speed and a throughput")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        return
    xs, ys = zip(*points, strict=True)
    span = max(xs) - min(xs) or max(abs(max(xs)), 1.0)
    left = min(xs) - 0.06 * span
    axes.set_xlim(0 if min(xs) < 0.35 * max(xs) else left, max(xs) + 0.06 * span)
    axes.set_ylim(0, 1.1 * max(ys) or 1)


def _labels(result: RunResult, look: Look) -> list[tuple[float, float, str, str]]:
    """Points to label in their policy's colour, most telling first: the ends of each line, then every fourth, then every second."""
    ranked = []
    most = 0 if look.narrow else 2 if len(result.policies) <= 4 else 1
    for order, policy in enumerate(result.policies):
        known = [(p.load, p.mean(result.speed_metric), p.mean(_Y)) for p in result.points[policy.name]]
        points = [(load, x, y) for load, x, y in known if x is not None and y is not None]
        for i, (load, x, y) in enumerate(points):
            rank = 0 if i in (0, len(points) - 1) or len(points) < 7 else 1 if i % 4 == 0 else 2 if i % 2 == 0 else 3
            if rank <= most:
                ranked.append((rank, order, i, x, y, wording.load(load), style.colour(policy, result, look)))
    return [(x, y, text, tint) for _, _, _, x, y, text, tint in sorted(ranked)]


def _shown(axes: Axes, result: RunResult) -> list[float]:
    """The promised speeds that lie within the axes."""
    low, high = axes.get_xlim()
    return [sla for sla in sorted({row.sla_tps for row in result.gains.at_sla}) if low <= sla <= high]


def _promises(axes: Axes, result: RunResult, shown: Sequence[float], occupied: Occupied) -> None:
    """The SLAs, and at each what the policy that the answer names gains over the baseline, up (throughput) and across (speed)."""
    for promised in shown:
        vertical(axes, promised, f"SLA {wording.load(promised)}", occupied)
    if len(shown) > _SLAS_DRAWN:
        return
    for up in result.best_at_sla().values():
        if up.gain and up.baseline_throughput and up.throughput:
            ends = (up.sla_tps, up.baseline_throughput.mean), (up.sla_tps, up.throughput.mean)
            arrow(axes, *ends, wording.gain_mean(up.gain), occupied)
    for across in result.best_at_match():
        if across.gain and across.baseline_tps and across.tps and across.throughput is not None:
            ends = (across.baseline_tps.mean, across.throughput), (across.tps.mean, across.throughput)
            arrow(axes, *ends, wording.gain_mean(across.gain), occupied)

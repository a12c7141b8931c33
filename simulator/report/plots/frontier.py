"""The frontier (the form of Figure 7): what each GPU delivers against what each user sees, one line per policy."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.report import wording
from simulator.report.plots import style
from simulator.report.plots.labels import Occupied, arrow, label_points, vertical
from simulator.report.plots.style import Look
from simulator.report.reading import Estimate, Policy, Result, Story, best_gains, estimate, number, read

_Y = "throughput_tok_s_gpu"
_SLAS_DRAWN = 3


def pareto(result: Result, look: Look = style.WIDE) -> Figure:
    """Throughput (tok/s/GPU) over per-user speed (tok/s/user); up and to the right is better."""
    story = read(result)
    with style.dressed():
        figure, (axes,) = style.canvas(look, 5.4)
        handles = [style.handle(policy, story) for policy in story.policies]
        lines = [_line(axes, policy, story) for policy in story.policies]
        overlays = draw_published(axes, result, story, "tps_per_user", _Y)
        _limits(axes, [xy for line in lines for xy in line] + [xy for line in overlays for xy in line])
        handles += style.hollow_handle(story, story.points) + style.published_handle(bool(overlays))
        style.dress(figure, look, "Throughput against per-user speed", _subtitle(story), handles)
        axes.set_xlabel(f"per-user speed, {wording.speed_unit(story)}")
        style.titled(axes, "throughput, tok/s/GPU", pad=17)
        for axis in (axes.xaxis, axes.yaxis):
            style.thousands(axis)
        occupied = Occupied(axes)
        for line in (*lines, *overlays, *_bars(story)):
            occupied.add_line(line)
        _promises(axes, result, occupied)
        label_points(axes, occupied, _labels(story, look))
    return figure


def draw_published(axes: Axes, result: Result, story: Story, x: str, y: str) -> list[list[tuple[float, float]]]:
    """Published curves with these axes, broad and pale under ours, in the colour of the policy they belong to."""
    drawn = []
    for raw in result.get("published") or []:
        if raw.get("x") != x or raw.get("y") != y:
            continue
        pairs = [(number(p[0]), number(p[1])) for p in raw.get("points") or [] if len(p) >= 2]
        points = sorted((px, py) for px, py in pairs if px is not None and py is not None)
        policy = story.policy(str(raw.get("policy")))
        tint = style.colour(policy, story) if policy else style.FAINT
        if points:
            axes.plot(*zip(*points, strict=True), color=tint, linewidth=4.5, alpha=0.25, zorder=1.5, solid_capstyle="butt")
            drawn.append(points)
    return drawn


def draw_points(axes: Axes, policy: Policy, story: Story, points: list[tuple[Estimate, Estimate, str]]) -> list[tuple[float, float]]:
    """A policy's line: (x, y, verdict) per load; intervals as bars, unsettled points hollow. Returns the means."""
    tint = style.colour(policy, story)
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
        spots = [mean for mean, (_, _, verdict) in zip(means, points, strict=True) if (verdict not in ("overloaded", "backlogged")) == settled]
        if spots:
            shape: dict[str, Any] = {"marker": style.marker(policy), "markersize": 5, "markerfacecolor": face, "markeredgewidth": 1.2}
            axes.plot(*zip(*spots, strict=True), color=tint, linestyle="none", zorder=4, **shape)
    return means


def _line(axes: Axes, policy: Policy, story: Story) -> list[tuple[float, float]]:
    points = [(point.get(story.speed), point.get(_Y), point.verdict) for point in story.points[policy.name]]
    return draw_points(axes, policy, story, [(x, y, verdict) for x, y, verdict in points if x and y])


def _bars(story: Story) -> list[list[tuple[float, float]]]:
    """The intervals' bars, so that no label stands on one."""
    found = [(point.get(story.speed), point.get(_Y)) for point in story.all_points()]
    level = [[(x.low, y.mean), (x.high, y.mean)] for x, y in found if x and y and x.low is not None and x.high is not None]
    upright = [[(x.mean, y.low), (x.mean, y.high)] for x, y in found if x and y and y.low is not None and y.high is not None]
    return level + upright


def _subtitle(story: Story) -> str:
    parts = [f"points labelled with the load: {story.load_unit}", wording.certainty(story)]
    return "; ".join(part for part in parts if part)


def _limits(axes: Axes, points: list[tuple[float, float]]) -> None:
    """Throughput from zero; speed from zero only where points come near it."""
    if not points:
        axes.text(0.5, 0.5, "no point has both a speed and a throughput", transform=axes.transAxes, ha="center", color=style.MUTED)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        return
    xs, ys = zip(*points, strict=True)
    span = max(xs) - min(xs) or max(abs(max(xs)), 1.0)
    left = min(xs) - 0.06 * span
    axes.set_xlim(0 if min(xs) < 0.35 * max(xs) else left, max(xs) + 0.06 * span)
    axes.set_ylim(0, 1.1 * max(ys) or 1)


def _labels(story: Story, look: Look) -> list[tuple[float, float, str, str]]:
    """Points to label in their policy's colour, most telling first: the ends of each line, then every fourth, then every second."""
    ranked = []
    most = 0 if look.narrow else 2 if len(story.policies) <= 4 else 1
    for order, policy in enumerate(story.policies):
        known = [(p.load, p.mean(story.speed), p.mean(_Y)) for p in story.points[policy.name]]
        points = [(load, x, y) for load, x, y in known if x is not None and y is not None]
        for i, (load, x, y) in enumerate(points):
            rank = 0 if i in (0, len(points) - 1) or len(points) < 7 else 1 if i % 4 == 0 else 2 if i % 2 == 0 else 3
            if rank <= most:
                ranked.append((rank, order, i, x, y, wording.load(load), style.colour(policy, story)))
    return [(x, y, text, tint) for _, _, _, x, y, text, tint in sorted(ranked)]


def _promises(axes: Axes, result: Result, occupied: Occupied) -> None:
    """The SLAs, and at each what the best policy gains over the baseline, up (throughput) and across (speed)."""
    slas = sorted({at for row in (result.get("gains") or {}).get("at_sla") or [] if (at := number(row.get("sla_tps"))) is not None})
    low, high = axes.get_xlim()
    shown = [sla for sla in slas if low <= sla <= high]
    for promised in shown:
        vertical(axes, promised, f"SLA {wording.load(promised)}", occupied)
    if len(shown) > _SLAS_DRAWN:
        return
    for row in best_gains(result, "at_sla", "sla_tps"):
        base, reached, sla = estimate(row.get("baseline_throughput")), estimate(row.get("throughput")), number(row.get("sla_tps"))
        if base and reached and sla is not None:
            arrow(axes, (sla, base.mean), (sla, reached.mean), wording.gain_mean(estimate(row.get("gain"))), occupied)
    for row in best_gains(result, "at_matched_throughput", "throughput"):
        base, reached, at = estimate(row.get("baseline_tps")), estimate(row.get("tps")), number(row.get("throughput"))
        if base and reached and at is not None:
            arrow(axes, (base.mean, at), (reached.mean, at), wording.gain_mean(estimate(row.get("gain"))), occupied)

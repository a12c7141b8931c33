"""Pictures of the prefix cache: what it answers, over load, by turn of a session and over time, and which policy is best over load and memory."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.report import style, wording
from simulator.report.layout import canvas, dress, panels, titled
from simulator.report.run.plots.load import curves, finish
from simulator.report.run.reuse import rows_by, told, turn_names
from simulator.report.style import Look
from simulator.study.run.memory import best, by_spot
from simulator.study.run.result import RunResult
from simulator.study.run.reuse import TURNS


def prefix_hits(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Share of prompt tokens from the prefix cache (%) above, mean per-user speed in the middle, p90 of TTFT (ms) below, over load: where their order
    turns, what speculation costs the cache is more than it gains."""
    with style.dressed(look):
        figure, (top, middle, below) = canvas(look, 7.4, rows=3)
        curves(top, result, "prefix_hit_share", look, 100.0)
        curves(middle, result, result.speed_metric, look)
        curves(below, result, "ttft_p90_s", look, 1000.0)
        titled(top, "prompt tokens from the prefix cache, %")
        titled(middle, "per-user speed, tok/s")
        titled(below, "TTFT p90, ms" if look.narrow else "time to first token, ms: p90 (log scale)")
        below.set_yscale("log")
        below.minorticks_off()
        finish(figure, look, result, "Speculate or cache")
        top.set_ylim(0, 104)
    return figure


def by_turn(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Share of prompt tokens from the prefix cache (%), and mean TTFT (ms), by turn of a session; and the share over time. At the highest load that
    every policy carries."""
    with style.dressed(look):
        points = told(result)
        figure, (hits, ttft, times) = panels(look, 3, height=3.4, columns=3)
        for policy in result.policies:
            for point in points:
                if point.policy != policy.name:
                    continue
                tint = style.colour(policy, result, look)
                turns = rows_by(point, "turn")
                places = [TURNS.index(int(row.start)) for row in turns]
                hits.plot(places, [100 * row.cached / row.prompt for row in turns], color=tint, linewidth=1.6, marker="o", markersize=3)
                ttft.plot(places, [1000 * row.ttft_s / row.requests for row in turns], color=tint, linewidth=1.6, marker="o", markersize=3)
                over = rows_by(point, "time")
                times.plot([row.start for row in over], [100 * row.cached / row.prompt for row in over], color=tint, linewidth=1.6)
        names = turn_names()
        for axes in (hits, ttft):
            axes.set_xticks(range(len(TURNS)), names, fontsize="small")
            axes.set_xlabel("turn")
        for axes in (hits, times):
            axes.set_ylim(0, 100)
        ttft.set_ylim(bottom=0)
        style.thousands(ttft.yaxis)
        times.set_xlabel("second of the window")
        titled(hits, "from the cache, %")
        titled(ttft, "TTFT, mean, ms")
        titled(times, "from the cache, %, over time")
        handles = [style.entry(look, look.label(policy.name), style.colour(policy, result, look)) for policy in result.policies]
        at = points[0].load if points else 0.0
        dress(figure, look, "The prefix cache by turn", f"load {wording.load(at)}: {result.load_unit}", handles)
    return figure


def memory(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Over load and KV memory: the policy that is best, and how many times the next best it is; by per-user speed, and by goodput where requests have
    limits. Thick lines are where the best one changes, hatched where requests queue under it."""
    metrics: list[tuple[str, str]] = [(result.speed_metric, "fastest for a user")]
    metrics += [("goodput_rps_gpu", "most requests within the SLA")] if any(p.numbers.get("goodput_rps_gpu") for p in result.memory) else []
    with style.dressed(look):
        figure, every = panels(look, len(metrics), height=3.6, columns=2)
        shown: set[str] = set()
        for axes, (metric, words) in zip(every, metrics, strict=True):
            shown |= _map(axes, result, metric, look)
            titled(axes, words)
            axes.set_xlabel(f"load: {result.load_unit}")
        handles = [style.entry(look, look.label(p.name), style.colour(p, result, look)) for p in result.policies if p.name in shown]
        dress(
            figure,
            look,
            "Speculate or cache",
            "thousand tokens of KV memory without a drafter, up; the best policy, times the next; hatched: requests queue",
            handles,
        )
    return figure


def _map(axes: Axes, result: RunResult, metric: str, look: Look) -> set[str]:
    """Fills axes with the cells of a map; the policies that are best somewhere."""
    spots = by_spot(point for point in result.memory if point.policy in result.choosable)
    loads, shares = (sorted({spot[place] for spot in spots}) for place in (0, 1))
    found = {(loads.index(load), shares.index(share)): told for (load, share), points in spots.items() if (told := best(points, metric))}
    policies = {policy.name: policy for policy in result.policies}
    for (x, y), (point, ahead) in found.items():
        tint, hatch = style.colour(policies[point.policy], result, look), None if point.verdict == "stable" else "///"
        axes.fill([x, x + 1, x + 1, x], [y, y, y + 1, y + 1], facecolor=tint, alpha=0.55, edgecolor=style.PAPER, linewidth=0.8, hatch=hatch)
        axes.text(
            x + 0.5,
            y + 0.5,
            "" if ahead is None else "> 10×" if ahead > 10 else f"{ahead:.3g}×",
            ha="center",
            va="center",
            fontsize="small",
            color=style.INK,
        )
    for (x, y), (point, _) in found.items():  # where the next cell to the right, or above, has another best policy
        for there, line in (((x + 1, y), ([x + 1, x + 1], [y, y + 1])), ((x, y + 1), ([x, x + 1], [y + 1, y + 1]))):
            if there in found and found[there][0].policy != point.policy:
                axes.plot(*line, color=style.INK, linewidth=2.5, solid_capstyle="round", zorder=5)
    most = {share: max(point.kv_tokens for point in result.memory if point.kv_share == share) for share in shares}
    axes.set_xticks([x + 0.5 for x in range(len(loads))], [wording.load(load) for load in loads])
    axes.set_yticks([y + 0.5 for y in range(len(shares))], [f"{most[share] / 1000:,.0f}" for share in shares])
    axes.set_xlim(0, len(loads))
    axes.set_ylim(0, len(shares))
    axes.grid(visible=False)
    return {point.policy for point, _ in found.values()}

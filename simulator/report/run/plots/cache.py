"""Pictures of the prefix cache: what it answers, over load, by turn of a session and over time."""

from __future__ import annotations

from matplotlib.figure import Figure

from simulator.report import style, wording
from simulator.report.layout import canvas, dress, panels, titled
from simulator.report.run.plots.load import curves, finish
from simulator.report.run.reuse import rows_by, told, turn_names
from simulator.report.style import Look
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

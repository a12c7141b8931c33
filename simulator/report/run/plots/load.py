"""Pictures over load (the form of Figure 8): throughput and verification budget, accepted length, latency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.report import style, wording
from simulator.report.layout import canvas, dress, panels, titled, without_data
from simulator.report.run.carried import highest_carried
from simulator.report.run.plots.frontier import draw_band, draw_points, draw_published
from simulator.report.style import Look
from simulator.study.run.metrics import SHARES
from simulator.study.run.result import Estimate, RunResult


def against_load(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Throughput (tok/s/GPU) above, tokens verified per request and step below, anchor included, over load."""
    with style.dressed(look):
        figure, (top, below) = canvas(look, 6.2, rows=2, ratios=(1.35, 1))
        overlays = []
        for axes, metric in ((top, "throughput_tok_s_gpu"), (below, "verification_budget")):
            curves(axes, result, metric, look)
            overlays += draw_published(axes, result, result.load_kind, metric, look)
        titled(top, "throughput, tok/s/GPU")
        titled(below, "verification budget, tokens per request" + (" (anchor incl.)" if look.narrow else " and step (anchor included)"))
        finish(figure, look, result, "Throughput and verification budget over load", style.published_handle(bool(overlays), look))
    return figure


def accepted_length(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Accepted length (tokens per request and step, bonus included) over load."""
    with style.dressed(look):
        figure, (axes,) = canvas(look, 3.9)
        curves(axes, result, "accepted_length", look)
        titled(axes, "accepted length, tokens per step (bonus included)")
        finish(figure, look, result, "Accepted length over load")
    return figure


def goodput(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Requests per second and GPU that keep every limit of the SLA above, their share of all requests below, over load."""
    with style.dressed(look):
        figure, (top, below) = canvas(look, 5.6, rows=2, ratios=(1.35, 1))
        curves(top, result, "goodput_rps_gpu", look)
        curves(below, result, "goodput_share", look, 100.0)
        titled(top, "goodput, requests/s/GPU")
        titled(below, "requests that keep every limit, %")
        finish(figure, look, result, "Goodput over load")
        below.set_ylim(0, 104)  # bars of noise may end beyond what a share can be
    return figure


def latency(result: RunResult, look: Look = style.WIDE) -> Figure:
    """TTFT p50 and p99 above, TPOT p50 and p99 below, in milliseconds, over load; p99 is the paler line. One alone where the other is not known:
    the TTFT without prompts, the TPOT of answers of one token."""
    with style.dressed(look):
        both = ("ttft", "time to first token, TTFT"), ("tpot", "time per output token, TPOT")
        names = [(name, words) for name, words in both if result.has(f"{name}_p50_s")] or both
        figure, every = canvas(look, 0.4 + 2.9 * len(names), rows=len(names))
        for axes, (name, words) in zip(every, names, strict=True):
            means = [mean for q in (50, 99) for mean in curves(axes, result, f"{name}_p{q}_s", look, 1000.0, pale=q == 99)]
            positive = [mean for mean in means if mean > 0]
            if positive and max(positive) > 50 * min(positive):
                axes.set_yscale("log")
                axes.minorticks_off()
            titled(axes, f"{name.upper() if look.narrow else words}, ms: p50, dotted p99" + (" (log scale)" if axes.get_yscale() == "log" else ""))
        finish(figure, look, result, "Latency over load")
    return figure


def distribution(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Share of requests (%) whose TTFT and time per token are at most so long, ms, at the highest load that every policy carries."""
    with style.dressed(look):
        at = distributed_load(result)
        kinds = [kind for kind in ("ttft", "tpot") if any(kind in point.curves for point in result.frontier)]
        figure, every = panels(look, len(kinds), height=3.6, columns=2, share_y=True)
        for axes, kind in zip(every, kinds, strict=True):
            for policy in result.policies:
                for point in result.points[policy.name]:
                    if point.load == at and kind in point.curves:
                        tint = style.colour(policy, result, look)
                        axes.plot([1000 * v for v in point.curves[kind]], [100 * share for share in SHARES], color=tint, linewidth=1.6)
            drawn = [float(v) for line in axes.lines for v in np.asarray(line.get_xdata(), dtype=np.float64) if v > 0]
            if drawn and max(drawn) > 30 * min(drawn):
                axes.set_xscale("log")
                axes.minorticks_off()
            axes.set_ylim(0, 100)
            axes.set_xlabel(f"{kind.upper()}, ms")
            style.thousands(axes.xaxis)
            titled(axes, "% of requests" + ("" if look.narrow else " at most so long"))
        handles = [style.entry(look, look.label(policy.name), style.colour(policy, result, look)) for policy in result.policies]
        dress(figure, look, "Distribution of latency", f"load {wording.load(at)}: {result.load_unit}", handles)
    return figure


def distributed_load(result: RunResult) -> float:
    """That of the picture."""
    return highest_carried(result, {point.load for point in result.frontier if point.curves})


def latency_tells(result: RunResult) -> bool:
    """Is there more to latency than the first step: an open loop, or a TTFT that is no longer a few steps?"""
    if not result.has("ttft_p50_s", "ttft_p99_s", "tpot_p50_s"):
        return False
    if result.load_kind != "concurrency":
        return True
    slow = ((point.mean("ttft_p99_s") or 0.0, point.mean("step_p50_s") or 0.02) for point in result.all_points())
    return any(ttft > 3 * step for ttft, step in slow)


def curves(axes: Axes, result: RunResult, metric: str, look: Look, factor: float = 1.0, pale: bool = False) -> list[float]:
    """One line per policy; the means that were drawn."""
    drawn: list[float] = []
    for policy in result.policies:
        estimates = [(Estimate(point.load, None, None), point.get(metric), point.verdict) for point in result.points[policy.name]]
        points = [(x, y.scaled(factor), verdict) for x, y, verdict in estimates if y]
        if pale and points:
            x, y = zip(*((x.mean, y.mean) for x, y, _ in points), strict=True)
            tint, mark = style.colour(policy, result, look), style.marker(policy, result)
            axes.plot(x, y, color=tint, linewidth=1.4, linestyle=":", alpha=0.75, marker=mark, markersize=3, zorder=2)
        elif points:
            told = [(point.load, at.scaled(factor)) for point in result.points[policy.name] if (at := point.prediction.get(metric))]
            if len(told) > 1 and not policy.bound:
                outline = [(x, y.low) for x, y in told] + [(x, y.high) for x, y in reversed(told)]
                draw_band(axes, outline, style.colour(policy, result, look))
            draw_points(axes, policy, result, points, look)
        drawn += [y.mean for _, y, _ in points]
    return drawn


def finish(figure: Figure, look: Look, result: RunResult, title: str, more: Sequence[Artist] = ()) -> None:
    """Scales, legend and title of axes over load."""
    handles = [*(style.handle(policy, result, look) for policy in result.policies), *more, *style.hollow_handle(result, look)]
    every = list(look.axes) or figure.get_axes()
    for axes in every:
        _scale(axes, result.loads())
        if not axes.lines:
            without_data(axes, "not known for any point")
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, 1.08 * max(_heights(axes), default=1.0) or 1)
        style.thousands(axes.yaxis)
    every[-1].set_xlabel(f"load: {result.load_unit}")
    dress(figure, look, title, wording.certainty(result), handles)


def _heights(axes: Axes) -> Iterable[float]:
    """All that is drawn within the loads of the study; a published curve may go further."""
    last = axes.get_xlim()[1]
    for line in axes.lines:
        x, y = (np.asarray(values, dtype=np.float64) for values in (line.get_xdata(), line.get_ydata()))
        yield from y[(x <= last) & np.isfinite(y)].tolist()
    for patch in axes.patches:
        yield float(np.asarray(patch.get_path().vertices, dtype=np.float64)[:, 1].max())  # of a band


def _scale(axes: Axes, loads: list[float]) -> None:
    """Linear from zero, as in the paper; logarithmic where a linear axis would heap most loads at its left end."""
    if len(loads) > 3 and loads[0] > 0 and loads[-1] / loads[0] > 100 and loads[len(loads) // 2] < loads[-1] / 10:
        axes.set_xscale("log", base=2)
    elif loads:
        axes.set_xlim(0, 1.04 * loads[-1] or 1)
    style.thousands(axes.xaxis)

"""Still pictures of a plan, for Markdown: the frontier of fleets, the tornado of what-ifs, the day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulator.report import wording
from simulator.report.plots import style
from simulator.report.plots.style import Look

Result = Mapping[str, Any]


def frontier(result: Result, look: Look = style.WIDE) -> Figure:
    """Throughput per GPU against the promised share's speed; one point a fleet size, one line a cell."""
    with style.dressed():
        figure, (axes,) = style.canvas(look, 4.6)
        handles = []
        for place, cell in enumerate(result["cells"]):
            points = [p for p in cell["points"] if p["verdict"] != "overloaded" and p["metrics"]["speed"]["mean"]]
            x = [p["metrics"]["speed"]["mean"] for p in points]
            y = [p["metrics"]["throughput_tok_s_gpu"]["mean"] for p in points]
            tint, mark = style.CYCLE[place % len(style.CYCLE)], style.MARKERS[place % len(style.MARKERS)]
            axes.plot(x, y, color=tint, marker=mark, markersize=5, linewidth=1.8)
            handles.append(Line2D([], [], color=tint, marker=mark, markersize=5, linewidth=1.8, label=wording.short(cell["label"])))
        axes.axvline(result["sla"]["speed"]["tps"], color=style.FAINT, linestyle=":", linewidth=1.2)
        axes.set_xlabel(f"tok/s that {100 * result['sla']['speed']['share']:.3g} % of users reach (dotted: promised)")
        axes.set_ylim(bottom=0)
        style.dress(figure, look, "Throughput against speed", "fleets of every simulated size at the planned load", handles)
        style.titled(axes, "throughput, tok/s/GPU")
    return figure


def tornado(result: Result, look: Look = style.WIDE) -> Figure:
    """How the promised speed of the unchanged fleet moves, with 95 % intervals, and the replicas then needed."""
    found = [m for m in result["what_if"] if m["speed_change"]["mean"] is not None]
    found = sorted(found, key=lambda m: abs(m["speed_change"]["mean"]))
    with style.dressed():
        figure, (axes,) = style.canvas(look, 1.4 + 0.34 * len(found))
        for row, m in enumerate(found):
            change = m["speed_change"]
            mean = 100 * change["mean"]
            axes.barh(row, mean, color=style.CYCLE[0] if mean >= 0 else style.CYCLE[1], height=0.6)
            if change["low"] is not None:
                axes.plot([100 * change["low"], 100 * change["high"]], [row, row], color=style.INK, linewidth=1)
        needs = ["–" if m["replicas"] is None else f"{m['replicas']}" for m in found]
        axes.set_yticks(range(len(found)), [f"{m['label']}  [{n}]" for m, n in zip(found, needs, strict=True)])
        axes.axvline(0, color=style.MUTED, linewidth=0.8)
        axes.set_xlabel("change of the promised speed, % (in brackets: replicas then needed)")
        style.dress(figure, look, "What if an assumption is wrong", "the planned fleet unchanged", [], left=3.3)
    return figure


def day(result: Result, look: Look = style.WIDE) -> Figure:
    """Requests per second above, replicas below, over the span."""
    found = result["day"]
    with style.dressed():
        figure, (top, below) = style.canvas(look, 5.2, rows=2)
        unit, name = (3600, "hours") if found["span_s"] > 7200 else (60, "minutes")
        at = [found["slot_s"] * i / unit for i in range(len(found["rate_rps"]))]
        top.plot(at, found["rate_rps"], color=style.INK, linewidth=1.2)
        handles = []
        for place, (key, said) in enumerate((("needed", "needed"), ("paid", "started by forecast"))):
            below.step(at, found[key], where="post", color=style.CYCLE[place], linewidth=1.6)
            handles.append(Line2D([], [], color=style.CYCLE[place], linewidth=1.6, label=said))
        below.axhline(found["fixed"], color=style.FAINT, linestyle=":")
        below.set_ylim(bottom=0)
        below.set_xlabel(name)
        style.dress(figure, look, "Replicas through the day", "dotted: the planned fleet, always on", handles)
        style.titled(top, "requests per second")
        style.titled(below, "replicas")
    return figure

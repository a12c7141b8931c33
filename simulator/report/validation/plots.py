"""Pictures of a validation. They import matplotlib: callers import them lazily."""

from __future__ import annotations

from matplotlib.figure import Figure

from simulator.report import style
from simulator.report.layout import canvas, dress, titled
from simulator.report.style import Look
from simulator.study.validation.engine_runs import HEADLINE
from simulator.study.validation.result import EngineCheck


def engine_frontiers(check: EngineCheck, title: str, look: Look = style.WIDE) -> Figure:
    """Throughput against per-user speed: measured points, simulated ones joined by a line, a colour per policy."""
    with style.dressed(look):
        figure, (axes,) = canvas(look, 5.4)
        closed, handles = [row for row in check.runs if not row.open_loop], []
        for number, policy in enumerate(dict.fromkeys(row.policy for row in closed)):
            rows = sorted((row for row in closed if row.policy == policy), key=lambda row: row.concurrency)
            tint = look.colour(policy, number)
            axes.plot(*([row.simulated[name] for row in rows] for name in HEADLINE), color=tint, linewidth=1.5)
            axes.plot(*([row.measured[name] for row in rows] for name in HEADLINE), color=tint, linestyle="", marker="o", markersize=5)
            handles.append(style.entry(look, look.label(policy), tint))
            for row in rows:
                spot = row.measured["tps_per_user_p50"], row.measured["throughput_tok_s"]
                axes.annotate(str(row.concurrency), spot, textcoords="offset points", xytext=(4, 4), fontsize="small", color=style.FAINT)
        axes.set_xlabel("per-user speed p50, tok/s/user")
        titled(axes, "throughput, tok/s")
        for axis in (axes.xaxis, axes.yaxis):
            style.thousands(axis)
        dress(figure, look, title, "lines simulated, dots measured; numbers are concurrent requests", handles)
    return figure

"""Pictures of a validation. They import matplotlib: callers import them lazily."""

from __future__ import annotations

from matplotlib.figure import Figure

from simulator.report import style
from simulator.study.validation.engine_runs import HEADLINE
from simulator.study.validation.result import EngineCheck


def engine_frontiers(check: EngineCheck, title: str) -> Figure:
    """Throughput against per-user speed: measured points, simulated ones joined by a line, a colour per policy."""
    with style.dressed():
        figure = Figure(figsize=(8.4, 5.4), layout="constrained")
        axes = figure.subplots()
        closed = [row for row in check.runs if not row.open_loop]
        for number, policy in enumerate(dict.fromkeys(row.policy for row in closed)):
            rows = sorted((row for row in closed if row.policy == policy), key=lambda row: row.concurrency)
            tint = style.CYCLE[number % len(style.CYCLE)]
            axes.plot(*([row.simulated[name] for row in rows] for name in HEADLINE), color=tint, label=policy)
            axes.plot(*([row.measured[name] for row in rows] for name in HEADLINE), color=tint, linestyle="", marker="o", markersize=5)
            for row in rows:
                spot = row.measured["tps_per_user_p50"], row.measured["throughput_tok_s"]
                axes.annotate(str(row.concurrency), spot, textcoords="offset points", xytext=(4, 4), fontsize=7, color=style.FAINT)
        axes.set_xlabel("per-user speed p50, tok/s/user")
        axes.set_ylabel("throughput, tok/s")
        axes.set_title(f"{title}\nlines simulated, dots measured; numbers are concurrent requests", loc="left", fontsize=10)
        axes.legend(frameon=False, fontsize=8)
    return figure

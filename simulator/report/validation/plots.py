"""Pictures of a validation. They import matplotlib: callers import them lazily."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from simulator.report import style
from simulator.report.layout import canvas, dress, panels, titled
from simulator.report.style import Look
from simulator.study.validation.engine_runs import HEADLINE
from simulator.study.validation.result import EngineCheck
from simulator.study.validation.silicon.result import Pair


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


def silicon_dots(pairs: Sequence[Pair], look: Look = style.WIDE) -> Figure:
    """Predicted against measured TPOT and TTFT of every run on logarithmic axes; a colour per model, a shape per engine."""
    kinds = [(run.model.split("/")[-1], run.engine) for run, _ in pairs]
    models = sorted({model for model, _ in kinds})
    palette = colormaps["tab20"].colors  # type: ignore[attr-defined]
    colours = {name: to_hex(palette[number % len(palette)]) for number, name in enumerate(models)}
    shapes = dict(zip(sorted({engine for _, engine in kinds}), "os^", strict=False))
    with style.dressed(look):
        figure, both = panels(look, 2, 5.6, columns=2)
        for axes, name in zip(both, ("TPOT", "TTFT"), strict=True):
            points = np.array([[1e3 * getattr(one, f"{name.lower()}_s") for one in pair] for pair in pairs])  # measured, predicted
            for model, engine in dict.fromkeys(kinds):
                measured, predicted = points[[kind == (model, engine) for kind in kinds]].T
                axes.plot(measured, predicted, shapes[engine], color=colours[model], markersize=3, alpha=0.6, markeredgewidth=0)
            ends = [points.min(), points.max()]
            axes.plot(ends, ends, color=style.FAINT, linewidth=1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axes.set_xlabel(f"{name} measured, ms")
            titled(axes, f"{name} predicted, ms")
        handles = [style.entry(look, name, tint, linestyle="", marker="o") for name, tint in colours.items()]
        handles += [style.entry(look, name, style.FAINT, linestyle="", marker=shape) for name, shape in shapes.items()]
        dress(figure, look, "Real serving runs, predicted from kernel times", "judged half of the sample; right is on the line", handles)
    return figure

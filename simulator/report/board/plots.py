"""Pictures of a score. They import matplotlib: callers import them lazily."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from simulator.report import style
from simulator.report.layout import dress, panels, titled
from simulator.report.style import Look
from simulator.study.sealed.numbers import NUMBERS, SPEED, THROUGHPUT
from simulator.study.sealed.result import Score


def against_measured(score: Score, look: Look = style.WIDE) -> Figure:
    """Predicted against measured per-user speed and throughput on logarithmic axes, with prediction intervals; a colour per policy."""
    policies = list(dict.fromkeys(cell.policy for cell in score.cells))
    with style.dressed(look):
        figure, both = panels(look, 2, 5.6, columns=2)
        for axes, name in zip(both, (SPEED, THROUGHPUT), strict=True):
            for place, policy in enumerate(policies):
                mine = [cell.numbers[name] for cell in score.cells if cell.policy == policy and name in cell.numbers]
                tint = look.colour(policy, place)
                axes.plot([n.measured for n in mine], [n.predicted for n in mine], "o", color=tint, markersize=4)
                for number in mine:
                    axes.plot([number.measured] * 2, [number.low or number.predicted, number.high or number.predicted], color=tint, linewidth=0.8)
            every = [end for cell in score.cells if name in cell.numbers for end in (cell.numbers[name].measured, cell.numbers[name].predicted)]
            axes.plot([min(every), max(every)], [min(every), max(every)], color=style.FAINT, linewidth=1)
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_minor_formatter(NullFormatter())
                style.thousands(axis)
            axes.set_xlabel(f"{NUMBERS[name].title} measured, {NUMBERS[name].unit}")
            titled(axes, f"{NUMBERS[name].title} predicted, {NUMBERS[name].unit}")
        handles = [
            style.entry(look, look.label(policy), look.colour(policy, place), linestyle="", marker="o") for place, policy in enumerate(policies)
        ]
        dress(figure, look, f"{score.name}: predicted against measured", "right is on the line; bars are 90 % prediction intervals", handles)
    return figure

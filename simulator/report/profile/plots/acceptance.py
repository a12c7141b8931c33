"""Pictures of acceptance: accepted length, conditional acceptance (the form of Figure 2), thresholds (Figure 5), reliability (Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulator.measurements.calibration import Reliability
from simulator.report import style, wording
from simulator.report.layout import dress, fitted, panels, titled
from simulator.report.profile.numbers import DrafterNumbers
from simulator.report.style import Look

CERTAIN = "95 % intervals, whole texts as units"


def accepted_length(drafters: Sequence[DrafterNumbers], look: Look = style.WIDE) -> Figure:
    """Tokens committed per round, bonus included, per domain: a row per domain, a point per drafter."""
    with style.dressed(look):
        domains = domains_of(drafters)
        figure, (axes,) = panels(look, 1, height=1.9 + 0.06 * len(drafters) + (0.2 + 0.16 * len(drafters)) * len(domains))
        draw_lengths(axes, drafters, look)
        titled(axes, "tokens per round, bonus included")
        dress(figure, look, "Accepted length", CERTAIN, handles(drafters, look))
    return figure


def conditional(drafters: Sequence[DrafterNumbers], look: Look = style.WIDE) -> Figure:
    """P(slot k accepted | those before it), a panel per domain, a line per drafter."""
    with style.dressed(look):
        domains = domains_of(drafters)
        figure, axes = panels(look, len(domains), height=3.7, columns=3, share_y=True)
        for ax, domain in zip(axes, domains, strict=True):
            draw_conditional(ax, drafters, domain, look)
            titled(ax, wording.short(domain, 24))
            ax.set_xlabel("position in the block")
        dress(figure, look, "Conditional acceptance by position", CERTAIN, handles(drafters, look))
    return figure


def thresholds(drafters: Sequence[DrafterNumbers], look: Look = style.WIDE) -> Figure:
    """Committed and rejected tokens per step under a static confidence threshold, all domains together."""
    with style.dressed(look):
        sure = [d for d in drafters if d.thresholds]
        figure, axes = panels(look, 2, height=3.6, columns=2)
        for ax, name in zip(axes, ("committed", "rejected"), strict=True):
            for numbers in sure:
                x = [p.threshold for p in numbers.thresholds]
                y, error = (np.array([getattr(p, f"{name}_{what}") for p in numbers.thresholds]) for what in ("tokens", "error"))
                tint = tint_of(numbers.name, drafters, look)
                ax.plot(x, y, color=tint, linewidth=1.8)
                if np.isfinite(error).all():
                    ax.fill_between(x, y - 1.96 * error, y + 1.96 * error, color=tint, alpha=0.18, linewidth=0)
            titled(ax, f"{name} tokens per step" + (", bonus included" if name == "committed" else ""))
            ax.set_xlabel("threshold")
            ax.set_xlim(0, 1)
            ax.set_ylim(0, 1.08 * max((float(v) for line in ax.lines for v in np.asarray(line.get_ydata())), default=1.0) or 1)
        dress(figure, look, "Confidence threshold", f"all domains; {CERTAIN}", handles(sure, look, drafters))
    return figure


def correlation(drafters: Sequence[DrafterNumbers], look: Look = style.WIDE) -> Figure:
    """Correlation of accepted counts along a text, lag by lag."""
    with style.dressed(look):
        figure, (axes,) = panels(look, 1, height=3.2)
        for numbers in drafters:
            values = numbers.autocorrelation[1:]
            lags = np.arange(1, len(values) + 1)
            axes.plot(lags, values, color=tint_of(numbers.name, drafters, look), marker="o", markersize=3.5, linewidth=1.6)
        axes.axhline(0, color=style.FAINT, linewidth=0.8)
        axes.set_xlim(0, max(len(n.autocorrelation) for n in drafters) - 0.5)
        axes.set_xticks(range(0, max(len(n.autocorrelation) for n in drafters), 5))
        axes.set_xlabel("lag, anchors")
        titled(axes, "correlation")
        dress(figure, look, "Autocorrelation of accepted counts", "about the mean of the domain", handles(drafters, look))
    return figure


def reliability(numbers: DrafterNumbers, look: Look = style.WIDE) -> Figure:
    """Observed against predicted prefix survival, a panel per position, before and after calibration."""
    with style.dressed(look):
        fit = numbers.calibration
        assert fit is not None
        figure, axes = panels(look, numbers.blocks.gamma, height=3.4, columns=4)
        for k, ax in enumerate(axes, 1):
            draw_reliability(ax, fit.before.reliability[k - 1], fit.after.reliability[k - 1])
            titled(ax, f"position {k}" if look.narrow else f"position {k}, t = {fit.temperatures[k - 1]:.2f}", pad=4)
        title = f"Reliability of {wording.short(numbers.name, 24)}"
        dress(figure, look, title, "observed against predicted prefix survival, on the texts not fitted on; size: anchors", _before_and_after(look))
    return figure


def draw_lengths(axes: Axes, drafters: Sequence[DrafterNumbers], look: Look) -> None:
    domains = domains_of(drafters)
    for place, numbers in enumerate(drafters):
        shift = 0.6 * ((place + 0.5) / len(drafters) - 0.5)
        for measured in numbers.domains:
            y, length, tint = domains.index(measured.domain) + shift, measured.accepted_length, tint_of(numbers.name, drafters, look)
            if length.low is not None and length.high is not None:
                axes.plot([length.low, length.high], [y, y], color=tint, linewidth=1.6)
            axes.plot([length.mean], [y], color=tint, marker=_marker(place), markersize=5, linestyle="none")
    style.named(axes.yaxis, [fitted(domain, 0.3 * look.width, "medium") for domain in domains])
    axes.tick_params(axis="y", labelcolor=style.INK)
    axes.set_ylim(len(domains) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(1, 1.06 * max((float(x) for line in axes.lines for x in np.asarray(line.get_xdata())), default=2.0))


def draw_conditional(axes: Axes, drafters: Sequence[DrafterNumbers], domain: str, look: Look) -> None:
    for place, numbers in enumerate(drafters):
        measured = next((d for d in numbers.domains if d.domain == domain), None)
        known = [(k, c) for k, c in enumerate(measured.conditional, 1) if c] if measured else []
        tint, shift = tint_of(numbers.name, drafters, look), 0.06 * (place - (len(drafters) - 1) / 2)
        axes.plot([k + shift for k, _ in known], [c.mean for _, c in known], color=tint, linewidth=1.6, marker=_marker(place), markersize=4)
        for k, c in known:
            if c.low is not None and c.high is not None:
                axes.plot([k + shift] * 2, [c.low, c.high], color=tint, linewidth=1.0)
    most = max(numbers.blocks.gamma for numbers in drafters)
    axes.set_xticks(range(1, most + 1))
    axes.set_xlim(0.6, most + 0.4)
    axes.set_ylim(_floor(drafters), 1.0)


def draw_reliability(axes: Axes, before: Reliability, after: Reliability) -> None:
    axes.plot([0, 1], [0, 1], color=style.FAINT, linewidth=0.8)
    for curve, tint, face in ((before, style.MUTED, style.PAPER), (after, style.CYCLE[0], style.CYCLE[0])):
        sizes = 4 + 42 * np.sqrt(curve.rows / curve.rows.sum())
        axes.plot(curve.predicted, curve.observed, color=tint, linewidth=0.8, alpha=0.7)
        axes.scatter(curve.predicted, curve.observed, s=sizes, color=face, edgecolors=tint, linewidths=0.9, zorder=3, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"), yticklabels=("0", "0.5", "1"))


def domains_of(drafters: Sequence[DrafterNumbers]) -> list[str]:
    """Every domain of any drafter, in the order they appear."""
    return list(dict.fromkeys(d.domain for numbers in drafters for d in numbers.domains))


def tint_of(name: str, drafters: Sequence[DrafterNumbers], look: Look) -> str:
    """The same for a drafter in every picture."""
    return look.colour(name, [numbers.name for numbers in drafters].index(name))


def _floor(drafters: Sequence[DrafterNumbers]) -> float:
    """A round number below everything drawn, 0 where that is low anyway."""
    least = min((c.mean if c.low is None else c.low for numbers in drafters for d in numbers.domains for c in d.conditional if c), default=0.0)
    return max(0.0, math.floor(10 * (least - 0.02)) / 10)


def _marker(place: int) -> str:
    return style.MARKERS[place % len(style.MARKERS)]


def handles(shown: Sequence[DrafterNumbers], look: Look, every: Sequence[DrafterNumbers] | None = None) -> list[Line2D]:
    every = every or shown
    places = {numbers.name: place for place, numbers in enumerate(every)}
    return [style.entry(look, look.label(n.name), tint_of(n.name, every, look), marker=_marker(places[n.name])) for n in shown]


def _before_and_after(look: Look) -> list[Line2D]:
    kinds = ((style.MUTED, style.PAPER, "before calibration"), (style.CYCLE[0], style.CYCLE[0], "after"))
    return [style.entry(look, when, c, markerfacecolor=face, linestyle="none", marker="o") for c, face, when in kinds]

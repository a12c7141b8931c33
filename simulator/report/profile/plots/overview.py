"""A profile in one picture: step cost, drafting, accepted length, conditional acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulator.measurements.profile import Profile
from simulator.report import style, wording
from simulator.report.profile.numbers import DrafterNumbers
from simulator.report.profile.plots import acceptance, costs
from simulator.report.profile.plots.layout import finish, panels, scale


def overview(profile: Profile, drafters: Sequence[DrafterNumbers]) -> Figure:
    """Up to four panels; those of the drafters are left out where there is none."""
    with style.dressed():
        figure, axes = panels(style.WIDE, 4 if drafters else 1, height=4.0, columns=2)
        title, lines = list(costs.verify_lines(profile).items())[-1]
        tints = costs.tints_of({title: lines})
        costs.draw_lines(axes[0], lines, tints, costs.is_staircase(profile))
        scale(axes[:1], costs.is_measured({title: lines}))
        style.titled(axes[0], "verify step, ms" + (f", {title}" if title else ""))
        axes[0].set_xlabel("tokens in the step")
        if len(tints) > 1:
            axes[0].legend(handles=[Line2D([], [], color=tint, label=name) for name, tint in tints.items()], fontsize=7.5, loc="upper left")
        if drafters:
            _of_drafters(figure, profile, drafters)
        what = f"{wording.short(profile.target, 60)} on {wording.short(profile.hardware, 80)}"
        handles = acceptance.handles(drafters) if drafters else []
        finish(figure, style.WIDE, wording.short(profile.name, 60), what, handles, left=0.7)
    return figure


def _of_drafters(figure: Figure, profile: Profile, drafters: Sequence[DrafterNumbers]) -> None:
    _, drafting, lengths, positions = figure.axes
    for place, numbers in enumerate(drafters):
        parts = list(costs.draft_parts(profile, numbers.drafter).values())
        requests = list(parts[0]) if parts else []
        total = [sum(part[r] for part in parts) for r in requests]
        tint = acceptance.tint_of(numbers.name, drafters)
        drafting.plot(requests, total, color=tint, linewidth=1.6, marker=style.MARKERS[place % len(style.MARKERS)], markersize=4)
    if any(np.size(line.get_xdata()) for line in drafting.lines):
        scale([drafting], cells=True)
    else:
        drafting.text(0.5, 0.5, "costs nothing of its own", transform=drafting.transAxes, ha="center", color=style.MUTED)
    style.titled(drafting, "drafting a round, ms")
    drafting.set_xlabel("requests")
    acceptance.draw_lengths(lengths, drafters)
    style.titled(lengths, "accepted length, bonus included (95 %)")
    domain = acceptance.domains_of(drafters)[0]
    acceptance.draw_conditional(positions, drafters, domain)
    style.titled(positions, f"conditional acceptance, {wording.short(domain, 24)}")
    positions.set_xlabel("position in the block")

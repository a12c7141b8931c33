"""A profile in one picture: step cost, drafting, accepted length, conditional acceptance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulator.measurements.profile import Profile
from simulator.report import style, wording
from simulator.report.layout import dress, panels, titled, without_data
from simulator.report.profile.numbers import DrafterNumbers
from simulator.report.profile.plots import acceptance, costs
from simulator.report.profile.plots.scales import scale
from simulator.report.style import Look


def overview(profile: Profile, drafters: Sequence[DrafterNumbers], look: Look = style.WIDE) -> Figure:
    """Up to four panels; those of the drafters are left out where there is none."""
    with style.dressed(look):
        figure, axes = panels(look, 4 if drafters else 1, height=4.0, columns=2)
        title, lines = list(costs.verify_lines(profile).items())[-1]
        tints = costs.tints_of({title: lines})
        costs.draw_lines(axes[0], lines, tints, costs.is_staircase(profile))
        scale(axes[:1], costs.is_measured({title: lines}))
        room, names = not look.narrow and look.height is None, list(tints)
        what = title if room or len(names) < 2 else f"{names[0]} to {names[-1]}"
        titled(axes[0], "verify step, ms" + (f", {what}" if what else ""))
        axes[0].set_xlabel("tokens in the step")
        if len(names) > 1 and room:
            axes[0].legend(handles=[style.entry(look, name, tint, linewidth=1.5) for name, tint in tints.items()], fontsize="small", loc="upper left")
        if drafters:
            _of_drafters(axes, profile, drafters, look)
        what = f"{wording.short(profile.target, 60)} on {wording.short(profile.hardware, 80)}"
        handles = acceptance.handles(drafters, look) if drafters else []
        dress(figure, look, wording.short(profile.name, 60), what, handles)
    return figure


def _of_drafters(axes: Sequence[Axes], profile: Profile, drafters: Sequence[DrafterNumbers], look: Look) -> None:
    _, drafting, lengths, positions = axes
    for place, numbers in enumerate(drafters):
        parts = list(costs.draft_parts(profile, numbers.drafter).values())
        requests = list(parts[0]) if parts else []
        total = [sum(part[r] for part in parts) for r in requests]
        tint = acceptance.tint_of(numbers.name, drafters, look)
        drafting.plot(requests, total, color=tint, linewidth=1.6, marker=style.MARKERS[place % len(style.MARKERS)], markersize=4)
    if any(np.size(line.get_xdata()) for line in drafting.lines):
        scale([drafting], cells=True)
    else:
        without_data(drafting, "costs nothing of its own")
    titled(drafting, "drafting a round, ms")
    drafting.set_xlabel("requests")
    acceptance.draw_lengths(lengths, drafters, look)
    titled(lengths, "accepted length" if look.narrow else "accepted length, bonus included (95 %)")
    domain = acceptance.domains_of(drafters)[0]
    acceptance.draw_conditional(positions, drafters, domain, look)
    titled(positions, "conditional acceptance" if look.narrow else f"conditional acceptance, {wording.short(domain, 24)}")
    positions.set_xlabel("position in the block")

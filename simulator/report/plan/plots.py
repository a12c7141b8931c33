"""Still pictures of a plan: the frontier of fleets, GPUs and cost by promise, the tornado of what-ifs, the day, when speculation pays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from simulator.report import style, wording
from simulator.report.layout import canvas, dress, fitted, panels, text_width, titled, without_data
from simulator.report.style import Look
from simulator.study.planning.result import ChoiceResult, PlanResult


def frontier(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """Throughput per GPU against the promised share's speed; one point a fleet size, one line a choice; a ring around the plan."""
    with style.dressed(look):
        figure, (axes,) = canvas(look, 4.6)
        for choice in result.cells:
            fleets = [(p.mean("speed"), p.mean("throughput_tok_s_gpu"), p.verdict == "stable") for p in choice.points if p.verdict != "overloaded"]
            _line(axes, result, choice, look, fleets)
        handles = [*_handles(axes, result, look, "backlogged"), *_ring(axes, result, look)]
        _promise(axes, result)
        promised = " (dotted: SLA)" if result.sla.speed else ""
        axes.set_xlabel(f"tok/s that {wording.share(result.sla.speed_share)} of users reach{promised}")
        if not result.has_speeds:
            without_data(axes, "answers of one token have no speed")
        axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            style.thousands(axis)
        titled(axes, "throughput, tok/s/GPU")
        dress(figure, look, "Throughput against speed", "fleets of every simulated size at the planned load", handles)
    return figure


def _promise(axes: Axes, result: PlanResult) -> None:
    """The promised speed, dotted."""
    if result.sla.speed:
        axes.axvline(result.sla.speed.tps, color=style.FAINT, linestyle=":", linewidth=1.2)


def _ring(axes: Axes, result: PlanResult, look: Look) -> list[Line2D]:
    """Around the fleet that the answer names; its entry in the legend."""
    fleet = result.chosen.at_peak
    if fleet is None or not (x := fleet.mean("speed")) or not (y := fleet.mean("throughput_tok_s_gpu")):
        return []
    shape: dict[str, Any] = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 1.4 * look.scale, "linestyle": "none"}
    axes.plot([x], [y], color=style.INK, zorder=5, **shape)
    return [style.entry(look, "the plan", style.INK, **(shape | {"markersize": 8}))]


def gpus_by_promise(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """GPUs above and cost per million output tokens below that each choice needs, by the promised speed; hollow: fewer may do."""
    with style.dressed(look):
        figure, every = canvas(look, 5.6, rows=2)
        for choice in result.cells:
            needs = [(row.tps, cell) for row in result.by_promise for cell in row.cells if cell.cell == choice.cell]
            _line(every[0], result, choice, look, [(tps, cell.gpus, cell.exact) for tps, cell in needs])
            _line(every[1], result, choice, look, [(tps, cell.cost_per_mtok, cell.exact) for tps, cell in needs])
        handles = _handles(every[0], result, look, "fewer may do")
        for axes in every:
            axes.set_ylim(bottom=0)
            _promise(axes, result)
            style.thousands(axes.yaxis)
        style.thousands(every[1].xaxis)
        every[1].set_xlabel(f"promise: tok/s for {wording.share(result.sla.speed_share)} of users (dotted: SLA)")
        titled(every[0], "GPUs")
        titled(every[1], f"{result.price.currency} per million output tokens")
        dress(figure, look, "GPUs and cost against the promise", "from the simulated fleets, at the planned load", handles)
    return figure


def tornado(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """How the promised speed of the unchanged fleet moves, with 95 % intervals, and the replicas then needed; the largest where room is short."""
    moved = [(change, change.speed_change.scaled(100)) for change in result.what_if if change.speed_change]
    moved.sort(key=lambda pair: abs(pair[1].mean))
    if look.height is not None:
        moved = moved[-max(2, int((look.height - 0.9 * look.scale) / (0.17 * look.scale))) :]
    with style.dressed(look):
        figure, (axes,) = canvas(look, 1.4 + 0.34 * len(moved))
        for row, (_, percent) in enumerate(moved):
            axes.barh(row, percent.mean, color=style.CYCLE[0] if percent.mean >= 0 else style.CYCLE[1], height=0.6)
            if percent.low is not None and percent.high is not None:
                axes.plot([percent.low, percent.high], [row, row], color=style.INK, linewidth=1)
        most = (0.46 if look.narrow else 0.4) * look.width
        ends = [(change.label, f"  [{wording.load(change.replicas)}]") for change, _ in moved]
        style.named(axes.yaxis, [fitted(name, most - text_width(end), "medium") + end for name, end in ends])
        axes.axvline(0, color=style.MUTED, linewidth=0.8)
        axes.set_xlabel("change of SLA speed, %; [replicas]" if look.narrow else "change of the SLA speed, % (in brackets: replicas then needed)")
        axes.grid(visible=False, axis="y")
        dress(figure, look, "What if an assumption is wrong", "the planned fleet unchanged", [])
    return figure


def day(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """Requests per second above, replicas below, over the span."""
    span = result.day
    assert span is not None
    with style.dressed(look):
        figure, (top, below) = canvas(look, 5.2, rows=2)
        unit, name = (3600, "hours") if span.span_s > 7200 else (60, "minutes")
        at = [span.slot_s * i / unit for i in range(len(span.rate_rps))]
        top.plot(at, span.rate_rps, color=style.INK, linewidth=1.2)
        handles = []
        for place, (replicas, label) in enumerate(((span.needed, "needed"), (span.paid, "started by forecast"))):
            below.step(at, replicas, where="post", color=style.CYCLE[place], linewidth=1.6)
            handles.append(style.entry(look, label, style.CYCLE[place], linewidth=1.6))
        below.axhline(span.fixed, color=style.MUTED, linestyle=":")
        handles.append(style.entry(look, "always on", style.MUTED, linestyle=":", linewidth=1.5))
        for axes in (top, below):
            axes.set_ylim(bottom=0)
            style.thousands(axes.yaxis)
        below.set_xlabel(name)
        titled(top, "requests per second")
        titled(below, "replicas")
        dress(figure, look, "Replicas through the day", "always on: the planned fleet", handles)
    return figure


def break_even(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """What the best fixed length gains over no drafting, in percent, by requests in a batch: a panel per drafter, a line per acceptance."""
    with style.dressed(look):
        figure, every = panels(look, len(result.break_even), height=3.6, columns=2, share_y=True)
        acceptances = sorted({curve.acceptance for drafted in result.break_even for curve in drafted.curves}, reverse=True)
        tints = {acceptance: style.CYCLE[place % len(style.CYCLE)] for place, acceptance in enumerate(acceptances)}
        for axes, drafted in zip(every, result.break_even, strict=True):
            for curve in drafted.curves:
                axes.plot(drafted.batch, [100 * gain for gain in curve.gain], color=tints[curve.acceptance], linewidth=1.8)
            axes.set_xscale("log", base=2)
            axes.minorticks_off()
            axes.axhline(0, color=style.MUTED, linewidth=0.8)
            axes.set_xlabel("requests in a batch")
            style.thousands(axes.xaxis)
            drafter = look.label(drafted.drafter)
            several = len({other.profile for other in result.break_even}) > 1
            titled(axes, f"gain, %: {drafter}, {drafted.profile}" if several else f"gain, %: {drafter}")
        handles = [style.entry(look, f"{wording.plain(acceptance)} × acceptance", tint) for acceptance, tint in tints.items()]
        dress(figure, look, "When speculation pays", "best fixed length over no drafting, without queues or prompts", handles)
    return figure


def _line(axes: Axes, result: PlanResult, choice: ChoiceResult, look: Look, points: Iterable[tuple[float | None, float | None, bool]]) -> None:
    """A choice's line through the points that are known; those that are not settled are hollow."""
    known = [(x, y, settled) for x, y, settled in points if x is not None and y is not None]
    tint, mark = _looks(result, choice, look)
    axes.plot([x for x, *_ in known], [y for _, y, _ in known], color=tint, linewidth=1.8, linestyle="--" if choice.bound else "-")
    for settled, face in ((True, tint), (False, style.PAPER)):
        spots = [(x, y) for x, y, sure in known if sure == settled]
        if spots:
            axes.plot(*zip(*spots, strict=True), color=tint, linestyle="none", marker=mark, markersize=5, markerfacecolor=face)


def _handles(axes: Axes, result: PlanResult, look: Look, hollow: str) -> list[Line2D]:
    """A legend's entries: the choices, and what hollow marks are where there are any."""
    entries = []
    for choice in result.cells:
        tint, mark = _looks(result, choice, look)
        label = look.label(choice.label) + (style.BOUND if choice.bound else "")
        entries.append(style.entry(look, label, tint, marker=mark, linestyle="--" if choice.bound else "-"))
    if any(line.get_markerfacecolor() == style.PAPER for line in axes.lines):
        entries.append(style.hollow(look, hollow))
    return entries


def _looks(result: PlanResult, choice: ChoiceResult, look: Look) -> tuple[str, str]:
    """A choice's colour and mark, the same in every picture."""
    place = result.cells.index(choice)
    return look.colour(choice.label, place), style.MARKERS[place % len(style.MARKERS)]

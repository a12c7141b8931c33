"""Still pictures of a plan, for Markdown: the frontier of fleets, the tornado of what-ifs, the day."""

from __future__ import annotations

from matplotlib.figure import Figure

from simulator.report import style, wording
from simulator.report.style import Look
from simulator.study.planning.result import PlanResult


def frontier(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """Throughput per GPU against the promised share's speed; one point a fleet size, one line a cell."""
    with style.dressed():
        figure, (axes,) = style.canvas(look, 4.6)
        for place, cell in enumerate(result.cells):
            fleets = [(x, y) for p in cell.points if p.verdict != "overloaded" and (x := p.mean("speed")) and (y := p.mean("throughput_tok_s_gpu"))]
            tint, mark = style.CYCLE[place % len(style.CYCLE)], style.MARKERS[place % len(style.MARKERS)]
            spots = [x for x, _ in fleets], [y for _, y in fleets]
            axes.plot(*spots, color=tint, marker=mark, markersize=5, linewidth=1.8, label=wording.short(cell.label))
        handles = list(axes.get_lines())
        if result.sla.speed:
            axes.axvline(result.sla.speed.tps, color=style.FAINT, linestyle=":", linewidth=1.2)
        promised = " (dotted: SLA)" if result.sla.speed else ""
        axes.set_xlabel(f"tok/s that {wording.share(result.sla.speed_share)} of users reach{promised}")
        if not result.has_speeds:
            axes.text(0.5, 0.5, "answers of one token have no speed", transform=axes.transAxes, ha="center", color=style.MUTED)
        axes.set_ylim(bottom=0)
        style.dress(figure, look, "Throughput against speed", "fleets of every simulated size at the planned load", handles)
        style.titled(axes, "throughput, tok/s/GPU")
    return figure


def tornado(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """How the promised speed of the unchanged fleet moves, with 95 % intervals, and the replicas then needed."""
    moved = [(change, change.speed_change.scaled(100)) for change in result.what_if if change.speed_change]
    moved.sort(key=lambda pair: abs(pair[1].mean))
    with style.dressed():
        figure, (axes,) = style.canvas(look, 1.4 + 0.34 * len(moved))
        for row, (_, percent) in enumerate(moved):
            axes.barh(row, percent.mean, color=style.CYCLE[0] if percent.mean >= 0 else style.CYCLE[1], height=0.6)
            if percent.low is not None and percent.high is not None:
                axes.plot([percent.low, percent.high], [row, row], color=style.INK, linewidth=1)
        axes.set_yticks(range(len(moved)), [f"{change.label}  [{wording.load(change.replicas)}]" for change, _ in moved])
        axes.axvline(0, color=style.MUTED, linewidth=0.8)
        axes.set_xlabel("change of the SLA speed, % (in brackets: replicas then needed)")
        style.dress(figure, look, "What if an assumption is wrong", "the planned fleet unchanged", [], left=3.3)
    return figure


def day(result: PlanResult, look: Look = style.WIDE) -> Figure:
    """Requests per second above, replicas below, over the span."""
    span = result.day
    assert span is not None
    with style.dressed():
        figure, (top, below) = style.canvas(look, 5.2, rows=2)
        unit, name = (3600, "hours") if span.span_s > 7200 else (60, "minutes")
        at = [span.slot_s * i / unit for i in range(len(span.rate_rps))]
        top.plot(at, span.rate_rps, color=style.INK, linewidth=1.2)
        for place, (replicas, label) in enumerate(((span.needed, "needed"), (span.paid, "started by forecast"))):
            below.step(at, replicas, where="post", color=style.CYCLE[place], linewidth=1.6, label=label)
        handles = list(below.get_lines())
        below.axhline(span.fixed, color=style.FAINT, linestyle=":")
        below.set_ylim(bottom=0)
        below.set_xlabel(name)
        style.dress(figure, look, "Replicas through the day", "dotted: the planned fleet, always on", handles)
        style.titled(top, "requests per second")
        style.titled(below, "replicas")
    return figure

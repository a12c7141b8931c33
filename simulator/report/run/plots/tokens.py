"""Where a user’s time per token goes: stacked bars, one per policy and load."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simulator.report import style, wording
from simulator.report.style import Look
from simulator.study.run.metrics import METRICS
from simulator.study.run.result import PointResult, RunResult

PARTS = tuple(metric for metric in METRICS if metric.place == "parts")
_COLOURS = ("#88ccee", "#44aa99", "#cc6677", "#8a949e", "#ddcc77", "#aa4499")  # Tol, muted: none is a policy's
_TINTS = dict(zip((part.name for part in PARTS), _COLOURS, strict=True))


def time_per_token(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Milliseconds of a user's time per output token, by cause, per policy at a few loads."""
    with style.dressed():
        groups = [(load, _bars(result, load)) for load in _few(result)]
        groups = [(load, bars) for load, bars in groups if bars] or [(0.0, [])]
        counts = [max(1, len(bars)) for _, bars in groups]
        figure, panels = style.canvas(look, 1.5 + 0.29 * sum(counts) + 0.42 * len(groups), rows=len(groups), ratios=counts)
        longest = max((sum(parts.values()) for _, bars in groups for _, parts in bars), default=1.0)
        for axes, (load, bars) in zip(panels, groups, strict=True):
            _panel(axes, bars, longest)
            axes.set_title(f"load {wording.load(load)}" if bars else "not known for any point", loc="left", fontsize=9, color=style.MUTED, pad=3)
        used = [part for part in PARTS if any(parts[part.name] for _, bars in groups for _, parts in bars)]
        handles = [Patch(facecolor=_TINTS[part.name], label=part.title) for part in used]
        names = [wording.short(point.policy, 22) for _, bars in groups for point, _ in bars]
        subtitle = f"ms per output token and user; load: {result.load_unit}"
        style.dress(figure, look, "Where a user’s time per token goes", subtitle, handles, left=0.3 + 0.078 * max(map(len, names), default=4))
        figure.subplots_adjust(hspace=0.42 / (0.29 * sum(counts) / len(counts)))
        panels[-1].set_xlabel("ms per token")
    return figure


def _few(result: RunResult) -> list[float]:
    """A few loads from lightest to heaviest, those that most policies share; fewer the more policies there are."""
    shared = {load: sum(any(point.load == load for point in points) for points in result.points.values()) for load in result.loads()}
    loads = [load for load, count in shared.items() if count == max(shared.values())]
    most = {1: 6, 2: 5, 3: 4, 4: 4}.get(len(result.policies), 3 if len(result.policies) < 6 else 2)
    if len(loads) <= most:
        return loads
    return [loads[round(i * (len(loads) - 1) / (most - 1))] for i in range(most)]


def _bars(result: RunResult, load: float) -> list[tuple[PointResult, dict[str, float]]]:
    """Each policy's point at this load with its parts, ms per token; points of which nothing is known are left out."""
    points = [point for point in result.all_points() if point.load == load]
    split = [(point, {part.name: part.factor * (point.mean(part.name) or 0.0) for part in PARTS}) for point in points]
    return [(point, parts) for point, parts in split if sum(parts.values()) > 0]


def _panel(axes: Axes, bars: list[tuple[PointResult, dict[str, float]]], longest: float) -> None:
    for row, (_, parts) in enumerate(bars):
        left = 0.0
        for part, ms in parts.items():
            axes.barh(row, ms, left=left, height=0.68, color=_TINTS[part], linewidth=0)
            left += ms
        axes.annotate(wording.plain(left), (left, row), (4, 0), textcoords="offset points", va="center", fontsize=8, color=style.INK)
    axes.set_yticks(range(len(bars)), [wording.short(point.policy, 22) for point, _ in bars])
    axes.tick_params(axis="y", labelcolor=style.INK)
    axes.set_ylim(max(len(bars), 1) - 0.45, -0.55)
    axes.set_xlim(0, 1.1 * longest)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    style.thousands(axes.xaxis)

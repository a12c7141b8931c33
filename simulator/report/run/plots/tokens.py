"""Where a user’s time per token goes: stacked bars, one per policy and load."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simulator.report import style, wording
from simulator.report.layout import canvas, dress, shortened, text_width, titled
from simulator.report.style import Look
from simulator.study.run.metrics import METRICS
from simulator.study.run.result import PointResult, RunResult

PARTS = tuple(metric for metric in METRICS if metric.place == "parts")
_COLOURS = ("#88ccee", "#44aa99", "#cc6677", "#8a949e", "#ddcc77", "#aa4499")  # Tol, muted: none is a policy's
_TINTS = dict(zip((part.name for part in PARTS), _COLOURS, strict=True))


def time_per_token(result: RunResult, look: Look = style.WIDE) -> Figure:
    """Milliseconds of a user's time per output token, by cause, per policy at a few loads."""
    with style.dressed(look):
        groups = [(load, _bars(result, load)) for load in _few(result, look)]
        groups = [(load, bars) for load, bars in groups if bars] or [(0.0, [])]
        counts = [max(1, len(bars)) for _, bars in groups]
        figure, panels = canvas(look, 1.5 + 0.29 * sum(counts) + 0.42 * len(groups), rows=len(groups), ratios=counts)
        longest = max((sum(parts.values()) for _, bars in groups for _, parts in bars), default=1.0)
        for axes, (load, bars) in zip(panels, groups, strict=True):
            _panel(axes, bars, longest, look)
            titled(axes, f"load {wording.load(load)}" if bars else "not known for any point", pad=3)
        panels[-1].set_xlabel("ms per output token and user")
        used = [part for part in PARTS if any(parts[part.name] for _, bars in groups for _, parts in bars)]
        handles = [Patch(facecolor=_TINTS[part.name], label=part.title) for part in used]
        dress(figure, look, "Where a user’s time per token goes", f"ms per output token and user; load: {result.load_unit}", handles)
    return figure


def _few(result: RunResult, look: Look) -> list[float]:
    """A few loads from lightest to heaviest, those that most policies share; fewer the more policies there are and the less room."""
    shared = {load: sum(any(point.load == load for point in points) for points in result.points.values()) for load in result.loads()}
    loads = [load for load, count in shared.items() if count == max(shared.values())]
    count = len(result.policies)
    most = {1: 6, 2: 5, 3: 4, 4: 4}.get(count, 3 if count < 6 else 2)
    if look.height is not None:
        most = min(most, int((look.height - 1.2 * look.scale) / ((0.16 * count + 0.42) * look.scale)))
    most = len(look.axes) or most
    if len(loads) <= most:
        return loads
    if most < 2:
        return loads[len(loads) // 2 :][:1]
    return [loads[round(i * (len(loads) - 1) / (most - 1))] for i in range(most)]


def _bars(result: RunResult, load: float) -> list[tuple[PointResult, dict[str, float]]]:
    """Each policy's point at this load with its parts, ms per token; points of which nothing is known are left out."""
    points = [point for point in result.all_points() if point.load == load]
    split = [(point, {part.name: part.factor * (point.mean(part.name) or 0.0) for part in PARTS}) for point in points]
    return [(point, parts) for point, parts in split if sum(parts.values()) > 0]


def _panel(axes: Axes, bars: list[tuple[PointResult, dict[str, float]]], longest: float, look: Look) -> None:
    for row, (_, parts) in enumerate(bars):
        left = 0.0
        for part, ms in parts.items():
            axes.barh(row, ms, left=left, height=0.68, color=_TINTS[part], linewidth=0)
            left += ms
        offset = (4 * look.scale, 0)
        axes.annotate(wording.plain(left), (left, row), offset, textcoords="offset points", va="center", fontsize="small", color=style.INK)
    names = shortened([look.label(point.policy) for point, _ in bars], 22)
    while len(names) and max(map(text_width, names)) > 0.42 * look.width and max(map(len, names)) > 6:
        names = shortened([look.label(point.policy) for point, _ in bars], max(map(len, names)) - 2)
    style.named(axes.yaxis, names)
    axes.tick_params(axis="y", labelcolor=style.INK)
    axes.set_ylim(max(len(bars), 1) - 0.45, -0.55)
    axes.set_xlim(0, 1.15 * longest if longest else 1)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    style.thousands(axes.xaxis)

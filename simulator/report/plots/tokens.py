"""Where a user’s time per token goes: stacked bars, one per policy and load."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from simulator.report import wording
from simulator.report.plots import style
from simulator.report.plots.style import Look
from simulator.report.reading import PARTS, Point, Result, Story, read

METRICS = tuple(f"user_s_per_token_{part}" for part in PARTS)
NAMES = {
    "draft": "draft",
    "verify_accepted": "verify, accepted",
    "verify_rejected": "verify, rejected",
    "overhead": "overhead",
    "prefill": "prefill of others",
    "waiting": "waiting",
}
_TINTS = {
    "draft": "#88ccee",
    "verify_accepted": "#44aa99",
    "verify_rejected": "#cc6677",
    "overhead": "#8a949e",
    "prefill": "#ddcc77",
    "waiting": "#aa4499",
}  # Tol, muted: none is a policy's


def time_per_token(result: Result, look: Look = style.WIDE) -> Figure:
    """Milliseconds of a user's time per output token, by cause, per policy at a few loads."""
    story = read(result)
    with style.dressed():
        groups = [(load, _bars(story, load)) for load in _few(story)]
        groups = [(load, bars) for load, bars in groups if bars] or [(0.0, [])]
        counts = [max(1, len(bars)) for _, bars in groups]
        figure, panels = style.canvas(look, 1.5 + 0.29 * sum(counts) + 0.42 * len(groups), rows=len(groups), ratios=counts)
        longest = max((sum(parts.values()) for _, bars in groups for _, parts in bars), default=1.0)
        for axes, (load, bars) in zip(panels, groups, strict=True):
            _panel(axes, bars, longest)
            axes.set_title(f"load {wording.load(load)}" if bars else "not known for any point", loc="left", fontsize=9, color=style.MUTED, pad=3)
        used = [part for part in PARTS if any(parts.get(part) for _, bars in groups for _, parts in bars)]
        handles = [Patch(facecolor=_TINTS[part], label=NAMES[part]) for part in used]
        names = [wording.short(point.policy, 22) for _, bars in groups for point, _ in bars]
        subtitle = f"ms per output token and user; load: {story.load_unit}"
        style.dress(figure, look, "Where a user’s time per token goes", subtitle, handles, left=0.3 + 0.078 * max(map(len, names), default=4))
        figure.subplots_adjust(hspace=0.42 / (0.29 * sum(counts) / len(counts)))
        panels[-1].set_xlabel("ms per token")
    return figure


def _few(story: Story) -> list[float]:
    """A few loads from lightest to heaviest, those that most policies share; fewer the more policies there are."""
    shared = {load: sum(any(point.load == load for point in points) for points in story.points.values()) for load in story.loads()}
    loads = [load for load, count in shared.items() if count == max(shared.values())]
    most = {1: 6, 2: 5, 3: 4, 4: 4}.get(len(story.policies), 3 if len(story.policies) < 6 else 2)
    if len(loads) <= most:
        return loads
    return [loads[round(i * (len(loads) - 1) / (most - 1))] for i in range(most)]


def _bars(story: Story, load: float) -> list[tuple[Point, dict[str, float]]]:
    """Each policy's point at this load with its parts, ms per token; points of which nothing is known are left out."""
    points = [point for point in story.all_points() if point.load == load]
    split = [(point, {part: 1000 * (point.mean(metric) or 0.0) for part, metric in zip(PARTS, METRICS, strict=True)}) for point in points]
    return [(point, parts) for point, parts in split if sum(parts.values()) > 0]


def _panel(axes: Axes, bars: list[tuple[Point, dict[str, float]]], longest: float) -> None:
    for row, (_, parts) in enumerate(bars):
        left = 0.0
        for part in PARTS:
            axes.barh(row, parts[part], left=left, height=0.68, color=_TINTS[part], linewidth=0)
            left += parts[part]
        axes.annotate(wording.plain(left), (left, row), (4, 0), textcoords="offset points", va="center", fontsize=8, color=style.INK)
    axes.set_yticks(range(len(bars)), [wording.short(point.policy, 22) for point, _ in bars])
    axes.tick_params(axis="y", labelcolor=style.INK)
    axes.set_ylim(max(len(bars), 1) - 0.45, -0.55)
    axes.set_xlim(0, 1.1 * longest)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    style.thousands(axes.xaxis)

"""Small labels beside points, placed where they cover nothing; those that would are left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from simulator.report.style import FAINT, INK, MUTED, PAPER

Path = Sequence[tuple[float, float]]  # a line's points, in data units
Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels
_SIDES = (
    (4, 3, "left", "bottom"),
    (8, 0, "left", "center"),
    (-4, 3, "right", "bottom"),
    (4, -3, "left", "top"),
    (-4, -3, "right", "top"),
    (-8, 0, "right", "center"),
)


class Occupied:
    """What is already drawn on some axes, in pixels."""

    def __init__(self, axes: Axes) -> None:
        self.axes, self.boxes = axes, list[Box]()
        self.dots: NDArray[np.float64] = np.empty((0, 2))
        self.unit = axes.figure.dpi / 72  # pixels in a point

    def add_line(self, points: Path) -> None:
        """A line, as dots close enough together that no label slips between them."""
        if not points:
            return
        corners = np.asarray(self.axes.transData.transform(list(points)))
        pieces = [corners]
        for start, end in pairwise(corners):
            steps = max(2, int(np.hypot(*(end - start)) / (3 * self.unit)))
            pieces.append(start + np.linspace(0, 1, steps)[:, None] * (end - start))
        self.dots = np.vstack([self.dots, *pieces])

    def free(self, box: Box) -> bool:
        """Is this box (left, bottom, right, top) inside the axes and clear of all that is drawn?"""
        left, bottom, right, top = box
        frame = self.axes.get_window_extent()
        if left < frame.x0 or right > frame.x1 or bottom < frame.y0 or top > frame.y1 + 6 * self.unit:
            return False
        if any(left < b[2] and b[0] < right and bottom < b[3] and b[1] < top for b in self.boxes):
            return False
        x, y, air = self.dots[:, 0], self.dots[:, 1], 1.5 * self.unit  # the dots are centres of lines and markers that have a width
        return not bool(np.any((x > left - air) & (x < right + air) & (y > bottom - air) & (y < top + air)))


def label_points(axes: Axes, occupied: Occupied, points: Sequence[tuple[float, float, str, str]], size: float = 7.5) -> None:
    """Label (x, y, text, colour) in the order given, each on the first side that is free; a label with no free side is left out."""
    for x, y, text, tint in points:
        for dx, dy, ha, va in _SIDES:
            if _try(axes, occupied, (x, y), (dx, dy), text, ha, va, size):
                axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=size, color=tint, zorder=5)
                break


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str, occupied: Occupied) -> None:
    """An upright or level arrow with its label beside it, where it covers nothing if there is such a place."""
    head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 3, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops=head, zorder=5)
    occupied.add_line([start, end])
    sides = ((5, 0, "left", "center"), (-5, 0, "right", "center")) if start[0] == end[0] else ((0, 4, "center", "bottom"), (0, -4, "center", "top"))
    places = [(f, side) for side in sides for f in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.12, 0.88)]
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    for along, (dx, dy, ha, va) in [*places, places[0]]:
        at = (start[0] + along * (end[0] - start[0]), start[1] + along * (end[1] - start[1]))
        if _try(axes, occupied, at, (dx, dy), text, ha, va, 9.5):
            axes.annotate(text, at, (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8.5, fontweight="bold", zorder=6)
            return
    axes.annotate(text, at, (dx, dy), textcoords="offset points", ha=ha, va=va, fontsize=8.5, fontweight="bold", bbox=paper, zorder=6)


def _try(axes: Axes, occupied: Occupied, at: tuple[float, float], offset: tuple[float, float], text: str, ha: str, va: str, size: float) -> bool:
    """Is there room for this text? If so it is taken."""
    x, y = axes.transData.transform(at)
    wide, high = 0.64 * size * len(text) * occupied.unit, size * occupied.unit
    left = x + offset[0] * occupied.unit - {"left": 0, "center": wide / 2, "right": wide}[ha]
    bottom = y + offset[1] * occupied.unit - {"bottom": 0, "center": high / 2, "top": high}[va]
    box = (left, bottom, left + wide, bottom + high)
    if not occupied.free(box):
        return False
    occupied.boxes.append(box)
    return True


def vertical(axes: Axes, x: float, text: str, occupied: Occupied) -> None:
    """A dotted vertical line, its name above where there is room."""
    axes.axvline(x, color=FAINT, linewidth=1, linestyle=(0, (1, 2.5)), zorder=1)
    low, high = axes.get_ylim()
    px, py = axes.transData.transform((x, high))
    half = 0.32 * 7.5 * len(text) * occupied.unit
    box = (px - half, py + 1, px + half, py + 12)
    if not any(box[0] < b[2] and b[0] < box[2] and b[3] > py for b in occupied.boxes):
        axes.annotate(
            text, (x, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", va="bottom", fontsize=7.5, color=MUTED
        )
        occupied.boxes.append(box)
    occupied.add_line([(x, low), (x, high)])

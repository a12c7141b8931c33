"""Small labels beside points, placed where they cover nothing; those that would are left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from simulator.report.layout import text_width
from simulator.report.style import FAINT, INK, MUTED, PAPER

Path = Sequence[tuple[float, float]]  # a line's points, in data units
Box = tuple[float, float, float, float]  # left, bottom, right, top; pixels
Side = tuple[float, float, str, str]  # of a point: offset in points, alignments
_MOST_DOTS = 10_000  # of a line that may lead far out of the picture
_SIDES: tuple[Side, ...] = (
    (4, 3, "left", "bottom"),
    (8, 0, "left", "center"),
    (-4, 3, "right", "bottom"),
    (4, -3, "left", "top"),
    (-4, -3, "right", "top"),
    (-8, 0, "right", "center"),
)


class Occupied:
    """What is already drawn on some axes, in pixels; `scale` of the type to that of a page."""

    def __init__(self, axes: Axes, scale: float) -> None:
        self.axes, self.boxes, self.scale = axes, list[Box](), scale
        self.dots: NDArray[np.float64] = np.empty((0, 2))
        self.unit = axes.figure.dpi / 72  # pixels in a point

    def add_line(self, points: Path) -> None:
        """A line, as dots close enough together that no label slips between them."""
        if not points:
            return
        corners = np.asarray(self.axes.transData.transform(list(points)))
        pieces = [corners]
        for start, end in pairwise(corners):
            steps = max(2, int(min(np.hypot(*(end - start)) / (3 * self.unit), _MOST_DOTS)))
            pieces.append(start + np.linspace(0, 1, steps)[:, None] * (end - start))
        self.dots = np.vstack([self.dots, *pieces])

    def free(self, box: Box) -> bool:
        """Is this box (left, bottom, right, top) inside the axes and clear of all that is drawn?"""
        if not self.apart(box):
            return False
        left, bottom, right, top = box
        x, y, air = self.dots[:, 0], self.dots[:, 1], 1.5 * self.unit  # the dots are centres of lines and markers that have a width
        return not bool(np.any((x > left - air) & (x < right + air) & (y > bottom - air) & (y < top + air)))

    def apart(self, box: Box) -> bool:
        """Is it inside the axes and clear of all texts?"""
        left, bottom, right, top = box
        frame = self.axes.get_window_extent()
        if left < frame.x0 or right > frame.x1 or bottom < frame.y0 or top > frame.y1 + 6 * self.unit:
            return False
        return not any(left < b[2] and b[0] < right and bottom < b[3] and b[1] < top for b in self.boxes)

    def box(self, at: tuple[float, float], side: Side, text: str, size: str, weight: str = "normal") -> Box:
        """Where a text stands that is written at a side of a point."""
        (x, y), (dx, dy, ha, va) = self.axes.transData.transform(at), side
        wide, high = 72 * text_width(text, size, weight) * self.unit, 9 * self.scale * self.unit
        left = x + dx * self.scale * self.unit - {"left": 0, "center": wide / 2, "right": wide}[ha]
        bottom = y + dy * self.scale * self.unit - {"bottom": 0, "center": high / 2, "top": high}[va]
        return left, bottom, left + wide, bottom + high

    def write(self, at: tuple[float, float], side: Side, text: str, **more: Any) -> None:
        """The text there."""
        dx, dy, ha, va = side
        offset = (dx * self.scale, dy * self.scale)
        self.axes.annotate(text, at, offset, textcoords="offset points", ha=ha, va=va, **more)


def label_points(axes: Axes, occupied: Occupied, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Label (x, y, text, colour) in the order given, each on the first side that is free; a label with no free side is left out."""
    for x, y, text, tint in points:
        for side in _SIDES:
            if occupied.free(box := occupied.box((x, y), side, text, "small")):
                occupied.boxes.append(box)
                occupied.write((x, y), side, text, fontsize="small", color=tint, zorder=5)
                break


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str, occupied: Occupied) -> None:
    """An upright or level arrow with its label beside it, where it covers nothing if there is such a place, else on paper over lines."""
    head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.1 * occupied.scale, "shrinkA": 0, "shrinkB": 3, "mutation_scale": 9 * occupied.scale}
    axes.annotate("", end, start, arrowprops=head, zorder=5)
    occupied.add_line([start, end])
    sides: tuple[Side, ...] = ((5, 0, "left", "center"), (-5, 0, "right", "center"))
    if start[0] != end[0]:
        sides = ((0, 4, "center", "bottom"), (0, -4, "center", "top"))
    places = [
        ((start[0] + along * (end[0] - start[0]), start[1] + along * (end[1] - start[1])), side)
        for side in sides
        for along in (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.12, 0.88)
    ]
    paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    for clear, backed in ((occupied.free, None), (occupied.apart, paper)):
        for at, side in places:
            if clear(box := occupied.box(at, side, text, "medium", "bold")):
                occupied.boxes.append(box)
                occupied.write(at, side, text, fontsize="medium", fontweight="bold", bbox=backed, zorder=6)
                return


def vertical(axes: Axes, x: float, text: str, occupied: Occupied) -> None:
    """A dotted vertical line, its name above where there is room."""
    axes.axvline(x, color=FAINT, linewidth=occupied.scale, linestyle=(0, (1, 2.5)), zorder=1)
    low, high = axes.get_ylim()
    left, bottom, right, top = occupied.box((x, high), (0, 2, "center", "bottom"), text, "small")
    canvas = axes.figure.bbox
    if canvas.x0 <= left and right <= canvas.x1 and not any(left - 3 < b[2] and b[0] < right + 3 and b[3] > bottom for b in occupied.boxes):
        axes.annotate(
            text, (x, 1), (0, 2 * occupied.scale), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", va="bottom",
            fontsize="small", color=MUTED,
        )  # fmt: skip
        occupied.boxes.append((left, bottom, right, top))
    occupied.add_line([(x, low), (x, high)])

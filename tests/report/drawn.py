"""What is wrong with a drawn picture: texts that overlap or leave it, and warnings of matplotlib."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import Any
from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from simulator.report import style


def faults(figure: Figure, dpi: int = 150) -> list[str]:
    """One line each. Texts are those that the renderer is asked to draw."""
    drawn: list[tuple[str, Any]] = []
    draw: Any = Text.draw

    def record(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), Text.get_window_extent(text, renderer)))
        draw(text, renderer)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style.dressed(), mock.patch.object(Text, "draw", record):
            figure.set_dpi(dpi)
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()  # all is laid out, which finds faults; filling pixels would take as long again
    width, height = figure.get_size_inches() * dpi
    outside = [f"outside: {text!r}" for text, box in drawn if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    least = 0.02 * dpi  # boxes hold the room of letters that are higher and lower than those that are there
    overlaps = [
        f"overlap: {one!r}, {other!r}"
        for (one, a), (other, b) in combinations(drawn, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > least and min(a.y1, b.y1) - max(a.y0, b.y0) > least
    ]
    return outside + overlaps

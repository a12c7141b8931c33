"""Where things stand in a picture: title and legend above, axes in what room is left. All lengths are inches, and texts are measured before
they are drawn, so that nothing overlaps or leaves the picture and nothing is laid out twice. One file: the parts share every margin."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, font_scalings
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from simulator.errors import DsimError
from simulator.report.style import BOUND, FAINT, GRID, MUTED, Drawing, Look

_DPI = 100
_TICK_PT, _PAD_PT = 3.0, 3.5
_EDGE, _RIGHT, _BOTTOM, _TOP = 0.08, 0.2, 0.5, 0.42  # at a type of 9 points, as all other lengths; _TOP is for the titles of axes
_ROW_GAP, _PANEL_GAP = 0.42, 0.95  # between rows that share x, and between those with axes of their own
_LEAST_AXES = 0.4  # of height for all axes together, where a picture grows
_NAMES = (36, 32, 28, 25, 22, 20, 18, 16, 14, 12)  # characters of a name in a legend, until the legend leaves enough room
_HANDLE, _HANDLE_PAD, _COLUMN_GAP, _LABEL_GAP, _PAD = 2.2, 0.8, 1.6, 0.35, 0.2  # of a legend, in its type's size


def canvas(look: Look, height: float, rows: int = 1, ratios: Sequence[float] | None = None) -> tuple[Figure, list[Axes]]:
    """An empty figure with `rows` axes over one another that share x."""
    return _grid(look, height * look.stretch, rows, rows, 1, sharex=True, gridspec_kw={"height_ratios": list(ratios or [1] * rows)})


def panels(look: Look, count: int, height: float, columns: int = 1, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes beside one another; `height` per row of panels, title and legend in the first row's."""
    across = min(count, columns)
    if look.narrow and look.height is None:  # below one another on a phone
        across = min(count, 1 if columns < 4 else columns // 2)
    down = math.ceil(count / across)
    return _grid(look, (height + (down - 1) * (height - 1.0)) * look.stretch, count, down, across, sharey=share_y)


def _grid(look: Look, height: float, count: int, down: int, across: int, **more: Any) -> tuple[Figure, list[Axes]]:
    if look.axes:
        if len(look.axes) != count:
            wants = f"{count} panel{'s' if count > 1 else ''}"
            raise DsimError(f"this figure has {wants}, got {len(look.axes)} axes", key="ax", remedy="pass one matplotlib Axes per panel")
        return cast(Figure, look.axes[0].figure), list(look.axes)
    figure = Drawing(figsize=(look.width, look.height or height))
    FigureCanvasAgg(figure)
    every = [axes for row in figure.subplots(down, across, squeeze=False, **more) for axes in row]
    for unused in every[count:]:
        unused.remove()
    for each in every[:count]:  # ticks are made when they are drawn, where others' settings may hold
        each.tick_params(labelsize=look.type_pt, color=FAINT, labelcolor=MUTED, grid_color=GRID, pad=_PAD_PT * look.scale)
        each.tick_params(axis="x", length=_TICK_PT * look.scale)
    return figure, every[:count]


def titled(axes: Axes, text: str, pad: float = 6) -> None:
    """The y axis's title, above it and level, where it can be read without turning one's head."""
    axes.set_title(text, loc="left", fontsize="medium", color=MUTED, y=1.0, pad=pad * _scale())


def without_data(axes: Axes, why: str) -> None:
    """Says in the middle of empty axes why they are."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color=MUTED)


def _scale() -> float:
    """Of the type in use to that for which lengths are written."""
    return float(mpl.rcParams["font.size"]) / 9


def dress(figure: Figure, look: Look, title: str, subtitle: str, handles: Sequence[Artist], above: float = 0.0) -> None:
    """Title, subtitle and legend above, axes in what room is left. A figure of no fixed height grows until there is some; one of a fixed
    height shortens names. `above`: more room over the first axes, for what stands there. Raises DsimError where a fixed size is too small."""
    axes = list(look.axes) or figure.get_axes()
    for each in axes:
        _drawn_to_scale(each, look.scale)
    if look.axes:
        _within(axes, look, title, handles)
        return
    scale, (width, height) = look.scale, figure.get_size_inches()
    head = list(_head(title, subtitle, look, width - 2 * _EDGE * scale)) if look.title else []
    rows, columns, gap = _shape(axes, look)
    bottom = (_BOTTOM - (0 if any(each.get_xlabel() for each in axes) else 0.12)) * scale
    top = (_TOP - (0 if look.title else 0.08) + above) * scale
    taken = 0.1 * scale + sum(advance for *_, advance in head) + top + bottom + (rows - 1) * gap
    placed = _fitting(look, handles, width - 2 * _EDGE * scale, 0.55 * height - taken)
    room = height - taken - placed.height
    if look.height is None and (lacking := max(_LEAST_AXES, 0.25 * rows) - room) > 0:
        height += lacking
        figure.set_size_inches(width, height)
    elif room < 0.16 * rows:
        least = height + 0.16 * rows - room + 0.05
        raise DsimError(f"{width:g} × {height:g} inches are too small for this figure", key="size", remedy=f"give it a height of {least:.1f}")
    at = height - 0.1 * scale
    for text, size, weight, tint, advance in head:
        figure.text(_EDGE * scale / width, at / height, text, fontsize=size, fontweight=weight, color=tint, va="top")
        at -= advance
    if handles:
        _place(figure, handles, placed, (_EDGE * scale / width, at / height))
    _set_out(figure, axes, (rows, columns), (bottom, at - placed.height - top, gap), scale)


def _head(title: str, subtitle: str, look: Look, width: float) -> Iterator[tuple[str, str, str, str, float]]:
    """Lines above a picture: text, size, weight, colour and the height they take."""
    size = "medium" if look.narrow else "large"
    for line in wrapped(title, width, size, "bold"):
        yield line, size, "bold", mpl.rcParams["text.color"], 0.23 * look.scale
    lines = wrapped(subtitle, width, "small")
    for place, line in enumerate(lines, 1):
        yield line, "small", "normal", MUTED, (0.17 + (0.02 if place == len(lines) else 0)) * look.scale


def _shape(axes: Sequence[Axes], look: Look) -> tuple[int, int, float]:
    """Rows and columns of the axes, and the gap between rows. Where room is short, labels that say the same stand under the last row only."""
    spec = axes[0].get_subplotspec()
    assert spec is not None
    rows, columns, *_ = spec.get_geometry()
    above = axes[: (rows - 1) * columns]
    own = any(each.get_xlabel() for each in above)
    if own and look.height is not None and len({each.get_xlabel() for each in axes}) == 1:
        for each in above:
            each.set_xlabel("")
        return rows, columns, (_PANEL_GAP - 0.3) * look.scale
    return rows, columns, (_PANEL_GAP if own else _ROW_GAP) * look.scale


class _Placed:
    """A legend's labels, their size, in how many columns, and its height."""

    def __init__(self, labels: list[str], columns: int, size: str) -> None:
        self.labels, self.columns, self.size = labels, columns, size
        em = _em(size)
        _, high = _extent("lp", size, "normal", mpl.rcParams["font.size"])
        rows = math.ceil(len(labels) / columns) if labels else 0
        self.height = rows * (high + _LABEL_GAP * em) - _LABEL_GAP * em + 2 * _PAD * em if rows else 0.0


def _fitting(look: Look, handles: Sequence[Artist], width: float, height: float) -> _Placed:
    """The legend with the longest names with which it is not too high, or with which it is least high; a picture that can grow cuts few."""
    if look.height is None or not handles:
        return _columns(handles, _NAMES[0], width, "medium")
    size = "small" if len(handles) > 6 else "medium"
    tried = [_columns(handles, characters, width, size) for characters in _NAMES]
    low = min(placed.height for placed in tried)
    return next(placed for placed in tried if placed.height <= max(height, low))


def _columns(handles: Sequence[Artist], characters: int, width: float, size: str) -> _Placed:
    """As many columns as fit, of names of so many characters or, in one column, as many as fit."""
    em, full = _em(size), [str(handle.get_label()) for handle in handles]
    while True:
        labels = shortened(full, characters)
        wide = [_HANDLE * em + _HANDLE_PAD * em + text_width(label, size) for label in labels]
        for columns in range(len(labels), 0, -1):
            parts = np.array_split(wide, columns)
            if sum(float(max(part)) for part in parts) + (columns - 1) * _COLUMN_GAP * em + 2 * _PAD * em <= width:
                return _Placed(labels, columns, size)
        if not labels or characters <= 8:
            return _Placed(labels, 1, size)
        characters -= 4


def _place(figure: Figure, handles: Sequence[Artist], placed: _Placed, at: tuple[float, float]) -> None:
    _relabel(handles, placed.labels)
    figure.legend(
        handles=list(handles), loc="upper left", bbox_to_anchor=at, ncols=placed.columns, fontsize=placed.size, borderaxespad=0, borderpad=_PAD,
        handlelength=_HANDLE, handletextpad=_HANDLE_PAD, columnspacing=_COLUMN_GAP, labelspacing=_LABEL_GAP,
    )  # fmt: skip


def _within(axes: Sequence[Axes], look: Look, title: str, handles: Sequence[Artist]) -> None:
    """Somebody's own axes: the legend inside the first, where there is most room."""
    if look.title:
        axes[0].figure.suptitle(title)
    if handles:
        _relabel(handles, shortened([str(handle.get_label()) for handle in handles], _NAMES[1]))
        axes[0].legend(handles=list(handles), loc="best", fontsize="small", frameon=False)


def _relabel(handles: Sequence[Artist], labels: Sequence[str]) -> None:
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(f" {label}" if label.startswith("_") else label)  # matplotlib leaves out labels that begin with an underscore


def _set_out(figure: Figure, axes: Sequence[Axes], shape: tuple[int, int], heights: tuple[float, float, float], scale: float) -> None:
    """Places the axes between `bottom` and `top`, rows a gap apart, with room for their labels; then fits titles and ticks into them."""
    (bottom, top, gap), (rows, columns), (width, height) = heights, shape, figure.get_size_inches()
    lefts = [_labels_width(each) for each in axes]
    firsts = [left for each, left in zip(axes, lefts, strict=True) if _is_first(each)]
    left = max(firsts) + (_EDGE + 0.1) * scale
    between = max([others for each, others in zip(axes, lefts, strict=True) if not _is_first(each)], default=0.0) + 0.24 * scale
    right = width - max(_RIGHT * scale, 0.03 + max((text_width(text) for each in axes for text in _tick_texts(each.xaxis)[-1:]), default=0.0) / 2)
    across, down = (right - left - (columns - 1) * between) / columns, (top - bottom - (rows - 1) * gap) / rows
    figure.subplots_adjust(
        left=left / width, right=right / width, bottom=bottom / height, top=top / height, wspace=between / across, hspace=gap / down
    )
    _join_labels(figure, axes, across, left, right, scale)
    for each in axes:
        here = each.get_position()
        _thin(each, here.width * width, here.height * height)
        each.title.set_text("")
        heading = each._left_title if hasattr(each, "_left_title") else each.title  # matplotlib has no public name for a title at the left
        heading.set_text(fitted(heading.get_text(), here.width * width + (_RIGHT * scale if columns == 1 else between / 2), heading.get_fontsize()))
        beneath = each.transAxes + ScaledTranslation(0, -(_TICK_PT + _PAD_PT + 14.5) * scale / 72, figure.dpi_scale_trans)
        half = text_width(each.get_xlabel()) / 2 + 0.04
        middle = min(max((here.x0 + here.width / 2) * width, half), width - half)  # under the axes, as far as the picture reaches
        each.xaxis.set_label_coords((middle / width - here.x0) / here.width, 0, transform=beneath)


def _join_labels(figure: Figure, axes: Sequence[Axes], across: float, left: float, right: float, scale: float) -> None:
    """One label under all panels where those of each would run into one another."""
    width, height = figure.get_size_inches()
    named = [each for each in axes if each.get_xlabel()]
    texts = {each.get_xlabel() for each in named}
    room = right - left if len(named) == 1 or across >= right - left - 0.01 else across
    if not texts or max(map(text_width, texts)) <= room:
        return
    if len(texts) == 1 and len(named) > 1:
        for each in named:
            each.set_xlabel("")
        text = fitted(texts.pop(), right - left, "medium")
        figure.text((left + right) / 2 / width, 0.06 * scale / height, text, ha="center", va="bottom", color=MUTED)
        return
    for each in named:
        each.set_xlabel(fitted(each.get_xlabel(), width - 2 * _EDGE * scale if len(named) == 1 else room, "medium"))


def _is_first(axes: Axes) -> bool:
    spec = axes.get_subplotspec()
    return spec is None or spec.is_first_col()


def _labels_width(axes: Axes) -> float:
    """Of the ticks' labels left of the axes."""
    if not _is_first(axes) and axes.get_shared_y_axes().get_siblings(axes) != [axes]:
        return 0.0
    return max((text_width(text) for text in _tick_texts(axes.yaxis)), default=0.0)


def _tick_texts(axis: Any) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    at = [tick for tick in axis.get_majorticklocs() if low - 1e-9 <= tick <= high + 1e-9]
    return [text for text in axis.get_major_formatter().format_ticks(at) if text]


def _thin(axes: Axes, wide: float, high: float) -> None:
    """Fewer ticks where their labels would meet."""
    em = _em()
    for axis, room, need in (
        (axes.xaxis, wide, max((text_width(text) for text in _tick_texts(axes.xaxis)), default=0.0) + 0.9 * em),
        (axes.yaxis, high, 1.5 * em),
    ):
        most, count = max(2, int(room / need)), len(_tick_texts(axis))
        locator = axis.get_major_locator()
        if count <= most:
            continue
        if isinstance(locator, FixedLocator):
            if axis is axes.yaxis:  # names of rows
                continue
            ticks = axis.get_majorticklocs().tolist()
            texts, step = axis.get_major_formatter().format_ticks(ticks), math.ceil(count / most)
            axis.set_ticks(ticks[::step], texts[::step])
        elif isinstance(locator, LogLocator):
            axis.set_major_locator(LogLocator(base=2 if axis is axes.xaxis else 10, numticks=most))
        else:
            axis.set_major_locator(MaxNLocator(nbins=min(9, max(1, most - 1)), steps=[1, 2, 2.5, 5, 10]))


def _drawn_to_scale(axes: Axes, scale: float) -> None:
    """Lines and marks go with the type."""
    if scale != 1:
        for line in axes.lines:
            line.set_linewidth(line.get_linewidth() * scale)
            line.set_markersize(line.get_markersize() * scale)


def _em(size: str = "medium") -> float:
    return font_scalings[size] * float(mpl.rcParams["font.size"]) / 72


def text_width(text: str, size: str | float = "medium", weight: str = "normal") -> float:
    """Inches that a line of text takes."""
    return 1.06 * _extent(text, size, weight, mpl.rcParams["font.size"])[0]  # a little more at other resolutions


@lru_cache(4096)
def _extent(text: str, size: str | float, weight: str, _type: float) -> tuple[float, float]:
    """Width and height, as drawn at a screen's resolution, where letters are widest."""
    screen: Any = _screen()
    wide, high, _ = screen.get_text_width_height_descent(text, FontProperties(size=size, weight=weight), False)
    return wide / _DPI, high / _DPI


@cache
def _screen() -> RendererAgg:
    return RendererAgg(1, 1, _DPI)  # type: ignore[no-untyped-call]


def wrapped(text: str, width: float, size: str | float, weight: str = "normal") -> list[str]:
    """Lines no wider than that; a word that is wider is cut."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(fitted(word, width, size, weight))
    return lines


def fitted(text: str, width: float, size: str | float, weight: str = "normal") -> str:
    """As much of the text as fits."""
    if text_width(text, size, weight) <= width:
        return text
    least, most = 0, len(text)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if text_width(text[:middle].rstrip() + "…", size, weight) <= width else (least, middle - 1)
    return text[:least].rstrip() + "…"


def shortened(names: Sequence[str], characters: int) -> list[str]:
    """Names of at most so many characters: cut at the end, or in the middle where two would then be the same; `(bound)` stays."""
    cut = [_cut(name, characters, 0) for name in names]
    return cut if len(set(cut)) == len(set(names)) else [_cut(name, characters, characters // 2) for name in names]


def _cut(name: str, characters: int, tail: int) -> str:
    if len(name) <= characters:
        return name
    if name.endswith(BOUND):
        return _cut(name.removesuffix(BOUND), max(characters - len(BOUND), 6), min(tail, 3)) + BOUND
    return f"{name[: characters - tail - 1]}…{name[len(name) - tail :]}"

"""Every picture of a page by its name, at any size: for papers, slides and somebody's own axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from simulator.errors import DsimError
from simulator.report.blocks import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from simulator.report.page import Page
    from simulator.report.style import Look

Style: TypeAlias = Literal["page", "paper", "slide"]
Colours: TypeAlias = Mapping[str, str] | Sequence[str]
_TYPE_PT: dict[Style, float] = {"page": 9.0, "paper": 7.2, "slide": 15.0}
_SIZES: dict[Style, tuple[float, float | None]] = {"page": (9.0, None), "paper": (3.3, 2.4), "slide": (10.0, 5.6)}
_LEAST_IN, _MOST_IN = 1.5, 60.0
FORMATS = ("pdf", "svg", "png")


class Shown:
    """A result from Python: its figures by name, and how a notebook shows it."""

    @cached_property
    def page(self) -> Page:
        """What is shown of it."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """Of the policies, choices or drafters in its figures."""
        raise NotImplementedError

    @property
    def pictures(self) -> list[Picture]:
        """Its figures: `stem` is the name, `alt` what is seen."""
        return self.page.pictures()

    def figure(
        self,
        name: str | None = None,
        *,
        size: tuple[float, float] | None = None,
        style: Style | None = None,
        colours: Colours = (),
        title: bool = False,
        labels: Mapping[str, str] | None = None,
        ax: Axes | Sequence[Axes] | None = None,
    ) -> Figure:
        """The figure of that name, else the first.

        `size` is (width, height) in inches. `style` sets the type for a page, a paper or a slide; without it the size decides. `labels` rename
        policies, choices or drafters; `colours` are theirs, by name or in order. `ax` are axes to draw into, one per panel. Raises DsimError
        where a value does not fit."""
        import numpy as np

        picture, labels = named(self.pictures, name), labels or {}
        for key, known in (("labels", labels), ("colours", colours if isinstance(colours, Mapping) else {})):
            if unknown := [each for each in known if each not in self.names]:
                raise DsimError(f"nothing is called {unknown[0]!r}", key=key, remedy=f"the names are {', '.join(self.names)}")
        axes = () if ax is None else tuple(np.ravel(np.asarray(ax, dtype=object)))
        return picture.draw(_look(size, style, colours, title, labels, axes))

    def _repr_html_(self) -> str:
        from simulator.report.render.notebook import notebook

        return notebook(self.page)


def named(pictures: Sequence[Picture], name: str | None) -> Picture:
    """The picture of that name, else the first. Raises DsimError with the names that there are."""
    names = [picture.stem for picture in pictures]
    if not names:
        raise DsimError("this result has no figures", key="name", remedy="simulate it again")
    if name is not None and name not in names:
        raise DsimError(f"expected {', '.join(names)}; got {name!r}", key="name", remedy="choose one of these figures")
    return pictures[names.index(name) if name else 0]


def _look(
    size: tuple[float, float] | None, style: Style | None, colours: Colours, title: bool, labels: Mapping[str, str], axes: tuple[Any, ...]
) -> Look:
    from simulator.report.style import Look

    if style is not None and style not in get_args(Style):
        raise DsimError(f"expected {', '.join(get_args(Style))}; got {style!r}", key="style", remedy="choose one of these styles")
    if axes and size is not None:
        raise DsimError("expected either a size or axes, got both", key="size", remedy="set the size of the figure that the axes are in")
    _check_colours(colours)
    if axes:
        width, height = (float(side) for side in axes[0].get_window_extent().size / axes[0].figure.dpi)
        kind: Style = style or ("paper" if width < 4 else "page")
        return Look(width, height, narrow=width < 5, type_pt=_TYPE_PT[kind], title=title, labels=labels, colours=colours, axes=axes)
    if size is not None:
        _check_size(size)
    kind = style or ("paper" if size is not None and size[0] < 5 else "page")
    wide, high = _SIZES[kind] if size is None else size
    return Look(wide, high, narrow=wide / _TYPE_PT[kind] < 0.55, type_pt=_TYPE_PT[kind], title=title, labels=labels, colours=colours)


def _check_size(size: tuple[float, float]) -> None:
    try:
        width, height = (float(side) for side in size)
    except (TypeError, ValueError):
        raise DsimError(f"expected (width, height) in inches, got {size!r}", key="size", remedy="for example (3.3, 2.4)") from None
    if not (_LEAST_IN <= width <= _MOST_IN and _LEAST_IN / 2 <= height <= _MOST_IN):
        raise DsimError(f"expected {_LEAST_IN:g} to {_MOST_IN:g} inches, got {width:g} × {height:g}", key="size", remedy="for example (3.3, 2.4)")


def _check_colours(colours: Colours) -> None:
    from matplotlib.colors import is_color_like

    for colour in colours.values() if isinstance(colours, Mapping) else colours:
        if not is_color_like(colour):
            raise DsimError(f"not a colour: {colour!r}", key="colours", remedy="write names or #rrggbb")


def check_path(path: Path) -> str:
    """The format that its ending names. Raises DsimError for others."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DsimError(f"expected a name ending in .{', .'.join(FORMATS)}; got {path.name!r}", key="out", remedy="for example figure.pdf")
    return kind


def save(figure: Figure, path: Path) -> None:
    """Write PDF, SVG or PNG by the ending of the path, whole or not at all, with fonts inside. Raises DsimError for other endings."""
    from simulator.files import write_whole
    from simulator.report.style import encoded

    kind = check_path(path)
    settings = {"svg.fonttype": "path", "svg.hashsalt": "dsim"} if kind == "svg" else {}
    write_whole(path, encoded(figure, kind, settings, dpi=300))

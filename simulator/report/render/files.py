"""A page as files: the HTML, its Markdown, and every picture as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.files import write_whole
from simulator.study.run.place import PICTURES

if TYPE_CHECKING:
    from simulator.report.page import Page


def write(page: Page, folder: Path) -> Path:
    """Write report.html, report.md and the pictures; the path of report.html. Pictures of an earlier page that this one does not have are
    removed."""
    from simulator.report import style
    from simulator.report.render.html import html
    from simulator.report.render.markdown import markdown

    pictures = page.pictures()
    for picture in pictures:
        write_whole(folder / f"{picture.stem}.png", style.png(picture.wide))
        write_whole(folder / f"{picture.stem}.svg", picture.svg)
    for name, draw in (("report.md", markdown), ("report.html", html)):
        write_whole(folder / name, draw(page))
    _remove(folder, {*PICTURES} - {picture.stem for picture in pictures})
    return folder / "report.html"


def remove(folder: Path) -> None:
    """Remove the page and pictures of an earlier result, which would not be those of the result beside them."""
    for name in ("report.md", "report.html"):
        (folder / name).unlink(missing_ok=True)
    _remove(folder, PICTURES)


def _remove(folder: Path, stems: Iterable[str]) -> None:
    for stem in stems:
        for ending in ("png", "svg"):
            (folder / f"{stem}.{ending}").unlink(missing_ok=True)

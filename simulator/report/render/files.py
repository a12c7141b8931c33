"""A page as files: the HTML, its Markdown, and every picture as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from simulator.files import write_whole
from simulator.report.page import Page
from simulator.report.render.html import html
from simulator.report.render.markdown import markdown


def write(page: Page, folder: Path, stems: Iterable[str]) -> Path:
    """Write report.html, report.md and the pictures; the path of report.html. `stems`: every picture that such a page may have; those of
    an earlier page that this one does not have are removed."""
    from simulator.report import style

    pictures = page.pictures()
    for picture in pictures:
        style.save(picture.wide, folder, picture.stem)
    for name, draw in (("report.md", markdown), ("report.html", html)):
        write_whole(folder / name, draw(page).encode())
    for stem in {*stems} - {picture.stem for picture in pictures}:
        for ending in ("png", "svg"):
            (folder / f"{stem}.{ending}").unlink(missing_ok=True)
    return folder / "report.html"

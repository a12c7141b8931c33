"""A page on a terminal: the sections that ask for it, then warnings and the answer, where the eye is when a command ends."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text as Line

from simulator.report.blocks import Block, Code, Folded, Lines, Sketch, Slider, Table, Terms, Text
from simulator.report.page import Notice, Page, written_out
from simulator.report.render.columns import Columns, fitted
from simulator.report.wording import UNIT_SPACE

PIPED = 120  # characters a table has where no terminal says how many; one that needs more has more, and sentences are left whole
_JOINED = "\ue000"  # a space at which no line ends


def terminal(page: Page, width: int | None = None, colour: bool | None = None) -> str:
    """All of it, with an empty line between blocks. Colour only where a person sees it and has not asked for none."""
    page, pen = written_out(page), _Pen(width, colour)
    notices = [pen.drawn(Group(*map(_notice, page.notices)))] if page.notices else []
    sections = [
        "\n".join((pen.drawn(Line(section.title, style="bold")), "\n\n".join(pen.blocks(section.shown("terminal")))))
        for section in page.shown("terminal")
    ]
    answer = pen.drawn(Group(*(_line(line, "" if i else "bold") for i, line in enumerate(page.answer))))
    body = [*sections, *notices, answer] if page.answer else [pen.drawn(_pairs(page.facts)), *notices, *sections]
    return "\n\n".join(part for part in (pen.drawn(Line(page.title, style="bold")), *body) if part)


class _Pen:
    """Draws what rich can draw into text of a terminal's width."""

    def __init__(self, width: int | None, colour: bool | None) -> None:
        here = sys.stdout.isatty()
        self.colour = colour if colour is not None else here and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.width = max(40, width or shutil.get_terminal_size((PIPED, 24)).columns)
        self.seen = width is not None or here
        self.whole = not self.seen and not os.environ.get("COLUMNS")

    def drawn(self, what: RenderableType, width: int | None = None) -> str:
        out = io.StringIO()
        console = Console(
            file=out,
            width=width or (100_000 if self.whole else self.width),
            force_terminal=self.colour,
            no_color=not self.colour,
            color_system="standard" if self.colour else None,
            highlight=False,
        )
        console.print(what)
        return "\n".join(line.rstrip() for line in out.getvalue().replace(_JOINED, " ").splitlines())

    def blocks(self, shown: Iterable[Block]) -> Iterator[str]:
        """Each block's text."""
        for block in shown:
            match block:
                case Table():
                    caption = [self.drawn(_line(block.caption, "dim"))] if block.caption else []
                    yield "\n".join((*caption, self.table(block)))
                case Sketch():
                    yield block.draw(self.width, self.colour)
                case Lines() | Terms():
                    grid = _pairs((("-", line) for line in block.lines), gap=1) if isinstance(block, Lines) else _pairs(block.entries)
                    yield self.drawn(Group(Line(f"{block.title}:"), grid) if block.title else grid)
                case Text():
                    yield self.drawn(_line(block.text))
                case Code():
                    yield self.drawn(Line(block.text))
                case Folded():
                    yield from self.blocks(block.blocks)
                case Slider():
                    yield from self.blocks((Text(block.stops[block.at].says), *block.stops[block.at].blocks))

    def table(self, table: Table) -> str:
        """In a layout that fits. In a file nothing is left out, and without a width for it no line is broken."""
        shown = Columns(table) if self.whole else fitted(table, self.width, self.seen)
        width = max(shown.least, self.width)
        return self.drawn(shown.drawn(width), width)


def _line(text: str, style: str = "") -> Line:
    """Text whose numbers keep their units."""
    return Line(UNIT_SPACE.sub(_JOINED, text), style)


def _pairs(entries: Iterable[tuple[str, str]], gap: int = 2) -> Grid:
    grid = Grid.grid(padding=(0, gap, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in entries:
        grid.add_row(Line(name), _line(value))
    return grid


def _notice(notice: Notice) -> RenderableType:
    line = Line.assemble((notice.word.lower(), "bold yellow" if notice.serious else "bold"), _line(f": {notice.text}"))
    return Group(line, _line(f"  → {notice.remedy}")) if notice.remedy else line

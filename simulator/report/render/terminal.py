"""A page on a terminal: the sections that ask for it, then warnings and the answer, where the eye is when a command ends."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text as Line

from simulator.report.blocks import Block, Cell, Code, Folded, Lines, Sketch, Slider, Table, Terms, Text
from simulator.report.page import Notice, Page

PIPED = 120  # characters a table takes where no terminal says how many it has; sentences are left whole there
_WORDS, _WORD = 12, 24  # characters that a column of words keeps, and a word in it, where they are that long
_STYLES = {"backlogged": "yellow", "overloaded": "red", "outside": "red", "within": "green"}


def terminal(page: Page, width: int | None = None, colour: bool | None = None) -> str:
    """All of it, with an empty line between blocks. Colour only where a person sees it and has not asked for none."""
    pen = _Pen(width, colour)
    notices = [pen.drawn(Group(*map(_notice, page.notices)))] if page.notices else []
    sections = [
        "\n".join((pen.drawn(Line(section.title, style="bold")), "\n\n".join(pen.blocks(section.shown("terminal")))))
        for section in page.shown("terminal")
    ]
    answer = pen.drawn(Group(*(Line(line, style="" if i else "bold") for i, line in enumerate(page.answer))))
    body = [*sections, *notices, answer] if page.answer else [pen.drawn(_pairs(page.facts)), *notices, *sections]
    return "\n\n".join(part for part in (pen.drawn(Line(page.title, style="bold")), *body) if part)


class _Pen:
    """Draws what rich can draw into text of a terminal's width."""

    def __init__(self, width: int | None, colour: bool | None) -> None:
        here = sys.stdout.isatty()
        self.colour = colour if colour is not None else here and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.width = max(40, width or shutil.get_terminal_size((PIPED, 24)).columns)
        self.whole = width is None and not here

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
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def blocks(self, shown: Iterable[Block]) -> Iterator[str]:
        """Each block's text."""
        for block in shown:
            match block:
                case Table():
                    caption = [self.drawn(Line(block.caption, style="dim"))] if block.caption else []
                    yield "\n".join((*caption, self.table(block)))
                case Sketch():
                    yield block.draw(self.width, self.colour)
                case Lines() | Terms():
                    grid = _pairs((("-", line) for line in block.lines), gap=1) if isinstance(block, Lines) else _pairs(block.entries)
                    yield self.drawn(Group(Line(f"{block.title}:"), grid) if block.title else grid)
                case Text() | Code():
                    yield self.drawn(Line(block.text))
                case Folded():
                    yield from self.blocks(block.blocks)
                case Slider():
                    yield from self.blocks((Text(block.stops[block.at].says), *block.stops[block.at].blocks))

    def table(self, table: Table) -> str:
        """Intervals beside their numbers where there is room, else below them, else without spare columns; wider than the terminal before a
        number is cut."""
        while True:
            for beside, gap in ((True, 2), (True, 1), (False, 2)):
                grid = _Grid(table, beside, gap)
                if grid.least <= self.width:
                    return self.drawn(grid.drawn(self.width), self.width)
            spare = [i for i, column in enumerate(table.columns) if column.spare]
            if not spare:
                return self.drawn(grid.drawn(grid.least), grid.least)
            table = table.cut([i for i in range(len(table.columns)) if i != spare[-1]])


class _Grid:
    """A table's texts, and the least and most characters of each column; `gap` of them between columns."""

    def __init__(self, table: Table, beside: bool, gap: int) -> None:
        self.gap = gap
        self.groups = [[[_text(cell, beside) for cell in row] for row in group.rows] for group in table.groups]
        self.columns = [(f"{c.title}\n{c.unit}" if c.unit else c.title, c.words) for c in table.columns]
        if table.grouped:
            self.columns.insert(0, ("", True))
            for group, rows in zip(table.groups, self.groups, strict=True):
                for i, row in enumerate(rows):
                    row.insert(0, Line("" if i else f"{group.name} ({group.tag})" if group.tag else group.name))
        longest = [_longest(line for rows in self.groups for row in rows for line in row[i].plain.splitlines()) for i in range(len(self.columns))]
        self.most = [max(cells, _longest(title.splitlines())) for cells, (title, _) in zip(longest, self.columns, strict=True)]
        self.leasts = [self._least(i, words, title, longest[i]) for i, (title, words) in enumerate(self.columns)]

    def _least(self, place: int, words: bool, title: str, longest: int) -> int:
        """Characters that a column keeps: no number is broken, nor a word that is not very long."""
        if words:
            word = _longest(word for rows in self.groups for row in rows for word in row[place].plain.split())
            longest = max(min(longest, _WORDS), min(word, _WORD))
        return max(longest, _longest(title.split()))

    @property
    def least(self) -> int:
        """Characters of the whole."""
        return sum(self.leasts) + self.gap * (len(self.leasts) - 1)

    def drawn(self, width: int) -> Grid:
        """As wide as it needs to be or as there is room; the narrowest columns that want more have it first."""
        widths = [*self.leasts]
        for _ in range(min(width - self.least, sum(self.most) - sum(self.leasts))):
            widths[min((i for i, most in enumerate(self.most) if widths[i] < most), key=lambda i: widths[i])] += 1
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, self.gap - 1, 0, 0), show_edge=False)
        for (title, words), wide in zip(self.columns, widths, strict=True):
            grid.add_column(Line(title), justify="left" if words else "right", overflow="fold", vertical="top", width=wide)
        for rows in self.groups:
            for row in rows:
                grid.add_row(*row, end_section=len(self.groups) > 1 and row is rows[-1])
        return grid


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _text(cell: Cell, beside: bool) -> Line:
    style = _STYLES.get(cell.kind, "")
    if not cell.detail:
        return Line(cell.text, style=style)
    return Line.assemble(cell.text, (f" ({cell.detail})" if beside else f"\n{cell.detail}", style))


def _pairs(entries: Iterable[tuple[str, str]], gap: int = 2) -> Grid:
    grid = Grid.grid(padding=(0, gap, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in entries:
        grid.add_row(Line(name), Line(value))
    return grid


def _notice(notice: Notice) -> RenderableType:
    if notice.more:
        return Line(notice.text)
    line = Line.assemble((notice.word.lower(), "bold yellow" if notice.serious else "bold"), f": {notice.text}")
    return Group(line, Line(f"  → {notice.remedy}")) if notice.remedy else line

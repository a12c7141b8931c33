"""A table on a terminal: the first of its layouts that fits, and its lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text as Line

from simulator.report.blocks import Cell, Table

_WORDS, _WORD = 12, 24  # characters that a column of words keeps, and a word in it, where they are that long
_INDENT = 2  # of rows below their name
_STYLES = {"backlogged": "yellow", "overloaded": "red", "outside": "red", "within": "green"}


@dataclass(frozen=True)
class Layout:
    """`beside`: intervals are beside their numbers, else below them. `headed`: a name has a line of its own above its rows, else a column.
    `gap`: characters between columns."""

    beside: bool
    headed: bool
    gap: int


LAYOUTS = tuple(Layout(*each) for each in ((True, False, 2), (True, False, 1), (True, True, 2), (True, True, 1), (False, False, 2), (False, True, 2)))


def fitted(table: Table, width: int, sparing: bool = True) -> Columns:
    """In the first layout that fits into `width`; if none does, without spare columns where `sparing`; wider than that before a number is cut."""
    while True:
        for layout in LAYOUTS:
            shown = Columns(table, layout)
            if shown.least <= width:
                return shown
        spare = [i for i, column in enumerate(table.columns) if column.spare]
        if not spare or not sparing:
            return shown
        table = table.cut([i for i in range(len(table.columns)) if i != spare[-1]])


class Columns:
    """A table's texts in a layout, and the least and most characters of each column. `parts` are rows by name: that of their group or, where
    names are above rows, each row that begins with words by these."""

    def __init__(self, table: Table, layout: Layout = LAYOUTS[0]) -> None:
        self.gap, self.apart = layout.gap, len(table.groups) > 1
        self.headed = layout.headed and (table.grouped or (len(table.columns) > 1 and table.columns[0].words))
        heads = [(f"{c.title}\n{c.unit}" if c.unit else c.title, c.words) for c in table.columns]
        parts = [
            (Line(f"{group.name} ({group.tag})" if group.tag else group.name), [[_text(cell, layout.beside) for cell in row] for row in group.rows])
            for group in table.groups
        ]
        if table.grouped and not self.headed:
            heads.insert(0, ("", True))
            parts = [(name, [[Line() if i else name, *row] for i, row in enumerate(rows)]) for name, rows in parts]
        elif self.headed and not table.grouped:
            heads = heads[1:]
            parts = [(_text(row[0], beside=True), [[_text(cell, layout.beside) for cell in row[1:]]]) for group in table.groups for row in group.rows]
        self.heads, self.parts = heads, parts
        whole = 1 + table.grouped - self.headed  # columns whose texts are names
        self.leasts, self.most = [], list[int]()
        for place, (title, words) in enumerate(heads):
            texts = [row[place].plain for _, rows in parts for row in rows]
            longest = _longest(line for text in texts for line in text.splitlines())
            self.leasts.append(max(_least(texts) if words and place >= whole else longest, _longest(title.split())))
            self.most.append(max(longest, _longest(title.splitlines())))

    @property
    def least(self) -> int:
        """Characters of the whole."""
        return _INDENT * self.headed + sum(self.leasts) + self.gap * (len(self.leasts) - 1)

    def drawn(self, width: int) -> RenderableType:
        """As wide as it needs to be or as there is room; the narrowest columns that want more have it first."""
        widths = [*self.leasts]
        for _ in range(min(width - self.least, sum(self.most) - sum(self.leasts))):
            widths[min((i for i, most in enumerate(self.most) if widths[i] < most), key=lambda i: widths[i])] += 1
        if not self.headed:
            return self._grid(widths, [rows for _, rows in self.parts])
        lines = [self._grid(widths, [])]
        for name, rows in self.parts:
            if self.apart and len(lines) > 1:
                lines.append(Line())
            lines += [_foldable(name, width), self._grid(widths, [rows], header=False)]
        return Group(*lines)

    def _grid(self, widths: Sequence[int], groups: Iterable[Sequence[Sequence[Line]]], header: bool = True) -> RenderableType:
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, self.gap - 1, 0, 0), show_edge=False, show_header=header)
        for (title, words), wide in zip(self.heads, widths, strict=True):
            grid.add_column(Line(title), justify="left" if words else "right", overflow="fold", vertical="top", width=wide)
        for rows in groups:
            for row in rows:
                grid.add_row(*map(_foldable, row, widths), end_section=self.apart and row is rows[-1])
        return Padding(grid, (0, 0, 0, _INDENT * self.headed))


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _least(texts: Sequence[str]) -> int:
    """Characters that a column of words keeps: no word is broken that is not very long."""
    return max(min(_longest(texts), _WORDS), min(_longest(word for text in texts for word in text.split()), _WORD))


def _text(cell: Cell, beside: bool) -> Line:
    style = _STYLES.get(cell.kind, "")
    if not cell.detail and not cell.more:
        return Line(cell.text, style=style)
    parts = ((f"({cell.detail})" if beside else cell.detail) if cell.detail else "", cell.more)
    return Line.assemble(cell.text, ("".join((" " if beside else "\n") + part for part in parts if part), style))


def _foldable(text: Line, width: int) -> Line:
    """A word longer than the column is broken behind a hyphen, point, underline or slash where it has one."""
    long = (word for word in re.finditer(r"\S+", text.plain) if cell_len(word[0]) > width)
    breaks = [place for word in long for place in _breaks(word[0], word.start(), width)]
    return Line("\n").join(text.divide(breaks)) if breaks else text


def _breaks(word: str, start: int, width: int) -> Iterator[int]:
    """Where a long word is broken, so that its pieces fill their lines."""
    used, place = 0, start
    for piece in re.findall(r"[^-_./]*[-_./]|[^-_./]+", word):
        if used and used + cell_len(piece) > width:
            yield place
            used = 0
        used, place = used + cell_len(piece), place + len(piece)

"""The kinds of block that a page is made of, and in which forms each is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.report.style import Look

Form = Literal["html", "markdown", "terminal", "notebook"]
PAGES: frozenset[Form] = frozenset(("html", "markdown"))
HTML: frozenset[Form] = frozenset(("html",))
MARKDOWN: frozenset[Form] = frozenset(("markdown",))
TERMINAL: frozenset[Form] = frozenset(("terminal",))
NOTEBOOK: frozenset[Form] = frozenset(("notebook",))
USUAL = PAGES | TERMINAL  # a notebook shows the few blocks that ask for it

LONG = 24  # rows; a longer table is folded where a reader can unfold it


@dataclass(frozen=True)
class Block:
    """A part of a section. `on`: the forms that show it."""

    on: frozenset[Form] = field(default=USUAL, kw_only=True)


@dataclass(frozen=True)
class Cell:
    """What stands in a cell; `detail` (an interval) stands smaller below it, and `more` (a prediction interval, in its brackets) below that. `kind`
    is a verdict or provenance, shown as a tag."""

    text: str
    detail: str = ""
    kind: str = ""
    link: str = ""
    more: str = ""


@dataclass(frozen=True)
class Column:
    title: str
    unit: str = ""
    words: bool = False  # aligned left; numbers are aligned right
    spare: bool = False  # left out where a terminal has no room


@dataclass(frozen=True)
class Group:
    """Rows under a common heading; an empty name has none."""

    name: str
    rows: tuple[tuple[Cell, ...], ...]
    tag: str = ""


@dataclass(frozen=True)
class Table(Block):
    name: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]

    @property
    def length(self) -> int:
        return sum(len(group.rows) for group in self.groups)

    @property
    def grouped(self) -> bool:
        return any(group.name for group in self.groups)

    def cut(self, kept: Sequence[int]) -> Table:
        """With these of its columns alone."""
        groups = tuple(replace(group, rows=tuple(tuple(row[i] for i in kept) for row in group.rows)) for group in self.groups)
        return replace(self, columns=tuple(self.columns[i] for i in kept), groups=groups)


Row: TypeAlias = Sequence[Cell | str]
Draw: TypeAlias = "Callable[[Look], Figure]"


@dataclass(frozen=True)
class Picture(Block):
    """A still picture: the stem of its files, what it shows in words for those who cannot see it, how it is drawn."""

    stem: str
    alt: str
    draw: Draw
    caption: str = ""

    @cached_property
    def wide(self) -> Figure:
        """The drawing for a wide page, which also goes into files."""
        from simulator.report.style import WIDE

        return self.draw(WIDE)

    @cached_property
    def svg(self) -> str:
        """The wide drawing as SVG, drawn once for its file and the page."""
        from simulator.report.style import svg

        return svg(self.wide, self.stem)


@dataclass(frozen=True)
class Chart(Block):
    """A chart that the page's own script draws into the element `id`; elsewhere the still picture, where there is one."""

    on: frozenset[Form] = field(default=PAGES, kw_only=True)
    id: str
    alt: str
    caption: str
    still: Picture | None = None


@dataclass(frozen=True)
class Stop:
    """One value of a slider: what follows from it in a sentence, and in blocks."""

    value: str
    says: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Slider(Block):
    """A choice that the page's script acts on; elsewhere what stands at `at`."""

    id: str
    label: str
    stops: tuple[Stop, ...]
    at: int


@dataclass(frozen=True)
class Toggles(Block):
    """What the page's script shows or hides; (value, label) each, in the order of the colours."""

    on: frozenset[Form] = field(default=HTML, kw_only=True)
    legend: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sketch(Block):
    """A picture as text, for a terminal: from its width in characters and whether it takes colour."""

    on: frozenset[Form] = field(default=TERMINAL, kw_only=True)
    draw: Callable[[int, bool], str]


@dataclass(frozen=True)
class Text(Block):
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Prose(Block):
    """Markdown that somebody wrote, as it is."""

    on: frozenset[Form] = field(default=MARKDOWN, kw_only=True)
    markdown: str


@dataclass(frozen=True)
class Lines(Block):
    """A list, with a small heading where it needs one."""

    lines: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Terms(Block):
    """Words and what they mean, or keys and values."""

    entries: tuple[tuple[str, str], ...]
    title: str = ""


@dataclass(frozen=True)
class Code(Block):
    """What is typed, or a file as it is."""

    text: str
    label: str


@dataclass(frozen=True)
class Folded(Block):
    """Blocks that a reader unfolds; where nothing unfolds they stand there."""

    summary: str
    blocks: tuple[Block, ...]


AnyBlock = TypeVar("AnyBlock", bound=Block)


def only(on: frozenset[Form], block: AnyBlock | None) -> AnyBlock | None:
    """The block, shown in these forms alone."""
    return None if block is None else replace(block, on=on)


def table(name: str, caption: str, columns: Iterable[Column | str], rows: Iterable[Row], words: int = 1) -> Table:
    """A table without groups. Text stands for its cell or its column; the first `words` columns of text are aligned left."""
    return grouped(name, caption, columns, [("", rows)], words)


def grouped(
    name: str,
    caption: str,
    columns: Iterable[Column | str],
    groups: Iterable[tuple[str, Iterable[Row]]],
    words: int = 1,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """As `table`, of groups by name; `tags` are of groups."""
    heads = tuple(head if isinstance(head, Column) else Column(head, words=place < words) for place, head in enumerate(columns))
    filled = ((group, tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)) for group, rows in groups)
    return Table(name, caption, heads, tuple(Group(group, rows, tags.get(group, "")) for group, rows in filled))


def folded(table: Table | None) -> Table | Folded | None:
    """A long table folded, a short one as it is."""
    return table if table is None or table.length <= LONG else Folded(f"Table: {table.length} rows", (table,), on=table.on)


def is_empty(block: Block) -> bool:
    """Has it nothing to show?"""
    match block:
        case Table():
            return not block.length
        case Lines(lines=items) | Terms(entries=items):
            return not items
    return False

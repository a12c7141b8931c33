"""A page as Markdown. Tables are the same as on the HTML page; pictures are the files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from simulator.report.blocks import Block, Cell, Chart, Code, Folded, Lines, Picture, Prose, Slider, Table, Terms, Text
from simulator.report.page import NOTICES, Notice, Page, written_out


def markdown(page: Page) -> str:
    """The whole file."""
    page = written_out(page)
    parts = [f"# {escaped(page.title)}"]
    parts += [f"**{escaped(line)}**" if not i else escaped(line) for i, line in enumerate(page.answer)]
    for section in page.shown("markdown", lead=True):
        parts += [f"## {escaped(section.title)}", *_blocks(section.shown("markdown"))]
    if page.facts:
        parts.append(_list(f"{escaped(name)}: {escaped(value)}" for name, value in page.facts))
    if page.notices:
        parts += [f"## {NOTICES}", _list(map(_notice, page.notices))]
    for section in page.shown("markdown", lead=False):
        parts += [f"## {escaped(section.title)}", *_blocks(section.shown("markdown"))]
    return "\n\n".join(parts) + "\n"


def escaped(raw: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(raw.split()))
    for mark in "\\`*[]|<>#~$":
        text = text.replace(mark, {"<": "&lt;", ">": "&gt;"}.get(mark, f"\\{mark}"))
    text = re.sub(r"^(\d*)([-+=]+|(?<=\d)[.)])(?=\s|$)", r"\1\\\2", text)  # a list, a rule, the line under a title
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word it is no mark


def table(shown: Table) -> str:
    """The rows alone; the heading of a group is its rows' first column."""
    heads = [escaped(f"{column.title}, {column.unit}" if column.unit else column.title) for column in shown.columns]
    sides = [":---" if column.words else "---:" for column in shown.columns]
    rows = [heads, sides]
    if shown.grouped:
        rows = [["", *heads], [":---", *sides]]
    for group in shown.groups:
        name = [escaped(f"{group.name} ({group.tag})" if group.tag else group.name)] if shown.grouped else []
        rows += [name + [_cell(cell) for cell in row] for row in group.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _blocks(shown: Iterable[Block]) -> Iterator[str]:
    for block in shown:
        match block:
            case Table():
                yield from filter(None, (escaped(block.caption), table(block)))
            case Picture():
                yield f"![{escaped(block.alt)}]({block.stem}.png)"
                yield from filter(None, (escaped(block.caption),))
            case Chart(still=Picture() as still):
                yield from _blocks((still,))
            case Text():
                yield escaped(block.text)
            case Prose():
                yield block.markdown
            case Lines():
                yield from filter(None, (_heading(block.title), _list(map(escaped, block.lines))))
            case Terms():
                yield from filter(None, (_heading(block.title), _list(f"**{escaped(word)}**: {escaped(meaning)}" for word, meaning in block.entries)))
            case Code():
                yield "\n".join(f"    {line}".rstrip() for line in block.text.splitlines())
            case Slider():
                yield from _blocks((Text(block.stops[block.at].says), *block.stops[block.at].blocks))
            case Folded():
                yield from _blocks(block.blocks)


def _heading(title: str) -> str:
    return f"{escaped(title)}:" if title else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _notice(notice: Notice) -> str:
    text = f"**{escaped(notice.word)}.** {escaped(notice.text)}" + (f" → {escaped(notice.remedy)}" if notice.remedy else "")
    return "".join((text, *(f"\n  - {escaped(line)}" for line in notice.more)))


def _cell(cell: Cell) -> str:
    text = f"[{escaped(cell.text)}]({cell.link})" if cell.link else escaped(cell.text)
    return " ".join(filter(None, (text, f"({escaped(cell.detail)})" if cell.detail else "", escaped(cell.more))))

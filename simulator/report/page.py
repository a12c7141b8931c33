"""A page: sections of blocks. render/ draws the same page as HTML, as Markdown, on a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from simulator.errors import visible
from simulator.report.blocks import NOTEBOOK, USUAL, Block, Chart, Form, Picture, is_empty
from simulator.study.run.result import Remark

NOTICES = "Before you rely on it"  # heading of the notices


@dataclass(frozen=True)
class Notice:
    """What to know before relying on the page, and what to do about it. `serious` ones are warnings and come first. `more`: the details of a
    verdict, folded."""

    text: str
    remedy: str = ""
    serious: bool = False
    label: str = ""
    more: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return self.label or ("Warning" if self.serious else "Note")


@dataclass(frozen=True)
class Section:
    """`lead`: it stands right below the answer, before facts and notices, and its title goes without saying."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    short: str = ""  # its title in the page's list of sections
    on: frozenset[Form] = USUAL | NOTEBOOK
    lead: bool = False

    def shown(self, form: Form) -> tuple[Block, ...]:
        return tuple(block for block in self.blocks if form in block.on & self.on)


@dataclass(frozen=True)
class Page:
    """`kind` and `name` stand above the title. `script` names the .js and .css in templates/ that draw its charts from `data`."""

    title: str
    kind: str
    name: str
    version: str
    sections: tuple[Section, ...]
    answer: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    notices: tuple[Notice, ...] = ()
    script: str = ""
    data: Any = None

    def shown(self, form: Form, lead: bool | None = None) -> tuple[Section, ...]:
        """The sections that have anything to show in this form; those that lead, the others or, without `lead`, all."""
        return tuple(section for section in self.sections if section.shown(form) and lead in (None, section.lead))

    def pictures(self) -> list[Picture]:
        """The still pictures of all sections."""
        stills = [block.still if isinstance(block, Chart) else block for section in self.sections for block in section.blocks]
        return [block for block in stills if isinstance(block, Picture)]


Subject = TypeVar("Subject")
Content = TypeVar("Content", bound=Any)


def written_out(content: Content) -> Content:
    """The same page, block or data, with characters that nobody sees or that a terminal acts on written out in all its texts; the very same where
    there are none."""
    changed: Any = content
    if isinstance(content, str):
        changed = visible(content)
    elif isinstance(content, dict):
        changed = {written_out(key): written_out(value) for key, value in content.items()}
    elif isinstance(content, list | tuple):
        parts = [written_out(part) for part in content]
        if any(new is not old for new, old in zip(parts, content, strict=True)):
            changed = type(content)(parts)
    elif is_dataclass(content) and not isinstance(content, type):
        texts = ((each.name, getattr(content, each.name)) for each in fields(content))
        changes = {name: new for name, old in texts if (new := written_out(old)) is not old}
        changed = replace(content, **changes) if changes else content
    return changed  # type: ignore[no-any-return]


def section(
    id: str, title: str, *blocks: Block | None, short: str = "", on: frozenset[Form] = USUAL | NOTEBOOK, lead: bool = False
) -> Section | None:
    """A section of those blocks that there are and that hold anything; None without any."""
    present = tuple(block for block in blocks if block is not None and not is_empty(block))
    return Section(id, title, present, short, on, lead) if present else None


def sections(makers: Iterable[Callable[[Subject], Section | None]], subject: Subject) -> tuple[Section, ...]:
    """The sections of a page, in the order of the functions that make them."""
    return tuple(made for make in makers if (made := make(subject)) is not None)


def notices(remarks: Iterable[Remark]) -> tuple[Notice, ...]:
    """Warnings first, then notes."""
    every = (Notice(remark.text, remark.remedy, remark.severity == "warning") for remark in remarks)
    return tuple(sorted(every, key=lambda notice: not notice.serious))

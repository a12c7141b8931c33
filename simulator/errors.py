"""Errors that a user can fix, in one line: file, key, problem, remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

_KEPT = frozenset("\n\t\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000")  # spaces and line ends
_MOST = {"where": 300, "key": 120, "problem": 400, "remedy": 300}  # characters of the parts of an error's line


def visible(text: str, escaped: Callable[[str], str] = lambda letter: letter.encode("unicode_escape").decode()) -> str:
    """A text for a terminal or a page: control characters, escape sequences, marks that change the direction of writing and characters that nobody
    sees are written out (\\x1b), so that they do nothing."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in _KEPT else escaped(letter) for letter in text)


def _part(part: str | Path | None, name: str) -> str:
    """A part of an error on one line, its middle left out where it is long."""
    most = _MOST[name]
    for _ in range(2):  # written out it is longer
        text = "" if part is None else str(part)
        part = visible(" ".join((text if len(text) <= most else f"{text[: most * 3 // 4]}…{text[-most // 4 :]}").split()))
    return str(part)


class DsimError(Exception):
    """A mistake in the user's input. The command line prints it as one line and exits with code 2.

    `where` is the file (with its line if known), `key` the field, `problem` what was expected and what was there, `remedy` what to do.
    """

    def __init__(self, problem: str, *, where: str | Path | None = None, key: str | None = None, remedy: str | None = None) -> None:
        self.problem, self.where, self.key, self.remedy = problem, where, key, remedy
        super().__init__(self.line())

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), where=self.where, key=self.key, remedy=self.remedy), (self.problem,)

    def line(self) -> str:
        """The whole error on one line of some hundred characters, with nothing in it that a terminal acts on."""
        text = ": ".join(filter(None, (_part(self.where, "where"), _part(self.key, "key"), _part(self.problem, "problem"))))
        return f"{text}; {_part(self.remedy, 'remedy')}" if self.remedy else text


@contextmanager
def renamed(where: Path, keys: Mapping[str, str]) -> Iterator[None]:
    """Errors about the file `where` name their key as `keys` has it: for content that was put together from another document."""
    try:
        yield
    except DsimError as error:
        near = next((old for old in keys if error.where == where and f"{error.key}.".startswith(f"{old}.")), None)
        if error.key is None or near is None:
            raise
        key = keys[near] + error.key.removeprefix(near)
        raise type(error)(error.problem, where=error.where, key=key, remedy=error.remedy) from None


class ScenarioError(DsimError):
    """The scenario is not valid."""


class ProfileError(DsimError):
    """The profile is incomplete or inconsistent."""


class CheckpointError(DsimError):
    """A target or drafter that cannot be used as it is."""


class TraceError(DsimError):
    """A traffic file cannot be read."""

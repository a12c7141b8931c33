"""Errors that a user can fix, in one line: file, key, problem, remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path


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
        """The whole error on one line."""
        place = ": ".join(str(part) for part in (self.where, self.key) if part)
        text = f"{place}: {self.problem}" if place else self.problem
        if self.remedy:
            text += f"; {self.remedy}"
        return " ".join(text.split())


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


class TraceError(DsimError):
    """A traffic file cannot be read."""

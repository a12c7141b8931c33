"""What long work tells the one who waits: a bar with an estimate on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 30.0


class Progress:
    """Stages one after the other, each of so much work in units of its own; the estimate is of the stage at hand."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._name, self._all, self._done, self._before, self._began, self._told = "", 0.0, 0.0, 0.0, 0.0, 0.0

    @contextmanager
    def stage(self, name: str, work: float, done: float = 0.0) -> Iterator[Progress]:
        """`done` of `work` is there already, from a run before; it does not count for the speed."""
        self._name, self._all, self._done, self._before = name, work, done, done
        self._began = self._told = time.monotonic()
        if not self.quiet and sys.stderr.isatty():
            self._open()
        try:
            yield self
        finally:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def advance(self, work: float = 1.0, what: str = "") -> None:
        """So much more is done; `what` says what is going on."""
        self._done += work
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=f"{self._name} {what}".strip())
        elif not self.quiet and time.monotonic() - self._told > LINE_EVERY_S:
            self._told = time.monotonic()
            left = self.left_s()
            more = "" if left is None else f", about {left / 60:.0f} min left"
            self._line(f"{self._name}: {self._done:.0f} of {self._all:.0f}{more} {what}".rstrip())

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self._line(line)

    @staticmethod
    def _line(text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def left_s(self) -> float | None:
        """Seconds left in this stage at the speed so far; None before there is one."""
        made = self._done - self._before
        return None if made <= 0 else (time.monotonic() - self._began) / made * max(self._all - self._done, 0.0)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._name, total=self._all, completed=self._done)

"""What long work shows on standard error: a bar on a terminal, a line now and then elsewhere; and how an interruption ends."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from simulator.echo import echo
from simulator.errors import visible

LINE_EVERY_S = 60.0  # the first comes after a sixth of it
SPEED_OVER_S = 3600.0  # a step may take minutes, and two of them are needed to know the speed


class Progress:
    """Stages one after the other, each with a total in units of its own. `quiet`: no lines; a terminal has its bar all the same."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.done = self.total = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str, total: float | None = None, done: float = 0.0) -> Iterator[Progress]:
        """A stage of which `done` was done by an earlier run; that does not count for the speed."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        drawn = sys.stderr.isatty()
        self._bar = Bar(
            *columns, console=Console(stderr=True), transient=True, disable=not drawn, speed_estimate_period=SPEED_OVER_S, get_time=time.monotonic
        )
        self._grows = False  # does the total, as the work finds out what it takes?
        self._id, self._name = self._bar.add_task(visible(name), total=total), name
        self._bar.tasks[0].completed = done
        self._next_line_s = time.monotonic() + LINE_EVERY_S / 6
        ended = threading.Event()
        if not drawn and not self.quiet:
            threading.Thread(target=self._beat, args=(ended,), daemon=True).start()
        try:
            with self._bar:
                yield self
        finally:
            ended.set()

    def _beat(self, ended: threading.Event) -> None:
        """A line is due although nothing ends for minutes."""
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        while not ended.wait(min(LINE_EVERY_S / 6, 1.0)):
            self._line()

    def advance(self, work: float = 1.0, what: str = "") -> None:
        """`work` more is done; `what` is being done now."""
        task = self._bar.tasks[0]
        self.at(task.completed + work, task.total, what)

    def doing(self, what: str) -> None:
        """`what` begins, within the stage."""
        self._name = what
        self.advance(0.0)

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        if not self.quiet:
            echo(line, err=True)

    def at(self, done: float, total: float | None, what: str = "") -> None:
        """`done` of `total` is done; `what` is being done now."""
        self._grows = self._grows or self._bar.tasks[0].total not in (None, total)
        self.done, self.total = done, total or 0.0
        name = f"{self._name} {what}".rstrip()
        self._bar.update(self._id, completed=done, total=total, description=visible(name))
        if self._bar.disable:
            self._line(name)

    def _line(self, name: str = "") -> None:
        """What was done last, if that is due."""
        with self._lock:
            if time.monotonic() <= self._next_line_s:
                return
            self._next_line_s = time.monotonic() + LINE_EVERY_S
        task = self._bar.tasks[0]
        left_s = None if self._grows else task.time_remaining
        left = "" if left_s is None else ", less than a minute left" if left_s < 60 else f", about {left_s / 60:.0f} min left"
        of = f" of {task.total:.0f}{' so far' if self._grows else ''}" if task.total else ""
        self.say(f"{name or task.description}: {task.completed:.0f}{of}{left}")


@contextmanager
def resumable(kept: Callable[[], str]) -> Iterator[None]:
    """Ends an interruption with one line, which says what is `kept`, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        echo(f"interrupted: {kept()}; run the same command to resume", err=True)
        raise typer.Exit(130) from None

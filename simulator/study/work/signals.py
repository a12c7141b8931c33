"""A worker may be ended at any time, and yet every file is whole or not there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_unfinished = False  # does this process hold files that are not whole
_holding = 0  # blocks that hold signals back, one in the other
_leaving = False  # has this worker been asked to end


def be_a_worker() -> None:
    """This process may be ended at any time, and ends behind the file it is writing."""
    signal.signal(signal.SIGTERM, _leave)


@contextmanager
def held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back until the block ends, in this thread and for good in processes started meanwhile (not on Windows). A library's thread may
    take a signal all the same, and Python then runs its handler here: `_leave` waits for the end of the block as well."""
    global _holding  # noqa: PLW0603
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers) if masks else set()
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _leaving and not _holding:
            _leave()


@contextmanager
def unfinished(files: Sequence[Any]) -> Iterator[None]:
    """The block writes `files`: at its end all are closed as whole, or none is there."""
    global _unfinished  # noqa: PLW0603
    whole, _unfinished = False, True
    try:
        yield
        whole = True
    finally:
        with held(signal.SIGINT, signal.SIGTERM):  # the one ends a sweep, the other a worker: not in the middle of a file
            for file in files:
                file.close(whole)
            _unfinished = False


def _leave(*_: object) -> None:
    """A worker is asked to end. Files that are not whole are removed on the way out; where there are none it goes at once, for an exception may
    come up inside a library's callback (a compiler's), which would swallow it."""
    global _leaving  # noqa: PLW0603
    _leaving = True
    if _holding:
        return
    if _unfinished:
        sys.exit(143)
    os._exit(143)

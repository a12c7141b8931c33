"""The ways in which loading, running and resuming fail for a user's reason, each one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from simulator.complaints import shown
from simulator.errors import DsimError


class OutOfMemory(DsimError):
    """There is not enough memory, on a device or on the host."""


WORDS = ("allocate memory", "out of memory", "ALLOC_FAILED")  # cuBLAS and cuDNN: the last
PERHAPS = ("STATUS_INTERNAL_ERROR", "STATUS_NOT_INITIALIZED", "STATUS_EXECUTION_FAILED")  # what they say, too, on a device without memory left
LITTLE = 256 * 2**20  # bytes


def _full() -> bool:
    """Is next to nothing left on the GPU?"""
    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] < LITTLE


@contextmanager
def memory_of(what: str, where: str | Path | None = None, remedy: str = "use fewer slots, a shorter context or a smaller dtype") -> Iterator[None]:
    """Turns running out of memory while making `what` into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in WORDS)
        if not known and not (any(words in str(error) for words in PERHAPS) and _full()):
            raise
        raise OutOfMemory(f"out of memory for {what}", where=where, remedy=remedy) from error


def same_options(before: Mapping[str, Any], now: Mapping[str, Any], what: str, where: Path) -> None:
    """Raises DsimError where unfinished work in `where` was begun with other options than those of now."""
    for key, value in now.items():
        if before.get(key) != value:
            problem = f"holds {what} with {key} {shown(before.get(key))}, now {shown(value)}"
            raise DsimError(problem, where=where, key=key, remedy="use the same options to resume, or another place")

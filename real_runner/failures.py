"""The two ways in which loading and running fail for a user's reason, each one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from simulator.errors import DsimError


class CheckpointError(DsimError):
    """A target or drafter that cannot be used as it is."""


@contextmanager
def memory_of(what: str, where: str | Path | None = None) -> Iterator[None]:
    """Turns running out of memory while making `what` into one line."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DsimError(f"out of memory for {what}", where=where, remedy="use fewer slots, a shorter context or a smaller dtype") from error
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise DsimError(f"out of memory for {what}", where=where, remedy="use fewer slots, a shorter context or a smaller dtype") from error

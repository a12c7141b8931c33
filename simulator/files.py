"""Files written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simulator.errors import DsimError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    draft = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        yield draft
        os.replace(draft, path)
    except OSError as problem:
        remedy = "free space, or choose a folder you can write to"
        raise DsimError(f"cannot write ({problem.strerror or problem})", where=path, remedy=remedy) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def why_not_writable(folder: Path) -> str | None:
    """Make a folder; why it cannot be written to, None where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        return problem.strerror or "cannot be made"
    return None if os.access(folder, os.W_OK) else "no permission"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text or bytes to `path`, whole or not at all."""
    with whole(path) as draft:
        if isinstance(content, str):
            draft.write_text(content, encoding="utf-8")
        else:
            draft.write_bytes(content)

"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simulator.errors import DsimError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`. It replaces `path` when the block succeeds and is removed when it fails."""
    draft = Path(os.path.abspath(path)).with_name(f".{path.name}.{os.getpid()}{path.suffix}")  # "." has no name of its own
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.touch(exist_ok=False)  # follows no link
        yield draft
        os.replace(draft, path)
    except OSError as problem:
        remedy = "free space, or choose a folder you can write to"
        place = path if problem.errno != errno.ENAMETOOLONG else f"{str(path)[:60]}…"
        raise DsimError(f"cannot write ({problem.strerror or problem})", where=place, remedy=remedy) from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder in `folder`. When the block succeeds, its files replace those of `folder` that have their names, the one called `last` after
    the others; when it fails, `folder` is as it was. Raises DsimError where it cannot be written."""
    absent = absent_folders(folder)
    try:
        if (reason := why_not_writable(folder)) is not None:
            raise DsimError(f"cannot write ({reason})", where=folder, remedy="choose another --out")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".dsim-") as draft:
            yield Path(draft)
            for file in sorted(Path(draft).iterdir(), key=lambda file: (file.name == last, file.name)):
                os.replace(file, folder / file.name)
    finally:
        remove_empty(absent)


def absent_folders(folder: Path) -> list[Path]:
    """Those of a folder and its parents that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not os.path.lexists(path)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def holds_files(folder: Path) -> bool:
    """Is it a folder with anything in it?"""
    return os.path.isdir(folder) and any(folder.iterdir())


def why_not_writable(folder: Path) -> str | None:
    """Create a folder. Returns why it cannot be written to, None where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        return problem.strerror or "cannot be created"
    return None if os.access(folder, os.W_OK) else "no permission"


def user_cache() -> Path:
    """dsim's folder in the user's cache; of a user without a home, in the temporary folder."""
    from pooch import os_cache  # slow to import, and few runs need it

    try:
        return Path(os_cache("dsim"))
    except RuntimeError:
        return own_temporary_folder() or Path(os.devnull)


def own_temporary_folder() -> Path | None:
    """A folder in the temporary one that nobody else can write to, the same every time; None where there cannot be any."""
    folder = Path(tempfile.gettempdir()) / f"dsim-{os.getuid()}"
    return folder if make_own(folder) else None


def make_own(folder: Path) -> bool:
    """Create a folder that is this user's and that nobody else can write to. False where there is another, a link among them, or cannot be any."""
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
        return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022
    return False


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path`, whole or not at all."""
    with whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)

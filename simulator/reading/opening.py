"""Files opened as text or bytes, with one-line errors."""

from __future__ import annotations

import gzip
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from simulator.errors import DsimError


def near_file(path: Path) -> str:
    """What to do about a path that does not exist: name the one beside it that is called much the same, or look at the path."""
    from simulator.misspelt import likeness  # reads pydantic, which the command line's help does without

    if not path.parent.exists():
        return f"there is no folder '{path.parent}'"
    with suppress(OSError):
        like = {entry.name: likeness(Path(entry.name).stem, path.stem) for entry in path.parent.iterdir()}
        near = max(like, key=lambda name: (like[name], likeness(name, path.name)), default="")
        if near and like[near] >= 0.75:
            return f"did you mean '{path.with_name(near)}'?"
    return "check the path"


@contextmanager
def opened(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> Iterator[TextIO]:
    """A text file: UTF-8, UTF-16 with its mark, either of them gzipped or not. Raises `error` when it cannot be opened or read to its end."""
    try:
        with path.open("rb") as packed:
            binary = gzip.GzipFile(fileobj=packed) if packed.peek(2).startswith(b"\x1f\x8b") else packed
            encoding = "utf-16" if binary.peek(2).startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
            with TextIOWrapper(binary, encoding=encoding, newline="") as stream:
                yield stream
    except FileNotFoundError:
        raise error("no such file", where=path, remedy=near_file(path) if remedy == "check the path" else remedy) from None
    except IsADirectoryError:
        raise error("expected a file, got a folder", where=path, remedy="name the file in it") from None
    except UnicodeDecodeError:
        raise error("is not UTF-8 text", where=path, remedy="save it as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error("is not a whole gzip file", where=path, remedy="pack or copy it again") from None
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror})", where=path, remedy=remedy) from None


def read_text(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> str:
    """The text of a file. Raises `error` when it cannot be read."""
    with opened(path, error, remedy) as stream:
        return stream.read()


def read_bytes(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> bytes:
    """The bytes of a file, as they are. Raises `error` when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise error("no such file", where=path, remedy=near_file(path) if remedy == "check the path" else remedy) from None
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror})", where=path, remedy=remedy) from None

"""Regular files opened as text or bytes, up to a size, with one-line errors."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TextIO

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.reading import limits

_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
_CHUNK = 1 << 17  # bytes


def near_file(path: Path) -> str:
    """What to do about a path that does not exist: name the one beside it that is called much the same, or look at the path."""
    from simulator.misspelt import likeness  # reads pydantic, which the command line's help does without

    if not path.parent.exists():
        return f"there is no folder '{path.parent}'"
    with suppress(OSError):
        like = {entry.name: likeness(Path(entry.name).stem, path.stem) for entry in islice(path.parent.iterdir(), 10_000)}
        near = max(like, key=lambda name: (like[name], likeness(name, path.name)), default="")
        if near and like[near] >= 0.75:
            return f"did you mean '{path.with_name(near)}'?"
    return "check the path"


@contextmanager
def regular(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> Iterator[BufferedReader]:
    """A file opened for its bytes. Raises `error` when there is none, when it is a folder, a pipe or a device (never waiting for one), and when
    reading it fails."""
    try:
        with os.fdopen(_descriptor(path, error, remedy), "rb") as file:
            yield file
    except gzip.BadGzipFile:  # an OSError too; `opened` explains it
        raise
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror or problem})", where=path, remedy=remedy) from None


def _descriptor(path: Path, error: type[DsimError], remedy: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise error("no such file", where=path, remedy=near_file(path) if remedy == "check the path" else remedy) from None
    except ValueError:  # a NUL, or half a character
        raise error(f"not a valid name of a file: {shown(str(path))}", remedy=remedy) from None
    except OSError as problem:
        place = path if problem.errno != errno.ENAMETOOLONG else shown(str(path))
        raise error(f"cannot be read ({problem.strerror})", where=place, remedy=remedy) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise error("expected a file, got a folder", where=path, remedy="name the file in it")
    raise error(f"expected a regular file, got {_KINDS.get(stat.S_IFMT(mode), 'a special file')}", where=path, remedy="copy what it holds to a file")


class _Counted:
    """The bytes of a file as they are read, unpacked where they are gzipped. Refuses too many of them, and too many without the end of a line.

    What TextIOWrapper asks of a stream, and no RawIOBase: its `closed` is looked up at every line."""

    closed = False

    def __init__(self, file: BufferedReader, path: Path, error: type[DsimError], most_mb: float, line_mb: float | None) -> None:
        self._path, self._error, self._line_mb = path, error, line_mb
        self._packed_bytes, self._most_mb = os.fstat(file.fileno()).st_size, limits.size_mb(most_mb)
        self._is_packed = file.peek(2).startswith(b"\x1f\x8b")
        self._source = gzip.GzipFile(fileobj=file) if self._is_packed else file
        self._bytes = self._bytes_of_line = 0
        self._check(self._packed_bytes)
        self.encoding = "utf-16" if self._source.peek(2).startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    seekable = writable

    def flush(self) -> None:
        """Nothing is written."""

    close = flush

    def read(self, size: int = -1) -> bytes:
        return b"".join(iter(lambda: self.read1(_CHUNK), b""))

    def read1(self, size: int) -> bytes:
        chunk = self._source.read1(size)
        self._bytes += len(chunk)
        self._check(self._bytes)
        if self._line_mb is not None:
            end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            self._bytes_of_line = len(chunk) - end - 1 if end >= 0 else self._bytes_of_line + len(chunk)
            if self._bytes_of_line > self._line_mb * 1e6:
                raise self._error(f"has a line of more than {self._line_mb:g} MB", where=self._path, remedy="write shorter lines")
        return chunk

    def _check(self, count: int) -> None:
        if count > self._most_mb * 1e6:
            raise self._error(f"is larger than {self._most_mb:g} MB{' unpacked' * self._is_packed}", where=self._path, remedy=limits.RAISE)
        times = limits.UNPACKED_TIMES
        if self._is_packed and count > max(limits.UNPACKED_MB * 1e6, times * self._packed_bytes):
            raise self._error(f"unpacks to more than {times} times its size", where=self._path, remedy="unpack it first")


@contextmanager
def opened(
    path: Path,
    error: type[DsimError] = DsimError,
    remedy: str = "check the path",
    most_mb: float = limits.STREAM_MB,
    line_mb: float | None = limits.LINE_MB,
) -> Iterator[TextIO]:
    """A text file: UTF-8, UTF-16 with its mark, either of them gzipped or not. Raises as `regular`, and `error` where it is not text, larger than
    `most_mb` or has a line longer than `line_mb`, both unpacked (checked while it is read)."""
    try:
        with regular(path, error, remedy) as file:
            binary = _Counted(file, path, error, most_mb, line_mb)
            with TextIOWrapper(binary, encoding=binary.encoding, newline="") as stream:  # type: ignore[type-var]
                stream._CHUNK_SIZE = _CHUNK  # type: ignore[attr-defined]  # else 8 KB at a time
                yield stream
    except UnicodeDecodeError:
        raise error("is not UTF-8 text", where=path, remedy="save it as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise error("is not a whole gzip file", where=path, remedy="pack or copy it again") from None


def read_text(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path", most_mb: float = limits.WHOLE_MB) -> str:
    """The text of a file. Raises `error` when it cannot be read."""
    with opened(path, error, remedy, most_mb, None) as stream:
        return stream.read()


def read_bytes(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path", most_mb: float = limits.WHOLE_MB) -> bytes:
    """The bytes of a file, as they are (gzip is not unpacked). Raises `error` when it cannot be read."""
    with regular(path, error, remedy) as file:
        limit = limits.size_mb(most_mb)
        content = file.read(int(limit * 1e6) + 1)
    if len(content) > limit * 1e6:
        raise error(f"is larger than {limit:g} MB", where=path, remedy=limits.RAISE)
    return content

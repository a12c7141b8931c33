"""Regular files only, up to a size, and every mistake one line."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.errors import DsimError
from simulator.reading import limits
from simulator.reading.opening import opened, read_bytes, read_text
from tests.conftest import Dsim


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


READ = (read_text, read_bytes, lambda path: opened(path).__enter__())
SPECIAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "pipe": (lambda folder: fifo(folder / "pipe"), r"/pipe: expected a regular file, got a pipe; copy what it holds to a file$"),
    "device": (lambda folder: Path("/dev/zero"), r"^/dev/zero: expected a regular file, got a device; "),
    "link to a device": (lambda folder: (folder / "l").symlink_to("/dev/zero") or folder / "l", r"/l: expected a regular file, got a device; "),
    "folder": (lambda folder: folder, r": expected a file, got a folder; name the file in it$"),
    "none": (lambda folder: folder / "none", r"/none: no such file; check the path$"),
    "NUL": (lambda _: Path("a\0b"), r"^not a valid name of a file: '.*a\\x00b'; check the path$"),
    "half of a character": (lambda folder: folder / "a\ud800b", r"^not a valid name of a file: "),
    "long name": (lambda folder: folder / ("a" * 5000), r"^'.{59}…': cannot be read \(File name too long\); check the path$"),
}


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("case", SPECIAL)
def test_what_is_not_a_regular_file_is_one_line(case: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    make, message = SPECIAL[case]
    path = make(tmp_path)
    with pytest.raises(DsimError, match=message):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        "ä\r\nb\rc\n".encode(),
        b"\xef\xbb\xbf" + "ä\r\nb\rc\n".encode(),
        "ä\r\nb\rc\n".encode("utf-16"),
        gzip.compress("ä\r\nb\rc\n".encode()),
        gzip.compress("ä\r\nb\rc\n".encode("utf-16")),
        gzip.compress("ä\r\n".encode()) + gzip.compress(b"b\rc\n"),
    ],
    ids=range(6),
)
def test_encodings(content: bytes, tmp_path: Path) -> None:
    path = put(tmp_path / "a", content)
    assert read_text(path) == "ä\r\nb\rc\n"
    assert read_bytes(path) == content
    with opened(path) as stream:
        assert list(stream) == ["ä\r\n", "b\r", "c\n"]


PACKED = gzip.compress(b"words " * 1000, mtime=0)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"x" * 300_000 + b"\xff", "is not UTF-8 text; save it as UTF-8"),
        ("ä".encode("latin-1"), "is not UTF-8 text"),
        ("a".encode("utf-16") + b"b", "is not UTF-8 text"),
        (PACKED[:-9], "is not a whole gzip file; pack or copy it again"),
        (PACKED[:30] + b"\0\xff" + PACKED[32:], "is not a whole gzip file"),
        (PACKED[:3] + b"\xff" + PACKED[4:], r"is not a whole gzip file"),
        (PACKED + b"garbage", r"is not a whole gzip file"),
    ],
    ids=range(7),
)
def test_broken_text(content: bytes, message: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a", content)
    with pytest.raises(DsimError, match=f"/a: {message}"):
        read_text(path)


def test_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts what a gzip file unpacks to; the option raises it for every reader."""
    plain, packed = put(tmp_path / "plain", b"a b\n" * 50_000), put(tmp_path / "packed", gzip.compress(b"a b\n" * 50_000))
    raised = r"; if it is right, raise the limit with --max-file-mb or DSIM_MAX_FILE_MB$"
    for path, what in ((plain, ""), (packed, " unpacked")):
        with pytest.raises(DsimError, match=rf"{path.name}: is larger than 0\.1 MB{what}{raised}"):
            read_text(path, most_mb=0.1)
    with pytest.raises(DsimError, match=rf"plain: is larger than 0\.1 MB{raised}"):
        read_bytes(plain, most_mb=0.1)
    monkeypatch.setenv(limits.VARIABLE, "0.3")
    assert read_text(packed, most_mb=0.1) == read_text(plain, most_mb=0.1)
    for wrong in ("much", "-1", "nan", "inf", "0"):
        monkeypatch.setenv(limits.VARIABLE, wrong)
        with pytest.raises(DsimError, match=f"^DSIM_MAX_FILE_MB: expected a number of MB above 0, got '{wrong}'$"):
            read_text(plain)


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path: Path) -> None:
    pack = zlib.compressobj(wbits=31)
    content = b"".join(pack.compress(b"1,2\n" * 250_000) for _ in range(40)) + pack.flush()
    with pytest.raises(DsimError, match=r"a\.gz: unpacks to more than 100 times its size; unpack it first"):
        read_text(put(tmp_path / "a.gz", content))


def test_long_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "a", b"short\n" + b"x" * 400_000 + b"\nshort\n")
    with opened(path) as stream:
        assert [len(line) for line in stream] == [6, 400_001, 6]
    with pytest.raises(DsimError, match=r"a: has a line of more than 0\.1 MB; write shorter lines"), opened(path, line_mb=0.1) as stream:
        list(stream)
    assert len(read_text(path)) == 400_013


def test_the_option_reaches_the_readers(dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.VARIABLE, "1")  # so that it is put back
    result = dsim("--max-file-mb", "0.0001", "scenario", "list")
    assert ".yaml: is larger than 0.0001 MB" in str(result)


@pytest.mark.parametrize("command", [("run",), ("profile", "check"), ("compare", "x"), ("traces", "show"), ("init",), ("figure",)])
def test_a_name_that_is_too_long(command: tuple[str, ...], dsim: Dsim) -> None:
    result = dsim(*command, "a" * 5000)
    assert result.code == 2
    assert len(result.err) < 300
    assert result.err.count("\n") == 1

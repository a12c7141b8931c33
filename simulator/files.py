"""Files read with one-line errors, and written whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tempfile
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from simulator.errors import DsimError

if TYPE_CHECKING:
    import pandas as pd

    from simulator.arrays import Floats


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


def read_json(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> dict[str, Any]:
    """The JSON object in a file. Raises `error`."""
    return _json_object(read_text(path, error, remedy), path, error)


def json_lines(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", object) for every line that is not empty. Raises `error`."""
    with opened(path, error, remedy) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _json_object(line, where, error, "each line holds one JSON object")


def _json_object(text: str, where: str | Path, error: type[DsimError], remedy: str | None = None) -> dict[str, Any]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"not valid JSON ({problem})", where=where, remedy=remedy) from None
    if not isinstance(content, dict):
        raise error("expected a JSON object", where=where, remedy=remedy)
    return content


def read_csv(path: Path, columns: Sequence[str] = (), error: type[DsimError] = DsimError, remedy: str = "check the path") -> pd.DataFrame:
    """A CSV table that has at least `columns`, between commas, semicolons or tabs (with decimal commas then, if it has them); lines that start with #
    are comments. Raises `error`."""
    import csv
    import re

    import pandas as pd

    with opened(path, error, remedy) as stream:
        text = StringIO(stream.read(), newline="")
    lines = [line for line in text if line.strip() and not line.startswith("#")]
    if not lines:
        raise error("is empty", where=path, remedy="expected a line of column names, and a line for each row")
    mark = max(",;\t", key=lines[0].count)
    header = [name.strip() for name in next(csv.reader(lines[:1], delimiter=mark))]
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise error("column is there twice", where=path, key=twice, remedy="keep one")
    decimal = "," if mark != "," and any(re.search(r"\d,\d", line) for line in lines[1:]) else "."
    text.seek(0)
    try:
        table = pd.read_csv(text, comment="#", sep=mark, decimal=decimal)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as problem:
        raise error(f"not a CSV table ({problem})", where=path) from None
    for name in columns:
        if name not in table:
            raise error("column is missing", where=path, key=name, remedy=f"columns found: {', '.join(map(str, table.columns))}")
    return table


def numbers(table: pd.DataFrame, name: str, path: Path, error: type[DsimError] = DsimError, positive: bool = True, optional: bool = False) -> Floats:
    """A column of finite numbers, positive or at least 0; `optional` cells may be empty (NaN). Raises `error` with file, line and column."""
    import numpy as np  # not above: the command line reads this module for its help
    import pandas as pd

    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.isinf(values) | (values <= 0 if positive else values < 0) | (np.isnan(values) & (table[name].notna() | (not optional)))
    if wrong.any():
        row = int(wrong.argmax())
        problem = f"must be a {'positive number' if positive else 'number of at least 0'} (got {table[name].tolist()[row]!r})"
        raise error(problem, where=f"{path}:{line_of(path, row + 1, comment='#')}", key=name)
    return values


def line_of(path: Path, row: int, comment: str | None = None) -> int:
    """The line, counted from 1, of a file's row, counted from 0 with the header; empty lines and comments hold none."""
    with opened(path) as lines:
        rows = (number for number, line in enumerate(lines, 1) if line.strip() and not (comment and line.startswith(comment)))
        return next(islice(rows, row, None), 0)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`. It replaces `path` when the block succeeds and is removed when it fails."""
    draft = Path(os.path.abspath(path)).with_name(f".{path.name}.{os.getpid()}{path.suffix}")  # "." has no name of its own
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
    with suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"dsim-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
            return folder
    return None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path`, whole or not at all."""
    with whole(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)

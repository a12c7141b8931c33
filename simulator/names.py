"""What may be the name of something, and which files a folder's own files may name: those that lie in it."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo

from simulator.errors import DsimError

if TYPE_CHECKING:
    import pandas as pd

MOST_LETTERS = 200  # of a name
MOST_BYTES, MOST_PATH = 255, 4095  # of a part of a path, and of a whole one, on usual file systems


def check_label(text: str) -> str:
    """`text` where people can read it on one line. Raises ValueError where they cannot."""
    if not text:
        raise ValueError("is empty, expected a name")
    if len(text) > MOST_LETTERS:
        raise ValueError(f"expected at most {MOST_LETTERS} characters, got {len(text)}")
    if not text.isprintable() or text != text.strip():
        raise ValueError("expected one line without spaces around it or invisible characters")
    return text


def check_name(text: str) -> str:
    """`text` where it is a label, and no path. Raises ValueError where it is not."""
    check_label(text)
    if text in (".", "..") or "/" in text or "\\" in text:
        raise ValueError("expected a name, not a path: no / and \\, not . or ..")
    return text


def check_file_name(text: str) -> str:
    """`text` where a file or folder may be called so on any system. Raises ValueError where it may not."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", text):
        raise ValueError("expected letters, digits, '.', '_' and '-', and neither '.' nor '-' at the beginning")
    return check_name(text)


def check_word(text: str, key: str, file: bool = False) -> str:
    """A name from the command line, of a file or only to be shown. Raises DsimError."""
    try:
        return check_file_name(text) if file else check_label(text)
    except ValueError as problem:
        line = str(problem)
        raise DsimError(line if ", got" in line else f"{line}, got {text[:60]!a}", key=key, remedy="choose another name") from None


def leads_out(folder: Path, file: str) -> bool:
    """Does a path in `folder` leave it, by `..`, from the root, or through a link?"""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(os.path.join(root, file))]) != root


def check_inside(file: str, folder: Path | None = None) -> str:
    """A path that stays in the folder of the file that names it, its links too where `folder` is that one. Raises ValueError."""
    path = PurePosixPath(file)
    if not path.parts or not file.isprintable() or "\\" in file or any(len(part.encode()) > MOST_BYTES for part in path.parts):
        raise ValueError("expected the name of a file")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("expected a file in the same folder, got a path that leads out of it")
    if folder is not None and leads_out(folder, file):
        raise ValueError("expected a file in the same folder, got a link that leads out of it: put the file itself there")
    return file


def _inside(file: str, info: ValidationInfo) -> str:
    return check_inside(file, (info.context or {}).get("folder"))


Place = TypeVar("Place", str, Path)


def check_place(place: Place) -> Place:
    """A path that leads anywhere, and that a system can look up. Raises ValueError."""
    text = str(place)
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ValueError("expected a path, got one with control characters")
    if any(len(part.encode()) > MOST_BYTES for part in text.split("/")):
        raise ValueError(f"expected a path, got one with a part of more than {MOST_BYTES} bytes")
    if len(text.encode()) > MOST_PATH:
        raise ValueError(f"expected a path of at most {MOST_PATH} bytes")
    return place


def home(path: Path) -> Path:
    """The path with the home folder for `~`. Raises ValueError where there is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("expected a path, got the home folder of an unknown user") from None


_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what spreadsheets run, and a text that is escaped already


def cell(text: str) -> str:
    """A name in a cell of a CSV table: behind an apostrophe, which spreadsheets take for text, where they would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def as_cells(table: pd.DataFrame) -> pd.DataFrame:
    """A table for CSV: its texts as `cell` has them, its numbers as they are."""
    from pandas.api.types import is_numeric_dtype

    names = [name for name in table.columns if not is_numeric_dtype(table[name])]
    return table.assign(**{name: [cell(value) if isinstance(value, str) else value for value in table[name]] for name in names})


def from_cell(text: str) -> str:
    """The name in a cell that `cell` wrote."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


Label = Annotated[str, AfterValidator(check_label)]
Name = Annotated[str, AfterValidator(check_name)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$"), AfterValidator(check_file_name)]
Inside = Annotated[str, AfterValidator(_inside)]  # of a file: it lies in the folder of the file that names it
Anywhere = Annotated[str, AfterValidator(check_place)]  # a path as it was written: it may lead anywhere

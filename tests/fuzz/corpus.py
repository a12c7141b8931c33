"""The corpus: for each reader (corpus/READER.txt) minimal inputs that once broke something, as changes of its valid files.

`=== ROW title` begins a case; `+` after the row says that it is to be accepted, `~` that it may be,
    else it is to be refused. `--- FILE` is followed by the content of a
file, `--- FILE escaped` by its content with \\x00 and the like on one line, `--- FILE set` by lines `key.to = JSON` that change the valid file.
What is binary, large or no plain file is made in made.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.fuzz.checkpoints import drafter
from tests.fuzz.made import MADE, Place
from tests.fuzz.readers import Reader, by_name
from tests.fuzz.samples import VERIFY, Files, blocks, profile

FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Case:
    """One input: what of the reader's valid files is replaced, or what `place` does to their folder."""

    reader: Reader
    title: str
    changed: Files
    place: Place | None = None
    ends: tuple[str, ...] = ("refused",)

    def write(self, folder: Path) -> None:
        """All files of the case."""
        write_files(folder, {**self.reader.files(), **self.changed})
        if self.place is not None:
            self.place(folder)


def write_files(folder: Path, files: Files) -> None:
    """Files by their path in the folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def prepare(base: Path) -> None:
    """Files outside the folders of the cases in `base`, which no reader may open."""
    write_files(base / "outside", {"verify.csv": VERIFY, "speed.csv": profile()["tiny/published/speed.csv"], "head.parquet": blocks(True),
                                   "model.safetensors": drafter("dspark_vanilla")()["draft/model.safetensors"]})  # fmt: skip


_warm: set[str] = set()


def warm(reader: Reader, base: Path) -> None:
    """Reads the valid files unwatched, once in a process: what is imported on the first use opens files of its own."""
    import pyarrow as pa

    if reader.name in _warm:
        return
    _warm.add(reader.name)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    folder, home = base / f"warm-{reader.name}", os.getcwd()
    write_files(folder, reader.files())
    os.chdir(folder)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            reader.read(folder)
    finally:
        os.chdir(home)


def cases() -> Iterator[Case]:
    """All of them."""
    for file in sorted(FOLDER.glob("*.txt")):
        reader = by_name(file.stem)
        for block in re.split(r"^=== ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            title, *parts = re.split(r"^--- ", block, flags=re.MULTILINE)
            row, _, words = title.strip().partition(" ")
            changed = dict(_file(reader, part) for part in parts)
            ends = {"+": ("accepted",), "~": ("accepted", "refused")}.get(row[-1], ("refused",))
            yield Case(reader, f"{row.rstrip('+~')} {words}", changed, ends=ends)
    for name, title, place in MADE:
        ends = ("accepted", "refused") if title.startswith("P a source") else ("refused",)
        yield Case(by_name(name), title, {}, place, ends)


def _file(reader: Reader, part: str) -> tuple[str, bytes]:
    head, _, text = part.partition("\n")
    name, _, how = head.strip().partition(" ")
    if how == "escaped":
        return name, text.rstrip("\n").encode("latin-1").decode("unicode_escape").encode("latin-1")
    return name, _with(name, reader.files()[name], text.strip().splitlines()) if how == "set" else text.encode()


def _with(name: str, valid: bytes, edits: list[str]) -> bytes:
    content: Any = yaml.safe_load(valid) if name.endswith(".yaml") else json.loads(valid)
    for edit in edits:
        path, _, value = edit.partition(" = ")
        *parents, last = (int(step) if step.isdigit() else step for step in path.split("."))
        here = content
        for step in parents:
            here = here[step] if isinstance(here, list) else here.setdefault(step, {})
        here[last] = json.loads(value)
    return yaml.safe_dump(content, sort_keys=False).encode() if name.endswith(".yaml") else json.dumps(content).encode()

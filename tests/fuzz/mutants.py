"""A reader's valid files, changed: which file and how follow from the seed and the number of the input alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz import binary, tables, trees
from tests.fuzz.corpus import write_files
from tests.fuzz.readers import Family, Reader, of_family

OPTIONS = {"set.txt", "name.txt"}  # what a user types
SPECIAL = 0.01  # share of inputs in which a file is no file


@dataclass(frozen=True)
class Mutant:
    """The files of one input, and those of them that are missing, folders, FIFOs or links."""

    reader: Reader
    changed: dict[str, bytes]
    special: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """All its files."""
        write_files(folder, {**self.reader.files(), **self.changed})
        for name, what in self.special.items():
            path = folder / name
            path.unlink()
            if what == "folder":
                path.mkdir()
            elif what == "fifo":
                os.mkfifo(path)
            elif what:
                path.symlink_to(what)


def mutant(family: Family, seed: int, number: int) -> Mutant:
    """The input of this number."""
    random = Random(f"{family} {seed} {number}")
    mine = of_family(family)
    reader = random.choices(mine, [reader.weight for reader in mine])[0]
    return changed(reader, random)


def changed(reader: Reader, random: Random) -> Mutant:
    """One of its files or two, changed."""
    files = reader.files()
    names = [name for name in files if not reader.mutable or name.endswith(reader.mutable)]
    chosen = {random.choice(names) for _ in range(random.choice((1, 1, 1, 2)))}
    if random.random() < SPECIAL and not chosen & OPTIONS:
        return Mutant(reader, {}, {name: random.choice(_specials(name)) for name in sorted(chosen)})
    contents = {}
    for name in sorted(chosen):
        content = files[name]
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            content = _changed(name, content, files[name], random)
        contents[name] = content
    return Mutant(reader, contents)


def _specials(name: str) -> tuple[str, ...]:
    """What a file may be in place of a file; one that a profile names may be a link out of the profile too (a link that the user names is his)."""
    outside = f"{'../' * name.count('/')}../outside/verify.csv"
    return (
        "",
        "folder",
        "fifo",
        "/dev/zero",
        "/dev/null",
        "nowhere",
        *([outside] if name.startswith("tiny/") and not name.endswith(".yaml") else []),
    )


def _changed(name: str, content: bytes, valid: bytes, random: Random) -> bytes:
    """By its structure where it still has one, else by its bytes."""
    by_structure = _STRUCTURES.get(Path(name).suffix)
    if by_structure is None or random.random() < 0.3:
        return binary.mutate(content, random)
    try:
        return by_structure(content, random)
    except Exception:  # an earlier change has broken it
        return by_structure(valid, random) if random.random() < 0.5 else binary.mutate(content, random)


def _tree(content: bytes, random: Random, yaml_file: bool = False) -> bytes:
    return trees.dump(trees.mutate(trees.load(content, yaml_file), random, yaml_file)).encode("utf-8", "surrogatepass")


def _json_lines(content: bytes, random: Random) -> bytes:
    lines = content.splitlines()
    at = random.randrange(len(lines))
    match random.randrange(8):
        case 0:
            random.shuffle(lines)
        case 1:
            del lines[at]
        case 2:
            lines.insert(at, lines[at])
        case 3:
            lines.insert(at, random.choice((b"", b"[]", b"null", b"1", b'"a"', b"{", b"{}", b"\xff")))
        case _:
            lines[at] = _tree(lines[at], random)
    return random.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n")).join(lines) + random.choice((b"\n", b""))


def _set_options(content: bytes, random: Random) -> bytes:
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    at = random.randrange(len(lines))
    key, _, value = lines[at].partition("=")
    match random.randrange(6):
        case 0:
            key = ".".join(random.choice((part, random.choice(trees.WORDS), f"{part}.0", "0", "-1", "99")) for part in key.split("."))
        case 1:
            lines.append(lines[at])
        case _:
            value = trees.dump(trees.hostile(random, True))
    lines[at] = f"{key}={value}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


_STRUCTURES: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": _tree,
    ".yaml": lambda content, random: _tree(content, random, True),
    ".jsonl": _json_lines,
    ".csv": lambda content, random: tables.mutate(content.decode("utf-8"), random).encode("utf-8", "surrogatepass"),
    ".parquet": binary.parquet,
    ".safetensors": binary.safetensors,
    ".txt": lambda content, random: _set_options(content, random) if b"=" in content[:40] else binary.mutate(content, random),
}

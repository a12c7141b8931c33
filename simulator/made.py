"""What dsim has made in a folder: it overwrites and deletes nothing else there, unless that is wanted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from simulator.errors import DsimError
from simulator.files import write_whole

MARKER = ".dsim"  # in a folder: the names of what dsim has made in it
FINISHED = "finished tasks"  # in the marker of a folder that keeps them
FORCE = "use another --out, or replace it with --force"


def made_in(folder: Path) -> set[str]:
    """The names that the marker of `folder` lists; none where there is no marker of dsim's."""
    from simulator.reading.json_files import read_json  # reads pydantic, which the command line's help does without

    marker = folder / MARKER
    try:
        names = read_json(marker)["made"] if os.path.isfile(marker) else []
        return {name for name in names if isinstance(name, str)}
    except (DsimError, KeyError, TypeError):
        return set()


def mark(folder: Path, names: Iterable[str]) -> None:
    """Write down that dsim has made `names` in `folder`."""
    known = made_in(folder)
    if not known.issuperset(names := set(names)):
        write_whole(folder / MARKER, json.dumps({"made": sorted(known | names)}) + "\n")


def check_made(folder: Path, names: Iterable[str], replace: bool = False, remedy: str = FORCE) -> None:
    """What is called like one of `names` in `folder` is dsim's, or may be replaced; no folder of these names is a link. Raises DsimError."""
    check_folder(folder)
    there = [name for name in names if os.path.lexists(folder / name)]
    for name in there:
        if os.path.islink(folder / name) and os.path.isdir(folder / name):
            raise DsimError("is a link to another folder", where=folder / name, remedy="remove the link, or use another --out")
        if os.path.isdir(folder / name) == bool(Path(name).suffix):  # names of files have an ending, those of folders none
            expected = "a file, got a folder" if os.path.isdir(folder / name) else "a folder, got a file"
            raise DsimError(f"expected {expected}", where=folder / name, remedy="remove it, or use another --out")
    if not replace and (others := set(there) - made_in(folder)):
        name = min(others)
        raise DsimError(f"holds '{name}', which dsim has not made there", where=folder, remedy=remedy)


def check_folder(folder: Path) -> None:
    """`folder` is one to write into. Raises DsimError."""
    place = os.path.realpath(folder)
    for other, words in ((os.path.realpath(os.path.expanduser("~")), "your home folder"), (os.path.sep, "the root folder")):
        if place == other:
            raise DsimError(f"is {words}", where=folder, remedy="name a folder of its own with --out")

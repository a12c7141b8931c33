"""The folder of a result, before anything is written to it: dsim replaces and deletes there what it has made, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.files import absent_folders, holds_files, remove_empty, why_not_writable
from simulator.made import FINISHED, FORCE, MARKER, check_made, made_in, mark
from simulator.reading.json_files import read_json

PICTURES = (
    "pareto",
    "against_load",
    "accepted_length",
    "time_per_token",
    "latency",
    "goodput",
    "distribution",
    "prefix_cache",
    "by_turn",
    "memory",
    "plan_frontier",
    "plan_what_if",
    "plan_day",
    "gpus_by_promise",
    "plan_break_even",
)
LAUNCH = "launch"  # the folder of scripts
KEPT = {"scenario": "points", "plan": "trials"}  # the folder of finished tasks, called as they are
TABLES = {"scenario": ("points.csv", "points.parquet", "validation.json"), "plan": ("fleets.csv",)}
PAGES = ("report.html", "report.md", *(f"{name}.{ending}" for name in PICTURES for ending in ("png", "svg")))
Kind = Literal["scenario", "plan"]


def kind_of(content: Any) -> Kind:
    """What a result file says that it is of."""
    return "plan" if isinstance(content, dict) and content.get("kind") == "plan" else "scenario"


class Place:
    """The output folder of a scenario or plan called `name`, read from `file`."""

    def __init__(self, folder: Path, kind: Kind, name: str, file: Path, replace: bool = False) -> None:
        """The folder can be written to, and what it holds of the names that dsim writes is an earlier result of the same file, unless it may be
        replaced. Raises DsimError before any work, and leaves no folder behind."""
        self.folder, self.keep = folder, folder / KEPT[kind]
        self.names = names = ("result.json", *TABLES[kind], *PAGES, LAUNCH)
        if os.path.lexists(folder / "profile.yaml"):
            raise DsimError("holds a profile", where=folder, remedy="use another --out")
        held = None if replace else _held(folder / "result.json", kind, name, file)
        if held:
            raise DsimError(f"holds {held}", where=folder, remedy=FORCE)
        check_made(folder, names, replace)
        check_made(folder / LAUNCH, _scripts(folder / LAUNCH), replace)
        check_made(folder, (self.keep.name,), replace or FINISHED in made_in(self.keep) or not holds_files(self.keep))
        self.before = {name for name in names if os.path.lexists(folder / name)}
        absent = absent_folders(folder)
        reason = why_not_writable(folder)
        remove_empty(absent)
        if reason is not None:
            raise DsimError(f"cannot write ({reason})", where=folder, remedy="choose another --out")

    def mark(self) -> None:
        """Write down, before any of them is written, that the names in the folder are dsim's."""
        mark(self.folder, self.names)

    @property
    def replaced(self) -> str:
        """What became of an earlier result, once the new one is written; empty where there was none."""
        gone = {name for name in self.before if not os.path.lexists(self.folder / name)}
        words = [*sorted(gone.difference(PAGES)), *(["the earlier page and pictures"] if gone.intersection(PAGES) else [])]
        return (" (in place of the earlier result)" if self.before else "") + (f"\nremoved: {', '.join(words)}" if words else "")


def _scripts(folder: Path) -> list[str]:
    """The scripts in a folder, and the files beside them that they name; a link to another folder has none."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        return []
    return [file.name for file in folder.iterdir() if file.suffix in (".sh", ".json") and file.name != MARKER]


def _held(path: Path, kind: Kind, name: str, file: Path) -> str | None:
    """What made the result at `path`, where that was not this file; None where there is no result."""
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path)
        made = kind_of(content)
        facts = content[made]
        if (made, facts["name"], Path(facts["file"]).name) == (kind, name, file.name):
            return None
        return f"the result of {made} {shown(facts['name'])} ({str(facts['file'])[:80]})"
    except (DsimError, KeyError, TypeError):
        return "a result.json that is not dsim's"

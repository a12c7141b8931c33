"""Profiles and scenarios that come with dsim: in the checkout, or in the installed package."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from simulator.errors import ScenarioError
from simulator.reading.opening import near_file

ROOT = Path(__file__).parents[1]  # holds profiles/ and scenarios/ beside this package


def profiles() -> dict[str, Path]:
    """Folders of the shipped profiles by name."""
    return {file.parent.name: file.parent for file in sorted(ROOT.glob("profiles/*/profile.yaml"))}


def scenarios() -> dict[str, Path]:
    """Files of the shipped scenarios and plans by name."""
    return {file.stem: file for file in sorted(ROOT.glob("scenarios/**/*.yaml"))}


def profile(path: Path | str) -> Path:
    """A folder as it is, if it is one; else the shipped profile of that name."""
    path = Path(path)
    return path if os.path.exists(path) else _below_root(path) or profiles().get(str(path), path)


def scenario(path: Path | str) -> Path:
    """A file as it is, if it is one; else the shipped scenario or plan of that name. Raises ScenarioError if a shipped one has almost its name."""
    path = Path(path)
    if os.path.exists(path):  # no error at a name that is too long: whoever opens it explains it
        return path
    shipped = _below_root(path) or scenarios().get(str(path))
    if shipped is None and not near_file(path).startswith("did you mean") and (near := _near(path.stem, scenarios())):
        raise ScenarioError("no such file, and no shipped scenario has this name", where=path, remedy=f"did you mean {near}?")
    return shipped or path


def near_profile(folder: Path) -> str:
    """What to do about a folder that is almost called like a shipped profile; empty where none is."""
    near = _near(folder.name, profiles())
    return f"did you mean the shipped {near}?" if near else ""


def _below_root(path: Path) -> Path | None:
    """profiles/NAME or scenarios/NAME.yaml, as they are called in the repository."""
    inside = path.parts[:1] in (("profiles",), ("scenarios",)) and ".." not in path.parts
    return ROOT / path if inside and (ROOT / path).exists() else None


def _near(name: str, shipped: dict[str, Path]) -> str:
    return " or ".join(f"'{near}'" for near in difflib.get_close_matches(name, shipped, n=3, cutoff=0.6))

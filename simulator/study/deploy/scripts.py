"""The commands as scripts, with the files that they name beside them."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

from simulator.errors import DsimError, visible
from simulator.files import write_whole
from simulator.made import check_made, mark
from simulator.reading.json_files import parse_json
from simulator.study.run.launch import EngineLaunch, Launch
from simulator.study.run.place import LAUNCH

WIDTH = 78  # of a command's lines, where its words allow


def shell(engine: EngineLaunch) -> str:
    """The command as it is typed, an option on each line."""
    lines: list[str] = []
    words = [f"{key}={shlex.quote(value)}" for key, value in engine.environment.items()]
    for word in engine.command:
        if word.startswith("--"):
            lines.append(" ".join(words))
            words = []
        words.append(_folded(shlex.quote(word)))
    return " \\\n    ".join([*lines, " ".join(words)])


def _folded(word: str) -> str:
    """A long JSON argument over several lines, broken between its values, where JSON takes a line end for a space."""
    first, *more = re.split(r'(?<=,) (?=")|(?<=\],) (?=\[)', word) if word.startswith(("'{", "'[")) else [word]
    lines, room = [first], WIDTH - 25  # beside the name of the option
    for part in more:
        if len(lines[-1]) + 1 + len(part) <= room:
            lines[-1] += f" {part}"
        else:
            lines.append(f"        {part}")
            room = WIDTH
    text = "\n".join(lines)
    return text if text == word or _value(text) == _value(word) is not None else word


def _value(word: str) -> object:
    """Of a quoted JSON argument; None for what is not JSON."""
    with suppress(DsimError, ValueError):
        return parse_json(shlex.split(word)[0], "")
    return None


def scripts_line(launch: Launch | None, folder: Path) -> str:
    """Where the scripts of a result in `folder` are; empty where there are none."""
    paths = [str(folder / LAUNCH / f"{engine.engine.lower()}.sh") for engine in launch.engines] if launch else []
    return f"\nlaunch: {', '.join(paths)}" if paths else ""


def write_launch(launch: Launch | None, folder: Path, replace: bool = False) -> list[Path]:
    """Writes a script for each engine and the files that it names; their paths. Raises DsimError where files of these names are not dsim's."""
    if launch is None:
        return []
    files: dict[str, str] = {}
    for engine in launch.engines:
        files |= {f"{engine.engine.lower()}.sh": _script(launch.policy, engine), **engine.files}
    check_made(folder, files, replace, "use another --out, or move the file away")
    for name, content in files.items():
        write_whole(folder / name, content)
    mark(folder, files)
    return [folder / name for name in files]


def _script(policy: str, engine: EngineLaunch) -> str:
    lines = [f"{engine.engine} for {policy}, by dsim", *(f"by hand: {line}" for line in engine.fill_in)]
    lines += [f"simulated, and done otherwise: {line}" for line in engine.otherwise]
    comments = "".join(f"# {visible(' '.join(line.split()))}\n" for line in lines)
    beside = 'cd "$(dirname "$0")" || exit\n' if set(engine.files) & set(engine.command) else ""
    return f"#!/bin/sh\n{comments}{beside}{visible(shell(engine))}\n"

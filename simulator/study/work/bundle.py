"""A scenario or a plan with every file that its numbers depend on: to be sent where those files are not, and to tell it from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.measurements.profile import Profile
from simulator.names import check_inside
from simulator.reading.limits import STREAM_MB
from simulator.reading.opening import read_bytes
from simulator.study.work.kept import code_mark, digest
from simulator.traffic.workload import Workload

T = TypeVar("T")
MOST_BYTES = 4_000_000_000  # of all files of a question that travels
Files = dict[str, bytes]  # by place in the bundle


@dataclass(frozen=True)
class Bundle(Generic[T]):
    """The content of the YAML file called `name`, its paths pointing into the bundle, and the files there. No number
    depends on the keys that are `ignored`, nor on the `tables` that the profiles name beside."""

    read: Callable[[dict[str, Any], Path], T]
    name: str
    content: dict[str, Any]
    files: Files
    ignored: tuple[str, ...] = ()
    tables: Files = field(default_factory=dict)

    def check(self) -> None:
        """Raises DsimError where a file would leave the folder, or all are more than a node should take."""
        files = self.files | self.tables
        for name in (self.name, *files):
            try:
                check_inside(name)
            except ValueError as problem:
                raise DsimError(str(problem), where="--ray", key=name, remedy="start the run again with dsim's own files") from None
        if (size := sum(map(len, files.values()))) > MOST_BYTES:
            size_line = f"the files of this question have {size / 1e9:.1f} GB, expected at most {MOST_BYTES / 1e9:g}"
            raise DsimError(size_line, where="--ray", remedy="use a shorter trace, or run without --ray")

    def unpack(self, folder: Path) -> T:
        """The scenario or plan, its files in `folder`, which is empty. Raises DsimError."""
        self.check()
        for name, content in (self.files | self.tables).items():
            write_whole(folder / name, content)
        return self.read(self.content, folder / self.name)

    @cached_property
    def mark(self) -> str:
        """Changes when anything that the numbers depend on does: the content, the files it names, the code."""
        depends = {key: value for key, value in self.content.items() if key not in self.ignored}
        return digest([depends, code_mark()], self.files)

    @property
    def digests(self) -> dict[str, str]:
        """Of the files at each place: of the profile, of the trace, …"""
        places: dict[str, Files] = {}
        for name, content in self.files.items():
            places.setdefault(name.partition("/")[0], {})[name] = content
        return {place: digest(None, files) for place, files in places.items()}


def profile_files(place: str, profile: Profile) -> Files:
    """The files that a profile's numbers come from, put at `place`."""
    return {f"{place}/{file.relative_to(profile.folder).as_posix()}": read_bytes(file) for file in profile.files()}


def published_files(place: str, profile: Profile) -> Files:
    """The published tables that a profile names beside, put at `place`."""
    return {f"{place}/{table.file}": read_bytes(profile.folder / table.file) for table in profile.published.values()}


def moved_workload(content: dict[str, Any], workload: Workload, folder: Path) -> tuple[dict[str, Any], Files]:
    """The content of a workload in a YAML file in `folder` with its paths pointing into the bundle, and the files there."""
    files: Files = {}
    if workload.impatience is not None:
        content = content | {"impatience": _moved(workload.impatience.model_dump(), files)}
    if workload.classes:
        content = content | {"classes": {name: _moved(each.model_dump(), files) for name, each in workload.classes.items()}}
    if workload.trace is not None:
        file = workload.trace.find(folder)
        return _placed(content, "trace", f"trace/{file.name}", [file], files)
    if workload.servegen is not None:
        return _placed(content, "servegen", "servegen", workload.servegen.files(), files)
    if workload.sessions is not None:
        sessions = workload.sessions.model_dump()
        if (recorded := workload.sessions.recorded) is not None:
            sessions["recorded"] |= {"name": None, "path": recorded.file}
        return content | {"sessions": _moved(sessions, files)}, files
    drawn = {key: value for key in ("arrivals", "prompt_tokens", "output_tokens") if (value := getattr(workload, key)) is not None}
    return content | {key: _moved(value.model_dump(), files) for key, value in drawn.items()}, files


def _placed(content: dict[str, Any], key: str, path: str, own: list[Path], files: Files) -> tuple[dict[str, Any], Files]:
    """A workload whose requests come from files of its own, named or not, beside other `files`."""
    source = {name: value for name, value in content[key].items() if name != "name"}
    return content | {key: source | {"path": path}}, files | {f"{key}/{file.name}": _requests(file) for file in own}


def _requests(file: Path) -> bytes:
    """A file that is read line by line, as large as one may be."""
    return read_bytes(file, most_mb=STREAM_MB)


def _moved(content: Any, files: Files) -> Any:
    """Nested content with its paths replaced by places in the bundle, and what is there added to `files`."""
    if isinstance(content, Path):
        place = f"drawn/{len(files)}{content.suffix}"
        files[place] = _requests(content)
        return place
    if isinstance(content, dict):
        return {key: _moved(value, files) for key, value in content.items()}
    return [_moved(item, files) for item in content] if isinstance(content, list | tuple) else content

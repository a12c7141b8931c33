"""A scenario or a plan with every file that its numbers depend on: to be sent where those files are not, and to tell it from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from simulator.measurements.profile import Profile
from simulator.study.work.kept import code_mark, digest
from simulator.traffic.workload import Workload

T = TypeVar("T")
Files = dict[str, bytes]  # by place in the bundle


@dataclass(frozen=True)
class Bundle(Generic[T]):
    """The content of the YAML file called `name`, its paths pointing into the bundle, and the files there. `words` are keys that no number
    depends on."""

    read: Callable[[dict[str, Any], Path], T]
    name: str
    content: dict[str, Any]
    files: Files
    words: tuple[str, ...] = ()

    def unpack(self, folder: Path) -> T:
        """The scenario or plan, its files in `folder`."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return self.read(self.content, folder / self.name)

    @cached_property
    def mark(self) -> str:
        """Changes when anything that the numbers depend on does: the content, the files it names, the code."""
        depends = {key: value for key, value in self.content.items() if key not in self.words}
        return digest([depends, code_mark()], {name: data for name, data in self.files.items() if "/published/" not in name})


def profile_files(place: str, profile: Profile) -> Files:
    """All files of a profile's folder, put at `place`."""
    return {f"{place}/{file.relative_to(profile.folder).as_posix()}": file.read_bytes() for file in profile.folder.rglob("*") if file.is_file()}


def moved_workload(content: dict[str, Any], workload: Workload, folder: Path) -> tuple[dict[str, Any], Files]:
    """The content of a workload in a YAML file in `folder` with its paths pointing into the bundle, and the files there."""
    if workload.trace is not None:
        file = workload.trace.find(folder)
        trace = {key: value for key, value in content["trace"].items() if key != "name"}
        return content | {"trace": trace | {"path": f"trace/{file.name}"}}, {f"trace/{file.name}": file.read_bytes()}
    if workload.servegen is not None:
        service = {key: value for key, value in content["servegen"].items() if key != "name"}
        files = {f"servegen/{file.name}": file.read_bytes() for file in workload.servegen.files()}
        return content | {"servegen": service | {"path": "servegen"}}, files
    lengths = [lengths.model_dump() for lengths in (workload.prompt_tokens, workload.output_tokens) if lengths is not None]
    places = {path: f"lengths/{number}{path.suffix}" for number, path in enumerate(_paths(lengths))}
    return _moved(content, folder, places), {place: path.read_bytes() for path, place in places.items()}


def _paths(content: Any) -> Iterator[Path]:
    """All paths in nested content."""
    if isinstance(content, Path):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _paths(item)


def _moved(content: Any, folder: Path, places: dict[Path, str]) -> Any:
    """Nested content with the paths of files replaced by their places in the bundle."""
    if isinstance(content, dict):
        moved = {key: _moved(value, folder, places) for key, value in content.items()}
        if "path" in content:
            moved["path"] = places[(folder / Path(content["path"]).expanduser()).resolve()]
        return moved
    return [_moved(item, folder, places) for item in content] if isinstance(content, list) else content

"""A scenario with every file that its numbers depend on, to be sent where those files are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.study.run.scenario import Scenario, validate_scenario


@dataclass(frozen=True)
class Bundle:
    """The scenario's content with its paths pointing into the bundle, and the files there."""

    name: str
    content: dict[str, Any]
    files: dict[str, bytes]

    def unpack(self, folder: Path) -> Scenario:
        """The scenario, its files in `folder`."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return validate_scenario(self.content, folder / self.name)


def bundle(scenario: Scenario) -> Bundle:
    """All that a run of `scenario` reads."""
    files: dict[str, bytes] = {}
    content = dict(scenario.content)
    profiles = {"profile": scenario.known}
    if scenario.engine.scheduler_profile is not None:
        profiles["scheduler_profile"] = scenario.believed
        content["engine"] = content["engine"] | {"scheduler_profile": "scheduler_profile"}
    for name, profile in profiles.items():
        files |= {f"{name}/{file.relative_to(profile.folder)}": file.read_bytes() for file in profile.folder.rglob("*") if file.is_file()}
    content["profile"] = "profile"
    workload = content["workload"]
    if scenario.workload.trace is not None:
        file = scenario.workload.trace.find(scenario.folder)
        files[f"trace/{file.name}"] = file.read_bytes()
        trace = {key: value for key, value in workload["trace"].items() if key != "name"}
        content["workload"] = workload | {"trace": trace | {"path": f"trace/{file.name}"}}
    elif scenario.workload.servegen is not None:
        files |= {f"servegen/{file.name}": file.read_bytes() for file in scenario.workload.servegen.files()}
        service = {key: value for key, value in workload["servegen"].items() if key != "name"}
        content["workload"] = workload | {"servegen": service | {"path": "servegen"}}
    else:
        places = {str(path): f"lengths/{number}{path.suffix}" for number, path in enumerate(_lengths(scenario))}
        files |= {place: Path(path).read_bytes() for path, place in places.items()}
        content["workload"] = _moved(workload, scenario.folder, places)
    return Bundle(scenario.file.name, content, files)


def _lengths(scenario: Scenario) -> Iterator[Path]:
    """Files that lengths are drawn from."""
    for lengths in (scenario.workload.prompt_tokens, scenario.workload.output_tokens):
        if lengths is not None:
            yield from paths_in(lengths.model_dump())


def paths_in(content: Any) -> Iterator[Path]:
    """All paths in nested content."""
    if isinstance(content, Path):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from paths_in(item)


def _moved(content: Any, folder: Path, places: dict[str, str]) -> Any:
    """Nested content with the paths of files replaced by their places in the bundle."""
    if isinstance(content, dict):
        moved = {key: _moved(value, folder, places) for key, value in content.items()}
        if "path" in content:
            moved["path"] = places[str((folder / Path(content["path"]).expanduser()).resolve())]
        return moved
    return [_moved(item, folder, places) for item in content] if isinstance(content, list) else content

"""A task, the store of those that are done, and the digests that say whether their results still hold."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from simulator.errors import DsimError
from simulator.files import absent_folders, remove_empty, write_whole
from simulator.made import FINISHED, MARKER, mark
from simulator.measurements.acceptance_library import FILE, acceptances
from simulator.reading.json_files import read_json
from simulator.reading.opening import read_bytes
from simulator.study.work.signals import held

Row = TypeVar("Row", bound=BaseModel)
PACKAGE = Path(__file__).parents[2]
ONLY_TELL = ("report", "cli")  # rooms of the package that make no numbers: pages are drawn anew from the rows at every run
TABLES = ("steps", "requests")  # that may lie beside a result


@dataclass(frozen=True)
class Task:
    """What is wanted (`key`) and how another process does it: `do(question, folder)` gives the result, and the tables NAME.DETAIL.parquet in the
    folder. `mark` is the digest of all that they depend on."""

    key: Any
    name: str  # of its files
    mark: str
    do: Callable[[Any, Path | None], Any]
    details: tuple[str, ...] = ()


Results = Generator[tuple[Task, Any], None, None]  # as tasks are done; more may be asked for meanwhile, and a result only where one is to come


class Kept(Generic[Row]):
    """Finished tasks in `folder`, or nowhere; their results are rows of `kind`, each of which `fits` what was wanted."""

    def __init__(self, folder: Path | None, kind: type[Row], fits: Callable[[Any, Row], bool] = lambda _key, _row: True) -> None:
        self.folder, self.kind, self.fits = folder, kind, fits
        self._made = absent_folders(folder) if folder else []

    def read(self, task: Task) -> Row | None:
        """The result of a task that was done before with the same mark and tables; None where there is none."""
        try:
            content = self._content(task)
            holds = set(task.details) <= set(content["details"]) and all(self._file(task, f"{name}.parquet").is_file() for name in task.details)
            row = self.kind.model_validate(content["row"]) if holds else None
            return row if row is None or self.fits(task.key, row) else None
        except (DsimError, OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, task: Task, result: Row) -> None:
        """Write down that a task is done, after its tables: a result that is there says that all of the task is."""
        if self.folder:
            with held(signal.SIGINT, signal.SIGTERM):
                if not self._content(task):  # tables there are of another question
                    self._drop_tables(task.name, set(TABLES).difference(task.details))
                content = {"fingerprint": task.mark, "details": sorted(task.details), "row": result.model_dump(mode="json")}
                mark(self.folder, [FINISHED])
                write_whole(self._file(task), json.dumps(content))

    def drop_other_tables(self, tasks: Iterable[Task]) -> None:
        """Remove tables of other tasks than these."""
        names = {task.name for task in tasks}
        for file in self.folder.glob("*.json") if self.folder else ():
            if file.stem not in names:
                self._drop_tables(file.stem, TABLES)

    def _drop_tables(self, name: str, tables: Iterable[str]) -> None:
        assert self.folder is not None
        for table in tables:
            (self.folder / f"{name}.{table}.parquet").unlink(missing_ok=True)

    def withdraw(self, tasks: Iterable[Task]) -> None:
        """Take back the results and tables of tasks, and the folders that were made for them."""
        for task in tasks if self.folder else ():
            for suffix in ("json", *(f"{name}.parquet" for name in task.details)):
                self._file(task, suffix).unlink(missing_ok=True)
        if self.folder in self._made:
            (self.folder / MARKER).unlink(missing_ok=True)
        remove_empty(self._made)

    def _content(self, task: Task) -> dict[str, Any]:
        """What was written of a task with the same mark; empty where there is nothing."""
        try:
            content = read_json(self._file(task)) if self.folder else {}
            return content if content["fingerprint"] == task.mark else {}
        except (DsimError, OSError, ValueError, KeyError, TypeError):
            return {}

    def _file(self, task: Task, suffix: str = "json") -> Path:
        assert self.folder is not None
        return self.folder / f"{task.name}.{suffix}"


def digest(content: Any, files: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """Of nested content, and of files by name."""
    made = hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=12)
    for name, data in sorted(files.items()):
        made.update(f"{name} {len(data)} ".encode() + data)
    return made.hexdigest()


@cache
def code_mark(package: Path = PACKAGE) -> str:
    """Changes when any module or table does that may make numbers: all but those that only tell them, and the shipped acceptance, which says how far
    runs are moved. A list of those that do would one day be short of one, and stale results would pass for new; and a checkout changes without its
    version."""
    sources = {path.relative_to(package): path.read_bytes() for kind in ("py", "csv") for path in package.rglob(f"*.{kind}")}
    files = {name.as_posix(): content for name, content in sources.items() if name.parts[0] not in ONLY_TELL}
    library = {f"acceptance/{name}": read_bytes(folder / FILE) for name, folder in acceptances().items()}
    return digest(version("dsim"), files | library)

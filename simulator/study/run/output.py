"""The output folder of a run: result.json and the tidy tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.reading.json_files import parse_json
from simulator.reading.opening import read_text
from simulator.study.run.place import KEPT, kind_of
from simulator.study.run.result import PointRow, RunResult
from simulator.study.run.tables import points_table, write_csv, write_parquet
from simulator.study.run.wording import count


def write_output(result: RunResult, rows: Sequence[PointRow], folder: Path) -> None:
    """result.json, points.csv, points.parquet and, where there is one, validation.json; each whole or not at all, the same result in the
    same bytes. What an earlier result validated is removed."""
    write_json(result.to_json(), folder / "result.json")
    if result.validation is not None:
        write_json(result.validation.to_json(), folder / "validation.json")
    else:
        (folder / "validation.json").unlink(missing_ok=True)
    table = points_table(rows)
    write_csv(table, folder / "points.csv")
    write_parquet(table, folder / "points.parquet")


def write_json(data: Any, path: Path) -> None:
    """Readable JSON, whole or not at all."""
    write_whole(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_result(path: Path) -> RunResult:
    """A run's result from its folder or file. Raises DsimError where there is none."""
    remedy = "name the --out folder of a dsim run"
    file, content = result_content(path, remedy)
    if kind_of(content) == "plan":
        raise DsimError("expected the result of a run, got that of a plan", where=file, remedy=remedy)
    return RunResult.from_json(content, file, remedy)


def result_content(path: Path, remedy: str) -> tuple[Path, Any]:
    """The file of a result, by its folder or itself, and what is in it. Raises DsimError."""
    file = path / "result.json" if path.is_dir() else path
    if path.is_dir() and not file.exists() and (unfinished := next((n for n in KEPT.values() if (path / n).is_dir()), None)):
        done = count(len(list((path / unfinished).glob("*.json"))), unfinished.removesuffix("s"))
        raise DsimError(f"has no result yet ({done} done)", where=path, remedy="run the same command again to resume")
    return file, parse_json(read_text(file, remedy=remedy), file, remedy=remedy)

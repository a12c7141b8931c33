"""The output folder of a run: result.json and the tidy tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.study.run.result import PointRow, RunResult
from simulator.study.run.tables import points_table, write_csv, write_parquet


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
    file = path / "result.json" if path.is_dir() else path
    remedy = "name the --out folder of a dsim run"
    try:
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        raise DsimError("no such result", where=file, remedy=remedy) from None
    except (OSError, ValueError) as problem:
        raise DsimError(f"not a result ({problem})", where=file, remedy="run the scenario again") from None
    return RunResult.from_json(content, file, remedy)

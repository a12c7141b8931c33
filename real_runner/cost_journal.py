"""What has been measured, line by line in a file, so that an interruption loses at most the cell at hand."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from real_runner.cost_grid import CostCell
from real_runner.timing import Quantiles
from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.progress import Progress
from simulator.reading.json_files import json_lines


class Journal:
    """Lines of JSON: the plan first, then cells, what did not fit in memory, and how far the grid was grown."""

    def __init__(self, file: Path, plan: dict[str, Any], progress: Progress) -> None:
        self._file = file
        self.first: dict[CostCell, Quantiles] = {}
        self.again: dict[CostCell, Quantiles] = {}
        self.lost: list[tuple[CostCell, int]] = []  # a cell that did not fit, and the slots there were
        self.grown: list[bool] = []  # was the next step of the grid taken
        self.spent: dict[str, list[float]] = {}  # seconds that cells took, by kind
        lines = self._lines()
        plan = json.loads(json.dumps(plan))
        if lines and lines[0].get("plan") == plan:
            for line in lines[1:]:
                try:
                    self._take(line)
                except (KeyError, TypeError):
                    raise DsimError("has a line that is not a measured cell", where=file, remedy="remove the folder to measure again") from None
            write_whole(file, "".join(json.dumps(line) + "\n" for line in lines))  # without a torn last line
        else:
            if lines:
                progress.say(f"{file} belongs to another measurement ({_difference(lines[0].get('plan'), plan)}): starting again")
            write_whole(file, json.dumps({"plan": plan}) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        """Up to the first line that is no JSON object; a last line cut short is one."""
        lines: list[dict[str, Any]] = []
        with suppress(DsimError):
            lines.extend(line for _, line in json_lines(self._file, nan="kept"))
        return lines

    def _take(self, line: dict[str, Any]) -> None:
        if "grown" in line:
            self.grown.append(line["grown"])
        elif "slots" in line:
            self.lost.append((CostCell(**line["cell"]), line["slots"]))
        else:
            cell, spread = CostCell(**line["cell"]), Quantiles(**line["spread"])
            (self.again if line["again"] else self.first)[cell] = spread
            self.spent.setdefault(cell.kind, []).append(line["spent_s"])

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with self._file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise DsimError(f"cannot be written ({error.strerror})", where=self._file, remedy="free space and run again to resume") from error
        self._take(line)

    @property
    def spent_s(self) -> float:
        """Seconds of all cells."""
        return sum(map(sum, self.spent.values()))

    def measured(self, cell: CostCell, spread: Quantiles, spent_s: float, again: bool) -> None:
        self._append({"cell": asdict(cell), "spread": asdict(spread), "spent_s": round(spent_s, 6), "again": again})

    def did_not_fit(self, cell: CostCell, slots: int) -> None:
        self._append({"cell": asdict(cell), "slots": slots})

    def decide(self, at: int, grow: bool) -> bool:
        """Is step `at` of the grid taken: as was decided before, or as decided now."""
        if at >= len(self.grown):
            self._append({"grown": grow})
        return self.grown[at]


def _difference(before: Any, now: dict[str, Any]) -> str:
    if not isinstance(before, dict):
        return "not a journal of dsim"
    return ", ".join(key for key in now if before.get(key) != now[key]) or "fewer options"

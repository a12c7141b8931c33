"""The output folder of a plan: result.json and fleets.csv."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.study.planning.result import PlanResult
from simulator.study.run.output import result_content, write_json
from simulator.study.run.place import kind_of
from simulator.study.run.result import RunResult
from simulator.study.run.tables import write_csv


def write_plan(result: PlanResult, folder: Path) -> None:
    """Both files; each whole or not at all."""
    import pandas as pd

    write_json(result.to_json(), folder / "result.json")
    write_csv(pd.DataFrame(fleet_rows(result)), folder / "fleets.csv")


def read_either(path: Path, remedy: str = "name the --out folder of a dsim run or plan") -> RunResult | PlanResult:
    """The result of a run or a plan, from its folder or file. Raises DsimError where there is none."""
    file, content = result_content(path, remedy)
    kind = PlanResult if kind_of(content) == "plan" else RunResult
    return kind.from_json(content, file, remedy)


def fleet_rows(result: PlanResult) -> list[dict[str, Any]]:
    """One row a simulated fleet of a plan: which choice, how large, and the means of its metrics."""
    return [
        {"choice": choice.label, "profile": choice.profile, "policy": choice.policy, "setting": choice.setting}
        | fleet.model_dump(exclude={"metrics"})
        | {name: fleet.mean(name) for name in fleet.metrics}
        for choice in result.cells
        for fleet in choice.points
    ]

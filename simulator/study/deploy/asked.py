"""What to deploy, by the name of a policy: of a scenario, a plan, or the result of either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from simulator import shipped
from simulator.errors import DsimError
from simulator.reading.yaml_files import read_yaml
from simulator.study.deploy.launch import USUAL, launch, recommended
from simulator.study.planning.output import read_either
from simulator.study.planning.question import Plan, load_plan, make_plan
from simulator.study.planning.result import PlanResult
from simulator.study.run.launch import Launch
from simulator.study.run.scenario import load_scenario, validate_scenario


def launch_of(what: Path, name: str | None, overrides: Sequence[str] = (), engines: Sequence[str] = USUAL) -> Launch:
    """The commands for a policy of a scenario's or plan's file, or of the result folder of either; without a name for what the result recommends, or
    for the only policy. Raises DsimError."""
    if what.is_dir() or what.suffix == ".json":
        if overrides:
            raise DsimError("a result has no keys to override", where=what, key="--set", remedy="name the scenario's file")
        return _of_result(what, name, engines)
    what = shipped.scenario(what)
    content = read_yaml(what)
    if "profiles" in content or "load_rps" in content:
        return _of_plan(load_plan(what, overrides), name, engines)
    scenario = load_scenario(what, overrides)
    return launch(scenario, name or _only([policy.name for policy in scenario.policies], what), engines)


def _of_result(what: Path, name: str | None, engines: Sequence[str]) -> Launch:
    """From the commands in it, or its file as it was read; paths in that are relative to the working folder."""
    result = read_either(what)
    if isinstance(result, PlanResult):
        if result.launch is not None and name in (None, result.launch.policy) and engines == USUAL:
            return result.launch
        cells = {label: (cell.cell, cell.replicas or 1) for cell in reversed(result.cells) for label in (cell.policy, cell.label)}
        return _of_plan(make_plan(result.plan.content, _file(result.plan.file)), name or result.chosen.label, engines, cells)
    name = name or recommended(result)
    if result.launch is not None and name in (None, result.launch.policy) and engines == USUAL:
        return result.launch
    scenario = validate_scenario(result.scenario.content, _file(result.scenario.file))
    return launch(scenario, name or _only([policy.name for policy in scenario.policies], what), engines)


def _file(shown: str) -> Path:
    """The file of a result by the name that it shows: a shipped one, or relative to the working folder."""
    path = Path(shown)
    return shipped.scenario(path) if path.parts[:1] == ("scenarios",) else path


def _of_plan(plan: Plan, name: str | None, engines: Sequence[str], cells: Mapping[str, tuple[int, int]] | None = None) -> Launch:
    """A choice of a plan by its policy or label; `cells` has the replicas of those that were planned."""
    cells = cells or {label: (cell, 1) for cell in reversed(range(len(plan.choices))) for label in (plan.choices[cell].policy, plan.label(cell))}
    name = name or _only(list(dict.fromkeys(choice.policy for choice in plan.choices)), plan.file)
    if name not in cells:
        raise DsimError(f"no policy '{name}'", where=plan.file, key="--policy", remedy=f"policies: {', '.join(cells)}")
    cell, replicas = cells[name]
    return launch(plan.scenario(cell, replicas), plan.choices[cell].policy, engines)


def _only(names: Sequence[str], where: Path) -> str:
    if len(names) > 1:
        raise DsimError(f"has {len(names)} policies", where=where, key="--policy", remedy=f"give one of {', '.join(names)}")
    return names[0]


def plan_with_launch(result: PlanResult, plan: Plan) -> PlanResult:
    """A plan's result with the commands for what it chose."""
    best = result.chosen
    assert best.replicas is not None
    return result.model_copy(update={"launch": launch(plan.scenario(best.cell, best.replicas), best.policy)})

"""The scenarios that ship: each loads, names what is there, runs; and how a scenario is read and overridden."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simulator.errors import ScenarioError
from simulator.study.run.conditions import conditions
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import sweep
from simulator.study.validation.compare import check_checks
from tests.conftest import SCENARIO

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = sorted(path for path in (ROOT / "scenarios").glob("*.yaml") if not path.stem.endswith("-plan"))  # plans have tests of their own
TRACED = {"azure-conversation": "azure2023/AzureLLMInferenceTrace_conv.csv", "mooncake": "mooncake_fast25/conversation_trace.jsonl"}
SMALL = ("run.replications=1", "run.requests=4", "run.warmup_s=0")


@pytest.fixture
def own_trace(tmp_path: Path) -> Callable[[str], Path]:
    """A few requests in the format of a scenario's trace."""

    def write(name: str) -> Path:
        path = tmp_path / Path(TRACED[name]).name
        if path.suffix == ".jsonl":
            rows = [{"timestamp": 300 * i, "input_length": 600, "output_length": 5 + i, "hash_ids": [0, i]} for i in range(8)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            rows = [f"2023-11-16 18:15:{40 + i}.0000000,{100 + i},{5 + i}\n" for i in range(8)]
            path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(rows))
        return path

    return write


def load(path: Path, own_trace: Callable[[str], Path], *overrides: str) -> Scenario:
    trace = [f"workload.trace.path={own_trace(path.stem)}"] if path.stem in TRACED else []
    return load_scenario(path, [*trace, *overrides])


def test_there_are_some() -> None:
    assert {"quickstart", "v4-flash-pareto", *TRACED} <= {path.stem for path in SCENARIOS}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_shipped_scenario_loads(path: Path, own_trace: Callable[[str], Path]) -> None:
    scenario = load(path, own_trace)
    check_checks(scenario)
    assert scenario.name == path.stem
    assert scenario.question.endswith(("?", "."))
    assert scenario.run.replications >= 2
    assert not Path(scenario.profile).is_absolute()
    assert f"`{path.name}`" in (ROOT / "scenarios" / "README.md").read_text()


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_shipped_scenario_runs(path: Path, own_trace: Callable[[str], Path]) -> None:
    """One small point of each policy."""
    scenario = load(path, own_trace)
    first = min(scenario.loads(scenario.policies[0]))
    fewer = [f"policies.{i}.load=[{first}]" for i, policy in enumerate(scenario.policies) if policy.load]
    short = ["run.duration_s=3"] if scenario.run.duration_s else []
    rows = sweep(load(path, own_trace, *SMALL, *short, f"load=[{first}]", *fewer), workers=1)
    assert [row.policy for row in rows] == [policy.name for policy in scenario.policies]
    assert all(row.requests > 0 for row in rows)


@pytest.mark.shared
@pytest.mark.parametrize("name", TRACED)
def test_with_the_real_trace(name: str, shared: Path) -> None:
    path = ROOT / "scenarios" / f"{name}.yaml"
    scenario = load_scenario(path, [f"workload.trace.path={shared / 'traffic' / TRACED[name]}"])
    assert scenario.workload.trace is not None
    trace = scenario.workload.trace.load(scenario.folder)
    assert len(trace) > 3000
    assert scenario.workload.trace.window_s is not None
    assert trace.arrival_s[-1] <= np.diff(scenario.workload.trace.window_s)


@pytest.mark.parametrize("name", TRACED)
def test_without_the_trace_the_error_says_how_to_get_it(name: str, world: Path) -> None:
    with pytest.raises(Exception, match=r"run `dsim traces get .*` or pass --set workload.trace.path=FILE"):
        load_scenario(ROOT / "scenarios" / f"{name}.yaml")


def test_quickstart_from_the_terminal(world: Path, dsim: Callable[..., Any]) -> None:
    arguments = ("--set", "load=[4, 8]", "--set", "run.replications=2", "--set", "run.requests=8")
    said = dsim("run", ROOT / "scenarios" / "quickstart.yaml", "--out", "out", "--workers", 1, *arguments)
    assert said.code == 0
    for policy in ("MTP-1", "DSpark-5 fixed", "DSpark-5 scheduled"):
        assert policy in said.out
    result = json.loads((world / "out" / "result.json").read_text())
    assert len(result["frontier"]) == 6
    assert result["scenario"]["overrides"] == list(arguments[1::2])
    assert {row["provenance"] for row in result["profile"]["provenance"]} <= {"fitted", "synthetic", "published", "measured", "imported"}


def test_the_example_of_the_manual_loads(world: Path) -> None:
    text = (ROOT / "docs" / "scenarios.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    folder = world / "scenarios"
    folder.mkdir()
    shutil.copytree(ROOT / "profiles" / "deepseek-v4-flash", world / "profiles" / "deepseek-v4-flash")
    (folder / "example.yaml").write_text(example)
    assert load_scenario(folder / "example.yaml").name == "example"


def test_overrides(world: Path) -> None:
    path = world / "small.yaml"
    scenario = load_scenario(path, ["policies.MTP-1.load=[4]", "load.0=3", "fleet.replicas=2", "run.seed=9", "engine.prefill={kind: instant}"])
    assert scenario.policies[1].load == [4]
    assert scenario.load == [3, 6]
    assert scenario.fleet.replicas == 2
    assert scenario.run.seed == 9
    assert scenario.content["run"]["seed"] == 9
    assert load_scenario(path, ["question=a=b"]).question == "a=b"
    with pytest.raises(ScenarioError, match=r"^--set: run\.seed: is set more than once; keep one$"):
        load_scenario(path, ["run.seed=1", "run.seed=2"])


def test_the_profile_is_found_by_name_above(world: Path) -> None:
    deep = world / "a" / "b"
    deep.mkdir(parents=True)
    (world / "profiles").mkdir()
    shutil.move(world / "tiny", world / "profiles" / "tiny")
    shutil.move(world / "small.yaml", deep / "small.yaml")
    assert load_scenario(deep / "small.yaml").known.name == "tiny"


def test_frozen(world: Path) -> None:
    scenario = load_scenario(world / "small.yaml")
    with pytest.raises(Exception, match="frozen"):
        scenario.name = "other"  # type: ignore[misc]


def test_a_trace_may_name_domains(world: Path, scenario: Callable[..., Path]) -> None:
    (world / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens,domain\n0,5,5,chat\n1,5,5,code\n2,5,5,code\n")
    path = scenario(workload={"trace": {"path": "t.csv"}}, load=[1], run={"replications": 1, "warmup_s": 0})
    assert [row.requests for row in sweep(load_scenario(path), workers=1)] == [3, 3, 3]


def test_the_first_of_many_mistakes_is_an_unknown_key(world: Path) -> None:
    """For a misspelt key makes the right one missing, and the typo is what helps."""
    content = yaml.safe_load((world / "small.yaml").read_text())
    content["workloda"] = content.pop("workload")
    (world / "small.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ScenarioError, match="did you mean 'workload'"):
        load_scenario(world / "small.yaml")


def test_the_conditions_say_how_long_users_pause(scenario: Callable[..., Path]) -> None:
    def closed_loop(**arrivals: float) -> str:
        workload = SCENARIO["workload"] | {"arrivals": {"kind": "closed_loop", **arrivals}}
        return next(line for line in conditions(load_scenario(scenario(workload=workload))) if line.startswith("Closed loop"))

    assert "users send the next request at once" in closed_loop()
    assert "users pause before the next request (exponential, 2.5 s on average)" in closed_loop(think_s=2.5)
    assert "users pause before the next request (always 9 s)" in closed_loop(think_s={"kind": "fixed", "seconds": 9})

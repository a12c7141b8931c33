"""What comes with dsim, by name and from anywhere; and a file to begin with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import dsim as interface
from simulator import shipped
from simulator.measurements.profile import load_profile
from simulator.study.planning.question import load_plan
from simulator.study.run.scenario import load_scenario

Dsim = Callable[..., Any]
SMALL = ("--workers", 1, "--no-report", "--set", "run.replications=2")


def test_names_in_an_empty_folder(world: Path, dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shipped scenario runs by its name, and by the path that it has in the repository."""
    (world / "empty").mkdir()
    monkeypatch.chdir(world / "empty")
    for name in ("quickstart", "scenarios/quickstart.yaml"):
        said = dsim("run", name, "--out", "out", *SMALL, "--set", "load=[8]", "--set", "run.requests=8", "--set", "profile=deepseek-v4-pro")
        assert (said.code, said.err) == (0, ""), said
        assert json.loads(Path("out/result.json").read_text())["profile"]["name"] == "deepseek-v4-pro"
    for name in ("deepseek-v4-flash", "profiles/deepseek-v4-flash"):
        assert load_profile(name).name == "deepseek-v4-flash"
        assert dsim("profile", "check", name).code == 0


def test_published_comparisons_away_from_the_repository(world: Path, dsim: Dsim) -> None:
    said = dsim("validate", "--published", "--only", "nothing")
    assert (said.code, said.out) == (2, "")
    assert "v4-flash-pareto" in said.err  # one of those that there are


def test_a_file_or_folder_comes_before_a_shipped_one(world: Path, dsim: Dsim) -> None:
    (world / "small.yaml").rename(world / "quickstart")
    (world / "tiny").rename(world / "deepseek-v4-flash")
    content = yaml.safe_load((world / "quickstart").read_text()) | {"profile": "deepseek-v4-flash"}
    (world / "quickstart").write_text(yaml.safe_dump(content))
    assert load_scenario("quickstart").known.name == "tiny"
    assert load_profile("deepseek-v4-flash").name == "tiny"


def test_a_scenario_anywhere_names_a_shipped_profile(world: Path, scenario: Callable[..., Path]) -> None:
    (world / "a" / "b").mkdir(parents=True)
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 5}, "output_tokens": {"kind": "fixed", "tokens": 5}}
    policies = [{"name": "plain", "verification": {"kind": "none"}}]
    workload = {"arrivals": {"kind": "closed_loop"}, **lengths}
    path = scenario("a/b/own.yaml", profile="cpu-smollm2-135m", policies=policies, workload=workload)
    assert load_scenario(path).known.name == "cpu-smollm2-135m"


@pytest.mark.parametrize(
    ("words", "problem", "near"),
    [
        (("run", "quikstart"), "quikstart: no such file", "'quickstart'"),
        (("run", "elsewhere/quickstart.yaml"), "elsewhere/quickstart.yaml: no such file", "'quickstart'"),
        (("plan", "azur-plan"), "azur-plan: no such file", "'azure-plan'"),
        (("run", "quite-another.yaml"), "quite-another.yaml: no such file", "check the path"),
        (("profile", "check", "deepseek-v4-flsh"), "no profile at 'deepseek-v4-flsh'", "'deepseek-v4-flash'"),
        (("run", "small.yaml", "--set", "profile=../deepseek-v4-prof"), "small.yaml: profile: no profile at", "'deepseek-v4-pro'"),
        (("run", "small.yaml", "--set", "profile=another"), "small.yaml: profile: no profile at 'another'", "profiles there: tiny"),
        (("run", "small.yaml", "--set", "engine.scheduler_profile=deepseek"), "engine.scheduler_profile: no profile at", "'deepseek-v4-pro'"),
    ],
)
def test_what_does_not_exist(words: tuple[str, ...], problem: str, near: str, world: Path, dsim: Dsim) -> None:
    said = dsim(*words)
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert problem in said.err
    assert near in said.err
    assert not (world / "reports").exists()


def test_lists(dsim: Dsim) -> None:
    for kind, folder in (("profile", shipped.profiles()), ("scenario", shipped.scenarios())):
        text, rows = dsim(kind, "list").out.splitlines(), json.loads(dsim(kind, "list", "--format", "json").out)
        assert [row["name"] for row in rows] == list(folder)
        assert len(text) == len(rows) >= 7
        assert all(line.startswith(row["name"]) and row["description"] in line for line, row in zip(text, rows, strict=True))
    kinds = {row["name"]: row["kind"] for row in rows}
    assert (kinds["quickstart"], kinds["azure-plan"]) == ("scenario", "plan")


def test_init_writes_a_scenario_and_a_plan_that_run(world: Path, dsim: Dsim) -> None:
    assert dsim("init", "new").out.splitlines()[0] == f"written: {Path('new/scenario.yaml')}"
    assert json.loads(dsim("init", "new", "--plan", "--format", "json").out) == {"path": str(Path("new/plan.yaml"))}
    scenario, plan = load_scenario(world / "new" / "scenario.yaml"), load_plan(world / "new" / "plan.yaml")
    assert scenario.known.name == plan.choices[0].scenario.known.name == "deepseek-v4-flash"
    for name in ("scenario", "plan"):
        lines = (world / "new" / f"{name}.yaml").read_text().splitlines()
        assert sum("#" in line for line in lines) >= 10
        assert max(map(len, lines)) <= 150
    said = dsim("run", "new/scenario.yaml", *SMALL, "--set", "load=[16, 32]", "--set", "run.requests=16")
    assert (said.code, said.err) == (0, "")
    assert "no speculation" in said.out


@pytest.mark.parametrize(
    "folder, name", [("chat", "chat-scenario"), ("a/2026-01-02", "2026-01-02-scenario"), (".", "my-scenario"), ("two words", "my-scenario")]
)
def test_init_names_the_scenario_after_its_folder(folder: str, name: str, world: Path, dsim: Dsim) -> None:
    """Two of them, run from one folder, do not replace each other's results; nor does a plan replace a scenario's."""
    assert dsim("init", folder).code == 0
    assert dsim("init", folder, "--plan").code == 0
    assert load_scenario(world / folder / "scenario.yaml").name == name
    assert load_plan(world / folder / "plan.yaml").question.name == name.replace("scenario", "plan")
    assert f"reports/{name}" in (world / folder / "scenario.yaml").read_text()


def test_init_here(world: Path, dsim: Dsim) -> None:
    assert dsim("init").code == 0
    assert (world / "scenario.yaml").is_file()


def test_init_overwrites_nothing(world: Path, dsim: Dsim) -> None:
    (world / "scenario.yaml").write_text("mine")
    said = dsim("init")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: scenario.yaml: already exists; name another folder, or move the file away\n"
    assert (world / "scenario.yaml").read_text() == "mine"
    (world / "linked").mkdir()
    (world / "linked" / "scenario.yaml").symlink_to("nowhere.yaml")
    assert "already exists" in dsim("init", "linked").err
    said = dsim("init", "small.yaml")  # a file, no folder
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_version_and_completion(dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))  # whichever shell started the tests
    said = dsim("--version")
    assert (said.code, said.out) == (0, f"dsim {interface.__version__}\n")
    done = subprocess.run([sys.executable, "-m", "dsim", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == said.out
    assert "--install-completion" in dsim("--help").out
    assert "_DSIM_COMPLETE" in dsim("--show-completion", "bash").out


def test_the_public_names() -> None:
    assert set(interface.__all__) == {"StepView", "VerificationPolicy", "__version__", "evaluate", "load_scenario", "plan", "profile"}
    assert interface.load_scenario is load_scenario
    assert interface.profile("deepseek-v4-flash").profile == load_profile(Path("deepseek-v4-flash"))
    with pytest.raises(AttributeError):
        interface.nothing  # noqa: B018

"""What is typed wrong on the command line, folders that hold something else, and machines that are full: one line each, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dsim import __main__ as entry
from tests.cli.conftest import Refuse
from tests.conftest import Dsim

COMMANDS = {
    "run": "dsim run: missing argument 'SCENARIO.yaml'; see dsim run --help",
    "rnu small.yaml": "dsim: no such command: rnu; did you mean 'run'?",
    "simulate small.yaml": "no such command: simulate; use dsim run",
    "small.yaml": "no such command: small.yaml; use dsim run small.yaml",
    "small.yaml run": "use dsim run small.yaml",
    "profile chekc tiny": "dsim profile: no such command: chekc; did you mean 'check'?",
    "profile tiny": "use dsim profile show tiny",
    "run small.yaml --profile tiny --profile nowhere": "small.yaml: profile: no profile at",
    "run small.yaml --profile tiny --profile ./tiny": "dsim run: --profile: two profiles are called 'tiny'; give one of them another name",
    "run small.yaml other.yaml": "dsim run: unexpected argument: other.yaml",
    "run small.yaml --set load=[1, 2]": "unexpected argument: 2]; quote a value with spaces: --set 'load=[1, 2]'",
    "run small.yaml --wrokers 2": "no such option: --wrokers; did you mean '--workers'?",
    "run small.yaml --output x": "no such option: --output; did you mean '--out'?",
    "run small.yaml --json": "no such option: --json; use --format json",
    "run small.yaml -o x": "no such option: -o; use --out",
    "run small.yaml --seed 3": "no such option: --seed; set a key of the file with --set run.seed=VALUE",
    "run small.yaml --format xml": "dsim run: --format: 'xml' is not one of 'text', 'json'",
    "run small.yaml --workers many": "dsim run: --workers: expected a whole number, got 'many'",
    "run small.yaml --workers 0": "--workers: expected 1 to 1024, got 0",
    "run small.yaml --workers 10000": "--workers: expected 1 to 1024, got 10000",
    "run small.yaml --workers": "option '--workers' requires an argument",
    "run small.yaml --set": "option '--set' requires an argument",
    "probe --base-url http://localhost:9 --model x --out p --requests 1": "dsim probe: --requests: expected a number of at least 2, got '1'",
    "compare a": "dsim compare: missing argument 'B'",
    "schema foo": "'foo' is not one of 'scenario', 'plan'",
    "fit t.csv": "missing option '--out'",
    "validate small.yaml --only foo": "dsim validate: --only: expected --published or --silicon with it, got none",
    "validate small.yaml --tenth": "--tenth: expected --silicon with it, got none",
    "validate --published --tenth": "--tenth: expected --silicon with it, got none",
    "validate small.yaml --measured X": "--measured: expected --published with it, got none",
    "validate --silicon --measured X": "--measured: expected --published with it, got none",
    "validate small.yaml --serving turns=2": "--serving: expected --engine with it, got none",
    "validate --published --engine X": "--engine: expected a scenario with it, got none",
    "validate --published --set load=2": "--set: expected a scenario with it, got none",
    "validate small.yaml --engine nowhere": "nowhere: --engine: no folder target/ in it",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, refuse: Refuse) -> None:
    refuse(*command.split(), says=COMMANDS[command])


def test_an_empty_argument(refuse: Refuse) -> None:
    refuse("run", "small.yaml", "--out", "", says="--out: an argument is empty")
    refuse("run", "", says="run: an argument is empty")


def test_an_argument_that_is_not_text(refuse: Refuse) -> None:
    refuse("run", "small.yaml", "--out", "o\udcff", says="--out: got 'o\\udcff', which is not UTF-8 text")


@pytest.fixture
def out(world: Path) -> Callable[..., None]:
    """Write out/result.json."""

    def write(**content: Any) -> None:
        (world / "out").mkdir(exist_ok=True)
        (world / "out" / "result.json").write_text(json.dumps(content))

    return write


def test_out_holds_another_result(out: Callable[..., None], refuse: Refuse) -> None:
    out(scenario={"name": "other", "file": "other.yaml"})
    for command in (("run", "small.yaml"), ("plan", "plan.yaml")):
        refuse(*command, "--out", "out", says="out: holds the result of scenario 'other' (other.yaml); | --force")
    out(scenario={"name": "small", "file": "copy.yaml"})
    refuse("run", "small.yaml", "--out", "out", says="holds the result of scenario 'small' (copy.yaml)")
    out(kind="plan", plan={"name": "small", "file": "small.yaml"})
    refuse("run", "small.yaml", "--out", "out", says="holds the result of plan 'small'")
    out(accuracy=0.9)
    refuse("run", "small.yaml", "--out", "out", says="not dsim's")
    refuse("run", "small.yaml", "--out", "tiny", says="tiny: holds a profile; use another --out")


STRANGERS = {
    "run": ("validation.json", "report.html", "report.md", "points.csv", "points.parquet", "points/0-2-0.json", "pareto.svg", "launch/vllm.sh"),
    "plan": ("report.html", "fleets.csv", "trials/x.json", "plan_frontier.png", "launch/sglang.sh"),
}


@pytest.mark.parametrize("command", STRANGERS)
def test_files_of_others_are_neither_replaced_nor_deleted(command: str, world: Path, refuse: Refuse) -> None:
    for name in STRANGERS[command]:
        file = world / "theirs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("theirs")
        says = f"theirs: holds '{name.partition('/')[0]}', which dsim has not made there; use another --out, or replace it with --force"
        refuse(command, "small.yaml" if command == "run" else "plan.yaml", "--out", "theirs", says=says)
        file.unlink()


@pytest.mark.parametrize("name", STRANGERS["run"])
def test_a_result_is_no_marker(name: str, world: Path, refuse: Refuse, out: Callable[..., None]) -> None:
    """Anybody can write a result.json; what lies beside it stays."""
    (world / "out" / name).parent.mkdir(parents=True)
    (world / "out" / name).write_text("theirs")
    out(scenario={"name": "small", "file": "small.yaml"})
    refuse("run", "small.yaml", "--out", "out", says="which dsim has not made there; use another --out, or replace it with --force")


def test_a_script_of_others_in_a_folder_of_ours(world: Path, refuse: Refuse) -> None:
    (world / "out" / "launch").mkdir(parents=True)
    (world / "out" / ".dsim").write_text('{"made": ["launch"]}')
    (world / "out" / "launch" / "vllm.sh").write_text("theirs")
    refuse("run", "small.yaml", "--out", "out", says="out/launch: holds 'vllm.sh', which dsim has not made there")


@pytest.mark.parametrize("name", ["points.csv", "points"])
def test_a_folder_is_no_file_and_a_file_no_folder(name: str, world: Path, refuse: Refuse) -> None:
    (world / "out").mkdir()
    (world / "out" / ".dsim").write_text(json.dumps({"made": [name]}))
    (world / "out" / name).mkdir() if name.endswith("csv") else (world / "out" / name).write_text("theirs")
    for more in ((), ("--force",)):
        refuse("run", "small.yaml", "--out", "out", *more, says=f"out/{name}: expected a f")


def test_out_is_a_folder_of_its_own(world: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(world))
    refuse("run", "small.yaml", "--out", ".", says=".: is your home folder; name a folder of its own with --out")
    refuse("run", "small.yaml", "--out", "/", says="/: is the root folder")
    (world / "out").mkdir()
    (world / "out" / "points").symlink_to(world / "tiny")
    for more in ((), ("--force",)):
        refuse("run", "small.yaml", "--out", "out", *more, says="out/points: is a link to another folder; remove the link")


def test_an_earlier_result_is_replaced_and_that_is_said(world: Path, dsim: Dsim, sketched: None) -> None:
    small = ("run", "small.yaml", "--out", "out", "--workers", 1, "--set", "load=[2]", "--set", "run.replications=1")
    (world / "out" / "points").mkdir(parents=True)
    (world / "out" / "diary.txt").write_text("mine")
    assert "earlier" not in dsim(*small).out
    (world / "out" / "validation.json").write_text("{}")
    out = dsim(*small, "--no-report").out
    assert "written to out (in place of the earlier result)\nremoved: validation.json, the earlier page and pictures\n" in out
    assert (world / "out" / "diary.txt").read_text() == "mine"
    (world / "out" / "result.json").unlink()  # an interrupted run has points alone
    for name in ("points.csv", "points.parquet", "launch"):
        path = world / "out" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert dsim(*small, "--no-report").code == 0


def test_out_cannot_be_written(refuse: Refuse) -> None:
    refuse("run", "small.yaml", "--out", "small.yaml", says="small.yaml: cannot write (File exists)")
    refuse("run", "small.yaml", "--out", "small.yaml/x", says="cannot write (Not a directory)")
    refuse("plan", "plan.yaml", "--out", "/proc/dsim/x", says="/proc/dsim/x: cannot write")


def test_the_same_scenario_is_resumed_and_another_replaced_if_that_is_wanted(world: Path, dsim: Dsim, out: Callable[..., None]) -> None:
    small = ("run", "small.yaml", "--out", "out", "--workers", 1, "--no-report", "--set", "load=[2]", "--set", "run.replications=1")
    out(scenario={"name": "other", "file": "other.yaml"})
    assert dsim(*small, "--force").code == 0
    assert dsim(*small, "--set", "run.requests=13").code == 0
    os.rename("out", "moved")
    assert dsim("run", str(world / "small.yaml"), *small[2:3], "moved", *small[4:]).code == 0


def test_compare(world: Path, out: Callable[..., None], refuse: Refuse) -> None:
    out(kind="plan", plan={"name": "p", "file": "p.yaml"})
    refuse("compare", "out", "out", says="out/result.json: expected the result of a run, got that of a plan")
    (world / "half" / "points").mkdir(parents=True)
    (world / "half" / "points" / "0-2-0.json").write_text("{}")
    refuse("compare", "half", "out", says="half: has no result yet (1 point done); run the same command again")
    refuse("compare", "small.yaml", "out", says="small.yaml: not valid JSON")
    refuse("compare", "tiny/head.parquet", "out", says="tiny/head.parquet: is not UTF-8 text")


def test_compare_with_itself(world: Path, dsim: Dsim) -> None:
    assert dsim("run", "small.yaml", "--out", "out", "--no-report", "--set", "load=[2]", "--set", "run.replications=1", "--workers", 1).code == 0
    result = dsim("compare", "out", "out/")
    assert (result.code, result.err) == (2, "error: dsim compare: got out twice; name two results\n")


def test_ctrl_c_while_modules_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "simulator.cli", Interrupted("simulator.cli"))
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 130


def test_no_standard_output(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `>&-`: the work is done all the same."""
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.argv", ["dsim", "profile", "check", "tiny"])
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 0


@pytest.mark.parametrize(
    "error, says", [(MemoryError(), "out of memory"), (OSError(28, "No space left on device", "out/x.png"), "out/x.png: No space")]
)
def test_a_machine_that_is_full(error: Exception, says: str, dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("simulator.study.run.scenario.load_scenario", fail)
    result = dsim("run", "small.yaml")
    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1


COSTS = {
    "nothing": ({"base_s": 0, "per_token_s": 0}, "takes 0 s"),
    "milliseconds": ({"base_s": 10.0}, "takes 10.001"),
}


@pytest.mark.parametrize("case", COSTS)
def test_costs_in_another_unit(case: str, edit_profile: Callable[..., None], refuse: Refuse) -> None:
    change, says = COSTS[case]
    edit_profile(lambda c: (c["costs"]["verify"].update(change), c["costs"]["overhead"].update(seconds=change["base_s"] / 10_000)))
    refuse("run", "small.yaml", says=f"tiny/profile.yaml: costs.verify: a step of one token {says} | give all costs in seconds")


TABLES = {
    "falling": ("tokens,p50_s\n1,0.5\n64,0.1\n", "falls from 0.5 s for 1 token to 0.1 s for 64"),
    "regime": ("tokens,p50_s,regime\n1,0.1,graph\n2,0.1,egaer\n", "v.csv:3: regime: expected graph or eager, got 'egaer'"),
}


@pytest.mark.parametrize("case", TABLES)
def test_cost_table(case: str, world: Path, edit_profile: Callable[..., None], refuse: Refuse) -> None:
    text, says = TABLES[case]
    edit_profile(lambda c: c["costs"].update(verify={"provenance": "measured", "kind": "table", "file": "v.csv"}))
    (world / "tiny" / "v.csv").write_text(text)
    refuse("profile", "check", "tiny", says=says)


def test_a_noisy_measurement_is_not_a_mistake(world: Path, edit_profile: Callable[..., None], dsim: Any) -> None:
    """Times that fall by chance are marked as suspicious where they were measured; the profile still loads, and shows them."""
    edit_profile(lambda c: c["costs"].update(verify={"provenance": "measured", "kind": "table", "file": "v.csv"}))
    edit_profile(lambda c: c.update(suspicious=["verify: 1 token: times spread"]))
    (world / "tiny" / "v.csv").write_text(TABLES["falling"][0])
    assert dsim("profile", "check", "tiny").code == 0

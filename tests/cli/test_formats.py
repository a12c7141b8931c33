"""`--format json` is JSON on standard output and nothing else there; text is for people; the help is quick."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.acceptance_made import about_measured, save_acceptance

Dsim = Callable[..., Any]
QUICK = ("--workers", 1, "--set", "run.replications=2", "--set", "load=[2, 4]")
CHECKS = [
    {"kind": "curve", "policy": "plain", "table": "speed", "y": "tps_per_user", "metric": "tps_per_user_mean", "between": [1, 9], "limit_rms": 0.9}
]
HEAVY = (
    "pandas",
    "scipy",
    "matplotlib",
    "pyarrow",
    "simpy",
    "torch",
    "transformers",
    "plotext",
    "pooch",
    "jinja2",
    "numpy",
    "pydantic",
    "yaml",
    "rich",
)


def only_json(said: Any) -> Any:
    assert said.code == 0, said
    assert said.err == ""
    return json.loads(said.out, parse_constant=pytest.fail)  # NaN and Infinity are not JSON


def test_run(world: Path, dsim: Dsim) -> None:
    told = only_json(dsim("run", "small.yaml", "--out", "out", *QUICK, "--format", "json"))
    assert told == json.loads((world / "out" / "result.json").read_text())
    assert len(told["frontier"]) == 3 * 2


@pytest.mark.parametrize(("asked", "options"), [("true", ()), ("true", ("--no-prediction-interval",)), ("false", ())])
def test_a_run_predicts_unless_it_is_told_not_to(
    asked: str, options: tuple[str, ...], world: Path, dsim: Dsim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSIM_PREDICTION_INTERVAL", asked)
    result = only_json(dsim("run", "small.yaml", "--format", "json", *QUICK, *options))
    assert any("prediction" in point for point in result["frontier"]) == (asked == "true" and not options)


def test_run_into_the_default_folder(world: Path, dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    said = dsim("run", "small.yaml", *QUICK)
    assert said.code == 0
    assert (world / "reports" / "small" / "report.html").is_file()
    assert str(Path("reports/small/report.html")) in said.out
    assert "Which is faster?" in said.out
    assert "\x1b" not in said.out  # not a terminal: no colours, no bar
    assert said.err == ""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The format of every drawing, as they are made; nothing is really drawn."""
    from matplotlib.figure import Figure

    formats: list[str] = []

    def savefig(_figure: Figure, out: IO[Any], *, format: str, **_: object) -> None:
        formats.append(format)
        out.write(b"\x89PNG" if format == "png" else b'<svg viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr(Figure, "savefig", savefig)
    return formats


def test_each_picture_is_drawn_once(world: Path, dsim: Dsim, drawn: list[str]) -> None:
    assert dsim("run", "small.yaml", "--out", "out", *QUICK).code == 0
    pictures = len(list((world / "out").glob("*.png")))
    assert pictures >= 3
    assert (drawn.count("png"), drawn.count("svg")) == (pictures, 2 * pictures)  # for a wide page and a phone


def test_programs_get_the_pages_that_they_ask_for(world: Path, dsim: Dsim, drawn: list[str]) -> None:
    """With --format json nothing is drawn, and pages of an earlier result do not stay beside the new one."""
    pages = {"report.html", "report.md", "pareto.png", "pareto.svg"}
    command = ("run", "small.yaml", "--out", "out", *QUICK)
    for asked, written in ((("--format", "json", "--report"), True), (("--format", "json"), False), ((), True), (("--no-report",), False)):
        drawn.clear()
        said = dsim(*command, *asked)
        assert (said.code, bool(drawn)) == (0, written), asked
        names = {path.name for path in (world / "out").iterdir()}
        assert names & pages == (pages if written else set()), asked
        assert names >= {"result.json", "points.csv", "points.parquet"}
    assert "report.html" not in said.out


def test_a_run_for_programs_imports_nothing_that_draws(world: Path) -> None:
    code = f"""
import atexit, sys
heavy = ("matplotlib", "jinja2", "plotext", "plotly", "scipy.stats", "simulator.report.run.page")
atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))
sys.argv = ["dsim", "run", "small.yaml", "--out", "out", *map(str, {QUICK!r}), "--format", "json"]
from simulator.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=world, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_validate(world: Path, scenario: Callable[..., Path], dsim: Dsim) -> None:
    scenario(validation=CHECKS)
    told = only_json(dsim("validate", "small.yaml", "--out", "out", *QUICK, "--format", "json"))
    assert told == json.loads((world / "out" / "validation.json").read_text())
    assert told["ok"] is True


def test_compare(world: Path, dsim: Dsim) -> None:
    dsim("run", "small.yaml", "--out", "a", *QUICK)
    dsim("run", "small.yaml", "--out", "b", *QUICK, "--set", "engine.max_batch=3")
    told = only_json(dsim("compare", "a", "b/result.json", "--format", "json"))
    assert [d["key"] for d in told["scenario_differences"]] == ["scenario.engine.max_batch"]
    same = only_json(dsim("compare", "a", shutil.copytree("a", "c"), "--format", "json"))
    assert same["distinguishable"] == 0
    said = dsim("compare", "a", "b")
    assert said.code == 0
    assert "engine.max_batch" in said.out


def test_fit_and_profile_check(world: Path, dsim: Dsim) -> None:
    (world / "t.csv").write_text("concurrency,tps_per_user\n4,100\n8,90\n16,70\n")
    arguments = ("fit", "t.csv", "--accepted-length", 1.8, "--budget", 2)
    told = only_json(dsim(*arguments, "--out", "new", "--format", "json"))
    assert told["profile"] == "new"
    assert told["curve"]["measured_tokens"] == [8, 32]
    checked = only_json(dsim("profile", "check", "new", "--format", "json"))
    assert checked["drafters"]["mtp"]["gamma"] == 1
    assert checked["provenance"][0]["provenance"] == "fitted"
    assert "fitted" in dsim("profile", "check", "new").out
    assert dsim(*arguments, "--out", "new", "--force").code == 0


def test_acceptance_of_a_single_text_has_no_standard_error(world: Path, dsim: Dsim) -> None:
    made = ParametricAcceptance(conditional={"chat": [0.8]}, miscalibration=[1.0], sequences_per_domain=1, anchors_per_sequence=64)
    blocks = made.generate("mtp")
    save_acceptance(about_measured(blocks, "mine", "small", "mtp", "one text"), blocks, world / "mine", "made for a test")
    recorded = only_json(dsim("acceptance", "show", "mine", "--format", "json"))["domains"]["chat"]["recorded"]
    assert (recorded["texts"], recorded["standard_error"]) == (1, None)
    assert f"{recorded['accepted_length']:.2f} ± –" in dsim("acceptance", "show", "mine").out


def test_traces_list(world: Path, dsim: Dsim) -> None:
    told = only_json(dsim("traces", "list", "--format", "json"))
    assert {"name", "title", "url", "licence", "citation", "sha256", "size_bytes", "format", "here"} <= set(told[0])
    assert all(trace["here"] is None for trace in told)
    text = dsim("traces", "list").out
    for trace in told:
        assert all(str(trace[key]) in text for key in ("name", "url", "licence", "citation", "sha256"))


@pytest.mark.shared
def test_traces_add(world: Path, shared: Path, dsim: Dsim) -> None:
    file = shared / "traffic" / "azure2023" / "AzureLLMInferenceTrace_code.csv"
    told = only_json(dsim("traces", "add", "azure-2023-code", file, "--format", "json"))
    assert Path(told["path"]).read_bytes() == file.read_bytes()
    here = {t["name"]: t["here"] for t in only_json(dsim("traces", "list", "--format", "json"))}
    assert here["azure-2023-code"] == told["path"]


def test_every_step_and_request_on_demand(world: Path, dsim: Dsim) -> None:
    import pandas as pd

    arguments = ("run", "small.yaml", "--out", "out", "--workers", 1, "--set", "load=[2]", "--set", "run.replications=1")
    dsim(*arguments)
    assert not list((world / "out" / "points").glob("*.parquet"))
    dsim(*arguments, "--steps", "--requests")
    steps = pd.read_parquet(world / "out" / "points" / "1-2-0.steps.parquet")
    requests = pd.read_parquet(world / "out" / "points" / "1-2-0.requests.parquet")
    assert (steps["committed"] <= steps["accepted"] + steps["requests"]).all()  # an answer may end within a block
    assert (steps["tokens"] == steps["verified"] + steps["requests"]).all()
    assert requests["measured"].sum() == 12


@pytest.mark.parametrize(
    "code", ["import dsim", "import simulator.cli", "import sys; sys.argv = ['dsim', '--help']; from simulator.cli import main; main()"]
)
def test_nothing_heavy_is_imported_for_the_help(code: str) -> None:
    probe = f"""
import atexit, sys
atexit.register(lambda: print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr))
{code}
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_torch_is_never_imported(world: Path, repository: Path) -> None:
    """A whole run in a process where torch cannot be imported, nor what needs it."""
    probe = """
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
sys.argv = ["dsim", "run", "small.yaml", "--out", "out", "--workers", "1", "--set", "load=[2]", "--set", "run.replications=1"]
from simulator.cli import main
main()
"""
    subprocess.run([sys.executable, "-c", probe], cwd=world, capture_output=True, text=True, check=True)
    assert (world / "out" / "report.html").is_file()
    assert "torch" not in yaml.safe_dump([p.read_text() for p in (repository / "simulator").rglob("*.py") if "import torch" in p.read_text()])


def test_one_line_from_a_real_process(world: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("dsim"), "run", "none.yaml", "--out", "out"], cwd=world, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: none.yaml: no such file; check the path\n"


def test_a_closed_pipe_is_no_traceback(world: Path) -> None:
    """`dsim traces list | head -1`."""
    dsim = Path(sys.executable).with_name("dsim")
    done = subprocess.run(["sh", "-c", f"'{dsim}' traces list | true"], cwd=world, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr

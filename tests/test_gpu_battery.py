"""`make gpu` without a GPU: what is missing is named at once, steps resume, and whatever ends it loses one step and leaves no process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu, gpu_needs
from benchmarks.gpu_steps import Job

ROOT = Path(__file__).parents[1]
ADVICE = ROOT / "benchmarks" / "gpu_needs.py"


def test_a_bare_python_is_told_all_it_lacks_and_how_to_carry_it() -> None:
    """Without site-packages: everything, with the pins of constraints.txt, in one message."""
    bare = subprocess.run([sys.executable, "-I", "-S", str(ADVICE)], capture_output=True, text=True, check=False)
    assert bare.returncode == 2
    first, *rest = bare.stderr.splitlines()
    assert f"needs {len(gpu_needs.MODULES)} packages that" in first
    pins = set((ROOT / "constraints.txt").read_text().splitlines())
    named = first.partition("does not have: ")[2].split()
    assert len(named) == len(gpu_needs.MODULES)
    assert set(named) <= pins
    fetch, carry = (line.strip() for line in rest if "-m pip" in line)
    assert f"--python-version {sys.version_info[0]}.{sys.version_info[1]} " in fetch
    assert fetch.endswith(" ".join(named))
    assert "--no-index --find-links wheels" in carry


def test_what_is_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"pydantic", "simpy"}
    monkeypatch.setattr(gpu_needs, "find_spec", lambda name: None if name in absent else object())
    assert [package.partition("==")[0] for package in gpu_needs.missing()] == ["pydantic", "simpy"]
    assert "needs 2 packages" in gpu_needs.advice(gpu_needs.missing())


@pytest.mark.parametrize(
    "lacks, torch, ready, own",
    [(False, True, False, True), (True, True, False, True), (True, True, True, False), (True, False, False, False), (True, None, False, False)],
)
def test_which_python_measures(lacks: bool, torch: bool | None, ready: bool, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one at hand if nothing is missing, or if it sees a GPU (`torch`; none: it has no torch) and there is no environment yet."""
    monkeypatch.setattr(gpu_needs, "missing", lambda: ["pydantic"] if lacks else [])
    monkeypatch.setattr(gpu_needs, "find_spec", lambda name: None if torch is None else object())
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: torch)))
    if ready:
        (tmp_path / ".ready-torch").touch()
    assert gpu_needs.which(tmp_path) == (sys.executable if own else f"{tmp_path}/bin/python")


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Is the process over, at most so many seconds from now?"""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def hanging(job: Job) -> dict[str, Any]:
    """A step that keeps something, starts a process and hangs."""
    other = subprocess.Popen(["sleep", "600"])
    job.keep({"ok": None, "rows": [1, 2], "pid": other.pid})
    time.sleep(600)
    return {"ok": True}


def broken(job: Job) -> dict[str, Any]:
    job.keep({"ok": None})
    raise ValueError("nothing fits")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The battery with steps of its own, here, without what is imported for the real ones."""
    mine: dict[str, Any] = {
        "good": lambda job: {"ok": True}, "bad": lambda job: {"ok": False}, "left out": lambda job: {"ok": None, "skipped": "no model"},
        "broken": broken, "hanging": hanging,
    }  # fmt: skip
    monkeypatch.setattr(gpu, "STEPS", mine)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(gpu, "end_with_this_program", lambda: None)
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: None)
    monkeypatch.setattr(gpu, "run_here", lambda job: _run(mine, job))
    return mine


def _run(mine: dict[str, Any], job: Job) -> int:
    result = mine[job.step](job)
    job.keep(result)
    return 1 if result["ok"] is False else 0


def test_a_step_that_hangs_leaves_its_rows_and_no_process(steps: dict[str, Any], tmp_path: Path) -> None:
    job = Job("hanging", "cpu", True, tmp_path / "results")
    code, outcome = gpu.run_step(job, 3.0, lambda: None)
    assert (code, outcome) == (1, "stopped after 3 s")
    kept = gpu.kept_of(job)
    assert kept["rows"] == [1, 2]
    assert gone(kept["pid"])


def test_a_broken_step_says_why_and_its_rows_are_no_verdict(steps: dict[str, Any], tmp_path: Path) -> None:
    assert gpu.run_step(Job("broken", "cpu", True, tmp_path / "results"), 30, lambda: None) == (1, "failed with 1: ValueError: nothing fits")
    assert gpu.run_step(Job("bad", "cpu", True, tmp_path / "results"), 30, lambda: None) == (1, "does NOT hold")
    assert gpu.run_step(Job("left out", "cpu", True, tmp_path / "results"), 30, lambda: None) == (0, "skipped: no model")


def test_a_killed_battery_takes_its_step_and_what_that_started_along(tmp_path: Path) -> None:
    """SIGKILL asks nobody: the step notices that its parent is gone."""
    code = f"""
import subprocess, sys, time
if sys.argv[1:]:
    from benchmarks.gpu import end_with_parent
    end_with_parent()
    other = subprocess.Popen(["sleep", "600"])
    print(other.pid, flush=True)
    time.sleep(600)
step = subprocess.Popen([sys.executable, {str(tmp_path / "battery.py")!r}, "step"], start_new_session=True)
step.wait()
"""
    (tmp_path / "battery.py").write_text(code)
    battery = subprocess.Popen(
        [sys.executable, tmp_path / "battery.py"], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert battery.stdout is not None
    pid = int(battery.stdout.readline())
    assert not gone(pid, 0.2)
    battery.send_signal(signal.SIGKILL)
    battery.wait()
    assert gone(pid)


def test_finished_steps_are_not_measured_again_and_time_runs_out_between_them(
    steps: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three calls: two steps in time, then the others, then one by name. All that there is lies in one file after each."""
    ran: list[str] = []

    def run_step(job: Job, limit_s: float, keep: Any) -> tuple[int, str]:
        ran.append(job.step)
        code = _run(steps, job)
        clock.now += 100.0
        keep()
        return code, "ran"

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(gpu, "time", clock)
    monkeypatch.setattr(gpu, "run_step", run_step)
    monkeypatch.setattr(gpu, "name_of", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(gpu_needs, "missing", list)
    del steps["hanging"], steps["broken"]
    (tmp_path / "profiles" / "nvidia-h100-80gb-hbm3-model").mkdir(parents=True)
    (tmp_path / "profiles" / "nvidia-h100-80gb-hbm3-model" / "profile.yaml").write_text("format: 1")
    (tmp_path / "profiles" / "another").mkdir()

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path / "out"), *words])
        return gpu.main()

    assert call("--minutes", "3.4") == 1  # 204 s: 100 s, 100 s, and 4 s are too few for another
    assert ran == ["good", "bad"]
    assert "left out           0.0 s   not begun" in capsys.readouterr().out
    with tarfile.open(tmp_path / "out" / "gpu.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"benchmarks/results/nvidia-h100-80gb-hbm3/good.json", "profiles/nvidia-h100-80gb-hbm3-model/profile.yaml"} <= names
    assert "profiles/another" not in names
    assert call() == 1  # what did not hold is still said
    assert ran == ["good", "bad", "left out"]
    said = capsys.readouterr().out
    assert "ok before" in said
    assert "did NOT hold before: measure again with --step bad" in said
    assert call("--step", "good") == 0
    assert ran[-1] == "good"
    assert json.loads((tmp_path / "benchmarks" / "results" / "nvidia-h100-80gb-hbm3" / "bad.json").read_text())["ok"] is False


def test_what_is_worth_most_comes_first() -> None:
    assert list(gpu.STEPS)[:6] == ["checks", "tests", "parity", "graphs", "profile_small", "engine_small"]
    assert list(gpu.STEPS)[-1] == "train_small"

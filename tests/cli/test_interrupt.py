"""Ctrl-C keeps what is done, leaves nothing half-written, and the same command goes on to the same bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.planning.conftest import PLAN

Dsim = Callable[..., Any]
COMMAND = str(Path(sys.executable).with_name("dsim"))
MANY = {"load": [2, 4], "run": {"replications": 12, "requests": 40}}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kept(folder: Path) -> dict[str, int]:
    """Points or trials that are done, with the time each was written."""
    found = {}
    for path in [*folder.glob("points/[!.]*.json"), *folder.glob("trials/[!.]*.json")]:
        found[path.name] = path.stat().st_mtime_ns
    return found


def start(world: Path, *arguments: str, command: str = "run", file: str = "small.yaml") -> subprocess.Popen[str]:
    """A real dsim, leader of its own group and open to Ctrl-C as in a terminal (a shell's background jobs are born deaf to it)."""
    words = [COMMAND, command, file, "--out", "out", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=world, start_new_session=True, preexec_fn=open_to_interrupts, **pipes)  # noqa: PLW1509 - no other way


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed, less the progress that a slow machine shows."""
    out, err = process.communicate(timeout=60)
    return out, "".join(line for line in err.splitlines(keepends=True) if not re.match(r"(simulating|searching fleets|writing the \w+): \d+", line))


def open_to_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_points(folder: Path, number: int, patience_s: float = 60) -> None:
    end = time.monotonic() + patience_s
    while len(kept(folder)) < number:
        assert time.monotonic() < end, "no points appeared"
        time.sleep(0.005)


def ends(group: int, patience_s: float = 10) -> bool:
    """Has every process of the group ended?"""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_and_go_on(workers: int, world: Path, scenario: Callable[..., Path], dsim: Dsim) -> None:
    scenario(**MANY)
    process = start(world, "--workers", str(workers))
    wait_for_points(world / "out", 4)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the command and its workers
    out, err = ended(process)
    done = kept(world / "out")
    assert process.returncode == 130
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("interrupted: ")
    assert "72 points are kept in out/points; run the same command to resume" in err
    assert 4 <= len(done) < 72, err
    assert sorted(tree(world / "out")) == sorted(["points/.dsim", *(f"points/{name}" for name in done)])  # no drafts, no report
    for name in done:
        json.loads((world / "out" / "points" / name).read_text())
    assert dsim("run", "small.yaml", "--out", "out", "--workers", 1).code == 0
    after = kept(world / "out")
    assert len(after) == 72
    assert {name: after[name] for name in done} == done
    assert dsim("run", "small.yaml", "--out", "whole", "--workers", 1).code == 0
    assert tree(world / "out") == tree(world / "whole")


def test_interrupt_a_plan_and_resume(world: Path, dsim: Dsim) -> None:
    (world / "plan.yaml").write_text(yaml.safe_dump(PLAN | {"policies": PLAN["policies"][:2]}))
    process = start(world, "--workers", "2", command="plan", file="plan.yaml")
    wait_for_points(world / "out", 4)
    os.killpg(process.pid, signal.SIGINT)
    out, err = ended(process)
    done = kept(world / "out")
    assert (process.returncode, out, len(err.splitlines())) == (130, "", 1), err
    assert ends(process.pid)
    assert sorted(tree(world / "out")) == sorted(["trials/.dsim", *(f"trials/{name}" for name in done)])
    assert dsim("plan", "plan.yaml", "--out", "out", "--workers", 1).code == 0
    after = kept(world / "out")
    assert {name: after[name] for name in done} == done
    assert dsim("plan", "plan.yaml", "--out", "whole", "--workers", 1).code == 0
    assert tree(world / "out") == tree(world / "whole")


def test_the_parent_alone_is_interrupted(world: Path, scenario: Callable[..., Path]) -> None:
    """`kill -INT PID`: the workers end too."""
    scenario(**MANY)
    process = start(world, "--workers", "2")
    wait_for_points(world / "out", 1)
    process.send_signal(signal.SIGINT)
    _, err = ended(process)  # returns when the workers have let go of the pipes
    assert process.returncode == 130
    assert len(err.splitlines()) == 1, err
    assert ends(process.pid)


def worked_s(process: subprocess.Popen[str]) -> float:
    """CPU seconds of the command itself: how far it is, however busy the machine."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc to see how far the command is")
@pytest.mark.parametrize("after_s", [0.3, 0.6, 1.0])
def test_interrupted_at_any_time(after_s: float, world: Path, scenario: Callable[..., Path]) -> None:
    """Also while modules are imported or workers start: code 130, at most one line, never a traceback. An import of a library may
    swallow a Ctrl-C; then a second one does it."""
    scenario(**MANY)
    process = start(world, "--workers", "2")
    while worked_s(process) < after_s:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(2.5)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130, err
    assert "Traceback" not in err, err
    assert len(err.splitlines()) <= 1, err
    assert not [name for name in tree(world) if Path(name).name.startswith(".") and Path(name).name != ".dsim"]


TURNED = """
import os, signal, time, simulator.cli, dsim.__main__
def command():
    try:
        if {interrupted}: os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    except KeyboardInterrupt: pass
    raise ValueError("a library's")
simulator.cli.main = command
dsim.__main__.main()
"""


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_library_makes_another_error_of_an_interrupt(interrupted: bool) -> None:
    """As pydantic does while modules are read. Without an interrupt the error is ours, with its traceback."""
    words = [sys.executable, "-c", TURNED.format(interrupted=interrupted)]
    found = subprocess.run(words, capture_output=True, text=True, preexec_fn=open_to_interrupts, check=False)
    assert (found.returncode, "Traceback" in found.stderr) == ((130, False) if interrupted else (1, True)), found.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the workers")
def test_a_worker_that_is_killed_is_one_line(world: Path, scenario: Callable[..., Path]) -> None:
    """As the kernel does when memory runs out."""
    scenario(**MANY)
    process = start(world, "--workers", "2")
    wait_for_points(world / "out", 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, err = ended(process)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: --workers: a worker process died")


def test_interrupted_while_the_report_is_written(world: Path, dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("simulator.report.run.page.write_report", stop)
        said = dsim("run", "small.yaml", "--out", "out", "--workers", 1)
    assert (said.code, said.out) == (130, "")
    assert said.err == "interrupted: 12 of 12 points are kept in out/points; run the same command to resume\n"

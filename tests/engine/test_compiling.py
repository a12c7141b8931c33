"""Where compiled code is kept, and what runs while there is none."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from simulator.engine import ahead
from simulator.engine.fast import CompiledRun
from simulator.engine.given import ClosedTraffic, Fleet, OpenTraffic
from simulator.engine.kernel import kept
from simulator.engine.kernel.kept import is_compiled, kept_in
from simulator.engine.simulate import Run, simulate
from simulator.files import own_temporary_folder, user_cache
from simulator.traffic.request import RequestSpec
from tests.engine import worlds

pytest.importorskip("numba")


def small_run() -> tuple[OpenTraffic, Fleet]:
    """Ten answers of twelve tokens, one after the other."""
    return worlds.open_traffic(worlds.poisson(2.0, [12] * 10, seed=1)), worlds.fleet(worlds.costs(base=0.01))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kernel's sources, in whose place the cache is looked for."""
    folder = tmp_path / "kernel"
    folder.mkdir()
    for file in kept.SOURCES.glob("*.py"):
        shutil.copy(file, folder)
    monkeypatch.setattr(kept, "SOURCES", folder)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return folder


def test_compiled_code_is_kept_by_all_sources(sources: Path) -> None:
    """A change in any file leads to another folder, and what the old one held is removed."""
    first = kept_in()
    assert first is not None
    assert first.parent == sources / "__pycache__"
    assert kept_in() == first
    for file in sources.glob("*.py"):
        with file.open("a") as more:
            more.write("# another thought\n")
        second = kept_in()
        assert second is not None
        assert second != first
        assert [path.name for path in first.parent.iterdir()] == [second.name]
        first = second


def test_where_compiled_code_is_kept(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first folder that can be written: that of NUMBA_CACHE_DIR, beside the sources, the user's cache, a temporary one; else none."""
    own, temporary = tmp_path / "mine", tmp_path / f"dsim-{os.getuid()}"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(own))
    for place in (own, sources / "__pycache__", tmp_path / "user" / "dsim", temporary):
        folder = kept_in()
        assert folder is not None
        assert folder.parent == place
        assert not is_compiled()
        (folder / "kernel_1").mkdir()
        (folder / "kernel_1" / "run.nbc").write_bytes(b"")
        assert is_compiled()
        shutil.rmtree(place)
        place.write_text("not a folder")
    assert kept_in() is None
    assert not is_compiled()


def test_a_temporary_folder_of_others_is_not_used(sources: Path, tmp_path: Path) -> None:
    """numba runs what it finds."""
    temporary = tmp_path / f"dsim-{os.getuid()}"
    temporary.mkdir()
    temporary.chmod(0o777)
    assert own_temporary_folder() is None
    temporary.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    temporary.symlink_to(tmp_path / "theirs")
    assert own_temporary_folder() is None


def test_compiled_code_that_others_could_have_written_is_not_used(sources: Path) -> None:
    first = kept_in()
    assert first is not None
    first.chmod(0o777)
    second = kept_in()
    assert second not in (None, first)
    shutil.rmtree(first)
    first.symlink_to(second or "")
    assert kept_in() == second


def test_a_user_without_a_home(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number which nobody has."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["nobody"])
    shutil.rmtree(sources / "__pycache__", ignore_errors=True)
    (sources / "__pycache__").write_text("not a folder")
    assert user_cache() == own_temporary_folder() == tmp_path / f"dsim-{os.getuid()}"
    folder = kept_in()
    assert folder is not None
    assert folder.parent == user_cache()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process in which nothing is compiled yet, and no test runs; what it starts beside itself."""
    started: list[str] = []
    monkeypatch.setattr(ahead, "_TESTING", set())
    monkeypatch.setattr(ahead, "is_compiled", lambda: False)
    monkeypatch.setattr(ahead, "_left", 1000)
    monkeypatch.setattr(ahead, "_compile_beside", lambda: started.append("compiler"))
    return started


def test_small_runs_do_not_wait_for_the_compiler(uncompiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the process has been patient for long enough, or a run is too long to wait for."""

    def run() -> Run:
        return simulate(*small_run())

    first, steps = run(), ahead._steps(*small_run())
    assert (first.path, first.why_plain) == ("plain", "the compiled engine is being made for the next run")
    assert 0 < len(first.steps) <= steps <= 120
    assert set(uncompiled) == {"compiler"}
    monkeypatch.setattr(ahead, "_left", steps - 1)
    assert run().path == "compiled"
    monkeypatch.setattr(ahead, "_left", 1e9)
    monkeypatch.setattr(ahead, "is_compiled", lambda: True)
    assert run().path == "compiled"


def test_steps_of_clients_who_pause_or_start_together() -> None:
    """Users who pause decode with few others, a benchmark client keeps its requests in flight."""
    over = worlds.fleet(worlds.costs(base=0.01), max_batch=64)
    pausing = ClosedTraffic(20, worlds.Users(20, lambda _u, _t: 10, think_s=2.0), 3, np.ones(20))
    together = OpenTraffic([RequestSpec(i, 0.0, 1, 10, "") for i in range(80)], 0.0, np.inf, 0.0, in_flight=20)
    for traffic in (pausing, together):
        steps = len(simulate(traffic, over, "plain").steps)
        assert 0.3 * steps < ahead._steps(traffic, over) < 20 * steps


def test_where_nothing_can_be_kept_nothing_is_started(uncompiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "kept_in", lambda: None)
    end = simulate(*small_run())
    assert (end.path, end.why_plain) == ("plain", ahead.NOT_KEPT)
    assert uncompiled == []


def test_a_numba_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses releases of NumPy that it does not know, when it is imported."""
    monkeypatch.setattr(ahead, "_numba_fails", ahead._numba_fails.__wrapped__)
    monkeypatch.setitem(sys.modules, "simulator.engine.kernel.run", None)
    end = simulate(*small_run())
    assert end.path == "plain"
    assert end.why_plain.startswith("numba cannot be used (")


def test_only_one_process_compiles(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    monkeypatch.setattr("os.nice", lambda _: 0)
    monkeypatch.setattr(CompiledRun, "run", lambda self: runs.append(1))
    folder = kept_in()
    assert folder is not None
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ahead.compile_now()
    assert runs == []
    ahead.compile_now()
    assert runs == [1]
    (folder / "kernel_1").mkdir()
    (folder / "kernel_1" / "run.nbc").write_bytes(b"")
    ahead.compile_now()
    assert runs == [1]

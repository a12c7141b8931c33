"""A sweep: every point once, kept when done, reused only where nothing that it depends on has changed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.errors import DsimError
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import bundle, points, sweep
from simulator.study.work import kept as store
from simulator.study.work.kept import Task
from simulator.study.work.local import worker_count

Row = dict[str, Any]
Write = Callable[..., Path]


def times(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("[!.]*.json")}


def loaded(*overrides: str) -> Scenario:
    return load_scenario(Path("small.yaml"), overrides)


@pytest.fixture
def kept(world: Path) -> Path:
    """A folder with all points of small.yaml done."""
    sweep(loaded(), world / "points", workers=1)
    return world / "points"


def rerun(kept: Path, *overrides: str) -> tuple[int, int]:
    """Sweep again; how many points were run again, and how many there are."""
    before, scenario = times(kept), loaded(*overrides)
    sweep(scenario, kept, workers=1)
    after = times(kept)
    return sum(after[name] != before.get(name) for name in after), len(points(scenario))


def test_rows_are_in_order_whatever_finished_first(world: Path) -> None:
    scenario = loaded()
    rows = sweep(scenario, workers=1)
    found = [(r.policy, r.load, r.replication) for r in rows]
    assert found == [(p.name, load, k) for p in scenario.policies for load in (2, 6) for k in (0, 1)]
    assert sweep(scenario, workers=2) == rows


def test_nothing_is_run_again(kept: Path) -> None:
    assert rerun(kept) == (0, 12)


def test_a_missing_or_broken_point_is_run_again(kept: Path) -> None:
    rows = sweep(loaded(), kept, workers=1)
    (kept / "0-2-0.json").unlink()
    (kept / "1-2-0.json").write_text("{")
    (kept / "2-2-0.json").write_text("[]")
    (kept / "2-2-1.json").write_text('{"fingerprint": 1}')
    before = times(kept)
    assert sweep(loaded(), kept, workers=1) == rows
    after = times(kept)
    assert {name for name in after if after[name] != before.get(name)} == {"0-2-0.json", "1-2-0.json", "2-2-0.json", "2-2-1.json"}


@pytest.mark.parametrize(
    "change", [{"policy": "another"}, {"load": 9}, {"numbers": {}}, {"numbers": {"throughput_tok_s_gpu": 1e308}}, {"curves": {"ttft": [0.1]}}]
)
def test_a_point_that_another_made_is_run_again(kept: Path, change: dict[str, Any]) -> None:
    """It has the scenario's mark, but is not of its point, lacks metrics or has such as no run has."""
    rows, file = sweep(loaded(), kept, workers=1), kept / "0-2-0.json"
    content = json.loads(file.read_text())
    whole = change | {"numbers": content["row"]["numbers"] | change["numbers"]} if change.get("numbers") else change
    file.write_text(json.dumps(content | {"row": content["row"] | whole}))
    assert sweep(loaded(), kept, workers=1) == rows


CHANGES: dict[str, Callable[[Row], Any]] = {
    "another load": lambda kept: kept["row"].update(load=3),
    "another replication": lambda kept: kept["row"].update(replication=1),
    "a metric less": lambda kept: kept["row"]["numbers"].popitem(),
    "a key more": lambda kept: kept["row"].update(x=1),
    "a text for a number": lambda kept: kept["row"]["numbers"].update(throughput_tok_s="fast"),
    "no details": lambda kept: kept.update(details=None),
    "a list": lambda kept: kept.update(row=[]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_point_of_another_shape_is_run_again(change: str, kept: Path) -> None:
    file = kept / "0-2-0.json"
    good = file.read_text()
    content = json.loads(good)
    CHANGES[change](content)
    file.write_text(json.dumps(content))
    sweep(loaded(), kept, workers=1)
    assert file.read_text() == good


@pytest.mark.parametrize("text", ["[" * 100_000, '{"fingerprint": ' + "9" * 5000 + "}", "\\udc00", '"\x00"'])
def test_a_point_that_is_no_json_is_run_again(text: str, kept: Path) -> None:
    (kept / "0-2-0.json").write_text(text)
    assert rerun(kept) == (1, 12)


def test_a_point_whose_table_was_removed_is_run_again(world: Path) -> None:
    sweep(loaded(), world / "points", workers=1, details=("steps",))
    (world / "points" / "0-2-0.steps.parquet").unlink()
    sweep(loaded(), world / "points", workers=1, details=("steps",))
    assert (world / "points" / "0-2-0.steps.parquet").is_file()


@pytest.mark.parametrize("override", [
    "run.seed=2", "run.requests=13", "engine.max_batch=7", "workload.domains.chat=3", "policies.plain.name=none", "sla.goodput={tpot_s: 1}",
])  # fmt: skip
def test_another_scenario_reuses_nothing(override: str, kept: Path) -> None:
    assert rerun(kept, override) == (12, 12)


@pytest.mark.parametrize("override", ["question=Which?", "sla.tps_per_user=[50]", "sla.speed=tps_per_user_p10", "baseline=MTP-1", "notes=[x]"])
def test_what_the_numbers_do_not_depend_on(override: str, kept: Path) -> None:
    assert rerun(kept, override) == (0, 12)


def test_a_changed_profile_reuses_nothing(kept: Path, edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda content: content["costs"]["verify"].update(base_s=0.02))
    assert rerun(kept) == (12, 12)


def test_changed_published_tables_do(kept: Path) -> None:
    (kept.parent / "tiny" / "published" / "speed.csv").write_text("concurrency,tps_per_user\n1,9\n9,8\n")
    assert rerun(kept) == (0, 12)


def test_a_profile_below_a_folder_called_published(world: Path, scenario: Write) -> None:
    shutil.copytree(world / "tiny", world / "published" / "tiny")
    scenario(profile="published/tiny")
    first, file = bundle(loaded()).mark, world / "published" / "tiny" / "profile.yaml"
    file.write_text(file.read_text() + "# changed\n")
    assert bundle(loaded()).mark != first


def test_a_changed_file_of_lengths_reuses_nothing(world: Path, scenario: Write) -> None:
    (world / "lengths.csv").write_text("n\n20\n30\n")
    lengths = {"kind": "empirical", "path": "lengths.csv", "column": "n"}
    mixed = {"kind": "mixture", "parts": [{"weight": 1, "lengths": lengths}]}
    for output in (lengths, mixed):
        workload = yaml.safe_load((world / "small.yaml").read_text())["workload"] | {"output_tokens": output}
        scenario(workload=workload)
        (world / "lengths.csv").write_text("n\n20\n30\n")
        first = bundle(loaded()).mark
        (world / "lengths.csv").write_text("n\n20\n40\n")
        assert bundle(loaded()).mark != first


def test_a_file_of_pauses_travels_and_a_changed_one_reuses_nothing(world: Path, scenario: Write, tmp_path_factory: pytest.TempPathFactory) -> None:
    workload = yaml.safe_load((world / "small.yaml").read_text())["workload"]
    (world / "pauses.csv").write_text("seconds\n1\n2\n")
    scenario(workload=workload | {"arrivals": {"kind": "closed_loop", "think_s": {"kind": "empirical", "path": "pauses.csv", "column": "seconds"}}})
    first = bundle(loaded())
    (world / "pauses.csv").write_text("seconds\n1\n3\n")
    assert bundle(loaded()).mark != first.mark
    (world / "pauses.csv").unlink()
    think_s = getattr(first.unpack(tmp_path_factory.mktemp("elsewhere")).workload.arrivals, "think_s")  # noqa: B009
    assert think_s.words == "1.5 s on average, from 0.csv"


def test_a_changed_trace_reuses_nothing_and_a_read_one_does(world: Path, scenario: Write) -> None:
    trace = world / "t.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,5,5\n")
    scenario(workload={"trace": {"path": "t.csv"}}, load=[1], run={"replications": 1, "warmup_s": 0})
    first = bundle(loaded()).mark
    trace.read_text()
    trace.touch()
    assert bundle(loaded()).mark == first
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n1,5,6\n")
    assert bundle(loaded()).mark != first


def test_a_changed_module_reuses_nothing_unless_it_only_draws_pages(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "simulator"
    shutil.copytree(store.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("simulator.study.work.bundle.code_mark", lambda: store.code_mark.__wrapped__(package))
    assert rerun(kept) == (0, 12), "the same code in another place"
    for module in ("report/__init__.py", "cli/__init__.py"):
        (package / module).write_text("# changed\n")
        assert rerun(kept) == (0, 12), module
    for module in ("schema.py", "study/run/tables.py", "engine/new.py", "measurements/model_error.csv"):
        (package / module).write_text("# changed\n")
        assert rerun(kept) == (12, 12), module


def test_another_library_of_acceptance_reuses_nothing(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, library = store.code_mark.__wrapped__, tmp_path / "profiles" / "acceptance"
    first = mark()
    shutil.copytree(repository / "profiles" / "acceptance", library)
    monkeypatch.setattr("simulator.shipped.ROOT", tmp_path)
    assert mark() == first, "the same in another place"
    file = next(library.glob("*/*/acceptance.yaml"))
    file.write_text(file.read_text() + "# changed\n")
    assert mark() != first


def test_loads_that_are_nearly_the_same_are_two_points(world: Path, scenario: Write) -> None:
    workload = yaml.safe_load((world / "small.yaml").read_text())["workload"] | {"arrivals": {"kind": "poisson"}}
    scenario(workload=workload, load=[5.00000001, 5.00000002], run={"replications": 1, "warmup_s": 0, "duration_s": 3})
    rows = sweep(loaded(), world / "points", workers=1)
    assert len(times(world / "points")) == len(rows) == 6
    assert sweep(loaded(), world / "points", workers=1) == rows


def test_a_point_without_its_tables_is_run_again(kept: Path) -> None:
    before = times(kept)
    sweep(loaded(), kept, workers=1, details=["steps"])
    assert all(times(kept)[name] != before[name] for name in before)
    assert len(list(kept.glob("*.steps.parquet"))) == 12
    before = times(kept)
    sweep(loaded(), kept, workers=1)
    assert times(kept) == before


def test_tables_are_of_the_scenario_that_is_beside_them(kept: Path) -> None:
    """Those of another are removed with its results, or where its loads are no longer run."""

    def tables() -> set[str]:
        return {file.name for file in kept.glob("*.parquet")}

    (kept / "mine.steps.parquet").write_text("mine")
    one = loaded("load=[2, 6]", "policies.1.load=[2]", "run.replications=1")
    sweep(one, kept, workers=1, details=["steps", "requests"])
    assert len(tables()) == 1 + 5 * 2
    sweep(one, kept, workers=1)
    assert len(tables()) == 1 + 5 * 2  # they still hold
    sweep(loaded("load=[2]", "run.replications=1"), kept, workers=1, details=["requests"])
    assert tables() == {"mine.steps.parquet", *(f"{policy}-2-0.requests.parquet" for policy in range(3))}
    sweep(loaded("load=[2]", "run.replications=1", "engine.max_batch=4"), kept, workers=1)
    assert tables() == {"mine.steps.parquet"}


def test_progress_counts_what_was_kept(kept: Path) -> None:
    (kept / "0-2-0.json").unlink()
    told: list[tuple[int, int]] = []
    sweep(loaded(), kept, lambda done, every: told.append((done, every)), workers=1)
    assert told == [(11, 12), (12, 12)]


ENDLESS = (
    "workload.arrivals={kind: poisson}", "workload.output_tokens={kind: fixed, tokens: 1000}", "run.warmup_s=0", "run.duration_s=1", "run.drain_s=0",
)  # fmt: skip


def test_an_infeasible_sweep_takes_back_only_its_own(world: Path) -> None:
    out = world / "deep" / "out"
    with pytest.raises(DsimError, match="no request finished"):
        sweep(loaded(*ENDLESS), out / "points", workers=1, details=["steps", "requests"])
    assert not (world / "deep").exists()
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(DsimError, match="no request finished"):
        sweep(loaded(*ENDLESS), out / "points", workers=1)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_loads_of_one_policy(world: Path) -> None:
    rows = sweep(loaded("policies.MTP-1.load=[4]"), workers=1)
    assert {(r.policy, r.load) for r in rows} == {("plain", 2), ("plain", 6), ("MTP-1", 4), ("scheduled", 2), ("scheduled", 6)}


def test_a_kept_point_says_whose_it_is(kept: Path) -> None:
    found = json.loads((kept / "1-6-1.json").read_text())
    assert (found["row"]["policy"], found["row"]["load"], found["row"]["replication"]) == ("MTP-1", 6, 1)
    assert found["fingerprint"] == bundle(loaded()).mark


@pytest.mark.parametrize(("alone_s", "workers", "pooled"), [(60.0, None, 0), (0.0, None, 12), (60.0, 2, 12)])
def test_a_small_run_starts_no_workers(alone_s: float, workers: int | None, pooled: int, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless their number is given."""
    handed: list[int] = []

    def pool(todo: deque[Task], _workers: int, read: Callable[[], Scenario], folder: Path | None) -> Iterator[tuple[Task, Any]]:
        handed.append(len(todo))
        yield from [(task, task.do(read(), folder)) for task in todo]

    monkeypatch.setattr("simulator.study.work.local._pooled", pool)
    monkeypatch.setattr("simulator.study.run.sweep.ALONE_S", alone_s)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert sweep(loaded(), workers=workers) == sweep(loaded(), workers=1)
    assert sum(handed) == pooled


def test_workers() -> None:
    assert worker_count(None) >= 1
    assert worker_count(3) == 3
    with pytest.raises(DsimError, match="--workers"):
        worker_count(0)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_a_worker_that_is_ended_in_the_middle_of_a_file_ends_behind_it(tmp_path: Path) -> None:
    """Another thread takes the signal, as threads of numerical libraries do: Python runs its handler in the main thread all the same."""
    script = f"""
import os, signal, threading, time
from pathlib import Path
from simulator.files import whole
from simulator.study.work import signals

signals.be_a_worker()
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
with signals.held(signal.SIGINT, signal.SIGTERM):
    with whole(Path({str(tmp_path / "row.json")!r})) as draft:
        draft.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        draft.write_text("whole")
Path({str(tmp_path / "later")!r}).touch()
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == 143
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"row.json": "whole"}

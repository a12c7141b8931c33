"""A sweep on a real Ray cluster of two nodes on this machine: the same bytes as locally, though a node dies on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.errors import DsimError
from simulator.study.planning.make import answer
from simulator.study.planning.output import write_plan
from simulator.study.planning.question import load_plan
from simulator.study.planning.trial import Trial, run_trial
from simulator.study.planning.work import plan_bundle
from simulator.study.run.build import build_result
from simulator.study.run.output import write_output
from simulator.study.run.point import Point, run_point
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import bundle, points, sweep
from simulator.study.work.cluster import check_returned, on_node
from simulator.study.work.kept import Task
from tests.planning.conftest import PLAN

TABLES = ("points.csv", "points.parquet", "result.json")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each; `second` may be killed."""
    pytest.importorskip("ray")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_agent_register_timeout_ms"] = "120000"  # machines that are busy with other tests  # noqa: SIM112
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=small)
    made.second = made.add_node(num_cpus=1, object_store_memory=100 * 1024 * 1024)
    yield made
    made.shutdown()


def written(path: Path, rows: list[PointRow], folder: Path) -> dict[str, bytes]:
    write_output(build_result(load_scenario(path), rows), rows, folder)
    return {name: (folder / name).read_bytes() for name in TABLES}


@pytest.mark.ray
def test_two_nodes_of_which_one_is_killed_give_the_bytes_of_a_local_run(cluster: Any, world: Path, scenario: Callable[..., Path]) -> None:
    import ray

    path = scenario(run={"replications": 2, "requests": 4000})
    asked = load_scenario(path)
    local = written(path, sweep(asked, workers=1), world / "local")
    assert written(path, sweep(asked, workers=2), world / "two") == local
    ray.init(address=cluster.address, log_to_driver=False)
    busy: list[float] = []

    def kill(done: int, every: int) -> None:
        if done == 3:
            while not busy or (busy[-1] < 2 and len(busy) < 1000):  # until the next point has begun on both
                time.sleep(0.01)
                busy.append(2 - ray.available_resources().get("CPU", 0))
            cluster.remove_node(cluster.second, allow_graceful=False)
        assert done <= every

    try:
        kept = world / "points"
        rows = sweep(asked, kept, kill, ray=cluster.address)
        assert not cluster.second.any_processes_alive()
        assert busy[-1] == 2  # a point was under way on the node that was killed
        assert written(path, rows, world / "ray") == local
        counted: list[int] = []
        again = sweep(asked, kept, lambda done, _: counted.append(done), ray=cluster.address)
        assert again == rows
        assert counted == [len(points(asked))]  # nothing was run again
        with_tables = sweep(load_scenario(path, ["run.requests=20"]), world / "tables", details=["steps", "requests"], ray=cluster.address)
    finally:
        ray.shutdown()
    sweep(load_scenario(path, ["run.requests=20"]), world / "here", workers=1, details=["steps", "requests"])
    assert {p.name: p.read_bytes() for p in (world / "tables").iterdir()} == {p.name: p.read_bytes() for p in (world / "here").iterdir()}
    assert len(with_tables) == len(points(asked))


@pytest.mark.ray
def test_a_plan_gives_the_bytes_of_a_local_one(cluster: Any, world: Path) -> None:
    """Its files are not where the nodes look for them: profile and lengths travel along."""
    import ray

    (world / "lengths.csv").write_text("tokens\n10\n20\n30\n")
    lengths = {"kind": "empirical", "path": "lengths.csv", "column": "tokens"}
    small = {"policies": PLAN["policies"][:1], "load_rps": 30.0, "run": {"warmup_s": 1.0, "window_s": 3.0, "replications": 2}}
    (world / "plan.yaml").write_text(yaml.safe_dump(PLAN | small | {"workload": PLAN["workload"] | {"output_tokens": lengths}}))
    plan = load_plan(world / "plan.yaml")
    write_plan(answer(plan, world / "trials", workers=1), world / "local")
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        write_plan(answer(plan, world / "far", ray=cluster.address), world / "ray")
    finally:
        ray.shutdown()
    for name in ("fleets.csv", "result.json"):
        assert (world / "ray" / name).read_bytes() == (world / "local" / name).read_bytes()
    assert {p.name: p.read_bytes() for p in (world / "far").iterdir()} == {p.name: p.read_bytes() for p in (world / "trials").iterdir()}


def test_a_plan_runs_where_its_files_are_not(world: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Profiles by name and with a price, and the profile that a setting's scheduler goes by."""
    settings = [{"name": "same", "prefill": {"kind": "instant"}}, {"name": "misled", "prefill": {"kind": "instant"}, "scheduler_profile": "tiny"}]
    content = PLAN | {"profiles": [{"profile": "tiny", "gpu_hour": 3.0}], "settings": settings, "run": {"warmup_s": 1.0, "window_s": 2.0}}
    (world / "plan.yaml").write_text(yaml.safe_dump(content))
    plan = load_plan(world / "plan.yaml")
    trials = [Trial(cell, 2, plan.load, 0) for cell in range(len(plan.choices))]
    expected, sent = [run_trial(plan, trial) for trial in trials], plan_bundle(plan)
    there = tmp_path_factory.mktemp("node")
    hidden = world.rename(world.with_name("hidden"))
    try:
        unpacked = sent.unpack(there)
        assert [run_trial(unpacked, trial) for trial in trials] == expected
    finally:
        hidden.rename(world)


@pytest.mark.ray
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_cluster_that_is_not_there_is_one_line(command: str, world: Path, scenario: Callable[..., Path], dsim: Any) -> None:
    pytest.importorskip("ray")
    (world / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    said = dsim(command, world / "plan.yaml" if command == "plan" else scenario(), "--ray", "127.0.0.1:1")
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[-1].startswith("error: --ray: no Ray cluster at '127.0.0.1:1'")


def test_without_ray_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch, scenario: Callable[..., Path], dsim: Any) -> None:
    monkeypatch.setattr("simulator.study.work.cluster.find_spec", lambda _name: None)
    assert dsim("run", scenario(), "--ray").err == "error: --ray: needs Ray, which is not installed; pip install 'dsim[ray]'\n"


def test_a_bundle_runs_where_the_files_are_not(world: Path, scenario: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Profile, trace, lengths and the scheduler's profile travel along; the scenario's folder is then gone."""
    (world / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i / 4},20,{5 + i % 7}\n" for i in range(40)))
    (world / "lengths.csv").write_text("tokens\n" + "\n".join(str(5 + i % 9) for i in range(30)) + "\n")
    drawn = {"kind": "mixture", "parts": [{"weight": 1, "lengths": {"kind": "empirical", "path": "lengths.csv", "column": "tokens"}}]}
    workload = yaml.safe_load((world / "small.yaml").read_text())["workload"]
    believed = {"max_batch": 8, "prefill": {"kind": "instant"}, "scheduler_profile": "tiny"}
    paths = [
        scenario("a.yaml", workload={"trace": {"path": "trace.csv"}, "domains": {"chat": 1}}, load=[1], engine=believed, run={"warmup_s": 0}),
        scenario("b.yaml", workload=workload | {"output_tokens": drawn, "prompt_tokens": drawn}, run={"replications": 1, "requests": 12}),
    ]
    for path in paths:
        asked = load_scenario(path)
        point = Point(2, asked.load[0], 0)
        expected, sent = run_point(asked, point), bundle(asked)
        there = tmp_path_factory.mktemp("node")
        hidden = world.rename(world.with_name("hidden"))
        try:
            assert run_point(sent.unpack(there), point) == expected
        finally:
            hidden.rename(world)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "", "a\0b"])
def test_a_bundle_of_somebody_else_stays_in_its_folder(name: str, world: Path, scenario: Callable[..., Path]) -> None:
    sent = replace(bundle(load_scenario(scenario())), files={"profile/profile.yaml": b"", name: b"theirs"})
    (world / "node").mkdir()
    with pytest.raises(DsimError, match=r"expected (a file in the same folder|the name of a file)"):
        sent.unpack(world / "node")
    assert list((world / "node").iterdir()) == []


def test_a_bundle_is_not_endless(scenario: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.study.work.bundle.MOST_BYTES", 1000)
    with pytest.raises(DsimError, match=r"^--ray: the files of this question have .* use a shorter trace, or run without --ray$"):
        bundle(load_scenario(scenario())).check()


def test_a_node_returns_the_tables_of_its_task_alone() -> None:
    task = Task("key", "0-2-0", "mark", print, ("steps",))
    check_returned(task, {"0-2-0.steps.parquet": b""}, Path("out"))
    for name in ("../x", "0-2-0.json", "0-2-0.requests.parquet"):
        with pytest.raises(DsimError, match=r"expected the tables of task 0-2-0, got file .* from a node of the cluster"):
            check_returned(task, {name: b""}, Path("out"))


def test_a_node_with_another_dsim_is_refused(scenario: Callable[..., Path]) -> None:
    asked = load_scenario(scenario())
    with pytest.raises(DsimError, match="another dsim"):
        on_node(bundle(asked), "mark", "not this code", Task("key", "name", "mark", print))

"""A fleet whose router does not look at the replicas is simulated in parts: the same requests, steps and numbers as in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from simulator.engine.simulate import OpenTraffic, observe, simulate
from simulator.errors import ScenarioError
from simulator.study.run import point as points
from simulator.study.run import spread
from simulator.study.run.conditions import conditions
from simulator.study.run.meter import Meter
from simulator.study.run.point import Point, run_point
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep

ROUTERS = [{"kind": "round_robin"}, {"kind": "random"}]


@pytest.fixture
def fleet(scenario: Callable[..., Path]) -> Callable[..., Path]:
    """Five replicas with tight memory, open loop, prompts in chunks."""

    def write(routing: dict[str, Any], **more: Any) -> Path:
        workload = {
            "arrivals": {"kind": "poisson"},
            "prompt_tokens": {"kind": "fixed", "tokens": 50},
            "output_tokens": {"kind": "lognormal", "mean_tokens": 20, "cv": 0.8, "max_tokens": 60},
            "domains": {"chat": 2, "code": 1},
        }
        run = {"replications": 1, "warmup_s": 2, "duration_s": 8}
        engine = {"max_batch": 8, "prefill": {"kind": "instant"}, "kv_tokens": 200}
        return scenario(workload=workload, load=[60], engine=engine, fleet={"replicas": 5, "routing": routing}, run=run, sla=None, **more)

    return write


@pytest.mark.parametrize("routing", ROUTERS, ids=lambda r: r["kind"])
def test_parts_are_the_fleet(routing: dict[str, Any], fleet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = load_scenario(fleet(routing))
    assert points.parts(asked) == 5
    at = Point(2, 60.0, 0)
    split = run_point(asked, at)
    monkeypatch.setattr(points, "parts", lambda _scenario: 1)
    whole = run_point(asked, at)
    assert whole.requests > 200
    assert 0 < (split["preemptions"] or 0) <= (whole["preemptions"] or 0)  # a part ends when its own measured requests are done
    assert split.model_dump(exclude={"numbers"}) == whole.model_dump(exclude={"numbers"})
    for name, value in whole.numbers.items():
        if name == "preemptions":
            continue
        if isinstance(value, float):
            assert split[name] == pytest.approx(value, rel=1e-12), name
        else:
            assert split[name] == value, name


def test_front_ends_are_divided_as_round_robin_divides_replicas(
    fleet: Callable[..., Path], edit_profile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five replicas whose front ends take 1 / 12 s each carry 60 requests a second, whatever the router."""
    edit_profile(lambda p: p["costs"].update(front_end={"provenance": "synthetic", "seconds": 1 / 12}))
    asked = load_scenario(fleet(ROUTERS[0]), ["engine.kv_tokens=null"])
    assert points.parts(asked) == 5
    at = Point(0, 50.0, 0)
    split, more = run_point(asked, at), run_point(asked, Point(0, 100.0, 0))
    for router in ("random", "least_loaded"):
        other = load_scenario(fleet({"kind": router}), ["engine.kv_tokens=null"])
        assert points.parts(other) == 1
        assert run_point(other, at).verdict == "stable"
        assert run_point(other, Point(0, 100.0, 0)).verdict == "overloaded"
    monkeypatch.setattr(points, "parts", lambda _scenario: 1)
    whole = run_point(asked, at)
    assert (split.verdict, more.verdict) == ("stable", "overloaded")
    for name in ("e2e_p50_s", "e2e_p99_s", "tps_per_user_mean", "waiting_mean"):
        assert split[name] == pytest.approx(whole[name], rel=1e-12), name


@pytest.mark.parametrize(("load", "verdict"), [(120.0, "stable"), (400.0, "overloaded")])
def test_the_queue_of_a_fleet_is_the_sum_of_its_parts(load: float, verdict: str, fleet: Callable[..., Path]) -> None:
    """On both paths, and in parts: the same whole numbers, so the same verdict."""
    asked = load_scenario(fleet(ROUTERS[1]), ["engine.kv_tokens=null", f"load={load}"])
    at = Point(0, load, 0)
    traffic, meters = points._open(asked, at), []
    for path in ("plain", "auto"):
        meters.append(Meter(traffic.warmup_s, traffic.until_s, open_loop=True))
        observe(traffic, points.fleet_of(asked, asked.policies[0], 0), meters[-1], path)
    meters.append(points.run_part(asked, at, 0).meter)
    for part in range(1, 5):
        meters[-1].merge(points.run_part(asked, at, part).meter)
    row = run_point(asked, at)
    assert row.verdict == verdict
    for meter in meters:
        meter.steps.flush()
        assert meter.queue is not None
        np.testing.assert_array_equal(meter.queue._changes, meters[0].queue._changes)


@pytest.mark.parametrize("routing", ROUTERS, ids=lambda r: r["kind"])
def test_every_request_and_step_is_where_it_would_be(routing: dict[str, Any], fleet: Callable[..., Path], world: Path) -> None:
    asked = load_scenario(fleet(routing))
    sweep(asked, world / "points", workers=1, details=["steps", "requests"])
    traffic = points._open(asked, Point(2, 60.0, 0))
    run = simulate(OpenTraffic(traffic.specs, traffic.warmup_s, traffic.until_s, 0.0), points.fleet_of(asked, asked.policies[2], 0))
    found = pd.read_parquet(world / "points" / "2-60-0.requests.parquet").set_index("request").sort_index()
    for request in run.requests:
        if request.finished:
            assert found["finish_s"][request.spec.index] == request.finish_s
    steps = pd.read_parquet(world / "points" / "2-60-0.steps.parquet").sort_values(["end_s", "replica"])
    steps = steps[steps["end_s"] <= traffic.until_s]
    for name in ("replica", "start_s", "end_s", "requests", "verified", "accepted", "committed"):
        np.testing.assert_array_equal(steps[name], run.steps[name][run.steps["end_s"] <= traffic.until_s])


def test_parts_run_on_several_processes_with_the_same_numbers(fleet: Callable[..., Path], world: Path) -> None:
    asked = load_scenario(fleet(ROUTERS[0]))
    assert sweep(asked, world / "points", workers=2) == sweep(asked, workers=1)
    assert sweep(asked, world / "points", lambda done, every: None if done == every else pytest.fail("ran again"), workers=1)


@pytest.mark.parametrize("routing", [{"kind": "least_loaded"}, {"kind": "power_of_two"}])
def test_a_router_that_looks_keeps_the_fleet_together(routing: dict[str, Any], fleet: Callable[..., Path]) -> None:
    assert points.parts(load_scenario(fleet(routing))) == 1


@pytest.mark.parametrize("routing", [{"kind": "least_loaded"}, {"kind": "random"}], ids=lambda r: r["kind"])
@pytest.mark.parametrize("chunk", [64, 1 << 15])
def test_both_paths_give_the_same_row(routing: dict[str, Any], chunk: int, fleet: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics and all, in chunks of any size, and through the digest of many values."""
    pytest.importorskip("numba")
    monkeypatch.setattr(spread, "CHUNK", chunk)
    monkeypatch.setattr(spread, "EXACT", chunk)
    asked, rows = load_scenario(fleet(routing)), []
    for path in ("plain", "compiled"):
        monkeypatch.setattr(points, "observe", lambda *given, path=path: observe(*given, path))
        rows.append(run_point(asked, Point(2, 60.0, 0)))
    assert [(row.path, row.why_plain) for row in rows] == [("plain", "asked for"), ("compiled", "")]
    assert rows[0] == rows[1].model_copy(update={"path": "plain", "why_plain": "asked for"})


@pytest.mark.usefixtures("sketched")
def test_the_result_says_which_path_ran_and_how_the_fleet_was_cut(fleet: Callable[..., Path], dsim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fleet({"kind": "random"})
    said = json.loads(dsim("run", path, "--format", "json", "--workers", "1").out)["conditions"]
    assert "Routing ignores how busy the replicas are, so they are simulated as 5 independent fleets." in said
    if find_spec("numba"):
        assert said[-1] == "Engine: compiled."
    monkeypatch.setattr("simulator.engine.fast.find_spec", lambda _name: None)
    said = json.loads(dsim("run", path, "--format", "json", "--workers", "1", "--out", "other").out)["conditions"]
    assert said[-1].startswith("Engine: plain Python (numba is not installed (pip install 'dsim[fast]'))")


def test_replicas_that_fail_make_a_fleet_one_and_cost_its_users_time(fleet: Callable[..., Path]) -> None:
    path = fleet(ROUTERS[0])
    content = yaml.safe_load(path.read_text())
    content["fleet"]["failures"] = {"every_hours": 0.002, "restart_s": 1.0}
    failing = path.with_name("failing.yaml")
    failing.write_text(yaml.safe_dump(content))
    asked = load_scenario(failing)
    assert points.parts(asked) == 1
    at = Point(2, 60.0, 0)
    worse, well = run_point(asked, at), run_point(load_scenario(path), at)
    assert worse.requests == well.requests  # nobody is lost
    assert worse["e2e_p50_s"] > well["e2e_p50_s"]
    assert any("fails once in 0.002 hours" in line for line in conditions(asked))
    content["workload"]["arrivals"] = {"kind": "closed_loop"}
    content["load"] = [4]
    failing.write_text(yaml.safe_dump(content))
    with pytest.raises(ScenarioError, match=r"fleet\.failures: need requests that arrive whatever happens"):
        load_scenario(failing)

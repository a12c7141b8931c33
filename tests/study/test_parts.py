"""A fleet whose router does not look at the replicas is simulated in parts: the same requests, steps and numbers as in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from simulator.engine.simulate import OpenTraffic, simulate
from simulator.study import point as points
from simulator.study.point import Point, run_point
from simulator.study.scenario import load_scenario
from simulator.study.sweep import sweep

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
    assert whole["requests"] > 200
    assert 0 < split.pop("preemptions") <= whole.pop("preemptions")  # a part ends when its own measured requests are done
    assert split.keys() == whole.keys()
    for name, value in whole.items():
        if isinstance(value, float):
            assert split[name] == pytest.approx(value, rel=1e-12), name
        else:
            assert split[name] == value, name


@pytest.mark.parametrize("routing", ROUTERS, ids=lambda r: r["kind"])
def test_every_request_and_step_is_where_it_would_be(routing: dict[str, Any], fleet: Callable[..., Path], world: Path) -> None:
    asked = load_scenario(fleet(routing))
    sweep(asked, world / "points", workers=1, details=["steps", "requests"])
    traffic = points._open(asked, Point(2, 60.0, 0))
    run = simulate(OpenTraffic(traffic.specs, traffic.warmup_s, traffic.until_s, 0.0), points._fleet(asked, asked.policies[2], 0))
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

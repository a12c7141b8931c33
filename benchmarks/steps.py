"""Simulated steps per CPU-second of the whole engine (simulate(): SimPy, replay, policy, records) by batch size and policy."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from measure import ROOT, alternating, save, spread

from simulator.engine.simulate import Path, simulate
from simulator.reading.yaml_files import read_yaml
from simulator.study.run.fleet import fleet_of
from simulator.study.run.point import Point, _closed
from simulator.study.run.scenario import Scenario, validate_scenario

SCENARIO = ROOT / "scenarios" / "v4-flash-pareto.yaml"
USERS = (8, 64, 200)  # R, requests in the batch all the time: a closed loop
POLICIES: dict[str, dict[str, Any]] = {
    "none": {"verification": {"kind": "none"}},
    "fixed 5": {"drafter": "dspark", "verification": {"kind": "fixed", "length": 5}},
    "threshold 0.5": {"drafter": "dspark", "verification": {"kind": "threshold", "threshold": 0.5}},
    "scheduled sync": {"drafter": "dspark", "verification": {"kind": "confidence_scheduled", "mode": "synchronous"}},
    "scheduled async": {"drafter": "dspark", "verification": {"kind": "confidence_scheduled", "mode": "asynchronous"}},
    "uniform": {"drafter": "dspark", "verification": {"kind": "uniform"}},
}
PATHS: tuple[Path, ...] = ("plain", "compiled") if find_spec("numba") else ("plain",)
GOAL = ("scheduled async", 64, 10_000)  # policy, R, steps per CPU-second: the requirement


def main() -> None:
    """Measure, show, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    scenario = _scenario()
    names = list(POLICIES)
    tasks: dict[tuple[str, int, str], Callable[[], float]] = {
        (name, users, path): partial(_steps_per_s, scenario, Point(names.index(name), users, 0), path)
        for name in names
        for users in USERS
        for path in PATHS
    }
    rates = {key: spread(values) for key, values in alternating(tasks, repetitions).items()}
    _show({key: rate["median"] for key, rate in rates.items()}, repetitions)
    rows = [{"policy": name, "R": users, "path": path, "steps_per_cpu_s": rate} for (name, users, path), rate in rates.items()]
    save("steps", {"profile": "deepseek-v4-flash", "gamma": 5, "repetitions": repetitions, "rows": rows})


def _scenario() -> Scenario:
    """The demo's traffic and profile, with our policies. A repetition takes 0.1 to 0.5 s."""
    named = [{"name": name, **policy} for name, policy in POLICIES.items()]
    content = read_yaml(SCENARIO) | {"policies": named, "load": list(USERS)}
    for key in ("baseline", "validation", "sla"):
        content.pop(key, None)
    return validate_scenario(content, SCENARIO)


def _steps_per_s(scenario: Scenario, point: Point, path: Path) -> float:
    """CPU seconds of the run alone: profile and replay tables are read before, metrics are taken after."""
    fleet, traffic = fleet_of(scenario, scenario.policies[point.policy], point.replication), _closed(scenario, point)
    start = time.process_time()
    run = simulate(traffic, fleet, path)
    return len(run.steps) / (time.process_time() - start)


def _show(medians: dict[tuple[str, int, str], float], repetitions: int) -> None:
    print(f"simulated steps per CPU-second, medians of {repetitions} (profile deepseek-v4-flash, γ = 5)")
    for path in PATHS:
        print(f"{path:18}" + "".join(f"{f'R = {users}':>10}" for users in USERS))
        for name in POLICIES:
            print(f"{name:18}" + "".join(f"{medians[name, users, path]:10,.0f}" for users in USERS))
    name, users, least = GOAL
    rate = medians[name, users, "plain"]
    print(f"{name} at R = {users}, plain: {rate:,.0f}, required {least:,}: {'met' if rate >= least else 'MISSED'}")


if __name__ == "__main__":
    main()

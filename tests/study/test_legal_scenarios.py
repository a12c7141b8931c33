"""Scenarios that are legal end in a row of numbers or in one line, whatever their numbers are; both paths of the engine agree."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import yaml

from simulator.engine import simulate
from simulator.errors import DsimError
from simulator.study.run import point
from simulator.study.run.build import build_result
from simulator.study.run.limits import check_limits
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import check_traffic, points
from tests.study import legal_scenarios

SMALL_HOURS = 2e-7  # that a test has time for on the plain path


@pytest.mark.parametrize("first", [0, 60])
def test_a_legal_scenario_never_breaks(first: int, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = 0
    for seed in range(first, first + 20):
        luck = Random(seed)
        (world / "tiny" / "profile.yaml").write_text(yaml.safe_dump(legal_scenarios.profile(luck)))
        (world / "small.yaml").write_text(yaml.safe_dump(legal_scenarios.scenario(luck)))
        try:
            scenario = load_scenario(world / "small.yaml")
            if check_limits(scenario) > SMALL_HOURS:
                continue
            check_traffic(scenario)
        except DsimError:
            continue
        assert rows(scenario, "plain", monkeypatch) == rows(scenario, "auto", monkeypatch), seed
        simulated += 1
    assert simulated


def rows(scenario: Scenario, path: simulate.Path, monkeypatch: pytest.MonkeyPatch) -> list[PointRow]:
    """Those of all points, which make a result; without the path, which may differ."""
    monkeypatch.setattr(point, "observe", lambda traffic, fleet, sink: simulate.observe(traffic, fleet, sink, path))
    done = [point.run_point(scenario, one) for one in points(scenario)]
    build_result(scenario, done).to_json()
    return [row.model_copy(update={"path": "plain", "why_plain": ""}) for row in done]

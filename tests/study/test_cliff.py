"""Prediction intervals at the edge of a prefix cache, against worlds that are drawn and simulated whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from simulator.arrays import Floats
from simulator.measurements.model_error import GROUPS, ModelError
from simulator.measurements.perturbed import perturbed
from simulator.measurements.uncertainty import Unsure
from simulator.study.run import prediction
from simulator.study.run.draws import Change, Pace, interval
from simulator.study.run.point import Point, run_point
from simulator.study.run.prediction import Prediction
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import swept
from tests.study.test_sessions import ENGINE, SESSIONS

UNSURE = ({"parameter": "step", "sd": 0.2}, {"parameter": "prefill", "sd": 0.25})
SURE = ModelError(0.0, 0.0, 0.0, 0, "")
PACED = ModelError(0.15, 0.0, 0.0, 0, "")
NUMBERS = ("tps_per_user_mean", "throughput_tok_s_gpu", "ttft_p50_s", "ttft_p90_s", "prefix_hit_share")
LOADS = [12, 16, 24]
WORLDS = 40


def test_intervals_hold_where_a_cache_no_longer_does(world: Path, scenario: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions whose prompts just fit in memory: a little slower, more of them are in service at once, their prompts fall out and are computed again,
    and all is slower still. Truth is 40 worlds in which everything that is not known is drawn at once."""
    monkeypatch.setattr(prediction, "model_error", lambda _kind, _points: dict.fromkeys(GROUPS, SURE) | {"speed": PACED})
    file = world / "tiny" / "profile.yaml"
    content = yaml.safe_load(file.read_text())
    content["costs"]["prefill"] = {"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 2e-4}
    content["uncertainty"] = {"kind": "fitted", "points": 0, "parameters": list(UNSURE)}
    file.write_text(yaml.safe_dump(content))
    sessions = SESSIONS | {"think_s": 2, "turns": {"kind": "geometric", "mean": 8}, "new_tokens": {"kind": "fixed", "tokens": 200}}
    asked = load_scenario(scenario(
        policies=[{"name": "plain", "verification": {"kind": "none"}}], workload={"sessions": sessions, "domains": {"chat": 1}}, load=LOADS,
        engine=ENGINE | {"kv_tokens": 16_000, "max_batch": 32}, run={"replications": 1, "warmup_s": 20, "duration_s": 40}, sla=None,
    ))  # fmt: skip
    rows, moved = swept(asked, workers=1)
    told = Prediction(asked, rows, moved).world
    luck = np.random.default_rng(0).standard_normal((WORLDS, 3))
    unsure = [*(Unsure.model_validate(it) for it in UNSURE), Unsure(parameter="pace", sd=PACED.common)]
    held = []
    for load in LOADS:
        truth = np.array([[row[name] for name in NUMBERS] for row in (played(asked, unsure, sizes, load) for sizes in luck)])
        for name, values in zip(NUMBERS, truth.T, strict=True):
            low, high = interval(told["plain", load][name])
            held.append(float(((values >= low) & (values <= high)).mean()))
            first, last = np.quantile(values, (0.05, 0.95))
            assert np.log(high / low) < 2 * np.log(last / first) + 0.1, (load, name)
    assert min(held) > 0.7, held
    assert 0.85 < np.mean(held) < 0.97, held


def played(asked: Scenario, unsure: Sequence[Unsure], sizes: Floats, load: float) -> PointRow:
    """The run of a world in which all that is not known has one of these sizes."""
    profile = asked.known
    for it, size in zip(unsure, sizes, strict=True):
        profile = perturbed(profile, it, float(size))
    other = asked.model_copy()
    other._profile = profile
    return run_point(other, Point(0, load, 0))


def test_falls_do_not_add_up() -> None:
    """Two causes that each push a number over the same edge: it falls once. Beyond what was simulated it goes in proportion, and where the pace is
    proportional throughout, effects are added up as they are."""
    edge = Pace(np.array([-0.4, -0.1, 0.0, 0.1, 0.4]), np.array([[0.2], [0.1], [0.0], [-3.0], [-3.2]]), np.array([[-1.0], [-1.0]]))
    each = edge.like(np.array([-3.0]), [0])
    assert each == pytest.approx(0.1)
    assert edge(np.array([2 * each]))[0, 0] == pytest.approx(-3.0 - 0.2 / 3)
    assert edge(np.array([1.4]))[0, 0] == pytest.approx(-4.2)
    assert edge.like(np.array([-1.5]), [0]) == pytest.approx(0.05, abs=0.002)
    straight = Pace(np.array([0.0]), np.zeros((1, 1)), np.array([[-1.0], [-1.0]]))
    assert straight.like(np.array([-3.0]), [0]) == 0.0
    assert Change(0.5, np.ones(1)).times(2) == Change(1.0, np.full(1, 2.0))

"""Prediction intervals against worlds in which they are known on paper."""

from __future__ import annotations

from collections.abc import Callable
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.special import ndtri

from simulator.engine.simulate import OpenTraffic, observe
from simulator.measurements import model_error
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.model_error import GROUPS, ModelError
from simulator.report.render.terminal import terminal
from simulator.report.run.differences import compare
from simulator.report.run.page import run_page
from simulator.study.profiles.about import without_head
from simulator.study.run import build, point, prediction
from simulator.study.run.meter import Meter
from simulator.study.run.point import Point
from simulator.study.run.prediction import Prediction
from simulator.study.run.result import PointResult, RunResult
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import repeats, swept
from tests.conftest import SCENARIO

Z = float(ndtri(0.95))
SURE = {group: ModelError(0.0, 0.0, 0.0, 0, "") for group in GROUPS}
Ask = Callable[..., Scenario]


@pytest.fixture
def ask(world: Path, scenario: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The small scenario in a world without errors of the model, whose profile says what it is unsure of."""
    monkeypatch.setattr(prediction, "model_error", lambda _kind, _points: SURE)

    def read(parameters: list[dict[str, Any]], correlation: Any = None, **changes: Any) -> Scenario:
        file = world / "tiny" / "profile.yaml"
        content = yaml.safe_load(file.read_text())
        content["uncertainty"] = {"kind": "fitted", "points": 0, "parameters": parameters} | ({"correlation": correlation} if correlation else {})
        file.write_text(yaml.safe_dump(content))
        return load_scenario(scenario(**changes))

    return read


def predicted(asked: Scenario) -> RunResult:
    rows, moved = swept(asked, workers=1)
    return build.build_result(asked, rows, moved=moved)


def ends(point: PointResult, metric: str = "tps_per_user_mean") -> tuple[float, float]:
    """Logarithms of the ends of an interval ÷ the mean."""
    mean, told = point.mean(metric), point.prediction[metric]
    assert mean
    return log(told.low / mean), log(told.high / mean)


def test_a_step_that_is_unsure(ask: Ask) -> None:
    """Ordinary decoding takes T a token: its speed is as unsure as T, and that of others by the same factor, so that their gains are sure."""
    result = predicted(ask([{"parameter": "step", "sd": 0.1}], run={"replications": 1, "requests": 40}))
    for at in result.frontier:
        assert ends(at) == pytest.approx((-0.1 * Z, 0.1 * Z), abs=0.004)
        assert at.prediction["accepted_length"].low == at.prediction["accepted_length"].high == at.mean("accepted_length")
        if at.policy != "plain":
            assert at.over_baseline is not None
            assert at.over_baseline.high - at.over_baseline.low < 0.003
    assert result.prediction is not None
    assert result.prediction.unsure[0].share == pytest.approx(1.0, abs=1e-6)


def test_acceptance_that_is_unsure(ask: Ask, world: Path) -> None:
    """One drafted token, accepted with probability c: speed and accepted length go with 1 + c, whose logit is normal."""
    made = ParametricAcceptance(conditional={"chat": [0.8], "code": [0.8]}, miscalibration=[1.0], sequences_per_domain=60)
    without_head(made.generate("mtp")).save(world / "tiny" / "mtp.parquet")
    asked = ask([{"parameter": "level", "drafter": "mtp", "sd": 0.5}], load=[6], run={"replications": 1, "requests": 1200})
    result = predicted(asked)
    plain, at, _ = result.frontier
    tau = at.mean("accepted_length")
    assert tau is not None
    odds = log((tau - 1) / (2 - tau))
    low, high = (1 + 1 / (1 + np.exp(-odds - sign * 0.5 * Z)) for sign in (-1, 1))
    assert at.prediction["accepted_length"].low == pytest.approx(low, rel=0.02)
    assert at.prediction["accepted_length"].high == pytest.approx(high, rel=0.02)
    assert ends(at) == pytest.approx((log(low / tau), log(high / tau)), abs=0.03)
    assert ends(plain) == pytest.approx((0, 0), abs=1e-9)


def test_nothing_unsure_leaves_the_noise_of_a_run(ask: Ask) -> None:
    """As wide as what replications show, of a single further run; with one there is nothing to go by."""
    asked = ask([], run={"replications": 12, "requests": 12})
    rows, moved = swept(asked, workers=1)
    assert moved == {}
    result = build.build_result(asked, rows, moved=moved)
    for at in result.frontier:
        speeds = np.log([row["tps_per_user_mean"] for row in rows if (row.policy, row.load) == (at.policy, at.load)])
        expected = speeds.std(ddof=1) * sqrt(1 + 1 / 12)
        told = Prediction(asked, rows, moved).world[at.policy, at.load]["tps_per_user_mean"]
        assert np.log(told).std() == pytest.approx(expected, rel=0.02)


def test_opposite_numbers_cancel(ask: Ask) -> None:
    """Two factors of the same step, one up where the other is down."""
    both = [{"parameter": "step", "sd": 0.1}, {"parameter": "step", "sd": 0.1}]
    small = {"run": {"replications": 1, "requests": 40}, "load": [2]}
    width = {}
    for name, correlation in (("opposite", [[1, -1], [-1, 1]]), ("alike", [[1, 1], [1, 1]]), ("apart", None)):
        low, high = ends(predicted(ask(both, correlation, **small)).frontier[0])
        width[name] = high - low
    assert width["opposite"] < 0.01
    assert width["alike"] == pytest.approx(2 * Z * 0.2, rel=0.04)
    assert width["apart"] == pytest.approx(2 * Z * 0.1 * sqrt(2), rel=0.06)


def test_more_unsure_is_wider(ask: Ask) -> None:
    widths = []
    for sd in (0.0, 0.1, 0.4):
        asked = ask([{"parameter": "verified", "sd": sd}, {"parameter": "draft", "drafter": "head", "sd": sd}], load=[6])
        result = predicted(asked)
        widths.append([high - low for low, high in map(ends, result.frontier)])
    plain, *drafting = np.array(widths).T
    assert np.ptp(plain) == 0
    assert all(np.all(np.diff(of) > 0) for of in drafting)


def test_the_models_own_error_is_common_where_it_is(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """What policies share cancels in gains; what each has for itself adds up in them."""
    run = {"replications": 1, "requests": 40}
    for common, own in ((0.1, 0.0), (0.0, 0.1)):
        errors = SURE | {"speed": ModelError(common, own, 0.0, 9, "")}
        monkeypatch.setattr(prediction, "model_error", lambda _kind, _points, errors=errors: errors)
        for at in predicted(ask([], run=run)).frontier:
            assert ends(at) == pytest.approx((-0.1 * Z, 0.1 * Z), abs=0.01)
            if at.policy != "plain":
                assert at.over_baseline is not None
                width = log((1 + at.over_baseline.high) / (1 + at.over_baseline.low))
                assert width == pytest.approx(2 * Z * own * sqrt(2), rel=0.08, abs=1e-9)


def test_a_drafter_that_costs_nothing_can_only_cost_more(ask: Ask) -> None:
    asked = ask([{"parameter": "draft", "drafter": "head", "sd": 0.2}], load=[2], run={"replications": 1, "requests": 40})
    low, high = ends(predicted(asked).frontier[2])
    assert high == pytest.approx(0, abs=1e-9)
    assert low < -0.15


def test_the_measurement_worth_most_tells_what_is_unsure(ask: Ask) -> None:
    """What drafting costs is seen in a benchmark that drafts, and at none other; after it nearly nothing is left."""
    told = predicted(ask([{"parameter": "draft", "drafter": "head", "sd": 0.2}], run={"replications": 1, "requests": 40})).prediction
    assert told is not None
    assert told.measure is None or told.measure.policy == "scheduled"
    if told.unsure[0].share > 0.5:
        assert told.measure is not None
        assert told.measure.left < 0.2


def test_repeated_runs_are_kept(ask: Ask, world: Path) -> None:
    asked = ask([{"parameter": "verified", "sd": 0.3}])
    first = swept(asked, world / "points", workers=1)
    again = swept(asked, world / "points", lambda done, every: None if done == every else pytest.fail("ran again"), workers=1)
    assert first == again
    assert {at.policy for at in first[1]} == {1, 2}  # the policy that drafts nothing does not feel it


@pytest.mark.parametrize("parameter", ["step", "verified", "draft", "level", "prefill"])
def test_both_paths_of_the_engine_run_a_moved_profile(parameter: str, ask: Ask, world: Path) -> None:
    content = yaml.safe_load((world / "tiny" / "profile.yaml").read_text())
    content["costs"]["prefill"] = {"kind": "linear", "provenance": "synthetic", "base_s": 0.002, "per_token_s": 2e-5}
    (world / "tiny" / "profile.yaml").write_text(yaml.safe_dump(content))
    drafter = {"drafter": "head"} if parameter in ("draft", "level") else {}
    workload = {
        "arrivals": {"kind": "poisson"},
        "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "fixed", "tokens": 20},
        "domains": {"chat": 1},
    }
    engine = {"max_batch": 8, "prefill": {"kind": "chunked", "token_budget": 64}}
    run = {"replications": 1, "warmup_s": 1, "duration_s": 5}
    asked = ask([{"parameter": parameter, "sd": 0.3} | drafter], workload=workload, engine=engine, run=run, load=[8], sla=None)
    found = [at for at in repeats(asked) if at.policy == 2 and at.cause == 0]
    assert {at.size for at in found} == ({1.0} if parameter == "draft" else {1.0, -1.0})
    for at in (found[0], Point(2, 8.0, 0)):
        rows = []
        for path in ("plain", "auto"):
            traffic = point._open(asked, at)
            assert isinstance(traffic, OpenTraffic)
            meter = Meter(traffic.warmup_s, traffic.until_s, open_loop=True)
            fleet = point.fleet_of(point._as_moved(asked, at), asked.policies[2], 0)
            end = observe(traffic, fleet, meter, path)
            rows.append(meter.row(end, 1.0, 1, True).numbers)
        assert rows[0] == rows[1]


def test_the_models_error_has_a_row_for_every_kind() -> None:
    for kind in ("measured", "fitted", "estimated", "published"):
        errors = model_error.model_error(kind, 0)
        assert all(errors[group].comparisons > 0 and errors[group].cell > 0 for group in GROUPS)


def test_pages_show_both_intervals(ask: Ask) -> None:
    """Under their names, with what the answer is not sure of."""
    result = predicted(ask([{"parameter": "verified", "sd": 0.3, "note": "two benchmarks would tell"}]))
    page = run_page(result)
    told = " ".join(terminal(page).split())
    assert "Simulation noise (95 %) over 2 replications, in brackets the prediction interval (90 %)." in told
    assert "two benchmarks would tell" in told
    assert "cost of drafted tokens" in told
    assert "prediction interval" in " ".join(result.answer), result.answer
    point = result.frontier[-1].prediction["tps_per_user_mean"]
    assert f"[{point.low:.1f}…{point.high:.1f}]" in told
    picture = next(picture for picture in page.pictures() if picture.stem == "pareto")
    assert "prediction interval (90 %)" in picture.svg
    compared = compare(result, result).points[-1].metrics["tps_per_user_mean"]
    assert compared.prediction_a == compared.prediction_b == point
    assert RunResult.from_json(result.to_json()) == result


def test_an_open_loop_near_saturation(ask: Ask) -> None:
    """Arrivals that a replica just carries: throughput is what is asked for, speed falls by more than the step grows, and a warning says so."""
    workload = {
        "arrivals": {"kind": "poisson"},
        "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "fixed", "tokens": 20},
    }
    run = {"replications": 1, "warmup_s": 2, "duration_s": 20}
    policies = [{"name": "plain", "verification": {"kind": "none"}}]
    asked = ask([{"parameter": "step", "sd": 0.4}], workload=workload, load=[10, 30], run=run, policies=policies, sla=None, baseline=None)
    result = predicted(asked)
    light, heavy = result.frontier
    assert light.prediction["throughput_tok_s_gpu"].low == pytest.approx(light.mean("throughput_tok_s_gpu"), rel=0.02)
    assert ends(light)[0] < -0.4 * Z
    assert heavy.verdict != "overloaded"
    (told,) = [remark.text for remark in result.warnings if "Near saturation" in remark.text]
    assert "plain at 30 (step time higher, all times higher)" in told


def test_no_more_is_served_than_comes(ask: Ask) -> None:
    """Five requests a second at regular intervals, of which half are as fast as promised: in faster worlds more of them are, but no more than come;
    nor are more tokens answered than are asked for."""
    workload = SCENARIO["workload"] | {"arrivals": {"kind": "constant"}, "output_tokens": {"kind": "fixed", "tokens": 30}}
    open_loop: dict[str, Any] = {"workload": workload, "policies": SCENARIO["policies"][1:2], "load": [5.0], "baseline": None}
    run = {"replications": 2, "duration_s": 40}
    at = predicted(ask([{"parameter": "step", "sd": 0.1}], **open_loop, sla={"goodput": {"tpot_s": 0.006}}, run=run)).frontier[0]
    good, goodput, throughput = at.mean("goodput_share"), at.prediction["goodput_rps"], at.prediction["throughput_tok_s_gpu"]
    assert good is not None

    assert 0.3 < good < 0.7
    assert goodput.low < 2
    assert 4.5 < goodput.high <= 5 * (1 + 1e-9)
    assert throughput.high <= 5 * 30 * 1.01

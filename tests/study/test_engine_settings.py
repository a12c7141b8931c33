"""Settings that a review found wanting: what they must do, by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.errors import ScenarioError, TraceError
from simulator.measurements.cost import Costs, FittedCurve, LinearDraft, Overhead
from simulator.measurements.cost_kind import GraphSizes
from simulator.measurements.prices import RoundCost
from simulator.policies.verification import ByBatch
from simulator.study.run.fleet import fleet_of
from simulator.study.run.metrics import Verdict
from simulator.study.run.pareto import gains
from simulator.study.run.point import Point, run_point
from simulator.study.run.result import Estimate, PointRow
from simulator.study.run.scenario import load_scenario
from simulator.traffic import public
from simulator.traffic.traces import TraceSource
from tests.report import synthetic_result as synthetic

CURVE = FittedCurve(provenance="synthetic", base_s=0.01, per_token_s=0.001, measured_tokens=(1, 1000))
COSTS = Costs(verify=CURVE, overhead=Overhead(provenance="synthetic"))


def test_steps_are_padded_to_the_next_graph_and_run_at_their_size_above_the_largest() -> None:
    price = RoundCost(COSTS, None, 5, 5, sizes=GraphSizes((8, 4, 16)))
    tokens = np.arange(3, 19)  # three requests: 3 to 18
    padded = [4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 17, 18]
    np.testing.assert_allclose(price.round_s(3, 0)[: len(tokens)], 0.01 + 0.001 * np.array(padded))


def test_a_scheduler_may_look_one_graph_lower() -> None:
    lower = GraphSizes((4, 8, 16), down=True).padded(np.array([3, 4, 5, 8, 9, 16, 17]))
    assert lower.tolist() == [3, 4, 4, 8, 8, 16, 17]


def test_a_scheduler_that_looks_one_graph_lower_goes_by_the_profiles_sizes(
    scenario: Callable[..., Path], edit_profile: Callable[..., None], world: Path
) -> None:
    """Steps of up to 4, 8, 16 tokens; two requests send 2 to 16. The same as with those sizes in the scenario, and another length is chosen."""
    rows = "".join(f"{tokens},{0.01 * tokens:g}\n" for tokens in (1, 4, 8, 16, 600))
    (world / "tiny" / "steps.csv").write_text("tokens,p50_s\n" + rows)
    verify = {"provenance": "synthetic", "kind": "table", "file": "steps.csv", "between": "linear"}

    def believed(padded_to: list[int], **engine: Any) -> list[float]:
        edit_profile(lambda profile: profile["costs"].update(verify=verify | {"padded_to": padded_to}))
        asked = load_scenario(scenario(engine={"prefill": {"kind": "instant"}, "scheduler_rounds": "down"} | engine))
        fleet = fleet_of(asked, asked.policies[2], 0)
        return np.asarray(fleet.prices.round_s(2, 0) - fleet.believed.round_s(2, 0)).tolist()

    found = believed([4, 8, 16])
    assert found == believed([4, 8, 16], graph_sizes=[4, 8, 16])
    assert found[3] == pytest.approx(0.04)  # 5 tokens: 8 are sent, 4 believed
    with pytest.raises(ScenarioError, match=r"engine\.scheduler_rounds: profile 'tiny' does not say which sizes steps are padded to"):
        believed([])


def test_a_length_known_by_batch_is_all_that_is_drafted() -> None:
    rule = ByBatch(table=[(1, 4, 3), (5, 8, 1), (9, 16, 0)])
    draft = LinearDraft(provenance="synthetic", per_slot_s=0.1)
    price = RoundCost(COSTS, draft, 5, rule.longest(5), lambda requests, _: rule.drafted(requests, 5))
    assert [price.draft_s(r, 0) for r in (2, 6, 12)] == pytest.approx([0.3, 0.1, 0.0])


def test_a_trace_path_that_is_not_there_never_falls_back_to_another_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "cached.csv"
    cached.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    monkeypatch.setattr(public, "cached_path", lambda _name: cached)
    source = TraceSource(path=Path("mine.csv"), name="azure-2023-conversation")
    with pytest.raises(TraceError, match=r"mine\.csv: no such file"):
        source.find(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    assert source.find(tmp_path / "elsewhere") == (tmp_path / "mine.csv").resolve()


def test_a_warm_up_as_long_as_the_traffic_is_refused(tmp_path: Path, scenario: Callable[..., Path]) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,5,5\n9,5,5\n")
    path = scenario(workload={"trace": {"path": str(tmp_path / "t.csv")}}, load=[1], run={"warmup_s": 20, "replications": 1})
    with pytest.raises(ScenarioError, match=r"run\.warmup_s: is 20 s, but at load 1 the traffic ends after 9 s"):
        run_point(load_scenario(path), Point(0, 1.0, 0))


def test_one_load_may_stand_alone(scenario: Callable[..., Path]) -> None:
    assert load_scenario(scenario(), ["load=3"]).load == [3]


def row(policy: str, load: float, speed: float, throughput: float, verdict: Verdict = "stable") -> PointRow:
    numbers = {"tps_per_user_mean": speed, "throughput_tok_s_gpu": throughput}
    return synthetic.row(policy, load, numbers, verdict=verdict)


def test_a_policy_that_is_overloaded_higher_up_does_not_keep_the_promise_everywhere() -> None:
    rows = [row("a", 1, 100, 10), row("a", 2, 60, 15, "overloaded"), row("b", 1, 120, 10), row("b", 2, 90, 20)]
    found = gains(rows, ["a", "b"], "a", "tps_per_user_mean", [80]).at_sla
    assert found[0].at_least == Estimate(10)
    assert found[0].note == "a keeps 80 tok/s/user until requests queue, at load 2 or before: add loads below that"
    assert found[1].note == "b stays above 80 tok/s/user at all simulated loads: add higher loads"

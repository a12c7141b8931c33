"""Fleets of several kinds of replicas: the scenario, its numbers by group, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.errors import DsimError
from simulator.study.run.build import build_result
from simulator.study.run.metrics import OF_GROUPS
from simulator.study.run.point import Point, run_point
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import bundle, points
from tests.conftest import PROFILE, Dsim

OPEN: dict[str, Any] = {
    "workload": {
        "arrivals": {"kind": "poisson"},
        "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "lognormal", "mean_tokens": 20, "cv": 0.5, "max_tokens": 60},
    },
    "load": [9],
    "run": {"duration_s": 20, "replications": 2},
}


@pytest.fixture
def slow(world: Path) -> Path:
    """The tiny profile on two GPUs that are half as fast."""
    shutil.copytree(world / "tiny", world / "slow")
    content = yaml.safe_load((world / "slow" / "profile.yaml").read_text())
    content |= {"name": "slow", "hardware": "two old GPUs", "gpus_per_replica": 2.0}
    content["costs"]["verify"]["base_s"] = 0.02
    (world / "slow" / "profile.yaml").write_text(yaml.safe_dump(content))
    return world / "slow"


def numbers(scenario: Scenario) -> list[Any]:
    return [run_point(scenario, point).model_dump(exclude={"groups", "path", "why_plain"}) for point in points(scenario)]


@pytest.mark.parametrize("changes", [OPEN, {}], ids=["open", "closed"])
def test_two_groups_of_one_profile_are_one_fleet(scenario: Callable[..., Path], world: Path, changes: dict[str, Any]) -> None:
    shutil.copytree(world / "tiny", world / "again")
    one = load_scenario(scenario(fleet={"replicas": 3}, **changes))
    two = load_scenario(scenario(fleet={"groups": [{"name": "a", "replicas": 2}, {"name": "b", "profile": "again"}]}, **changes))
    assert two.gpus == one.gpus == 3
    assert numbers(one) == numbers(two)


@pytest.mark.parametrize("changes", [OPEN, {}], ids=["open", "closed"])
def test_a_group_alone_is_the_fleet(scenario: Callable[..., Path], changes: dict[str, Any]) -> None:
    of = load_scenario(scenario(fleet={"groups": [{"name": "a", "replicas": 2}]}, sla={"goodput": {"tpot_s": 0.008}}, **changes))
    for row in (run_point(of, point) for point in points(of)):
        assert row.groups[0].numbers == {name: row[name] for name in OF_GROUPS}
        assert row["goodput_share"] is not None


def test_groups_add_up_to_the_fleet(scenario: Callable[..., Path], slow: Path) -> None:
    groups = [{"name": "new"}, {"name": "old", "replicas": 2, "profile": "slow"}]
    policies = [
        {"name": "plain", "verification": {"kind": "none"}},
        {"name": "half", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}, "groups": {"old": {"verification": {"kind": "none"}}}},
    ]
    of = load_scenario(scenario(fleet={"groups": groups}, policies=policies, sla={"goodput": {"tpot_s": 0.015}}, **OPEN))
    assert of.gpus == 1 + 2 * 2
    rows = [run_point(of, point) for point in points(of)]
    for row in rows:
        assert sum(group.requests for group in row.groups) == row.requests
        new, old = ({name: value or 0.0 for name, value in group.numbers.items()} for group in row.groups)
        for rate in ("throughput_tok_s_gpu", "goodput_rps_gpu"):
            assert (new[rate] + 4 * old[rate]) / 5 == pytest.approx(row[rate])
        assert new["itl_p50_s"] < 0.015
        assert old["itl_p50_s"] > 0.02
        assert new["goodput_share"] > 0.9
        assert old["goodput_share"] < 0.1
        assert (new["concurrency_mean"] + 2 * old["concurrency_mean"]) / 3 == pytest.approx(row["concurrency_mean"])
        assert old["accepted_length"] == 1
        assert (new["accepted_length"] > 1) == (row.policy == "half")
        assert new["tps_per_user_mean"] > 1.5 * old["tps_per_user_mean"]
    result = build_result(of, rows)
    assert [group.name for group in result.frontier[0].groups] == ["new", "old"]
    assert result.policies[1].rule == "fixed (length 1); old: none"
    machines = "new, 1 replica of 1 GPU, one GPU (profile 'tiny'); old, 2 replicas of 2 GPUs, two old GPUs (profile 'slow')"
    assert any(machines in line for line in result.conditions)
    assert result.profile.hardware == "one GPU and two old GPUs"
    assert {row.table.partition(":")[0] for row in result.profile.provenance} == {"tiny", "slow"}


def test_a_bundle_has_the_profiles_of_all_groups(scenario: Callable[..., Path], slow: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    of = load_scenario(scenario(fleet={"groups": [{"name": "new"}, {"name": "old", "profile": "slow"}]}, **OPEN))
    sent = bundle(of)
    there = sent.unpack(tmp_path_factory.mktemp("node"))
    assert there.gpus == of.gpus
    assert run_point(there, Point(0, 9.0, 0)).numbers == run_point(of, Point(0, 9.0, 0)).numbers
    (slow / "profile.yaml").write_text((slow / "profile.yaml").read_text().replace("0.02", "0.03"))
    assert bundle(load_scenario(of.file)).mark != sent.mark  # kept points are of other costs


def test_what_is_not_known_of_groups_moves_with_the_scenarios(scenario: Callable[..., Path], slow: Path) -> None:
    from simulator.study.run.moved import causes, moved

    of = load_scenario(scenario(fleet={"groups": [{"name": "new"}, {"name": "old", "profile": "slow"}]}, **OPEN))
    pace = len(causes(of)) - 1
    factors = [moved(of, pace, 1.0).groups[n][1].known.costs.overhead.seconds / of.groups[n][1].known.costs.overhead.seconds for n in (0, 1)]
    assert factors[0] == pytest.approx(factors[1]) != 1


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"fleet": {"replicas": 2, "groups": [{"name": "a"}]}}, "fleet: expected replicas or groups, got both"),
        ({"fleet": {"groups": [{"name": "a"}, {"name": "a"}]}}, "fleet: two groups are called 'a'"),
        ({"fleet": {"groups": [{"name": "a", "replicas": 0}]}}, "fleet.groups.0.replicas: expected a number above 0"),
        ({"fleet": {"groups": [{"name": "a", "profile": "gone"}]}}, "fleet.groups.0.profile: no profile at"),
        ({"fleet": {"groups": [{"name": "a", "profile": "other"}]}}, "fleet.groups.0.profile: profile 'tiny' is of large, the scenario's of small"),
        (
            {"policies": [{"name": "p", "verification": {"kind": "none"}, "groups": {"b": {"verification": {"kind": "none"}}}}]},
            "policies.0.groups: the fleet has no group 'b'; give fleet.groups",
        ),
        (
            {
                "fleet": {"groups": [{"name": "a"}]},
                "policies": [{"name": "p", "verification": {"kind": "none"}, "groups": {"a": {"verification": {"kind": "fixed", "length": 1}}}}],
            },
            "policies.0.groups.a.drafter: policy 'p' verifies drafts but names no drafter",
        ),
    ],
)
def test_refusals(scenario: Callable[..., Path], world: Path, changes: dict[str, Any], line: str) -> None:
    shutil.copytree(world / "tiny", world / "other")
    (world / "other" / "profile.yaml").write_text(yaml.safe_dump(PROFILE | {"target": "large"}))
    with pytest.raises(DsimError) as refused:
        load_scenario(scenario(**changes))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_page_has_a_table_by_group(scenario: Callable[..., Path], slow: Path, dsim: Dsim) -> None:
    scenario(fleet={"groups": [{"name": "new"}, {"name": "old", "profile": "slow"}]}, **OPEN)
    assert dsim("run", "small.yaml", "--out", "out").code == 0
    text = (Path("out") / "report.md").read_text()
    assert "## Groups of machines" in text
    assert not (Path("out") / "launch").exists()  # commands are for one kind of replica
    assert "replicas differ" in dsim("export", "launch", "small.yaml", "--policy", "plain").err

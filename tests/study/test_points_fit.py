"""`dsim fit` of points of several lengths: what was kept out is predicted, and the profile simulates to what the fit says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulator.errors import DsimError
from simulator.measurements.cost import Costs
from simulator.measurements.points import conditional_of, read_points
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import load_profile
from simulator.measurements.replay import lay_out
from simulator.measurements.surface_priors import DraftKind
from simulator.policies.verification import FixedLength
from simulator.study.profiles.about import About
from simulator.study.profiles.one_replica import closed_loop
from simulator.study.profiles.points_fit import profile_from_points
from simulator.study.profiles.telemetry import fit_telemetry

SURVIVAL = np.array([0.8, 0.55, 0.3])


def speed(users: int, k: int) -> float:
    time = 0.01 + 5e-5 * users * (1 + k) + 5e-5 * users + (0.0015 if k else 0)
    return float((1 + SURVIVAL[:k].sum()) / time)


def sweep(folder: Path) -> Path:
    rows = ["concurrency,tps_per_user,k,use"]
    for k in (0, 1, 3):
        rows += [f"{users},{speed(users, k):.6g},{k},{'check' if k == 1 else 'fit'}" for users in (1, 4, 16, 64)]
    path = folder / "points.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_points_kept_out_are_predicted_and_the_profile_simulates_to_the_fit(tmp_path: Path) -> None:
    result = profile_from_points(sweep(tmp_path), About(tmp_path / "ours", drafter="mine"), [1.8, 2.35, 2.65])
    assert result["checked"]["points"] == 4
    assert result["checked"]["worst"] < 0.05
    assert "kept out of the fit: 4 points, median error" in result["text"]
    profile = load_profile(tmp_path / "ours")
    costs: Costs = profile.costs
    assert profile.uncertainty is not None
    assert profile.uncertainty.points == 4
    rows = {(row["k"], round(row["concurrency"])): row["predicted"] for row in result["points"]}
    replay = lay_out(profile.blocks("mine"), None, False, 0, 0)
    for k, users in ((1, 4), (3, 16)):
        prices = RoundCost(costs, profile.drafter("mine").draft, 3, k)
        ran = closed_loop(users, 40, 256, FixedLength(length=k), replay, prices)
        assert ran.known("tps_per_user_overall") == pytest.approx(rows[k, users], rel=0.02)
    json.dumps(result)


@pytest.mark.parametrize(
    ("name", "drafting", "family"),
    [("dflash", "block", "dflash"), ("dspark", "unknown", "dspark"), ("mtp", "chain", "mtp"), ("mine", "block", "other"), ("mtp", "block", "other")],
)
def test_the_method_of_a_drafter_is_that_of_its_name(tmp_path: Path, name: str, drafting: DraftKind, family: str) -> None:
    profile_from_points(sweep(tmp_path), About(tmp_path / "ours", drafter=name), drafting=drafting)
    assert load_profile(tmp_path / "ours").drafter(name).family == family


@pytest.mark.parametrize(
    "text, says",
    [
        ("concurrency,tps_per_user,k\n4,50,1.5\n", ":2: k: expected a whole number of drafted tokens, got 1.5"),
        ("concurrency,tps_per_user,policy\n4,50,magic\n", ":2: policy: unknown policy 'magic'"),
        ("concurrency,tps_per_user,policy\n4,50,fixed\n", ":2: k: does not say how many tokens were drafted"),
        ("concurrency,tps_per_user,policy,k\n4,50,fixed_3,2\n", ":2: k: the policy 'fixed_3' and k = 2 contradict each other"),
        ("concurrency,tps_per_user,k,use\n4,50,1,maybe\n", ":2: use: expected fit or check, got 'maybe'"),
        ("concurrency,k\n4,1\n", ":2: needs two of concurrency, tps_per_user and throughput"),
        ("concurrency,tps_per_user,throughput_tok_s_gpu,k\n4,50,300,1\n", ":2: throughput is 50% above concurrency × speed"),
        ("concurrency,tps_per_user,k,accepted_length\n4,50,1,0.5\n", ":2: accepted_length: expected 1 to 128, got 0.5"),
        ("concurrency,tps_per_user,k,drafter\n4,50,1,a/b\n", ":2: drafter: "),
    ],
)
def test_points_are_refused_with_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DsimError) as refused:
        read_points(tmp_path / "p.csv", 1.0, "mine")
    assert says in str(refused.value)


def test_what_points_of_a_published_sweep_say(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        "policy,concurrency,throughput_tok_s_total,tps_per_user\nnone,16,1124,71.8\nadaptive_7,16,2037,136\nfixed_5,32,3071,\n"
    )
    file = read_points(tmp_path / "p.csv", 8.0, "mine")
    assert [(p.slots, p.adaptive) for p in file.points] == [(0, False), (7, True), (5, False)]
    assert file.by_throughput  # one row has throughput alone: so all speeds are read from it
    assert [p.tps_per_user for p in file.points] == pytest.approx([1124 / 16, 2037 / 16, 3071 / 32])
    (tmp_path / "q.csv").write_text("concurrency,tps_per_user,throughput_tok_s_gpu,k\n10,50,100,0\n")
    point = read_points(tmp_path / "q.csv", 4.0, "mine").points[0]
    assert (point.concurrency, point.offered) == (8, 10)


def test_accepted_lengths_of_each_k_are_conditional_acceptance() -> None:
    assert conditional_of([1.8, 2.2]) == pytest.approx([0.8, 0.5])
    with pytest.raises(DsimError, match="rise by less"):
        conditional_of([1.5, 2.2])


def test_options_of_one_policy_and_of_several_lengths_do_not_mix(tmp_path: Path) -> None:
    about, nothing = About(tmp_path / "ours"), (0.0, [], "", "unknown", None)
    with pytest.raises(DsimError, match=r"--budget: points.csv says what was drafted at each point; leave the option out"):
        fit_telemetry(sweep(tmp_path), about, None, 2.0, *nothing)  # type: ignore[arg-type]
    (tmp_path / "one.csv").write_text("concurrency,tps_per_user\n4,50\n16,40\n")
    with pytest.raises(DsimError, match=r"--graph-limit: one.csv has no column k or policy"):
        fit_telemetry(tmp_path / "one.csv", about, 1.0, 1.0, 0.0, [], "", "unknown", 512)
    with pytest.raises(DsimError, match=r"--accepted-length: is not told by the points; give both options"):
        fit_telemetry(tmp_path / "one.csv", about, None, 1.0, *nothing)  # type: ignore[arg-type]
    assert not (tmp_path / "ours").exists()

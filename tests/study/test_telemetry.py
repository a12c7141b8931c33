"""`dsim fit`: telemetry in, a profile out that says what was assumed and gives the telemetry back when it is simulated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from simulator.errors import DsimError
from simulator.measurements.cost import FittedCurve
from simulator.measurements.fit import read_telemetry
from simulator.measurements.profile import load_profile
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import sweep

ROOT = Path(__file__).resolve().parents[2]
FLASH = ROOT / "profiles" / "deepseek-v4-flash"
MTP = FLASH / "published" / "fig7_mtp.csv"
Dsim = Callable[..., Any]


def simulated(profile: str, folder: Path, loads: list[int], verification: dict[str, Any], drafter: str | None = "mtp") -> dict[float, float]:
    """Per-user speed of the policy that the telemetry is of, at each load."""
    policy = {"name": "today", "verification": verification} | ({"drafter": drafter} if drafter else {})
    content = {
        "name": "today",
        "profile": profile,
        "policies": [policy],
        "workload": {
            "arrivals": {"kind": "closed_loop"},
            "prompt_tokens": {"kind": "fixed", "tokens": 10},
            "output_tokens": {"kind": "fixed", "tokens": 200},
        },
        "load": loads,
        "engine": {"max_batch": 512, "prefill": {"kind": "instant"}},
        "run": {"replications": 2, "requests": 200},
    }
    (folder / "today.yaml").write_text(yaml.safe_dump(content))
    rows = sweep(load_scenario(folder / "today.yaml"), workers=1)
    return {load: float(np.mean([row["tps_per_user_mean"] for row in rows if row.load == load])) for load in loads}


def test_the_published_line_gives_the_shipped_curve_and_comes_back(world: Path, dsim: Dsim) -> None:
    said = dsim("fit", MTP, "--accepted-length", 1.85, "--budget", 2, "--out", "mine", "--format", "json")
    assert said.code == 0
    told = json.loads(said.out)
    made, shipped = load_profile(world / "mine"), load_profile(FLASH)
    assert isinstance(made.costs.verify, FittedCurve)
    assert isinstance(shipped.costs.verify, FittedCurve)
    for key in ("base_s", "per_token_s", "concave_s", "concave_tokens", "cliffs", "measured_tokens"):
        assert getattr(made.costs.verify, key) == getattr(shipped.costs.verify, key)
    assert told["rms"] < 0.003 < told["plain_rms"]

    table = pd.read_csv(MTP, comment="#")
    users = table["throughput_tok_s_gpu"] / table["tps_per_user"]
    order = np.argsort(users)
    loads = [8, 40, 160, 350]
    found = simulated("mine", world, loads, {"kind": "fixed", "length": 1})
    for load in loads:
        published = np.interp(load, users.to_numpy()[order], table["tps_per_user"].to_numpy()[order])
        assert found[load] == pytest.approx(published, rel=0.015)


def test_a_known_curve_comes_back_without_speculation(world: Path, dsim: Dsim) -> None:
    users = np.array([2, 4, 8, 16, 32, 64])
    speed = 1 / (0.02 + 0.0005 * users)
    lines = [f"{u},{v:.6f}" for u, v in zip(users, speed, strict=True)]
    (world / "t.csv").write_text("concurrency,tps_per_user\n" + "\n".join(lines) + "\n")
    assert dsim("fit", "t.csv", "--accepted-length", 1, "--budget", 1, "--out", "mine").code == 0
    profile = load_profile(world / "mine")
    assert profile.drafters == {}
    assert profile.costs.verify.seconds(users) == pytest.approx(1 / speed, rel=1e-3)
    found = simulated("mine", world, [4, 32], {"kind": "none"}, None)
    assert found[4] == pytest.approx(1 / 0.022, rel=0.005)
    assert found[32] == pytest.approx(1 / 0.036, rel=0.005)


def test_points_that_no_curve_fits_are_refused(world: Path, dsim: Dsim) -> None:
    """As points of several lengths are: above 10 % rms."""
    for error, code in ((0.05, 0), (0.2, 2)):
        rows = [f"{u},{(1 + error * (-1) ** i) / (0.02 + 0.0005 * u):.6f}\n" for i, u in enumerate((2, 4, 8, 16, 32, 64))]
        (world / "t.csv").write_text("concurrency,tps_per_user\n" + "".join(rows))
        said = dsim("fit", "t.csv", "--accepted-length", 1, "--budget", 1, "--out", f"mine{code}")
        assert (said.code, (world / f"mine{code}").exists()) == (code, code == 0), said.err
    assert "t.csv: no step cost fits these points: " in said.err
    assert "% rms, the step at " in said.err


def test_drafting_is_taken_off_and_put_back(world: Path, dsim: Dsim) -> None:
    users = np.array([2, 4, 8, 16, 32, 64])
    speed = 1.8 / (0.02 + 0.0004 * users)
    (world / "t.csv").write_text("concurrency,tps_per_user\n" + "".join(f"{u},{v:.6f}\n" for u, v in zip(users, speed, strict=True)))
    arguments = ("--accepted-length", 1.8, "--budget", 2, "--draft-s-per-request", 0.0001)
    assert dsim("fit", "t.csv", *arguments, "--out", "mine").code == 0
    profile = load_profile(world / "mine")
    assert profile.costs.verify.seconds(2 * users) == pytest.approx(0.02 + 0.0003 * users, rel=1e-3)
    found = simulated("mine", world, [8, 64], {"kind": "fixed", "length": 1})
    assert found[8] == pytest.approx(speed[2], rel=0.015)
    assert found[64] == pytest.approx(speed[5], rel=0.015)


def test_three_tokens_a_round(world: Path, dsim: Dsim) -> None:
    """A longer block: one conditional acceptance at every position gives the accepted length that was said."""
    (world / "t.csv").write_text("concurrency,tps_per_user\n4,100\n8,90\n16,70\n")
    assert dsim("fit", "t.csv", "--accepted-length", 2.5, "--budget", 4, "--drafter", "eagle", "--out", "mine").code == 0
    blocks = load_profile(world / "mine").blocks("eagle")
    assert blocks.gamma == 3
    assert blocks.confidence is None
    survival = blocks.mean_survival()
    assert survival[1] / survival[0] == pytest.approx(survival[0], abs=0.02)
    assert 1 + survival.sum() == pytest.approx(2.5, rel=0.02)


def test_gpus_of_a_replica(world: Path, dsim: Dsim) -> None:
    """Throughput per GPU times GPUs is concurrency times speed."""
    (world / "a.csv").write_text("concurrency,tps_per_user\n4,100\n8,90\n16,70\n")
    (world / "b.csv").write_text("tps_per_user,throughput_tok_s_gpu\n100,50\n90,90\n70,140\n")
    for name in ("a", "b"):
        dsim("fit", f"{name}.csv", "--accepted-length", 1.8, "--budget", 2, "--gpus-per-replica", 8, "--out", name)
    a, b = (load_profile(world / name) for name in "ab")
    assert a.gpus_per_replica == b.gpus_per_replica == 8
    assert a.costs.verify.model_dump(exclude={"source"}) == b.costs.verify.model_dump(exclude={"source"})


def test_it_says_what_was_assumed(world: Path, dsim: Dsim) -> None:
    (world / "t.csv").write_text("concurrency,tps_per_user\n4,100\n8,90\n16,70\n")
    said = dsim("fit", "t.csv", "--accepted-length", 1.8, "--budget", 2, "--out", "mine", "--hardware", "8x H200", "--name", "ours")
    profile = load_profile(world / "mine")
    assert (profile.name, profile.hardware) == ("ours", "8x H200")
    assert profile.costs.verify.provenance == "fitted"
    assert "accepted length 1.8" in profile.assumed[0]
    assert profile.not_identifiable
    assert "assumed accepted length 1.8" in said.out
    assert (world / "mine" / "profile.yaml").read_text().startswith("# Made by dsim fit t.csv --accepted-length 1.8 --budget 2\n")


def test_the_same_bytes_and_force(world: Path, dsim: Dsim) -> None:
    (world / "t.csv").write_text("concurrency,tps_per_user\n4,100\n8,90\n16,70\n")
    arguments = ("fit", "t.csv", "--accepted-length", 1.8, "--budget", 2, "--name", "same")
    for out in ("a", "b"):
        assert dsim(*arguments, "--out", out).code == 0
    for file in ("profile.yaml", "mtp.parquet"):
        assert (world / "a" / file).read_bytes() == (world / "b" / file).read_bytes()
    assert sorted(p.name for p in (world / "a").iterdir()) == ["mtp.parquet", "profile.yaml"]
    assert dsim("fit", "t.csv", "--accepted-length", 1.9, "--budget", 2, "--out", "a", "--force").code == 0
    assert (world / "a" / "profile.yaml").read_bytes() != (world / "b" / "profile.yaml").read_bytes()


def test_a_budget_between_whole_numbers_gives_costs_alone_and_says_so(world: Path, dsim: Dsim) -> None:
    (world / "t.csv").write_text("concurrency,tps_per_user\n4,100\n8,90\n16,70\n")
    said = dsim("fit", "t.csv", "--accepted-length", 1.8, "--budget", 2.5, "--out", "mine")
    assert load_profile(world / "mine").drafters == {}
    assert "no drafter" in said.out


@pytest.mark.parametrize(
    "text",
    [
        "concurrency;tps_per_user\n1;90,5\n4;80\n10;70,25\n",  # as a spreadsheet writes it where decimals have a comma
        "concurrency;tps_per_user\r\n1;90.5\r\n4;80\r\n10;70.25\r\n",
        "concurrency\ttps_per_user\n1\t90,5\n4\t80\n10\t70,25\n",
        "\ufeffconcurrency,tps_per_user\n1,90.5\n4,80\n10,70.25\n",
        "# from a dashboard; by hand\n\nconcurrency,tps_per_user\n1,90.5\n4,80\n10,70.25\n",
    ],
)
def test_telemetry_is_read_as_spreadsheets_write_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    telemetry = read_telemetry(path)
    assert telemetry.concurrency.tolist() == [1, 4, 10]
    assert telemetry.tps_per_user.tolist() == [90.5, 80, 70.25]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "t.csv: is empty"),
        ("# nothing\n", "t.csv: is empty"),
        ("concurrency,concurrency,tps_per_user\n1,2,90\n4,5,80\n", "t.csv: concurrency: column is there twice"),
        ("concurrency;tps_per_user\n1;1.090,5\n4;80\n", "t.csv:2: tps_per_user: must be a positive number"),
        ("concurrency,tps_per_user,use\n1,90,fit\n4,80,check\n", "t.csv: use: is for points that say what was drafted; add a column k"),
        ("concurrency,tps_per_user,budget\n1,90,2\n4,80,2\n", "t.csv: budget: is for points that say what was drafted; add a column k"),
    ],
)
def test_telemetry_that_contradicts_itself_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DsimError) as caught:
        read_telemetry(path)
    assert problem in caught.value.line()

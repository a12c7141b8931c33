"""Two profiles against each other: known differences are found, cell by cell, and a profile agrees with itself."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.agreement import cells_of, compare_profiles, cost_rows
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import load_profile
from simulator.study.profiles.about import without_head

Content = dict[str, Any]
HEADER = "tokens,requests,context_tokens,p10_s,p50_s,p90_s,n,regime,suspicious"


def verify_rows(scale: Callable[[int, int, int], float] = lambda *_: 1.0) -> str:
    """12 cells, requests × context × tokens a request, 2 % spread either way."""
    lines = ["# made up, seconds", HEADER]
    for requests in (1, 4):
        for context in (64, 512):
            for each in (1, 2, 3):
                p50 = 0.01 * requests * each * scale(requests * each, requests, context)
                lines.append(f"{requests * each},{requests},{context},{0.98 * p50},{p50},{1.02 * p50},9,graph,")
    return "\n".join(lines) + "\n"


@pytest.fixture
def pair(world: Path) -> tuple[Path, Path]:
    """Two folders with the same profile, whose verify and draft costs are tables."""
    folder = world / "tiny"
    content = yaml.safe_load((folder / "profile.yaml").read_text())
    content["costs"]["verify"] = {"provenance": "measured", "kind": "table", "file": "verify.csv"}
    content["drafters"]["head"]["draft"] = {"provenance": "measured", "kind": "table", "file": "draft.csv"}
    content["drafters"]["head"]["temperatures"] = [1.0, 1.5, 2.0]
    content["environment"] = {"device": "a CPU", "dtype": "bfloat16", "versions": {"torch": "2"}}
    (folder / "profile.yaml").write_text(yaml.safe_dump(content))
    (folder / "verify.csv").write_text(verify_rows())
    (folder / "draft.csv").write_text("requests,p50_s\n1,0.002\n4,0.004\n")
    shutil.copytree(folder, world / "other")
    return folder, world / "other"


def edit(folder: Path, change: Callable[[Content], Any]) -> None:
    content = yaml.safe_load((folder / "profile.yaml").read_text())
    change(content)
    (folder / "profile.yaml").write_text(yaml.safe_dump(content))


def compared(pair: tuple[Path, Path]) -> Content:
    return compare_profiles(*map(load_profile, pair))


def table(data: Content, name: str) -> Content:
    return next(t for t in data["tables"] if t["table"] == name)


def test_a_profile_agrees_with_itself(pair: tuple[Path, Path]) -> None:
    data = compared((pair[0], pair[0]))
    assert data["cells"] == 14
    assert (data["median_difference"], data["p90_difference"], data["largest_z"]) == (0.0, 0.0, 0.0)
    assert data["measured_on"] == []
    assert all(t["worst"] == [] and t["only_in_a"] == t["only_in_b"] == [] and t["ranges_apart"] == 0 for t in data["tables"])
    assert [row["z"] for row in data["accepted_lengths"]] == [0.0] * 4
    assert data["temperatures"] == [{"drafter": "head", "a": [1.0, 1.5, 2.0], "b": [1.0, 1.5, 2.0], "largest_difference": 0.0}]
    assert data["verdict"] == "median cell difference 0.0 %, p90 0.0 %, over 14 cells; accepted lengths: largest |z| 0.0 of 4"
    json.dumps(data, allow_nan=False)


def test_a_perturbed_table_is_found_with_the_cell(pair: tuple[Path, Path]) -> None:
    """All cells 3 % slower, within the spread of 2 % either way of each; one 30 % slower, beyond it."""
    (pair[1] / "verify.csv").write_text(verify_rows(lambda tokens, requests, context: 1.3 if (tokens, requests, context) == (8, 4, 512) else 1.03))
    found = table(compared(pair), "verify")
    assert found["cells"] == 12
    assert found["median_difference"] == pytest.approx(0.03)
    assert found["p90_difference"] == pytest.approx(0.03)
    assert found["median_ratio"] == pytest.approx(1.03)
    assert (found["with_ranges"], found["ranges_apart"]) == (12, 1)
    worst = found["worst"][0]
    assert (worst["tokens"], worst["requests"], worst["context_tokens"]) == (8, 4, 512)
    assert worst["ratio"] == pytest.approx(1.3)
    assert table(compared(pair[::-1]), "verify")["worst"][0]["ratio"] == pytest.approx(1 / 1.3)


def test_half_the_cells_differ_and_some_are_in_one_only(pair: tuple[Path, Path]) -> None:
    (pair[1] / "verify.csv").write_text(verify_rows(lambda _, requests, __: 1.1 if requests == 4 else 1.0).replace(",64,", ",128,"))
    found = table(compared(pair), "verify")
    assert found["cells"] == 6
    assert found["median_difference"] == pytest.approx(0.05)
    assert {cell["context_tokens"] for cell in found["only_in_a"]} == {64}
    assert {cell["context_tokens"] for cell in found["only_in_b"]} == {128}
    assert len(found["only_in_a"]) == len(found["only_in_b"]) == 6


def test_a_formula_is_priced_at_the_tables_cells_within_its_data(pair: tuple[Path, Path]) -> None:
    """0.01 s a token, as the table, plus 10 %; its data ends at 8 tokens, so the cells of 12 are in A alone."""
    curve = {"provenance": "fitted", "kind": "curve", "base_s": 0.0, "per_token_s": 0.011, "measured_tokens": [1, 8]}
    edit(pair[1], lambda c: c["costs"].update(verify=curve))
    data = compared(pair)
    found = table(data, "verify")
    assert found["cells"] == 10
    assert found["median_ratio"] == pytest.approx(1.1)
    assert {cell["tokens"] for cell in found["only_in_a"]} == {12}
    assert "(10 of them priced by a formula)" in data["verdict"]


def test_two_formulas_over_what_both_cover(world: Path) -> None:
    shutil.copytree(world / "tiny", world / "other")
    edit(world / "other", lambda c: c["costs"]["verify"].update(base_s=0.02, per_token_s=2e-4, measured_tokens=[10, 1000]))
    found = table(compared((world / "tiny", world / "other")), "verify")
    assert found["cells"] == 33
    assert found["median_ratio"] == pytest.approx(2.0)
    assert all(10 <= cell["tokens"] <= 200 for cell in found["worst"])
    draft = table(compared((world / "tiny", world / "other")), "draft head")
    assert draft["cells"] == 0  # it costs nothing in either
    assert draft["median_difference"] is None


def test_what_they_were_measured_on_is_said(pair: tuple[Path, Path]) -> None:
    def change(content: Content) -> None:
        content.update(hardware="two GPUs", target="large", gpus_per_replica=2.0)
        content["environment"].update(dtype="float32", versions={"torch": "3"})
        del content["drafters"]["mtp"]

    edit(pair[1], change)
    rows = {row["what"]: (row["a"], row["b"]) for row in compared(pair)["measured_on"]}
    assert list(rows)[:3] == ["hardware", "target", "GPUs per replica"]
    assert rows["environment.dtype"] == ("bfloat16", "float32")
    assert rows["environment.versions.torch"] == ("2", "3")
    assert rows["drafter mtp"] == ("mtp, block 1", "–")
    assert "engine" not in rows


def test_accepted_lengths_differ_by_as_many_errors_as_they_should(pair: tuple[Path, Path]) -> None:
    """Blocks of the same law but other luck scatter by one z; a lower acceptance is told apart."""
    shape = {"miscalibration": [1.0], "sequences_per_domain": 24, "anchors_per_sequence": 64, "sequence_share": 0.0}

    def blocks(seed: int, first: float) -> None:
        without_head(ParametricAcceptance(conditional={"chat": [first]}, seed=seed, **shape).generate("mtp")).save(pair[seed % 2] / "mtp.parquet")

    scores = []
    for seed in range(0, 40, 2):
        blocks(seed, 0.7)
        blocks(seed + 1, 0.7)
        scores += [row["z"] for row in compared(pair)["accepted_lengths"] if row["drafter"] == "mtp"]
    assert len(scores) == 20
    assert 0.55 < np.sqrt(np.mean(np.square(scores))) < 1.5  # χ² with 20 degrees of freedom: beyond 1 in 1000 either way
    blocks(0, 0.8)
    blocks(1, 0.6)
    assert compared(pair)["largest_z"] > 6


def test_accepted_lengths_are_those_of_a_run_by_hand(pair: tuple[Path, Path]) -> None:
    """γ = 1. A: 0 → 2 and 0 → 1, so 2 + 1 and 1 + 2 tokens in four rounds. B: 0 → 1 → 3 and 0 → 2, so 1 + 2 and 2 in three."""
    for folder, accepted in zip(pair, ([1, 0, 0, 0, 1], [0, 1, 0, 1, 0]), strict=True):
        first, length = np.array([0, 3]), np.array([3, 2])
        domain = np.zeros(2, dtype=np.int64)
        RecordedBlocks("mtp", 1, 1.0, "synthetic", "by hand", ("chat",), domain, first, length, np.array(accepted)).save(folder / "mtp.parquet")
    (row,) = [row for row in compared(pair)["accepted_lengths"] if row["drafter"] == "mtp"]
    assert (row["a"], row["b"]) == (pytest.approx(6 / 4), pytest.approx(5 / 3))
    errors = (np.sqrt(2 * (0 + 0)) / 4, np.sqrt(2 * 2 * (1 / 3) ** 2) / 3)  # residuals 3 - 1.5 · 2 twice; 3 - 5/3 · 2 and 2 - 5/3
    assert (row["a_error"], row["b_error"]) == (pytest.approx(errors[0]), pytest.approx(errors[1]))
    assert row["z"] == pytest.approx((5 / 3 - 6 / 4) / errors[1])


def test_one_text_has_no_error_to_divide_by(pair: tuple[Path, Path]) -> None:
    shape = {"miscalibration": [1.0], "sequences_per_domain": 1, "anchors_per_sequence": 64}
    for folder in pair:
        without_head(ParametricAcceptance(conditional={"chat": [0.7]}, **shape).generate("mtp")).save(folder / "mtp.parquet")
    (row,) = [row for row in compared(pair)["accepted_lengths"] if row["drafter"] == "mtp"]
    assert (row["z"], row["a_error"], row["b_error"]) == (None, None, None)


@pytest.mark.parametrize(
    "said, doubtful", [("", False), ("0", False), ("False", False), ("no", False), ("1", True), ("True", True), ("spread 9 %", True)]
)
def test_suspicious_cells_are_told_from_others(tmp_path: Path, said: str, doubtful: bool) -> None:
    (tmp_path / "t.csv").write_text(f"tokens,p50_s,regime,suspicious\n1,0.1,graph,{said}\n2,0.2,eager,{said}\n")
    rows = cost_rows(tmp_path / "t.csv")
    assert rows["suspicious"].ne("").tolist() == [doubtful] * 2
    assert rows["eager"].tolist() == [False, True]
    assert all(np.isnan(cell.p10_s) for cell in cells_of(tmp_path / "t.csv").values())


def test_the_command_prints_the_verdict_last_and_refuses_in_one_line(pair: tuple[Path, Path], dsim: Callable[..., Any]) -> None:
    edit(pair[1], lambda c: c.update(hardware="two GPUs"))
    said = dsim("profile", "diff", *pair)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[-1].startswith("median cell difference 0.0 %")
    first = [line.split()[0] for line in lines if line]
    assert [first.index(word) for word in ("A", "B", "hardware", "Costs")] == sorted(first.index(word) for word in ("A", "B", "hardware", "Costs"))
    data = json.loads(dsim("profile", "diff", *pair, "--format", "json").out)
    assert data == json.loads(json.dumps(compared(pair)))
    refused = dsim("profile", "diff", pair[0], pair[0] / "no")
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    (pair[1] / "verify.csv").write_text("tokens\n1\n")
    broken = dsim("profile", "diff", *pair)
    assert (broken.code, broken.out, len(broken.err.splitlines())) == (2, "", 1)
    assert "verify.csv: p50_s" in broken.err


def test_comparing_changes_nothing(pair: tuple[Path, Path]) -> None:
    a, b = map(load_profile, pair)
    before = copy.deepcopy(a.model_dump())
    compare_profiles(a, b)
    assert a.model_dump() == before

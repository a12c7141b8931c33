"""The acceptance that comes with dsim: what was published is what its blocks give, in a simulation too, another model's never taken silently."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from simulator.errors import DsimError, ProfileError
from simulator.measurements.acceptance_library import FILE, Acceptance, acceptances, load_acceptance, neighbours
from simulator.measurements.another_model import between_models, between_shapes, between_texts, level_of, tilt_of
from simulator.measurements.assumed import uncertainty_of
from simulator.measurements.calibration import calibration_report
from simulator.measurements.cost import LinearDraft
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.models import billions, line_of, plain_name
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import load_profile
from simulator.measurements.replay import lay_out
from simulator.measurements.statistics import acceptance_statistics, visited_rows
from simulator.measurements.uncertainty import Uncertainty, Unsure
from simulator.policies.verification import FixedLength
from simulator.report.profile.numbers import drafter_numbers, remarks
from simulator.study.planning.question import load_plan
from simulator.study.planning.telling import of_acceptance
from simulator.study.profiles.one_replica import closed_loop
from simulator.study.run.scenario import load_scenario
from simulator.study.run.sweep import bundle
from simulator.study.run.warnings import warnings
from tests.conftest import SCENARIO
from tests.planning.conftest import PLAN

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "profiles" / "acceptance" / "dspark-paper"
TABLE_1 = pd.read_csv(PAPER / "published" / "table1.csv", comment="#")
FREE = LinearDraft(provenance="synthetic", source="")
FIGURE_6 = np.array([[0.057, 0.082, 0.058, 0.033], [0.020, 0.017, 0.008, 0.004]])  # ECE at positions 1, 3, 5, 7, before and after calibration


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_acceptance", ROOT / "profiles" / "make_acceptance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logit(p: Any) -> Any:
    return np.log(p) - np.log1p(-np.asarray(p))


def test_the_library_holds_table_1_and_is_small() -> None:
    for _, row in TABLE_1.iterrows():
        acceptance = load_acceptance(f"{row['target']}-{row['drafter']}".lower())
        domain = acceptance.domains[row["benchmark"]]
        assert (acceptance.target, acceptance.family, domain.kind) == (row["target"], row["drafter"].lower(), row["domain"])
        assert domain.accepted_length == row["accepted_length"]
        assert 1 + np.cumprod(domain.conditional).sum() == pytest.approx(row["accepted_length"], abs=1e-3)
    assert len(acceptances()) == 12 + 2 + 1


@pytest.mark.parametrize("name", acceptances())
def test_every_acceptance_is_whole(name: str) -> None:
    acceptance, folder = load_acceptance(name), acceptances()[name]
    blocks = acceptance.recorded()
    assert (acceptance.name, acceptance.folder) == (folder.name, folder)
    assert (blocks.domains, blocks.drafter, blocks.provenance) == (tuple(acceptance.domains), acceptance.family, acceptance.provenance)
    assert (blocks.confidence is not None) == acceptance.confidence == (acceptance.family == "dspark")
    assert acceptance.unknown
    assert "deepseek" in name or {domain.shape for domain in acceptance.domains.values()} == {"published" if "-4b" in name else "carried over"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 110_000


@pytest.mark.parametrize("name", ["qwen3-8b-dspark", "qwen3-4b-dflash", "gemma4-12b-eagle3"])
def test_simulated_at_full_length_each_benchmark_has_its_published_accepted_length(name: str, made_profile: Path) -> None:
    acceptance = load_acceptance(name)
    blocks = acceptance.recorded()
    replay, prices, rows = lay_out(blocks, None, False, 0, 0), RoundCost(load_profile(made_profile).costs, FREE, 7, 7), visited_rows(blocks)
    apart = []
    for domain, published in acceptance.domains.items():
        walked = acceptance_statistics(blocks, domain, rows)
        assert walked.accepted_length == pytest.approx(published.accepted_length, abs=0.05)
        found = closed_loop(8, 25, 500, FixedLength(length=7), replay, prices, {domain: 1.0}).known("accepted_length")
        apart.append((found - published.accepted_length) / walked.accepted_length_error)
    assert np.abs(apart).max() < 1.2
    assert abs(np.mean(apart)) < 0.35  # of all nine


def test_a_run_that_verifies_k_tokens_has_the_published_length_at_every_k(maker: ModuleType) -> None:
    acceptance = load_acceptance("deepseek-v4-pro-0813-dspark")
    blocks, table = acceptance.recorded(), pd.read_csv(maker.BY_LENGTH, comment="#")
    for name, thinking in (("coding-thinking", "on"), ("coding", "off")):
        mine = table[(table["checkpoint"] == "v4-pro-0813") & (table["thinking"] == thinking) & (table["k"] <= 6)]
        for k, length in zip(mine["k"], mine["accepted_length"], strict=True):
            assert maker.length_of(blocks, name, int(k)) == pytest.approx(length, abs=0.02)
    assert acceptance.domains["coding-thinking"].conditional[6] == acceptance.domains["coding-thinking"].conditional[5]  # fell at k = 7


def test_the_script_makes_what_is_there(maker: ModuleType) -> None:
    """Of the smallest: the blocks are those that the published numbers give, and yaml says no more."""
    about, blocks = maker.from_table_1("Qwen3-14B", "Eagle3")
    there = load_acceptance("qwen3-14b-eagle3")
    np.testing.assert_array_equal(blocks.accepted, there.recorded().accepted)
    assert Acceptance.model_validate({"format": 1} | about).model_dump() == there.model_dump()


def test_confidences_are_as_badly_calibrated_as_figure_6_shows_and_temperatures_mend_them() -> None:
    """On Alpaca, the four targets together."""
    found = []
    for target in TABLE_1["target"].unique():
        acceptance = load_acceptance(f"{target}-dspark".lower())
        blocks = acceptance.recorded()
        rows = np.flatnonzero(np.isin(blocks.sequence_of_row, blocks.sequences_of("Alpaca")))
        seen = [blocks.survival(t)[rows] for t in (None, acceptance.temperatures)]
        found.append([calibration_report(survival, blocks.accepted[rows]).error for survival in seen])
    before, after = np.mean(found, axis=0)[:, [0, 2, 4, 6]]
    np.testing.assert_allclose(before, FIGURE_6[0], atol=0.025)
    assert np.all(after < 0.045)  # 1,920 anchors of 20 texts each: luck of some 2 %
    assert after.mean() < 0.6 * before.mean()


@pytest.mark.parametrize(
    "target, fits",
    [("Qwen/Qwen3-8B", 1), ("Qwen3-8B-FP8", 1), ("qwen3_8b (bfloat16)", 1), ("Qwen3-8B-Base", 0), ("Qwen3-14B", 0), ("Llama-3.1-8B", 0)],
)
def test_which_target_it_fits(target: str, fits: int) -> None:
    assert load_acceptance("qwen3-8b-dspark").fits(target) == ("same model" if fits else "another model")


def test_names_of_models() -> None:
    assert (plain_name("deepseek-ai/DeepSeek-V4-Pro-0813"), line_of("Qwen/Qwen3-8B"), line_of("x/Qwen2.5-7B")) == (
        "deepseek-v4-pro-0813",
        "qwen3",
        "qwen2.5",
    )
    assert [billions(name) for name in ("Qwen3-0.6B", "Qwen3-235B-A22B", "DeepSeek-V4")] == [0.6, 235.0, None]
    assert neighbours("Qwen/Qwen3-32B", "dspark")[:3] == ["qwen3-14b-dspark", "qwen3-8b-dspark", "qwen3-4b-dspark"]
    assert neighbours("gemma4-27b")[0].startswith("gemma4-12b")
    assert neighbours("DeepSeek-V4-Flash", "dspark")[0].startswith("deepseek-v4-pro")


# what is not known


@given(length=st.floats(1.01, 7.9), gamma=st.integers(1, 12))
def test_level_is_the_acceptance_that_gives_the_length(length: float, gamma: int) -> None:
    wanted = 1 + (length - 1) * gamma / 7
    c = 1 / (1 + np.exp(-level_of(wanted, gamma)))
    assert 1 + sum(c**k for k in range(1, gamma + 1)) == pytest.approx(wanted, rel=1e-6)


def test_levels_end_where_all_or_nothing_is_accepted() -> None:
    assert (level_of(1.0, 7), level_of(8.0, 7)) == (-15.0, 15.0)


@given(level=st.floats(-1, 3), tilt=st.floats(-2, 2))
def test_tilt_of_a_straight_course(level: float, tilt: float) -> None:
    assert tilt_of(1 / (1 + np.exp(-level - tilt * np.linspace(-0.5, 0.5, 7)))) == pytest.approx(tilt, abs=1e-3)


def test_spreads_are_those_of_the_published_table() -> None:
    """Worked out from Table 1 in another way."""
    told = [it for name in acceptances() for it in load_acceptance(name).told]
    level = {t: brentq(lambda z, t=t: sum((1 / (1 + np.exp(-z))) ** k for k in range(8)) - t, -9, 9) for t in TABLE_1["accepted_length"].unique()}
    table = TABLE_1.assign(level=TABLE_1["accepted_length"].map(level))
    for family in ("DFlash", "Eagle3"):  # of DSpark there are others too
        mine = table[table["drafter"] == family].pivot_table(index="benchmark", columns="target", values="level")
        qwen = [(mine[a] - mine[b]) ** 2 for a, b in combinations(("Qwen3-4B", "Qwen3-8B", "Qwen3-14B"), 2)]
        other = [(mine["Gemma4-12B"] - mine[a]) ** 2 for a in ("Qwen3-4B", "Qwen3-8B", "Qwen3-14B")]
        assert between_models(told, family.lower(), True).sd == pytest.approx(np.sqrt(np.mean(qwen)))
        assert between_models(told, family.lower(), False).sd == pytest.approx(np.sqrt(np.mean(other)))
        assert between_texts(told, family.lower(), False).sd == pytest.approx(np.sqrt(mine.var().mean()))
        within = table[table["drafter"] == family].groupby(["target", "domain"])["level"].var().mean()
        assert between_texts(told, family.lower(), True).sd == pytest.approx(np.sqrt(within))
    assert between_models(told, "mtp", True).sd == between_models(told, "other", True).sd > 0.05  # of families that few or none published: all
    assert between_shapes(told, "dspark", "qwen3").sd < between_shapes(told, "dspark", None).sd


def test_acceptance_of_another_model_widens_what_is_not_known() -> None:
    own = load_acceptance("qwen3-4b-dspark")

    def variance(target: str, parameter: str, **domains: float) -> float:
        return sum(it.sd**2 for it in own.unsure_for(target, "d", domains) if it.parameter == parameter)

    assert variance("Qwen3-4B", "tilt") == 0  # its own positions were published
    for parameter in ("level", "tilt"):
        assert variance("Qwen3-4B", parameter) < variance("Qwen3-32B", parameter) < variance("Llama-3.1-8B", parameter)
    assert (
        variance("Qwen3-4B", "level", GSM8K=1) == variance("Qwen3-4B", "level", GSM8K=1, AIME25=2) < variance("Qwen3-4B", "level", GSM8K=1, Alpaca=1)
    )
    assert variance("Qwen3-4B", "level") == variance("Qwen3-4B", "level", GSM8K=1, Alpaca=1)
    assert any("Qwen3-4B, not of Llama-3.1-8B" in it.note for it in own.unsure_for("Llama-3.1-8B", "d"))
    assert load_acceptance("qwen3-8b-dspark").unsure_for("Qwen3-8B", "d")[-1].parameter == "tilt"  # its positions are those of Qwen3-4B


def test_a_shipped_acceptance_counts_once_wherever_it_lies(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the bundle of a node, and where dsim is installed behind a link; one that says something else counts beside it."""
    name, target = "deepseek-v3-mtp", "Llama-3.1-8B"
    unsure = load_acceptance(name).unsure_for(target, "d")
    shutil.copytree(acceptances()[name], world / "copy")
    assert load_acceptance("copy").unsure_for(target, "d") == unsure
    with monkeypatch.context() as patched:
        (world / "link").symlink_to(ROOT)
        patched.setattr("simulator.shipped.ROOT", world / "link")
        assert load_acceptance(name).unsure_for(target, "d") == unsure
    content = yaml.safe_load((world / "copy" / FILE).read_text())
    for domain in content["domains"].values():
        domain["accepted_length"] -= 0.2
    (world / "copy" / FILE).write_text(yaml.safe_dump(content))
    assert load_acceptance("copy").unsure_for(target, "d") != unsure


# in a scenario

POLICIES = [
    {"name": "plain", "verification": {"kind": "none"}},
    {"name": "scheduled", "drafter": "head", "verification": {"kind": "confidence_scheduled"}},
]


@pytest.fixture
def lent(scenario: Callable[..., Path]) -> Callable[..., Path]:
    """Writes small.yaml with acceptance from elsewhere for its drafter `head` (DSpark, blocks of 3)."""

    def write(blocks: str = "qwen3-4b-dspark", drafter: str = "head", domains: Any = None, **changes: Any) -> Path:
        workload = SCENARIO["workload"] | {"domains": domains or {}}
        return scenario(**{"policies": POLICIES, "workload": workload, "drafters": {drafter: {"blocks": blocks}}} | changes)

    return write


def test_a_scenario_gives_a_drafter_acceptance_from_the_library(lent: Callable[..., Path]) -> None:
    asked = load_scenario(lent())
    known, drafter, own = asked.known, asked.known.drafters["head"], load_acceptance("qwen3-4b-dspark")
    np.testing.assert_array_equal(known.blocks("head").accepted, np.minimum(own.recorded().accepted, 3))
    assert (drafter.gamma, drafter.confidence, drafter.acceptance_of, drafter.temperatures) == (3, True, "Qwen3-4B", (own.temperatures or [])[:3])
    assert f"head: acceptance is that of Qwen3-4B, not of {known.target}" in known.assumed
    first = next(iter(warnings(asked, [], [])))
    assert (first.severity, "head (Qwen3-4B)" in first.text) == ("warning", True)
    of = [(it.parameter, it.drafter) for it in uncertainty_of(known).parameters if it.parameter in ("level", "tilt") and it.drafter == "head"]
    assert of == [("level", "head"), ("level", "head"), ("tilt", "head")]
    origin = next(row for row in known.provenance() if row["table"] == "acceptance of head")
    assert (origin["provenance"], "Table 1" in origin["source"]) == ("published", True)


def test_what_a_profile_says_of_its_own_acceptance_no_longer_counts(lent: Callable[..., Path]) -> None:
    """The rest stays, and so does its correlation."""
    own = [Unsure(parameter=p, drafter=d, sd=0.1) for p, d in (("step", None), ("level", "head"), ("draft", "head"), ("level", "mtp"))]  # type: ignore[arg-type]
    among = [[1, 0.5, 0.2, 0.1], [0.5, 1, 0.5, 0], [0.2, 0.5, 1, 0.3], [0.1, 0, 0.3, 1]]
    known = load_scenario(lent()).known
    told = uncertainty_of(known.model_copy(update={"uncertainty": Uncertainty(kind="fitted", parameters=own, correlation=among)}))
    assert told.parameters[:3] == [own[0], own[2], own[3]]
    assert [it.parameter for it in told.parameters[3:]] == ["level", "level", "tilt"]
    assert told.correlation is not None
    np.testing.assert_array_equal(
        told.correlation, np.block([[np.array(among)[np.ix_([0, 2, 3], [0, 2, 3])], np.zeros((3, 3))], [np.zeros((3, 3)), np.eye(3)]])
    )


def test_acceptance_of_the_same_model_is_no_warning(lent: Callable[..., Path], edit_profile: Callable[..., None]) -> None:
    edit_profile(lambda content: content.update(target="Qwen/Qwen3-4B"))
    asked = load_scenario(lent())
    assert asked.known.drafters["head"].acceptance_of is None
    assert not any("another model" in remark.text for remark in warnings(asked, [], []))
    assert [it.parameter for it in uncertainty_of(asked.known).parameters if it.drafter == "head"].count("level") == 1


def test_plans_and_pages_of_profiles_say_so(edit_profile: Callable[..., None], world: Path) -> None:
    (world / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    assert not list(of_acceptance(load_plan(world / "plan.yaml")))
    edit_profile(lambda content: content["drafters"]["head"].update(acceptance_of="Qwen3-4B"))
    (remark,) = of_acceptance(load_plan(world / "plan.yaml"))
    assert remark.text.startswith("Acceptance of another model than small: head (Qwen3-4B).")
    profile = load_profile(world / "tiny")
    assert "Acceptance of head is that of Qwen3-4B, not of small." in remarks(profile, drafter_numbers(profile))
    levels = [it for it in uncertainty_of(profile).parameters if (it.parameter, it.drafter) == ("level", "head")]
    assert [it.sd for it in levels] == [levels[0].sd, load_acceptance("qwen3-4b-dspark").unsure_for("small", "head")[1].sd]
    assert "that of Qwen3-4B, not of small" in levels[1].note


def test_domains_are_benchmarks(lent: Callable[..., Path]) -> None:
    asked = load_scenario(lent(domains={"GSM8K": 3, "MT-Bench": 1}))
    assert asked.workload.domains == {"GSM8K": 3, "MT-Bench": 1}
    with pytest.raises(DsimError, match="no recorded blocks of domain 'code'; domains there: GSM8K, MATH500"):
        load_scenario(lent(domains={"code": 1}))


def test_a_folder_of_your_own_beside_the_scenario(lent: Callable[..., Path], world: Path) -> None:
    shutil.copytree(load_acceptance("qwen3-4b-dspark").folder, world / "mine")
    asked = load_scenario(lent(blocks="mine"))
    packed = bundle(asked)
    assert {f"drafters/head/{name}" for name in (FILE, "blocks.parquet")} <= set(packed.files)
    there = packed.unpack(world / "elsewhere")
    np.testing.assert_array_equal(there.known.blocks("head").accepted, asked.known.blocks("head").accepted)
    assert packed.mark != bundle(load_scenario(lent(blocks="qwen3-8b-dspark"))).mark


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"blocks": "qwen3-8b-dspak"}, "drafters.head.blocks: no acceptance 'qwen3-8b-dspak'; did you mean 'qwen3-8b-dspark'?"),
        (
            {"blocks": "qwen3-32b-dspark"},
            "did you mean 'qwen3-14b-dspark' or 'qwen3-8b-dspark' or 'qwen3-4b-dspark'? `dsim acceptance list` shows all",
        ),
        ({"blocks": "x\n"}, "drafters.head.blocks: expected a path, got one with control characters"),
        ({"blocks": "qwen3-8b-eagle3"}, "drafters.head.blocks: 'qwen3-8b-eagle3' is the acceptance of eagle3, and drafter 'head' is dspark"),
        ({"drafter": "other"}, "drafters.other: profile 'tiny' has no drafter 'other'; its drafters: head, mtp"),
        ({"drafters": {"head": {}}}, "drafters.head.blocks: required key is missing; add it"),
    ],
)
def test_refused_in_one_line(changes: dict[str, Any], line: str, lent: Callable[..., Path]) -> None:
    with pytest.raises(DsimError) as refused:
        load_scenario(lent(**changes))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_blocks_that_are_too_short(world: Path) -> None:
    acceptance = load_acceptance("qwen3-4b-dspark")
    assert acceptance.recorded(3).gamma == 3
    with pytest.raises(ProfileError, match="has blocks of 7 tokens, asked for 8"):
        acceptance.recorded(8)
    with pytest.raises(ProfileError, match="asked for 9"):
        acceptance.as_drafter(FREE, "Qwen3-4B", "d.parquet", gamma=9)
    drafter = acceptance.as_drafter(FREE, "Qwen3-32B", "d.parquet", gamma=5)
    assert (drafter.gamma, len(drafter.temperatures or []), drafter.acceptance_of) == (5, 5, "Qwen3-4B")


def test_a_folder_that_does_not_hold_what_it_says(world: Path) -> None:
    folder = world / "mine"
    shutil.copytree(load_acceptance("qwen3-4b-eagle3").folder, folder)
    content = yaml.safe_load((folder / FILE).read_text())
    for change, line in (
        ({"gamma": 5}, "expected 5 positions in every domain"),
        ({"blocks": "../x"}, "got a path that leads out of it"),
        ({"blocks": "x"}, "blocks: no such file 'x'; restore it"),
        ({"domains": {"x": {**content["domains"]["GSM8K"], "accepted_length": 8.5}}}, "expected accepted lengths of at most 8"),
        ({"temperatures": [1.0] * 7}, "calibration temperatures of a confidence head"),
        ({"unknwon": []}, "unknown key 'unknwon'; did you mean 'unknown'?"),
    ):
        (folder / FILE).write_text(yaml.safe_dump(content | change))
        with pytest.raises(DsimError) as refused:
            load_acceptance(folder)
        assert line in str(refused.value)
    (folder / FILE).write_text(yaml.safe_dump(content))
    load_acceptance("qwen3-4b-eagle3").recorded(5).save(folder / "blocks.parquet")
    with pytest.raises(ProfileError, match=r"expected blocks of as many tokens as acceptance.yaml says, 7, got 5"):
        load_acceptance(folder).recorded()
    load_acceptance("qwen3-4b-dspark").recorded().save(folder / "blocks.parquet")
    with pytest.raises(ProfileError, match=r"expected confidences as acceptance.yaml says, false, got true"):
        load_acceptance(folder).recorded()
    load_acceptance("deepseek-v4-pro-dspark").recorded().save(folder / "blocks.parquet")
    with pytest.raises(ProfileError, match=r"expected domains as acceptance.yaml says, 'AIME25, Alpaca, .* got 'coding, coding-thinking'"):
        load_acceptance(folder).recorded()


def test_the_first_slots_of_blocks(world: Path) -> None:
    """What a drafter of fewer slots would have recorded: the same walk cut short; and few values are small on disk."""
    blocks = load_acceptance("qwen3-4b-dspark").recorded()
    cut = blocks.cut(3)
    cut.save(world / "cut.parquet")
    again = RecordedBlocks.load(world / "cut.parquet")
    assert (again.gamma, again.rows) == (3, blocks.rows)
    np.testing.assert_array_equal(again.conditional(), blocks.conditional()[:, :3])
    np.testing.assert_allclose(again.mean_survival(), blocks.mean_survival()[:3])
    fine = replace(cut, confidence=cut.conditional() * (1 + 1e-4 * np.random.default_rng(0).random((cut.rows, 3)) - 1e-4))
    fine.save(world / "fine.parquet")
    assert (world / "cut.parquet").stat().st_size < 0.5 * (world / "fine.parquet").stat().st_size


# commands


def test_list_and_show(dsim: Callable[..., Any], world: Path) -> None:
    rows = json.loads(dsim("acceptance", "list", "--format", "json").out)
    assert [row["name"] for row in rows] == list(acceptances())
    said = dsim("acceptance", "list", "--target", "Qwen/Qwen3-32B")
    assert said.code == 0
    assert said.out.index("qwen3-14b-dspark") < said.out.index("gemma4-12b-dspark")
    shown = json.loads(dsim("acceptance", "show", "qwen3-8b-dspark", "--format", "json").out)
    assert (shown["domains"]["GSM8K"]["accepted_length"], shown["fits"], len(shown["domains"]["GSM8K"]["conditional"])) == (6.17, "same model", 7)
    said = dsim("acceptance", "show", "qwen3-8b-dspark", "--target", "Llama-3.1-8B")
    for text in ("warning: Acceptance of Qwen3-8B, not of Llama-3.1-8B", "GSM8K", "0.933", "6.17", "carried over", "Table 1", "Not known"):
        assert text in said.out
    said = dsim("acceptance", "show", "nothing")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("error: dsim acceptance show: no acceptance 'nothing'; did you mean")


def test_a_run_says_so(lent: Callable[..., Path], dsim: Callable[..., Any]) -> None:
    lent()
    said = dsim("run", "small.yaml", "--out", "out", "--workers", "1", "--no-report")
    assert (said.code, said.err) == (0, "")
    assert "warning: Acceptance of another model than" in said.out
    result = json.loads(Path("out/result.json").read_text())
    assert any("not of" in line for line in result["profile"]["assumed"])

"""The measured folder: loaded and checked, every refusal in one line, saved as it was read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import ProfileError
from simulator.measurements.agreement import compare_profiles
from simulator.measurements.profile import Profile, load_profile, save_profile
from simulator.schema import validate
from tests.conftest import PROFILE

Content = dict[str, Any]
Edit = Callable[[Callable[[Content], Any]], None]


def test_a_profile_is_loaded_with_its_tables_and_blocks(world: Path, edit_profile: Edit) -> None:
    (world / "tiny" / "verify.csv").write_text("tokens,p50_s\n1,0.01\n8,0.02\n")
    edit_profile(lambda c: c["costs"].update(verify={"provenance": "measured", "kind": "table", "file": "verify.csv", "note": "an A100"}))
    profile = load_profile(world / "tiny")
    assert profile.folder == world / "tiny"
    assert profile.costs.verify.seconds([2]).tolist() == [0.02]
    assert profile.blocks("head").gamma == 3
    assert profile.blocks("head") is profile.blocks("head")  # read once
    rows = {row["table"]: (row["provenance"], row["note"]) for row in profile.provenance()}
    assert rows["verify cost"] == ("measured", "an A100")
    assert set(rows) == {"verify cost", "overhead per step", "draft cost of head", "draft cost of mtp", "acceptance of head", "acceptance of mtp"}


def test_time_to_schedule_is_shown_like_overhead(world: Path, edit_profile: Edit) -> None:
    same = compare_profiles(load_profile(world / "tiny"), load_profile(world / "tiny"))
    edit_profile(lambda c: c["costs"].update(scheduling={"provenance": "fitted", "source": "one run", "seconds": 0.002, "per_request_s": 1e-5}))
    profile = load_profile(world / "tiny")
    assert {"table": "scheduling by prices", "provenance": "fitted", "source": "one run", "note": ""} in profile.provenance()
    numbers = {row["what"]: row["b"] for row in compare_profiles(profile, profile)["numbers"]}
    assert (numbers["scheduling per step, s"], numbers["scheduling per request and step, s"]) == (0.002, 1e-5)
    assert not any("scheduling" in row["what"] for row in same["numbers"])


def test_memory_for_kv_is_shared_with_the_drafters_cache(world: Path, edit_profile: Edit) -> None:
    def change(content: Content) -> None:
        content["kv"] = {"provenance": "measured", "bytes_per_token": 100, "memory_bytes": 12_500}
        content["drafters"]["head"]["kv_bytes_per_token"] = 25

    assert load_profile(world / "tiny").kv_tokens("head") is None
    edit_profile(change)
    profile = load_profile(world / "tiny")
    assert (profile.kv_tokens(None), profile.kv_tokens("mtp"), profile.kv_tokens("head")) == (125, 125, 100)


def test_a_saved_profile_reads_as_the_same(world: Path) -> None:
    profile = load_profile(world / "tiny")
    save_profile(profile, world / "again", "made by a test\nsecond line")
    shutil.copytree(world / "tiny", world / "again", ignore=shutil.ignore_patterns("profile.yaml"), dirs_exist_ok=True)
    text = (world / "again" / "profile.yaml").read_text()
    assert text.startswith("# made by a test\n# second line\nformat: 1\n")
    assert load_profile(world / "again").model_dump() == profile.model_dump()


def drafter(**changes: Any) -> Callable[[Content], Any]:
    return lambda c: c["drafters"]["head"].update(changes)


REFUSALS: dict[str, tuple[Callable[[Content], Any], str]] = {
    "another format": (lambda c: c.update(format=2), "{f}: format: expected profile format 1, got 2; measure or fit it again"),
    "no format": (lambda c: c.pop("format"), "{f}: format: expected profile format 1, got nothing; measure or fit it again"),
    "unknown key": (lambda c: c.update(hardwear="x"), "{f}: hardwear: unknown key 'hardwear'; did you mean 'hardware'?"),
    "missing": (lambda c: c.pop("gpus_per_replica"), "{f}: gpus_per_replica: required key is missing; add it"),
    "no provenance": (lambda c: c["costs"]["verify"].pop("provenance"), "{f}: costs.verify.provenance: required key is missing; add it"),
    "provenance": (
        lambda c: c["costs"]["overhead"].update(provenance="guessed"),
        "{f}: costs.overhead.provenance: expected 'measured', 'imported', 'published', 'fitted', 'estimated' or 'synthetic', got 'guessed'",
    ),
    "kind": (lambda c: c["costs"]["verify"].update(kind="curv"), "{f}: costs.verify: unknown kind 'curv'; did you mean 'curve'?"),
    "nested": (
        lambda c: c["costs"]["verify"].update(per_tokens_s=1),
        "{f}: costs.verify.per_tokens_s: unknown key 'per_tokens_s'; did you mean 'per_token_s'?",
    ),
    "in a dict": (lambda c: c["drafters"]["mtp"].update(gama=1), "{f}: drafters.mtp.gama: unknown key 'gama'; did you mean 'gamma'?"),
    "in a list": (
        lambda c: c["costs"]["verify"].update(cliffs=[{"tokens": 4, "add": 1}]),
        "{f}: costs.verify.cliffs.0.add: unknown key 'add'; did you mean 'add_s'?",
    ),
    "negative": (lambda c: c["costs"]["verify"].update(base_s=-1), "{f}: costs.verify.base_s: expected a number of at least 0 seconds, got -1"),
    "not finite": (lambda c: c["costs"]["verify"].update(base_s=float("inf")), "{f}: costs.verify.base_s: expected a finite number, got inf"),
    "a word": (
        lambda c: c.update(gpus_per_replica="two"),
        "{f}: gpus_per_replica: expected a number, got 'two'; write a number",
    ),
    "temperatures without a head": (
        lambda c: c["drafters"]["mtp"].update(temperatures=[1.0]),
        "{f}: drafters.mtp: has calibration temperatures but no confidence head",
    ),
    "temperatures": (drafter(temperatures=[1.0]), "{f}: drafters.head: expected 3 calibration temperatures, one per drafted token, got 1"),
    "no step left": (
        lambda c: c["drafters"]["head"]["draft"].update(every_step_s=-1),
        "{f}: drafters.head.draft.every_step_s: leaves -0.9889 s of a step of one token, expected at least 1e-07; "
        "give what a step under it takes beside",
    ),
    "no blocks": (drafter(blocks="gone.parquet"), "{f}: drafters.head.blocks: no such file 'gone.parquet'; restore it"),
    "no curve": (lambda c: c["published"]["speed"].update(file="gone.csv"), "{f}: published.speed.file: no such file 'gone.csv'; restore it"),
    "no table": (
        lambda c: c["costs"].update(verify={"provenance": "measured", "kind": "table", "file": "gone.csv"}),
        "{d}/gone.csv: no such file; restore the file, or correct its name in profile.yaml",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_profile_is_refused_in_one_line_with_file_key_and_remedy(world: Path, edit_profile: Edit, case: str) -> None:
    change, expected = REFUSALS[case]
    edit_profile(change)
    with pytest.raises(ProfileError) as refused:
        load_profile(world / "tiny")
    assert str(refused.value) == expected.format(f=world / "tiny" / "profile.yaml", d=world / "tiny")


def test_a_profile_that_is_not_there(world: Path) -> None:
    with pytest.raises(ProfileError) as refused:
        load_profile(world / "no", "scenario.yaml")
    assert str(refused.value) == f"scenario.yaml: profile: no profile at '{world / 'no'}'; profiles there: tiny"


def test_blocks_that_contradict_the_profile(world: Path, edit_profile: Edit) -> None:
    edit_profile(drafter(gamma=4))
    with pytest.raises(ProfileError, match=r"head\.parquet: drafters\.head\.gamma: expected blocks of 4 tokens \(profile\.yaml\), got 3$"):
        load_profile(world / "tiny").blocks("head")
    edit_profile(drafter(blocks="mtp.parquet", gamma=1))
    with pytest.raises(ProfileError, match=r"mtp\.parquet: drafters\.head\.confidence: expected confidences \(profile\.yaml\), got none$"):
        load_profile(world / "tiny").blocks("head")


def test_a_drafter_that_is_not_there(world: Path) -> None:
    profile = load_profile(world / "tiny")
    with pytest.raises(ProfileError) as refused:
        profile.drafter("eagle", "policies.0.drafter", "s.yaml")
    assert str(refused.value) == "s.yaml: policies.0.drafter: profile 'tiny' has no drafter 'eagle'; its drafters: head, mtp"


def test_profiles_that_ship_are_whole(repository: Path) -> None:
    """Every committed profile loads, says where each number comes from, and its blocks agree with it."""
    folders = sorted(p.parent for p in (repository / "profiles").glob("*/profile.yaml"))
    assert folders
    for folder in folders:
        profile = load_profile(folder)
        assert all(row["provenance"] and row["source"] for row in profile.provenance()), folder
        for name in profile.drafters:
            profile.blocks(name)


LEADS_OUT = ("../v.csv", "/etc/hostname", "a/../../v.csv", "..", "", ".", "a\\..\\v.csv", "a\0.csv", "a\n.csv", "x" * 300, "link.csv", "link/v.csv")
TABLE = {"provenance": "measured", "kind": "table", "file": "v.csv"}
NAMES_A_FILE: dict[str, Callable[[Content, str], Any]] = {
    "costs.verify.file": lambda c, f: c["costs"].update(verify=TABLE | {"file": f}),
    "costs.prefill.file": lambda c, f: c["costs"].update(prefill=TABLE | {"file": f}),
    "drafters.mtp.draft.file": lambda c, f: c["drafters"]["mtp"].update(draft=TABLE | {"file": f}),
    "drafters.mtp.draft.head": lambda c, f: c["drafters"]["mtp"].update(draft=TABLE | {"head": f}),
    "drafters.mtp.draft.absorb": lambda c, f: c["drafters"]["mtp"].update(draft=TABLE | {"absorb": f}),
    "drafters.mtp.blocks": lambda c, f: c["drafters"]["mtp"].update(blocks=f),
    "published.speed.file": lambda c, f: c["published"]["speed"].update(file=f),
}


@pytest.mark.parametrize("key", NAMES_A_FILE)
def test_a_profile_reads_no_file_outside_its_folder(world: Path, edit_profile: Edit, key: str) -> None:
    for place in (world, world / "tiny"):
        (place / "v.csv").write_text("tokens,requests,slots,p50_s\n1,1,1,0.01\n8,8,8,0.02\n")
    (world / "tiny" / "link.csv").symlink_to("../v.csv")
    (world / "tiny" / "link").symlink_to(world)
    for file in LEADS_OUT:
        edit_profile(lambda c, file=file: NAMES_A_FILE[key](c, file))  # type: ignore[misc]
        with pytest.raises(ProfileError, match=r"expected (a file in the same folder|the name of a file)") as refused:
            load_profile(world / "tiny")
        assert refused.value.key == key


def test_a_link_within_the_folder_is_followed_and_one_of_the_profile_itself_is_not(world: Path, edit_profile: Edit) -> None:
    (world / "tiny" / "mtp.parquet").rename(world / "tiny" / "real.parquet")
    (world / "tiny" / "mtp.parquet").symlink_to("real.parquet")
    assert load_profile(world / "tiny").blocks("mtp").gamma == 1
    (world / "linked").symlink_to("tiny")
    assert load_profile(world / "linked").name == "tiny"
    (world / "tiny" / "profile.yaml").rename(world / "p.yaml")
    (world / "tiny" / "profile.yaml").symlink_to("../p.yaml")
    with pytest.raises(ProfileError, match="a link that leads out of the folder"):
        load_profile(world / "tiny")


def test_the_files_of_a_profile_are_those_it_names(world: Path) -> None:
    (world / "tiny" / "diary.txt").symlink_to(world / "small.yaml")
    assert [file.name for file in load_profile(world / "tiny").files()] == ["profile.yaml", "head.parquet", "mtp.parquet"]


def test_files_that_only_some_systems_tell_apart(world: Path, edit_profile: Edit) -> None:
    shutil.copy(world / "tiny" / "mtp.parquet", world / "tiny" / "Head.parquet")
    edit_profile(lambda c: c["drafters"]["mtp"].update(blocks="Head.parquet"))
    with pytest.raises(ProfileError, match="differ only in capital letters"):
        load_profile(world / "tiny")


def holds_itself() -> Content:
    facts: Content = {}
    facts["x"] = [facts]
    return facts


def bomb() -> Content:
    level: list[Any] = ["ha"]
    for _ in range(40):
        level = [level, level]
    return {"x": level}


ENVIRONMENTS = {
    "itself": (holds_itself(), "levels"),
    "bomb": (bomb(), "levels"),
    "wide bomb": ({"x": [["ha"] * 1000] * 1000}, "values"),
    "long": ({"x": "ha" * 10_000}, "characters"),
    "not a number": ({"x": float("nan")}, "plain numbers"),
    "too large": ({"x": 10**400}, "plain numbers"),
    "of another type": ({"x": {1, 2}}, "plain numbers"),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_environment_is_plain_and_bounded(case: str) -> None:
    facts, problem = ENVIRONMENTS[case]
    with pytest.raises(ProfileError, match=problem) as refused:
        validate(Profile, PROFILE | {"environment": facts}, "profile.yaml", ProfileError)
    assert refused.value.key == "environment"
    validate(Profile, PROFILE | {"environment": {"device": "B300", "threads": 4, "flags": ["a", {"b": None}]}}, "profile.yaml", ProfileError)

"""A profile's page and picture: whole, self-contained, for every kind of profile, with numbers that can be checked by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simulator.errors import DsimError
from simulator.measurements.agreement import cell_count
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Profile, load_profile
from simulator.report import style
from simulator.report.profile import tables as profile_tables
from simulator.report.profile.numbers import drafter_data, drafter_numbers, remarks
from simulator.report.profile.page import default_folder, profile_page, write_profile_page
from simulator.report.profile.plots import costs as profile_costs
from simulator.report.render.terminal import terminal
from tests.report.test_page import Reader

pytestmark = pytest.mark.usefixtures("without_pixels")
Content = dict[str, Any]
VERIFY = """# seconds
requests,context_tokens,tokens,p10_s,p50_s,p90_s,n,regime,suspicious
1,64,1,0.009,0.010,0.011,9,graph,
1,64,2,0.011,0.012,0.013,9,graph,
2,64,2,0.012,0.013,0.014,9,graph,spread 12 %
2,64,4,0.020,0.021,0.022,9,eager,
1,512,1,0.010,0.011,0.012,9,graph,
1,512,2,0.012,0.013,0.014,9,graph,
2,512,2,0.013,0.014,0.015,9,graph,
2,512,4,0.021,0.022,0.023,9,eager,
"""
TABLES = {
    "verify.csv": VERIFY,
    "prefill.csv": "tokens,context_tokens,p50_s\n16,0,0.02\n64,0,0.05\n16,256,0.03\n64,256,0.07\n",
    "draft.csv": "requests,p10_s,p50_s,p90_s,n\n1,0.001,0.002,0.003,5\n4,0.003,0.004,0.005,5\n",
    "head.csv": "requests,slots,p50_s\n1,1,0.0001\n1,3,0.0003\n4,1,0.0002\n4,3,0.0006\n",
    "absorb.csv": "tokens,p50_s\n4,0.0005\n16,0.0011\n",
}


@pytest.fixture
def measured(world: Path) -> Path:
    """The tiny profile with measured tables, the head's cost in parts, and something suspicious."""
    folder = world / "tiny"
    content = yaml.safe_load((folder / "profile.yaml").read_text())
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    content["costs"]["verify"] = {"provenance": "measured", "kind": "table", "file": "verify.csv", "between": "linear"}
    content["costs"]["prefill"] = {"provenance": "measured", "kind": "table", "file": "prefill.csv"}
    parts = {"file": "draft.csv", "head": "head.csv", "absorb": "absorb.csv"}
    content["drafters"]["head"]["draft"] = {"provenance": "measured", "kind": "table", **parts}
    content["suspicious"] = ["verify, requests 2, context 64, 2 tokens: spread 12 %"]
    content["environment"] = {"device": "a CPU", "versions": {"torch": "2.9"}, "tiers": [1, 2]}
    (folder / "profile.yaml").write_text(yaml.safe_dump(content))
    return folder


def shown(folder: Path, out: Path) -> tuple[str, Reader]:
    profile = load_profile(folder)
    page, picture = write_profile_page(profile, drafter_numbers(profile), out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    html, reader = page.read_text(encoding="utf-8"), Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return html, reader


def check_alone(html: str, reader: Reader) -> None:
    """Nothing outside is asked for, ids are unique and found, headings descend."""
    assert not {"link", "iframe", "img", "object"} & {tag for tag, _ in reader.tags}
    assert [attributes for tag, attributes in reader.tags if tag == "script"] == [{}]  # the page's own, which sorts its tables
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "@import" not in html
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)
    assert reader.headings[0] == 1
    assert all(b <= a + 1 for a, b in zip(reader.headings[:-1], reader.headings[1:], strict=True))
    assert re.findall(r"(?<![\w-])(None|nan|NaN|inf|Undefined)\b", reader.text) == []


@pytest.mark.parametrize(
    "kind, name", [("measured", "cpu-smollm2-135m"), ("published", "deepseek-v4-flash-0731-b300"), ("fitted", "deepseek-v4-flash")]
)
def test_a_profile_of_each_kind_that_ships_has_a_page(kind: str, name: str, repository: Path, tmp_path: Path) -> None:
    profile = load_profile(repository / "profiles" / name)
    assert profile.costs.verify.provenance == kind
    html, reader = shown(repository / "profiles" / name, tmp_path)
    check_alone(html, reader)
    told = [profile.target, profile.hardware, profile.engine, *profile.drafters, *profile.assumed, *profile.not_identifiable]
    told += [row[key] for row in profile.provenance() for key in ("table", "provenance", "source")]
    assert [text for text in told if " ".join(text.split()) not in reader.text] == []


def test_a_measured_profile_shows_what_is_suspicious_first(measured: Path, tmp_path: Path) -> None:
    html, reader = shown(measured, tmp_path)
    check_alone(html, reader)
    assert reader.text.index("spread 12 %") < reader.text.index("Verify step")
    for text in ("crossed: suspicious", "hollow: eager", "context 64", "context 512", "sequential head", "taking features in", "256 cached before"):
        assert text in reader.text
    for key, value in (("device", "a CPU"), ("versions.torch", "2.9"), ("tiers", "1, 2")):
        assert f"{key} {value}" in reader.text


def test_many_suspicious_cells_are_one_verdict(measured: Path, tmp_path: Path) -> None:
    lines = [f"verify, requests {i}: spread 12 %" for i in range(9)] + ["head, requests 4: +10 % when measured again"]
    content = yaml.safe_load((measured / "profile.yaml").read_text())
    (measured / "profile.yaml").write_text(yaml.safe_dump(content | {"suspicious": lines}))
    profile = load_profile(measured)
    notices = [notice for notice in profile_page(profile).notices if notice.label == "Suspicious"]
    assert [notice.more for notice in notices] == [tuple(lines)]
    assert notices[0].text.startswith(f"10 of {cell_count(profile)} cost cells are suspicious: their times spread or changed when measured again.")
    assert cell_count(profile) == 8 + 4 + 2 + 4 + 2
    text = terminal(profile_page(profile), 80)
    assert "measure again" in text
    assert "requests 8" not in text
    html, _ = shown(measured, tmp_path)
    assert "<summary>Details: 10</summary>" in html


def test_draft_cost_by_parts_by_hand(measured: Path) -> None:
    """Block of 3: all three slots of the head; features of R · 4 tokens, 4 and 16, are taken in."""
    profile = load_profile(measured)
    parts = profile_costs.draft_parts(profile, profile.drafters["head"])
    assert parts["draft"] == pytest.approx({1.0: 2.0, 4.0: 4.0})
    assert parts["head"] == pytest.approx({1.0: 0.3, 4.0: 0.6})
    assert parts["absorb"] == pytest.approx({1.0: 0.5, 4.0: 1.1})
    assert profile_costs.draft_parts(profile, profile.drafters["mtp"]) == {}


def test_the_staircase_holds_every_cell_and_its_doubts(measured: Path) -> None:
    groups = profile_costs.verify_lines(load_profile(measured))
    assert list(groups) == ["context 64", "context 512"]
    line = groups["context 64"][1]
    assert line.name == "2 requests"
    np.testing.assert_allclose(line.y, [13.0, 21.0])
    assert line.rows is not None
    assert line.rows["suspicious"].tolist() == ["spread 12 %", ""]
    first = profile_costs.verify(load_profile(measured)).axes[0]
    crossed = [mark for mark in first.lines if mark.get_marker() == "x" and len(mark.get_xdata())]
    assert [(list(mark.get_xdata()), list(mark.get_ydata())) for mark in crossed] == [([2.0], [13.0])]
    hollow = [mark for mark in first.lines if mark.get_markerfacecolor() == style.PAPER and mark.get_marker() == "o" and len(mark.get_xdata())]
    assert [list(mark.get_xdata()) for mark in hollow] == [[4.0]]
    table = profile_tables.cells(load_profile(measured), "verify")
    assert table is not None
    assert table.length == 8


def blocks_of(accepted: list[list[int]], gamma: int) -> RecordedBlocks:
    """One domain, a text per list."""
    length = np.array([len(text) for text in accepted])
    first = np.concatenate([[0], np.cumsum(length)[:-1]])
    every = np.array([a for text in accepted for a in text])
    return RecordedBlocks("head", gamma, 1.0, "synthetic", "by hand", ("chat",), np.zeros(len(length), dtype=np.int64), first, length, every)


def test_what_scheduling_takes_stands_beside_the_overhead(world: Path, edit_profile: Callable[..., None], tmp_path: Path) -> None:
    assert "scheduling by prices" not in shown(world / "tiny", tmp_path)[1].text
    edit_profile(lambda c: c["costs"].update(scheduling={"provenance": "fitted", "seconds": 0.002, "per_request_s": 1e-5}))
    assert "scheduling by prices 2.00 ms per step and 0.0100 ms per request" in shown(world / "tiny", tmp_path)[1].text


def test_acceptance_by_hand(world: Path, edit_profile: Callable[..., None]) -> None:
    """Text 1 is walked 0 → 3 → 4, text 2 0 → 1 → 2: A of 2, 0 and 0, 0 (the third anchor of each beyond its end)."""
    blocks_of([[2, 1, 3, 0], [0, 0]], 3).save(world / "tiny" / "head.parquet")
    edit_profile(lambda c: c["drafters"]["head"].update(confidence=False))
    head = drafter_numbers(load_profile(world / "tiny"))[0]
    (chat,) = head.domains
    assert (chat.visited, chat.sequences) == (4, 2)
    assert chat.accepted_length.mean == pytest.approx(1 + 2 / 4)
    assert chat.over_all_anchors.mean == pytest.approx(1 + 6 / 6)
    slots = [found and found.mean for found in chat.conditional]
    assert slots == pytest.approx([1 / 4, 1.0, 0.0])
    residual = (2 + 2) - 1.5 * 2  # text 1: two rounds that commit 3 and 1
    half = 12.706 * np.sqrt(2 * 2 * residual**2) / 4  # Student's 97.5 % point with one degree of freedom
    assert chat.accepted_length.high == pytest.approx(1.5 + half, rel=1e-4)
    assert chat.accepted_length.low == 0.0
    assert head.calibration is None
    assert head.thresholds == ()


def test_the_sweep_and_the_calibration_are_those_of_the_measurements(world: Path) -> None:
    profile = load_profile(world / "tiny")
    head = drafter_numbers(profile)[0]
    assert head.calibration is not None
    assert head.thresholds[0].threshold == 0
    assert head.thresholds[0].committed_tokens + head.thresholds[0].rejected_tokens == pytest.approx(4)  # all three and the bonus
    assert all(a.rejected_tokens >= b.rejected_tokens for a, b in zip(head.thresholds[:-1], head.thresholds[1:], strict=True))
    table = profile_tables.calibration(head)
    assert table.length == 3
    assert [row[0].text for row in table.groups[0].rows] == ["1", "2", "3"]
    assert [row[3].text for row in table.groups[0].rows] == [f"{100 * e:.2f}" for e in head.calibration.before.error]


def test_remarks_name_what_is_thin_or_made_up(world: Path) -> None:
    profile = load_profile(world / "tiny")
    found = " ".join(remarks(profile, drafter_numbers(profile)))
    for text in ("verify cost (synthetic)", "No prefill cost", "Memory for keys and values is not known", "chat (4)", "no calibration temperatures"):
        assert text in found


def test_command_says_where_and_json_holds_the_numbers(measured: Path, world: Path, dsim: Callable[..., Any]) -> None:
    said = dsim("profile", "show", measured)
    assert said.code == 0
    assert said.out.rstrip().endswith("written to reports/profile-tiny/profile.html and reports/profile-tiny/overview.png")
    assert said.out.index("spread 12 %") < said.out.index("accepted length")
    assert (world / "reports/profile-tiny/profile.html").is_file()
    assert sorted(path.name for path in (world / "reports/profile-tiny").iterdir()) == [".dsim", "overview.png", "profile.html"]
    data = json.loads(dsim("profile", "show", measured, "--out", "there", "--format", "json").out)
    assert (world / "there" / "overview.png").is_file()
    assert set(data) >= {"name", "hardware", "engine", "target", "suspicious", "provenance", "assumed", "drafters", "acceptance", "page", "picture"}
    head = data["acceptance"]["head"]
    assert set(head) == {"domains", "threshold_sweep", "autocorrelation", "calibration"}
    assert set(head["domains"]["chat"]) == {
        "texts",
        "visited_anchors",
        "accepted_length",
        "accepted_length_all_anchors",
        "conditional_acceptance",
    }
    assert set(head["calibration"]["before"]) == set(head["calibration"]["after"]) == {"ece", "auroc", "brier"}
    assert data["acceptance"]["mtp"]["calibration"] is None
    profile = load_profile(measured)
    assert head == json.loads(json.dumps(drafter_data(drafter_numbers(profile)[0]), allow_nan=False))
    (world / "theirs").mkdir()
    (world / "theirs" / "overview.png").write_text("theirs")
    assert "theirs: holds 'overview.png', which dsim has not made there; " in dsim("profile", "show", measured, "--out", "theirs").err
    assert [path.name for path in (world / "theirs").iterdir()] == ["overview.png"]


def test_no_drafter_no_prefill_still_a_page(pixels: None, world: Path, edit_profile: Callable[..., None], tmp_path: Path) -> None:
    edit_profile(lambda c: c.update(drafters={}))
    html, reader = shown(world / "tiny", tmp_path / "out")
    check_alone(html, reader)
    assert "No prefill cost in this profile" in reader.text
    assert "Acceptance" not in reader.text


def test_names_are_text_never_code(world: Path, edit_profile: Callable[..., None], tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> $x$"
    edit_profile(lambda c: c.update(name=bad, hardware=bad, suspicious=[bad] * 9, environment={"<img src=http://x>": bad}))
    html, reader = shown(world / "tiny", tmp_path / "out")
    check_alone(html, reader)
    assert bad in reader.text
    assert "9 cost cells are suspicious" in reader.text
    assert re.fullmatch(r"[A-Za-z0-9._-]+", default_folder(load_profile(world / "tiny")).name)


def test_same_profile_same_bytes(pixels: None, measured: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shown(measured, tmp_path / name)
    for name in ("profile.html", "overview.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_that_cannot_be_written_is_one_line(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    profile: Profile = load_profile(world / "tiny")
    with pytest.raises(DsimError, match="file"):
        write_profile_page(profile, [], tmp_path / "file")

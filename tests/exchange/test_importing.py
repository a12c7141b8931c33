"""Imported profiles load, price steps as the engine's own tables do, and go back into the engine's form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.measurements.profile import load_profile
from tests.exchange.engine_files import ADDITIVE, CURVES, METRICS, SAMPLED, STS, aiperf, bench, dump, guidellm

Put = Callable[..., Path]
Dsim = Callable[..., Any]


def verify(folder: Path, tokens: list[float], requests: float = 1) -> list[float]:
    return load_profile(folder).costs.verify.seconds(tokens, requests).tolist()


def test_sglang_sampled(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    said = dsim("import", "sglang", "--sps", put("s.json", SAMPLED), "--out", tmp_path / "p", "--target", "m")
    assert said.code == 0
    assert verify(tmp_path / "p", [8, 16, 64]) == pytest.approx([1 / 100, 1 / 95, 1 / 50])
    profile = load_profile(tmp_path / "p")
    assert profile.costs.verify.provenance == "imported"
    assert profile.target == "m"
    assert profile.drafters == {}
    assert dsim("profile", "check", tmp_path / "p").code == 0


def test_sglang_additive_is_exact_and_goes_back(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    files = ("--sps", put("a.json", ADDITIVE), "--records", put("d.json", dump()), "--sts", put("sts.json", STS))
    assert dsim("import", "sglang", *files, "--out", tmp_path / "p").code == 0
    for requests, tokens in ((1, 8), (4, 64), (9, 100), (16, 128)):
        told = (
            0.008
            + np.interp(requests, ADDITIVE["bs_probes"], ADDITIVE["alpha_seconds"])
            + np.interp(tokens, ADDITIVE["m_probes"], ADDITIVE["theta_seconds"])
        )
        assert verify(tmp_path / "p", [tokens], requests) == pytest.approx([told], rel=1e-6)
    drafter = load_profile(tmp_path / "p").drafter("dspark")
    assert drafter.temperatures == STS["temperatures"]
    assert drafter.confidence
    out = tmp_path / "back.json"
    assert dsim("export", "sglang-sps", tmp_path / "p", "--drafter", "dspark", "--out", out, "--max-batch", 16).code == 0
    back = json.loads(out.read_text())
    for i, requests in enumerate(back["bs_probes"]):
        for j, tokens in enumerate(back["m_probes"]):
            total = back["bias_seconds"] + back["alpha_seconds"][i] + back["theta_seconds"][j]
            assert total == pytest.approx(verify(tmp_path / "p", [tokens], requests)[0], rel=1e-6)
    out = tmp_path / "sts.json"
    assert dsim("export", "sglang-sts", tmp_path / "p", "--drafter", "dspark", "--out", out).code == 0
    assert json.loads(out.read_text())["temperatures"] == STS["temperatures"]


def test_sglang_step_times_of_a_dump(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    assert dsim("import", "sglang", "--records", put("d.json", dump()), "--out", tmp_path / "p").code == 0
    assert verify(tmp_path / "p", [4, 8]) == pytest.approx([0.011, 0.012])


def test_a_scheduled_policy_runs_on_an_imported_profile(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    files = ("--sps", put("a.json", ADDITIVE), "--records", put("d.json", dump()), "--sts", put("sts.json", STS))
    assert dsim("import", "sglang", *files, "--out", tmp_path / "p").code == 0
    scenario = {
        "name": "s", "profile": str(tmp_path / "p"),
        "policies": [{"name": "x", "drafter": "dspark", "verification": {"kind": "confidence_scheduled"}}],
        "workload": {
            "arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 9}, "output_tokens": {"kind": "fixed", "tokens": 30},
        },
        "load": [4], "engine": {"prefill": {"kind": "instant"}}, "run": {"replications": 1, "requests": 8},
    }  # fmt: skip
    said = dsim("run", put("s.yaml", json.dumps(scenario)), "--out", tmp_path / "o", "--workers", 1, "--format", "json")
    assert said.code == 0
    (point,) = json.loads(said.out)["frontier"]
    assert 1 < point["metrics"]["accepted_length"]["mean"] < 4


def test_vllm_curves_are_padded_as_the_engine_pads(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    files = ("--curves", put("c.json", CURVES), "--metrics", put("m.txt", METRICS))
    assert dsim("import", "vllm", *files, "--out", tmp_path / "p").code == 0
    # by hand from build_cost_tables_from_curves: next captured size up to the limit, interpolated and held above it, last slope beyond
    expected = {1: 5.0, 2: 5.4, 8: 5.4, 9: 5.4, 17: 7.9, 64: 7.9, 65: 40.0, 128: 40.0, 192: 46.0, 256: 52.0, 320: 58.0}
    assert verify(tmp_path / "p", list(expected)) == pytest.approx([ms / 1e3 for ms in expected.values()])
    profile = load_profile(tmp_path / "p")
    draft = profile.drafter("drafter").draft
    assert [draft.seconds(r, 0, 3) for r in (1, 2, 8, 9)] == pytest.approx([0.9e-3, 1.1e-3, 1.1e-3, 1.6e-3])
    blocks = profile.blocks("drafter")
    assert blocks.provenance == "imported"
    assert blocks.gamma == 3


def test_survival_of_the_counters_is_met_by_walks(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    from simulator.measurements.statistics import acceptance_statistics, visited_rows

    assert dsim("import", "vllm", "--curves", put("c.json", CURVES), "--metrics", put("m.txt", METRICS), "--out", tmp_path / "p").code == 0
    blocks = load_profile(tmp_path / "p").blocks("drafter")
    found = acceptance_statistics(blocks, rows=visited_rows(blocks))
    assert np.all(np.abs(found.survival - [0.8, 0.5, 0.2]) < 4 * found.survival_error)


def step_s(users: float, budget: float) -> float:
    return 0.010 + 2e-4 * users * budget


def long_answers(users: int, step_s: float) -> dict[str, Any]:
    """What a result of answers of 181 tokens says otherwise: the last round of an answer, which is cut, counts little."""
    counts = {"num_drafts": 20000, "draft_tokens": 20000, "accepted_tokens": 16000}
    told = {"total_output_tokens": 36200, "output_throughput": users * 1.8 / step_s * 181 / 180}
    return told | {f"spec_decode_{name}": count for name, count in counts.items()}


@pytest.mark.parametrize("tool", ["vllm", "aiperf", "guidellm"])
def test_load_generators_give_back_the_cost_that_made_them(put: Put, dsim: Dsim, tmp_path: Path, tool: str) -> None:
    users, out = (1, 4, 16, 64), ("--out", tmp_path / "p")
    if tool == "vllm":
        files = [put(f"b{n}.json", bench(n, step_s(n, 2)) | long_answers(n, step_s(n, 2))) for n in users]
        said = dsim("import", "vllm", *(part for file in files for part in ("--bench", file)), *out)
    elif tool == "aiperf":
        files = [put(f"a{n}.json", aiperf(n, step_s(n, 1))) for n in users]
        said = dsim("import", "aiperf", *files, *out, "--accepted-length", 1, "--budget", 1)
    else:
        file = put("g.json", guidellm([(n, step_s(n, 1)) for n in users]))
        said = dsim("import", "guidellm", file, *out, "--accepted-length", 1, "--budget", 1)
    assert said.code == 0, said.err
    profile = load_profile(tmp_path / "p")
    drafting = [profile.drafter("drafter").draft.seconds(b / 2, 0, 1) if tool == "vllm" else 0.0 for b in (2, 10, 50)]
    steps = [step + draft for step, draft in zip(verify(tmp_path / "p", [2, 10, 50]), drafting, strict=True)]
    assert steps == pytest.approx([0.010 + 2e-4 * b for b in (2, 10, 50)], rel=1e-2)
    assert profile.costs.verify.provenance == "imported"
    assert list(profile.drafters) == (["drafter"] if tool == "vllm" else [])


UNUSED = [
    ("--check", "a1.json"), ("--accepted-length", "2"), ("--budget", "2"), ("--token-budget", "4096"), ("--max-batch", "8"),
    ("--metrics", "m.txt"), ("--metrics-before", "m.txt"), ("--model", "m"), ("--slots", "4"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("aiperf", "a1.json", "a2.json"), "a1.json: --accepted-length: does not say the accepted length"),
        (("aiperf", "a1.json", "--accepted-length", "1", "--budget", "1"), "too few operating points"),
        (("aiperf", "a1.json", "a2.json", "--accepted-length", "2", "--budget", "1"), "expected 1 to the budget of 1, got 2"),
        (("aiperf", "a1.json", "a2.json", "--accepted-length", "inf", "--budget", "inf"), "--accepted-length: expected 1 to 128 tokens of a request"),
        (("aiperf", "a1.json", "a2.json", "--accepted-length", "1", "--budget", "1000000"), "--budget: expected 1 to 128 tokens of a request"),
        (("vllm", "--metrics", "m.txt"), "the files have no step costs"),
        (("vllm", "--curves", "c.json", "--metrics-before", "m.txt"), "an earlier scrape needs a later one"),
        (("sglang", "--sts", "sts.json"), "the files have no step costs"),
        *((("sglang", "--sps", "s.json", *option), f"error: {option[0]}: is of no use without --bench; leave it out") for option in UNUSED),
        *((("vllm", "--curves", "c.json", *option), f"error: {option[0]}: is of no use without --bench; leave it out") for option in UNUSED[:5]),
        (("sglang", "--sps", "s.json", "--sts", "sts.json"), "a calibration needs recorded confidences"),
        (
            ("sglang", "--sps", "s.json", "--records", "d.json", "--sts", "two.json"),
            "two.json: temperatures: expected 3 positions as in the rec",
        ),
    ],
)
def test_what_cannot_be_a_profile_is_refused_in_one_line(
    put: Put, dsim: Dsim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    files = {"a1.json": aiperf(1, 0.01), "a2.json": aiperf(9, 0.02), "m.txt": METRICS, "c.json": CURVES, "s.json": SAMPLED, "sts.json": STS}
    for name, content in (files | {"d.json": dump(), "two.json": {"temperatures": [1.0, 1.0]}}).items():
        put(name, content)
    monkeypatch.chdir(tmp_path)
    said = dsim("import", *arguments, "--out", "p")
    assert said.code == 2
    assert told in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "p").exists()


def test_a_profile_that_is_there_is_kept(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    call = ("import", "sglang", "--sps", put("s.json", SAMPLED), "--out", tmp_path / "p")
    assert dsim(*call).code == 0
    said = dsim(*call)
    assert said.code == 2
    assert "already holds a profile" in said.err
    assert dsim(*call, "--force").code == 0


def test_a_profile_is_written_whole_or_not_at_all(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    """Steps of a minute are no serving engine's: the profile is refused when it is read back, and nothing of it is left."""
    good, slow = put("s.json", SAMPLED), put("slow.json", SAMPLED | {"sample_steps_per_sec": [0.01, 0.009, 0.008, 0.005]})
    said = dsim("import", "sglang", "--sps", slow, "--out", tmp_path / "p")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert f"{tmp_path}/p/profile.yaml: costs.verify: would not be a valid profile: a step of one token takes" in said.err
    assert not (tmp_path / "p").exists()
    assert dsim("import", "sglang", "--sps", good, "--out", tmp_path / "p").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    assert dsim("import", "sglang", "--sps", slow, "--out", tmp_path / "p", "--force").code == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before


OTHERS = ("verify.csv", "draft.csv", "probe.json", "dspark.parquet")


def test_files_of_others_are_not_replaced(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    call = ("import", "sglang", "--sps", put("s.json", SAMPLED), "--out", tmp_path / "p")
    (tmp_path / "p").mkdir()
    for name in OTHERS:
        (tmp_path / "p" / name).write_text("theirs")
        said = dsim(*call)
        assert (said.code, len(said.err.splitlines())) == (2, 1)
        assert f"holds '{name}', which dsim has not made there; use another --out, or replace it with --force" in said.err
        assert [path.read_text() for path in (tmp_path / "p").iterdir()] == ["theirs"]
        (tmp_path / "p" / name).unlink()


@pytest.mark.parametrize(
    "option, value", [("--drafter", "../esc"), ("--drafter", ".."), ("--drafter", "-x"), ("--name", "a\nb"), ("--name", "x" * 201)]
)
def test_names_from_the_command_line(put: Put, dsim: Dsim, tmp_path: Path, option: str, value: str) -> None:
    said = dsim("import", "sglang", "--sps", put("s.json", SAMPLED), "--out", tmp_path / "p", f"{option}={value}")
    assert (said.code, len(said.err.splitlines())) == (2, 1)
    assert f"error: {option}: expected " in said.err
    assert not (tmp_path / "p").exists()


def test_an_export_names_the_option_that_is_wrong(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    assert dsim("import", "vllm", "--curves", put("c.json", CURVES), "--metrics", put("m.txt", METRICS), "--out", tmp_path / "p").code == 0
    for command in ("sglang-sps", "sglang-sts", "vllm-lengths"):
        said = dsim("export", command, tmp_path / "p", "--drafter", "other", "--out", tmp_path / "x")
        assert said.code == 2
        assert "--drafter: profile 'p' has no drafter 'other'" in said.err
        said = dsim("export", command, tmp_path / "p", "--drafter", "drafter", "--out", tmp_path)
        assert (said.code, "cannot write (Is a directory)" in said.err or "no confidence head" in said.err) == (2, True)
    said = dsim("export", "sglang-sts", tmp_path / "p", "--drafter", "drafter", "--out", tmp_path / "x")
    assert "--drafter: drafter 'drafter' has no confidence head" in said.err
    assert not (tmp_path / "x").exists()
    own = tmp_path / "p" / "profile.yaml"
    said = dsim("export", "vllm-lengths", tmp_path / "p", "--drafter", "drafter", "--out", own)
    assert (said.code, "is a file of the profile; use another --out" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            {**SAMPLED, "sample_steps_per_sec": [100.0, 95.0, 80.0, 50_000.0]},
            "p/profile.yaml: costs.verify: would not be a valid profile: falls from",
        ),
        ({**SAMPLED, "sample_steps_per_sec": [0.01, 0.01, 0.01, 0.01]}, "would not be a valid profile: a step of one token takes 100 s"),
    ],
)
def test_an_import_whose_profile_could_not_be_read_writes_nothing(put: Put, dsim: Dsim, tmp_path: Path, content: Any, problem: str) -> None:
    said = dsim("import", "sglang", "--sps", put("s.json", content), "--out", tmp_path / "new" / "p")
    assert (said.code, problem in said.err) == (2, True), said.err
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_sizes_that_differ_in_the_seventh_digit_stay_apart(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    sizes = {"sample_batch_tokens": [8, 1_234_567, 1_234_568], "sample_steps_per_sec": [100.0, 50.0, 49.0], "max_batch_tokens": 2_000_000}
    assert dsim("import", "sglang", "--sps", put("s.json", sizes), "--out", tmp_path / "p").code == 0
    assert verify(tmp_path / "p", [1_234_567, 1_234_568]) == pytest.approx([1 / 50, 1 / 49])

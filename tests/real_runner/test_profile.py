"""`dsim profile` end to end on the byte-level pair that comes along: measured, interrupted and gone on with, refused in one line, simulated from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save
from typer.testing import CliRunner

from real_runner import profile as measuring
from real_runner.layout import Tiers
from real_runner.profile import Acceptance, CostPlan, measure_profile, named_drafts
from real_runner.prompts import read_prompt_set
from real_runner.rounds import Device
from real_runner.target import load_target
from real_runner.texts import Text
from simulator.cli import app
from simulator.errors import DsimError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import load_profile
from simulator.progress import Progress

PAIR = Path(__file__).parents[1] / "pair"
DRAFTS = {name: str(PAIR / name) for name in ("mtp", "dflash", "eagle3", "dspark")}
QUICK = {
    "acceptance": Acceptance(temperature=1.0, prompts=3, max_tokens=40),
    "costs": CostPlan(1.0, 2, 64),
    "tiers": None,
    "progress": Progress(quiet=True),
}


@pytest.fixture(scope="module")
def pair():
    return load_target(str(PAIR / "target"))


@pytest.fixture(scope="module")
def sets():
    return [read_prompt_set(file) for file in sorted((PAIR / "prompts").glob("*.jsonl"))]


@pytest.fixture(scope="module")
def measured(pair, sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("profiles") / "pair"
    real = measuring.measure_cost_tables

    def kept(*args, folder, **more):
        tables = real(*args, folder=folder, **more)
        shutil.copy(folder / "cells.jsonl", out.with_name("cells.jsonl"))
        return tables

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(measuring, "measure_cost_tables", kept)
        measure_profile(pair, DRAFTS, sets, out, **QUICK)
    return out


def costs_are_there(measured, out):
    """The unfinished measurement in `out` has its cost cells, so that it goes on without the time that they take."""
    shutil.copy(measured.with_name("cells.jsonl"), out / "work")


def test_the_profile_is_whole_and_says_where_it_is_from(measured):
    profile = load_profile(measured)
    assert set(profile.drafters) == set(DRAFTS)
    assert {row["provenance"] for row in profile.provenance()} == {"measured"}
    assert profile.drafters["dspark"].temperatures is not None
    assert profile.drafters["dflash"].temperatures is None
    assert profile.blocks("dspark").domains == ("chat", "code", "math")
    assert profile.kv.bytes_per_token == 4 * 2 * 2 * 32 * 4  # layers × (k, v) × KV heads × head × float32
    assert profile.environment["device"]
    assert not (measured / "work").exists()
    costs = profile.costs.verify.seconds([1, 2, 6, 12], 2, 32)
    assert (costs > 0).all()


def test_every_drafter_runs_as_a_policy_on_the_measured_profile(measured, tmp_path):
    policies = [
        {"name": "none", "verification": {"kind": "none"}},
        {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}},
        {"name": "DFlash", "drafter": "dflash", "verification": {"kind": "fixed", "length": 5}},
        {"name": "Eagle3", "drafter": "eagle3", "verification": {"kind": "fixed", "length": 3}},
        {"name": "DSpark", "drafter": "dspark", "verification": {"kind": "fixed", "length": 5}},
        {"name": "scheduled", "drafter": "dspark", "verification": {"kind": "confidence_scheduled"}},
    ]
    scenario = {
        "name": "pair", "profile": str(measured), "policies": policies, "load": [1, 2], "run": {"replications": 2, "requests": 20},
        "workload": {"arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 20},
                     "output_tokens": {"kind": "fixed", "tokens": 30}},
        "engine": {"max_batch": 2},
    }  # fmt: skip
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(scenario))
    ran = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out"), "--workers", "1", "--format", "json"])
    assert ran.exit_code == 0, ran.output
    points = json.loads(ran.stdout)["frontier"]
    assert {point["policy"] for point in points} == {policy["name"] for policy in policies}


@pytest.mark.parametrize("stage", ["record_blocks", "measure_cost_tables", "assemble"])
def test_an_interrupted_measurement_goes_on(stage, pair, sets, measured, tmp_path, monkeypatch):
    """What was made before the interruption is not made again, and the texts and blocks are those of an undisturbed run."""
    out, calls = tmp_path / "pair", []

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(measuring, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            measure_profile(pair, DRAFTS, sets, out, **QUICK)
    kept = {file.name: file.stat().st_mtime_ns for file in out.glob("blocks-*")}
    if stage != "assemble":
        costs_are_there(measured, out)
    real = measuring.record_blocks
    monkeypatch.setattr(measuring, "record_blocks", lambda *args, **more: calls.append(args[2]) or real(*args, **more))
    measure_profile(pair, DRAFTS, sets, out, **QUICK)
    assert len(calls) == (4 if stage == "record_blocks" else 0)
    assert all((out / name).stat().st_mtime_ns == when for name, when in kept.items())
    for name in DRAFTS:
        ours, theirs = (RecordedBlocks.load(folder / f"blocks-{name}.parquet") for folder in (out, measured))
        assert (ours.accepted == theirs.accepted).all()


def test_another_measurement_is_not_mixed_into_an_unfinished_one(pair, sets, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "measure_blocks", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        measure_profile(pair, DRAFTS, sets, tmp_path, **QUICK)
    with pytest.raises(DsimError, match=r"unfinished measurement with temperature 1\.0, now 0\.0"):
        measure_profile(pair, DRAFTS, sets, tmp_path, **{**QUICK, "acceptance": Acceptance(0.0, 3, 40)})


def test_other_texts_or_weights_under_the_same_names_are_another_measurement(pair, tmp_path, monkeypatch):
    """As many prompts and tokens, the same folder: blocks recorded before say nothing of them."""
    monkeypatch.setattr(measuring, "measure_cost_tables", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    folder, given = tmp_path / "eagle3", [Text([1, 2, 3], [*range(10, 20), i]) for i in range(2)]
    shutil.copytree(PAIR / "eagle3", folder)

    def measure(texts):
        measure_profile(pair, {"eagle3": str(folder)}, [], tmp_path / "out", given=texts, **QUICK)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            measure(given)
    with pytest.raises(DsimError, match="unfinished measurement with texts "):
        measure([Text(text.prompt, text.output[::-1]) for text in given])
    weights = load_file(folder / "model.safetensors")
    for name, spoilt in (("model.safetensors", save({**weights, "fc.weight": weights["fc.weight"] * 1.01})), ("config.json", None)):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(spoilt or before.replace(b"{", b'{"note": 1,', 1))
        with pytest.raises(DsimError, match="unfinished measurement with drafter_weights "):
            measure(given)
        (folder / name).write_bytes(before)
    with pytest.raises(KeyboardInterrupt):
        measure(given)


@pytest.mark.parametrize("name", ["blocks-dspark.parquet", "verify.csv", "draft-x.csv", "work/diary.txt"])
def test_files_of_others_are_neither_taken_nor_removed(pair, sets, tmp_path, name):
    file = tmp_path / "p" / name
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    with pytest.raises(DsimError, match=f"holds '{name.partition('/')[0]}', which dsim has not made there; give another folder"):
        measure_profile(pair, DRAFTS, sets, tmp_path / "p", **QUICK)
    assert [path.read_text() for path in (tmp_path / "p").rglob("*") if path.is_file()] == ["theirs"]


def test_a_full_disk_loses_nothing_that_was_measured(pair, sets, measured, tmp_path, monkeypatch):
    real = RecordedBlocks.save

    def full(self, path):
        if self.drafter == "dspark":
            raise DsimError("cannot write (No space left on device)", where=path)
        real(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(RecordedBlocks, "save", full)
        with pytest.raises(DsimError, match="No space left"):
            measure_profile(pair, DRAFTS, sets, tmp_path, **QUICK)
    assert {file.name for file in tmp_path.glob("blocks-*")} == {"blocks-mtp.parquet", "blocks-dflash.parquet", "blocks-eagle3.parquet"}
    costs_are_there(measured, tmp_path)
    measure_profile(pair, DRAFTS, sets, tmp_path, **QUICK)
    assert set(load_profile(tmp_path).drafters) == set(DRAFTS)


def cli(*words, **more):
    return CliRunner().invoke(app, [str(word) for word in words], **more)


@pytest.mark.parametrize(
    "words, said",
    [
        (("--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--budget", "soon"), "expected a duration such as 90s, 10m or 1h, got 'soon'"),
        (("--draft", PAIR / "nothing"), "no such folder"),
        (("--draft", PAIR / "dspark", "--draft", PAIR / "dspark"), "two drafters are called 'dspark'"),
        (("--draft", PAIR / "target"), "config.json"),
        (("--dtype", "float7"), "unknown dtype"),
        (("--device", "toaster"), "expected cpu, cuda or cuda:N, got 'toaster'"),
    ],
)
def test_mistakes_are_one_line_before_anything_long(words, said, tmp_path):
    ran = cli("profile", "--target", PAIR / "target", "--out", tmp_path / "p", *words)
    assert isinstance(ran.exception, DsimError), ran.output
    assert said in ran.exception.line()
    assert "\n" not in ran.exception.line()


def test_a_finished_profile_is_not_overwritten(measured):
    ran = cli("profile", "--target", PAIR / "target", "--out", measured)
    assert isinstance(ran.exception, DsimError)
    assert "already holds a profile" in ran.exception.line()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(tmp_path):
    ran = cli("profile", "--gpu", "--target", PAIR / "target", "--out", tmp_path / "p")
    assert isinstance(ran.exception, DsimError)
    assert "no CUDA device" in ran.exception.line()


def test_drafts_may_be_named():
    assert named_drafts(["a=x/y", "x/z"]) == {"a": "x/y", "z": "x/z"}
    with pytest.raises(DsimError, match="expected letters, digits"):
        named_drafts(["a/b=c"])


def test_shapes_padded_to_tiers_can_be_measured(pair, sets, tmp_path):
    """What a GPU captures, rehearsed: the staircase has the tiers as its keys."""
    tiers = Tiers(tokens=(1, 2, 4, 8, 16), reach=(64, 128))
    measure_profile(pair, {"dspark": DRAFTS["dspark"]}, sets[:1], tmp_path / "p", **{**QUICK, "tiers": tiers})
    verify = load_profile(tmp_path / "p").costs.verify
    assert verify.padded_to == [1, 2, 4, 8, 16]
    three, four = verify.seconds([3, 4], 2, 32)
    assert three == four  # three tokens run as four


def test_train_draft_end_to_end(tmp_path):
    """Prompts to a judged drafter, twice: the second call finds everything done."""
    shutil.copy(PAIR / "prompts" / "math.jsonl", tmp_path / "math.jsonl")
    words = ["train-draft", "--target", PAIR / "target", "--prompts", tmp_path / "math.jsonl", "--out", tmp_path / "out", "--steps", 4]
    words += ["--max-tokens", 24, "--held-out", 3, "--batch-anchors", 8, "--batch-texts", 2, "--format", "json"]
    first = cli(*words)
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert set(report["drafters"]["dspark"]["held_out"]) == {"0", "1"}
    assert report["drafters"]["dspark"]["held_out"]["0"]["accepted_length"] >= 1.0
    again = cli(*words)
    assert json.loads(again.stdout)["drafters"] == report["drafters"]
    wrong = cli(*words[:-2], "--family", "medusa")
    assert isinstance(wrong.exception, DsimError)


class Clock:
    """Time that passes only where the device works, by so many seconds a call, and while the host sleeps."""

    WORK = {"prefill": 0.002, "draft": 0.001, "verify": 0.005}

    def __init__(self, monkeypatch):
        self.now_s = 0.0
        for name, seconds in self.WORK.items():
            monkeypatch.setattr(Device, name, self.worked(getattr(Device, name), seconds))
        monkeypatch.setattr("real_runner.engine.time", self)
        monkeypatch.setattr("real_runner.timing.time", self)

    def worked(self, real, seconds):
        def call(*arguments):
            self.sleep(seconds)
            return real(*arguments)

        return call

    def perf_counter(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds + 1e-9  # a float that stands still would never reach an arrival


@pytest.fixture
def priced(measured, tmp_path):
    """The measured acceptance with the very costs that the clock charges."""
    folder = tmp_path / "priced"
    shutil.copytree(measured, folder)
    content = yaml.safe_load((folder / "profile.yaml").read_text())
    cost = {name: {"provenance": "synthetic", "base_s": seconds} for name, seconds in Clock.WORK.items()}
    verify = cost["verify"] | {"kind": "curve", "per_token_s": 0.0, "measured_tokens": [1, 100]}
    prefill = cost["prefill"] | {"kind": "linear", "per_token_s": 0.0}
    content["costs"] = {"verify": verify, "prefill": prefill, "overhead": {"provenance": "synthetic", "seconds": 0.0}}
    for drafter in content["drafters"].values():
        drafter["draft"] = cost["draft"] | {"kind": "linear"}
    (folder / "profile.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_the_engine_is_held_against_the_simulator(priced, tmp_path, monkeypatch):
    """Served really, closed loop and a trace segment, and kept: the same command serves nothing again; another segment is refused."""
    policies = [
        {"name": "none", "verification": {"kind": "none"}},
        {"name": "scheduled", "drafter": "dspark", "verification": {"kind": "confidence_scheduled"}},
    ]
    scenario = {
        "name": "pair", "profile": str(priced), "policies": policies, "load": [1, 2], "run": {"requests": 4},
        "workload": {"arrivals": {"kind": "closed_loop"}, "prompt_tokens": {"kind": "fixed", "tokens": 20},
                     "output_tokens": {"kind": "fixed", "tokens": 20}},
        "engine": {"max_batch": 2, "prefill": {"kind": "separate"}},
    }  # fmt: skip
    file, trace, out = tmp_path / "pair.yaml", tmp_path / "trace.csv", tmp_path / "out"
    file.write_text(yaml.safe_dump(scenario))
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at},9,9\n" for at in (5.0, 5.1, 5.3, 5.35, 5.6)))
    words = ["turns=1", "least=2", "max_tokens=12", f"arrivals={trace}", "open_requests=4", f"prompts=math={PAIR / 'prompts' / 'math.jsonl'}"]
    command = ["validate", str(file), "--engine", str(PAIR), "--out", str(out), "--format", "json"]
    command += [part for word in words for part in ("--serving", word)]
    Clock(monkeypatch)
    said = CliRunner().invoke(app, command)
    assert said.exit_code in (0, 1), said.output  # so few tokens need not keep the limits
    found = json.loads((out / "engine_check.json").read_text())
    assert found["ok"] == (said.exit_code == 0)
    assert len(found["runs"]) == 6
    for run in found["runs"]:
        assert run["error"]["accepted_length"] == pytest.approx(0, abs=0.6)
        assert run["why"]["cost_model"] == pytest.approx(0, abs=1e-5)
        assert run["why"]["step_noise"] == pytest.approx(0, abs=1e-9)
    for run in found["runs"]:  # without drafts the texts do not matter: what is left is batching, queueing and prompts
        if run["policy"] == "none":
            assert run["error"]["throughput_tok_s"] == pytest.approx(0, abs=1e-5)
            assert run["error"]["ttft_p50_s"] == pytest.approx(0, abs=1e-5)
    assert [run["requests"] for run in found["runs"] if run["open_loop"]] == [4, 4]
    stamps = {folder.name: (folder / "steps.csv").stat().st_mtime_ns for folder in (out / "runs").iterdir()}
    arrived = pd.read_csv(out / "runs" / "none-open" / "requests.csv")["arrival_s"]
    assert arrived.tolist() == pytest.approx([0.0, 0.1, 0.3, 0.35])
    CliRunner().invoke(app, command)
    assert stamps == {folder.name: (folder / "steps.csv").stat().st_mtime_ns for folder in (out / "runs").iterdir()}
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,9,9\n2,9,9\n3,9,9\n4,9,9\n")
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, DsimError)
    assert "holds a run with another load, rule" in str(refused.exception)

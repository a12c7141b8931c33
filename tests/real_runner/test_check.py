"""`draft check` holds on what is right, and notices what is wrong by one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from real_runner.alignment import shifts, worn
from real_runner.check import aligned, check, taps, weights
from real_runner.failures import OutOfMemory
from real_runner.prompts import continued, own_words, prompts_for, read_trace, read_turns
from simulator.errors import DsimError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def texts(target):
    return continued(target, own_words(target, 8, 0), 48, 1)


@pytest.mark.parametrize("name", ["dspark_vanilla", "dspark_rnn", "dflash", "eagle3"])
def test_a_trained_checkpoint_is_aligned_and_every_shift_of_it_is_caught(name, target, drafters, texts):
    drafter = drafters[name]
    assert all(finding.holds for finding in aligned(target, drafter, texts))
    tried = 0
    for shift, spec in shifts(drafter.spec, target):
        with worn(drafter, spec):
            caught = [finding.name for finding in aligned(target, drafter, texts) if not finding.holds]
            caught += [] if taps(drafter.spec, target).holds else ["last layer tapped"]
        assert caught, f"{name} with {shift} went unnoticed"
        tried += 1
    assert tried == (2 if name == "eagle3" else 5)


def test_misaligned_taps_in_a_config_fail_the_command(tmp_path, target):
    shutil.copytree(GOLDEN / "dflash", tmp_path / "draft")
    config = json.loads((tmp_path / "draft" / "config.json").read_text())
    config["target_layer_ids"] = [-1, 0, 1, 2, 3]
    (tmp_path / "draft" / "config.json").write_text(json.dumps(config))
    report = check(target, str(tmp_path / "draft"), expect=GOLDEN / "dflash", tokens=32)
    assert not report.holds
    assert "shifted taps +1" in [finding.name for finding in report.findings if not finding.holds]
    assert "context_features" in [difference.what for difference in report.differences if not difference.holds]


def test_a_head_that_is_not_the_targets_is_caught(tmp_path, target, drafters):
    shutil.copytree(GOLDEN / "dflash", tmp_path / "draft")
    tensors = load_file(tmp_path / "draft" / "model.safetensors")
    tensors["lm_head.weight"][3, 5] += 1e-3
    save_file(tensors, tmp_path / "draft" / "model.safetensors")
    from real_runner.drafters.loading import load_drafter

    found = {finding.name: finding for finding in weights(load_drafter(str(tmp_path / "draft"), target), target)}
    assert not found["head is the target's"].holds
    assert found["embedding is the target's"].holds
    assert all(finding.holds for finding in weights(drafters["dflash"], target))


def test_tapping_the_last_layer_is_caught(target, drafters):
    spec = drafters["dflash"].spec
    assert taps(spec, target).holds
    assert not taps(replace(spec, taps=(0, 1, 5)), target).holds
    assert not taps(replace(spec, taps=(1, 0)), target).holds


def test_wrong_expectations_are_caught(tmp_path, target):
    expected = json.loads((GOLDEN / "eagle3" / "greedy_decode.json").read_text())
    expected[2]["rounds"][3]["accepted"] += 1
    (tmp_path / "greedy_decode.json").write_text(json.dumps(expected))
    report = check(target, str(GOLDEN / "eagle3"), expect=tmp_path, tokens=24)
    assert [difference.what for difference in report.differences if not difference.holds] == ["greedy accepted counts"]
    with pytest.raises(DsimError, match=r"expected forward\.safetensors or greedy_decode\.json"):
        check(target, str(GOLDEN / "eagle3"), expect=tmp_path / "nothing", tokens=24)


def test_the_command_in_json_and_its_exit_codes(dsim):
    given = ("draft", "check", "--target", GOLDEN / "target", "--draft", GOLDEN / "dflash", "--format", "json")
    held = dsim(*given, "--expect", GOLDEN / "dflash")
    assert held.code == 0, held.err
    told = json.loads(held.out)
    assert told["holds"]
    assert told["understood"]["family"] == "dflash"
    assert told["understood"]["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    failed = dsim(*given, "--at-least", 8.5)
    assert failed.code == 1
    assert not json.loads(failed.out)["holds"]
    wrong = dsim("draft", "check", "--target", GOLDEN / "target", "--draft", GOLDEN / "gemma4_dspark")
    assert wrong.code == 2
    assert wrong.out == ""
    assert wrong.err.strip().count("\n") == 0
    assert "vocab_size: 53, but the target has 30" in wrong.err
    other = dsim(*given, "--expect", GOLDEN / "eagle3")
    assert other.code == 2
    assert other.out == ""
    assert "forced_prev_ids: missing; the drafter is dflash" in other.err
    heads = dsim(*given, "--expect", GOLDEN / "dspark_vanilla")
    assert heads.code == 1
    worst = {one["what"]: one["detail"] for one in json.loads(heads.out)["differences"] if not one["holds"]}
    assert worst["confidence_logits_given_forced_prev"] == "expected, but this drafter makes none"


def test_memory_that_runs_out_over_the_drafts_is_one_line(target, drafters, texts, monkeypatch):
    def none(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("real_runner.check.overlaps", none)
    with pytest.raises(OutOfMemory, match="out of memory for drafts along 8 texts; use a smaller dtype"):
        aligned(target, drafters["dflash"], texts)


def test_serve_bench_writes_all_or_nothing(tmp_path, dsim):
    given = ("serve-bench", "--target", GOLDEN / "target", "--draft", GOLDEN / "dspark_vanilla", "--output-tokens", 12, "--requests", 4)
    refused = dsim(*given, "--policy", "{kind: confidence_scheduled}", "--out", tmp_path / "a")
    assert refused.code == 2
    assert "needs the time of a round" in refused.err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens,domain\n0,5,8,code\n0.05,9,3,chat\n")
    served = dsim(*given, "--policy", "{kind: fixed, length: 3}", "--trace", tmp_path / "trace.csv", "--out", tmp_path / "b", "--name", "three")
    assert served.code == 0, served.err
    rows = (tmp_path / "b" / "requests.csv").read_text().splitlines()
    assert rows[0].startswith("request,policy,arrival_s,first_token_s")
    assert [row.split(",")[1] for row in rows[1:]] == ["three", "three"]
    assert json.loads((tmp_path / "b" / "run.json").read_text())["machine"]["kind"] == "cpu"
    assert {file.name for file in (tmp_path / "b").iterdir()} == {"requests.csv", "steps.csv", "run.json"}
    assert dsim(*given, "--out", tmp_path / "b").code == 2


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_served(tmp_path, dsim):
    (tmp_path / "file").write_text("")
    refused = dsim("serve-bench", "--target", tmp_path / "no-model", "--out", tmp_path / "file" / "served")
    assert refused.code == 2
    assert "cannot write" in refused.err


@pytest.mark.parametrize("command", ["serve-bench", "train-draft", "profile"])
def test_a_seed_below_0_is_one_line(command, tmp_path, dsim):
    refused = dsim(command, "--target", GOLDEN / "target", "--out", tmp_path / "out", "--seed", -1)
    assert refused.code == 2
    assert "--seed" in refused.err
    assert refused.err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, gamma", [("head", 3), ("mtp", 1)])
def test_a_profile_whose_drafter_drafts_other_blocks_is_refused(name, gamma, made_profile, tmp_path, dsim):
    """Its calibration and survivals have another number of positions."""
    given = ("serve-bench", "--target", GOLDEN / "target", "--draft", GOLDEN / "dspark_vanilla", "--policy", "{kind: fixed, length: 2}")
    refused = dsim(*given, "--requests", 1, "--output-tokens", 4, "--profile", made_profile, "--drafter", name, "--out", tmp_path / "out")
    assert refused.code == 2
    assert f"drafts 7 tokens, but the profile's drafter '{name}' {gamma}" in refused.err
    assert refused.err.strip().count("\n") == 0


def test_prompt_and_trace_files_that_are_wrong_are_one_line(tmp_path, target):
    (tmp_path / "p.jsonl").write_text('{"turns": ["one\u2028two"]}\n{"turn": 1}\n', encoding="utf-8")
    with pytest.raises(DsimError, match=r"p\.jsonl:2: turns: expected an object"):
        read_turns(tmp_path / "p.jsonl")
    with pytest.raises(DsimError, match="no such file"):
        read_turns(tmp_path / "none.jsonl")
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens\n0,5\n")
    with pytest.raises(DsimError, match=r"t\.csv:1: output_tokens: column is missing"):
        read_trace(tmp_path / "t.csv")
    with pytest.raises(DsimError, match="the target has no tokenizer"):
        prompts_for(target, 2, tmp_path / "p.jsonl")

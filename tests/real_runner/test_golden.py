"""Parity with the reference implementation's outputs in tests/golden, float32 on CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from real_runner.alignment import worn
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.loading import fill, load_drafter, placed, read_tensors, renamed
from real_runner.expect import compare, forward, greedy
from real_runner.target import load_target
from simulator.errors import DsimError
from simulator.measurements.drafters.packaging import read_spec

GOLDEN = Path(__file__).parents[1] / "golden"
TRAINED = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3")


@pytest.mark.parametrize("name", TRAINED)
def test_forward_and_greedy_decode_agree(name, target, drafters):
    found = {difference.what: difference for difference in compare(GOLDEN / name, target, drafters[name])}
    assert len(found) >= 6
    assert all(difference.holds for difference in found.values()), found
    forward = [difference for what, difference in found.items() if not what.startswith("greedy")]
    assert all(difference.worst < 1e-5 for difference in forward), forward  # the bound is 1e-4; float32 does better


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("slots", [1, 4])
def test_a_batch_of_mixed_lengths_decodes_as_one_by_one(name, slots, target, drafters):
    expected = json.loads((GOLDEN / name / "greedy_decode.json").read_text())
    assert len({len(one["prompt"]) for one in expected}) > 1
    assert all(difference.holds for difference in greedy(expected, target, drafters[name], 1.0, slots))


@pytest.fixture(scope="module")
def gemma():
    spec = read_spec(GOLDEN / "gemma4_dspark")
    drafter = BlockDrafter(spec)
    fill(drafter, renamed(read_tensors(spec.folder), spec), None, spec.folder)
    return drafter, load_file(spec.folder / "forward.safetensors")


def test_gemma4_forward_agrees(gemma):
    drafter, expected = gemma
    for name, value in forward(drafter, expected).items():
        worst = float((value - expected[name]).abs().max() / expected[name].abs().max())
        assert worst < 1e-4, (name, worst)


def test_gemma4_unified_text_is_the_same_backbone(gemma):
    """The text part of the unified models carries another name and the same layers."""
    spec = read_spec(GOLDEN / "gemma4_dspark")
    drafter = BlockDrafter(replace(spec, backbone={**spec.backbone, "model_type": "gemma4_unified_text"}))
    fill(drafter, renamed(read_tensors(spec.folder), spec), None, spec.folder)
    found, expected = forward(drafter, gemma[1])["base_logits"], gemma[1]["base_logits"]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("change", ["rope", "scalar", "cap"])
def test_gemma4_parity_would_notice_a_wrong_forward(gemma, change, monkeypatch):
    drafter, expected = gemma
    if change == "scalar":
        monkeypatch.setitem(drafter.backbone.layers[0]._buffers, "layer_scalar", torch.full((1,), 0.5))
    if change == "cap":
        monkeypatch.setattr(drafter.backbone.config, "final_logit_softcapping", 15.0)
    with worn(drafter, replace(drafter.spec, rope_shift=1 if change == "rope" else 0)):
        found = forward(drafter, expected)["base_logits"]
    assert float((found - expected["base_logits"]).abs().max() / expected["base_logits"].abs().max()) > 1e-3


@pytest.fixture(scope="module")
def half():
    return load_target(str(GOLDEN / "target"), dtype="bfloat16")


@pytest.mark.parametrize("name", [*TRAINED, "gemma4_dspark"])
def test_bfloat16_leaves_rotary_frequencies_alone(name, half):
    if name == "gemma4_dspark":
        spec = read_spec(GOLDEN / name)
        drafter = BlockDrafter(spec)
        fill(drafter, renamed(read_tensors(spec.folder), spec), None, spec.folder)
        drafter = placed(drafter, half)
        assert {layer.layer_scalar.dtype for layer in drafter.backbone.layers} == {torch.bfloat16}  # it comes from the checkpoint
    else:
        drafter = load_drafter(str(GOLDEN / name), half)
    frequencies = {key: value.dtype for key, value in drafter.named_buffers() if key.endswith("inv_freq")}
    assert len(frequencies) >= 2
    assert set(frequencies.values()) == {torch.float32}
    assert {value.dtype for value in drafter.parameters()} == {torch.bfloat16}


def test_a_bfloat16_block_far_into_a_text_is_the_float32_one(half, target, drafters):
    """After 2,400 tokens of context; with rounded frequencies the phases are off by whole turns there."""
    luck = torch.Generator().manual_seed(2)
    given = {
        "context_features": torch.randn(2, 2400, 320, generator=luck),
        "anchor_ids": torch.tensor([3, 7]),
        "forced_prev_ids": torch.zeros(2, 7, dtype=torch.long),
    }
    rounded = load_drafter(str(GOLDEN / "dflash"), half)
    truth = load_drafter(str(GOLDEN / "dflash"), target)
    for mine, theirs in zip(truth.parameters(), rounded.parameters(), strict=True):
        mine.data = theirs.data.float()

    def off() -> float:
        found, expected = (forward(drafter, given)["block_hidden"].float() for drafter in (rounded, truth))
        return float((found - expected).norm() / expected.norm())

    assert off() < 0.02
    frequencies = rounded.backbone.rotary_emb.inv_freq
    rounded.backbone.rotary_emb.inv_freq = frequencies.bfloat16().float()
    assert off() > 0.04


def failed(folder, target, drafter):
    return [difference.what for difference in compare(folder, target, drafter) if not difference.holds]


def changed(folder, name, change):
    """A golden folder's expectations with a change."""
    expected, decodes = load_file(GOLDEN / name / "forward.safetensors"), json.loads((GOLDEN / name / "greedy_decode.json").read_text())
    change(expected, decodes)
    save_file(expected, folder / "forward.safetensors")
    (folder / "greedy_decode.json").write_text(json.dumps(decodes))
    return folder


@pytest.mark.parametrize(
    "change, wrong",
    [
        (lambda e, d: None, []),
        (lambda e, d: e["base_logits"].__setitem__((0, 0, 0), float("nan")), ["base_logits"]),
        (lambda e, d: d[1]["rounds"][2]["confidence"].__setitem__(0, float("nan")), ["greedy confidences"]),
        (lambda e, d: d[1]["rounds"][2]["confidence"].pop(), ["greedy confidences"]),
        (lambda e, d: e.update(another=torch.zeros(1)), ["another"]),
        (lambda e, d: e.pop("block_hidden"), []),
    ],
)
def test_what_cannot_be_compared_does_not_pass(change, wrong, tmp_path, target, drafters):
    assert failed(changed(tmp_path, "dspark_vanilla", change), target, drafters["dspark_vanilla"]) == wrong


def test_a_drafter_without_the_expected_confidences_fails(target):
    drafter = load_drafter(str(GOLDEN / "dspark_vanilla"), target)
    drafter.confidence_head = None
    assert failed(GOLDEN / "dspark_vanilla", target, drafter) == ["confidence_logits_given_forced_prev", "greedy confidences"]


@pytest.mark.parametrize(
    "name, spoil, words",
    [
        ("dspark_vanilla", lambda f: (f / "forward.safetensors").write_bytes(b"\x08\0\0"), r"forward\.safetensors: not a safetensors file"),
        ("dspark_vanilla", lambda f: (f / "greedy_decode.json").write_text("[{"), r"greedy_decode\.json: not valid JSON"),
        ("dspark_vanilla", lambda f: (f / "greedy_decode.json").write_text("[]"), r"greedy_decode\.json: List should have at least 1"),
        (
            "dspark_vanilla",
            lambda f: (f / "greedy_decode.json").write_text('[{"prompt": [1]}]'),
            r"greedy_decode\.json: 0\.output_ids: Field",
        ),
        ("eagle3", lambda f: None, r"forced_prev_ids: missing; the drafter is dspark: are these outputs of another family"),
        ("dspark_vanilla", lambda f: changed(f, "dspark_vanilla", lambda e, d: e["anchor_ids"].fill_(30)), r"anchor_ids: int64 of shape \[2\]"),
        (
            "dspark_vanilla",
            lambda f: changed(f, "dspark_vanilla", lambda e, d: d[2]["prompt"].append(99)),
            r"2\.prompt: a token that the target does not",
        ),
    ],
)
def test_expectations_that_cannot_be_read_are_one_line(name, spoil, words, tmp_path, target, drafters):
    spoil(changed(tmp_path, name, lambda e, d: None))
    with pytest.raises(DsimError, match=words) as raised:
        compare(tmp_path, target, drafters["dspark_vanilla"])
    assert "\n" not in raised.value.line()

"""Parity with the reference implementation's outputs in tests/golden, float32 on CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from real_runner.alignment import worn
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.loading import fill, read_tensors, renamed
from real_runner.drafters.packaging import read_spec
from real_runner.expect import block_forward, compare, greedy

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
    for name, value in block_forward(drafter, expected).items():
        worst = float((value - expected[name]).abs().max() / expected[name].abs().max())
        assert worst < 1e-4, (name, worst)


def test_gemma4_unified_text_is_the_same_backbone(gemma):
    """The text part of the unified models carries another name and the same layers."""
    spec = read_spec(GOLDEN / "gemma4_dspark")
    drafter = BlockDrafter(replace(spec, backbone={**spec.backbone, "model_type": "gemma4_unified_text"}))
    fill(drafter, renamed(read_tensors(spec.folder), spec), None, spec.folder)
    found, expected = block_forward(drafter, gemma[1])["base_logits"], gemma[1]["base_logits"]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("change", ["rope", "scalar", "cap"])
def test_gemma4_parity_would_notice_a_wrong_forward(gemma, change, monkeypatch):
    drafter, expected = gemma
    if change == "scalar":
        monkeypatch.setitem(drafter.backbone.layers[0]._buffers, "layer_scalar", torch.full((1,), 0.5))
    if change == "cap":
        monkeypatch.setattr(drafter.backbone.config, "final_logit_softcapping", 15.0)
    with worn(drafter, replace(drafter.spec, rope_shift=1 if change == "rope" else 0)):
        found = block_forward(drafter, expected)["base_logits"]
    assert float((found - expected["base_logits"]).abs().max() / expected["base_logits"].abs().max()) > 1e-3

"""Every family behind flattened tokens and the slot cache says what transformers' own attention says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from real_runner.layout import lay_out
from real_runner.target import Target, load_target
from simulator.errors import CheckpointError
from simulator.measurements.drafters.spec import EMBEDDING, POST_NORM

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 40,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 8},
    "gemma4_text": {
        **SLIDING,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 40,
    },
    "gemma4_text, keys shared": {
        **SLIDING,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 40,
    },
}


def make(family):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.partition(",")[0], **{**SMALL, **FAMILIES[family]})).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3 if parameter.dim() > 1 else 1 + 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_steps_equal_a_full_forward(family):
    model = make(family)
    luck = np.random.default_rng(5)
    texts = [luck.integers(40, size=n).tolist() for n in (23, 11, 17)]
    with torch.no_grad():
        whole = [model(torch.tensor([text]), output_hidden_states=True) for text in texts]
    target = Target(model, family)
    target.tap((EMBEDDING, 1, 2, POST_NORM))
    target.allocate(6, 32)
    slots, done = np.array([0, 3, 4]), np.zeros(3, dtype=np.int64)
    while any(done < [len(text) for text in texts]):
        counts = np.minimum(luck.integers(1, 8, size=3), [len(text) - at for text, at in zip(texts, done, strict=True)])
        live = counts > 0
        layout = lay_out(slots[live], counts[live], int((done + counts).max()), (6, 32), None)
        ids = np.concatenate([text[at : at + n] for text, at, n in zip(texts, done, counts, strict=True)])
        start = torch.zeros(7, dtype=torch.long)
        start[slots] = torch.from_numpy(done)
        step = target.step(torch.from_numpy(ids).long(), layout.flat(torch.from_numpy(layout.ints), start))
        row = 0
        for text, (at, n) in enumerate(zip(done, counts, strict=True)):
            mine, theirs = step.logits[row : row + n], whole[text].logits[0, at : at + n]
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
            hidden = [whole[text].hidden_states[i][0, at : at + n] for i in (0, 2, 3, 4)]
            torch.testing.assert_close(step.features[row : row + n], torch.cat(hidden, dim=-1), rtol=1e-4, atol=1e-4)
            row += n
        done = done + counts


def test_linear_layers_see_exactly_the_tokens_of_the_batch():
    model = make("qwen3")
    seen = []
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].shape)))
    target = Target(model, "qwen3")
    target.allocate(6, 32)
    layout = lay_out(np.array([0, 5]), np.array([3, 8]), 16, (6, 32), None)
    seen.clear()
    target.step(torch.zeros(11, dtype=torch.long), layout.flat(torch.from_numpy(layout.ints), torch.zeros(7, dtype=torch.long)))
    assert seen == [(1, 11, 32)]


def test_a_sliding_window_cuts_what_is_seen():
    """The comparison above has power only if the window matters."""
    model = make("gemma3_text")
    text = torch.tensor([np.random.default_rng(0).integers(40, size=20).tolist()])
    with torch.no_grad():
        before = model(text).logits
        for layer in model.model.layers:
            layer.self_attn.sliding_window = None
        model.config.sliding_window = 512
        assert (model(text).logits - before).abs().max() > 1e-3


def test_bfloat16_runs(tmp_path):
    make("qwen3").save_pretrained(tmp_path)
    target = load_target(str(tmp_path), dtype="bfloat16")
    target.allocate(2, 16)
    assert target.dtype == torch.bfloat16
    assert target.kv.bytes_per_token == 4 * 2 * 2 * 8 * 2  # layers, keys and values, heads, head, bytes


@pytest.mark.parametrize("family", ["gemma3_text", "gemma4_text"])
def test_a_target_whose_drafters_cannot_be_trained_is_said_before_texts_are_made(family, tmp_path, dsim):
    make(family).save_pretrained(tmp_path / "target")
    refused = dsim("train-draft", "--target", tmp_path / "target", "--out", tmp_path / "out")
    assert refused.code == 2
    assert f"drafters are trained for Qwen3 and Llama, not for '{family}'" in refused.err
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_a_target_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read a target model"):
        load_target(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(CheckpointError, match=r"config.json: model_type: unsupported family 'gpt2'; supported: qwen3, llama"):
        load_target(str(tmp_path))
    with pytest.raises(CheckpointError, match="unknown dtype"):
        load_target(str(tmp_path), dtype="int3")


def test_a_target_without_weights_is_one_line(tmp_path):
    make("qwen3").config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="weights cannot be loaded"):
        load_target(str(tmp_path))


def test_a_target_with_a_missing_tensor_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    make("llama").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, expected model\.layers\.2\.mlp"):
        load_target(str(tmp_path))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda c, f: f.write_bytes(f.read_bytes()[:-100]), "weights cannot be loaded"),
        (lambda c, f: f.write_bytes(b"\x08\0"), "weights cannot be loaded"),
        (lambda c, f: c.update(model_type="mamba2"), r"config\.json: model_type: unsupported family 'mamba2'"),
        (lambda c, f: c.update(model_type="gpt2"), r"config\.json: model_type: unsupported family 'gpt2'"),
        (lambda c, f: c.update(hidden_size="wide"), r"cannot read a target model: .*hidden_size"),
        (lambda c, f: c.update(num_attention_heads=[4]), "cannot read a target model: .*num_attention_heads"),
        (lambda c, f: c.update(rope_parameters={"rope_type": "odd", "rope_theta": 1e4}), "weights cannot be loaded|can be read"),
        (lambda c, f: c.update(head_dim=0), "weights cannot be loaded"),
    ],
)
def test_a_spoilt_target_is_one_line(spoil, words, tmp_path):
    make("qwen3").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    spoil(config, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words) as raised:
        load_target(str(tmp_path))
    assert "\n" not in raised.value.line()

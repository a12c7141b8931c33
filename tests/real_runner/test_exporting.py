"""`dsim export drafter`: what engines load is what was trained: names, shapes, conventions; and what no engine holds is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.exporting.drafter import export_drafter
from real_runner.records import ServedRequest
from simulator.errors import DsimError
from simulator.measurements.drafters.packaging import read_spec
from simulator.policies.verification import FixedLength

gguf = pytest.importorskip("gguf")

GOLDEN = Path(__file__).parents[1] / "golden"


def reduced(folder: Path, name: str) -> Path:
    """A golden drafter over 29 of its target's 30 tokens, in another order: all but one that is never the best."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    tensors = load_file(GOLDEN / name / "model.safetensors")
    ids = torch.tensor([id for id in reversed(range(config["vocab_size"])) if id != config.get("mask_token_id", 0)])
    tensors["lm_head.weight"] = tensors["lm_head.weight"][ids].contiguous()
    if "markov_head.markov_w2.weight" in tensors:
        tensors["markov_head.markov_w2.weight"] = tensors["markov_head.markov_w2.weight"][ids].contiguous()
    tensors["d2t"] = ids - torch.arange(len(ids))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"draft_vocab_size": len(ids)}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def drafted(target, drafter, prompt: list[int]) -> list[list[int]]:
    """The drafted blocks of a greedy decode."""
    engine = Engine(target, drafter, FixedLength(length=drafter.gamma), slots=1, length=128, stop_at_eos=False)
    list(engine.run([ServedRequest(0, prompt, 30)]))
    return [part.drafted for step in engine.steps for part in step.rounds]


def target_file(folder: Path, tokens: int, width: int, layers: int = 12) -> Path:
    """A GGUF of a target: what an export reads of it, and no weights."""
    writer = gguf.GGUFWriter(folder / "target.gguf", "llama")
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"<{i}>" for i in range(tokens)])
    writer.add_token_types([1] * tokens)
    writer.add_chat_template("none")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "target.gguf"


def golden_target_file(folder: Path, **more: int) -> Path:
    config = json.loads((GOLDEN / "target" / "config.json").read_text())
    sizes = {"tokens": config["vocab_size"], "width": config["hidden_size"], "layers": config["num_hidden_layers"]}
    return target_file(folder, **{**sizes, **more})


def read_gguf(file: Path) -> tuple[dict, dict]:
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors if tensor.name != "d2t"}
    return {key: field.contents() for key, field in reader.fields.items()}, tensors | {t.name: t.data for t in reader.tensors if t.name == "d2t"}


@pytest.mark.parametrize("form", ["vllm", "speculators"])
@pytest.mark.parametrize("name", ["dspark_vanilla", "dflash", "eagle3"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "reduced"])
def test_our_own_loader_drafts_the_same_from_what_was_written(target, tmp_path, form, name, whole):
    source = GOLDEN / name if whole else reduced(tmp_path / "reduced", name)
    made = export_drafter(str(source), form, tmp_path / "out")
    before, after = load_drafter(str(source), target), load_drafter(str(tmp_path / "out"), target)
    assert after.spec.packaging == ("speculators" if form == "speculators" else "vllm" if name == "eagle3" else "deepspec")
    assert (after.taps, after.gamma, made["tapped_layers"]) == (before.taps, before.gamma, [tap + 1 for tap in before.taps])
    prompt = json.loads((GOLDEN / name / "greedy_decode.json").read_text())[0]["prompt"]
    assert drafted(target, after, prompt) == drafted(target, before, prompt)


def test_vllm_finds_its_class_its_layers_and_the_vocabulary(tmp_path):
    export_drafter(str(reduced(tmp_path / "reduced", "eagle3")), "vllm", tmp_path / "out")
    config, tensors = json.loads((tmp_path / "out" / "config.json").read_text()), load_file(tmp_path / "out" / "model.safetensors")
    taps = read_spec(GOLDEN / "eagle3").taps
    assert config["architectures"] == ["Eagle3Qwen3ForCausalLM"]
    assert config["eagle_aux_hidden_state_layer_ids"] == [tap + 1 for tap in taps]  # by the layer that reads
    ids = tensors["d2t"] + torch.arange(config["draft_vocab_size"])
    assert sorted(ids.tolist()) == torch.nonzero(tensors["t2d"]).flatten().tolist()
    assert tensors["lm_head.weight"].shape[0] == config["draft_vocab_size"] == int(tensors["t2d"].sum())
    assert not any(str(GOLDEN.parent) in str(value) for value in config.values())


def test_a_gguf_has_the_metadata_the_tensors_and_the_ids_of_the_target(tmp_path):
    source = reduced(tmp_path / "reduced", "dspark_vanilla")
    made = export_drafter(str(source), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)))
    keys, tensors = read_gguf(tmp_path / "out.gguf")
    spec, native = read_spec(source), load_file(source / "model.safetensors")
    assert keys["general.architecture"] == "dflash"
    assert keys["dflash.target_layers"] == [tap + 1 for tap in spec.taps]
    assert (keys["dflash.block_size"], keys["dflash.sample_from_anchor"], keys["tokenizer.ggml.mask_token_id"]) == (spec.block, True, spec.mask_token)
    assert keys["tokenizer.ggml.tokens"][3] == "<3>"
    assert "tokenizer.chat_template" not in keys
    assert "token_embd.weight" not in tensors  # a copy of the target's
    assert (tensors["d2t"] == (native["d2t"] + torch.arange(29)).numpy()).all()  # ids, not differences
    names = {
        "output.weight": "lm_head.weight", "fc.weight": "fc.weight", "enc.output_norm.weight": "hidden_norm.weight",
        "output_norm.weight": "norm.weight",
        "blk.0.attn_q.weight": "layers.0.self_attn.q_proj.weight", "blk.0.attn_k_norm.weight": "layers.0.self_attn.k_norm.weight",
        "blk.1.ffn_norm.weight": "layers.1.post_attention_layernorm.weight", "markov_w2.weight": "markov_head.markov_w2.weight",
        "conf_proj.weight": "confidence_head.proj.weight", "conf_proj.bias": "confidence_head.proj.bias",
    }  # fmt: skip
    for name, ours in names.items():
        np.testing.assert_array_equal(tensors[name], native[ours].float().numpy(), err_msg=name)
    assert made["start"].split()[3:5] == ["--spec-type", "draft-dspark"]


def test_a_dflash_whose_anchor_predicts_is_a_dspark_without_bias(tmp_path):
    made = export_drafter(str(GOLDEN / "dflash"), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)))
    keys, tensors = read_gguf(tmp_path / "out.gguf")
    assert (made["family"], keys["dflash.has_confidence_head"]) == ("dspark", False)
    assert not tensors["markov_w1.weight"].any()
    assert not tensors["markov_w2.weight"].any()


@pytest.mark.parametrize(("weights", "most"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 2e-2)])
def test_matrices_become_what_is_asked_for_and_vectors_stay(tmp_path, weights, most):
    export_drafter(str(GOLDEN / "dspark_vanilla"), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)), weights)
    tensors = read_gguf(tmp_path / "out.gguf")[1]
    native = load_file(GOLDEN / "dspark_vanilla" / "model.safetensors")
    fc = native["fc.weight"].float().numpy()
    assert 0 < np.abs(tensors["fc.weight"] - fc).max() / np.abs(fc).max() < most
    np.testing.assert_array_equal(tensors["output_norm.weight"], native["norm.weight"].float().numpy())


def llama_eagle(folder: Path, taps: int = 3) -> Path:
    """The golden Eagle3 with Llama layers: without norms of queries and keys, and `taps` tapped layers."""
    config = json.loads((GOLDEN / "eagle3" / "config.json").read_text())
    tensors = {k: v for k, v in load_file(GOLDEN / "eagle3" / "model.safetensors").items() if not k.endswith(("q_norm.weight", "k_norm.weight"))}
    tensors["fc.weight"] = tensors["fc.weight"][:, : taps * config["hidden_size"]].contiguous()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama", "target_layer_ids": config["target_layer_ids"][:taps]}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_llama_layers_are_turned_in_neighbouring_pairs(tmp_path):
    """Positions of queries and keys as llama.cpp turns them give the products that halves give."""
    source = llama_eagle(tmp_path / "eagle")
    export_drafter(str(source), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)))
    keys, tensors = read_gguf(tmp_path / "out.gguf")
    native, size = load_file(source / "model.safetensors"), keys["eagle3.attention.key_length"]
    assert (len(keys["eagle3.target_layers"]), keys["eagle3.target_hidden_size"]) == (3, keys["eagle3.embedding_length"])
    np.testing.assert_array_equal(tensors["blk.0.attn_v.weight"], native["layers.0.self_attn.v_proj.weight"].float().numpy())
    angle = 3.0 * 10_000.0 ** (-np.arange(size // 2) / (size // 2))

    def halves(head):
        first, second = head[: size // 2], head[size // 2 :]
        return np.concatenate([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)])

    def pairs(head):
        first, second = head[0::2], head[1::2]
        return np.stack([first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=1).ravel()

    x = np.random.default_rng(0).normal(size=tensors["blk.0.attn_q.weight"].shape[1])
    q, k = ((tensors[f"blk.0.attn_{n}.weight"] @ x)[:size] for n in "qk")
    own_q, own_k = ((native[f"layers.0.self_attn.{n}_proj.weight"].double().numpy() @ x)[:size] for n in "qk")
    assert pairs(q) @ k == pytest.approx(halves(own_q) @ own_k, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("dspark_gated", "vllm", "markov_head_type: vLLM has no gated sequential head; train a vanilla one"),
        ("dspark_rnn", "gguf", r"markov_head_type: llama\.cpp has no rnn sequential head"),
        ("gemma4_dspark", "vllm", "draft layers of 'gemma4_text' are not exported; expected qwen3"),
        ("eagle3", "gguf", r"model_type: llama\.cpp's eagle3 has Llama layers"),
        ("../pair/mtp", "vllm", "no engine loads an MTP layer beside a Llama or Qwen3 target"),
    ],
)
def test_what_an_engine_cannot_hold_is_refused_and_nothing_is_written(tmp_path, name, form, message):
    with pytest.raises(DsimError, match=message):
        export_drafter(str(GOLDEN / name), form, tmp_path / "out", str(golden_target_file(tmp_path)))
    assert not (tmp_path / "out").exists()


def test_a_gguf_needs_the_gguf_of_its_own_target(tmp_path):
    def refused(message, target, **more):
        with pytest.raises(DsimError, match=message):
            export_drafter(str(GOLDEN / "dspark_vanilla"), "gguf", tmp_path / "out.gguf", target)

    refused("no target is given; give the target's GGUF", None)
    refused("not a file", str(GOLDEN / "target"))
    refused("vocabulary 31, but the drafter's is 30", str(golden_target_file(tmp_path, tokens=31)))
    refused("hidden size 16, but", str(golden_target_file(tmp_path, width=16)))
    refused("1 layers, but the drafter taps", str(golden_target_file(tmp_path, layers=1)))
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(40))
    refused("not a readable GGUF of a model", str(tmp_path / "no.gguf"))
    with pytest.raises(DsimError, match=r"llama\.cpp's eagle3 taps 3 layers, this drafter 2"):
        export_drafter(str(llama_eagle(tmp_path / "two", 2)), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)))


def test_a_folder_that_holds_files_is_left_alone(tmp_path):
    shutil.copytree(GOLDEN / "eagle3", tmp_path / "out")
    with pytest.raises(DsimError, match="holds files already; choose a new folder"):
        export_drafter(str(GOLDEN / "eagle3"), "vllm", tmp_path / "out")
    with pytest.raises(DsimError, match="expected --to gguf with --weights"):
        export_drafter(str(GOLDEN / "eagle3"), "vllm", tmp_path / "new", weights="f16")


def changed(folder: Path, name: str, drop: tuple[str, ...] = (), tensors: dict | None = None, **config) -> Path:
    """A golden drafter with other keys in its config, without those that are None, and without tensors that hold a word of `drop`."""
    told = json.loads((GOLDEN / name / "config.json").read_text()) | config
    held = {key: value for key, value in load_file(GOLDEN / name / "model.safetensors").items() if not any(word in key for word in drop)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    save_file(held | (tensors or {}), folder / "model.safetensors")
    return folder


def test_taps_are_written_in_the_order_of_the_layers(tmp_path):
    """vLLM hands features over by rising layers, whatever the list says."""
    config, fc = json.loads((GOLDEN / "eagle3" / "config.json").read_text()), load_file(GOLDEN / "eagle3" / "model.safetensors")["fc.weight"]
    width, taps = config["hidden_size"], config["target_layer_ids"]
    backwards = torch.cat([fc[:, width * place : width * (place + 1)] for place in reversed(range(len(taps)))], dim=1)
    source = changed(tmp_path / "back", "eagle3", target_layer_ids=taps[::-1], tensors={"fc.weight": backwards})
    made = export_drafter(str(source), "vllm", tmp_path / "out")
    assert made["tapped_layers"] == [tap + 1 for tap in taps]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["fc.weight"], fc)
    with pytest.raises(DsimError, match=r"target_layer_ids: expected layers of the target, each once, got \[0, 0, 1, 2, 3\]"):
        export_drafter(str(changed(tmp_path / "twice", "eagle3", target_layer_ids=[0, 0, 1, 2, 3])), "vllm", tmp_path / "new")


def test_what_vllm_would_draft_otherwise_is_refused(tmp_path):
    heads, kv, size, width = 4, 2, 16, 64
    biases = {
        f"layers.0.self_attn.{n}_proj.bias": torch.zeros(rows) for n, rows in (("q", heads * size), ("k", kv * size), ("v", kv * size), ("o", width))
    }
    for name, more, message in (
        ("norm_output", {"norm_output": True}, "norm_output: true is not supported"),
        ("attention_bias", {"attention_bias": True, "tensors": biases}, "attention_bias: vLLM's Eagle3 has no bias at the output"),
    ):
        with pytest.raises(DsimError, match=message):
            export_drafter(str(changed(tmp_path / name, "eagle3", **more)), "vllm", tmp_path / "out")
    with pytest.raises(DsimError, match="vLLM has no gated sequential head"):
        export_drafter(str(GOLDEN / "dspark_gated"), "speculators", tmp_path / "out")
    export_drafter(str(GOLDEN / "eagle3"), "speculators", tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    config["transformer_layer_config"] |= {"layer_types": ["sliding_attention"], "sliding_window": 8}
    (tmp_path / "wide" / "config.json").write_text(json.dumps(config))
    assert read_spec(tmp_path / "wide").windows == (8,)
    with pytest.raises(DsimError, match="sliding windows and causal blocks are not exported"):
        export_drafter(str(tmp_path / "wide"), "vllm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_window_of_eagle3_is_honoured(target, tmp_path):
    """A window as long as the text changes nothing, a short one does."""
    export_drafter(str(GOLDEN / "eagle3"), "speculators", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    prompt, found = json.loads((GOLDEN / "eagle3" / "greedy_decode.json").read_text())[0]["prompt"], []
    for window in (None, 1000, 2):
        types = "sliding_attention" if window else "full_attention"
        config["transformer_layer_config"] |= {"layer_types": [types], "sliding_window": window, "use_sliding_window": bool(window)}
        (tmp_path / "out" / "config.json").write_text(json.dumps(config))
        found.append(drafted(target, load_drafter(str(tmp_path / "out"), target), prompt))
    assert found[0] == found[1] != found[2]


def test_other_taps_than_three_are_said_to_vllm(tmp_path):
    export_drafter(str(llama_eagle(tmp_path / "two", 2)), "speculators", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["transformer_layer_config"]["num_aux_hidden_states"] == 2


def test_a_confidence_head_without_a_sequential_one_gets_one_of_zeros(tmp_path):
    """llama.cpp has no place for it otherwise."""
    width = load_file(GOLDEN / "dspark_vanilla" / "model.safetensors")["fc.weight"].shape[0]
    head = {"confidence_head.proj.weight": torch.randn(1, width), "confidence_head.proj.bias": torch.zeros(1)}
    source = changed(tmp_path / "s", "dspark_vanilla", ("markov", "confidence"), head, markov_rank=0, confidence_head_with_markov=False)
    export_drafter(str(source), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)))
    tensors = read_gguf(tmp_path / "out.gguf")[1]
    assert not tensors["markov_w1.weight"].any()
    confidence = tensors["conf_proj.weight"]
    np.testing.assert_array_equal(confidence[:, :width], head["confidence_head.proj.weight"].numpy())
    assert confidence.shape[1] == width + tensors["markov_w1.weight"].shape[1]
    assert not confidence[:, width:].any()


def test_defaults_are_those_that_the_layers_were_built_with(tmp_path):
    """transformers takes positions of base 10,000 where a Qwen3 config says none, vLLM 1,000,000."""
    source = changed(tmp_path / "bare", "dspark_vanilla", rope_parameters=None, max_position_embeddings=None)
    export_drafter(str(source), "speculators", tmp_path / "out")
    layers = json.loads((tmp_path / "out" / "config.json").read_text())["transformer_layer_config"]
    assert layers["rope_parameters"]["rope_theta"] == 10_000
    export_drafter(str(source), "gguf", tmp_path / "out.gguf", str(golden_target_file(tmp_path)))
    keys = read_gguf(tmp_path / "out.gguf")[0]
    assert (keys["dflash.rope.freq_base"], keys["dflash.context_length"]) == (10_000, layers["max_position_embeddings"])


def test_taps_that_a_checkpoint_leaves_to_a_default_are_the_targets(tmp_path):
    export_drafter(str(llama_eagle(tmp_path / "three")), "speculators", tmp_path / "silent")
    config = json.loads((tmp_path / "silent" / "config.json").read_text())
    del config["eagle_aux_hidden_state_layer_ids"]
    (tmp_path / "silent" / "config.json").write_text(json.dumps(config))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text(json.dumps({"num_hidden_layers": 32}))
    assert export_drafter(str(tmp_path / "silent"), "vllm", tmp_path / "out", str(tmp_path / "deep"))["tapped_layers"] == [2, 16, 29]
    with pytest.raises(DsimError, match="the tapped layers are not given"):
        export_drafter(str(tmp_path / "silent"), "vllm", tmp_path / "new")

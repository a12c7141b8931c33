"""Every packaging of the same weights drafts the same tokens; what does not fit is one line that names file and expectation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from real_runner.drafters.drafter import DraftBatch
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.expect import forward, greedy
from real_runner.records import ServedRequest
from simulator.errors import CheckpointError
from simulator.measurements.drafters.packaging import read_spec
from simulator.policies.verification import FixedLength, NoSpeculation

GOLDEN = Path(__file__).parents[1] / "golden"
HEADS = ("markov_rank", "markov_head_type", "enable_confidence_head", "confidence_head_with_markov")


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def native(name):
    return json.loads((GOLDEN / name / "config.json").read_text()), load_file(GOLDEN / name / "model.safetensors")


def speculators(config, **more):
    layers = {k: v for k, v in config.items() if k not in (*HEADS, "block_size", "mask_token_id", "target_layer_ids", "architectures")}
    heads = {k: config[k] for k in HEADS if k in config}
    aux = [tap + 1 for tap in config["target_layer_ids"]]
    return {
        "architectures": ["DSparkSpeculator"],
        "speculators_model_type": "dspark",
        "transformer_layer_config": layers,
        "aux_hidden_state_layer_ids": aux,
        "block_size": config.get("block_size"),
        "mask_token_id": config["mask_token_id"],
        "draft_vocab_size": 30,
        "sample_from_anchor": True,
        **heads,
        **more,
    }


def as_specforge(folder):
    config, tensors = native("dspark_gated")
    nested = {key: config.pop(key) for key in (*HEADS, "mask_token_id", "target_layer_ids")}
    config |= {"architectures": ["DSparkDraftModel"], "dflash_config": {"projector_type": "dspark", **nested}}
    shared = {k: v for k, v in tensors.items() if k not in ("embed_tokens.weight", "lm_head.weight")}
    return write(folder, config, shared), "dspark_gated", "specforge"


def as_specforge_trains(folder):
    """As SpecForge writes it in training: an architecture of DFlash, other names for the heads, the rank at the top and null below."""
    config, tensors = native("dspark_gated")
    nested = {"markov_head_type": config.pop("markov_head_type"), "markov_rank": None, "use_confidence_head": config.pop("enable_confidence_head")}
    nested |= {key: config.pop(key) for key in ("mask_token_id", "target_layer_ids")}
    config |= {"architectures": ["DFlashDraftModel"], "dflash_config": {"projector_type": "dspark", "shift_label": True, **nested}}
    return write(folder, config, tensors), "dspark_gated", "specforge"


def as_speculators(folder):
    config, tensors = native("dspark_vanilla")
    return write(folder, speculators(config), tensors), "dspark_vanilla", "speculators"


def as_speculators_reduced(folder):
    """A draft vocabulary of 29 in another order: all but the mask token, which is never the best."""
    config, tensors = native("dspark_vanilla")
    kept = torch.randperm(29, generator=torch.Generator().manual_seed(1))
    for name in ("lm_head.weight", "markov_head.markov_w2.weight"):
        tensors[name] = tensors[name][kept]
    tensors["d2t"] = kept - torch.arange(29)
    tensors["t2d"] = torch.arange(30) < 29
    return write(folder, speculators(config, draft_vocab_size=29), tensors), "dspark_vanilla", "speculators"


def as_specforge_eagle(folder):
    config, tensors = native("eagle3")
    taps = config.pop("target_layer_ids")
    config |= {"architectures": ["LlamaForCausalLMEagle3"], "eagle_config": {"eagle_aux_hidden_state_layer_ids": taps}}
    renamed = {k.replace("layers.0.", "midlayer."): v for k, v in tensors.items()}
    return write(folder, config, renamed), "eagle3", "specforge"


def as_speculators_eagle(folder):
    config, tensors = native("eagle3")
    made = speculators(config, speculators_model_type="eagle3", speculators_config={"proposal_methods": [{"speculative_tokens": 7}]})
    return write(folder, made, tensors), "eagle3", "speculators"


@pytest.mark.parametrize(
    "package", [as_specforge, as_specforge_trains, as_speculators, as_speculators_reduced, as_specforge_eagle, as_speculators_eagle]
)
def test_every_packaging_drafts_what_the_native_one_does(package, tmp_path, target, request):
    folder, name, packaging = package(tmp_path / "draft")
    drafter = load_drafter(str(folder), target)
    assert drafter.spec.packaging == packaging
    assert drafter.spec.taps == (0, 1, 2, 3, 4)
    expected = json.loads((GOLDEN / name / "greedy_decode.json").read_text())
    assert all(difference.holds for difference in greedy(expected, target, drafter, 1.0))


def test_reduced_vocabulary_is_lossless_in_law_too(tmp_path, target):
    """At temperature 1 the law it draws from spans the target's vocabulary and is zero outside the draft's."""
    drafter = load_drafter(str(as_speculators_reduced(tmp_path / "draft")[0]), target)
    engine = Engine(target, drafter, FixedLength(length=7), slots=2, length=64, temperature=1.0, stop_at_eos=False)
    engine.run([ServedRequest(i, [3, 16, 18], 8) for i in range(2)])
    anchor, start = torch.tensor([3, 4, 0]), torch.tensor([3, 3, 0])
    layout = drafter.lay_out(torch.arange(2).numpy(), 3, cache=(2, 64), tiers=None)
    made = drafter.propose(DraftBatch(torch.from_numpy(layout.ints), layout, torch.arange(2), start, anchor), 1.0, torch.rand(2, 7))
    assert made.probabilities.shape == (2, 7, 30)
    assert (made.probabilities[..., 29] == 0).all()
    torch.testing.assert_close(made.probabilities.sum(-1), torch.ones(2, 7))


def test_original_dflash_predicts_15_of_16(tmp_path, target, drafters):
    config, tensors = native("dflash")
    taps, mask = config.pop("target_layer_ids"), config.pop("mask_token_id")
    config |= {"architectures": ["DFlashDraftModel"], "block_size": 16, "dflash_config": {"target_layer_ids": taps, "mask_token_id": mask}}
    shared = {k: v for k, v in tensors.items() if k not in ("embed_tokens.weight", "lm_head.weight")}
    drafter = load_drafter(str(write(tmp_path / "draft", config, shared)), target)
    assert (drafter.spec.family, drafter.spec.block, drafter.spec.first_slot, drafter.gamma) == ("dflash", 16, 1, 15)
    one = Engine(target, drafter, FixedLength(length=15), slots=2, length=96, stop_at_eos=False)
    truth = Engine(target, None, NoSpeculation(), slots=2, length=96, stop_at_eos=False)
    load = [[3, 16, 18], [27, 7]]
    mine = {r.request: r.output for r in one.run([ServedRequest(i, ids, 24) for i, ids in enumerate(load)])}
    assert mine == {r.request: r.output for r in truth.run([ServedRequest(i, ids, 24) for i, ids in enumerate(load)])}
    # Slot i of the block predicts the token at its own place: the tokens drafted are those of hidden states 1 to 15.
    drafter.allocate(1, 64)
    layout = drafter.lay_out(torch.zeros(1).long().numpy(), 4, cache=(1, 64), tiers=None)
    batch = DraftBatch(torch.from_numpy(layout.ints), layout, torch.zeros(1).long(), torch.tensor([0, 0]), torch.tensor([5, 0]))
    made = drafter.propose(batch, 0.0, torch.zeros(1, 15))
    object.__setattr__(drafter.spec, "first_slot", 0)
    assert torch.equal(made.tokens, drafter.base_logits(drafter.begin(batch))[:, 1:].argmax(-1))


def test_speculators_without_sample_from_anchor_keep_the_anchor_slot_silent(tmp_path):
    config, tensors = native("dspark_vanilla")
    made = speculators(config)
    del made["sample_from_anchor"]
    spec = read_spec(write(tmp_path / "draft", made, tensors))
    assert (spec.block, spec.first_slot, spec.gamma) == (7, 1, 6)


def test_dspark_and_dflash_of_deepspec_are_told_apart():
    assert read_spec(GOLDEN / "dflash").family == "dflash"
    assert read_spec(GOLDEN / "dspark_rnn").family == "dspark"


def test_a_drafter_in_its_target_is_understood(tmp_path):
    spec = read_spec(GOLDEN / "deepseek_v4" / "released_dtypes")
    assert (spec.family, spec.block, spec.gamma, spec.taps, spec.mask_token, spec.markov_rank) == ("dspark", 5, 5, (4, 5, 6), 95, 16)
    assert (spec.markov_kind, spec.confidence, spec.target_layers) == ("vanilla", "hidden+token", 7)
    config = json.loads((GOLDEN / "deepseek_v4" / "released_dtypes" / "config.json").read_text())
    for change, says in (
        ({"dspark_block_size": None}, "dspark_block_size: missing: DeepSeek-V4 without the DSpark drafter"),
        ({"model_type": "deepseek_v41"}, r"model_type: DeepSeek-V4\.1 \(engram tables"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in (config | change).items() if value is not None}))
        with pytest.raises(CheckpointError, match=says):
            read_spec(tmp_path)


def broken(folder, change):
    shutil.copytree(GOLDEN / "dspark_rnn", folder)
    config, tensors = native("dspark_rnn")
    change(config, tensors)
    write(folder, config, tensors)
    return str(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c, t: t.pop("layers.1.mlp.up_proj.weight"), r"model.safetensors: layers.1.mlp.up_proj.weight: missing; expected shape \[192, 64\]"),
        (lambda c, t: t.update({"fc.weight": torch.zeros(64, 256)}), r"model.safetensors: fc.weight: shape \[64, 256\]; expected \[64, 320\]"),
        (
            lambda c, t: t.update({"confidence_head.proj.weight": torch.zeros(1, 65)}),
            r"confidence_head.proj.weight: shape \[1, 65\]; expected \[1, 72\]",
        ),
        (lambda c, t: t.update({"markov_head.gate.weight": torch.zeros(2)}), "markov_head.gate.weight: a tensor that this family does not have"),
        (lambda c, t: c.update(hidden_size=128), "config.json: hidden_size: 128, but the target has 64; give the drafter of this target"),
        (lambda c, t: c.update(vocab_size=99), "config.json: vocab_size: 99, but the target has 30"),
        (lambda c, t: c.update(num_target_layers=36), "config.json: num_target_layers: 36, but the target has 6"),
        (lambda c, t: c.update(target_layer_ids=[0, 1, 2, 3, 9]), "layer 9 is tapped, but the target has 6 layers"),
        (lambda c, t: c.pop("mask_token_id"), "config.json: mask_token_id: missing"),
        (lambda c, t: c.update(markov_head_type="lstm"), "markov_head_type: unknown 'lstm'; known: vanilla, gated, rnn"),
        (lambda c, t: c.update(model_type="mamba"), "config.json: model_type: unsupported draft backbone 'mamba'; supported: qwen3"),
        (lambda c, t: c.update(architectures=["MedusaModel"]), r"config.json: architectures: unknown packaging \['MedusaModel'\]; known: DeepSpec"),
        (lambda c, t: c.update(attention_sink_bias=True), "attention_sink_bias: true is not supported"),
        (lambda c, t: c.pop("hidden_size"), "config.json: hidden_size: missing"),
        (lambda c, t: c.pop("vocab_size"), "config.json: vocab_size: missing"),
        (lambda c, t: c.update(target_layer_ids=3), "target_layer_ids: 3; expected a list of whole numbers"),
        (lambda c, t: c.update(target_layer_ids="0,1"), "target_layer_ids: '0,1'; expected a list"),
        (lambda c, t: c.update(block_size="seven"), "block_size: 'seven'; expected a whole number from 1"),
        (lambda c, t: c.update(block_size=0), "block_size: 0; expected a whole number from 1"),
        (lambda c, t: c.update(block_size=-7), "block_size: -7; expected a whole number from 1"),
        (lambda c, t: c.update(architectures=["DFlashDraftModel"], dflash_config=[1]), "dflash_config: a list; expected an object"),
        (lambda c, t: c.update(mask_token_id=30), "mask_token_id: 30; expected an id below 30"),
        (lambda c, t: t.update({"fc.weight": torch.zeros(64, 320, dtype=torch.int8)}), "fc.weight: int8; expected floating point"),
        (lambda c, t: c.update(layer_types=["full_attention", "odd"]), "layer_types: .*; expected 2 of full_attention, sliding_attention"),
        (lambda c, t: c.update(layer_types=["full_attention"]), "layer_types: .*; expected 2 of"),
        (lambda c, t: c.update(num_hidden_layers=0), "num_hidden_layers: 0; expected a whole number from 1"),
        (lambda c, t: c.update(rope_parameters={"rope_type": "odd", "rope_theta": 1e4}), "config.json: cannot build these draft layers"),
        (lambda c, t: c.update(num_attention_heads="four"), "config.json: cannot build these draft layers"),
        (lambda c, t: c.update(layer_types=["sliding_attention"] * 2), "sliding_window: missing"),
        (lambda c, t: c.update(enable_confidence_head="yes"), "enable_confidence_head: 'yes'; expected true or false"),
        (lambda c, t: c.update(use_confidence_head=not c["enable_confidence_head"]), "use_confidence_head: .* contradicts enable_confidence_head"),
        (
            lambda c, t: c.update(architectures=["DSparkDraftModel"], dflash_config={"shift_label": False}),
            "shift_label: false is not supported on a DSpark block whose anchor predicts a token",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(change, words, tmp_path, target):
    with pytest.raises(CheckpointError, match=words) as raised:
        load_drafter(broken(tmp_path / "draft", change), target)
    assert "\n" not in raised.value.line()


def test_files_that_are_not_there_or_not_what_they_say(tmp_path, target):
    with pytest.raises(CheckpointError, match=r"config\.json: no such file; give the folder of a drafter checkpoint"):
        load_drafter(str(tmp_path), target)
    shutil.copy(GOLDEN / "dflash" / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file; expected the drafter's weights"):
        load_drafter(str(tmp_path), target)
    (tmp_path / "model.safetensors").write_bytes(b"not a header")
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a safetensors file"):
        load_drafter(str(tmp_path), target)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: not valid JSON"):
        load_drafter(str(tmp_path), target)


def test_shards_are_read_through_their_index(tmp_path, target, drafters):
    _, tensors = native("dspark_rnn")
    shutil.copy(GOLDEN / "dspark_rnn" / "config.json", tmp_path / "config.json")
    names = sorted(tensors)
    where = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for part in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    loaded = load_drafter(str(tmp_path), target)
    assert isinstance(loaded, BlockDrafter)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), drafters["dspark_rnn"].state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "weight_map: not an index of shards"),
        ('{"weight_map": null}', "weight_map: not an index of shards"),
        ('{"weight_map": {"a": 1}}', "weight_map: not an index of shards"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "weight_map: expected the name of a .safetensors file in this folder, got '../a.safetensors'"),
    ],
)
def test_an_index_that_is_none_is_one_line(text, words, tmp_path, target):
    shutil.copytree(GOLDEN / "dflash", tmp_path / "draft")
    (tmp_path / "draft" / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"index.json: {words}"):
        load_drafter(str(tmp_path / "draft"), target)


def test_dflash_config_may_be_null(tmp_path):
    config, tensors = native("dflash")
    spec = read_spec(write(tmp_path / "draft", config | {"architectures": ["DFlashDraftModel"], "dflash_config": None}, tensors))
    assert (spec.packaging, spec.gamma) == ("specforge", 6)


SLIDING, FULL = "sliding_attention", "full_attention"


def sliding(folder, *types, inside=True, **more):
    """In the speculators packaging, with the window in the draft layers' own config as it is written there."""
    config, tensors = native("dspark_vanilla")
    made = speculators(config, **more)
    made["transformer_layer_config"] |= {"layer_types": list(types), "sliding_window": 4 if inside else None}
    return write(folder, made, tensors)


@pytest.mark.parametrize(
    "types, windows", [((SLIDING, SLIDING), (4, 4)), ((SLIDING, FULL), (4, None)), ((FULL, SLIDING), (None, 4)), ((FULL, FULL), (None, None))]
)
def test_each_draft_layer_has_its_own_window(types, windows, tmp_path, target):
    drafter = load_drafter(str(sliding(tmp_path / "draft", *types)), target)
    assert drafter.spec.windows == windows
    assert tuple(layer.self_attn.sliding_window for layer in drafter.backbone.layers) == windows
    given = load_file(GOLDEN / "dspark_vanilla" / "forward.safetensors")
    same = torch.allclose(forward(drafter, given)["block_hidden"], given["block_hidden"], atol=1e-4)
    assert same == (types == (FULL, FULL))


def test_the_outer_window_goes_before_the_layers(tmp_path):
    assert read_spec(sliding(tmp_path / "a", SLIDING, FULL, sliding_window=9)).windows == (9, None)
    assert read_spec(sliding(tmp_path / "b", SLIDING, FULL, inside=False, sliding_window=9)).windows == (9, None)


def test_causality_of_sliding_layers_is_honoured_or_refused(tmp_path):
    assert not read_spec(sliding(tmp_path / "a", SLIDING, SLIDING, sliding_window_non_causal=True)).causal_block
    assert read_spec(sliding(tmp_path / "b", SLIDING, SLIDING, sliding_window_non_causal=False)).causal_block
    assert not read_spec(sliding(tmp_path / "c", FULL, FULL, sliding_window_non_causal=False)).causal_block  # speaks of sliding layers only
    with pytest.raises(CheckpointError, match="sliding_window_non_causal: false with full layers beside sliding ones is not supported"):
        read_spec(sliding(tmp_path / "d", SLIDING, FULL, sliding_window_non_causal=False))
    with pytest.raises(CheckpointError, match="sliding_window_non_causal: true contradicts a causal block"):
        read_spec(sliding(tmp_path / "e", SLIDING, SLIDING, sliding_window_non_causal=True, attention_mode="causal"))


def test_a_confidence_head_alone_makes_a_block_dspark(tmp_path):
    config, tensors = native("dflash")
    del config["enable_confidence_head"]
    config |= {"architectures": ["DFlashDraftModel"], "dflash_config": {"use_confidence_head": True}}
    spec = read_spec(write(tmp_path / "draft", config, tensors))
    assert (spec.family, spec.first_slot, spec.confidence) == ("dspark", 0, "hidden")

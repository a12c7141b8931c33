"""DeepSeek-V4 with a fused drafter, from config and headers alone: the released inventories, and one line for what is not complete."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import CheckpointError
from simulator.measurements.drafters.deepseek_v4 import read_v4
from simulator.measurements.drafters.headers import DTYPE_BYTES, read_header
from simulator.measurements.drafters.inventory import checked, inventory, runtime_name
from simulator.measurements.drafters.weight_bytes import bytes_read, distinct_experts, part_sizes, request_numbers
from tests.conftest import ROOT, Dsim

GOLDEN = ROOT / "tests" / "golden" / "deepseek_v4"
RELEASED = GOLDEN / "released_dtypes"
CONFIG: dict[str, Any] = json.loads((RELEASED / "config.json").read_text())
FLASH = CONFIG | {
    "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64, "head_dim": 512, "qk_rope_head_dim": 64, "q_lora_rank": 1024,
    "o_groups": 8, "o_lora_rank": 1024, "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0, 0, 0], "sliding_window": 128, "index_n_heads": 64,
    "index_head_dim": 128, "index_topk": 512, "n_routed_experts": 256, "num_experts_per_tok": 6, "moe_intermediate_size": 2048, "swiglu_limit": 10,
    "num_hash_layers": 3, "vocab_size": 129280, "dspark_noise_token_id": 128799, "dspark_target_layer_ids": [40, 41, 42], "dspark_markov_rank": 256,
}  # fmt: skip
PRO = FLASH | {
    "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "q_lora_rank": 1536, "o_groups": 16, "index_topk": 1024,
    "compress_ratios": [128, 128, *[4, 128] * 29, 4, 0, 0, 0], "n_routed_experts": 384, "moe_intermediate_size": 3072, "routed_scaling_factor": 2.5,
    "dspark_target_layer_ids": [58, 59, 60], "dspark_markov_rank": 512,
}  # fmt: skip
Tensors = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape
Change = Callable[[Tensors], object]


def golden(name: str = "released_dtypes") -> Tensors:
    return {name: (stored.dtype, stored.shape) for name, stored in read_header(GOLDEN / name / "model.safetensors").items()}


def write_file(path: Path, tensors: Tensors) -> None:
    """A header, and a hole where the weights would be."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def write(folder: Path, tensors: Tensors, config: dict[str, Any] = CONFIG, shards: int = 1) -> Path:
    """A checkpoint in one file or in shards."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        write_file(folder / "model.safetensors", tensors)
        return folder
    names, index = list(tensors), {}
    for shard in range(shards):
        part, file = names[shard::shards], f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        write_file(folder / file, {name: tensors[name] for name in part})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def implied(config: dict[str, Any], folder: Path) -> Tensors:
    """The release's tensors by its config, three stages."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    dtypes = {"fp8": "F8_E4M3", "fp4": "I8", "number": "BF16", "id": "I64", "scale": "F8_E8M0"}
    return {one.name: (dtypes[one.kind], one.stored_shape) for one in inventory(read_v4(folder), 3)}


def error_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checked(folder)
    return caught.value.line().replace(f"{folder}/", "")


@pytest.mark.parametrize(("config", "count", "drafter", "scales"), [(FLASH, 72_317, 4_705, 2_329), (PRO, 149_782, 7_009, 3_481)])
def test_the_inventory_has_the_released_counts(config: dict[str, Any], count: int, drafter: int, scales: int, tmp_path: Path) -> None:
    """Flash by the headers of the release, Pro by the same rules (format of V4, §2)."""
    tensors = implied(config, tmp_path)
    fused = [name for name in tensors if name.startswith("mtp.")]
    assert (len(tensors), len(fused), sum(name.endswith(".scale") for name in fused)) == (count, drafter, scales)


@pytest.mark.parametrize("name", ["float32", "released_dtypes"])
def test_the_golden_checkpoints_are_complete(name: str) -> None:
    found = checked(GOLDEN / name)
    assert found.stages == 3
    assert {name: (stored.dtype, stored.shape) for name, stored in found.tensors.items()} == golden(name)


def test_a_sharded_flash_of_full_size_is_understood_without_reading_its_weights(tmp_path: Path, dsim: Dsim) -> None:
    tensors = implied(FLASH, tmp_path / "flash")
    folder = write(tmp_path / "flash", tensors, FLASH, shards=48)
    total = sum(prod(shape) * DTYPE_BYTES[dtype] for dtype, shape in tensors.values())
    assert total > 150e9
    counter = Path("/proc/self/io")
    before = _characters_read(counter)
    report = dsim("draft", "check", "--target", folder, "--format", "json")
    assert _characters_read(counter) - before < 40e6  # config, index and headers
    assert (report.code, report.err) == (0, "")
    content = json.loads(report.out)
    assert (content["tensors"], content["drafter_tensors"], content["stages"]) == (72_317, 4_705, 3)
    assert sum(content["bytes_by_dtype"].values()) == total
    drafter = content["drafter"].values()
    assert sum(part["parameters"] for part in drafter) == pytest.approx(19.85e9, rel=1e-3)  # the release: 19.85 B, 10.86 GB
    assert sum(part["bytes"] for part in drafter) == pytest.approx(10.86e9, rel=1e-3)
    assert content["kv_numbers_per_token"] == 3440


def _characters_read(counter: Path) -> int:
    if not counter.exists():
        pytest.skip("this system does not count what a process reads")
    return int(counter.read_text().split()[1])


def drop(pattern: str) -> Change:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if re.match(pattern, name)]:
            del tensors[name]

    return change


def put(name: str, dtype: str, *shape: int) -> Change:
    return lambda tensors: tensors.update({name: (dtype, shape)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop(r"mtp\.1\."), "model.safetensors: mtp.1: missing; expected a stage of the drafter: mtp.2 is there"),
        (drop(r"mtp\.0\."), "model.safetensors: mtp.0: missing; expected a stage of the drafter: mtp.2 is there"),
        (drop(r"mtp\.2\."), "model.safetensors: mtp.1.norm.weight: missing; expected BF16, F16 or F32 [64], 2 stages of the drafter found"),
        (drop(r"mtp\."), "model.safetensors: mtp.0: missing; expected a stage of the drafter; is it a DSpark release?"),
        (drop(r".*markov_w2"), "mtp.2.markov_head.markov_w2.weight: missing; expected BF16, F16 or F32 [96, 16], 3 stages of the drafter found"),
        (drop(r".*confidence"), "mtp.2.confidence_head.proj.weight: missing"),
        (drop(r"mtp\.1\.ffn\.experts\.7\.w2\.scale"), "mtp.1.ffn.experts.7.w2.scale: missing; expected F8_E8M0, U8 or F32 [64, 1]"),
        (drop(r"layers\.4\."), "layers.4.hc_attn_fn: missing"),
        (drop(r"layers\.2\.attn\.indexer"), "layers.2.attn.indexer.wq_b.weight: missing; expected F8_E4M3 [128, 32]"),
        (put("layers.0.attn.wkv.weight", "I8", 32, 64), "layers.0.attn.wkv.weight: dtype I8; expected F8_E4M3 [32, 64]"),
        (put("layers.0.ffn.experts.0.w1.weight", "F8_E4M3", 32, 64), "dtype F8_E4M3; expected I8 or U8 [32, 32]"),
        (put("norm.weight", "F64", 64), "norm.weight: dtype F64; expected BF16, F16 or F32 [64]"),
        (put("layers.0.ffn.gate.tid2eid", "F32", 96, 2), "dtype F32; expected I64 or I32 [96, 2]"),
        (put("layers.0.attn.wkv.weight", "F8_E4M3", 64, 32), "layers.0.attn.wkv.weight: shape [64, 32]; expected [32, 64]"),
        (put("layers.0.attn.wkv.weight", "BF16", 32, 64), "layers.0.attn.wkv.scale: does not belong to DeepSeek-V4"),
        (put("mtp.0.main_proj.scale", "F8_E8M0", 2, 1), "mtp.0.main_proj.scale: shape [2, 1]; expected [1, 2]"),
        (put("mtp.0.enorm.weight", "BF16", 64), "mtp.0.enorm.weight: does not belong to DeepSeek-V4"),
        (put("mtp.1.markov_head.markov_w1.weight", "BF16", 96, 16), "mtp.1.markov_head.markov_w1.weight: does not belong to DeepSeek-V4"),
        (put("layers.7.attn.wkv.weight", "F8_E4M3", 32, 64), "layers.7.attn.wkv.weight: does not belong to DeepSeek-V4"),
        (put("model.norm.weight", "BF16", 64), "model.norm.weight: is the same tensor as norm.weight; keep one of them"),
    ],
)  # fmt: skip
def test_what_is_not_complete_is_one_line(change: Change, says: str, tmp_path: Path) -> None:
    tensors = golden()
    change(tensors)
    assert says in error_of(write(tmp_path, tensors))


def test_quantised_layers_may_be_stored_plain_and_scales_as_raw_bytes_or_numbers(tmp_path: Path) -> None:
    tensors = golden()
    for name, shape in (("layers.0.attn.wkv", (32, 64)), ("layers.0.ffn.experts.0.w1", (32, 64))):
        tensors[f"{name}.weight"] = "BF16", shape
        del tensors[f"{name}.scale"]
    tensors["layers.1.attn.wkv.scale"] = "U8", (1, 1)
    tensors["layers.3.attn.wkv.scale"] = "F32", (1, 1)
    tensors["layers.0.ffn.gate.tid2eid"] = "I32", (96, 2)
    assert checked(write(tmp_path, tensors)).stages == 3


def test_blocks_of_another_size_have_other_scales(tmp_path: Path) -> None:
    config = CONFIG | {"quantization_config": {"weight_block_size": [16, 48]}}
    assert "layers.0.attn.wq_a.scale: shape [1, 1]; expected [2, 2]" in error_of(write(tmp_path, golden(), config))


REPACKED = {  # names of transformers 5 (its conversion mapping), of vLLM, and of fp8 checkpoints
    "model.embed_tokens.weight": "embed.weight",
    "lm_head.weight": "head.weight",
    "model.norm.weight": "norm.weight",
    "model.hc_head.hc_fn": "hc_head_fn",
    "model.layers.2.self_attn.q_a_proj.weight_scale_inv": "layers.2.attn.wq_a.scale",
    "model.layers.2.self_attn.q_b_proj.weight": "layers.2.attn.wq_b.weight",
    "model.layers.2.self_attn.kv_proj.weight": "layers.2.attn.wkv.weight",
    "model.layers.2.self_attn.o_a_proj.weight": "layers.2.attn.wo_a.weight",
    "model.layers.2.self_attn.o_b_proj.weight": "layers.2.attn.wo_b.weight",
    "model.layers.2.self_attn.q_a_norm.weight": "layers.2.attn.q_norm.weight",
    "model.layers.2.self_attn.kv_norm.weight": "layers.2.attn.kv_norm.weight",
    "model.layers.2.self_attn.sinks": "layers.2.attn.attn_sink",
    "model.layers.2.self_attn.compressor.kv_proj.weight": "layers.2.attn.compressor.wkv.weight",
    "model.layers.2.self_attn.compressor.gate_proj.weight": "layers.2.attn.compressor.wgate.weight",
    "model.layers.2.self_attn.compressor.kv_norm.weight": "layers.2.attn.compressor.norm.weight",
    "model.layers.2.self_attn.compressor.position_bias": "layers.2.attn.compressor.ape",
    "model.layers.2.self_attn.compressor.indexer.q_b_proj.weight": "layers.2.attn.indexer.wq_b.weight",
    "model.layers.2.self_attn.compressor.indexer.scorer.weights_proj.weight": "layers.2.attn.indexer.weights_proj.weight",
    "model.layers.2.self_attn.compressor.indexer.gate_proj.weight": "layers.2.attn.indexer.compressor.wgate.weight",
    "model.layers.2.self_attn.compressor.indexer.kv_norm.weight": "layers.2.attn.indexer.compressor.norm.weight",
    "model.layers.2.self_attn.compressor.indexer.position_bias": "layers.2.attn.indexer.compressor.ape",
    "model.layers.2.attn_hc.base": "layers.2.hc_attn_base",
    "model.layers.2.ffn_hc.scale": "layers.2.hc_ffn_scale",
    "model.layers.2.input_layernorm.weight": "layers.2.attn_norm.weight",
    "model.layers.2.post_attention_layernorm.weight": "layers.2.ffn_norm.weight",
    "model.layers.2.mlp.gate.e_score_correction_bias": "layers.2.ffn.gate.bias",
    "model.layers.0.mlp.gate.tid2eid": "layers.0.ffn.gate.tid2eid",
    "model.layers.2.mlp.experts.7.gate_proj.weight": "layers.2.ffn.experts.7.w1.weight",
    "model.layers.2.mlp.experts.7.down_proj.weight_scale_inv": "layers.2.ffn.experts.7.w2.scale",
    "model.layers.2.mlp.shared_experts.up_proj.weight": "layers.2.ffn.shared_experts.w3.weight",
    "model.mtp.0.attn.wkv.weight_scale_inv": "mtp.0.attn.wkv.scale",
}


@pytest.mark.parametrize("name", REPACKED)
def test_repackaged_names_are_known(name: str) -> None:
    assert runtime_name(name) == REPACKED[name]


def test_own_names_are_left_and_a_repackaged_checkpoint_is_complete(tmp_path: Path) -> None:
    tensors = golden()
    assert [runtime_name(name) for name in tensors] == list(tensors)
    own = {ours: theirs for theirs, ours in REPACKED.items()} | {"mtp.2.confidence_head.proj.weight": "mtp.0.confidence_head.proj.weight"}
    found = checked(write(tmp_path, {own.get(name, f"model.{name}"): form for name, form in tensors.items()}))
    assert found.tensors.keys() == tensors.keys()
    assert found.tensors["layers.2.attn.attn_sink"].stored_name == "model.layers.2.self_attn.sinks"
    assert found.tensors["mtp.2.confidence_head.proj.weight"].stored_name == "mtp.0.confidence_head.proj.weight"


def cut(folder: Path, name: str, size: int) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(size)


def test_a_truncated_shard_is_one_line(tmp_path: Path) -> None:
    folder, shard = write(tmp_path, golden(), shards=3), "model-00002-of-00003.safetensors"
    size = (folder / shard).stat().st_size
    for left, says in ((size - 1, "truncated: its tensors take "), (100, "truncated: its header ends at byte "), (4, "not a safetensors file"),
                       (0, "not a safetensors file")):  # fmt: skip
        cut(folder, shard, left)
        assert error_of(folder).startswith(f"{shard}: {says}")
    (folder / shard).unlink()
    assert error_of(folder) == f"{shard}: no such file; expected the checkpoint's weights"


def test_an_index_and_its_shards_agree_or_it_is_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path, golden(), shards=2)
    index = folder / "model.safetensors.index.json"
    owners = json.loads(index.read_text())["weight_map"]
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    for weight_map, says in (
        (owners | {"more": first}, f"{index.name}: more: not in {first}, which the index names for it"),
        ({name: file for name, file in owners.items() if name != "norm.weight"}, "norm.weight: not in the index"),
        (owners | {"norm.weight": {first: second, second: first}[owners["norm.weight"]]}, "norm.weight: is model-"),
        (owners | {"norm.weight": "../other.safetensors"}, "weight_map: expected the name of a .safetensors file in this folder"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        assert says in error_of(folder)


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"{]", "not valid JSON"),
        (b"{", "not a safetensors file"),
        (b"[]", "its header is not a JSON object"),
        (b"\xff\xff", "its header is not a JSON object"),
        ({"a": 3}, "a: not a tensor of a safetensors file; expected dtype, shape and data_offsets"),
        ({"a": one(shape=[-2])}, "a: not a tensor"),
        ({"a": one(shape=[True, 2])}, "a: not a tensor"),
        ({"a": one(shape=[1] * 9)}, "a: not a tensor"),
        ({"a": one(offsets=[8])}, "a: not a tensor"),
        ({"a": one("F33")}, "a: unknown dtype 'F33'"),
        ({"a": one(shape=[3])}, "a: 8 bytes, but F32 [3] takes 12"),
        ({"a": one(offsets=[8, 0])}, "a: -8 bytes, but F32 [2] takes 8"),
        ({"a": one(), "b": one(offsets=[4, 12])}, "b: overlaps the tensor before it: begins at byte 4, expected 8"),
        ({"a": one(), "b": one(offsets=[12, 20])}, "b: does not follow the tensor before it: begins at byte 12, expected 8"),
        ({"a": one(offsets=[0, 8]), "b": one(offsets=[8, 16])}, "its tensors take 16 bytes, the file has 20 for them"),
    ],
)
def test_a_header_that_contradicts_itself_is_one_line(header: Any, says: str, tmp_path: Path) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(20))
    with pytest.raises(CheckpointError, match=re.escape(says)):
        read_header(path)


def test_a_header_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little"))
    cut(tmp_path, path.name, 200_000_000)
    with pytest.raises(CheckpointError, match=r"a header of 100,000,001 bytes, more than 100,000,000"):
        read_header(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dspark_block_size": None}, "config.json: dspark_block_size: missing: DeepSeek-V4 without a fused DSpark drafter; give a DSpark release"),
        ({"model_type": "deepseek_v41", "text_config": {"num_hidden_layers": 40, "hidden_size": 5120}},
         "config.json: model_type: DeepSeek-V4.1 (engram tables, two-level index, keys shared between layers), num_hidden_layers 40"),
        ({"model_type": "qwen3"}, "config.json: model_type: 'qwen3'; expected deepseek_v4, whose checkpoints hold their drafter; give another "),
    ],
)  # fmt: skip
def test_another_target_is_refused_in_one_line(change: dict[str, Any], says: str, tmp_path: Path, dsim: Dsim) -> None:
    config = {key: value for key, value in (CONFIG | change).items() if value is not None}
    said = dsim("draft", "check", "--target", write(tmp_path, golden(), config))
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert says in said.err


def test_the_report_for_people_names_the_parts(dsim: Dsim) -> None:
    report = dsim("draft", "check", "--target", RELEASED)
    assert (report.code, report.err) == (0, "")
    lines = [" ".join(line.split()) for line in report.out.splitlines()]
    for line in (
        "checkpoint complete: 827 tensors, 241 of them the drafter's (mtp.*)",
        "drafter 3 stages, block 5, Markov rank 16",
        "taps outputs of layers 4, 5, 6 of 7, counted from 0",
        "KV per token 36.5 numbers, 73 bytes in bfloat16",
        "head 0.00614 0.0123",  # 96 · 64 in millions, bfloat16
        "1 6 0.284 0.0123 0.0154 0.312 0.795 28.2%",
    ):
        assert line in lines


def test_options_of_a_drafter_need_one(dsim: Dsim) -> None:
    said = dsim("draft", "check", "--target", RELEASED, "--expect", RELEASED)
    assert (said.code, said.err) == (2, "error: dsim draft check: --expect: needs --draft\n")


def test_bytes_read_count_every_part_once_and_the_experts_that_are_chosen() -> None:
    found = checked(RELEASED)
    target, drafter = part_sizes(found)
    stored = sum(tensor.bytes for tensor in found.tensors.values())
    assert sum(size.bytes for size in (*target.values(), *drafter.values())) == stored
    assert distinct_experts(found.sizes, 1) == pytest.approx(2)
    assert distinct_experts(found.sizes, 2) == pytest.approx(8 - 8 * 0.75**2)
    many = bytes_read(target, found.sizes, 10_000)
    assert {part: target[part].bytes for part in target} == pytest.approx(many | {"tables by token": target["tables by token"].bytes})
    read = bytes_read(drafter, found.sizes, 1, products=5)
    assert read["Markov head"] == 5 * 96 * 16 * 2
    assert read["routed experts"] == pytest.approx(drafter["routed experts"].bytes * 2 / 8)
    expert = 32 * 32 + 32 * 2  # w1 of an expert: two numbers in a byte, and a scale for 32 columns
    assert target["routed experts"].bytes == 7 * 8 * (2 * expert + 64 * 16 + 64)


def test_what_a_request_holds_however_long_it_is() -> None:
    """Ten windows of 16 keys of 32; three compressors of ratio 4 and two of 128, values and gates."""
    found = checked(RELEASED)
    assert request_numbers(found.sizes, found.stages) == (10 * 16 * 32, 3 * 8 * 2 * (64 + 32) + 2 * 128 * 2 * 32)
    assert found.sizes.entries_per_token() == 3 * (32 + 16) / 4 + 2 * 32 / 128

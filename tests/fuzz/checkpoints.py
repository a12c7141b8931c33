"""Small checkpoints: drafters of tests/golden, others made of its target, configs of every packaging, expected outputs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz.samples import Files, as_json

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def drafter(name: str) -> Callable[[], Files]:
    """A drafter's folder of tests/golden."""
    return cache(lambda: {f"draft/{file}": (GOLDEN / name / file).read_bytes() for file in ("config.json", "model.safetensors")})


@cache
def sharded() -> Files:
    """A drafter in two shards with their index."""
    from safetensors.numpy import load, save

    tensors = load((GOLDEN / "dspark_vanilla" / "model.safetensors").read_bytes())
    shards = {"a.safetensors": dict(list(tensors.items())[::2]), "b.safetensors": dict(list(tensors.items())[1::2])}
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    files = {f"draft/{file}": save(part) for file, part in shards.items()}
    return files | {"draft/config.json": drafter("dspark_vanilla")()["draft/config.json"], "draft/model.safetensors.index.json": as_json(index)}


@cache
def fused() -> Files:
    """A DeepSeek-V4 with its drafter inside, and an index that names one shard."""
    from simulator.measurements.drafters.headers import read_header

    folder = GOLDEN / "deepseek_v4" / "released_dtypes"
    files = {f"target/{name}": (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    index = {"weight_map": dict.fromkeys(read_header(folder / "model.safetensors"), "model.safetensors")}
    return files | {"target/model.safetensors.index.json": as_json(index)}


@cache
def expected() -> Files:
    """Expected outputs of a drafter: one short greedy decode, and forward tensors."""
    decode = json.loads((GOLDEN / "dspark_vanilla" / "greedy_decode.json").read_text())[0]
    short = {"prompt": decode["prompt"], "output_ids": decode["output_ids"][:20], "acceptance_lengths": [8], "rounds": decode["rounds"][:1]}
    return {
        "expect/greedy_decode.json": as_json([short]),
        "expect/forward.safetensors": (GOLDEN / "dspark_vanilla" / "forward.safetensors").read_bytes(),
    }


@cache
def trained(family: str, reduced: bool = False) -> Files:
    """A drafter of the golden target as `dsim train-draft` writes it; with `reduced`, its vocabulary is a part of the target's."""
    import torch

    from real_runner.training.checkpoints import Shape, new_drafter, save_drafter

    shape = Shape(family, 1 if family == "mtp" else 3, (0, 2), layers=1, markov_rank=4, mask_token=29)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        save_drafter(new_drafter(shape, golden_target(), Path(folder), torch.arange(20) if reduced else None, 0), golden_target(), Path(folder))
        return {f"draft/{file.name}": file.read_bytes() for file in Path(folder).iterdir()}


@cache
def golden_target() -> Any:
    """The target of tests/golden."""
    import torch

    from real_runner.target import load_target

    torch.set_num_threads(1)
    return load_target(str(GOLDEN / "target"))


@cache
def packagings() -> Files:
    """Configs of drafters as SpecForge, vLLM's speculators and DeepSeek write them."""
    config = json.loads((GOLDEN / "dspark_vanilla" / "config.json").read_text())
    layers = {key: value for key, value in config.items() if key not in ("architectures", "block_size", "target_layer_ids", "markov_rank")}
    taps = config["target_layer_ids"]
    own = {"target_layer_ids": taps, "mask_token_id": 29}
    made = {
        "specforge": config | {"architectures": ["DFlashDraftModel"], "markov_rank": 0, "enable_confidence_head": False, "dflash_config": own},
        "dspark": config | {"architectures": ["DSparkDraftModel"], "dflash_config": own | {"projector_type": "dspark", "shift_label": True}},
        "speculators": {"speculators_model_type": "dspark", "transformer_layer_config": layers,
                        "aux_hidden_state_layer_ids": [tap + 1 for tap in taps],
                        "block_size": 7, "mask_token_id": 29, "markov_rank": 8, "sample_from_anchor": True},
        "eagle3": layers | {"architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1, "draft_vocab_size": 20,
                            "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 3]}},
        "mtp": layers | {"architectures": ["Qwen3ForCausalLM"], "num_nextn_predict_layers": 1},
        "fused": {"dspark_block_size": 5, "dspark_markov_rank": 8, "dspark_target_layer_ids": [1, 2]},
    }  # fmt: skip
    return {f"{name}/config.json": as_json(content) for name, content in made.items()}


@cache
def target() -> Files:
    """A target, and the files of a tokenizer."""
    pair = Path(__file__).resolve().parents[1] / "pair" / "target"
    files = {f"target/{name}": (GOLDEN / "target" / name).read_bytes() for name in ("config.json", "generation_config.json", "model.safetensors")}
    return files | {f"target/{name}": (pair / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")}

"""Checkpoint folders: as vLLM's own model classes read them, and in the packaging of `speculators`, which vLLM reads too.

Keys and names as in vLLM 0.32.0 (`model_executor/models/{qwen3_eagle3,llama_eagle3,qwen3_dspark,qwen3_dflash}.py`, `transformers_utils/configs/`)
and speculators 0.9.0 (`models/*/config.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from real_runner.exporting.checkpoint import Checkpoint, biased, vanilla, with_head, write_folder


def write_vllm(checkpoint: Checkpoint, out: Path) -> Checkpoint:
    """What vLLM's registry and draft model classes ask for; what was written."""
    made = with_head(biased(vanilla(checkpoint, "vLLM")))
    spec = made.spec
    config = made.layers | {"draft_vocab_size": made.draft_vocabulary, "target_hidden_size": spec.hidden}
    if spec.target_layers:
        config["num_target_layers"] = spec.target_layers
    if spec.family == "eagle3":
        layers = "Llama" if config["model_type"] == "llama" else "Qwen3"
        config |= {"architectures": [f"Eagle3{layers}ForCausalLM"], "ttt_length": spec.gamma, "norm_before_residual": spec.norm_before_residual}
        config |= {"eagle_aux_hidden_state_layer_ids": made.aux_layers, "num_aux_hidden_states": len(spec.taps)}
    elif spec.family == "dspark":
        config |= {"architectures": ["Qwen3DSparkModel"], "target_layer_ids": list(spec.taps), **_block(made)}
    else:
        nested = {"target_layer_ids": list(spec.taps), "mask_token_id": spec.mask_token, "block_size": spec.block}
        config |= {"architectures": ["DFlashDraftModel"], "block_size": spec.block, "dflash_config": nested}
    write_folder(out, config, made.tensors | made.offsets)
    return made


def write_speculators(checkpoint: Checkpoint, out: Path, target: str | None) -> Checkpoint:
    """The packaging of `speculators`; what was written. `target` is the verifier's name in it."""
    made = with_head(biased(vanilla(checkpoint, "vLLM")))
    spec = made.spec
    proposal = {"proposal_type": "greedy", "speculative_tokens": spec.gamma, "verifier_accept_k": 1, "accept_tolerance": 0.0}
    names = {"eagle3": "Eagle3Speculator", "dspark": "DSparkSpeculator", "dflash": "DFlashSpeculator"}
    layers = made.layers | ({"num_aux_hidden_states": len(spec.taps)} if spec.family == "eagle3" else {})
    config: dict[str, Any] = {
        "architectures": [names[spec.family]],
        "speculators_model_type": spec.family,
        "speculators_version": "0.9.0",
        "speculators_config": {
            "algorithm": spec.family,
            "default_proposal_method": "greedy",
            "proposal_methods": [proposal],
            "verifier": {"name_or_path": target, "architectures": []},
        },
        "transformer_layer_config": layers,
        "draft_vocab_size": made.draft_vocabulary,
        "target_hidden_size": spec.hidden,
        "tie_word_embeddings": False,
        "dtype": layers["dtype"],
    }
    if spec.family == "eagle3":
        config |= {"eagle_aux_hidden_state_layer_ids": made.aux_layers, "norm_before_residual": spec.norm_before_residual}
        config |= {"norm_before_fc": False, "fc_norm": False, "norm_output": False}
    else:
        config |= {"aux_hidden_state_layer_ids": made.aux_layers, "sliding_window_non_causal": True, **_block(made)}
    write_folder(out, config, made.tensors | made.offsets)
    return made


def _block(made: Checkpoint) -> dict[str, Any]:
    """Keys of a drafted block that both packagings have."""
    spec = made.spec
    keys = {"block_size": spec.block, "mask_token_id": spec.mask_token, "sample_from_anchor": spec.first_slot == 0}
    if spec.family == "dspark":
        keys |= {"markov_rank": spec.markov_rank, "markov_head_type": spec.markov_kind, "enable_confidence_head": spec.confidence != "none"}
        keys |= {"confidence_head_with_markov": spec.confidence == "hidden+token"}
    return keys

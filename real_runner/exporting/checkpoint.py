"""A drafter's checkpoint as an export takes it, whatever its packaging; and what no form of an engine holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from real_runner.drafters.loading import read_checked, vocabulary_map
from real_runner.target import checkpoint_folder
from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.measurements.drafters.packaging import read_spec
from simulator.measurements.drafters.spec import DraftSpec

LAYER_KEYS = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
    "rms_norm_eps", "rope_parameters", "rope_theta", "rope_scaling", "max_position_embeddings", "attention_bias", "mlp_bias", "initializer_range",
)  # fmt: skip
ZERO_RANK = 32  # of the sequential head that a DFlash gets where it is written as a DSpark: a multiple of every quantisation's block


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a drafter consists of: tensors by DeepSpec's names (checkpoint format §3), `vocabulary` [draft V] as ids of the target's, if reduced."""

    spec: DraftSpec
    tensors: dict[str, Tensor]
    vocabulary: Tensor | None

    @property
    def layers(self) -> dict[str, Any]:
        """The transformers config of the decoder layers alone."""
        spec, count = self.spec, 1 if self.spec.one_by_one else int(self.spec.backbone["num_hidden_layers"])
        kept = {key: spec.backbone[key] for key in LAYER_KEYS if spec.backbone.get(key) is not None}
        kept["head_dim"] = self.head_size
        dtype = str(self.tensors["fc.weight"].dtype).removeprefix("torch.")
        return kept | {"num_hidden_layers": count, "layer_types": ["full_attention"] * count, "tie_word_embeddings": False, "dtype": dtype}

    @property
    def head_size(self) -> int:
        return int(self.spec.backbone.get("head_dim") or self.spec.hidden // int(self.spec.backbone["num_attention_heads"]))

    @property
    def aux_layers(self) -> list[int]:
        """The tapped layers as engines count them: by the layer that reads, where ours are by the layer that wrote."""
        return [tap + 1 for tap in self.spec.taps]

    @property
    def draft_vocabulary(self) -> int:
        return self.spec.draft_vocabulary or self.spec.vocabulary

    @property
    def offsets(self) -> dict[str, Tensor]:
        """`d2t` [draft V] (target id - draft id) and `t2d` [V] (is this token drafted?); nothing for a whole vocabulary."""
        if self.vocabulary is None:
            return {}
        drafted = torch.zeros(self.spec.vocabulary, dtype=torch.bool)
        drafted[self.vocabulary] = True
        return {"d2t": self.vocabulary - torch.arange(len(self.vocabulary)), "t2d": drafted}


def read_checkpoint(name: str) -> Checkpoint:
    """The drafter in a folder, checked against its config. Raises CheckpointError, also where no engine has what it needs."""
    folder = checkpoint_folder(name)
    spec = read_spec(folder)
    if spec.family == "mtp":
        problem = "no engine loads an MTP layer beside a Llama or Qwen3 target: vLLM and llama.cpp have it for models released with one"
        raise CheckpointError(problem, where=folder, remedy="export dspark, dflash or eagle3")
    if any(spec.windows) or spec.causal_block:
        raise CheckpointError("sliding windows and causal blocks are not exported", where=folder / "config.json")
    kinds = ("qwen3", "llama") if spec.family == "eagle3" else ("qwen3",)
    if (kind := str(spec.backbone.get("model_type"))) not in kinds:
        problem = f"draft layers of {shown(kind)} are not exported"
        raise CheckpointError(problem, where=folder / "config.json", key="model_type", remedy=f"expected {' or '.join(kinds)}")
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in read_checked(spec, folder).items()}
    ids = vocabulary_map(spec, tensors, folder / "model.safetensors")
    skipped = ("d2t", "t2d", "verifier_", "rotary_emb.")
    return Checkpoint(spec, {name: tensor for name, tensor in tensors.items() if not name.startswith(skipped)}, ids)


def vanilla(checkpoint: Checkpoint, engine: str) -> Checkpoint:
    """Refuses sequential heads that the engine would read as a plain one."""
    if checkpoint.spec.markov_kind in ("gated", "rnn"):
        problem = f"{engine} has no {checkpoint.spec.markov_kind} sequential head"
        raise CheckpointError(problem, where=checkpoint.spec.folder / "config.json", key="markov_head_type", remedy="train a vanilla one")
    return checkpoint


def anchored_as_dspark(checkpoint: Checkpoint) -> Checkpoint:
    """A DFlash whose anchor predicts a token, as DSpark with a sequential head of zeros: engines let a DFlash's anchor predict nothing."""
    spec = checkpoint.spec
    if spec.family != "dflash" or spec.first_slot:
        return checkpoint
    like = checkpoint.tensors["fc.weight"]
    zeros = {
        "markov_head.markov_w1.weight": like.new_zeros(spec.vocabulary, ZERO_RANK),
        "markov_head.markov_w2.weight": like.new_zeros(checkpoint.draft_vocabulary, ZERO_RANK),
    }
    spec = replace(spec, family="dspark", markov_rank=ZERO_RANK, markov_kind="vanilla")
    return Checkpoint(spec, checkpoint.tensors | zeros, checkpoint.vocabulary)


def write_folder(out: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """config.json and model.safetensors. Raises DsimError where the folder holds something already."""
    import json

    from safetensors.torch import save

    from simulator.errors import DsimError
    from simulator.files import holds_files, whole_folder

    if holds_files(out):
        raise DsimError("holds files already", where=out, key="--out", remedy="choose a new folder")
    with whole_folder(out, "config.json") as draft:
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (draft / "model.safetensors").write_bytes(save({name: t.contiguous() for name, t in tensors.items()}, metadata={"format": "pt"}))

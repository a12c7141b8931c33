"""A drafter's checkpoint as an export takes it, whatever its packaging; and what no form of an engine holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from real_runner.drafters.layers import built_config
from real_runner.drafters.loading import read_checked, vocabulary_map
from real_runner.target import checkpoint_folder
from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.measurements.drafters.packaging import read_spec
from simulator.measurements.drafters.spec import EMBEDDING, DraftSpec

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
        count = 1 if self.spec.one_by_one else int(self.spec.backbone["num_hidden_layers"])
        kept = {key: value for key in LAYER_KEYS if (value := self.config.get(key)) is not None}
        kept["head_dim"] = self.head_size
        dtype = str(self.tensors["fc.weight"].dtype).removeprefix("torch.")
        return kept | {"num_hidden_layers": count, "layer_types": ["full_attention"] * count, "tie_word_embeddings": False, "dtype": dtype}

    @property
    def config(self) -> dict[str, Any]:
        """What the layers were built from: the checkpoint's keys, and transformers' defaults, which are not the engines'."""
        given = {key: value for key, value in self.spec.backbone.items() if value is not None}
        return built_config(self.spec.backbone).to_dict() | given

    @property
    def head_size(self) -> int:
        return int(self.config.get("head_dim") or self.spec.hidden // int(self.config["num_attention_heads"]))

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


def read_checkpoint(name: str, target_layers: int | None = None) -> Checkpoint:
    """The drafter in a folder, checked against its config; `target_layers` is for those that leave their taps to a default. Raises CheckpointError,
    also where no engine has what it needs."""
    folder = checkpoint_folder(name)
    spec = read_spec(folder, target_layers)
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
    return _rising(Checkpoint(spec, {name: tensor for name, tensor in tensors.items() if not name.startswith(skipped)}, ids))


def _rising(checkpoint: Checkpoint) -> Checkpoint:
    """With taps in the order of the target's layers, which is that in which vLLM hands them over. Raises CheckpointError where one is there twice or
    is no layer's input."""
    spec, config = checkpoint.spec, checkpoint.spec.folder / "config.json"
    if len(set(spec.taps)) < len(spec.taps) or min(spec.taps) < EMBEDDING:
        raise CheckpointError(f"expected layers of the target, each once, got {list(spec.taps)}", where=config, key="target_layer_ids")
    order = sorted(range(len(spec.taps)), key=lambda place: spec.taps[place])
    fc = checkpoint.tensors["fc.weight"].view(-1, len(order), spec.hidden)[:, order].flatten(1)
    return Checkpoint(replace(spec, taps=tuple(sorted(spec.taps))), checkpoint.tensors | {"fc.weight": fc}, checkpoint.vocabulary)


def vanilla(checkpoint: Checkpoint, engine: str) -> Checkpoint:
    """Refuses sequential heads that the engine would read as a plain one."""
    if checkpoint.spec.markov_kind in ("gated", "rnn"):
        problem = f"{engine} has no {checkpoint.spec.markov_kind} sequential head"
        raise CheckpointError(problem, where=checkpoint.spec.folder / "config.json", key="markov_head_type", remedy="train a vanilla one")
    return checkpoint


def biased(checkpoint: Checkpoint) -> Checkpoint:
    """Refuses the bias of an output that vLLM's Eagle3 on Qwen3 layers leaves out."""
    spec = checkpoint.spec
    if spec.family == "eagle3" and spec.backbone["model_type"] == "qwen3" and spec.backbone.get("attention_bias"):
        problem = "vLLM's Eagle3 has no bias at the output of attention in Qwen3 layers"
        raise CheckpointError(problem, where=spec.folder / "config.json", key="attention_bias", remedy="train one without, or on Llama layers")
    return checkpoint


def with_head(checkpoint: Checkpoint, every: bool = False) -> Checkpoint:
    """A DFlash whose anchor predicts a token, as DSpark with a sequential head of zeros: engines let a DFlash's anchor predict nothing. `every`: so
    does a DSpark without one."""
    spec = checkpoint.spec
    if spec.markov_rank or spec.family == "eagle3" or (spec.family == "dflash" and spec.first_slot) or (spec.family == "dspark" and not every):
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

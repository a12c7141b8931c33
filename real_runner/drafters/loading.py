"""Reads a drafter's tensors, whatever their packaging, into the one class of its family; says in one line what does not fit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from real_runner.drafters.drafter import Drafter
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.eagle3 import Eagle3Drafter
from real_runner.drafters.mtp import MtpDrafter
from real_runner.failures import memory_of
from real_runner.target import Target, checkpoint_folder, first_line
from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.measurements.drafters.headers import shards
from simulator.measurements.drafters.packaging import read_spec
from simulator.measurements.drafters.spec import FUSED, DraftSpec

try:
    from transformers.initialization import no_init_weights
except ImportError:  # transformers before 5.2
    from transformers.modeling_utils import no_init_weights

CLASSES: dict[str, type[Drafter]] = {"dspark": BlockDrafter, "dflash": BlockDrafter, "eagle3": Eagle3Drafter, "mtp": MtpDrafter}
OWN = ("fc.", "hidden_norm.", "lm_head.", "markov_head.", "confidence_head.", "enorm.", "hnorm.", "eh_proj.")  # not of the backbone
SHARED = {"lm_head.weight": "head", "backbone.embed_tokens.weight": "embedding"}  # may be left to the target
PASSED_OVER = re.compile(r"^(d2t|t2d|verifier_lm_head\.weight|verifier_norm\.weight|.*rotary_emb\.inv_freq)$")


def load_drafter(name: str, target: Target, spec: DraftSpec | None = None) -> Drafter:
    """The drafter in a folder, on the target's device and in its dtype; `spec` overrides what its config says."""
    folder = checkpoint_folder(name)
    spec = spec or read_spec(folder, target.layers)
    fits(spec, target)
    if spec.packaging == FUSED:
        from real_runner.deepseek_v4.model import load_fused

        return load_fused(spec, target)
    with memory_of("the drafter's weights", folder):
        tensors = read_checked(spec, folder)
        with no_init_weights(), torch.device("cpu"):
            drafter = CLASSES[spec.family](spec)
        fill(drafter, tensors, target, folder)
        return placed(drafter, target)


def read_checked(spec: DraftSpec, folder: Path) -> dict[str, Tensor]:
    """A drafter's tensors by the names of our module, each of the shape that the config asks for. Raises CheckpointError."""
    with no_init_weights(), torch.device("meta"):  # the config's numbers may be anything: no memory is taken before they are those of the tensors
        outline = CLASSES[spec.family](spec)
    tensors = renamed(read_tensors(folder), spec)
    check_tensors(outline, tensors, folder)
    return tensors


def random_drafter(spec: DraftSpec, target: Target) -> Drafter:
    """A drafter of given dimensions with random weights, embedding and head the target's: for times, not for words."""
    with memory_of("random weights of the drafter"), torch.device(target.device):
        drafter = CLASSES[spec.family](spec)
        share(drafter, target, set(SHARED))
        return placed(drafter, target)


def placed(drafter: Drafter, target: Target) -> Drafter:
    """On the target's device, its weights in the target's dtype. Rotary frequencies stay float32: rounded, their phases drift with the position."""
    weights = drafter.state_dict()
    for name, tensor in (*drafter.named_parameters(), *drafter.named_buffers()):
        if name in weights and tensor.is_floating_point():
            tensor.data = tensor.data.to(target.dtype)
    return drafter.to(device=target.device).eval()


def fits(spec: DraftSpec, target: Target) -> None:
    """Is this drafter one of this target: hidden size, vocabulary, depth."""
    config = spec.folder / "config.json"
    for key, own, expected in (
        ("hidden_size", spec.hidden, target.hidden),
        ("vocab_size", spec.vocabulary, target.vocabulary),
        ("num_target_layers", spec.target_layers or target.layers, target.layers),
    ):
        if own != expected:
            raise CheckpointError(f"{own}, but the target has {expected}", where=config, key=key, remedy="give the drafter of this target")
    if spec.mask_token >= target.vocabulary:
        raise CheckpointError(f"{spec.mask_token}", where=config, key="mask_token_id", remedy=f"expected an id below {target.vocabulary}")
    wrong = [tap for tap in spec.taps if not -2 <= tap < target.layers]
    if wrong:
        raise CheckpointError(f"layer {wrong[0]} is tapped, but the target has {target.layers} layers", where=config, key="target_layer_ids")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors or of the shards its index names."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(shards(index).values())) if index.exists() else ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():  # a pipe would be waited for
            problem = "not a regular file" if os.path.lexists(folder / name) else "no such file"
            raise CheckpointError(problem, where=folder / name, remedy="expected the drafter's weights")
        try:
            with safe_open(folder / name, "pt") as file:
                tensors.update((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, OverflowError) as error:
            raise CheckpointError(f"not a safetensors file: {first_line(error)}", where=folder / name) from error
    return tensors


def renamed(tensors: Mapping[str, Tensor], spec: DraftSpec) -> dict[str, Tensor]:
    """Tensor names of every packaging -> names of our module."""
    if spec.family == "mtp":
        tensors = _mtp_layer(tensors)
    ours = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^model\.(?!safetensors)", "", name)
        name = re.sub(r"^midlayer\.", "layers.0.", name)
        ours[name if name.startswith((*OWN, "d2t", "t2d")) else f"backbone.{name}"] = tensor
    return ours


def _mtp_layer(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The extra layer that carries the module, out of whatever else is in the file."""
    layer = next((m.group(1) for name in tensors if (m := re.match(r"(?:model\.)?layers\.(\d+)\.eh_proj\.weight$", name))), None)
    if layer is None:
        return dict(tensors)
    ours = {}
    for name, tensor in tensors.items():
        match = re.match(rf"(?:model\.)?layers\.{layer}\.(.+)$", name)
        if match is None:
            continue
        inner = match.group(1).replace("shared_head.norm.", "norm.").replace("shared_head.head.", "lm_head.")
        ours[inner if inner.startswith((*OWN, "norm.", "embed_tokens.")) else f"layers.0.{inner}"] = tensor
    return ours


def check_tensors(drafter: Drafter, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Every name and shape is that of a drafter which may lie on the meta device; embedding and head may be left to the target."""
    expected, file = drafter.state_dict(), folder / "model.safetensors"
    for name, tensor in expected.items():
        if name in SHARED and name not in tensors and tensor.shape[0] == drafter.spec.vocabulary:
            continue  # a reduced vocabulary needs its own head
        key, own = name.removeprefix("backbone."), tensors.get(name)
        if own is None:
            raise CheckpointError("missing", where=file, key=key, remedy=f"expected shape {list(tensor.shape)}")
        if own.shape != tensor.shape:
            raise CheckpointError(f"shape {list(own.shape)}", where=file, key=key, remedy=f"expected {list(tensor.shape)}")
        if not own.is_floating_point():
            kind = str(own.dtype).removeprefix("torch.")
            raise CheckpointError(kind, where=file, key=key, remedy="expected floating point; quantised weights do not run")
    others = (name.removeprefix("backbone.") for name in tensors if name not in expected)
    if (key := next((name for name in others if not PASSED_OVER.match(name)), "")) != "":
        raise CheckpointError("a tensor that this family does not have", where=file, key=shown(key)[1:-1], remedy="is it of another family?")


def fill(drafter: Drafter, tensors: dict[str, Tensor], target: Target, folder: Path) -> None:
    """Puts checked tensors in place; embedding and head that are not there are the target's."""
    expected = drafter.state_dict()
    drafter.load_state_dict({name: tensor for name, tensor in tensors.items() if name in expected}, strict=False, assign=True)
    drafter.requires_grad_(False)
    share(drafter, target, {name for name in SHARED if name not in tensors})
    ids = vocabulary_map(drafter.spec, tensors, folder / "model.safetensors")
    drafter.d2t = None if ids is None else ids.to(target.device)


def share(drafter: Drafter, target: Target, absent: set[str]) -> None:
    """Lends the target's embedding and head for those of SHARED that are `absent`."""
    if "backbone.embed_tokens.weight" in absent:
        drafter.backbone.embed_tokens = target.embedding
    if "lm_head.weight" in absent:
        if drafter.lm_head.weight.shape[0] != target.vocabulary:
            raise CheckpointError("missing", where=drafter.spec.folder, key="lm_head.weight", remedy="a reduced vocabulary needs its own head")
        assert isinstance(target.head, nn.Linear)
        drafter.lm_head = target.head


def vocabulary_map(spec: DraftSpec, tensors: Mapping[str, Tensor], file: Path) -> Tensor | None:
    """Ids in the target's vocabulary of the draft's reduced one: `d2t` holds the differences  # [draft V]."""
    if spec.draft_vocabulary is None:
        return None
    if "d2t" not in tensors:
        raise CheckpointError("missing", where=file, key="d2t", remedy=f"expected [{spec.draft_vocabulary}], the reduced vocabulary's map")
    offsets = tensors["d2t"]
    if offsets.shape != (spec.draft_vocabulary,) or offsets.is_complex():
        raise CheckpointError(f"shape {list(offsets.shape)}", where=file, key="d2t", remedy=f"expected [{spec.draft_vocabulary}]")
    ids = offsets.long() + torch.arange(len(offsets))
    if ids.min() < 0 or ids.max() >= spec.vocabulary or len(ids.unique()) != len(ids):
        raise CheckpointError("does not map into the target's vocabulary", where=file, key="d2t", remedy="expected target id - draft id, none twice")
    return ids

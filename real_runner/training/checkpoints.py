"""New drafters and their files: DeepSpec's own format (checkpoint format §2, §3), MTP in DeepSeek's, a reduced draft vocabulary as `d2t` says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from real_runner.drafters.drafter import Drafter
from real_runner.drafters.heads import MarkovHead
from real_runner.drafters.loading import CLASSES
from real_runner.target import Target
from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.measurements.drafters.packaging import read_spec

Family = Literal["dspark", "dflash", "eagle3", "mtp"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a new drafter. Eagle3 and MTP have one layer whatever `layers` says; MTP drafts one token over the whole vocabulary."""

    family: Family
    gamma: int
    taps: tuple[int, ...]
    layers: int = 2
    markov_rank: int = 64
    mask_token: int = 0


def default_taps(layers: int, count: int = 5) -> tuple[int, ...]:
    """From the second layer to the third last, as released drafters have them ([1, 9, 17, 25, 33] of 36); small targets: all but the last."""
    first, last = (1, layers - 3) if layers >= 8 else (0, max(layers - 2, 0))
    count = min(count, last - first + 1)
    return tuple(round(first + i * (last - first) / max(count - 1, 1)) for i in range(count))


def new_config(shape: Shape, target: Target, vocabulary: int | None) -> dict[str, Any]:
    """config.json of the drafter: the target's, with the draft's own keys over it (§2). The layers are Qwen3's, whatever the target's are."""
    taken = target.config.to_dict()
    config: dict[str, Any] = {k: v for k, v in taken.items() if not k.startswith("_") and k not in ("quantization_config", "architectures", "dtype")}
    block = shape.family in ("dspark", "dflash")
    layers = shape.layers if block else 1
    config |= {"model_type": "qwen3", "num_hidden_layers": layers, "layer_types": ["full_attention"] * layers, "tie_word_embeddings": False}
    config |= {
        "head_dim": getattr(target.config, "head_dim", None) or target.hidden // target.config.num_attention_heads,
        "use_sliding_window": False,
    }
    config |= {"dtype": str(target.dtype).removeprefix("torch."), "num_target_layers": target.layers}
    if vocabulary is not None:
        config["draft_vocab_size"] = vocabulary
    if shape.family == "mtp":
        return config | {"architectures": ["Qwen3ForCausalLM"], "num_nextn_predict_layers": 1}
    if shape.family == "eagle3":
        own = {"architectures": ["Qwen3Eagle3Model"], "draft_num_hidden_layers": 1, "ttt_length": shape.gamma, "step_loss_decay": 0.8}
        return config | own | {"target_layer_ids": list(shape.taps)}
    head = shape.family == "dspark"
    config |= {
        "architectures": ["Qwen3DSparkModel"],
        "block_size": shape.gamma,
        "target_layer_ids": list(shape.taps),
        "mask_token_id": shape.mask_token,
    }
    config |= {"markov_rank": shape.markov_rank if head else 0, "enable_confidence_head": head}
    return config | ({"markov_head_type": "vanilla", "confidence_head_with_markov": True} if head else {})


def new_drafter(shape: Shape, target: Target, folder: Path, vocabulary: Tensor | None, seed: int) -> Drafter:
    """An untrained drafter in `folder` (its config is written): embedding and head are the target's and frozen, all else is random float32.

    `vocabulary` [V'] ids of a reduced draft vocabulary. Raises DsimError where that does not fit the family.
    """
    if vocabulary is not None and shape.family == "mtp":
        raise DsimError("MTP uses the target's head and cannot have a reduced vocabulary", key="draft_vocabulary", remedy="drop the option")
    config = new_config(shape, target, None if vocabulary is None else len(vocabulary))
    write_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
    spec = read_spec(folder, target.layers)
    torch.manual_seed(seed)
    drafter = CLASSES[spec.family](spec)
    drafter.backbone.embed_tokens = target.embedding
    if vocabulary is None:
        assert isinstance(target.head, nn.Linear)
        drafter.lm_head = target.head
    else:
        drafter.d2t = vocabulary.to(target.device)
        drafter.lm_head.weight = nn.Parameter(target.head.weight[drafter.d2t].clone(), requires_grad=False)
    for head in (module for module in drafter.modules() if isinstance(module, MarkovHead)):
        nn.init.normal_(head.markov_w1.weight, std=0.02)
        nn.init.zeros_(head.markov_w2.weight)  # no bias until it is learnt
    drafter.to(target.device)
    for name, parameter in trained(drafter):
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
        if name.startswith("fc."):
            nn.init.normal_(parameter, std=(1.0 / parameter.shape[1]) ** 0.5)
    return drafter


def trained(drafter: Drafter) -> list[tuple[str, nn.Parameter]]:
    """Its own parameters: all but embedding and head."""
    return [(n, p) for n, p in drafter.named_parameters() if not n.startswith(("backbone.embed_tokens.", "lm_head."))]


def save_drafter(drafter: Drafter, target: Target, folder: Path) -> None:
    """model.safetensors beside the config, in the target's dtype; MTP as the target's extra layer, which shares embedding and head."""
    family = drafter.spec.family
    tensors: dict[str, Tensor] = {}
    for name, value in drafter.state_dict().items():
        plain = name.removeprefix("backbone.")
        if family == "mtp":
            if plain.startswith(("embed_tokens.", "lm_head.")):
                continue
            plain = plain.removeprefix("layers.0.")
            plain = f"model.layers.{target.layers}." + (f"shared_head.{plain}" if plain == "norm.weight" else plain)
        tensors[plain] = value.detach().to(target.dtype).contiguous().cpu().clone()
    if drafter.d2t is not None:
        tensors["d2t"] = drafter.d2t.cpu() - torch.arange(len(drafter.d2t))
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt"}))

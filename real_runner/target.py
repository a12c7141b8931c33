"""Any Hugging Face causal LM of a supported family behind flattened-token, slot-cached steps; hidden states of tapped layers come along."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from real_runner import slots as slot_cache
from real_runner.failures import memory_of
from real_runner.slots import FlatBatch, SlotCache
from simulator.complaints import shown
from simulator.errors import CheckpointError, DsimError
from simulator.measurements.drafters.deepseek_v4 import MODEL_TYPE
from simulator.measurements.drafters.fields import MOST
from simulator.measurements.drafters.spec import EMBEDDING, POST_NORM
from simulator.reading.json_files import read_json

FAMILIES = ("qwen3", "llama", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class TargetStep:
    """What the target says of a flat batch."""

    logits: Tensor  # [B or asked rows, V]
    features: Tensor  # [B, taps × hidden], without taps [B, 0]


class Target:
    """A causal LM with `slots` rows of KV cache."""

    cache: type[SlotCache] = SlotCache
    capturable = True  # may its steps become CUDA graphs

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        self.model, self.name = model.eval().requires_grad_(False), name
        model.set_attn_implementation(slot_cache.NAME)
        self.config = model.config.get_text_config()
        self.decoder: Any = model.get_decoder()
        self.embedding: nn.Module = model.get_input_embeddings()
        self.head: nn.Module = model.get_output_embeddings()
        self.device, self.dtype = self.head.weight.device, self.head.weight.dtype
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # events, streams and graphs are the current device's
            torch.backends.cuda.enable_cudnn_sdp(False)  # whether it comes before the memory-efficient kernel differs between releases of torch
        self.taps: tuple[int, ...] = ()
        self._tapped: dict[int, Tensor] = {}
        self._hooks: list[Any] = []
        self.kv: SlotCache | None = None

    @property
    def layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def hidden(self) -> int:
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        return int(self.head.weight.shape[0])

    @property
    def eos(self) -> frozenset[int]:
        """Ids that end a text, of the generation config where there is one."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        ends = self.config.eos_token_id if ends is None else ends
        return frozenset(ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends])

    def tap(self, taps: Sequence[int]) -> None:
        """Asks for the outputs of these layers (0-based; EMBEDDING and POST_NORM too) with every step."""
        for hook in self._hooks:
            hook.remove()
        self.taps, self._hooks = tuple(taps), []
        for tap in sorted(set(taps)):
            if tap == EMBEDDING:
                hook = self.decoder.layers[0].register_forward_pre_hook(lambda _, args: self._keep(EMBEDDING, args[0]))
            elif tap == POST_NORM:
                hook = self.decoder.norm.register_forward_hook(lambda _, __, out: self._keep(POST_NORM, out))
            else:
                hook = self.decoder.layers[tap].register_forward_hook(lambda _, __, out, tap=tap: self._keep(tap, out))
            self._hooks.append(hook)

    def _keep(self, tap: int, hidden: Any) -> None:
        self._tapped[tap] = (hidden[0] if isinstance(hidden, tuple) else hidden)[0]

    def allocate(self, slots: int, length: int) -> None:
        """Makes room for `slots` requests of `length` tokens, by one step that shows what each layer keeps."""
        with memory_of(f"the KV cache of {slots} slots × {length} tokens", self.name):
            self.kv = self.cache(slots, length, self.device, self.dtype)
            zero = torch.zeros(1, dtype=torch.long, device=self.device)
            self.step(zero, FlatBatch(zero + slots, zero, zero + 1, zero, slice(slots, slots + 1), 1, 1, 1))

    @torch.no_grad()
    def step(self, ids: Tensor, flat: FlatBatch, rows: Tensor | None = None) -> TargetStep:
        """One step over `ids` [B]; logits of the `rows` rows only, where given."""
        assert self.kv is not None, "allocate first"
        out = self.decoder(input_ids=ids.unsqueeze(0), position_ids=flat.positions.unsqueeze(0), use_cache=False, flat=flat, kv=self.kv)
        hidden = out.last_hidden_state[0]
        logits = soft_capped(self.head(hidden if rows is None else hidden[rows]), self.config)
        features = torch.cat([self._tapped[tap] for tap in self.taps], dim=-1) if self.taps else hidden.new_empty(len(hidden), 0)
        return TargetStep(logits, features)


def soft_capped(logits: Tensor, config: Any) -> Tensor:
    """Gemma's tanh cap on final logits."""
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def load_target(name: str, device: str = "cpu", dtype: str = "float32") -> Target:
    """From a local folder or a hub name."""
    if dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}", where=name, remedy=f"choose one of {', '.join(DTYPES)}")
    kind = _model_type(name)
    if kind == MODEL_TYPE:
        return _v4(Path(name), name, device, dtype)
    _of_a_known_family(name, kind)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers checks configs in many ways
        local = name.startswith((".", "/", "~")) or name.count("/") > 1
        reason = "no such folder" if local and not Path(name).exists() else first_line(error)
        raise CheckpointError(f"cannot read a target model: {reason}", where=name, remedy="give a folder with config.json or a hub name") from error
    if config.model_type == MODEL_TYPE:
        return _v4(checkpoint_folder(name), name, device, dtype)
    _of_a_known_family(name, config.model_type)
    try:
        with memory_of("the target's weights", name):
            model, report = AutoModelForCausalLM.from_pretrained(name, dtype=DTYPES[dtype], trust_remote_code=False, output_loading_info=True)
            absent = sorted(report["missing_keys"])
            if absent:
                raise CheckpointError(f"{len(absent)} tensors are missing, expected {absent[0]} first", where=name)
            return Target(model.to(device), name)
    except DsimError:
        raise
    except Exception as error:  # SafetensorError, and what models say of odd configs
        raise CheckpointError(f"the target's weights cannot be loaded: {first_line(error)}", where=name) from error


def v4_folder(name: str) -> Path | None:
    """The files of a DeepSeek-V4 checkpoint; None for other targets."""
    kind = _model_type(name)
    if kind is None and not Path(name).exists():
        try:
            kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
        except Exception:  # for `load_target` to say
            return None
    return checkpoint_folder(name) if kind == MODEL_TYPE else None


def _v4(folder: Path, name: str, device: str, dtype: str) -> Target:
    from real_runner.deepseek_v4.model import load_v4

    return load_v4(folder, name, device, dtype)


def checkpoint_folder(name: str) -> Path:
    """A local folder as it is, or a hub name's files."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise CheckpointError("no such folder, and not found on the hub", where=name, remedy="give a checkpoint's folder") from error


def _model_type(name: str) -> str | None:
    """As a local config.json says, before transformers reads the rest of it."""
    file = Path(name) / "config.json"
    if not os.path.lexists(file):
        return None  # a hub name, or for transformers to say what is wrong
    config = read_json(file, CheckpointError)
    texts = config.get("text_config")
    for part in (config, texts if isinstance(texts, dict) else {}):
        for key, most in MOST.items():
            if isinstance(size := part.get(key), int | float) and not -1 <= size <= most:
                raise CheckpointError(shown(size), where=file, key=key, remedy=f"expected at most {most}")
    kind = config.get("model_type")
    return None if kind is None else str(kind)


def _of_a_known_family(name: str, kind: str | None) -> None:
    if kind is not None and kind not in FAMILIES:
        where = _config_file(name)
        known = ", ".join((*FAMILIES, MODEL_TYPE))
        raise CheckpointError(f"unsupported family {shown(kind)}", where=where, key="model_type", remedy=f"supported: {known}")


def random_target(config: Any, name: str, device: str, dtype: str) -> Target:
    """A target of given dimensions with random weights: its times are those of the real one, its words are not."""
    with memory_of("random weights", name), torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPES[dtype])
        try:
            return Target(AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype]), name)
        finally:
            torch.set_default_dtype(before)


def first_line(error: Exception) -> str:
    """What an error of another library says, to the end of its first sentence."""
    lines = str(error).split("\n") if str(error).strip() else [type(error).__name__]
    head = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = f"{type(error).__name__} {head}" if isinstance(error, KeyError) else head
    return text if len(text) <= 300 else f"{text[:300]}…"


def _config_file(name: str) -> str:
    path = Path(name) / "config.json"
    return str(path) if path.exists() else name

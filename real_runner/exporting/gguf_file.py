"""GGUF files of llama.cpp: architectures `dflash` (DSpark and DFlash) and `eagle3`.

Keys and tensor names as in llama.cpp b11434 (`src/llama-arch.cpp`, `src/models/{dflash,eagle3}.cpp`). What the file cannot say is refused here, since
llama.cpp would draft something else without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from real_runner.exporting.checkpoint import Checkpoint, vanilla, with_head
from simulator.complaints import shown
from simulator.errors import CheckpointError, DsimError
from simulator.files import whole

TOP = {
    "fc": "fc", "hidden_norm": "enc.output_norm", "norm": "output_norm", "embed_tokens": "token_embd", "lm_head": "output",
    "markov_head.markov_w1": "markov_w1", "markov_head.markov_w2": "markov_w2", "confidence_head.proj": "conf_proj",
}  # fmt: skip
LAYER = {
    "input_layernorm": "attn_norm", "hidden_norm": "attn_norm_2", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
EAGLE_TAPS = 3  # llama.cpp takes exactly as many


def write_gguf(checkpoint: Checkpoint, out: Path, target: Path | None, weights: str | None) -> Checkpoint:
    """One GGUF file with the target's tokenizer; what was written. Matrices become `weights` (f16, q8_0, …), None: as stored."""
    try:
        import gguf
    except ImportError:
        raise DsimError("needs gguf, which is not installed", where="dsim export drafter --to gguf", remedy="pip install 'dsim[profile]'") from None

    made = with_head(vanilla(checkpoint, "llama.cpp"), every=True)
    _holds(made)
    fields = _tokenizer(target, made)
    arch = "eagle3" if made.spec.family == "eagle3" else "dflash"
    with whole(out) as draft:
        writer = gguf.GGUFWriter(draft, arch)
        for key, (kind, value) in _metadata(made, arch).items():
            getattr(writer, f"add_{kind}")(key, value)
        for key, value, kinds in fields:
            writer.add_key_value(key, value, *kinds)
        for name, tensor in _tensors(made).items():
            data, kind = _stored(gguf, name, tensor, weights)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return made


def _holds(made: Checkpoint) -> None:
    """Refuses what the architectures have no tensor or key for."""
    spec, config = made.spec, made.spec.folder / "config.json"
    for key, expected in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if (value := spec.backbone.get(key, expected)) != expected:
            raise CheckpointError(f"llama.cpp's drafters have no such layers: {shown(value)}", where=config, key=key, remedy=f"expected {expected}")
    rope = spec.backbone.get("rope_parameters") or spec.backbone.get("rope_scaling") or {}
    if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise CheckpointError(f"scaled positions ({kind}) are not exported to gguf", where=config, key="rope_parameters")
    if min(spec.taps) < -1 or (spec.target_layers is not None and max(spec.taps) >= spec.target_layers - 1):
        raise CheckpointError("llama.cpp taps inputs of layers: not the last one's output", where=config, key="target_layer_ids")
    if spec.family != "eagle3":
        return
    if spec.backbone["model_type"] != "llama":
        problem = "llama.cpp's eagle3 has Llama layers: there is no place for the norms of queries and keys"
        raise CheckpointError(problem, where=config, key="model_type", remedy="export to vllm, or train DSpark for llama.cpp")
    if len(spec.taps) != EAGLE_TAPS:
        raise CheckpointError(f"llama.cpp's eagle3 taps {EAGLE_TAPS} layers, this drafter {len(spec.taps)}", where=config, key="target_layer_ids")


def _metadata(made: Checkpoint, arch: str) -> dict[str, tuple[str, Any]]:
    """Keys, and the kind and value of each."""
    spec, layers = made.spec, made.layers
    rope = layers.get("rope_parameters") or {}
    heads, size = int(layers["num_attention_heads"]), made.head_size
    own: dict[str, tuple[str, Any]] = {
        "context_length": ("uint32", int(layers["max_position_embeddings"])),
        "embedding_length": ("uint32", spec.hidden),
        "block_count": ("uint32", layers["num_hidden_layers"]),
        "feed_forward_length": ("uint32", int(layers["intermediate_size"])),
        "attention.head_count": ("uint32", heads),
        "attention.head_count_kv": ("uint32", int(layers.get("num_key_value_heads") or heads)),
        "attention.key_length": ("uint32", size),
        "attention.value_length": ("uint32", size),
        "attention.layer_norm_rms_epsilon": ("float32", float(layers.get("rms_norm_eps", 1e-6))),
        "rope.freq_base": ("float32", float(rope.get("rope_theta", layers.get("rope_theta", 10_000.0)))),
        "rope.dimension_count": ("uint32", size),
        "vocab_size": ("uint32", spec.vocabulary),
        "target_layers": ("array", made.aux_layers),
    }
    if arch == "eagle3":
        own |= {"target_hidden_size": ("uint32", spec.hidden), "norm_before_residual": ("bool", spec.norm_before_residual)}
        own |= {"norm_before_fc": ("bool", False)}
    else:
        own |= {"block_size": ("uint32", spec.block)}
    if spec.family == "dspark":
        own |= {"sample_from_anchor": ("bool", spec.first_slot == 0), "has_confidence_head": ("bool", spec.confidence != "none")}
    keys: dict[str, tuple[str, Any]] = {"general.type": ("string", "model"), "general.name": ("string", f"{spec.family} drafter of dsim")}
    keys |= {f"{arch}.{key}": value for key, value in own.items()}
    return keys if arch == "eagle3" else keys | {"tokenizer.ggml.mask_token_id": ("uint32", spec.mask_token)}


def _tensors(made: Checkpoint) -> dict[str, Tensor]:
    """By llama.cpp's names. DeepSpec's embedding and whole head are copies of the target's (format §3.1): llama.cpp takes the target's own."""
    spec, named = made.spec, {}
    copies = {"embed_tokens.weight"} | ({"lm_head.weight"} if made.vocabulary is None else set())
    for name, tensor in made.tensors.items():
        if spec.packaging == "deepspec" and name in copies:
            continue
        stem, _, part = name.rpartition(".")
        if stem.startswith("layers."):
            _, number, inner = stem.split(".", 2)
            if spec.family == "eagle3" and inner in ("self_attn.q_proj", "self_attn.k_proj"):
                tensor = _interleaved(tensor, made.head_size)
            named[f"blk.{number}.{LAYER[inner]}.{part}"] = tensor
        else:
            named[f"{TOP[stem]}.{part}"] = tensor
    if spec.confidence != "none":  # the file's head always reads the token too
        confidence = named["conf_proj.weight"]
        named["conf_proj.weight"] = torch.nn.functional.pad(confidence, (0, spec.hidden + spec.markov_rank - confidence.shape[1]))
    if made.vocabulary is not None:
        named["d2t"] = made.vocabulary  # ids of the target, where safetensors have differences
    return named


def _interleaved(matrix: Tensor, size: int) -> Tensor:
    """Rows of each head reordered from halves to neighbouring pairs, as llama.cpp turns the positions of Llama layers  # [heads · size, d]."""
    return matrix.view(-1, 2, size // 2, matrix.shape[1]).transpose(1, 2).reshape(matrix.shape)


def _stored(gguf: Any, name: str, tensor: Tensor, weights: str | None) -> tuple[Any, Any]:
    """The array of a tensor, and its kind where numpy has none for it. What is no matrix stays whole or float32."""
    if not tensor.is_floating_point():
        return tensor.to(torch.int64).numpy(), gguf.GGMLQuantizationType.I64
    if tensor.ndim < 2 or name.startswith("conf_proj."):
        return tensor.float().numpy(), None
    asked = weights or {torch.bfloat16: "bf16", torch.float16: "f16"}.get(tensor.dtype, "f32")
    kind = gguf.GGMLQuantizationType[asked.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % block:
        kind = gguf.GGMLQuantizationType.F16
    return gguf.quantize(np.ascontiguousarray(tensor.float().numpy()), kind), kind


def _tokenizer(target: Path | None, made: Checkpoint) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """The target's tokenizer from its GGUF: key, value, and kinds of value and items. Raises DsimError where it is another target's."""
    import gguf

    if target is None or not target.is_file():
        where = "dsim export drafter" if target is None else target
        problem = "a GGUF carries the target's tokenizer, and no target is given" if target is None else "not a file"
        raise DsimError(problem, where=where, key="--target", remedy="give the target's GGUF, as llama.cpp serves it")
    try:
        fields = gguf.GGUFReader(target).fields
        arch = str(fields["general.architecture"].contents())
        sizes = {key: int(fields[f"{arch}.{key}"].contents()) for key in ("embedding_length", "block_count")}
        kept = {key: field for key, field in fields.items() if key.startswith("tokenizer.") and key != "tokenizer.chat_template"}
        tokens = len(fields["tokenizer.ggml.tokens"].data)
        values = [(key, field.contents(), tuple(field.types[:2])) for key, field in kept.items() if key != "tokenizer.ggml.mask_token_id"]
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, OSError) as error:
        raise DsimError(f"not a readable GGUF of a model: {str(error)[:80]}", where=target, key="--target") from error
    for what, own, expected in (("hidden size", made.spec.hidden, sizes["embedding_length"]), ("vocabulary", made.spec.vocabulary, tokens)):
        if own != expected:
            raise DsimError(f"{what} {expected}, but the drafter's is {own}", where=target, key="--target", remedy="give the drafter's own target")
    if max(made.spec.taps) >= sizes["block_count"] - 1:
        raise DsimError(f"{sizes['block_count']} layers, but the drafter taps {max(made.spec.taps)}", where=target, key="--target")
    return values

"""Every tensor that a DeepSeek-V4 checkpoint with a fused DSpark drafter has by its config, and whether they are there (format of V4, §2 and §5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simulator.errors import CheckpointError
from simulator.measurements.drafters.deepseek_v4 import FUSED, SPARSE, WINDOW_ONLY, DeepseekV4, FusedDrafter, read_v4
from simulator.measurements.drafters.fields import refused
from simulator.measurements.drafters.headers import Stored, read_headers

Kind = Literal["fp8", "fp4", "number", "id", "scale"]
Part = Literal[
    "attention", "compressors and indexers", "streams, norms and routers", "shared experts", "routed experts", "head", "tables by token",
    "main projection", "Markov head", "confidence head",
]  # fmt: skip
FP4_COLUMNS = 32  # that share a scale
_NUMBERS = ("BF16", "F16", "F32")
_DTYPES: dict[Kind, tuple[str, ...]] = {
    "fp8": ("F8_E4M3",), "fp4": ("I8", "U8"), "number": _NUMBERS, "id": ("I64", "I32"), "scale": ("F8_E8M0", "U8", "F32"),
}  # fmt: skip
_OTHERS = (  # names of transformers and vLLM -> DeepSeek's own, which are left as they are
    (r"^model\.", ""), (r"^embed_tokens\.", "embed."), (r"^lm_head\.", "head."), (r"\bhc_head\.hc_", "hc_head_"), (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.", ".ffn."), (r"\.input_layernorm\.", ".attn_norm."), (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.(attn|ffn)_hc\.(fn|base|scale)$", r".hc_\1_\2"), (r"\.compressor\.indexer\.(?:scorer\.)?(?=weights_proj\.|q_b_proj\.)", ".indexer."),
    (r"\.compressor\.indexer\.", ".indexer.compressor."), (r"\.compressor\.kv_norm\.", ".compressor.norm."), (r"\.position_bias$", ".ape"),
    (r"\.compressor\.gate_proj\.", ".compressor.wgate."), (r"\.(q_[ab]|kv|o_[ab])_proj\.", r".w\1."), (r"\.q_a_norm\.", ".q_norm."),
    (r"\.sinks$", ".attn_sink"), (r"\.gate_proj\.", ".w1."), (r"\.down_proj\.", ".w2."), (r"\.up_proj\.", ".w3."),
    (r"\.e_score_correction_bias$", ".bias"), (r"\.weight_scale_inv$", ".scale"),
)  # fmt: skip
_RENAMES = tuple((re.compile(pattern), replacement) for pattern, replacement in _OTHERS)


@dataclass(frozen=True, slots=True)
class Expected:
    """A tensor by DeepSeek's name for it; `shape` [out, in] counts numbers, of which fp4 stores two in a byte."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    part: Part

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """As the file has it where the tensor is stored as its kind."""
        return (self.shape[0], -(-self.shape[1] // 2)) if self.kind == "fp4" else self.shape


@dataclass(frozen=True, slots=True)
class V4Checkpoint:
    """A complete checkpoint. `stages` counts the drafter's; `tensors` by DeepSeek's names, the confidence head under the last stage."""

    sizes: DeepseekV4
    stages: int
    tensors: dict[str, Stored]


def checked(folder: Path) -> V4Checkpoint:
    """A checkpoint of which everything is there and as its config says, from config and headers alone. Raises CheckpointError."""
    sizes = read_v4(folder)
    if sizes.drafter is None:
        raise refused("missing: DeepSeek-V4 without a fused DSpark drafter", FUSED, folder, "give a DSpark release")
    index = folder / "model.safetensors.index.json"
    file = index if index.exists() else folder / "model.safetensors"
    tensors, stages = _by_runtime_name(read_headers(folder), file)
    left, plain = set(tensors), ""
    for expected in inventory(sizes, stages):
        if expected.kind == "scale" and expected.name == plain:
            continue
        if (stored := tensors.get(expected.name)) is None:
            found = f", {_counted(stages)} found" if expected.name.startswith("mtp.") else ""
            raise CheckpointError("missing", where=file, key=expected.name, remedy=f"expected {_form(expected)}{found}")
        _check(expected, stored)
        left.remove(expected.name)
        if expected.kind in ("fp8", "fp4") and stored.dtype in _NUMBERS:
            plain = _scale_of(expected.name)
    if left:
        stored = tensors[min(left)]
        raise CheckpointError("does not belong to DeepSeek-V4 with a fused drafter as config.json has it", where=stored.file, key=stored.stored_name)
    return V4Checkpoint(sizes, stages, tensors)


def inventory(sizes: DeepseekV4, stages: int) -> Iterator[Expected]:
    """Every tensor that the config implies, quantised ones followed by their scales."""
    for one in _tensors(sizes, stages):
        yield one
        if one.kind in ("fp8", "fp4"):
            rows, columns = sizes.fp8_block if one.kind == "fp8" else (1, FP4_COLUMNS)
            yield Expected(_scale_of(one.name), (-(-one.shape[0] // rows), -(-one.shape[1] // columns)), "scale", one.part)


def runtime_name(name: str) -> str:
    """DeepSeek's name for a tensor that a repackaging may have renamed."""
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _by_runtime_name(headers: dict[str, Stored], file: Path) -> tuple[dict[str, Stored], int]:
    """Tensors, and how many stages `mtp.N` there are. Some repackagings have the confidence head under the first."""
    tensors: dict[str, Stored] = {}
    for name, stored in headers.items():
        other = tensors.setdefault(runtime_name(name), stored)
        if other is not stored:
            raise CheckpointError(f"is the same tensor as {other.stored_name}", where=file, key=name, remedy="keep one of them")
    found = {int(match[1]) for name in tensors if (match := re.match(r"mtp\.(\d{1,4})\.", name))}
    if not found or max(found) + 1 != len(found):
        absent = next(stage for stage in range(len(found) + 1) if stage not in found)
        remedy = "expected a stage of the drafter" + (f": mtp.{max(found)} is there" if found else "; is it a DSpark release?")
        raise CheckpointError("missing", where=file, key=f"mtp.{absent}", remedy=remedy)
    first, last = (f"mtp.{stage}.confidence_head.proj.weight" for stage in (0, len(found) - 1))
    if first in tensors and last not in tensors:
        tensors[last] = tensors.pop(first)
    return tensors, len(found)


def _check(expected: Expected, stored: Stored) -> None:
    """Raises CheckpointError where a tensor has another dtype or shape. What is quantised may be stored as plain numbers."""
    plain = expected.kind in ("fp8", "fp4") and stored.dtype in _NUMBERS
    if not plain and stored.dtype not in _DTYPES[expected.kind]:
        raise CheckpointError(f"dtype {stored.dtype}", where=stored.file, key=stored.stored_name, remedy=f"expected {_form(expected)}")
    if stored.shape != (shape := expected.shape if plain else expected.stored_shape):
        raise CheckpointError(f"shape {list(stored.shape)}", where=stored.file, key=stored.stored_name, remedy=f"expected {list(shape)}")


def _form(expected: Expected) -> str:
    dtypes = _DTYPES[expected.kind]
    return f"{', '.join(dtypes[:-1])}{' or ' * (len(dtypes) > 1)}{dtypes[-1]} {list(expected.stored_shape)}"


def _counted(stages: int) -> str:
    return f"{stages} stage{'s' * (stages > 1)} of the drafter"


def _scale_of(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.scale"


def _tensors(sizes: DeepseekV4, stages: int) -> Iterator[Expected]:
    """Without scales."""
    assert sizes.drafter is not None
    yield Expected("embed.weight", (sizes.vocabulary, sizes.hidden), "number", "tables by token")
    yield Expected("head.weight", (sizes.vocabulary, sizes.hidden), "number", "head")
    yield from _end("", sizes)
    for layer, ratio in enumerate(sizes.ratios):
        yield from _layer(f"layers.{layer}.", sizes, ratio, layer < sizes.hash_layers)
    for stage in range(stages):
        yield from _layer(f"mtp.{stage}.", sizes, WINDOW_ONLY, hashed=False)
    yield from _drafter("mtp.0.", f"mtp.{stages - 1}.", sizes, sizes.drafter)


def _end(prefix: str, sizes: DeepseekV4) -> Iterator[Expected]:
    """From streams to the final norm, of the target and of the drafter's last stage."""
    count = sizes.streams
    for name, shape in (
        ("norm.weight", (sizes.hidden,)),
        ("hc_head_fn", (count, count * sizes.hidden)),
        ("hc_head_base", (count,)),
        ("hc_head_scale", (1,)),
    ):
        yield Expected(prefix + name, shape, "number", "streams, norms and routers")


def _drafter(first: str, last: str, sizes: DeepseekV4, drafter: FusedDrafter) -> Iterator[Expected]:
    """What the first stage has beside a layer, and the last."""
    hidden, rank = sizes.hidden, drafter.markov_rank
    yield Expected(first + "main_proj.weight", (hidden, len(drafter.taps) * hidden), _fp8(sizes), "main projection")
    yield Expected(first + "main_norm.weight", (hidden,), "number", "streams, norms and routers")
    yield from _end(last, sizes)
    yield Expected(last + "markov_head.markov_w1.weight", (sizes.vocabulary, rank), "number", "tables by token")
    yield Expected(last + "markov_head.markov_w2.weight", (sizes.vocabulary, rank), "number", "Markov head")
    yield Expected(last + "confidence_head.proj.weight", (1, hidden + rank), "number", "confidence head")


def _layer(prefix: str, sizes: DeepseekV4, ratio: int, hashed: bool) -> Iterator[Expected]:
    count = sizes.streams
    for part in ("attn", "ffn"):
        shapes: tuple[tuple[str, tuple[int, ...]], ...] = (
            ("fn", ((2 + count) * count, count * sizes.hidden)),
            ("base", ((2 + count) * count,)),
            ("scale", (3,)),
        )
        for name, shape in (*((f"hc_{part}_{name}", shape) for name, shape in shapes), (f"{part}_norm.weight", (sizes.hidden,))):
            yield Expected(prefix + name, shape, "number", "streams, norms and routers")
    yield from _attention(prefix + "attn.", sizes)
    if ratio:
        yield from _compressor(prefix + "attn.compressor.", sizes, ratio, sizes.head_dim)
    if ratio == SPARSE:
        index = prefix + "attn.indexer."
        yield Expected(index + "wq_b.weight", (sizes.index_heads * sizes.index_dim, sizes.query_rank), _fp8(sizes), "compressors and indexers")
        yield Expected(index + "weights_proj.weight", (sizes.index_heads, sizes.hidden), "number", "compressors and indexers")
        yield from _compressor(index + "compressor.", sizes, ratio, sizes.index_dim)
    yield from _experts(prefix + "ffn.", sizes, hashed)


def _attention(prefix: str, sizes: DeepseekV4) -> Iterator[Expected]:
    hidden, rank, head, heads = sizes.hidden, sizes.query_rank, sizes.head_dim, sizes.heads
    output = sizes.output_groups * sizes.output_rank
    for name, shape in (("wq_a", (rank, hidden)), ("wq_b", (heads * head, rank)), ("wkv", (head, hidden)),
                        ("wo_a", (output, heads * head // sizes.output_groups)), ("wo_b", (hidden, output))):  # fmt: skip
        yield Expected(f"{prefix}{name}.weight", shape, _fp8(sizes), "attention")
    for name, size in (("q_norm.weight", rank), ("kv_norm.weight", head), ("attn_sink", heads)):
        yield Expected(prefix + name, (size,), "number", "attention")


def _compressor(prefix: str, sizes: DeepseekV4, ratio: int, width: int) -> Iterator[Expected]:
    channels = 2 * width if ratio == SPARSE else width  # overlapping windows
    for name, shape in (
        ("wkv.weight", (channels, sizes.hidden)),
        ("wgate.weight", (channels, sizes.hidden)),
        ("ape", (ratio, channels)),
        ("norm.weight", (width,)),
    ):
        yield Expected(prefix + name, shape, "number", "compressors and indexers")


def _experts(prefix: str, sizes: DeepseekV4, hashed: bool) -> Iterator[Expected]:
    yield Expected(prefix + "gate.weight", (sizes.experts, sizes.hidden), "number", "streams, norms and routers")
    if hashed:
        yield Expected(prefix + "gate.tid2eid", (sizes.vocabulary, sizes.experts_per_token), "id", "tables by token")
    else:
        yield Expected(prefix + "gate.bias", (sizes.experts,), "number", "streams, norms and routers")
    yield from _expert(prefix + "shared_experts.", sizes, sizes.shared_experts * sizes.expert_hidden, _fp8(sizes), "shared experts")
    for expert in range(sizes.experts):
        yield from _expert(f"{prefix}experts.{expert}.", sizes, sizes.expert_hidden, "fp4" if sizes.fp4_experts else _fp8(sizes), "routed experts")


def _expert(prefix: str, sizes: DeepseekV4, width: int, kind: Kind, part: Part) -> Iterator[Expected]:
    for name, shape in (("w1", (width, sizes.hidden)), ("w3", (width, sizes.hidden)), ("w2", (sizes.hidden, width))):
        yield Expected(f"{prefix}{name}.weight", shape, kind, part)


def _fp8(sizes: DeepseekV4) -> Kind:
    return "fp8" if sizes.quantised else "number"

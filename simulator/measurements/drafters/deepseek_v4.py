"""DeepSeek-V4 and the DSpark drafter in its checkpoint, as config.json describes them (format of V4, §1)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, isfinite, log, pi
from pathlib import Path
from typing import Any

from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.measurements.drafters.fields import Config, architectures, group, listed, need, needed, refused
from simulator.reading.json_files import read_json

MODEL_TYPE, FUSED = "deepseek_v4", "dspark_block_size"
WINDOW_ONLY, SPARSE = 0, 4  # compression ratios of a layer: none; overlapping, with an indexer. Others are plain
ARCHITECTURE_41 = "DeepSeek-V4.1 (engram tables, two-level index, keys shared between layers)"


@dataclass(frozen=True, slots=True)
class FusedDrafter:
    """DSpark inside the target's checkpoint, as tensors `mtp.*`. How many stages there are, only the weights say."""

    block: int
    noise_token: int
    taps: tuple[int, ...]  # layers, 0-based; the mean over the streams of their output
    markov_rank: int


@dataclass(frozen=True, slots=True)
class DeepseekV4:
    """Sizes of a DeepSeek-V4 checkpoint."""

    folder: Path
    hidden: int
    layers: int
    heads: int
    head_dim: int
    rotary_dim: int
    query_rank: int
    output_groups: int
    output_rank: int
    ratios: tuple[int, ...]  # of each layer
    window: int
    index_heads: int
    index_dim: int
    index_topk: int
    theta: float
    compressed_theta: float
    yarn: tuple[float, float, float, float] | None  # factor, original positions, beta fast, beta slow
    experts: int
    experts_per_token: int
    shared_experts: int
    expert_hidden: int
    normalised: bool  # do the weights of the chosen experts sum to 1
    routed_scale: float
    swiglu_limit: float
    hash_layers: int
    streams: int
    sinkhorn_iterations: int
    stream_eps: float
    vocabulary: int
    eps: float
    quantised: bool  # linear layers in fp8
    fp4_experts: bool
    fp8_block: tuple[int, int]
    eos: tuple[int, ...]
    positions: int | None
    drafter: FusedDrafter | None

    def frequencies(self, compressed: bool) -> list[float]:
        """Rotary frequencies of adjacent pairs, of layers that compress (their own base, and YaRN) or do not  # [rotary_dim / 2]."""
        size, base = self.rotary_dim, self.compressed_theta if compressed else self.theta
        plain = [base ** (-2 * i / size) for i in range(size // 2)]
        if not compressed or self.yarn is None:
            return plain
        factor, original, fast, slow = self.yarn
        low, high = (size * log(original / (turns * 2 * pi)) / (2 * log(base)) for turns in (fast, slow))
        low, high = max(floor(low), 0), min(-floor(-high), size - 1)
        ramp = [min(max((i - low) / max(high - low, 0.001), 0.0), 1.0) for i in range(size // 2)]
        return [f * (1 - r) + f / factor * r for f, r in zip(plain, ramp, strict=True)]

    def entries_per_token(self) -> float:
        """Numbers that the cache of a long request grows by with each token: compressed entries; windows do not grow."""
        return sum((self.head_dim + (self.index_dim if ratio == SPARSE else 0)) / ratio for ratio in self.ratios if ratio)


def is_v4(config: Config) -> bool:
    """DeepSeek-V4, with or without a drafter."""
    return config.get("model_type") == MODEL_TYPE


def refuse_v41(config: Config, folder: Path) -> None:
    """V4.1 is another architecture. Raises CheckpointError."""
    if str(config.get("model_type")).replace("_", "").replace(".", "") == "deepseekv41" or "DeepseekV41" in architectures(config):
        text = group(config, "text_config", folder)
        sizes = ", ".join(f"{key} {shown(text[key])}" for key in ("num_hidden_layers", "hidden_size") if key in text)
        raise refused(
            ARCHITECTURE_41 + (f", {sizes}" if sizes else ""), "model_type", folder, "dsim reads DeepSeek-V4; import its costs and acceptance"
        )


def read_v4(folder: Path) -> DeepseekV4:
    """The sizes in `folder`/config.json. Raises CheckpointError for what is missing, contradicts itself or is another architecture."""
    config = read_json(folder / "config.json", CheckpointError, "give the folder of a DeepSeek-V4 checkpoint")
    refuse_v41(config, folder)
    if not is_v4(config):
        raise refused(
            shown(config.get("model_type")),
            "model_type",
            folder,
            f"expected {MODEL_TYPE}, whose checkpoints hold their drafter; give another target's with --draft",
        )
    return _sizes(config, folder)


def _sizes(config: Config, folder: Path) -> DeepseekV4:
    def size(key: str, least: int = 1) -> int:
        return needed(config, key, folder, least)

    def number(key: str, default: float | None = None, inside: Config = config) -> float:
        value = inside.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
            raise refused("missing" if value is None else shown(value), key, folder, "expected a number above 0")
        return float(value)

    layers, storage = size("num_hidden_layers"), group(config, "quantization_config", folder)
    found = DeepseekV4(
        folder, hidden=size("hidden_size"), layers=layers, heads=size("num_attention_heads"), head_dim=size("head_dim"),
        rotary_dim=size("qk_rope_head_dim", 2), query_rank=size("q_lora_rank"), output_groups=size("o_groups"), output_rank=size("o_lora_rank"),
        ratios=_ratios(config, layers, folder), window=size("sliding_window"), index_heads=size("index_n_heads"), index_dim=size("index_head_dim"),
        index_topk=size("index_topk"), theta=number("rope_theta"), compressed_theta=number("compress_rope_theta"), yarn=_yarn(config, folder, number),
        experts=size("n_routed_experts"), experts_per_token=size("num_experts_per_tok"), shared_experts=size("n_shared_experts"),
        expert_hidden=size("moe_intermediate_size"), normalised=bool(config.get("norm_topk_prob", True)),
        routed_scale=number("routed_scaling_factor"), swiglu_limit=number("swiglu_limit") if config.get("swiglu_limit") else inf,
        hash_layers=needed(config, "num_hash_layers", folder), streams=size("hc_mult"), sinkhorn_iterations=size("hc_sinkhorn_iters"),
        stream_eps=number("hc_eps"), vocabulary=size("vocab_size"), eps=number("rms_norm_eps"), quantised=bool(storage),
        fp4_experts=bool(storage) and config.get("expert_dtype", "fp4") == "fp4", fp8_block=_block(storage, folder), eos=_eos(config, folder),
        positions=config.get("max_position_embeddings"), drafter=_drafter(config, layers, folder),
    )  # fmt: skip
    _agree(found, config)
    return found


def _ratios(config: Config, layers: int, folder: Path) -> tuple[int, ...]:
    """Of the layers; the entries after them are the draft stages', which compress nothing."""
    ratios = listed(need(config, "compress_ratios", folder), "compress_ratios", folder)
    wrong = [one for one in ratios if one < 0] + [one for one in ratios[layers:] if one != WINDOW_ONLY]
    if len(ratios) < layers or wrong:
        problem = f"{wrong[0]}" if wrong else f"{len(ratios)} entries for {layers} layers"
        raise refused(problem, "compress_ratios", folder, "expected a number of tokens, or 0, for each layer, then 0 for each draft stage")
    return tuple(ratios[:layers])


def _yarn(config: Config, folder: Path, number: Any) -> tuple[float, float, float, float] | None:
    scaling = group(config, "rope_scaling", folder)
    if not scaling:
        return None
    if (kind := scaling.get("type", scaling.get("rope_type"))) != "yarn":
        raise refused(shown(kind), "rope_scaling", folder, "expected the type yarn")
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
    factor, original, fast, slow = (number(key, default, scaling) for key, default in zip(keys, (None, None, 32, 1), strict=True))
    return factor, original, fast, slow


def _block(storage: Config, folder: Path) -> tuple[int, int]:
    """Rows and columns of a weight that share a scale."""
    block = storage.get("weight_block_size", [128, 128])
    if not isinstance(block, list) or len(block) != 2 or any(type(one) is not int or one < 1 for one in block):
        raise refused(shown(block), "weight_block_size", folder, "expected two whole numbers")
    return block[0], block[1]


def _eos(config: Config, folder: Path) -> tuple[int, ...]:
    ends = config.get("eos_token_id")
    return tuple(listed(ends if isinstance(ends, list) else [ends], "eos_token_id", folder)) if ends is not None else ()


def _drafter(config: Config, layers: int, folder: Path) -> FusedDrafter | None:
    if FUSED not in config:
        return None
    taps = listed(need(config, "dspark_target_layer_ids", folder), "dspark_target_layer_ids", folder)
    if not all(0 <= tap < layers for tap in taps):
        raise refused(shown(taps), "dspark_target_layer_ids", folder, f"expected layers below {layers}")
    block, noise = needed(config, FUSED, folder, 1), needed(config, "dspark_noise_token_id", folder)
    if noise >= needed(config, "vocab_size", folder, 1):
        raise refused(f"{noise}", "dspark_noise_token_id", folder, "expected a token of the vocabulary")
    return FusedDrafter(block, noise, tuple(taps), needed(config, "dspark_markov_rank", folder, 1))


def _agree(sizes: DeepseekV4, config: Config) -> None:
    """What the forward pass takes for granted. Raises CheckpointError."""
    folder = sizes.folder
    for key, default, only in (("scoring_func", "sqrtsoftplus", "sqrtsoftplus"), ("num_key_value_heads", 1, 1), ("tie_word_embeddings", False, False),
                               ("hidden_act", "silu", "silu"), ("attention_bias", False, False)):  # fmt: skip
        if config.get(key, default) != only:
            raise refused(shown(config[key]), key, folder, f"expected {str(only).lower() if isinstance(only, bool) else only}")
    if sizes.quantised and config.get("expert_dtype", "fp4") not in ("fp4", "fp8"):
        raise refused(shown(config["expert_dtype"]), "expert_dtype", folder, "expected fp4 or fp8")
    for key, value, divisor in (("o_groups", sizes.heads, sizes.output_groups), ("qk_rope_head_dim", sizes.rotary_dim, 2)):
        if value % divisor:
            raise refused(f"{value} cannot be divided by {divisor}", key, folder)
    for key, small, large, what in (
        ("num_experts_per_tok", sizes.experts_per_token, sizes.experts, "n_routed_experts"),
        ("qk_rope_head_dim", sizes.rotary_dim, min(sizes.head_dim, sizes.index_dim), "head_dim and index_head_dim"),
        ("num_hash_layers", sizes.hash_layers, sizes.layers, "num_hidden_layers"),
    ):
        if small > large:
            raise refused(f"{small}", key, folder, f"expected at most {what}, {large}")

"""Reads single fields of a drafter's config.json; what is missing or of the wrong kind is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.quantities import MOST_SLOTS

Config = dict[str, Any]
FULL, SLIDING = "full_attention", "sliding_attention"
MOST = {  # of a field; no drafter comes near it
    "hidden_size": 1 << 17, "vocab_size": 1 << 23, "draft_vocab_size": 1 << 23, "num_hidden_layers": 1024, "num_target_layers": 1024,
    "block_size": 1024, "markov_rank": 1 << 17, "ttt_length": MOST_SLOTS, "draft_length": MOST_SLOTS, "mask_token_id": 1 << 23,
}  # fmt: skip


def refused(problem: str, key: str, folder: Path, remedy: str | None = None) -> CheckpointError:
    """What is wrong with a field of the config."""
    return CheckpointError(problem, where=folder / "config.json", key=key, remedy=remedy)


def need(config: Config, key: str, folder: Path) -> Any:
    """A field that must be there."""
    if config.get(key) is None:
        raise refused("missing", key, folder)
    return config[key]


def whole(value: Any, key: str, folder: Path, least: int = 0) -> int:
    """A whole number."""
    most = MOST.get(key, 1 << 31)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise refused(shown(value), key, folder, f"expected a whole number from {least} to {most}")
    return value


def needed(config: Config, key: str, folder: Path, least: int = 0) -> int:
    """A whole number that must be there."""
    return whole(need(config, key, folder), key, folder, least)


def maybe(config: Config, key: str, folder: Path, least: int = 0) -> int | None:
    """A whole number or nothing."""
    return None if config.get(key) is None else whole(config[key], key, folder, least)


def flag(config: Config, *keys: str, folder: Path) -> bool | None:
    """True or false by one of the names that packagings have for it; None where there is none."""
    values = {key: config[key] for key in keys if config.get(key) is not None}
    for key, value in values.items():
        if not isinstance(value, bool):
            raise refused(shown(value), key, folder, "expected true or false")
        if value != next(iter(values.values())):
            raise refused(f"{value} contradicts {next(iter(values))}", key, folder, "keep one of them")
    return next(iter(values.values()), None)


def listed(value: Any, key: str, folder: Path) -> list[int]:
    """Whole numbers, one at least, and no more than a target has layers."""
    most = MOST["num_target_layers"]
    if not isinstance(value, list) or not value or any(isinstance(one, bool) or not isinstance(one, int) for one in value):
        raise refused(shown(value), key, folder, "expected a list of whole numbers")
    if len(value) > most or any(abs(one) > most for one in value):
        raise refused(f"has more than {most} layers, or a layer above {most}", key, folder, "name the layers of the target")
    return value


def group(config: Config, key: str, folder: Path) -> Config:
    """A nested object, empty where there is none."""
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise refused(shown(value), key, folder, "expected an object")
    return value or {}


def architectures(config: Config) -> str:
    """All named in `architectures`."""
    names = config.get("architectures") or ()
    return " ".join(map(str, names)) if isinstance(names, (list, tuple)) else str(names)


def windows(config: Config, layers: Config, folder: Path) -> tuple[int | None, ...]:
    """The sliding window of each draft layer, None where it sees everything. Distances count from each token's own position, as engines serve it."""
    file, count = folder / "config.json", needed(layers, "num_hidden_layers", folder, 1)
    types = layers.get("layer_types") or [FULL] * count
    if not isinstance(types, list) or len(types) != count or any(one not in (FULL, SLIDING) for one in types):
        raise CheckpointError(shown(types), where=file, key="layer_types", remedy=f"expected {count} of {FULL}, {SLIDING}")
    if SLIDING not in types:
        return (None,) * count
    if layers.get("model_type") != "qwen3":
        raise CheckpointError(f"{SLIDING} on a {shown(layers.get('model_type'))} draft backbone is not supported", where=file, key="layer_types")
    size = needed(config if config.get("sliding_window") is not None else layers, "sliding_window", folder, 1)
    return tuple(size if one == SLIDING else None for one in types)


def causal(config: Config, sizes: tuple[int | None, ...], folder: Path) -> bool:
    """Does a token of the block see only those before it? `sliding_window_non_causal: false` makes the sliding layers so, no others."""
    file, key = folder / "config.json", "sliding_window_non_causal"
    everywhere = bool(config.get("dflash_query_causal", config.get("attention_mode") == "causal"))
    slid = [size is not None for size in sizes]
    if config.get(key) is None or not any(slid):
        return everywhere
    if config[key] and everywhere:
        raise CheckpointError("true contradicts a causal block", where=file, key=key)
    if not config[key] and not all(slid) and not everywhere:
        raise CheckpointError("false with full layers beside sliding ones is not supported", where=file, key=key, remedy="one mask for all layers is")
    return not config[key]

"""Recognises how a drafter is packaged and normalises its config to one DraftSpec (checkpoint format §2, §8, §9)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from real_runner.drafters.spec import DraftSpec, Packaging
from real_runner.failures import CheckpointError
from real_runner.target import POST_NORM

Config = dict[str, Any]
UNSUPPORTED = ("attention_sink_bias", "logit_scale", "draft_adapter_rank")  # would change the numbers: refused where set


def read_config(folder: Path) -> Config:
    """config.json of a checkpoint folder."""
    file = folder / "config.json"
    try:
        read = json.loads(file.read_text())
    except OSError as error:
        raise CheckpointError("no config.json", where=folder, remedy="give the folder of a drafter checkpoint") from error
    except ValueError as error:
        raise CheckpointError(f"not JSON: {error}", where=file) from error
    if not isinstance(read, dict):
        raise CheckpointError("expected a JSON object", where=file)
    return read


def read_spec(folder: Path, target_layers: int | None = None) -> DraftSpec:
    """The drafter in `folder`; `target_layers` helps packagings that leave the tapped layers to a default."""
    config = read_config(folder)
    refuse_fused(config, folder)
    for recognised, make in PACKAGINGS:
        if recognised(config):
            given = make(config, folder, target_layers)
            break
    else:
        found = config.get("architectures") or config.get("model_type")
        raise CheckpointError(
            f"unknown packaging {found}",
            where=folder / "config.json",
            key="architectures",
            remedy="known: DeepSpec (*DSparkModel, *Eagle3Model), SpecForge (DFlashDraftModel, DSparkDraftModel, LlamaForCausalLMEagle3), "
            "vLLM speculators, MTP (num_nextn_predict_layers)",
        )
    return given


def refuse_fused(config: Config, folder: Path) -> None:
    """DeepSeek-V4's layout: understood, reported, not run (§9)."""
    if not any(key.startswith("dspark_") for key in config):
        return
    block, rank = config.get("dspark_block_size", "?"), config.get("dspark_markov_rank", "?")
    raise CheckpointError(
        f"DSpark fused into a DeepSeek-V4 target (block {block}, taps {config.get('dspark_target_layer_ids', '?')}, Markov rank {rank}): "
        "this engine does not run it",
        where=folder / "config.json",
        key="dspark_block_size",
        remedy="its costs come from an imported profile",
    )


def _native(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    return _block_spec(config, config, folder, "deepspec", taps=_need(config, "target_layer_ids", folder), first_slot=0)


def _native_eagle(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    if str(config.get("model_type", "")).startswith("gemma"):
        raise CheckpointError("Eagle3 on a Gemma backbone is not supported", where=folder / "config.json", key="model_type")
    taps = _need(config, "target_layer_ids", folder)
    return _eagle_spec(config, config, folder, "deepspec", taps, _need(config, "ttt_length", folder), config.get("num_target_layers"))


def _specforge(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    nested = {**config, **config.get("dflash_config", {})}
    dspark = "DSpark" in _architectures(config) or nested.get("projector_type") == "dspark" or nested.get("markov_rank", 0) > 0
    first = 0 if nested.get("sample_from_anchor", dspark) else 1  # the original DFlash predicts the masked slots only: 15 of 16
    return _block_spec(nested, config, folder, "specforge", taps=_need(nested, "target_layer_ids", folder), first_slot=first)


def _specforge_eagle(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    taps = config.get("eagle_config", {}).get("eagle_aux_hidden_state_layer_ids")
    layers = config.get("num_target_layers", target_layers)
    taps = _default_eagle_taps(layers, folder) if taps is None else taps
    gamma = config.get("ttt_length", config.get("speculative_num_steps", 7))
    return _eagle_spec(config, config, folder, "specforge", taps, gamma, layers)


def _speculators(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    kind = config["speculators_model_type"]
    layers: Config = config.get("transformer_layer_config", {})
    if not layers:
        raise CheckpointError("missing", where=folder / "config.json", key="transformer_layer_config", remedy="expected the draft layers' config")
    aux = config.get("aux_hidden_state_layer_ids", config.get("eagle_aux_hidden_state_layer_ids"))
    taps = None if aux is None else [tap - 1 for tap in aux]  # they name the layer that reads, we the one that wrote
    if kind == "eagle3":
        taps = _default_eagle_taps(target_layers, folder) if taps is None else taps
        methods = config.get("speculators_config", {}).get("proposal_methods") or [{}]
        return _eagle_spec(config, layers, folder, "speculators", taps, methods[0].get("speculative_tokens", 3), None)
    if kind not in ("dspark", "dflash"):
        raise CheckpointError(
            f"unsupported speculator {kind!r}", where=folder / "config.json", key="speculators_model_type", remedy="supported: dspark, dflash, eagle3"
        )
    if taps is None:
        raise CheckpointError("missing", where=folder / "config.json", key="aux_hidden_state_layer_ids", remedy="expected the tapped layers, plus 1")
    first = 0 if config.get("sample_from_anchor", False) else 1  # old heads: the anchor's slot predicts nothing
    return _block_spec(config, layers, folder, "speculators", taps=taps, first_slot=first)


def _mtp(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    one = {**config, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    return DraftSpec(folder, "deepseek", "mtp", one, (POST_NORM,), block=1, first_slot=0, gamma=int(config.get("draft_length", 1)))


def _block_spec(given: Config, layers: Config, folder: Path, packaging: Packaging, *, taps: list[int], first_slot: int) -> DraftSpec:
    for key in UNSUPPORTED:
        if given.get(key):
            raise CheckpointError(f"{given[key]} is not supported", where=folder / "config.json", key=key)
    block, rank = int(_need(given, "block_size", folder)), int(given.get("markov_rank", 0))
    kind = str(given.get("markov_head_type", "vanilla")) if rank else "none"
    if kind not in ("none", "vanilla", "gated", "rnn"):
        raise CheckpointError(f"unknown {kind!r}", where=folder / "config.json", key="markov_head_type", remedy="known: vanilla, gated, rnn")
    if kind == "rnn" and first_slot:
        raise CheckpointError(
            "an rnn head on a block whose anchor predicts nothing is not supported", where=folder / "config.json", key="markov_head_type"
        )
    head = given.get("enable_confidence_head", False)
    with_token = given.get("confidence_head_with_markov", rank > 0)
    window = given.get("sliding_window") if "sliding_attention" in (layers.get("layer_types") or ()) else None
    return DraftSpec(
        folder,
        packaging,
        "dspark" if rank or head else "dflash",
        layers,
        tuple(taps),
        block=block,
        first_slot=first_slot,
        gamma=block - first_slot,
        mask_token=int(_need(given, "mask_token_id", folder)),
        markov_rank=rank,
        markov_kind=kind,  # type: ignore[arg-type]
        confidence="none" if not head else "hidden+token" if with_token else "hidden",
        draft_vocabulary=_reduced(given, layers),
        causal_block=bool(given.get("dflash_query_causal", given.get("attention_mode") == "causal")),
        window=None if window is None else int(window),
        target_layers=given.get("num_target_layers"),
    )


def _eagle_spec(
    given: Config, layers: Config, folder: Path, packaging: Packaging, taps: list[int], gamma: int, target_layers: int | None
) -> DraftSpec:
    one = {**layers, "num_hidden_layers": 1, "layer_types": ["full_attention"], "model_type": layers.get("model_type", "llama")}
    return DraftSpec(
        folder,
        packaging,
        "eagle3",
        one,
        tuple(taps),
        block=1,
        first_slot=0,
        gamma=int(gamma),
        draft_vocabulary=_reduced(given, layers),
        norm_before_residual=bool(given.get("norm_before_residual", False)),
        target_layers=target_layers,
    )


def _reduced(given: Config, layers: Config) -> int | None:
    size = given.get("draft_vocab_size")
    return None if size is None or size == layers.get("vocab_size") else int(size)


def _default_eagle_taps(layers: int | None, folder: Path) -> list[int]:
    if layers is None:
        raise CheckpointError("the tapped layers are not given", where=folder / "config.json", key="eagle_aux_hidden_state_layer_ids")
    return [1, layers // 2 - 1, layers - 4]  # low, middle, high: what engines use where a checkpoint is silent


def _need(config: Config, key: str, folder: Path) -> Any:
    if config.get(key) is None:
        raise CheckpointError("missing", where=folder / "config.json", key=key)
    return config[key]


def _architectures(config: Config) -> str:
    return " ".join(config.get("architectures") or ())


PACKAGINGS: list[tuple[Callable[[Config], bool], Callable[[Config, Path, int | None], DraftSpec]]] = [
    (lambda c: "speculators_model_type" in c, _speculators),
    (lambda c: "DSparkDraftModel" in _architectures(c) or "DFlashDraftModel" in _architectures(c) or "dflash_config" in c, _specforge),
    (lambda c: "LlamaForCausalLMEagle3" in _architectures(c), _specforge_eagle),
    (lambda c: "DSparkModel" in _architectures(c), _native),
    (lambda c: "Eagle3Model" in _architectures(c) or "Eagle3DraftModel" in _architectures(c), _native_eagle),
    (lambda c: bool(c.get("num_nextn_predict_layers")), _mtp),
]

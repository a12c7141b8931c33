"""Recognises how a drafter is packaged and normalises its config to one DraftSpec (checkpoint format §2, §8, §9)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator.complaints import shown
from simulator.errors import CheckpointError
from simulator.measurements.drafters.deepseek_v4 import FUSED as FUSED_BLOCK
from simulator.measurements.drafters.deepseek_v4 import is_v4, read_v4, refuse_v41
from simulator.measurements.drafters.fields import Config, architectures, causal, flag, group, listed, maybe, need, needed, refused, whole, windows
from simulator.measurements.drafters.spec import FUSED, POST_NORM, DraftSpec, Packaging
from simulator.reading.json_files import read_json

KNOWN = (
    "DeepSpec (*DSparkModel, *Eagle3Model), SpecForge (DFlashDraftModel, DSparkDraftModel, LlamaForCausalLMEagle3), vLLM speculators, "
    "DeepSeek-V4 with DSpark (dspark_block_size), vLLM (Eagle3Qwen3ForCausalLM, Eagle3LlamaForCausalLM), "
    "MTP (num_nextn_predict_layers)"
)
CONFIDENCE = ("enable_confidence_head", "use_confidence_head")  # DeepSpec's and vLLM's name, SpecForge's name
UNSUPPORTED = ("attention_sink_bias", "logit_scale", "draft_adapter_rank")  # would change the numbers: refused where set


def read_spec(folder: Path, target_layers: int | None = None) -> DraftSpec:
    """The drafter in `folder`; `target_layers` helps packagings that leave the tapped layers to a default."""
    config = read_json(folder / "config.json", CheckpointError, "give the folder of a drafter checkpoint")
    refuse_v41(config, folder)
    for recognised, make in PACKAGINGS:
        if recognised(config):
            return make(config, folder, target_layers)
    kind = config.get("architectures") or config.get("model_type")
    raise refused(f"unknown packaging {str(kind)[:80]}", "architectures", folder, f"known: {KNOWN}")


def _fused(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    """In the checkpoint of a DeepSeek-V4 target."""
    drafter, block = read_v4(folder).drafter, FUSED_BLOCK
    if drafter is None:
        raise refused("missing: DeepSeek-V4 without the DSpark drafter", block, folder, "dsim does not run the MTP layer of these releases")
    return DraftSpec(
        folder, FUSED, "dspark", config, drafter.taps, block=drafter.block, first_slot=0, gamma=drafter.block, mask_token=drafter.noise_token,
        markov_rank=drafter.markov_rank, markov_kind="vanilla", confidence="hidden+token", target_layers=config["num_hidden_layers"],
    )  # fmt: skip


def _native(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    first = 1 if flag(config, "sample_from_anchor", folder=folder) is False else 0  # vLLM's name for what speculators' blocks may do
    return _block_spec(config, config, folder, "deepspec", taps=need(config, "target_layer_ids", folder), first_slot=first)


def _native_eagle(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    taps = need(config, "target_layer_ids", folder)
    return _eagle_spec(config, config, folder, "deepspec", taps, need(config, "ttt_length", folder), config.get("num_target_layers"))


def _specforge(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    nested = {**config, **{key: value for key, value in group(config, "dflash_config", folder).items() if value is not None}}
    heads = bool(maybe(nested, "markov_rank", folder)) or bool(flag(nested, *CONFIDENCE, folder=folder))  # which DFlash has not
    dspark = "DSpark" in architectures(config) or nested.get("projector_type") == "dspark" or heads
    anchored = flag(nested, "sample_from_anchor", folder=folder)
    first = 0 if (dspark if anchored is None else anchored) else 1  # the original DFlash predicts the masked slots only: 15 of 16
    shifted = flag(nested, "shift_label", folder=folder)
    if shifted is not None and shifted != (first == 0):
        block = f"a {'DSpark' if dspark else 'DFlash'} block whose anchor predicts {'nothing' if first else 'a token'}"
        raise refused(f"{str(shifted).lower()} is not supported on {block}", "shift_label", folder)
    return _block_spec(nested, config, folder, "specforge", taps=need(nested, "target_layer_ids", folder), first_slot=first)


def _specforge_eagle(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    taps = group(config, "eagle_config", folder).get("eagle_aux_hidden_state_layer_ids")
    layers = config.get("num_target_layers") or target_layers
    taps = _default_eagle_taps(layers, folder) if taps is None else taps
    gamma = config.get("ttt_length", config.get("speculative_num_steps", 7))
    return _eagle_spec(config, config, folder, "specforge", taps, gamma, layers)


def _vllm_eagle(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    aux = listed(need(config, "eagle_aux_hidden_state_layer_ids", folder), "eagle_aux_hidden_state_layer_ids", folder)
    taps = [tap - 1 for tap in aux]  # they name the layer that reads, we the one that wrote
    return _eagle_spec(config, config, folder, "vllm", taps, config.get("ttt_length", 7), config.get("num_target_layers"))


def _speculators(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    kind = config["speculators_model_type"]
    layers = group(config, "transformer_layer_config", folder)
    if not layers:
        raise refused("missing", "transformer_layer_config", folder, "expected the draft layers' config")
    aux = config.get("aux_hidden_state_layer_ids", config.get("eagle_aux_hidden_state_layer_ids"))
    taps = None  # they name the layer that reads, we the one that wrote
    if aux is not None:
        taps = [tap - 1 for tap in listed(aux, "aux_hidden_state_layer_ids", folder)]
    if kind == "eagle3":
        taps = _default_eagle_taps(target_layers, folder) if taps is None else taps
        methods = group(config, "speculators_config", folder).get("proposal_methods") or [{}]
        method = methods[0] if isinstance(methods, list) and isinstance(methods[0], dict) else {}
        return _eagle_spec(config, layers, folder, "speculators", taps, method.get("speculative_tokens", 3), None)
    if kind not in ("dspark", "dflash"):
        raise refused(f"unsupported speculator {shown(kind)}", "speculators_model_type", folder, "supported: dspark, dflash, eagle3")
    if taps is None:
        raise refused("missing", "aux_hidden_state_layer_ids", folder, "expected the tapped layers, plus 1")
    first = 0 if config.get("sample_from_anchor", False) else 1  # old heads: the anchor's slot predicts nothing
    return _block_spec(config, layers, folder, "speculators", taps=taps, first_slot=first)


def _mtp(config: Config, folder: Path, target_layers: int | None) -> DraftSpec:
    one = _one_layer(config, folder)
    gamma = whole(config.get("draft_length", 1), "draft_length", folder, 1)
    return DraftSpec(folder, "deepseek", "mtp", one, (POST_NORM,), block=1, first_slot=0, gamma=gamma)


def _block_spec(config: Config, layers: Config, folder: Path, packaging: Packaging, *, taps: Any, first_slot: int) -> DraftSpec:
    _sized(layers, folder)
    for key in UNSUPPORTED:
        if config.get(key):
            raise refused(f"{shown(config[key])} is not supported", key, folder)
    block, rank = needed(config, "block_size", folder, 1 + first_slot), maybe(config, "markov_rank", folder) or 0
    kind = str(config.get("markov_head_type", "vanilla")) if rank else "none"
    if kind not in ("none", "vanilla", "gated", "rnn"):
        raise refused(f"unknown {shown(kind)}", "markov_head_type", folder, "known: vanilla, gated, rnn")
    if kind == "rnn" and first_slot:
        raise refused("an rnn head on a block whose anchor predicts nothing is not supported", "markov_head_type", folder)
    head = flag(config, *CONFIDENCE, folder=folder)
    with_token = flag(config, "confidence_head_with_markov", folder=folder)
    with_token = rank > 0 if with_token is None else with_token
    sizes = windows(config, layers, folder)
    if any(sizes):  # ours to honour, whatever transformers makes of the inherited config
        layers = {**layers, "layer_types": ["full_attention"] * len(sizes)}
    return DraftSpec(
        folder,
        packaging,
        "dspark" if rank or head else "dflash",
        layers,
        tuple(listed(taps, "target_layer_ids", folder)),
        block=block,
        first_slot=first_slot,
        gamma=block - first_slot,
        mask_token=needed(config, "mask_token_id", folder),
        markov_rank=rank,
        markov_kind=kind,  # type: ignore[arg-type]
        confidence="none" if not head else "hidden+token" if with_token else "hidden",
        draft_vocabulary=_reduced(config, layers, folder),
        causal_block=causal(config, sizes, folder),
        windows=sizes,
        target_layers=maybe(config, "num_target_layers", folder, 1),
    )


def _eagle_spec(config: Config, layers: Config, folder: Path, packaging: Packaging, taps: Any, gamma: Any, target_layers: Any) -> DraftSpec:
    layers = {"model_type": "llama", **layers}
    one = _one_layer(layers, folder)
    for key, said in (("norm_output", config), ("norm_output", group(config, "eagle_config", folder))):
        if flag(said, key, folder=folder):
            raise refused("true is not supported: tokens after the first are drafted from states before the last norm", key, folder)
    return DraftSpec(
        folder,
        packaging,
        "eagle3",
        one,
        tuple(listed(taps, "target_layer_ids", folder)),
        block=1,
        first_slot=0,
        gamma=whole(gamma, "ttt_length", folder, 1),
        draft_vocabulary=_reduced(config, layers, folder),
        norm_before_residual=bool(config.get("norm_before_residual", False)),
        windows=() if packaging == "deepspec" or layers.get("use_sliding_window") is False else _window_of_one(config, layers, folder),
        target_layers=None if target_layers is None else whole(target_layers, "num_target_layers", folder, 1),
    )


def _one_layer(layers: Config, folder: Path) -> Config:
    """The backbone of a chain. Gemma's layers have norms that it does not apply."""
    if str(layers.get("model_type")).startswith("gemma"):
        raise refused("Eagle3 and MTP on a Gemma backbone are not supported", "model_type", folder)
    _sized(layers, folder)
    return {**layers, "num_hidden_layers": 1, "layer_types": ["full_attention"]}


def _window_of_one(config: Config, layers: Config, folder: Path) -> tuple[int | None, ...]:
    """That of a chain's layer, the first of those that the config names."""
    types = layers.get("layer_types")
    return windows(config, {**layers, "num_hidden_layers": 1, "layer_types": types[:1] if isinstance(types, list) else types}, folder)


def _sized(layers: Config, folder: Path) -> None:
    for key in ("hidden_size", "vocab_size"):
        needed(layers, key, folder, 1)
    maybe(layers, "num_hidden_layers", folder, 1)


def _reduced(config: Config, layers: Config, folder: Path) -> int | None:
    size = maybe(config, "draft_vocab_size", folder, 1)
    return None if size == layers["vocab_size"] else size


def _default_eagle_taps(layers: Any, folder: Path) -> list[int]:
    if not isinstance(layers, int):
        raise refused("the tapped layers are not given", "eagle_aux_hidden_state_layer_ids", folder)
    return [1, layers // 2 - 1, layers - 4]  # low, middle, high: what engines use where a checkpoint is silent


PACKAGINGS: list[tuple[Callable[[Config], bool], Callable[[Config, Path, int | None], DraftSpec]]] = [
    (lambda c: is_v4(c) or FUSED_BLOCK in c, _fused),
    (lambda c: "speculators_model_type" in c, _speculators),
    (lambda c: "DSparkDraftModel" in architectures(c) or "DFlashDraftModel" in architectures(c) or "dflash_config" in c, _specforge),
    (lambda c: "LlamaForCausalLMEagle3" in architectures(c), _specforge_eagle),
    (lambda c: any(f"Eagle3{layers}ForCausalLM" in architectures(c) for layers in ("Qwen3", "Llama")), _vllm_eagle),
    (lambda c: "DSparkModel" in architectures(c), _native),
    (lambda c: "Eagle3Model" in architectures(c) or "Eagle3DraftModel" in architectures(c), _native_eagle),
    (lambda c: bool(c.get("num_nextn_predict_layers")), _mtp),
]

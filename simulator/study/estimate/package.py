"""What is asked of the package aiconfigurator-core (extra `estimate`) beside the price of an operator: what there is, shapes of models, memory.

Nothing is fetched: a model is one that the package ships, or a folder.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.study.estimate.shapes import AllGather, AllReduce, Attention, Gemm, Shape, Streamed

ENGINES = ("vllm", "sglang", "trtllm")
PACKAGE = "aiconfigurator-core"
_SAID = (ValueError, RuntimeError, KeyError, AssertionError, NotImplementedError)  # how the package says that it cannot


@dataclass(frozen=True)
class Deployment:
    """One replica as the package asks for it: names are the package's, None leaves it to the model's own configuration."""

    model: str
    system: str
    engine: str
    tp: int = 1
    pp: int = 1
    dp: int = 1
    moe_tp: int | None = None
    moe_ep: int | None = None
    gemm: str | None = None
    moe: str | None = None
    kv: str | None = None
    attention: str | None = None

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.tp * self.pp * self.dp

    @property
    def experts(self) -> tuple[int, int]:
        """Tensor and expert parallelism of experts: all of the first where neither is said."""
        return self.moe_tp or (1 if self.moe_ep else self.tp * self.dp), self.moe_ep or 1


@contextmanager
def spoken(of: Deployment) -> Iterator[None]:
    """The package's own errors as one line of ours; its warnings kept back."""
    loggers = logging.getLogger("aiconfigurator_core"), logging.getLogger("aiconfigurator")
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with installed():
            yield
    except Exception as error:
        if isinstance(error, DsimError) or not (isinstance(error, _SAID) or Path(of.model).is_dir()):  # a folder's config may hold anything
            raise
        said = re.sub(r" at /\S+", "", " ".join(str(error).split()))[:250]
        if lacking := re.search(r"quant mode '(\w+)' needs '(\w+)_tc_flops'", said):
            said = f"it does not compute in {lacking[2]}, which {lacking[1]} needs"
        raise DsimError(f"cannot be estimated for {of.system} under {of.engine}: {said}", where=of.model) from None
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def model_of(of: Deployment) -> tuple[Any, Any]:
    """The package's model and its database of kernel times. Raises ValueError for a model that would have to be fetched."""
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.models import get_model

    _check_known(of)
    settings = build_model_config(of.tp, of.pp, of.dp, *of.experts, of.gemm, of.kv, of.attention, of.moe)
    return get_model(of.model, settings, of.engine), database(of.system, of.engine)


def built(shape: Shape, of: Deployment, settings: Any) -> Any:
    """The package's operator of these sizes."""
    from aiconfigurator_core.sdk import common, operations

    match shape:
        case Gemm(name, inputs, outputs, count):
            return operations.GEMM(name, count, outputs, inputs, common.GEMMQuantMode.bfloat16)
        case Attention(name, heads, kv_heads, head_size, count):
            return operations.GenerationAttention(name, count, heads, kv_heads, settings.kvcache_quant_mode, head_size=head_size)
        case Streamed(name, read, written, count):
            return operations.ElementWise(name, count, read, written, 0.8)
        case AllReduce(name, width, count):
            return operations.CustomAllReduce(name, count, width, of.tp)
        case AllGather(name, width):
            gathered = {"num_elements_per_token": width, "num_gpus": of.tp, "comm_quant_mode": common.CommQuantMode.half}
            return operations.NCCL(name, 1, "all_gather", **gathered)


@cache
def database(system: str, engine: str) -> Any:
    from aiconfigurator_core.sdk import perf_database

    version = perf_database.resolve_query_version(system, engine, "current")
    found = perf_database.get_database(system, engine, version)
    if found is None:
        raise ValueError("the package has no kernel times for it")
    return found


@cache
def handle(system: str, engine: str) -> Any:
    from aiconfigurator_core.sdk.engine import EngineHandle

    return EngineHandle.for_database(database(system, engine))


@cache
def _named() -> frozenset[str]:
    from aiconfigurator_core.sdk.common import DefaultHFModels

    return frozenset(DefaultHFModels)


def _check_known(of: Deployment) -> None:
    """Raises ValueError for a model that would have to be fetched."""
    if of.model not in _named() and not Path(of.model).is_dir():
        raise ValueError("the package has no such model")


def models() -> list[str]:
    """Names of the models whose shapes the package has. Raises DsimError where it is not installed."""
    with installed():
        return sorted(_named(), key=str.lower)


@cache
def systems() -> dict[str, dict[str, str]]:
    """By system, the engines that kernel times are there of, with the version that was measured. Raises DsimError where the package is missing."""
    with installed():
        from aiconfigurator_core.sdk import perf_database

        names = sorted(path.stem for root in perf_database.get_systems_paths() for path in Path(root).glob("*.yaml"))
        slots = {name: {engine: perf_database.get_version_slots(name, engine) for engine in ENGINES} for name in names}
    found = {name: {engine: slot["current"] for engine, slot in engines.items() if slot} for name, engines in slots.items()}
    return {name: engines for name, engines in found.items() if engines}


def sample_file() -> Path:
    """The package's sample of real serving runs. Raises DsimError where the package is missing."""
    with installed():
        import aiconfigurator_core

        return Path(str(aiconfigurator_core.__file__)).parent / "systems" / "silicon_sample.csv"


def package_version() -> str:
    """Of the package that is installed."""
    from importlib.metadata import version

    return version(PACKAGE)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU of a replica: its own, what is not KV, what is left for KV; and the KV of a token (at `CONTEXT` tokens a request)."""

    gpu: float
    weights: float
    beside: float
    kv: float
    token: float
    fraction: float
    of_free: bool


def quantisations() -> dict[str, list[str]]:
    """By part of the model (as Deployment calls them), the package's names of number formats."""
    with installed():
        from aiconfigurator_core.sdk import common

        modes = {"gemm": common.GEMMQuantMode, "moe": common.MoEQuantMode, "kv": common.KVCacheQuantMode, "attention": common.FMHAQuantMode}
        return {part: [mode.name for mode in mode_of] for part, mode_of in modes.items()}


@dataclass(frozen=True)
class Facts:
    """Of a deployment: the model's architecture, longest context and number of experts; bytes of a GPU's memory, and those it reads in a second."""

    architecture: str
    context: int | None
    experts: int
    gpu_bytes: float
    bandwidth: float


def facts_of(of: Deployment) -> Facts:
    """Raises DsimError for a model or system that the package does not have."""
    with spoken(of):
        from aiconfigurator_core.sdk.utils import get_model_config_from_model_path

        _check_known(of)
        shape, gpu = get_model_config_from_model_path(of.model), database(of.system, of.engine).system_spec["gpu"]
    longest = shape.get("context")
    experts = int(shape.get("num_experts") or 0)
    return Facts(str(shape["architecture"]), int(longest) if longest else None, experts, float(gpu["mem_capacity"]), float(gpu["mem_bw"]))


def own_handle(of: Deployment) -> Any:
    """Prices from the engine's own tables alone: what they lack, others' do not fill."""
    from aiconfigurator_core.sdk import perf_database
    from aiconfigurator_core.sdk.engine import EngineHandle

    found = perf_database.get_database(of.system, of.engine, database(of.system, of.engine).version, shared_layer=False)
    return EngineHandle.for_database(found)


def low_fidelity_tables(of: Deployment) -> set[str]:
    """Names of the tables that the package would fill from another engine without knowing the kernel."""
    with spoken(of):
        found = database(of.system, of.engine)
        found._materialize_source_reports()
        return {str(table) for table, _ in found._fallback_warned}


CONTEXT = 4096  # tokens of a request at which the KV of models with windows or states is taken


def memory_of(of: Deployment, step_tokens: int, requests: int, fraction: float | None = None) -> Memory:
    """Memory by the package's model: `fraction` of all memory, or of what is free (TensorRT-LLM); the engine's own where None.

    KV is negative where the rest does not fit. Raises DsimError for what the package cannot express.
    """
    with spoken(of):
        from aiconfigurator_core.sdk.backends.factory import get_backend
        from aiconfigurator_core.sdk.memory import KVCacheEstimator

        model, data = model_of(of)
        gpu = float(data.system_spec["gpu"]["mem_capacity"])
        check = get_backend(of.engine)._static_oom_check_kwargs(
            mem_capacity_bytes=int(gpu), free_gpu_memory_fraction=fraction, backend_version=data.version, model_config=model.config
        )
        moe_tp, moe_ep = of.experts
        parts = KVCacheEstimator.from_request(
            of.model, of.system, of.engine, data.version, max_num_tokens=step_tokens, max_batch_size=requests, tp_size=of.tp, pp_size=of.pp,
            attention_dp_size=of.dp, moe_tp_size=moe_tp, moe_ep_size=moe_ep, gemm_quant_mode=of.gemm, moe_quant_mode=of.moe,
            kvcache_quant_mode=of.kv, fmha_quant_mode=of.attention,
        ).breakdown  # fmt: skip
        token = float(model.get_kvcache_bytes_per_sequence(CONTEXT)) / CONTEXT
    share, of_free = float(check["free_gpu_memory_fraction"]), bool(check["fraction_of_free"])
    beside = float(parts["non_kv_bytes"])
    left = (gpu - beside) * share if of_free else gpu * share - beside
    return Memory(gpu, float(parts["weights_bytes"]), beside - float(parts["weights_bytes"]), left, token, share, of_free)


@contextmanager
def installed() -> Iterator[None]:
    """Raises DsimError where the package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if "aiconfigurator" not in str(error):
            raise
        problem = f"needs the package {PACKAGE}, which is not installed"
        raise DsimError(problem, where="dsim estimate", remedy="pip install 'dsim[estimate]' (Python 3.11 to 3.13)") from None

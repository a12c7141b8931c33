"""The sample as runs: which replica each was, or why it cannot be simulated. Halves by a digest of the id.

The sample has three kinds of sources. `db-dump` and `source_file=DATE.csv` are InferenceMAX's runs (its scripts are public), of which the same
measurement often stands in several rows, with differing columns; their expert parallelism is filed as moe_tp = moe_ep = n, tp = n², which is n GPUs
with experts spread over all (dp = n² with data-parallel attention). `source_file=/…` are the sample's authors' own runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.reading.csv_files import read_csv
from simulator.study.estimate.package import Deployment

_CONCURRENCY = re.compile(r"silicon_concurrency=(\d+)")
_MOST_TP = 8  # of one node: wider attention is several replicas, filed as one
_SERIES = re.compile(r"(\d+\.\d+)")
_IMAGE = re.compile(r"(?:v|release:)(\d+\.\d+[.\w]*)")
NVFP4 = {
    "deepseek-ai/DeepSeek-R1": "nvidia/DeepSeek-V3.1-NVFP4",
    "deepseek-ai/DeepSeek-V3": "nvidia/DeepSeek-V3.1-NVFP4",
    "nvidia/DeepSeek-R1-NVFP4": "nvidia/DeepSeek-V3.1-NVFP4",
    "Qwen/Qwen3.5-397B-A17B": "nvidia/Qwen3.5-397B-A17B-NVFP4",
    "zhipuai/GLM-5": "nvidia/GLM-5-NVFP4",
    "MiniMaxAI/MiniMax-M2.5": "nvidia/MiniMax-M2.5-NVFP4",
    "moonshotai/Kimi-K2.5": "nvidia/Kimi-K2.5-NVFP4",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
}  # the checkpoint that the package has, where a run was in FP4
NAMED = {
    "deepseek-ai/DeepSeek-R1": "deepseek-ai/DeepSeek-V3",
    "zhipuai/GLM-5": "zai-org/GLM-5-FP8",
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
}
_DENSE = ("Llama", "Qwen3-32B")
_MLA = ("DeepSeek", "Kimi")


@dataclass(frozen=True)
class Run:
    """One measured run: its numbers, and the replica that it was of, or why it is left out. Times in seconds."""

    id: str
    source: str
    engine: str
    version: str
    model: str
    system: str
    precision: str
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    of: Deployment | None
    why_not: str = ""

    @property
    def judged(self) -> bool:
        """In the half that judges (odd); the even one may be fitted on."""
        return int(hashlib.sha256(self.id.encode()).hexdigest(), 16) % 2 == 1

    @property
    def inferencemax(self) -> bool:
        """One of InferenceMAX's, whose scripts are public."""
        return not self.source.startswith("source_file=/")

    @property
    def series(self) -> str:
        """Major version of the engine: 0 where the sample does not say, as of its older runs."""
        found = _SERIES.match(self.version)
        newest = self.version and not self.version.startswith("gpt-oss")  # nightly builds; that one is of a model's release
        return found[1] if found else "nightly" if newest else "0"

    @property
    def group(self) -> str:
        """Engine, model, system and precision."""
        return f"{self.engine} {self.model.split('/')[-1]} {self.precision} {self.system}"

    @property
    def measurement(self) -> tuple[object, ...]:
        """What two rows of one measurement have in common."""
        return self.engine, self.system, self.prompt_tokens, self.output_tokens, round(self.ttft_s, 7), round(self.tpot_s, 8)

    @property
    def columns(self) -> tuple[object, ...]:
        """What decides a prediction."""
        return self.engine, self.series, self.prompt_tokens, self.output_tokens, self.concurrency, self.of, self.inferencemax


def read_sample(path: Path) -> list[Run]:
    """The aggregated runs of the sample. Raises DsimError where a column is missing."""
    columns = ("id", "silicon_data_source", "backend", "model_path", "system", "mode", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")
    rows = read_csv(path, columns, DsimError)
    return [_run(row) for row in rows[rows["mode"] == "agg"].to_dict("records")]


def _run(row: dict[Any, Any]) -> Run:
    text = {key: "" if str(value) in ("nan", "None") else str(value) for key, value in row.items()}
    source = text["silicon_data_source"]
    said = _CONCURRENCY.search(source)
    concurrency = int(said[1]) if said else int(float(text["batch_size"]))
    image = _IMAGE.search(source) if not source.startswith("source_file=/") else None
    version = text["backend_version"] or (image[1] if image else "")
    precision = text["precision"] or "bf16"
    of, why = _replica(text, precision, not source.startswith("source_file=/"))
    times = float(text["silicon_ttft_ms"]) / 1000, float(text["silicon_tpot_ms"]) / 1000
    lengths = int(float(text["isl"])), int(float(text["osl"]))
    return Run(text["id"], source, text["backend"], version, text["model_path"], text["system"], precision, *lengths, concurrency, *times, of, why)


def _replica(text: dict[str, str], precision: str, inferencemax: bool) -> tuple[Deployment | None, str]:
    """The replica of a row, or why it is not one."""
    tp, dp, moe_tp, moe_ep = (int(float(text[name] or 0)) for name in ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size"))
    if int(float(text["pp_size"] or 1)) > 1:
        return None, "pipeline parallel: dsim plays one step at a time"
    path, engine, system = text["model_path"], text["backend"], text["system"]
    model = NVFP4.get(path, path) if precision == "fp4" else path
    model = NAMED.get(model, model)
    if tp > _MOST_TP and not (inferencemax and moe_tp == moe_ep):
        return None, "attention split over more GPUs than a node has: the GPUs of several replicas, filed as one"
    asked = _quantised(path, engine, system, precision, inferencemax)
    if any(name in model for name in _DENSE):
        return replace(Deployment(model, system, engine, tp=tp), **asked), ""
    if inferencemax and moe_tp == moe_ep > 1:  # filed as n x n
        moe_tp, (tp, dp) = 1, (1, moe_ep) if dp > 1 else (moe_ep, 1)
    elif inferencemax and dp > 1 and tp == dp and moe_ep == tp * dp:
        tp, moe_tp, moe_ep = 1, 1, dp
    dp, moe_tp, moe_ep = max(dp, 1), max(moe_tp, 1), max(moe_ep, 1)
    if dp == 1 and moe_tp * moe_ep > tp:
        dp = moe_tp * moe_ep // tp
    if tp * dp != moe_tp * moe_ep:
        return None, "parallel sizes that do not fit each other"
    return replace(Deployment(model, system, engine, tp=tp, dp=dp, moe_tp=moe_tp, moe_ep=moe_ep), **asked), ""


def _quantised(path: str, engine: str, system: str, precision: str, inferencemax: bool) -> dict[str, Any]:
    """Quantisations in the package's words where the checkpoint's own are not those of the run: of scripts and of engines' defaults."""
    hopper = system in ("h100_sxm", "h200_sxm")
    asked: dict[str, Any] = {}
    dense = any(name in path for name in _DENSE)
    if dense and precision != "bf16":
        fused = engine == "trtllm" or ("70B" in path and not hopper)  # quantisation is part of the kernel before: TensorRT-LLM, vLLM's fusion passes
        asked = {"gemm": "nvfp4", "moe": "nvfp4"} if precision == "fp4" else {"gemm": "fp8_static" if fused else "fp8", "moe": "fp8"}
        asked["kv"] = "fp8" if "70B" in path or precision == "fp4" or path.startswith("nvidia/") else "bfloat16"
    if "Qwen3.5" in path:
        asked = {"fp8": {"gemm": "fp8_block", "moe": "fp8_block", "kv": "fp8"}, "bf16": {"kv": "bfloat16"}}.get(precision, {})
    if "gpt-oss" in path:
        asked["kv"] = "bfloat16" if hopper else "fp8"
        if engine == "trtllm" and not hopper:
            asked["moe"] = "w4a8_mxfp4_mxfp8"
    if precision == "fp8" and ("MiniMax" in path or "Qwen3-235B" in path):
        asked["kv"] = "fp8" if engine == "trtllm" or "MiniMax" in path else "bfloat16"  # engines keep the model's type unless they are told
    if engine == "sglang" and hopper and any(name in path for name in (*_MLA, "GLM")):
        asked["kv"] = "bfloat16"
    if asked.get("kv") == "bfloat16":
        asked["attention"] = "bfloat16"
    if engine == "sglang" and hopper and "Qwen3.5" in path and precision == "fp8":
        asked["attention"] = "fp8"
    if engine != "vllm" and any(name in path for name in _MLA):
        asked["attention"] = "bfloat16"  # the package has no prompts of MLA in FP8
    return asked


def contradicted(runs: Iterable[Run], times: float = 1.4) -> set[str]:
    """Ids of runs whose columns others share at a TPOT that is apart by more than `times`: something was different that the sample does not say."""
    alike: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        alike.setdefault(run.columns, []).append(run)
    apart = [group for group in alike.values() if max(r.tpot_s for r in group) > times * min(r.tpot_s for r in group)]
    return {run.id for group in apart for run in group}

"""What serving engines do by default: sizes of captured graphs, requests and tokens of a step, how prompts share it. From their sources.

vLLM 0.24 (vllm/config/vllm.py, engine/arg_utils.py), SGLang 0.5 (srt/server_args.py), TensorRT-LLM 1.3 (llmapi/llm_args.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.reading.csv_files import read_csv

_LARGE_GPU = 70 << 30  # bytes: vLLM's defaults are others above it
_GPUS_BY_CHUNK = 160 << 30  # bytes: SGLang's prompt chunks are twice as long above it
HOSTS = Path(__file__).parent / "host.csv"


@dataclass(frozen=True)
class EngineDefaults:
    """One engine's settings: `graph_sizes` pad the tokens of a step; `prefill` is a scenario's."""

    title: str
    max_batch: int
    step_tokens: int
    prefill: Mapping[str, Any]
    graph_sizes: tuple[int, ...]

    @property
    def scenario(self) -> dict[str, Any]:
        """The `engine` of a scenario."""
        return {"max_batch": self.max_batch, "prefill": dict(self.prefill)}


def defaults(engine: str, gpu_bytes: float, tp: int, max_batch: int | None = None, step_tokens: int | None = None) -> EngineDefaults:
    """The engine's own settings on GPUs of so much memory; other limits of requests and tokens where they are given."""
    if engine == "vllm":
        large = gpu_bytes >= _LARGE_GPU
        batch, tokens = max_batch or (1024 if large else 256), step_tokens or (8192 if large else 2048)
        sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
        prefill: dict[str, Any] = {"kind": "chunked", "token_budget": tokens}
        return EngineDefaults("vLLM", batch, tokens, prefill, _upto(sizes, min(2 * batch, 512, tokens)))
    if engine == "sglang":
        batch, tokens = max_batch or 2048, step_tokens or (16384 if gpu_bytes >= _GPUS_BY_CHUNK else 8192)
        most = 512 if tp >= 4 or gpu_bytes >= _GPUS_BY_CHUNK else 256
        sizes = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 513, 16)]
        return EngineDefaults("SGLang", batch, tokens, {"kind": "separate", "max_tokens": tokens}, _upto(sizes, most))
    batch, tokens = max_batch or 2048, step_tokens or 8192
    sizes = [1, 2, 4, *range(8, 129, 8), *range(192, batch + 1, 64)]
    return EngineDefaults("TensorRT-LLM", batch, tokens, {"kind": "chunked", "token_budget": tokens}, _upto(sizes, min(batch, 512)))


def _upto(sizes: list[int], most: int) -> tuple[int, ...]:
    return tuple(size for size in sizes if size <= most)


@dataclass(frozen=True)
class Host:
    """What an engine adds to its operators, fitted on runs of it: seconds of the host per step, a factor on collectives, seconds before a request is
    in the engine. `fitted` is the version that it was fitted to, empty where nothing was."""

    host_s: float = 0.0
    collective: float = 1.0
    frontend_s: float = 0.0
    fitted: str = ""


def host_of(engine: str, version: str) -> Host:
    """Of the engine's latest version that is not later than `version`, else of its earliest; nothing where none was fitted."""
    rows = sorted((row for row in _hosts() if row["engine"] == engine), key=lambda row: _numbers(row["major"]))
    before = [row for row in rows if _numbers(row["major"]) <= _numbers(version)]
    if not rows:
        return Host()
    row = before[-1] if before else rows[0]
    return Host(float(row["host_s"]), float(row["collective"]), float(row["frontend_s"]), str(row["major"]))


@cache
def _hosts() -> list[dict[str, str]]:
    rows = read_csv(HOSTS, ("engine", "major", "host_s", "collective", "frontend_s"), DsimError).astype(str)
    return [{str(key): str(value) for key, value in row.items()} for row in rows.to_dict("records")]


def _numbers(version: str) -> tuple[int, ...]:
    """1.3.0rc20 as (1, 3)."""
    parts = version.split(".")[:2]
    return tuple(int("".join(letter for letter in part if letter.isdigit()) or 0) for part in parts)

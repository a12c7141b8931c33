"""What serving engines do by default: sizes of captured graphs, requests and tokens of a step, how prompts share it. From their sources.

vLLM 0.24 (vllm/config/vllm.py, engine/arg_utils.py), SGLang 0.5 (srt/server_args.py), TensorRT-LLM 1.3 (llmapi/llm_args.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LARGE_GPU = 70 << 30  # bytes: vLLM's defaults are others above it
_GPUS_BY_CHUNK = 160 << 30  # bytes: SGLang's prompt chunks are twice as long above it


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

"""Names of models: which two are the same, of one line, or alike in size."""

from __future__ import annotations

import re

_QUANTISED = frozenset((
    "fp8", "fp4", "nvfp4", "mxfp4", "mxfp8", "int8", "int4", "w8a8", "w4a16", "w4afp8", "awq", "gptq", "gguf", "bf16", "fp16", "bfloat16", "float16",
    "dynamic", "block", "quantized",
))  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)b\Z")


def plain_name(model: str) -> str:
    """A model's name without its organisation, what stands in brackets and how it is quantised: Qwen/Qwen3-8B-FP8 is qwen3-8b."""
    name = re.sub(r"\(.*?\)", "", model).strip().rpartition("/")[2].lower()
    words = [word for word in re.split(r"[-_\s]+", name) if word and word not in _QUANTISED]
    return "-".join(words)


def line_of(model: str) -> str:
    """The line that a model belongs to, the first word of its name: qwen3 of Qwen/Qwen3-8B."""
    return plain_name(model).partition("-")[0]


def billions(model: str) -> float | None:
    """Its parameters in billions, where its name says so."""
    sizes = [float(found[1]) for word in plain_name(model).split("-") if (found := _SIZE.match(word))]
    return sizes[0] if sizes else None

"""`dsim export drafter`: one drafter in the form of one engine, and how that engine is started with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from real_runner.exporting.checkpoint import read_checkpoint
from simulator.errors import DsimError
from simulator.reading.json_files import read_json

Form = Literal["vllm", "speculators", "gguf"]
Weights = Literal["f32", "f16", "bf16", "q8_0", "q4_1"]


def export_drafter(folder: str, form: Form, out: Path, target: str | None = None, weights: Weights | None = None) -> dict[str, Any]:
    """Writes the drafter in `folder` to `out`. Returns what was written and the options that load it. Raises DsimError before anything is written."""
    if weights is not None and form != "gguf":
        raise DsimError(f"expected --to gguf with --weights, got --to {form}", key="--weights", remedy="drop it: the weights stay as they are")
    checkpoint = read_checkpoint(folder, _depth(target))
    if form == "gguf":
        from real_runner.exporting.gguf_file import write_gguf

        made = write_gguf(checkpoint, out, None if target is None else Path(target), weights)
        options = f"--spec-type draft-{made.spec.family} --model-draft {out} --spec-draft-n-max {made.spec.gamma}"
        start = f"llama-server --model {target} {options} --spec-draft-p-min 0"
    else:
        from real_runner.exporting.folders import write_speculators, write_vllm

        made = write_vllm(checkpoint, out) if form == "vllm" else write_speculators(checkpoint, out, target)
        options = json.dumps({"method": made.spec.family, "model": str(out), "num_speculative_tokens": made.spec.gamma})
        start = f"vllm serve {target or 'TARGET'} --speculative-config '{options}'"
    spec = made.spec
    return {
        "out": str(out),
        "form": form,
        "family": spec.family,
        "drafted_tokens": spec.gamma,
        "tapped_layers": made.aux_layers,
        "draft_vocabulary": made.draft_vocabulary,
        "vocabulary": spec.vocabulary,
        "start": start,
    }


def _depth(target: str | None) -> int | None:
    """Layers of the target, where it is a folder that says them."""
    config = Path(target or "", "config.json")
    depth = read_json(config).get("num_hidden_layers") if target and config.is_file() else None
    return depth if isinstance(depth, int) else None

"""What `dsim draft check --expect FOLDER` compares of DeepSeek-V4 beside greedy decodes: forward tensors of target and drafter, in the form of
tests/golden/deepseek_v4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from real_runner.deepseek_v4.model import V4Drafter, V4Target
from real_runner.drafters.drafter import DraftBatch, draft, forced
from real_runner.layout import lay_out, ship
from simulator.errors import DsimError

INPUTS = ("prompt_ids", "anchor_ids", "forced_prev_ids")


def check_inputs(tensors: dict[str, Tensor], file: Path, target: V4Target, drafter: V4Drafter) -> None:
    """Raises DsimError where the inputs in a file are not there, or do not fit."""
    shapes = {"prompt_ids": (None, None), "anchor_ids": (None,), "forced_prev_ids": (None, drafter.gamma)}
    texts = tensors["prompt_ids"].shape[0] if "prompt_ids" in tensors and tensors["prompt_ids"].dim() == 2 else 0
    for name, shape in shapes.items():
        ids = tensors.get(name)
        fits = ids is not None and ids.dim() == len(shape) and ids.shape[0] == texts > 0 and shape[1:] in ((None,), (), tuple(ids.shape[1:]))
        if ids is None or not fits or ids.is_floating_point() or not 0 <= int(ids.min()) <= int(ids.max()) < target.vocabulary:
            raise DsimError("missing" if ids is None else f"shape {list(ids.shape)}", where=file, key=name, remedy="expected token ids of each text")


@torch.no_grad()
def forward(target: V4Target, drafter: V4Drafter, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """All that such a file has, computed from its inputs, by the names there."""
    ids, device = expected["prompt_ids"].long(), target.device
    count, length = ids.shape
    room, start = length + 2 * (drafter.gamma + drafter.spec.block), torch.zeros(count + 1, dtype=torch.long, device=device)
    target.tap(drafter.taps)
    target.allocate(count, room)
    drafter.allocate(count, room)
    layout = lay_out(np.arange(count), np.full(count, length), length, (count, room), None)
    ints, made = ship(layout.ints, device), {}
    with _outputs(target.model.layers) as streams:
        step = target.step(ids.reshape(-1), layout.flat(ints, start))
    if "layer_streams" in expected:
        made["layer_streams"] = torch.stack([out.view(count, length, *out.shape[1:]) for out in streams])
    made["target_logits"], made["target_taps"] = step.logits.view(count, length, -1), step.features.view(count, length, -1)
    made["target_hidden"] = target.model.end(streams[-1]).view(count, length, -1)
    made["context"] = drafter.context(step.features).view(count, length, -1)
    drafter.extend(step.features, ids.reshape(-1), ints, layout, start)
    start[:count] = length
    layout = drafter.lay_out(np.arange(count), length, cache=(count, room), tiers=None)
    anchors = torch.cat([expected["anchor_ids"].long(), start[:1] * 0])
    batch = DraftBatch(ship(layout.ints, device), layout, torch.arange(count, device=device), start, anchors)
    with _outputs(drafter.backbone.layers) as stages:
        hidden = drafter.begin(batch)
    made["draft_stage_streams"] = torch.stack([out.view(count, -1, *out.shape[1:]) for out in stages])
    made["draft_head_hidden"], made["base_logits"] = hidden, drafter.base_logits(hidden)
    logits, confidence = forced(drafter.steps(hidden, batch, drafter.gamma), expected["forced_prev_ids"].long())
    assert confidence is not None
    made["logits_given_forced_prev"], made["confidence_logits_given_forced_prev"] = logits, confidence
    each: list[Tensor] = []

    def best(logits: Tensor, slot: int) -> Tensor:
        each.append(logits)
        return logits.argmax(dim=-1)

    made["greedy_draft_ids"], confidence = draft(drafter.steps(hidden, batch, drafter.gamma), best)
    assert confidence is not None
    wanted = expected.get("greedy_logits")
    made["greedy_logits"] = torch.stack(each, dim=1) if wanted is not None and wanted.dim() == 3 else confidence  # there are files with either
    return made


@contextmanager
def _outputs(layers: nn.ModuleList) -> Iterator[list[Tensor]]:
    """What each of the layers puts out."""
    seen: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

"""Compares a drafter with a folder of expected outputs in the form of tests/golden: forward tensors and a greedy decode."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from real_runner.drafters.chain import ChainDrafter
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.loading import AnyDrafter
from real_runner.engine import Engine
from real_runner.layout import Layout, lay_out
from real_runner.records import Request, Round
from real_runner.target import Target
from simulator.errors import DsimError
from simulator.policies.verification import FixedLength

RELATIVE, CONFIDENCE = 1e-4, 1e-3  # float32; looser dtypes are judged by a hundred times as much


@dataclass(frozen=True, slots=True)
class Difference:
    """The worst difference found in one expected output."""

    what: str
    holds: bool
    worst: float
    detail: str


def compare(folder: Path, target: Target, drafter: AnyDrafter) -> list[Difference]:
    """Everything in the folder that can be compared; refuses a folder with nothing in it."""
    found: list[Difference] = []
    slack = 1.0 if target.dtype == torch.float32 else 100.0
    if (folder / "forward.safetensors").exists():
        expected = {name: tensor.to(target.device) for name, tensor in load_file(folder / "forward.safetensors").items()}
        if "prompt_ids" in expected:
            found.append(_relative("context_features", context_features(target, drafter, expected["prompt_ids"]), expected, slack))
        forward = chain_forward if isinstance(drafter, ChainDrafter) else block_forward
        found += [_relative(name, value, expected, slack) for name, value in forward(drafter, expected).items()]
    if (folder / "greedy_decode.json").exists():
        found += greedy(json.loads((folder / "greedy_decode.json").read_text()), target, drafter, slack)
    if not found:
        raise DsimError("no forward.safetensors and no greedy_decode.json", where=folder, remedy="give a folder in the form of tests/golden")
    return found


def _relative(name: str, found: Tensor, expected: dict[str, Tensor], slack: float) -> Difference:
    """Largest difference over the largest value."""
    if found.shape != expected[name].shape:
        return Difference(name, False, float("inf"), f"shape {list(found.shape)}, expected {list(expected[name].shape)}")
    worst = float((found.float() - expected[name]).abs().max() / expected[name].abs().max())
    return Difference(name, worst <= RELATIVE * slack, worst, f"worst relative difference {worst:.2g}")


def _two_rows(length: int, room: int) -> tuple[Layout, Tensor]:
    """Two texts of `length` tokens in slots 0 and 1, and their slots."""
    slots = np.arange(2)
    return lay_out(slots, np.full(2, length), length, (2, room), None), torch.arange(2)


@torch.no_grad()
def context_features(target: Target, drafter: AnyDrafter, prompts: Tensor) -> Tensor:
    """The target's tapped features of prompts [2, n]  # [2, n, m·d]."""
    length = prompts.shape[1]
    layout, _ = _two_rows(length, length)
    target.tap(drafter.taps)
    target.allocate(2, length)
    start = torch.zeros(3, dtype=torch.long, device=target.device)
    flat = layout.flat(torch.from_numpy(layout.ints).to(target.device), start)
    return target.step(prompts.reshape(-1), flat).features.view(2, length, -1)


def _absorbed(drafter: AnyDrafter, given: dict[str, Tensor]) -> tuple[Layout, Tensor, Tensor, Tensor, Tensor]:
    """The drafter after the given context; layout, ints, slots, start and anchor of the block to draft."""
    context = given["context_features"].to(drafter.lm_head.weight.dtype)
    device, length = context.device, context.shape[1]
    room = length + 2 * (drafter.gamma + drafter.spec.block)
    drafter.allocate(2, room)
    layout, slots = _two_rows(length, room)
    slots = slots.to(device)
    start = torch.zeros(3, dtype=torch.long, device=device)
    anchor = torch.cat([given["anchor_ids"], given["anchor_ids"][:1]])
    following = given["anchor_ids"].unsqueeze(1)
    if "prompt_ids" in given:
        following = torch.cat([given["prompt_ids"][:, 1:], following], dim=1)
    following = following.expand(2, length) if following.shape[1] == 1 else following
    last = torch.tensor([length - 1, 2 * length - 1], device=device)
    ints = torch.from_numpy(layout.ints).to(device)
    drafter.absorb(context.reshape(2 * length, -1), following.reshape(-1), last, slots, ints, layout, start)
    start[:2] = length
    block = drafter.lay_out(np.arange(2), length, cache=(2, room), tiers=None)
    return block, torch.from_numpy(block.ints).to(device), slots, start, anchor


@torch.no_grad()
def block_forward(drafter: BlockDrafter, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """DSpark and DFlash: hidden states, base logits, and logits and confidences given the previous tokens."""
    layout, ints, slots, start, anchor = _absorbed(drafter, given)
    hidden = drafter.block(ints, layout, slots, start, anchor)
    found = {"block_hidden": hidden, "base_logits": drafter.base_logits(hidden)}
    logits, confidence = drafter.forced(hidden, given["forced_prev_ids"])
    if "logits_given_forced_prev" in given:
        found["logits_given_forced_prev"] = logits
    if "confidence_logits_given_forced_prev" in given and confidence is not None:
        found["confidence_logits_given_forced_prev"] = confidence
    return found


@torch.no_grad()
def chain_forward(drafter: ChainDrafter, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Eagle3: the hidden state after the prompt, and logits along a forced continuation."""
    layout, ints, slots, start, _ = _absorbed(drafter, given)
    hidden = drafter.seeds[slots]
    found, logits = {"draft_hidden": hidden.unsqueeze(1)}, [drafter.logits(hidden)]
    for step in range(given["forced_next_ids"].shape[1]):
        hidden = drafter(given["forced_next_ids"][:, step], hidden, layout.flat(ints, start + step))
        logits.append(drafter.logits(hidden))
    return {**found, "logits_given_forced_prefix": torch.stack(logits, dim=1)}


def greedy(expected: list[dict[str, Any]], target: Target, drafter: AnyDrafter, slack: float, slots: int | None = None) -> list[Difference]:
    """Greedy decodes with full blocks, as a batch of mixed lengths (`slots` at a time), against expected output ids, blocks and accepted counts."""
    # One more than the reference's tokens: it goes on until it has passed its limit, the engine stops when it has reached its own.
    requests = [Request(i, one["prompt"], sum(one["acceptance_lengths"][:-1]) + 2) for i, one in enumerate(expected)]
    room = max(len(one["output_ids"]) for one in expected) + 4 * (drafter.gamma + drafter.spec.block)
    engine = Engine(target, drafter, FixedLength(length=drafter.gamma), slots=slots or len(requests), length=room, stop_at_eos=False)
    rounds: dict[int, list[Round]] = {i: [] for i in range(len(expected))}
    done = {r.request: r for r in engine.run(requests)}
    for step in engine.steps:
        for part in step.rounds:
            rounds[part.request].append(part)
    wrong = {"output ids": 0, "drafted tokens": 0, "accepted counts": 0}
    worst = 0.0
    for i, one in enumerate(expected):
        made = done[i].prompt + done[i].output
        wrong["output ids"] += made[: len(one["output_ids"])] != one["output_ids"][: len(made)]
        wrong["drafted tokens"] += [[r.anchor, *r.drafted] for r in rounds[i]] != [r["draft"] for r in one["rounds"]]
        wrong["accepted counts"] += [r.accepted for r in rounds[i]] != [r["accepted"] for r in one["rounds"]]
        for mine, theirs in zip(rounds[i], one["rounds"], strict=False):
            if theirs.get("confidence") and mine.confidence is not None:
                worst = max(worst, float(np.abs(mine.confidence - theirs["confidence"]).max()))
    found = [Difference(f"greedy {what}", n == 0, float(n), f"{n} of {len(expected)} texts differ") for what, n in wrong.items()]
    if any(r.get("confidence") for one in expected for r in one["rounds"]):
        found.append(Difference("greedy confidences", worst <= CONFIDENCE * slack, worst, f"worst difference {worst:.2g}"))
    return found

"""Compares a drafter with a folder of expected outputs in the form of tests/golden: forward tensors and a greedy decode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import TypedDict

from real_runner.deepseek_v4 import expected as expected_v4
from real_runner.deepseek_v4.model import V4Drafter, V4Target
from real_runner.drafters.drafter import DraftBatch, Drafter, forced
from real_runner.engine import Engine
from real_runner.layout import Layout, lay_out, ship
from real_runner.records import Round, ServedRequest
from real_runner.target import Target, first_line
from simulator.errors import DsimError
from simulator.policies.verification import FixedLength
from simulator.quantities import MOST_SLOTS
from simulator.reading.json_files import parse_json
from simulator.reading.opening import read_text

RELATIVE, CONFIDENCE = 1e-4, 1e-3  # float32; looser dtypes are judged by a hundred times as much
INPUTS = ("prompt_ids", "anchor_ids", "context_features", "forced_prev_ids", "forced_next_ids")


class ExpectedRound(TypedDict):
    """A round of a greedy decode; `confidence` of its slots where there is a head."""

    draft: list[int]
    accepted: int
    confidence: NotRequired[list[float] | None]


class ExpectedDecode(TypedDict):
    """One text."""

    prompt: Annotated[list[int], Field(min_length=1)]
    output_ids: list[int]
    acceptance_lengths: Annotated[list[Annotated[int, Field(ge=1, le=MOST_SLOTS + 1)]], Field(min_length=1)]
    rounds: list[ExpectedRound]


_DECODES = TypeAdapter(Annotated[list[ExpectedDecode], Field(min_length=1, max_length=1000)])
MOST_TOKENS = 4096  # of a text: the files are of texts that a test decodes


@dataclass(frozen=True, slots=True)
class Difference:
    """The worst difference found in one expected output."""

    what: str
    holds: bool
    worst: float
    detail: str


def compare(folder: Path, target: Target, drafter: Drafter) -> list[Difference]:
    """Everything that is expected, compared or failed; refuses a folder with nothing in it."""
    differences: list[Difference] = []
    slack = 1.0 if target.dtype == torch.float32 else 100.0
    if (folder / "forward.safetensors").exists():
        differences += _forward(read_forward(folder / "forward.safetensors", target, drafter), target, drafter, slack)
    if isinstance(drafter, V4Drafter) and isinstance(target, V4Target):
        for file in sorted(folder.glob("forward_*.safetensors")):
            wanted = _read(file, target)
            expected_v4.check_inputs(wanted, file, target, drafter)
            made = expected_v4.forward(target, drafter, wanted)
            differences += [relative(f"{file.stem} {name}", made[name], wanted[name], slack) for name in wanted if name in made]
    if (folder / "greedy_decode.json").exists():
        differences += greedy(read_greedy(folder / "greedy_decode.json", target), target, drafter, slack)
    if not differences:
        raise DsimError("expected forward.safetensors or greedy_decode.json", where=folder, remedy="give a folder in the form of tests/golden")
    return differences


def _forward(expected: dict[str, Tensor], target: Target, drafter: Drafter, slack: float) -> list[Difference]:
    """Every tensor of the file that is no input is compared, or fails."""
    made = forward(drafter, expected)
    if "prompt_ids" in expected:
        made["context_features"] = context_features(target, drafter, expected["prompt_ids"])
    differences = []
    for name, value in expected.items():
        if name in made:
            differences.append(relative(name, made[name], value, slack))
        elif name not in INPUTS:
            differences.append(Difference(name, False, float("inf"), "expected, but this drafter makes none"))
    return differences


def read_forward(file: Path, target: Target, drafter: Drafter) -> dict[str, Tensor]:
    """The expected tensors, on the target's device; those that are given to the drafter are there and of its shapes."""
    tensors = _read(file, target)
    tokens = "forced_next_ids" if drafter.spec.one_by_one else "forced_prev_ids"
    for name in ("context_features", "anchor_ids", tokens):
        if name not in tensors:
            raise DsimError("missing", where=file, key=name, remedy=f"the drafter is {drafter.spec.family}: are these outputs of another family?")
    width, context = len(drafter.taps) * drafter.spec.hidden, tensors["context_features"]
    shape = list(context.shape)
    if len(shape) != 3 or [shape[0], shape[2]] != [2, width] or not 1 <= shape[1] <= MOST_TOKENS or not context.is_floating_point():
        remedy = f"expected floating-point numbers of shape [2, n, {width}], n from 1 to {MOST_TOKENS}"
        raise DsimError(f"{str(context.dtype).removeprefix('torch.')} of shape {shape}", where=file, key="context_features", remedy=remedy)
    length, forced_ids = shape[1], tensors[tokens]
    steps = min(forced_ids.shape[-1], drafter.gamma) if drafter.spec.one_by_one and forced_ids.dim() else drafter.gamma
    for name, shape in (("anchor_ids", (2,)), (tokens, (2, steps)), ("prompt_ids", (2, length))):
        if name not in tensors:
            continue
        ids = tensors[name]
        if (
            tuple(ids.shape) != shape
            or ids.dtype not in (torch.int32, torch.int64)
            or (ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < target.vocabulary)
        ):
            remedy = f"expected {list(shape)} token ids below {target.vocabulary}"
            raise DsimError(f"{str(ids.dtype).removeprefix('torch.')} of shape {list(ids.shape)}", where=file, key=name, remedy=remedy)
        tensors[name] = ids.long()
    return tensors


def read_greedy(file: Path, target: Target) -> list[ExpectedDecode]:
    """The expected decodes, in the form of tests/golden."""
    remedy = "expected decodes in the form of tests/golden"
    content = parse_json(read_text(file), file, remedy=remedy, nan="kept")
    try:
        read = _DECODES.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or None
        raise DsimError(first["msg"], where=file, key=place, remedy=remedy) from error
    for i, one in enumerate(read):
        if not 0 < len(one["prompt"]) + sum(one["acceptance_lengths"]) <= MOST_TOKENS or len(one["output_ids"]) > MOST_TOKENS:
            raise DsimError("too long a text", where=file, key=str(i), remedy=f"expected at most {MOST_TOKENS} tokens")
        if not all(0 <= token < target.vocabulary for token in one["prompt"]):
            raise DsimError("a token that the target does not have", where=file, key=f"{i}.prompt", remedy=f"expected ids below {target.vocabulary}")
    return read


def _read(file: Path, target: Target) -> dict[str, Tensor]:
    """All tensors of a file, on the target's device."""
    if not file.is_file():
        raise DsimError("not a regular file", where=file, remedy="expected the tensors of a drafter's forward pass")
    try:
        return {name: tensor.to(target.device) for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise DsimError(f"not a safetensors file: {first_line(error)}", where=file) from error


def relative(name: str, made: Tensor, expected: Tensor, slack: float) -> Difference:
    """Largest difference over the largest value."""
    if made.shape != expected.shape:
        return Difference(name, False, float("inf"), f"shape {list(made.shape)}, expected {list(expected.shape)}")
    scale = expected.float().abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    worst = float((made.float() - expected.float()).abs().max() / scale)
    return Difference(name, worst <= RELATIVE * slack, worst, f"worst relative difference {worst:.2g}")  # NaN does not hold


def _two_rows(length: int, room: int) -> Layout:
    """Two texts of `length` tokens in slots 0 and 1."""
    return lay_out(np.arange(2), np.full(2, length), length, (2, room), None)


@torch.no_grad()
def context_features(target: Target, drafter: Drafter, prompts: Tensor) -> Tensor:
    """The target's tapped features of prompts [2, n]  # [2, n, m·d]."""
    length = prompts.shape[1]
    layout = _two_rows(length, length)
    target.tap(drafter.taps)
    target.allocate(2, length)
    start = torch.zeros(3, dtype=torch.long, device=target.device)
    return target.step(prompts.reshape(-1), layout.flat(ship(layout.ints, target.device), start)).features.view(2, length, -1)


def _absorbed(drafter: Drafter, tensors: dict[str, Tensor]) -> DraftBatch:
    """The drafter after the given context; the blocks to draft behind it."""
    context = tensors["context_features"].to(drafter.lm_head.weight.dtype)
    device, length = context.device, context.shape[1]
    room = length + 2 * (drafter.gamma + drafter.spec.block)
    drafter.allocate(2, room)
    layout, slots = _two_rows(length, room), torch.arange(2, device=device)
    start = torch.zeros(3, dtype=torch.long, device=device)
    following = tensors["anchor_ids"].unsqueeze(1)
    if "prompt_ids" in tensors:
        following = torch.cat([tensors["prompt_ids"][:, 1:], following], dim=1)
    following = following.expand(2, length) if following.shape[1] == 1 else following
    last = torch.tensor([length - 1, 2 * length - 1], device=device)
    drafter.absorb(context.reshape(2 * length, -1), following.reshape(-1), last, slots, ship(layout.ints, device), layout, start)
    start[:2] = length
    block = drafter.lay_out(np.arange(2), length, cache=(2, room), tiers=None)
    anchor = torch.cat([tensors["anchor_ids"], tensors["anchor_ids"][:1]])
    return DraftBatch(ship(block.ints, device), block, slots, start, anchor)


@torch.no_grad()
def forward(drafter: Drafter, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hidden states, logits and confidences along a forced continuation, by the names that the family's files have for them."""
    batch = _absorbed(drafter, tensors)
    hidden = drafter.begin(batch)
    if drafter.spec.one_by_one:
        previous = torch.cat([tensors["anchor_ids"].unsqueeze(1), tensors["forced_next_ids"]], dim=1)
        logits, _ = forced(drafter.steps(hidden, batch, previous.shape[1]), previous)
        return {"draft_hidden": hidden.unsqueeze(1), "logits_given_forced_prefix": logits}
    previous = tensors["forced_prev_ids"]
    first = torch.cat([previous[:, 0], previous[:1, 0]])
    logits, confidence = forced(drafter.steps(hidden, replace(batch, anchor=first), drafter.gamma), previous)
    made = {"block_hidden": hidden, "base_logits": drafter.base_logits(hidden), "logits_given_forced_prev": logits}
    return made if confidence is None else {**made, "confidence_logits_given_forced_prev": confidence}


def greedy(expected: list[ExpectedDecode], target: Target, drafter: Drafter, slack: float, slots: int | None = None) -> list[Difference]:
    """Greedy decodes with full blocks, as a batch of mixed lengths (`slots` at a time), against expected output ids, blocks and accepted counts."""
    # One more than the reference's tokens: it goes on until it has passed its limit, the engine stops when it has reached its own.
    requests = [ServedRequest(i, one["prompt"], sum(one["acceptance_lengths"][:-1]) + 2) for i, one in enumerate(expected)]
    room = max(len(one["output_ids"]) for one in expected) + 4 * (drafter.gamma + drafter.spec.block)
    engine = Engine(target, drafter, FixedLength(length=drafter.gamma), slots=slots or len(requests), length=room, stop_at_eos=False)
    rounds: dict[int, list[Round]] = {i: [] for i in range(len(expected))}
    done = {r.request: r for r in engine.run(requests)}
    for step in engine.steps:
        for part in step.rounds:
            rounds[part.request].append(part)
    wrong = {"output ids": 0, "drafted tokens": 0, "accepted counts": 0}
    worst: list[float] = []
    for i, one in enumerate(expected):
        made = done[i].prompt + done[i].output
        wrong["output ids"] += made[: len(one["output_ids"])] != one["output_ids"][: len(made)]
        wrong["drafted tokens"] += [[r.anchor, *r.drafted] for r in rounds[i]] != [r["draft"] for r in one["rounds"]]
        wrong["accepted counts"] += [r.accepted for r in rounds[i]] != [r["accepted"] for r in one["rounds"]]
        for k, theirs in enumerate(one["rounds"]):
            if theirs.get("confidence"):
                worst.append(_apart(rounds[i][k].confidence if k < len(rounds[i]) else None, theirs["confidence"]))
    differences = [Difference(f"greedy {what}", n == 0, float(n), f"{n} of {len(expected)} texts differ") for what, n in wrong.items()]
    if worst:
        most = float(np.max(worst))  # NaN where any is
        differences.append(Difference("greedy confidences", most <= CONFIDENCE * slack, most, f"worst difference {most:.2g} of {len(worst)} rounds"))
    return differences


def _apart(mine: Any, theirs: list[float]) -> float:
    """Largest difference of two rounds' confidences; infinite where there are none or another number of them."""
    if mine is None or len(mine) != len(theirs):
        return float("inf")
    return float(np.abs(np.asarray(mine) - np.asarray(theirs)).max())

"""Training of one drafter: seeded batches, AdamW, warm-up and cosine; a state on disk now and then, from which an interrupted run goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from real_runner.drafters.drafter import Drafter, forced
from real_runner.failures import memory_of, same_options
from real_runner.target import Target
from real_runner.training.checkpoints import trained
from real_runner.training.corpus import Corpus
from real_runner.training.losses import RECIPES, expected_length, loss_of
from simulator.errors import DsimError
from simulator.files import whole, write_whole
from simulator.progress import Progress

SAVE_EVERY_S = 60.0
STATE = "training.pt"
REMEDY = "use fewer --batch-anchors, or shorter texts"  # where memory runs out


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast. A step is `texts` texts with `anchors` random anchors each."""

    steps: int
    texts: int = 4
    anchors: int = 128
    rate: float = 1e-3
    warm_up: float = 0.04
    clip: float = 1.0
    held_out: int = 24  # texts at the end of the corpus that are never trained on
    look_every: int = 100
    seed: int = 0


class Trainer:
    """Holds a drafter, its target's head over the draft vocabulary, and where it is."""

    def __init__(self, drafter: Drafter, target: Target, corpus: Corpus, schedule: Schedule, made: Mapping[str, Any] | None = None) -> None:
        """`made` says how the drafter was made, for `resumable_as`."""
        if len(corpus) <= schedule.held_out:
            raise DsimError(
                f"expected more than the {schedule.held_out} texts held out, got {len(corpus)}", key="texts", remedy="add prompts or lower --held-out"
            )
        self.drafter, self.target, self.corpus, self.schedule, self.made = drafter, target, corpus, schedule, dict(made or {})
        self.recipe = RECIPES[drafter.spec.family]
        ids = torch.arange(target.vocabulary) if drafter.d2t is None else drafter.d2t
        self.head = target.head.weight if drafter.d2t is None else target.head.weight[ids]
        self.place = torch.full((target.vocabulary,), -1).index_put_((ids.cpu(),), torch.arange(len(ids)))
        self.parameters = [parameter for _, parameter in trained(drafter)]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=schedule.rate, betas=(0.9, 0.95), weight_decay=0.0)
        self.done = 0
        self.looks: list[dict[str, Any]] = []  # loss and expected length so far, on trained and on held-out texts

    def run(self, folder: Path, progress: Progress) -> list[dict[str, Any]]:
        """Trains to the end of the schedule; `folder`/STATE is the state to go on from."""
        state = folder / STATE
        if state.exists():
            self._restore(state)
        saved = begun = time.monotonic()
        sums, counted = [0.0, 0.0], 0
        with progress.stage(f"training {self.drafter.spec.family}", self.schedule.steps, self.done) as stage:
            try:
                while self.done < self.schedule.steps:
                    with memory_of("a training step", remedy=REMEDY):
                        loss, length = self._step()
                    sums, counted = [sums[0] + loss, sums[1] + length], counted + 1
                    self.done += 1
                    if self.done % self.schedule.look_every == 0 or self.done == self.schedule.steps:
                        with memory_of("texts held out", remedy=REMEDY):
                            apart = self.held_out()
                        look = {"step": self.done, "loss": sums[0] / counted, "expected_length": sums[1] / counted, **apart}
                        self.looks.append(look)
                        sums, counted = [0.0, 0.0], 0
                    last = self.looks[-1] if self.looks else None
                    stage.advance(1, f"expected length {last['held_out_expected_length']:.2f} held out" if last else f"loss {loss:.3f}")
                    if time.monotonic() - saved > SAVE_EVERY_S:
                        self._save(state, begun)
                        saved = time.monotonic()
            finally:
                self._save(state, begun)
        return self.looks

    def _rate(self) -> float:
        warm = max(1, int(self.schedule.warm_up * self.schedule.steps))
        if self.done < warm:
            return self.schedule.rate * (self.done + 1) / warm
        return self.schedule.rate * max(0.05, 0.5 * (1 + math.cos(math.pi * (self.done - warm) / max(1, self.schedule.steps - warm))))

    def _step(self) -> tuple[float, float]:
        """One optimiser step; mean loss and expected length of its texts."""
        count = len(self.corpus) - self.schedule.held_out
        rng = np.random.default_rng((self.schedule.seed, self.done))
        epoch, at = divmod(self.done * self.schedule.texts, count)
        order = np.concatenate([np.random.default_rng((self.schedule.seed, e, 1)).permutation(count) for e in (epoch, epoch + 1)])
        losses, lengths = [], []
        for text in order[at : at + self.schedule.texts]:
            outcome = self._heard(int(text), rng)
            if outcome is None:
                continue
            loss, length = outcome
            (loss / self.schedule.texts).backward()
            losses.append(float(loss.detach()))
            lengths.append(length)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return float(np.mean(losses or [0.0])), float(np.mean(lengths or [0.0]))

    def _heard(self, text: int, rng: np.random.Generator | None) -> tuple[Tensor, float] | None:
        """Loss and expected length at random anchors of a text, or without `rng` at evenly spaced ones; None for a text too short."""
        piece, gamma, device = self.corpus.piece(text), self.drafter.gamma, self.target.device
        anchors = np.arange(max(piece.prompt, 1), len(piece.ids) - 1)  # one token at least is known behind each
        if not len(anchors):
            return None
        if len(anchors) > self.schedule.anchors:
            anchors = (
                np.sort(rng.choice(anchors, self.schedule.anchors, replace=False)) if rng else anchors[:: -(-len(anchors) // self.schedule.anchors)]
            )
        at = torch.from_numpy(anchors)
        where = at.unsqueeze(1) + torch.arange(gamma)  # [A, γ]: the token whose successor each slot predicts
        known, previous = where < len(piece.ids) - 1, piece.ids[where.clamp(max=len(piece.ids) - 1)].to(device)
        where = where.clamp(max=len(piece.ids) - 2)
        cast = torch.autocast(device.type, torch.bfloat16) if self.target.dtype == torch.bfloat16 else nullcontext()
        with cast:
            features = (piece.last if self.drafter.spec.family == "mtp" else piece.features).float().to(device)
            ids = piece.ids.to(device)
            logits, confidence = forced(self.drafter.steps_along(ids, features, at.to(device), gamma), previous)
            with torch.no_grad():
                unique, back = torch.unique(where, return_inverse=True)
                rows = torch.nn.functional.linear(piece.last[unique].to(device), self.head).float()
                law = (rows - piece.normaliser[unique].to(device).unsqueeze(1)).exp()[back.to(device)]
        truth = self.place[piece.ids[where + 1]].to(device)
        loss, overlap = loss_of(self.recipe, logits, confidence, law, truth, known.to(device))
        return loss, float(expected_length(overlap, known.to(device)).mean())

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Loss and expected length on the texts kept apart."""
        outcomes = [self._heard(text, None) for text in range(len(self.corpus) - self.schedule.held_out, len(self.corpus))]
        kept = [(float(loss), length) for loss, length in filter(None, outcomes)]
        return {"held_out_loss": float(np.mean([loss for loss, _ in kept])), "held_out_expected_length": float(np.mean([n for _, n in kept]))}

    def _save(self, path: Path, begun: float) -> None:
        own = {name: value.detach().cpu() for name, value in trained(self.drafter)}
        state = {"schedule": asdict(self.schedule), "made": self.made, "done": self.done, "looks": self.looks}
        with whole(path) as draft:
            torch.save({**state, "own": own, "optimiser": self.optimiser.state_dict()}, draft)
        write_whole(path.with_name("training.json"), json.dumps(state, indent=2))

    def _restore(self, path: Path) -> None:
        state = _read(path, self.schedule, self.made)
        for name, value in trained(self.drafter):
            value.data.copy_(state["own"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done, self.looks = state["done"], state["looks"]


def resumable_as(folder: Path, schedule: Schedule, made: Mapping[str, Any]) -> None:
    """Raises DsimError where the folder holds a training of another schedule, or of a drafter made otherwise."""
    if (folder / STATE).exists():
        _read(folder / STATE, schedule, made)


def _read(path: Path, schedule: Schedule, made: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    same_options({**state.get("made", {}), **state["schedule"]}, {**made, **asdict(schedule)}, "a training", path)
    return state

"""`dsim train-draft`: prompts → texts of the target → features → trained drafters → how long their blocks are, on prompts kept apart.

Everything is kept in `out/work` as it is made, so an interrupted run goes on from there. The recipe is DeepSpec's, scaled down (format §7):
good enough to measure with; production drafters come from DeepSpec and a data centre.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from real_runner.blocks import record_blocks
from real_runner.drafters.loading import load_drafter
from real_runner.prompts import PromptSet, encoded
from real_runner.target import Target
from real_runner.texts import Text, digest, generate_texts, must_be_said_by, read_texts
from real_runner.training.checkpoints import Family, Shape, default_taps, new_drafter, save_drafter
from real_runner.training.corpus import Corpus, build_corpus
from real_runner.training.loop import Schedule, Trainer, resumable_as
from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.measurements.statistics import acceptance_statistics, visited_rows
from simulator.progress import Progress
from simulator.reading.json_files import read_json


@dataclass(frozen=True, slots=True)
class TextPlan:
    """How texts are made: DeepSpec generates at 0.7 too. `held_out` prompts, the last ones, are never trained on: the result is judged on them."""

    temperature: float = 0.7
    max_tokens: int = 256
    at_once: int = 64
    held_out: int = 24


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """What is trained. `draft_vocabulary`: so many of the most frequent tokens; none for all. MTP drafts one token, whatever γ says."""

    families: tuple[Family, ...] = ("dspark",)
    gamma: int = 5
    layers: int = 2
    markov_rank: int = 64
    taps: tuple[int, ...] | None = None
    draft_vocabulary: int | None = None


def must_be_teachable(target: Target) -> None:
    """Raises DsimError for families whose drafters cannot be made here."""
    if (kind := str(target.config.model_type)).startswith("gemma"):
        raise DsimError(f"drafters are trained for Qwen3 and Llama, not for {kind!r}", where=target.name, key="--target", remedy="use another target")


def make_texts(target: Target, sets: Sequence[PromptSet], file: Path | None, plan: TextPlan, seed: int, work: Path, progress: Progress) -> list[Text]:
    """Texts that the target says to the prompts, in an order mixed by `seed` so that the held-out end is like the rest; or file ones."""
    if file is not None:
        texts = read_texts(file)
        must_be_said_by(target.vocabulary, texts)
    else:
        prompts = encoded(target, sets)
        texts = generate_texts(target, prompts, temperature=plan.temperature, max_tokens=plan.max_tokens, slots=plan.at_once, seed=seed,
                               file=work / "texts.jsonl", progress=progress)  # fmt: skip
    kept = [text for text in texts if len(text.output) > 1]
    if len(kept) <= plan.held_out:
        raise DsimError(
            f"expected more than the {plan.held_out} texts held out, got {len(kept)}", key="prompts", remedy="add prompts or lower --held-out"
        )
    return [kept[i] for i in np.random.default_rng(seed).permutation(len(kept))]


def train_draft(
    target: Target, out: Path, texts: Sequence[Text], plan: DraftPlan, schedule: Schedule, *, seed: int = 0,
    temperatures: Sequence[float] = (0.0, 1.0), progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains each family into `out/<family>` (a checkpoint folder of its own) and judges it; returns what `out/training.json` says."""
    progress = progress or Progress(quiet=True)
    work, taps = out / "work", plan.taps or default_taps(target.layers)
    corpus = build_corpus(target, taps, texts, work / "corpus", progress)
    vocabulary = None
    if plan.draft_vocabulary is not None and plan.draft_vocabulary < target.vocabulary:
        vocabulary = corpus.frequent(plan.draft_vocabulary)
    held_out = list(texts[len(texts) - schedule.held_out :])
    report: dict[str, Any] = {
        "target": target.name, "dtype": str(target.dtype), "texts": len(texts), "tokens": int(sum(len(t.output) for t in texts)),
        "drafters": _trained_before(out, target, len(texts)),
    }  # fmt: skip
    for family in plan.families:
        report["drafters"][family] = _train(target, out, family, plan, taps, corpus, vocabulary, schedule, seed, progress)
        report["drafters"][family]["held_out"] = judge(target, out / family, held_out, work, temperatures, seed, progress)
    write_whole(out / "training.json", json.dumps(report, indent=2) + "\n")
    return report


def _train(
    target: Target, out: Path, family: Family, plan: DraftPlan, taps: tuple[int, ...], corpus: Corpus, vocabulary: torch.Tensor | None,
    schedule: Schedule, seed: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    folder, state = out / family, out / "work" / family
    gamma = 1 if family == "mtp" else plan.gamma
    shape = Shape(family, gamma, taps, plan.layers, min(plan.markov_rank, target.vocabulary), _never_said(corpus, target.vocabulary))
    made = asdict(shape) | {"draft_vocabulary": None if vocabulary is None else f"{len(vocabulary)} tokens, {digest(vocabulary.numpy().tobytes())}"}
    resumable_as(state, schedule, made)
    drafter = new_drafter(shape, target, folder, None if family == "mtp" else vocabulary, seed)
    trainer = Trainer(drafter, target, corpus, schedule, made)
    looks = trainer.run(state, progress)
    save_drafter(drafter, target, folder)
    own = sum(p.numel() for p in trainer.parameters)
    return {"gamma": gamma, "trained_parameters": own, "schedule": asdict(schedule), "shape": asdict(shape), "looks": looks}


def _trained_before(out: Path, target: Target, texts: int) -> dict[str, Any]:
    """What an earlier call said of other families on the same texts."""
    try:
        before = read_json(out / "training.json")
    except DsimError:
        return {}
    drafters = before.get("drafters")
    same = (before.get("target"), before.get("texts")) == (target.name, texts)
    return drafters if same and isinstance(drafters, dict) else {}


def _never_said(corpus: Corpus, vocabulary: int) -> int:
    """An id that no text holds, the highest: the mask. Where all are used, the rarest."""
    counts = np.bincount(corpus.ids, minlength=vocabulary)
    return int(vocabulary - 1 - np.argmin(counts[::-1]))


def judge(
    target: Target, folder: Path, texts: Sequence[Text], work: Path, temperatures: Sequence[float], seed: int, progress: Progress
) -> dict[str, Any]:
    """Accepted length and survival on texts said anew to the held-out prompts at each temperature."""
    drafter, results = load_drafter(str(folder), target), {}
    for temperature in temperatures:
        longest = max(len(text.output) for text in texts)
        prompts = [(text.domain, text.of, text.prompt) for text in texts]
        answers = generate_texts(target, prompts, temperature=temperature, max_tokens=longest, slots=min(32, len(prompts)), seed=seed + 1,
                              file=work / f"held-out-{temperature:g}.jsonl", progress=progress)  # fmt: skip
        blocks = record_blocks(target, drafter, folder.name, answers, temperature=temperature, seed=seed, progress=progress)
        seen = acceptance_statistics(blocks, rows=visited_rows(blocks))
        results[f"{temperature:g}"] = {
            "accepted_length": seen.accepted_length, "standard_error": seen.accepted_length_error,
            "survival": seen.survival.tolist(), "rounds": seen.rows,
        }  # fmt: skip
    return results

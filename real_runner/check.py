"""`dsim draft check`: what a drafter is understood to be, whether it sits right on its target, and whether it computes what it should."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from real_runner.alignment import expected_length, overlaps, shifts, worn
from real_runner.drafters.drafter import Drafter
from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.expect import Difference, compare
from real_runner.failures import memory_of
from real_runner.prompts import continued, prompts_for
from real_runner.records import ServedRequest
from real_runner.target import Target
from simulator.arrays import Floats
from simulator.measurements.drafters.spec import FUSED, POST_NORM, DraftSpec
from simulator.policies.verification import FixedLength


@dataclass(frozen=True, slots=True)
class Finding:
    """One check and what it saw."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All of it."""

    understood: dict[str, Any]
    findings: list[Finding]
    accepted_length: float
    differences: list[Difference]

    @property
    def holds(self) -> bool:
        """Does everything?"""
        return all(finding.holds for finding in self.findings) and all(difference.holds for difference in self.differences)

    def as_json(self) -> str:
        """For machines."""
        return json.dumps({"holds": self.holds, **asdict(self)}, indent=2, default=str)

    def as_text(self) -> str:
        """For people."""
        width = max(len(key) for key in self.understood)
        lines = [f"{key:<{width}}  {value}" for key, value in self.understood.items()]
        lines += [f"[{'ok' if f.holds else 'FAILED'}] {f.name}: {f.detail}" for f in self.findings]
        lines += [f"[{'ok' if d.holds else 'FAILED'}] expected {d.what}: {d.detail}" for d in self.differences]
        return "\n".join([*lines, "all checks passed" if self.holds else "NOT all checks passed"])


def check(
    target: Target, draft: str, *, expect: Path | None = None, prompts: Path | None = None, at_least: float = 1.2, texts: int = 8, tokens: int = 64
) -> CheckReport:
    """Loads the drafter (which checks names, shapes and fit), decodes `texts` prompts greedily for `tokens`, and looks at its alignment."""
    drafter = load_drafter(draft, target)
    prompt_ids = prompts_for(target, texts, prompts)
    tau = accepted_lengths(target, drafter, prompt_ids, tokens)
    understood = describe(drafter, target)
    findings = [*weights(drafter, target), taps(drafter.spec, target), long_enough(tau, at_least)]
    findings += aligned(target, drafter, continued(target, prompt_ids, tokens))
    differences = compare(expect, target, drafter) if expect is not None else []
    return CheckReport(understood, findings, float(tau.mean()), differences)


def describe(drafter: Drafter, target: Target) -> dict[str, Any]:
    """Family, block, taps, heads, sizes, KV per token."""
    spec = drafter.spec
    own = {name: value for name, value in drafter.named_parameters() if value is not target.head.weight}
    backbone = sum(value.numel() for name, value in own.items() if "embed_tokens" not in name and not name.startswith("lm_head"))
    assert drafter.kv is not None
    assert target.kv is not None
    return {
        "packaging": spec.packaging,
        "family": spec.family,
        "backbone": f"{spec.backbone['model_type']}, {len(drafter.backbone.layers)} layers, hidden {spec.hidden}",
        "drafts": f"{spec.gamma} tokens " + ("one by one" if spec.one_by_one else f"of a block of {spec.block}"),
        "anchor slot": "predicts the first token" if spec.first_slot == 0 else "predicts nothing",
        "taps": "hidden state after the final norm" if spec.taps == (POST_NORM,) else str(list(spec.taps)),
        "markov head": f"{spec.markov_kind}, rank {spec.markov_rank}" if spec.markov_rank else "none",
        "confidence head": spec.confidence,
        "vocabulary": spec.draft_vocabulary or spec.vocabulary,
        "parameters": f"{backbone:,} without embedding and head",
        "kv_bytes_per_token": drafter.kv.bytes_per_token,
        "target_kv_bytes_per_token": target.kv.bytes_per_token,
    }


def weights(drafter: Drafter, target: Target) -> list[Finding]:
    """(a) embedding and head are frozen copies of the target's; trained packagings with a reduced vocabulary have their own head."""
    findings = []
    for name, own, theirs in (
        ("embedding is the target's", drafter.backbone.embed_tokens.weight, target.embedding.weight),
        ("head is the target's", drafter.lm_head.weight, target.head.weight),
    ):
        if own.shape != theirs.shape:
            findings.append(Finding(name, True, "its own, for a reduced vocabulary"))
            continue
        worst = float((own.float() - theirs.float()).abs().max()) if own is not theirs else 0.0
        trained = drafter.spec.packaging in ("speculators", "specforge") and worst > 0
        findings.append(Finding(name, worst == 0.0 or trained, f"largest difference {worst:.3g}" + (", trained with the drafter" if trained else "")))
    return findings


def taps(spec: DraftSpec, target: Target) -> Finding:
    """(d) the last layer is not tapped: its output is only to be had after the final norm; and taps are in order."""
    if spec.taps == (POST_NORM,):
        return Finding("taps", True, "output of the final norm")
    last = target.layers - 1 in spec.taps and spec.packaging != FUSED  # whose taps are streams, that no norm ends
    rising = all(a < b for a, b in zip(spec.taps, spec.taps[1:], strict=False))
    detail = f"layer {target.layers - 1} is the target's last" if last else "not strictly increasing" if not rising else f"{list(spec.taps)}"
    return Finding("taps", rising and not last, f"{detail} of {target.layers} layers")


def accepted_lengths(target: Target, drafter: Drafter, prompts: list[list[int]], tokens: int) -> np.ndarray:
    """Committed tokens of every full round of a greedy decode, the bonus included  # [rounds]."""
    room = max(map(len, prompts)) + tokens + 2 * (drafter.gamma + drafter.spec.block) + 2
    engine = Engine(target, drafter, FixedLength(length=drafter.gamma), slots=min(8, len(prompts)), length=room)
    engine.run([ServedRequest(i, prompt, tokens) for i, prompt in enumerate(prompts)])
    return np.array([part.tokens for step in engine.steps for part in step.rounds])


def long_enough(tau: np.ndarray, at_least: float) -> Finding:
    """(e) accepted length of a greedy decode."""
    enough = bool(tau.mean() >= at_least)
    detail = f"{tau.mean():.2f} tokens per round over {len(tau)} greedy rounds"
    return Finding("accepted length", enough, detail + ("" if enough else f", below {at_least}: misaligned slots or taps, or an untrained drafter"))


def aligned(target: Target, drafter: Drafter, texts: list[list[int]]) -> list[Finding]:
    """(f) shifting taps, slots or rotary positions by one must not raise the expected length, text by text."""
    here, findings = _overlaps(target, drafter, texts), []
    for name, shifted in shifts(drafter.spec, target):
        with worn(drafter, shifted):
            there = _overlaps(target, drafter, texts)
        common = min(here.shape[2], there.shape[2])
        now, then = expected_length(here, common), expected_length(there, common)
        gain = then - now
        raised = bool(gain.mean() > max(0.01, 3 * gain.std(ddof=1) / np.sqrt(len(gain))))
        detail = f"expected length {then.mean():.2f} instead of {now.mean():.2f}"
        findings.append(Finding(f"shifted {name}", not raised, detail + (": probable misalignment, as this shift corrects it" if raised else "")))
    return findings


def _overlaps(target: Target, drafter: Drafter, texts: list[list[int]]) -> Floats:
    with memory_of(f"drafts along {len(texts)} texts", remedy="use a smaller dtype or a larger device"):
        return overlaps(target, drafter, texts)

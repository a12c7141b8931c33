"""What a round costs here and now: measured by running the engine itself at a few batch sizes, read as a staircase over the tiers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from real_runner.drafters.spec import Drafter
from real_runner.engine import Engine
from real_runner.layout import Tiers
from real_runner.prompts import random_prompts
from real_runner.records import Request, Step
from real_runner.target import Target
from simulator.policies.verification import FixedLength

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Medians. Between measured points a step costs what the next larger one does: that is what padding to tiers makes of it."""

    tokens: NDArray[np.int64]  # [n] ascending
    verify_s: Floats  # [n]
    requests: NDArray[np.int64]  # [m] ascending
    draft_s: Floats  # [m]
    overhead_s: Floats  # [m]

    def round_s(self, requests: int, context_tokens: float, gamma: int) -> Floats:
        """Seconds of a round that verifies j drafted tokens beside the anchors  # [R γ + 1]."""
        row = min(int(np.searchsorted(self.requests, requests)), len(self.requests) - 1)
        tokens = requests + np.arange(requests * gamma + 1)
        step = np.minimum(np.searchsorted(self.tokens, tokens), len(self.tokens) - 1)
        return self.draft_s[row] + self.overhead_s[row] + self.verify_s[step]


def measure_costs(
    target: Target, drafter: Drafter, *, slots: int, length: int, tiers: Tiers | None = None, prompt_tokens: int = 32, rounds: int = 8, seed: int = 0
) -> MeasuredCosts:
    """Runs `rounds` rounds at 1, 2, 4, … `slots` requests and at verified lengths 0, 1, 3, … γ with random prompts."""
    sizes = sorted({*(2**k for k in range(slots.bit_length()) if 2**k <= slots), slots})
    lengths = sorted({0, 1, drafter.gamma // 2, drafter.gamma})
    verify: dict[int, list[float]] = {}
    draft: dict[int, list[float]] = {}
    overhead: dict[int, list[float]] = {}
    for size in sizes:
        for verified in lengths:
            for step in _rounds(target, drafter, size, verified, (slots, length), tiers, prompt_tokens, rounds, seed):
                verify.setdefault(step.tokens, []).append(step.verify_s)
                if verified:
                    draft.setdefault(size, []).append(step.draft_s)
                    overhead.setdefault(size, []).append(step.overhead_s)
    by_tokens = sorted(verify)
    times = np.maximum.accumulate([np.median(verify[tokens]) for tokens in by_tokens])  # noise must not make a larger step cheaper
    return MeasuredCosts(
        np.array(by_tokens),
        times,
        np.array(sizes),
        np.array([np.median(draft[size]) for size in sizes]),
        np.array([np.median(overhead[size]) for size in sizes]),
    )


def _rounds(
    target: Target, drafter: Drafter, size: int, verified: int, room: tuple[int, int], tiers: Tiers | None, prompt: int, rounds: int, seed: int
) -> list[Step]:
    """Full rounds of `size` requests, the first and those that captured a graph left out."""
    policy = FixedLength(length=verified)
    engine = Engine(target, drafter, policy, slots=room[0], length=room[1], tiers=tiers, seed=seed, stop_at_eos=False)
    engine.run([Request(i, ids, (verified + 1) * (rounds + 2)) for i, ids in enumerate(random_prompts(target, [prompt] * size, seed))])
    steps = [step for step in engine.steps if len(step.rounds) == size and not step.captured_graphs and not step.prefill_tokens]
    return steps[1 : rounds + 1] if len(steps) > 1 else steps

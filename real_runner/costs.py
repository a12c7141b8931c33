"""What a round costs, for the policies of the real engine: a profile's costs, or measured here and now at a few batch sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from real_runner.drafters.drafter import Drafter
from real_runner.engine import Engine
from real_runner.layout import Tiers
from real_runner.prompts import random_prompts
from real_runner.records import ServedRequest, Step
from real_runner.target import Target
from simulator.arrays import Floats, Integers
from simulator.errors import DsimError
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Profile
from simulator.policies.verification import FixedLength, NoSpeculation


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Medians. Between measured points a step costs what the next larger one does: that is what padding to tiers makes of it."""

    tokens: Integers  # [n] ascending
    verify_s: Floats  # [n]
    requests: Integers  # [m] ascending
    draft_s: Floats  # [m]
    overhead_s: Floats  # [m]

    def round_s(self, requests: int, context_tokens: float, gamma: int) -> Floats:
        """Seconds of a round that verifies j drafted tokens beside the anchors  # [R γ + 1]."""
        row = min(int(np.searchsorted(self.requests, requests)), len(self.requests) - 1)
        tokens = requests + np.arange(requests * gamma + 1)
        step = np.minimum(np.searchsorted(self.tokens, tokens), len(self.tokens) - 1)
        return self.draft_s[row] + self.overhead_s[row] + self.verify_s[step]


class ProfileCosts:
    """The costs, calibration and mean survivals of a profile's drafter, as the engine asks for them; no drafter: ordinary decoding."""

    def __init__(self, profile: Profile, drafter: str | None) -> None:
        self._profile, self._name = profile, drafter
        self.to_longest = profile.costs.contexts == "longest"  # as this engine pays
        self._drafter = None if drafter is None else profile.drafter(drafter)
        self._prices: dict[int, RoundCost] = {}

    @property
    def temperatures(self) -> list[float] | None:
        """Calibration of the confidences  # [γ]."""
        return None if self._drafter is None else self._drafter.temperatures

    @property
    def survival(self) -> list[float] | None:
        """Mean recorded survivals  # [γ]."""
        return None if self._name is None else self._profile.blocks(self._name).mean_survival().tolist()

    def fits(self, drafter: Drafter) -> None:
        """Raises DsimError where the profile's drafter drafts another number of tokens."""
        if self._drafter is not None and self._drafter.gamma != drafter.gamma:
            problem = f"drafts {drafter.gamma} tokens, but the profile's drafter {self._name!r} {self._drafter.gamma}"
            raise DsimError(problem, where=drafter.spec.folder, remedy="give a profile of this drafter")

    def round_s(self, requests: int, context_tokens: float, gamma: int) -> Floats:
        """Seconds of a round that verifies j drafted tokens beside the anchors, of requests that hold `context_tokens` in all  # [R γ + 1]."""
        if gamma not in self._prices:
            draft = None if self._drafter is None else self._drafter.draft
            self._prices[gamma] = RoundCost(self._profile.costs, draft, gamma, gamma)
        return self._prices[gamma].round_s(requests, context_tokens / max(requests, 1))


def measure_costs(
    target: Target, drafter: Drafter, *, slots: int, length: int, tiers: Tiers | None = None, prompt_tokens: int = 32, rounds: int = 8,
    seed: int = 0, temperature: float = 0.0,
) -> MeasuredCosts:  # fmt: skip
    """Runs `rounds` rounds at 1, 2, 4, … `slots` requests and at verified lengths 0, 1, γ/2 and γ with random prompts. Drafting is that of rounds
    that verify γ: shorter ones draft no more than they verify, while policies that choose by costs draft all γ."""
    sizes = sorted({*(2**k for k in range(slots.bit_length()) if 2**k <= slots), slots})
    lengths = sorted({0, 1, drafter.gamma // 2, drafter.gamma})
    steps = pd.DataFrame(
        (
            (size, verified == drafter.gamma, step.tokens, step.verify_s, step.draft_s, step.overhead_s)
            for size in sizes
            for verified in lengths
            for step in full_rounds(target, drafter, size, verified, (slots, length), tiers, prompt_tokens, rounds, seed, temperature)
        ),
        columns=["size", "all_drafted", "tokens", "verify", "draft", "overhead"],
    )
    verify = steps.groupby("tokens").verify.median().cummax()  # noise must not make a larger step cheaper
    round_ = steps[steps.all_drafted].groupby("size")[["draft", "overhead"]].median()
    return MeasuredCosts(
        verify.index.to_numpy(), verify.to_numpy(), round_.index.to_numpy(), round_["draft"].to_numpy(), round_["overhead"].to_numpy()
    )


def full_rounds(
    target: Target, drafter: Drafter | None, size: int, verified: int, room: tuple[int, int], tiers: Tiers | None, prompt: int, rounds: int,
    seed: int = 0, temperature: float = 0.0,
) -> list[Step]:  # fmt: skip
    """Steps of `size` requests that verify `verified` tokens each, the first and those that captured a graph left out."""
    policy = FixedLength(length=verified) if verified else NoSpeculation()
    engine = Engine(
        target, drafter if verified else None, policy, slots=room[0], length=room[1], tiers=tiers, seed=seed, temperature=temperature,
        stop_at_eos=False,
    )  # fmt: skip
    engine.run([ServedRequest(i, ids, (verified + 1) * (rounds + 2)) for i, ids in enumerate(random_prompts(target, [prompt] * size, seed))])
    steps = [step for step in engine.steps if len(step.rounds) == size and not step.captured_graphs and not step.prefill_tokens]
    return steps[1 : rounds + 1] if len(steps) > 1 else steps

"""Synthetic recorded blocks from published marginals: acceptance as a logistic-normal walk along the text."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.arrays import Floats
from simulator.errors import ProfileError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.quantities import MOST_SLOTS, Calibration, InnerShare, Seed, Share, Within
from simulator.rng import stream
from simulator.schema import Frozen

_GRID = 2.0**-14  # confidences and acceptances are rounded to it: exact in float32, small on disk


class ParametricAcceptance(Frozen):
    """A text whose difficulty varies along the way, and a drafter whose acceptance depends on it.

    Position j of a text has difficulty t_j of unit variance: a constant of the sequence plus an AR(1) walk. The block drafted at anchor i has true
    conditional acceptance c_k = σ(μ_{d,k} + spread · t_{i+k}). μ is solved so that P(slot k accepted | slots before accepted) equals `conditional`
    (DSpark paper, Figure 2), shifted by `level_shift` logits. The average is over all anchors, or over those that a run which verifies everything
    visits (as in the paper: they follow rejections, so they are harder than the average). The confidence head sees the logit through noise, predicts
    as well as the noise allows, and multiplies its logit at each position by `miscalibration`.

    The defaults approximate the paper's Figure 6 with the chat row of Figure 2 (tests/measurements/test_acceptance.py).
    """

    conditional: dict[str, Annotated[list[InnerShare], Field(min_length=1, max_length=MOST_SLOTS)]] = Field(min_length=1)
    level_shift: Annotated[float, Within(-20, 20)] = 0.0
    spread: Annotated[float, Within(0, 10)] = 1.95
    correlation: Annotated[float, Within(0, 1 - 1e-6)] = 0.6
    sequence_share: Share = 0.15
    confidence_noise: Annotated[float, Within(0, 100)] = 1.0
    anchors: Literal["visited", "all"] = "visited"
    miscalibration: Annotated[list[Calibration], Field(min_length=1, max_length=MOST_SLOTS)] = [1.3, 1.65, 1.95, 1.8, 1.75, 1.45, 1.6]
    sequences_per_domain: Annotated[int, Within(1, 100_000, "texts")] = 48
    anchors_per_sequence: Annotated[int, Within(1, 100_000, "positions")] = 256
    seed: Seed = 0

    @model_validator(mode="after")
    def _slots_agree(self) -> ParametricAcceptance:
        lengths = {len(c) for c in self.conditional.values()}
        if len(lengths) > 1:
            raise ValueError("every domain needs the same number of positions")
        return self

    @property
    def gamma(self) -> int:
        """Drafted tokens in a block."""
        return len(next(iter(self.conditional.values())))

    def generate(self, drafter: str, provenance: str = "synthetic", source: str = "parametric acceptance") -> RecordedBlocks:
        """The blocks at every anchor. Smooth in the parameters for one seed: the random draws are fixed, the thresholds move."""
        difficulty = self._difficulty()  # [D, S, n+γ]
        target = _sigmoid(_logit(np.array(list(self.conditional.values()))) + self.level_shift)  # [D, γ]
        centre = _solve(self.spread * difficulty, target, self.anchors == "visited")  # [D, γ]
        walk = np.lib.stride_tricks.sliding_window_view(difficulty, self.gamma, axis=2)[:, :, 1:]  # [D, S, n, γ]: t_{i+k}
        logit = (centre[:, None, None, :] + self.spread * walk).reshape(-1, self.gamma)  # [N, γ]
        true = _sigmoid(logit)
        draws = stream(self.seed, "acceptance").random(logit.shape)
        taken = np.logical_and.accumulate(draws < true, axis=1)  # [N, γ]
        accepted = taken.sum(axis=1, dtype=np.int64)
        drawn = np.arange(self.gamma) <= accepted[:, None]
        sequences = len(target) * self.sequences_per_domain
        return RecordedBlocks(
            drafter=drafter, gamma=self.gamma, temperature=None, provenance=provenance, source=source, domains=tuple(self.conditional),
            sequence_domain=np.repeat(np.arange(len(target)), self.sequences_per_domain),
            first_row=np.arange(sequences) * self.anchors_per_sequence, length=np.full(sequences, self.anchors_per_sequence),
            accepted=accepted, confidence=self._confidence(logit, centre), acceptance=np.where(drawn, _rounded(true), np.nan),
        )  # fmt: skip

    def _difficulty(self) -> Floats:
        """t_j of every text position, unit variance, [D, S, n+γ]."""
        from scipy.signal import lfilter
        from scipy.special import ndtri

        domains, sequences = len(self.conditional), self.sequences_per_domain
        rng = stream(self.seed, "difficulty")
        strata = (rng.permuted(np.tile(np.arange(sequences), (domains, 1)), axis=1) + 0.5) / sequences
        white = rng.standard_normal((domains, sequences, self.anchors_per_sequence + self.gamma))
        white[..., 1:] *= np.sqrt(1 - self.correlation**2)
        walk = lfilter([1.0], [1.0, -self.correlation], white, axis=2)
        share = self.sequence_share
        return np.asarray(np.sqrt(share) * ndtri(strata)[:, :, None] + np.sqrt(1 - share) * walk)

    def _confidence(self, logit: Floats, centre: Floats) -> Floats:
        """Confidences of the head, [N, γ]: the best prediction through its noise, with the logit stretched."""
        noise = stream(self.seed, "confidence").standard_normal(logit.shape)
        prior = np.repeat(centre, len(logit) // len(centre), axis=0)  # [N, γ]
        variance = self.spread**2
        trust = variance / (variance + self.confidence_noise**2) if variance else 0.0
        seen = prior + trust * (logit - prior + self.confidence_noise * noise)
        best = seen / np.sqrt(1 + np.pi / 8 * variance * (1 - trust))  # E σ(z) for z ~ N(m, v) is near σ(m / √(1 + πv/8))
        last = len(self.miscalibration) - 1  # whose factor holds for further positions
        return _rounded(_sigmoid(best * np.array(self.miscalibration)[np.minimum(np.arange(self.gamma), last)]))


def _solve(offset: Floats, target: Floats, visited: bool) -> Floats:
    """μ [D, γ] with P(slot k accepted | slots before accepted) = target_k in expectation over anchors; offset = spread · t, [D, S, n+γ]."""
    gamma = target.shape[1]
    shrink = np.exp(-offset)
    weight = np.ones_like(shrink[:, :, gamma:])  # [D, S, n], how often each anchor counts
    centre = np.array([_centres(s, t, w, _logit(t), steps=60) for s, t, w in zip(shrink, target, weight, strict=True)])
    for _ in range(80 if visited else 0):  # the visits depend on μ and μ on the visits
        before = centre
        weight = _visits(shrink, centre)
        centre = np.array([_centres(s, t, w, c, steps=1) for s, t, w, c in zip(shrink, target, weight, before, strict=True)])
        if np.abs(centre - before).max() < 1e-8:
            return centre
    if visited:
        raise ProfileError(
            "no acceptance has these marginals at the visited anchors",
            key="conditional", remedy="lower 'spread', 'correlation' or 'sequence_share', or set anchors: all",
        )  # fmt: skip
    return centre


def _visits(shrink: Floats, centre: Floats) -> Floats:
    """P(a request that starts at anchor 0 and verifies everything visits anchor i), [D, S, n]."""
    domains, sequences, positions = shrink.shape
    gamma = centre.shape[1]
    lengths = np.empty((positions - gamma, domains, sequences, gamma + 1))  # P(A_i = 0 … γ)
    survival = np.ones((positions - gamma, domains, sequences))
    for k in range(1, gamma + 1):
        longer = survival / (1 + np.exp(-centre[:, k - 1])[:, None] * shrink[:, :, k : k + positions - gamma].transpose(2, 0, 1))
        lengths[..., k - 1] = survival - longer
        survival = longer
    lengths[..., gamma] = survival
    visits = np.zeros((domains, sequences, positions + 1))
    visits[:, :, 0] = 1
    for i, shares in enumerate(lengths):
        visits[:, :, i + 1 : i + gamma + 2] += visits[:, :, i, None] * shares
    return visits[:, :, : positions - gamma]


def _centres(shrink: Floats, target: Floats, weight: Floats, guess: Floats, steps: int) -> Floats:
    """μ of the slots, one after another, [γ], for one domain and the weights [S, n] of its anchors."""
    anchors = weight.shape[1]
    reached = weight
    centres = []
    for k, goal in enumerate(target, start=1):
        here = shrink[:, k : k + anchors]
        if not reached.any():  # so seldom that no float holds it: then any weights do
            reached = weight
        centres.append(_centre(reached / reached.sum(), here, goal, float(guess[k - 1]), steps))
        reached = reached / (1 + np.exp(-centres[-1]) * here)
    return np.array(centres)


def _centre(weight: Floats, shrink: Floats, goal: float, centre: float, steps: int) -> float:
    """Solve Σ weight · σ(μ - log shrink) = goal for μ by Newton's method inside a bracket, starting at `centre`."""
    low, high = -40.0, 40.0
    for _ in range(steps):
        accepted = 1 / (1 + np.exp(-centre) * shrink)
        share = weight * accepted
        gap = float(share.sum()) - goal
        low, high = (low, centre) if gap > 0 else (centre, high)
        slope = float((share * (1 - accepted)).sum())
        step = centre - gap / slope if slope > 0 else low - 1
        following = step if low <= step <= high else (low + high) / 2
        if abs(following - centre) < 1e-10:
            break
        centre = following
    return centre


def _logit(p: Floats | np.float64) -> Floats:
    return np.asarray(np.log(p) - np.log1p(-p))


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-z)))


def _rounded(p: Floats) -> Floats:
    return np.clip(np.round(p / _GRID) * _GRID, _GRID, 1 - _GRID)

"""Synthetic recorded blocks from published marginals: acceptance as a logistic-normal walk along the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from simulator.arrays import Floats, Integers
from simulator.errors import ProfileError
from simulator.measurements import runs
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.marginals import by_length, everywhere, logit, sigmoid, visited
from simulator.quantities import MOST_SLOTS, Calibration, Gamma, InnerShare, Seed, Share, Within
from simulator.rng import stream
from simulator.schema import Frozen

_GRID = 2.0**-14  # confidences and acceptances are rounded to it: exact in float32, small on disk
_SETTLED = 64  # positions before the first anchor of a sequence, at least: where a walk's start is forgotten
COUNTED = {"sequences_per_domain": 2048, "anchors_per_sequence": 128}  # of blocks from counters: the mean of short answers needs many beginnings

Correlation = Annotated[float, Within(0, 1 - 1e-6)]
Tokens = Annotated[float, Within(1, MOST_SLOTS + 1, "tokens")]


class Variation(Frozen):
    """How acceptance varies along the texts of a domain and between them.

    Position j of a text has difficulty t_j of unit variance: a constant of the sequence (`sequence_share` of the variance), an AR(1) walk that is
    slow (`slow_share`, `slow_correlation`) and one that is fast (the rest, `correlation`); a logit moves by spread · t_j. A share `easy_share` of the
    texts is easier throughout, by `easy_shift` logits: repetitive ones.

    Blocks that begin at different anchors reach the same position: `agreement` is how alike their luck is there (at temperature 0 a token is hit or
    missed by most of them). No walk meets a position twice, so that it shows in the correlation of neighbouring anchors alone.
    """

    spread: Annotated[float, Within(0, 10)] = 1.95
    correlation: Correlation = 0.6
    sequence_share: Share = 0.15
    slow_share: Share = 0.0
    slow_correlation: Correlation = 0.97
    agreement: Share = 0.0
    easy_share: Share = 0.0
    easy_shift: Annotated[float, Within(0, 20, "logits")] = 0.0

    @model_validator(mode="after")
    def _shares_fit(self) -> Variation:
        if self.sequence_share + self.slow_share > 1:
            raise ValueError("'sequence_share' and 'slow_share' are parts of one: their sum is above 1")
        return self

    def offset(self, strata: Floats, easy: Floats, white: Floats) -> Floats:
        """Logits by which each position is easier, [S, P], from uniforms [S] and [S] and normals [2, S, P]."""
        from scipy.signal import lfilter
        from scipy.special import ndtri

        shares = (1 - self.sequence_share - self.slow_share, self.slow_share)
        walks = np.repeat(np.sqrt(self.sequence_share) * ndtri(strata)[:, None], white.shape[-1], axis=1)
        for share, correlation, normals in zip(shares, (self.correlation, self.slow_correlation), white, strict=True):
            if share > 0:
                steps = np.concatenate([normals[:, :1], normals[:, 1:] * np.sqrt(1 - correlation**2)], axis=1)
                walks = walks + np.sqrt(share) * lfilter([1.0], [1.0, -correlation], steps, axis=1)
        return np.asarray(self.spread * walks + self.easy_shift * (easy < self.easy_share)[:, None])


class ParametricAcceptance(Variation):
    """A text whose difficulty varies along the way, and a drafter whose acceptance depends on it.

    The block drafted at anchor i has true conditional acceptance c_k = σ(μ_{d,k} + what position i + k is easier by). μ is solved so that P(slot k
    accepted | slots before accepted) equals `conditional` (DSpark paper, Figure 2); or so that a run that verifies k tokens each time commits
    `accepted_length`[k - 1] a round, for every k, as tables from one run for every k have it. Both shifted by `level_shift` logits. The average of
    `conditional` is over all anchors, or over those that a run which verifies as many tokens visits (as in the paper: they follow rejections, so they
    are harder than the average); every sequence begins at an anchor that such a run visits. `variation` is that of single domains.

    `proposing` is the share of those visits at which the drafter proposes anything, and `conditional` is then over the proposing ones; such a drafter
    has no confidence head, and where it proposes is a matter of runs (runs.py). A `block` may be longer or shorter than what was counted: positions
    beyond go on as `extended` says, a run as at its last position.

    The confidence head sees the logit through noise, predicts as well as the noise allows, and multiplies its logit at each position by
    `miscalibration`. The defaults approximate the paper's Figure 6 with the chat row of Figure 2 (tests/measurements/test_acceptance.py).
    """

    conditional: dict[str, Annotated[list[InnerShare], Field(min_length=1, max_length=MOST_SLOTS)]] = {}
    accepted_length: dict[str, Annotated[list[Tokens], Field(min_length=1, max_length=MOST_SLOTS)]] = {}
    variation: dict[str, Variation] = {}
    level_shift: Annotated[float, Within(-20, 20)] = 0.0
    proposing: Annotated[float, Within(1e-6, 1)] = 1.0
    block: Gamma | None = None
    confidence_noise: Annotated[float, Within(0, 100)] = 1.0
    anchors: Literal["visited", "all"] = "visited"
    miscalibration: Annotated[list[Calibration], Field(min_length=1, max_length=MOST_SLOTS)] = [1.3, 1.65, 1.95, 1.8, 1.75, 1.45, 1.6]
    sequences_per_domain: Annotated[int, Within(1, 100_000, "texts")] = 48
    anchors_per_sequence: Annotated[int, Within(1, 100_000, "positions")] = 256
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits_together(self) -> ParametricAcceptance:
        if bool(self.conditional) == bool(self.accepted_length):
            raise ValueError("needs one of 'conditional' and 'accepted_length'")
        if len({len(marginals) for marginals in self._marginals.values()}) > 1:
            raise ValueError("every domain needs the same number of positions")
        if unknown := sorted(set(self.variation) - set(self._marginals)):
            raise ValueError(f"'variation' names the domain '{unknown[0]}', which has no marginals")
        if self.proposing < 1 and (self.accepted_length or self.anchors == "all"):
            raise ValueError("a drafter that proposes in a part of the rounds needs 'conditional' at visited anchors")
        if self.block is not None and self.accepted_length:
            raise ValueError("'accepted_length' says how long a block is: leave out 'block'")
        return self

    @property
    def _marginals(self) -> dict[str, list[float]]:
        return self.conditional or self.accepted_length

    @property
    def gamma(self) -> int:
        """Drafted tokens in a block."""
        return self.block or len(next(iter(self._marginals.values())))

    def generate(self, drafter: str, provenance: str = "synthetic", source: str = "parametric acceptance") -> RecordedBlocks:
        """The blocks at every anchor. Smooth in the parameters for one seed but for where sequences begin: the random draws are fixed, the thresholds
        move. Raises ProfileError where there are no such blocks."""
        gamma, domains = self.gamma, len(self._marginals)
        sequences, anchors = domains * self.sequences_per_domain, self.anchors_per_sequence
        slots = max(gamma, len(next(iter(self._marginals.values()))))  # that have marginals, or are drafted
        settled = max(_SETTLED, 2 * (slots + 1))
        offset = self._offset(settled + anchors + 2 * slots + 1)  # [D, S, P + slots]
        if self.proposing < 1:
            return self._in_runs(offset, settled, drafter, provenance, source)
        centre = self._solved(offset[:, :, : settled + anchors + slots], settled, slots)[:, :gamma]
        easier = np.lib.stride_tricks.sliding_window_view(offset, gamma, axis=2)[:, :, 1:]  # [D, S, P, γ]: of slot k, position i + k
        logits = (centre[:, None, None, :] + easier).reshape(sequences, -1, gamma)
        true = sigmoid(logits)
        accepted = np.logical_and.accumulate(self._draws(logits.shape) < true, axis=2).sum(axis=2, dtype=np.int64)
        kept = self._kept(accepted, settled)
        accepted, logits, true = accepted[kept], logits[kept], true[kept]
        drawn = np.arange(gamma) <= accepted[:, None]
        found = self._blocks(accepted, drafter, provenance, source)
        return replace(found, confidence=self._confidence(logits, centre), acceptance=np.where(drawn, _rounded(true), np.nan))

    def _in_runs(self, offset: Floats, settled: int, drafter: str, provenance: str, source: str) -> RecordedBlocks:
        """The blocks of a drafter that proposes in a part of its rounds."""
        target = sigmoid(logit(np.array(list(self.conditional.values()))) + self.level_shift)
        counted = offset[:, :, : settled + self.anchors_per_sequence + target.shape[1] + 1]
        centre, begins = runs.solved(counted, target, settled, self.proposing)
        accepted, proposes = runs.drawn(offset, centre, begins, self.gamma, self.seed)
        kept = self._kept(accepted, settled)
        return replace(self._blocks(accepted[kept], drafter, provenance, source), proposed=proposes[kept] * self.gamma)

    def _kept(self, accepted: Integers, settled: int) -> tuple[Integers, Integers]:
        """The rows of all anchors [D S, P] that sequences have: each begins at the first one from `settled` on that a walk
        visits."""
        every, counted = np.arange(len(accepted)), len(next(iter(self._marginals.values())))
        at = every % (self.gamma + 1)
        while (going := at < settled).any():
            at[going] += np.minimum(accepted[every[going], at[going]], counted) + 1
        rows = at[:, None] + np.arange(self.anchors_per_sequence)
        return np.repeat(every, self.anchors_per_sequence), rows.ravel()

    def _blocks(self, accepted: Integers, drafter: str, provenance: str, source: str) -> RecordedBlocks:
        domains, sequences = len(self._marginals), len(self._marginals) * self.sequences_per_domain
        return RecordedBlocks(
            drafter=drafter, gamma=self.gamma, temperature=None, provenance=provenance, source=source, domains=tuple(self._marginals),
            sequence_domain=np.repeat(np.arange(domains), self.sequences_per_domain),
            first_row=np.arange(sequences) * self.anchors_per_sequence, length=np.full(sequences, self.anchors_per_sequence), accepted=accepted,
        )  # fmt: skip

    def _offset(self, positions: int) -> Floats:
        """Logits by which every text position is easier, [D, S, positions]."""
        domains, sequences = len(self._marginals), self.sequences_per_domain
        rng = stream(self.seed, "difficulty")
        strata = (rng.permuted(np.tile(np.arange(sequences), (2, domains, 1)), axis=2) + 0.5) / sequences
        white = rng.standard_normal((2, domains, sequences, positions))
        each = [self.variation.get(domain, self) for domain in self._marginals]
        return np.array([v.offset(strata[0, d], strata[1, d], white[:, d]) for d, v in enumerate(each)])

    def _draws(self, shape: tuple[int, ...]) -> Floats:
        """Uniforms that decide on each slot, [D S, P, γ]."""
        from scipy.special import ndtr, ndtri

        draws = stream(self.seed, "acceptance").random(shape)
        agreement = [self.variation.get(domain, self).agreement for domain in self._marginals]
        if not any(agreement):
            return draws
        together = np.repeat(agreement, self.sequences_per_domain)[:, None, None]
        luck = stream(self.seed, "luck").standard_normal((shape[0], shape[1] + self.gamma))
        here = np.lib.stride_tricks.sliding_window_view(luck, self.gamma, axis=1)[:, 1:]  # of slot k, position i + k
        return np.asarray(ndtr(np.sqrt(together) * here + np.sqrt(1 - together) * ndtri(draws)))

    def _solved(self, offset: Floats, settled: int, slots: int) -> Floats:
        """μ [D, slots]."""
        if self.accepted_length:
            return by_length(offset, np.array(list(self.accepted_length.values())), settled) + self.level_shift
        target = sigmoid(logit(np.array([extended(c, slots) for c in self.conditional.values()])) + self.level_shift)
        if self.anchors == "all":
            return everywhere(offset[:, :, settled:], target)
        return visited(offset, target, settled, verified=len(next(iter(self.conditional.values()))))

    def _confidence(self, logits: Floats, centre: Floats) -> Floats:
        """Confidences of the head, [N, γ]: the best prediction through its noise, with the logit stretched."""
        noise = stream(self.seed, "confidence").standard_normal(logits.shape)
        prior = np.repeat(centre, len(logits) // len(centre), axis=0)  # [N, γ]
        spread = np.array([self.variation.get(domain, self).spread for domain in self._marginals])
        variance = np.repeat(spread**2, len(logits) // len(centre))[:, None]
        trust = np.where(variance > 0, variance / np.maximum(variance + self.confidence_noise**2, 1e-300), 0.0)
        seen = prior + trust * (logits - prior + self.confidence_noise * noise)
        best = seen / np.sqrt(1 + np.pi / 8 * variance * (1 - trust))  # E σ(z) for z ~ N(m, v) is near σ(m / √(1 + πv/8))
        last = len(self.miscalibration) - 1  # whose factor holds for further positions
        return _rounded(sigmoid(best * np.array(self.miscalibration)[np.minimum(np.arange(self.gamma), last)]))


def extended(conditional: Sequence[float], gamma: int) -> list[float]:
    """Conditional acceptance at γ positions where fewer (or more) were counted: those beyond have that of the counted ones from the second on, pooled
    by how often each was reached; the first alone stands behind a rejection."""
    counted = np.asarray(conditional, dtype=np.float64)
    reached = np.cumprod([1.0, *counted[:-1]])
    later = slice(min(1, len(counted) - 1), None)
    pooled = float((reached * counted)[later].sum() / reached[later].sum())
    return [*counted[:gamma].tolist(), *[pooled] * (gamma - len(counted))]


def from_counts(
    survival: Sequence[float], drafter: str, source: str, *, proposing: float = 1.0, gamma: int | None = None, domain: str = "any",
    provenance: str = "imported",
) -> RecordedBlocks:  # fmt: skip
    """Blocks, accepted lengths alone, with what an engine counted: `survival` by position over the rounds that proposed anything, and the share
    `proposing` of all decode rounds that did. `gamma` may lie beyond the counted positions; positions that were never accepted
    are left out. Raises ProfileError where no token was ever accepted."""
    alive = [s for s in survival if s > 0]
    conditional = [min(max(s / before, 1e-4), 1 - 1e-4) for s, before in zip(alive, [1.0, *alive], strict=False)]
    if not conditional:
        raise ProfileError("counts no accepted token", where=source, key="per position", remedy="scrape again after some traffic")
    shape = ParametricAcceptance(conditional={domain: conditional}, proposing=proposing, block=gamma, miscalibration=[1.0], **COUNTED)
    return replace(shape.generate(drafter, provenance, source), confidence=None, acceptance=None)


def _rounded(p: Floats) -> Floats:
    return np.clip(np.round(p / _GRID) * _GRID, _GRID, 1 - _GRID)

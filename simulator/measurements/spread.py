"""How acceptance varies along texts and between them: its measures, and the generator's parameters that have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.acceptance import ParametricAcceptance, Variation
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.statistics import acceptance_statistics, autocorrelation, rounds_to

LAGS = (1, 2, 3, 5, 7, 10, 15, 20, 30)
_QUANTILES = (0.1, 0.5, 0.9)
_SEQUENCES = 400  # of a trial
_FREE = ("spread", "correlation", "sequence_share", "slow_share", "slow_correlation", "agreement", "easy_share", "easy_shift")
_LOW, _HIGH = np.array([0.3, 0.0, 0.0, 0.0, 0.85, 0.0, 0.0, 0.0]), np.array([4.0, 0.95, 0.49, 0.49, 0.995, 1.0, 0.4, 4.0])
_START = np.array([1.5, 0.3, 0.1, 0.1, 0.95, 0.95, 0.05, 1.0])


@dataclass(frozen=True)
class Spread:
    """Of a domain: the rounds in which whole texts give `tokens` tokens when all γ are verified (their mean, and their coefficient of variation and
    quantiles 10, 50 and 90 % over it), and the correlation of accepted tokens at LAGS anchors apart."""

    tokens: int
    rounds: float
    variation: float
    finish: Floats  # [3]
    autocorrelation: Floats  # [LAGS]

    def apart(self, other: Spread) -> dict[str, float]:
        """Relative differences of another from this one; those of correlations are to one that is a tenth at least."""
        lags = {f"autocorrelation {lag}": LAGS.index(lag) for lag in (1, 5, 10)}
        found = {name: (other.autocorrelation[i] - self.autocorrelation[i]) / max(abs(self.autocorrelation[i]), 0.1) for name, i in lags.items()}
        finish = {f"finish {q:.0%}": other.rounds * b / (self.rounds * a) - 1 for q, a, b in zip(_QUANTILES, self.finish, other.finish, strict=True)}
        return {"spread": other.variation / self.variation - 1, **{name: float(value) for name, value in (found | finish).items()}}


def spread_of(blocks: RecordedBlocks, domain: str = "", tokens: int | None = None) -> Spread:
    """Spread of a domain ("": all) over its texts of at least `tokens` anchors; without it, as many as three texts in four have."""
    if tokens is None:
        tokens = int(np.quantile(blocks.length[blocks.sequences_of(domain)], 0.25))
    rounds = rounds_to(blocks, tokens, domain)
    mean = float(rounds.mean())
    finish = np.quantile(rounds, _QUANTILES) / mean
    return Spread(tokens, mean, float(rounds.std()) / mean, finish, autocorrelation(blocks, max(LAGS), domain)[list(LAGS)])


def like(blocks: RecordedBlocks, domain: str, variation: Variation, sequences: int = _SEQUENCES, seed: int = 0) -> RecordedBlocks:
    """Synthetic texts with the marginals of recorded ones over all their anchors, as long as three in four of them."""
    marginals = np.clip(np.nan_to_num(acceptance_statistics(blocks, domain).conditional, nan=0.5), 1e-3, 1 - 1e-3)
    length = max(int(np.quantile(blocks.length[blocks.sequences_of(domain)], 0.25)), 2)
    shape = ParametricAcceptance(
        conditional={domain: marginals.tolist()}, anchors="all", miscalibration=[1.0], sequences_per_domain=sequences, anchors_per_sequence=length,
        seed=seed, **variation.model_dump(include=set(_FREE)),
    )  # fmt: skip
    return shape.generate(blocks.drafter)


def fit_variation(blocks: RecordedBlocks, domain: str, progress: Callable[[str], None] = lambda _: None) -> Variation:
    """The variation whose synthetic texts spread as the recorded ones of a domain do. Same seeds at every trial, so that the misfit is smooth."""
    from scipy.optimize import least_squares

    wanted = spread_of(blocks, domain)

    def misfit(x: Floats) -> Floats:
        found = spread_of(like(blocks, domain, _variation(x)), domain, wanted.tokens)
        correlation = (found.autocorrelation - wanted.autocorrelation) / (0.01 + 0.1 * np.abs(wanted.autocorrelation))
        ends = (found.finish * found.rounds / (wanted.finish * wanted.rounds) - 1) / 0.03
        apart = np.concatenate([correlation, ends, [np.log(found.variation / wanted.variation) / 0.05]])
        progress(f"{domain}: misfit {np.sqrt(np.mean(apart**2)):.2f} at {np.round(x, 3).tolist()}")
        return np.concatenate([apart, 0.05 * (x - _START) / (_HIGH - _LOW)])  # what nothing tells stays where it was

    options: Any = {"diff_step": 0.03, "x_scale": _HIGH - _LOW, "max_nfev": 14, "ftol": 1e-4}
    return _variation(least_squares(misfit, _START, bounds=(_LOW, _HIGH), **options).x)


def _variation(x: Floats) -> Variation:
    return Variation(**dict(zip(_FREE, np.round(x, 3).tolist(), strict=True)))

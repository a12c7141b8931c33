"""Quantiles of a stream in bounded memory: exact while there are few values, a t-digest when there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EXACT = 1 << 16  # values that are kept as they are
CENTROIDS = 1000  # of the digest beyond that: the error in rank is below 0.1 %, and smaller towards the ends
_BINS = 4096


class Spread:
    """Takes values in chunks. The same values in the same chunks give the same quantiles, bit for bit."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[Floats] = []
        self._kept = 0
        self._digest: Any = None

    def add(self, values: Floats) -> None:
        """More values, finite."""
        self.count += len(values)
        self._parts.append(values)
        self._kept += len(values)
        if self._kept > EXACT:
            self._condense()

    def merge(self, other: Spread) -> None:
        """All that `other` was given."""
        for part in other._parts:
            self.add(part)
        if other._digest is not None:
            self._condense()
            self._digest = other._digest if self._digest is None else self._digest.merge(other._digest)
            self.count += other.count - other._kept

    def quantiles(self, points: Sequence[float]) -> list[float | None]:
        """At shares in [0, 1], between values on a straight line; None where nothing was given."""
        if not self.count:
            return [None] * len(points)
        if self._digest is None:
            return [float(q) for q in np.quantile(np.concatenate(self._parts), points)]
        self._condense()
        return [float(self._digest.quantile(q)) for q in points]

    def _condense(self) -> None:
        """What is kept goes into the digest."""
        from fastdigest import TDigest

        if self._kept:
            values = np.concatenate(self._parts)
            if self._digest is None:
                self._digest = TDigest(max_centroids=CENTROIDS)
            self._digest.batch_update(values)
        self._parts, self._kept = [], 0


class WeightedSpread:
    """Takes values that count several times each; a quantile is the first value at which the share is reached."""

    def __init__(self) -> None:
        self._parts: list[tuple[Floats, Floats]] = []
        self._kept = 0
        self._digest: Any = None

    def add(self, values: Floats, weights: Floats) -> None:
        """More values with weights above 0."""
        self._parts.append((values, weights))
        self._kept += len(values)
        if self._kept > EXACT:
            self._condense()

    def merge(self, other: WeightedSpread) -> None:
        """All that `other` was given."""
        for values, weights in other._parts:
            self.add(values, weights)
        if other._digest is not None:
            self._condense()
            self._digest = other._digest if self._digest is None else self._digest.merge(other._digest)

    def quantiles(self, points: Sequence[float]) -> list[float | None]:
        """At shares in [0, 1]; None where nothing was given."""
        if self._digest is None:
            values, weights = self._sorted()
            if not len(values):
                return [None] * len(points)
            share = np.cumsum(weights) / weights.sum()
            return [float(v) for v in values[np.minimum(np.searchsorted(share, points), len(values) - 1)]]
        self._condense()
        return [float(self._digest.quantile(q)) for q in points]

    def _sorted(self) -> tuple[Floats, Floats]:
        values = np.concatenate([np.empty(0), *(values for values, _ in self._parts)])
        weights = np.concatenate([np.empty(0), *(weights for _, weights in self._parts)])
        order = np.argsort(values, kind="stable")
        return values[order], weights[order]

    def _condense(self) -> None:
        """What is kept goes into the digest as bins of equal weight, finer than the digest is."""
        from fastdigest import TDigest

        values, weights = self._sorted()
        if len(values):
            total = np.cumsum(weights)
            starts = np.unique(np.searchsorted(total, np.arange(_BINS) * (total[-1] / _BINS), side="right"))
            mass = np.add.reduceat(weights, starts)
            means = np.add.reduceat(values * weights, starts) / mass
            bins = [{"m": m, "c": c} for m, c in zip(means.tolist(), mass.tolist(), strict=True)]
            part = TDigest.from_dict({"max_centroids": CENTROIDS, "min": float(values[0]), "max": float(values[-1]), "centroids": bins})
            self._digest = part if self._digest is None else self._digest.merge(part)
        self._parts, self._kept = [], 0

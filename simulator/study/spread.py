"""Quantiles of a stream in bounded memory: exact while there are few values, a t-digest when there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EXACT = 1 << 16  # values that are kept as they are
CENTROIDS = 1000  # of the digest beyond that: the error in rank is below 0.1 %, and smaller towards the ends
_DIGITS = 42  # binary digits of a value left out of its bin: bins are 0.1 % wide


class Spread:
    """Takes finite values of at least 0 in chunks, each once or, with weights, several times. The same chunks give the same quantiles, bit for
    bit; so does the same stream on another machine. Unweighted quantiles lie between values on a straight line, weighted ones are the first
    value at which the share is reached."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[Floats] = []
        self._weights: list[Floats] = []
        self._kept = 0
        self._digest: Any = None

    def add(self, values: Floats, weights: Floats | None = None) -> None:
        """More values; weights to all of them, or to none."""
        self.count += len(values)
        self._parts.append(values)
        if weights is not None:
            self._weights.append(weights)
        self._kept += len(values)
        if self._kept > EXACT:
            self._condense()

    def merge(self, other: Spread) -> None:
        """All that `other` was given."""
        for i, values in enumerate(other._parts):
            self.add(values, other._weights[i] if other._weights else None)
        if other._digest is not None:
            self._condense()
            self._digest = other._digest if self._digest is None else self._digest.merge(other._digest)
            self.count += other.count - other._kept

    def quantiles(self, points: Sequence[float]) -> list[float | None]:
        """At shares in [0, 1]; None where nothing was given."""
        if not self.count:
            return [None] * len(points)
        if self._digest is not None:
            self._condense()
            return [float(self._digest.quantile(q)) for q in points]
        values = np.concatenate(self._parts)
        if not self._weights:
            return [float(q) for q in np.quantile(values, points)]
        order = np.argsort(values, kind="stable")
        share = np.concatenate(self._weights)[order].cumsum()
        return [float(v) for v in values[order][np.minimum(np.searchsorted(share / share[-1], points), len(values) - 1)]]

    def _condense(self) -> None:
        """What is kept goes into the digest, by bins so narrow that it does not feel them: that is many times as fast."""
        from fastdigest import TDigest

        if self._kept:
            values = np.concatenate(self._parts)
            weights = np.concatenate(self._weights) if self._weights else None
            bins = values.view(np.int64) >> _DIGITS  # floats of at least 0 are in the order of their bits
            bins -= bins.min()
            mass = np.bincount(bins, weights)
            total = np.bincount(bins, values if weights is None else values * weights)
            there = mass.nonzero()[0]
            means = np.clip(total[there] / mass[there], values.min(), values.max())
            centroids = [{"m": m, "c": c} for m, c in zip(means.tolist(), mass[there].astype(np.float64).tolist(), strict=True)]
            ends = {"min": float(values.min()), "max": float(values.max())}
            part = TDigest.from_dict({"max_centroids": CENTROIDS, **ends, "centroids": centroids})
            self._digest = part if self._digest is None else self._digest.merge(part)
        self._parts, self._weights, self._kept = [], [], 0

"""Streams in bounded memory: rows in chunks, and quantiles, exact while there are few values, a DDSketch when there are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simulator.arrays import Floats

CHUNK = 1 << 15  # rows added up at a time: fixed, so that sums do not depend on how the rows came
EXACT = 1 << 16  # values that are kept as they are
ACCURACY = 0.0005  # of the sketch beyond that, relative to the value (Masson et al., 2019)
_DIGITS = 42  # binary digits of a value that go unread into the sketch: another 0.05 %


class Chunks:
    """Passes rows on, CHUNK at a time and the rest at the end."""

    def __init__(self, width: int, take: Callable[[Floats], None]) -> None:
        self.take = take
        self._rows: list[Floats] = [np.empty((0, width))]
        self._held = 0

    def __call__(self, rows: Floats) -> None:
        """More rows."""
        self._rows.append(rows)
        self._held += len(rows)
        while self._held >= CHUNK:
            everything = np.concatenate(self._rows)
            self.take(everything[:CHUNK])
            self._rows, self._held = [everything[CHUNK:]], len(everything) - CHUNK

    def flush(self) -> None:
        """Pass on what is left."""
        if self._held:
            everything = np.concatenate(self._rows)
            self._rows, self._held = [np.empty((0, everything.shape[1]))], 0  # a view would hold on to all of it
            self.take(everything)


class Spread:
    """Takes finite values of at least 0, each once or, with whole weights, several times. The same values give the same quantiles bit for bit,
    in whatever chunks, order or parts they come. Unweighted quantiles of few values lie between them on a straight line, others are values at
    which the share is reached."""

    def __init__(self) -> None:
        self.count = 0
        self._mass = self._total = self._squares = 0.0  # the mean and the standard deviation follow
        self._parts: list[Floats] = []
        self._weights: list[Floats] = []
        self._kept = 0
        self._sketch: Any = None

    def add(self, values: Floats, weights: Floats | None = None) -> None:
        """More values; weights to all of them, or to none."""
        self.count += len(values)
        weighted = values if weights is None else values * weights
        self._mass += len(values) if weights is None else weights.sum()
        self._total += weighted.sum()
        self._squares += (weighted * values).sum()
        self._keep(values, weights)

    def _keep(self, values: Floats, weights: Floats | None) -> None:
        self._parts.append(values)
        if weights is not None:
            self._weights.append(weights)
        self._kept += len(values)
        if self._kept > EXACT:
            self._condense()

    def merge(self, other: Spread) -> None:
        """All that `other` has taken."""
        self.count += other.count
        self._mass, self._total, self._squares = self._mass + other._mass, self._total + other._total, self._squares + other._squares
        for i, values in enumerate(other._parts):
            self._keep(values, other._weights[i] if other._weights else None)
        if other._sketch is not None:
            self._condense()
            self._sketch.merge(other._sketch)

    @property
    def mean(self) -> float | None:
        """None where there are no values."""
        return self._total / self._mass if self._mass else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the values themselves, not of a larger population."""
        return float(np.sqrt(max(self._squares / self._mass - (self._total / self._mass) ** 2, 0.0))) if self._mass else None

    def quantiles(self, points: Sequence[float]) -> list[float | None]:
        """At shares in [0, 1]; None where there are no values."""
        if not self.count:
            return [None] * len(points)
        if self._sketch is not None:
            self._condense()
            return [float(self._sketch.get_quantile_value(q)) for q in points]
        values = np.concatenate(self._parts)
        if not self._weights:
            return [float(q) for q in np.quantile(values, points)]
        order = np.argsort(values, kind="stable")
        share = np.concatenate(self._weights)[order].cumsum()
        return [float(v) for v in values[order][np.minimum(np.searchsorted(share / share[-1], points), len(values) - 1)]]

    def _condense(self) -> None:
        """What is kept goes into the sketch: first counted by the leading digits of the values, which is many times as fast."""
        if self._sketch is None:
            from ddsketch import DDSketch

            self._sketch = DDSketch(ACCURACY)
        if self._kept:
            bins = np.concatenate(self._parts).view(np.int64) >> _DIGITS  # floats of at least 0 are in the order of their bits
            lowest = bins.min()
            mass = np.bincount(bins - lowest, np.concatenate(self._weights) if self._weights else None)
            there = mass.nonzero()[0]
            middles = (((there + lowest) << _DIGITS) + np.where(there + lowest > 0, 1 << (_DIGITS - 1), 0)).view(np.float64)
            for value, count in zip(middles.tolist(), mass[there].tolist(), strict=True):
                self._sketch.add(value, count)
        self._parts, self._weights, self._kept = [], [], 0

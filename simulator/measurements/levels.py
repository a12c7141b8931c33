"""How a request that needs more tokens than its recorded text goes on in another one: at the level it has kept so far.

A text that is easy for the drafter stays easy. So the acceptance of the texts that one request walks is taken as exchangeable normals: the level of
the request, which keeps, and what is luck of each text. Their share of the variance between texts is estimated from the texts themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from simulator.arrays import Floats, Integers

_BATCH = 32  # anchors whose means count as independent: acceptance is forgotten within some ten tokens
_NORMALS = 1 << 16
LEVEL = 1 << 40  # the address of a request's level among its visits


@cache
def normals() -> Floats:
    """Standard normals of evenly spread uniforms: `normals()[int(u * len)]` is that of u. Looked up, so that both engines see the same bits."""
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(_NORMALS) + 0.5) / _NORMALS))


@dataclass(frozen=True)
class Levels:
    """The n texts of a domain by level. A request that began in text i has the level pull[i] + drift · η, and goes on in the text `ranked`[r] of the
    first r with level + luck · ε ≤ bounds[r]; η once a request and ε at every text are standard normals."""

    pull: Floats  # [n]
    drift: float
    luck: float
    bounds: Floats  # [n], rising; the last is infinite
    ranked: Integers  # [n] sequences, the hardest first

    def then(self, began: int, level: Floats, draws: Floats) -> Integers:
        """The texts that follow the `began`-th of its domain, from uniforms: of the level [1], and of every text [v]."""
        table = normals()
        eta, epsilon = (table[(u * len(table)).astype(np.int64)] for u in (level, draws))
        return np.asarray(self.ranked[np.searchsorted(self.bounds, (self.pull[began] + self.drift * eta) + self.luck * epsilon)])


def levels_of(accepted: Integers, first_row: Integers, length: Integers, candidates: Integers) -> Levels:
    """Levels of the texts `candidates` [n] by their mean accepted tokens [N]; rows of a text begin at first_row and are `length` long [S]."""
    from scipy.special import ndtri

    n = len(candidates)
    mean, kept = _kept(accepted, first_row[candidates], length[candidates])
    order = np.argsort(kept * (mean - np.average(mean, weights=length[candidates])), kind="stable")  # short texts say less of their level
    score = np.empty(n)
    score[order] = ndtri((np.arange(n) + 0.5) / n)
    share = float(kept.mean())
    bounds = np.append(ndtri(np.arange(1, n) / n), np.inf)
    return Levels(share * score, float(np.sqrt(share * (1 - share))), float(np.sqrt(1 - share)), bounds, candidates[order])


def _kept(accepted: Integers, first: Integers, length: Integers) -> tuple[Floats, Floats]:
    """Mean accepted tokens of each text, and the share of its variance between texts that is level, not luck: [n], [n]."""
    total = np.concatenate([[0], np.cumsum(accepted)])
    mean = (total[first + length] - total[first]) / length
    if len(mean) < 2:
        return mean, np.zeros(len(mean))
    whole = length // _BATCH
    spread, freedom = 0.0, 0
    for batches in np.unique(whole[whole > 1]).tolist():
        edges = first[whole == batches, None] + _BATCH * np.arange(batches + 1)
        parts = np.diff(total[edges], axis=1) / _BATCH
        spread += float(((parts - parts.mean(axis=1, keepdims=True)) ** 2).sum())
        freedom += len(edges) * (batches - 1)
    if freedom == 0:  # texts so short that nothing tells level from luck
        return mean, np.zeros(len(mean))
    luck = spread / freedom * _BATCH / length  # variance of each mean, were all texts alike
    centre = np.average(mean, weights=length)
    level = float(np.average((mean - centre) ** 2, weights=length) - np.average(luck, weights=length))
    return mean, max(level, 0.0) / np.maximum(max(level, 0.0) + luck, 1e-300)

"""Draws of all that is not known, the same for everything that is compared, and what numbers become in each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.measurements.model_error import GROUPS, Group, ModelError
from simulator.measurements.uncertainty import Uncertainty
from simulator.rng import stream

DRAWS, LEVEL = 400, 0.9
LEAST = 1e-3  # of what a number was: a response to less is one to this, since a logarithm has no end


@dataclass(frozen=True)
class States:
    """What is not known, in standard deviations, a column each [S]: the profile's parameters; then for each group of metrics the model's own error
    that all compared policies have in common, and that of each of them."""

    parameters: int
    policies: int
    lowest: Floats  # [S], how far down a parameter can go: costs do not fall below 0

    @property
    def count(self) -> int:
        """S."""
        return self.parameters + len(GROUPS) * (1 + self.policies)

    def common(self, group: Group) -> int:
        """The column of the model's error in a group that all policies share."""
        return self.parameters + GROUPS.index(group) * (1 + self.policies)

    def own(self, group: Group, policy: int) -> int:
        """The column of the model's error in a group that one policy has for itself."""
        return self.common(group) + 1 + policy


@dataclass(frozen=True)
class Draws:
    """N worlds that may be the true one: states [N, S], and the replication whose luck they have [N]."""

    states: Floats
    replication: Integers


def drawn(uncertainty: Uncertainty, states: States, replications: int, seed: int, count: int = DRAWS) -> Draws:
    """Normal draws, each column evenly spread over its distribution (a Latin hypercube); parameters freed of the correlations that so few draws have
    by chance, and correlated as the profile says."""
    from scipy.special import ndtri

    luck = stream(seed, "prediction")
    even = (np.tile(np.arange(count), (states.count, 1)) + 0.5) / count
    normal = ndtri(luck.permuted(even, axis=1)).T  # [N, S]
    if (first := states.parameters) > 0:
        by_chance = np.linalg.cholesky(np.atleast_2d(np.cov(normal[:, :first], rowvar=False)))
        normal[:, :first] = np.linalg.solve(by_chance, normal[:, :first].T).T @ root(correlation(uncertainty)).T
    return Draws(normal, luck.permutation(np.arange(count) % replications))


def correlation(uncertainty: Uncertainty) -> Floats:
    """Of the parameters, [P, P]."""
    given = uncertainty.correlation
    return np.eye(len(uncertainty.parameters)) if given is None else np.array(given, dtype=np.float64).reshape(len(given), len(given))


def covariance(uncertainty: Uncertainty, count: int) -> Floats:
    """Of `count` states in standard deviations, the parameters first, [S, S]: all others are independent."""
    whole, first = np.eye(count), len(uncertainty.parameters)
    whole[:first, :first] = correlation(uncertainty)
    return whole


def variance_parts(slopes: Floats, spread: Floats) -> Floats:
    """What each state has to do with the variance of a number that changes by `slopes` [S], where states have the covariance `spread`, [S]."""
    return np.maximum(slopes * (spread @ slopes), 0.0)


def left_after(slopes: Floats, spread: Floats, told: Floats, error: Floats) -> float:
    """The variance that is left of such a number once m others are measured that change by `told` [S, m], with errors of the covariance `error`
    [m, m]: Bayes' rule for normal numbers."""
    seen = spread @ told
    after = spread - seen @ np.linalg.solve(told.T @ seen + error, seen.T)
    return max(float(slopes @ after @ slopes), 0.0)


def root(matrix: Floats) -> Floats:
    """A square root of a correlation; what is no correlation is brought to the nearest that is one."""
    if not len(matrix):
        return matrix
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    made = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(made / np.maximum(np.sqrt((made**2).sum(axis=1, keepdims=True)), 1e-12))


@dataclass(frozen=True)
class Response:
    """Logarithms of M numbers of one cell (a policy at a load, or a fleet): in each replication [R, M], and what they change where a state is one
    standard deviation up or down [S, M]. `own` is the model's error of this cell alone, by group [G, M]. Unknown numbers are NaN."""

    log: Floats
    up: Floats
    down: Floats
    own: Floats

    def values(self, states: Floats, lowest: Floats, replication: Integers | None = None, luck: Floats | None = None) -> Floats:
        """The numbers [N, M] in worlds of these states [N, S], with the luck of a replication and of the cell [N, G], or without any."""
        up, down = np.maximum(states, 0.0), np.minimum(np.maximum(-states, 0.0), lowest)
        log: Floats = self.log.mean(axis=0) + up @ self.up + down @ self.down
        if replication is not None and len(self.log) > 1:
            log = log + self.noise()[replication]
        return np.asarray(np.exp(log if luck is None else log + luck @ self.own))

    def noise(self) -> Floats:
        """How replications differ from their mean [R, M], widened to how a single run differs from the mean that would be found in many: by
        √((R + 1) / (R - 1)), since their mean is not known either."""
        count = len(self.log)
        return np.asarray((self.log - self.log.mean(axis=0)) * sqrt((count + 1) / max(count - 1, 1)))


def model_states(
    states: States, policy: int, errors: Mapping[Group, ModelError], per_unit: Mapping[Group, tuple[Floats, Floats]]
) -> tuple[Floats, ...]:
    """Up, down [S, M] and own [G, M] of a cell by the model's own error: what one unit of it in a group changes, up and down [M], times its sd."""
    size = len(next(iter(per_unit.values()))[0])
    up, down, own = np.zeros((states.count, size)), np.zeros((states.count, size)), np.zeros((len(GROUPS), size))
    for place, group in enumerate(GROUPS):
        error, (rise, fall) = errors[group], per_unit[group]
        for column, sd in ((states.common(group), error.common), (states.own(group, policy), error.policy)):
            up[column], down[column] = rise * sd, fall * sd
        own[place] = rise * error.cell
    return up, down, own


def ratio(moved: Sequence[float | None], base: Sequence[float | None]) -> Floats:
    """Logarithms of moved ÷ base [M]; NaN where one is not known, or there was nothing."""
    pairs = zip(moved, base, strict=True)
    return np.array([np.log(max(a / b, LEAST)) if a is not None and b else np.nan for a, b in pairs])


def between(loads: Sequence[float], responses: Floats, at: float) -> Floats:
    """Responses at some loads [K, M] read at another, linear in the logarithm of the load; 0 where none is known."""
    out = np.zeros(responses.shape[1])
    for place, column in enumerate(responses.T):
        known = ~np.isnan(column)
        if known.any():
            out[place] = np.interp(np.log(at), np.log(np.asarray(loads)[known]), column[known])
    return out


def interval(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of some draws."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

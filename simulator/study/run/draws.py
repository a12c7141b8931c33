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
class Pace:
    """What the logarithms of M numbers become where every time is e^x times as long: as simulated at some x [K], rising, with 0 among them [K, M];
    read between them, and below and above in proportion to x [2, M]: what is saturated, or empty, scales with its times.

    Effects are added up in x and not in what they do to numbers: at the edge of a cache, or of an overload, one cause may make a number fall to a
    tenth, and so may another, but both together do not make it a hundredth.
    """

    at: Floats
    told: Floats
    beyond: Floats

    def __call__(self, x: Floats) -> Floats:
        """Changes [N, M] at x [N]."""
        inside = np.clip(x, self.at[0], self.at[-1])
        below, above = (np.outer(side(x - inside, 0.0), slopes) for side, slopes in zip((np.minimum, np.maximum), self.beyond, strict=True))
        return np.stack([np.interp(inside, self.at, column) for column in self.told.T], axis=1) + below + above

    def like(self, change: Floats, of: Sequence[int]) -> float:
        """The x that changes some numbers most as `change` [M] does; the smallest of several."""
        grid = np.union1d(np.linspace(self.at[0], self.at[-1], 401), self.at)
        apart = self(grid)[:, of] - change[of]
        return float(grid[np.argmin((np.nan_to_num(apart) ** 2).sum(axis=1) + 1e-9 * grid**2)])


@dataclass(frozen=True)
class Change:
    """What one standard deviation of a state, or of luck, does: as a pace, and to M numbers beside it [M]."""

    pace: float
    rest: Floats

    def times(self, factor: float) -> Change:
        """As many standard deviations."""
        return Change(self.pace * factor, self.rest * factor)


@dataclass(frozen=True)
class Response:
    """Logarithms of M numbers of one cell (a policy at a load, or a fleet): in each replication [R, M], how they answer to the pace, and what changes
    where each of S states is one standard deviation up or down. `own` is the model's error of this cell alone, by group. Unknown numbers are NaN."""

    log: Floats
    pace: Pace
    up: Sequence[Change]
    down: Sequence[Change]
    own: Sequence[Change]

    def values(self, states: Floats, lowest: Floats, replication: Integers | None = None, luck: Floats | None = None) -> Floats:
        """The numbers [N, M] in worlds of these states [N, S], with the luck of a replication and of the cell [N, G], or without any."""
        log = self.log.mean(axis=0) + self._changed(states, lowest, luck)
        if replication is not None and len(self.log) > 1:
            log = log + self.noise()[replication]
        return np.asarray(np.exp(log))

    def _changed(self, states: Floats, lowest: Floats, luck: Floats | None = None) -> Floats:
        sizes = [np.maximum(states, 0.0), np.minimum(np.maximum(-states, 0.0), lowest), *([] if luck is None else [luck])]
        changes = [*self.up, *self.down, *([] if luck is None else self.own)]
        every = np.concatenate(sizes, axis=1)  # [N, S + S + G]
        return np.asarray(self.pace(every @ np.array([c.pace for c in changes])) + every @ np.array([c.rest for c in changes]))

    def slopes(self, lowest: Floats) -> Floats:
        """What a standard deviation of each state changes [S, M]: half of what lies between one up and one down."""
        one = np.eye(len(self.up))
        return (self._changed(one, lowest) - self._changed(-one, lowest)) / 2

    def alone(self) -> Floats:
        """What a standard deviation of the model's error of this cell alone changes, by group [G, M]."""
        none = np.zeros((len(self.own), len(self.up)))
        return (self._changed(none, none[0], np.eye(len(self.own))) - self._changed(none, none[0], -np.eye(len(self.own)))) / 2

    def noise(self) -> Floats:
        """How replications differ from their mean [R, M], widened to how a single run differs from the mean that would be found in many: by
        √((R + 1) / (R - 1)), since their mean is not known either."""
        count = len(self.log)
        return np.asarray((self.log - self.log.mean(axis=0)) * sqrt((count + 1) / max(count - 1, 1)))


def model_states(
    states: States, policy: int, errors: Mapping[Group, ModelError], per_unit: Mapping[Group, Change]
) -> tuple[dict[int, Change], list[Change]]:
    """What the model's own error changes in a cell, a column of states each, and by group what is the cell's alone: one unit of it, times its sd."""
    common: dict[int, Change] = {}
    own = []
    for group in GROUPS:
        error = errors[group]
        common |= {states.common(group): per_unit[group].times(error.common), states.own(group, policy): per_unit[group].times(error.policy)}
        own.append(per_unit[group].times(error.cell))
    return common, own


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

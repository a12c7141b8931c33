"""How likely a drafter must be to accept at each slot so that walks along texts have given marginals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from simulator.arrays import Floats
from simulator.errors import ProfileError

UNKNOWN_ROUNDS = 1000.0  # weight of a count that does not say of how many rounds it is
_STEPS = 80
_UNMET = "lower 'spread', 'correlation' or 'sequence_share'"


def pooled(rows: Iterable[tuple[Sequence[float], float]], slots: int) -> tuple[Floats, Floats]:
    """How often each of `slots` positions was reached, and how often accepted, [slots] each, over (survival, rounds) of some counts; those of fewer
    positions tell as far as they go."""
    reached, kept = np.zeros(slots), np.zeros(slots)
    for survival, rounds in rows:
        alive = rounds * np.array([1.0, *survival])[: slots + 1]
        reached[: len(alive) - 1] += alive[:-1]
        kept[: len(alive) - 1] += alive[1:]
    return reached, kept


def everywhere(offset: Floats, target: Floats) -> Floats:
    """μ [D, γ] with P(slot k accepted | slots before accepted) = target_k [D, γ] in the mean over all anchors.

    `offset` [D, S, n + γ] is how much easier each position of a text is, in logits; slot k at anchor i has the acceptance σ(μ_k + offset_{i+k}).
    """
    gamma = target.shape[1]
    every = np.ones_like(offset[:, :, gamma:])
    return np.array([_centres(s, t, w, logit(t), steps=60) for s, t, w in zip(np.exp(-offset), target, every, strict=True)])


def visited(offset: Floats, target: Floats, settled: int, verified: int) -> Floats:
    """The same over the anchors from `settled` on that a run which verifies that many tokens each time visits. Raises ProfileError where there are no
    such μ."""
    shrink = np.exp(-offset)
    seen = shrink[:, :, : shrink.shape[2] - target.shape[1] + verified]
    centre = everywhere(offset, target)
    for _ in range(_STEPS):  # the visits depend on μ and μ on the visits
        before = centre
        visits, here = visits_of(seen, centre[:, :verified], settled), shrink[:, :, settled:]
        centre = np.array([_centres(s, t, w, c, steps=1) for s, t, w, c in zip(here, target, visits, before, strict=True)])
        if np.abs(centre - before).max() < 1e-8:
            return centre
    raise ProfileError("no acceptance has these marginals at the visited anchors", key="conditional", remedy=f"{_UNMET}, or set anchors: all")


def by_length(offset: Floats, lengths: Floats, settled: int) -> Floats:
    """μ [D, γ] with which a run that verifies k tokens each time commits lengths[:, k - 1] tokens a round, for every k: lengths [D, γ].

    Slot k matters to no run that verifies less, so that the slots follow one after another. Raises ProfileError where no μ gives a length.
    """
    from scipy.optimize import brentq

    shrink = np.exp(-offset)
    found = np.empty_like(lengths)
    for d, rows in enumerate(lengths):
        for k, wanted in enumerate(rows, start=1):

            def apart(slot: float, d: int = d, k: int = k, wanted: float = wanted) -> float:
                return _length(shrink[d : d + 1], np.append(found[d, : k - 1], slot)[None], settled) - wanted

            if not apart(-20.0) < 0 < apart(20.0):
                reached = apart(-20.0) + wanted, apart(20.0) + wanted
                problem = f"position {k}: with what the lengths before it say, expected {reached[0]:.4g} … {reached[1]:.4g} tokens, got {wanted:g}"
                raise ProfileError(problem, key="accepted_length", remedy="lengths grow with k: leave out the k from which they fall")
            found[d, k - 1] = brentq(apart, -20.0, 20.0, xtol=1e-7)
    return found


def visits_of(shrink: Floats, centre: Floats, settled: int) -> Floats:
    """Expected visits of the anchors from `settled` on by a run that starts at one of the first γ + 1 anchors, each as likely, and verifies
    everything, [D, S, n]. shrink = e^-offset [D, S, settled + n + γ], centre [D, γ]."""
    domains, sequences, positions = shrink.shape
    gamma = centre.shape[1]
    anchors = positions - gamma
    along = np.ascontiguousarray(shrink.transpose(2, 0, 1))  # [P, D, S]
    lengths = np.empty((anchors, gamma + 1, domains, sequences))  # P(A_i = 0 … γ)
    survival = np.ones((anchors, domains, sequences))
    for k in range(1, gamma + 1):
        longer = survival / (1 + np.exp(-centre[:, k - 1])[:, None] * along[k : k + anchors])
        lengths[:, k - 1] = survival - longer
        survival = longer
    lengths[:, gamma] = survival
    visits = np.zeros((positions + 1, domains, sequences))
    visits[: gamma + 1] = 1 / (gamma + 1)
    for i, shares in enumerate(lengths):
        visits[i + 1 : i + gamma + 2] += visits[i] * shares
    return np.ascontiguousarray(visits[settled:anchors].transpose(1, 2, 0))


def _length(shrink: Floats, centre: Floats, settled: int) -> float:
    """Tokens a round, bonus included, of a run that verifies everything [1, S, n + γ], [1, γ]."""
    visits = visits_of(shrink, centre, settled)[0]
    tokens = reached = visits
    for k, slot in enumerate(centre[0], start=1):
        reached = reached / (1 + np.exp(-slot) * shrink[0, :, settled + k : settled + k + visits.shape[1]])
        tokens = tokens + reached
    return float(tokens.sum() / visits.sum())


def _centres(shrink: Floats, target: Floats, weight: Floats, guess: Floats, steps: int) -> Floats:
    """μ of the slots, one after another, [γ], for one domain and the weights [S, n] of its anchors."""
    anchors = weight.shape[1]
    reached = weight
    centres = []
    for k, goal in enumerate(target, start=1):
        here = shrink[:, k : k + anchors]
        if not reached.any():  # so seldom that no float holds it: then any weights do
            reached = weight
        centres.append(centre_of(reached / reached.sum(), here, goal, float(guess[k - 1]), steps))
        reached = reached / (1 + np.exp(-centres[-1]) * here)
    return np.array(centres)


def centre_of(weight: Floats, shrink: Floats, goal: float, centre: float, steps: int) -> float:
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


def logit(p: Floats) -> Floats:
    """log(p / (1 - p))."""
    return np.asarray(np.log(p) - np.log1p(-p))


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e^-z)."""
    return np.asarray(1 / (1 + np.exp(-z)))

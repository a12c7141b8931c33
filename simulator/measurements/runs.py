"""Drafters that propose in a part of the rounds, as prompt look-up does: a text runs along one seen before, hit by hit, until a token differs.

At an anchor that no run reaches, a run begins with probability β and proposes. Its tokens are hits one after another, the m-th with the acceptance
σ(μ_m + what its position is easier by), the last μ for all further ones; the first miss ends it. So a drafter proposes for certain where the token
before was a hit, and a round that verifies less leaves more of a run to the next. Nothing else is assumed: how the share of proposing rounds and
acceptance differ with k follows (tests/measurements/test_runs.py has them against prompt look-up in real texts).
"""

from __future__ import annotations

import numpy as np

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import ProfileError
from simulator.measurements.marginals import centre_of, everywhere, logit, sigmoid
from simulator.rng import stream

_STEPS = 400


def solved(offset: Floats, target: Floats, settled: int, proposing: float) -> tuple[Floats, Floats]:
    """μ [D, k] and β [D] with which a request that verifies k tokens proposes in a share `proposing` of its rounds, and accepts slot after slot as
    `target` [D, k] says in those; over the anchors from `settled` on. offset [D, S, n + k + 1]. Raises ProfileError where there are none."""
    each = [_solved(easier, rates, settled, proposing) for easier, rates in zip(offset, target, strict=True)]
    return np.array([centre for centre, _ in each]), np.array([begins for _, begins in each])


def _solved(offset: Floats, target: Floats, settled: int, proposing: float) -> tuple[Floats, float]:
    """Of one domain: offset [S, P + k + 1], target [k]."""
    last = len(target) - 1
    centre, begins = everywhere(offset[None], target[None])[0], proposing
    along = np.ascontiguousarray(offset.T)  # [P + k + 1, S]
    anchors = len(along) - last - 2
    pace, moved = 1.0, np.inf
    for _ in range(_STEPS):
        before, possible = (centre.copy(), begins), True
        fresh, deep = _hits(along, centre, anchors), _hits(along, centre[[last] * (last + 1)], anchors)
        free, runs = _visits(fresh, deep, _at(along, centre[last], last + 2, anchors), begins)
        free, runs = free[settled:], runs[settled:]
        share = float((begins * free + runs).sum() / (free + runs).sum())
        begins = float(sigmoid(logit(np.array(begins)) + logit(np.array(proposing)) - logit(np.array(share))))
        starts = begins * free
        for k, goal in enumerate(target):
            here, there = starts * fresh[settled:, k], runs * deep[settled:, k]  # [n, S] that reached slot k
            if k == last:
                weight, wanted = here + there, goal
            else:
                weight = here
                wanted = (goal * (here + there).sum() - (there * _at(along, centre[last], k + 1, anchors)[settled:]).sum()) / here.sum()
            possible &= 1e-6 < wanted < 1 - 1e-6
            shrink = np.exp(-along[settled + k + 1 : anchors + k + 1])
            centre[k] = centre_of(weight / weight.sum(), shrink, float(np.clip(wanted, 1e-6, 1 - 1e-6)), float(centre[k]), 1)
            fresh[:, k + 1] = fresh[:, k] * _at(along, centre[k], k + 1, anchors)
        change = float(max(np.abs(centre - before[0]).max(), abs(begins - before[1])))
        if change < 2e-5:
            if possible:
                return centre, begins
            break
        pace, moved = (
            max(pace / 2, 0.05) if change > 0.9 * moved else min(1.1 * pace, 1.0),
            change,
        )  # longer runs at many places make fewer begin: it overshoots
        centre, begins = before[0] + pace * (centre - before[0]), before[1] + pace * (begins - before[1])
    raise ProfileError(
        "no runs have these marginals in so many of the rounds",
        key="proposing",
        remedy="lower 'spread', or check the counters that they are taken from",
    )


def drawn(offset: Floats, centre: Floats, begins: Floats, gamma: int, seed: int) -> tuple[Integers, Flags]:
    """Accepted tokens at every anchor when γ are verified, and whether anything is proposed, [D S, P] each; offset [D, S, P + γ]."""
    domains, sequences, positions = offset.shape
    hit_luck, begin_luck = stream(seed, "runs").random((2, positions, domains, sequences))
    easier, domain = offset.transpose(2, 0, 1), np.arange(domains)[:, None]
    depth = np.zeros((domains, sequences), dtype=np.int64)  # hits so far in the run
    proposes = np.empty((positions, domains, sequences), dtype=np.bool_)
    hits = np.zeros((positions, domains, sequences), dtype=np.bool_)
    proposes[0] = begin_luck[0] < begins[:, None]
    for i in range(1, positions):
        chance = sigmoid(centre[domain, np.minimum(depth, centre.shape[1] - 1)] + easier[i])
        hits[i] = proposes[i - 1] & (hit_luck[i] < chance)
        depth = np.where(hits[i], depth + 1, 0)
        proposes[i] = hits[i] | (begin_luck[i] < begins[:, None])
    ahead = np.lib.stride_tricks.sliding_window_view(hits, gamma, axis=0)[1:]  # [P, D, S, γ]
    accepted = np.logical_and.accumulate(ahead, axis=3).sum(axis=3, dtype=np.int64)
    kept = (domains * sequences, positions - gamma)
    return accepted.transpose(1, 2, 0).reshape(kept), proposes[: positions - gamma].transpose(1, 2, 0).reshape(kept)


def _at(along: Floats, centre: float | np.floating, slot: int, anchors: int) -> Floats:
    """P(hit) at the slot-th position from each anchor, [P, S]."""
    return sigmoid(centre + along[slot : slot + anchors])


def _hits(along: Floats, centre: Floats, anchors: int) -> Floats:
    """P(the first j slots of an anchor are hits), j = 0 … k: [P, k + 1, S]."""
    chances = [_at(along, slot, k, anchors) for k, slot in enumerate(centre, start=1)]
    return np.stack([np.ones_like(chances[0]), *np.cumprod(chances, axis=0)], axis=1)


def _visits(fresh: Floats, deep: Floats, onward: Floats, begins: float) -> tuple[Floats, Floats]:
    """How often a walk visits each anchor while no run reaches it, and within a run, [P, S] each; onward is P(hit) at the bonus token."""
    anchors, slots, sequences = fresh.shape
    free, runs = np.zeros((2, anchors + slots + 1, sequences))
    free[:slots] = 1 / slots
    for i in range(anchors):
        reached = begins * free[i] * fresh[i] + runs[i] * deep[i]  # [k + 1, S]
        free[i + 1] += (1 - begins) * free[i]
        free[i + 1 : i + slots] += reached[:-1] - reached[1:]
        free[i + slots] += reached[-1] * (1 - onward[i])
        runs[i + slots] += reached[-1] * onward[i]
    return free[:anchors], runs[:anchors]

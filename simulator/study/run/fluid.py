"""A replica in the mean: how fast a batch of R goes and what load it carries when nothing queues. Brackets searches and draws break-even."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats
from simulator.engine.batch import view_of
from simulator.engine.simulate import Fleet
from simulator.measurements.prices import round_prices
from simulator.measurements.replay import Replay

_LEAST_SHARE = 1e-12  # of the time, for decoding, where prompts take all that a float can tell
_DRAWS = 8  # batches averaged for one operating point


@dataclass(frozen=True)
class Operating:
    """A batch of `requests`: committed tokens per request and round, seconds of a round, tokens sent per request."""

    requests: int
    accepted_length: float
    round_s: float
    budget: float

    @property
    def tps(self) -> float:
        """Tokens per second of each user while nothing but decoding is done."""
        return self.accepted_length / self.round_s


def operating(fleet: Fleet, requests: int, context_tokens: float, mix: Mapping[str, float] | None = None, draws: int = _DRAWS) -> Operating:
    """The mean round of `requests` requests at random places of the recorded text of a mix of domains (all of it, without one)."""
    replay, rule = fleet.replay, fleet.policy
    pick = _picker(fleet, mix or {"": 1.0})
    luck = np.random.Generator(np.random.PCG64(requests))
    seconds = tokens = sent = 0.0
    kept = np.zeros(rule.keeps)
    for _ in range(draws if replay.gamma else 1):
        picked = pick(luck, requests)
        # what it knew some steps ago is what it knows of other places
        before = [pick(luck, requests) for _ in range(rule.lag_steps)]
        smoothed = None if rule.smoothing is None else _settled(rule.smoothing, replay, pick, luck, requests)
        proposing = replay.proposing(picked)
        round_s, _ = round_prices(fleet.prices, requests, context_tokens, proposing)
        believed = round_s if fleet.believed is fleet.prices else round_prices(fleet.believed, requests, context_tokens, proposing)[0]
        lengths = rule.chosen(view_of(replay, picked, before, believed, context_tokens, smoothed, kept))
        seconds += float(round_s[int(lengths.sum())])
        tokens += float(np.minimum(replay.accepted[picked], lengths).mean()) + 1
        sent += float(lengths.mean()) + 1
    n = draws if replay.gamma else 1
    return Operating(requests, tokens / n, seconds / n, sent / n)


def _settled(
    smoothing: float, replay: Replay, pick: Callable[[np.random.Generator, int], NDArray[np.int64]], luck: np.random.Generator, requests: int
) -> Floats:
    """Survivals by the running means of confidences after as many rounds at random places as matter."""
    assert replay.confidence is not None
    means = replay.confidence[pick(luck, requests)]
    for _ in range(_DRAWS):
        means = smoothing * means + (1 - smoothing) * replay.confidence[pick(luck, requests)]
    return means.cumprod(axis=1)


def _picker(fleet: Fleet, mix: Mapping[str, float]) -> Callable[[np.random.Generator, int], NDArray[np.int64]]:
    """Draws rows: a domain by its weight, then any row of it."""
    replay = fleet.replay
    if replay.gamma == 0:
        return lambda _luck, n: np.zeros(n, dtype=np.int64)
    rows = [np.concatenate([np.arange(replay.first_row[s], replay.first_row[s] + replay.length[s]) for s in replay.of_domain[d]]) for d in mix]
    weight = np.cumsum(list(mix.values())) / sum(mix.values())

    def pick(luck: np.random.Generator, n: int) -> NDArray[np.int64]:
        domain = np.minimum(np.searchsorted(weight, luck.random(n), side="right"), len(rows) - 1)
        place = luck.random(n)
        return np.array([rows[d][int(u * len(rows[d]))] for d, u in zip(domain, place, strict=True)], dtype=np.int64)

    return pick


@dataclass(frozen=True)
class Carried:
    """What one replica carries at a batch of `requests`, prompts included: arrivals per second and the mean speed of its users."""

    requests: int
    rps: float
    tps: float


def carried(fleet: Fleet, prompt: float, output: float, mix: Mapping[str, float] | None = None, draws: int = _DRAWS) -> list[Carried]:
    """Load and speed over batch sizes, by Little's law: λ = R / (time of an answer); prompts take their share of every second.

    A request keeps a slot for output tokens at τ / t(R) each, stretched by 1 / (1 - λ p) where prompts of p seconds run on the replica.
    """
    most = fleet.settings.max_batch
    sizes = np.unique(np.geomspace(1, most, 24).round().astype(np.int64))
    chunk_s = fleet.prices.chunk_s(round(prompt), prompt / 2, True) if fleet.settings.prefill.where == "replica" else 0.0
    out = []
    for size in sizes:
        at = operating(fleet, int(size), prompt + output / 2, mix, draws)
        decode_s = max(output - 1, 1e-9) / at.tps  # alone with its batch
        rps = size / (decode_s + size * chunk_s)  # λ (d / (1 - λ p)) = R
        decoding = max(1 - rps * chunk_s, _LEAST_SHARE)
        out.append(Carried(int(size), float(rps), at.tps * decoding))
    return out


def least_by_fluid(curve: list[Carried], load_rps: float, tps: float) -> float:
    """Replicas that carry a load with a mean speed of `tps`, a real number and a lower bound: nothing queues, and all users are the mean one."""
    best = max((c.rps for c in curve if c.tps >= tps), default=0.0)
    for slow, fast in zip(curve[1:], curve, strict=False):
        if fast.tps >= tps > slow.tps:
            share = (fast.tps - tps) / (fast.tps - slow.tps)
            best = max(best, fast.rps + share * (slow.rps - fast.rps))
    return load_rps / best if best > 0 else float("inf")


def speed_by_fluid(curve: list[Carried], rps: float) -> float | None:
    """The mean speed of users where a replica carries `rps`; None beyond what it carries at all."""
    rates, speeds = np.array([c.rps for c in curve]), np.array([c.tps for c in curve])
    return float(np.interp(rps, rates, speeds)) if rps <= rates.max() else None

"""Recorded blocks laid out for replay: what a request's walk reads at each step, as arrays over all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.rng import uniform_at


@dataclass(frozen=True)
class Walk:
    """The recorded sequences a request goes through, one after the other: first row and row after the last of each."""

    first: list[int]
    end: list[int]


@dataclass(frozen=True)
class Replay:
    """N recorded rows and, last, one more that stands for «not drafted yet»: survival and confidence 1, nothing accepted.

    Replay is exact for every policy that does not peek (docs/design.md, "recorded blocks").
    """

    gamma: int
    accepted: Integers  # [N+1]
    survival: Floats  # [N+1, γ]
    confidence: Floats | None  # [N+1, γ] calibrated, conditional
    first_row: Integers  # [S]
    length: Integers  # [S]
    of_domain: dict[str, Integers]  # sequence numbers of each domain; "" holds all
    seed: int
    replication: int

    @property
    def unknown(self) -> int:
        """The row of a request that has no history."""
        return len(self.accepted) - 1

    def walk(self, request: int, domain: str, tokens: int) -> Walk:
        """Sequences that request number `request` of `domain` walks for `tokens` tokens, drawn from its own stream (spec §3)."""
        candidates = self.of_domain[domain]
        shortest = int(self.length[candidates].min())
        visits = np.arange(tokens // max(shortest, 1) + 1, dtype=np.int64)
        luck = uniform_at(self.seed, "sequence", self.replication, request, visits)
        chosen = candidates[(luck * len(candidates)).astype(np.int64)]
        first = self.first_row[chosen]
        return Walk(first.tolist(), (first + self.length[chosen]).tolist())


def lay_out(blocks: RecordedBlocks, temperatures: list[float] | None, clairvoyant: bool, seed: int, replication: int) -> Replay:
    """Replay of `blocks` with calibrated confidences; without a confidence head every row shows the mean survivals.

    `clairvoyant` shows the outcome as the survivals: for the oracle bound alone.
    """
    rows, gamma = len(blocks.accepted), blocks.gamma
    if clairvoyant:
        survival = (np.arange(gamma) < blocks.accepted[:, None]).astype(np.float64)
    elif blocks.confidence is not None:
        survival = blocks.survival(temperatures)
    else:
        survival = np.broadcast_to(blocks.mean_survival(), (rows, gamma))
    confidence = blocks.conditional(temperatures) if blocks.confidence is not None else None
    of_domain = {"": np.arange(len(blocks.first_row), dtype=np.int64)} | {d: blocks.sequences_of(d) for d in blocks.domains}
    return Replay(
        gamma=gamma,
        accepted=np.append(blocks.accepted, 0),
        survival=np.concatenate([survival, np.ones((1, gamma))]),
        confidence=None if confidence is None else np.concatenate([confidence, np.ones((1, gamma))]),
        first_row=blocks.first_row,
        length=blocks.length,
        of_domain=of_domain,
        seed=seed,
        replication=replication,
    )


class _AnyDomain(dict[str, Integers]):
    def __missing__(self, domain: str) -> Integers:
        return self[""]


def nothing_drafted() -> Replay:
    """Replay for ordinary decoding: γ = 0, one endless text."""
    endless = np.iinfo(np.int64).max // 4
    return Replay(
        gamma=0,
        accepted=np.zeros(1, dtype=np.int64),
        survival=np.ones((1, 0)),
        confidence=None,
        first_row=np.zeros(1, dtype=np.int64),
        length=np.array([endless], dtype=np.int64),
        of_domain=_AnyDomain({"": np.zeros(1, dtype=np.int64)}),
        seed=0,
        replication=0,
    )

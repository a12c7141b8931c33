"""Recorded blocks as arrays that a request walks along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.levels import LEVEL, Levels, levels_of
from simulator.rng import uniform_at


@dataclass(frozen=True)
class Walk:
    """The recorded sequences that a request walks, in order: first row, and row after the last, of each. `of` are the first rows of all
    sequences, by which recordings are told apart."""

    first: list[int]
    end: list[int]
    of: Integers


@dataclass(frozen=True)
class Replay:
    """N recorded rows and, last, one for "not drafted yet": survival and confidence 1, nothing accepted.

    Survivals and confidences are 0 beyond what a row proposes.

    Replay is exact for every policy that does not peek (docs/design.md, "Recorded blocks").
    """

    gamma: int
    accepted: Integers  # [N+1]
    survival: Floats  # [N+1, γ]
    confidence: Floats | None  # [N+1, γ] calibrated, conditional
    first_row: Integers  # [S]
    length: Integers  # [S]
    of_domain: dict[str, Integers]  # sequence numbers of each domain; "" holds all
    levels: dict[str, Levels]  # of the same domains
    seed: int
    replication: int
    proposed: Integers | None = None  # [N+1] tokens that the drafter proposes; None: always γ

    @property
    def unknown(self) -> int:
        """The row of a request without history."""
        return len(self.accepted) - 1

    def proposing(self, rows: Integers) -> int | None:
        """How many of the requests at `rows` [R] propose anything; None where all always do."""
        return None if self.proposed is None else int(np.count_nonzero(self.proposed[rows]))

    def walk(self, request: int, domain: str, tokens: int) -> Walk:
        """The sequences that yield `tokens` tokens for request number `request` of `domain`, drawn from its own stream: any at first, then
        those at the level it keeps."""
        candidates = self.of_domain[domain]
        shortest = int(self.length[candidates].min())
        visits = np.arange(tokens // max(shortest, 1) + 1, dtype=np.int64)
        draws = uniform_at(self.seed, "sequence", self.replication, request, visits)
        began = int(draws[0] * len(candidates))
        chosen = candidates[[began]]
        if len(draws) > 1:
            level = uniform_at(self.seed, "sequence", self.replication, request, np.array([LEVEL]))
            chosen = np.append(chosen, self.levels[domain].then(began, level, draws[1:]))
        first = self.first_row[chosen]
        return Walk(first.tolist(), (first + self.length[chosen]).tolist(), self.first_row)


def lay_out(blocks: RecordedBlocks, temperatures: list[float] | None, clairvoyant: bool, seed: int, replication: int) -> Replay:
    """Replay of `blocks` with calibrated confidences. Without a confidence head every row has the mean survivals of what is proposed.

    `clairvoyant` uses the outcomes as survivals (oracle bound only).
    """
    gamma = blocks.gamma
    confidence = blocks.conditional(temperatures) if blocks.confidence is not None else None
    if clairvoyant:
        survival = (np.arange(gamma) < blocks.accepted[:, None]).astype(np.float64)
    elif confidence is not None:
        survival = np.asarray(np.cumprod(confidence, axis=1))
    else:
        survival = blocks.proposed_survival()
    of_domain = {domain: blocks.sequences_of(domain) for domain in ("", *blocks.domains)}
    return Replay(
        gamma=gamma,
        accepted=np.append(blocks.accepted, 0),
        survival=np.concatenate([survival, np.ones((1, gamma))]),
        confidence=None if confidence is None else np.concatenate([confidence, np.ones((1, gamma))]),
        first_row=blocks.first_row,
        length=blocks.length,
        of_domain=of_domain,
        levels={domain: levels_of(blocks.accepted, blocks.first_row, blocks.length, rows) for domain, rows in of_domain.items()},
        seed=seed,
        replication=replication,
        proposed=None if blocks.proposed is None else np.append(blocks.proposed, gamma),
    )


Anything = TypeVar("Anything")


class _AnyDomain(dict[str, Anything]):
    def __missing__(self, domain: str) -> Anything:
        return self[""]


def nothing_drafted() -> Replay:
    """Replay for ordinary decoding: γ = 0, one endless text."""
    zero, endless = np.zeros(1, dtype=np.int64), np.array([np.iinfo(np.int64).max // 4])
    alone = Levels(np.zeros(1), 0.0, 1.0, np.array([np.inf]), zero)
    nowhere, level = _AnyDomain({"": zero}), _AnyDomain({"": alone})
    return Replay(0, zero, np.ones((1, 0)), None, first_row=zero, length=endless, of_domain=nowhere, levels=level, seed=0, replication=0)

"""Acceptance from everything that counted it: pooled over files by rounds, position by position, and made into a drafter's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.acceptance import from_counts
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.marginals import UNKNOWN_ROUNDS, pooled
from simulator.measurements.uncertainty import Unsure
from simulator.quantities import MOST_SLOTS
from simulator.study.profiles.given_points import ALWAYS, ANY, Cell

ALIKE = 4.0  # rounds of one text tell as much as a quarter of so many of texts of their own
BEYOND_SD = 0.5  # logits, of acceptance at positions that were never drafted


@dataclass(frozen=True)
class Counted:
    """Acceptance of a drafter: survival by position over rounds that proposed, their share, and decode rounds it was counted over. `apart` is that of
    prompts which were counted apart, by their domain."""

    survival: tuple[float, ...]
    proposing: float
    rounds: float
    source: str
    by_position: bool = True  # else it is one number for all positions, that explains an accepted length
    domain: str = ANY
    apart: tuple[Counted, ...] = ()

    @property
    def slots(self) -> int:
        """Positions that were counted."""
        return len(self.survival)

    @property
    def told(self) -> str:
        """Over what it was counted, by domain."""
        every = [self, *self.apart]
        return self.source if len(every) == 1 else "; ".join(f"{each.domain}: {each.source}" for each in every)

    def blocks(self, drafter: str, gamma: int) -> RecordedBlocks:
        """Blocks of γ slots, of every domain. Raises DsimError where no token was ever accepted."""
        proposing = 1.0 if self.proposing > ALWAYS else self.proposing
        mine = from_counts(self.survival, drafter, self.source, proposing=proposing, gamma=gamma, domain=self.domain)
        return replace(joined([mine, *(each.blocks(drafter, gamma) for each in self.apart)]), source=self.told)

    def unsure(self, drafter: str, gamma: int) -> list[Unsure]:
        """How well it is known: counted rounds, of the domain with the fewest, and nothing but a rule beyond them."""
        if fewer := [each for each in self.apart if each.rounds * each.proposing < self.rounds * self.proposing]:
            return min(fewer, key=lambda each: each.rounds * each.proposing).unsure(drafter, gamma)
        first = min(max(self.survival[0], 0.02), 0.98)
        drafted = max(self.rounds * self.proposing, 1.0)
        level = sqrt(ALIKE / (drafted * first * (1 - first)))
        told = [Unsure(parameter="level", drafter=drafter, sd=min(round(level, 4), 3.0), note=f"{drafted:,.0f} rounds that drafted were counted")]
        if gamma > self.slots:
            note = f"positions beyond {self.slots} were never drafted: a benchmark with {gamma} would tell"
            told.append(Unsure(parameter="tilt", drafter=drafter, sd=BEYOND_SD * (gamma - self.slots) / gamma, note=note))
        return told


def acceptance(drafter: str, cells: Sequence[Cell], scrapes: Sequence[SpecCounters]) -> Counted | None:
    """What is known of a drafter's acceptance, in each domain of its files: by scrapes, else by result files, else one number for all positions that
    explains the accepted length. None where nothing was accepted or said."""
    mine = [cell for cell in cells if cell.drafter == drafter]
    names = sorted({cell.domain for cell in mine}, key=lambda name: (name != ANY, name))
    if len(names) < 2:
        found = [_counted([cell.point for cell in mine], scrapes)]
    elif scrapes:
        problem = f"has files of the domains {', '.join(names)}, and scrapes that name none"
        raise DsimError(problem, where=drafter, key="--metrics", remedy="leave out the scrapes")
    else:
        found = [_counted([cell.point for cell in mine if cell.domain == name], ()) for name in names]
    told = [replace(each, domain=name) for name, each in zip(names or [ANY], found, strict=True) if each is not None]
    return replace(told[0], apart=tuple(told[1:])) if told else None


def _counted(mine: Sequence[LoadPoint], scrapes: Sequence[SpecCounters]) -> Counted | None:
    """The same of one domain's points."""
    if scrapes and any(each.slots for each in scrapes):
        return _pooled([(each.survival, each.rounds or each.drafts, each.proposing or 1.0) for each in scrapes], "counters")
    rows = [(p.survival, p.rounds or UNKNOWN_ROUNDS, 1.0 if p.proposing is None else p.proposing) for p in mine if p.survival]
    if rows:
        return _pooled([(survival, rounds, share) for survival, rounds, share in rows if survival], f"{len(rows)} result files")
    drafted = [(p.slots, p.accepted_length, p.rounds or 0.0) for p in mine if p.accepted_length and p.accepted_length > 1 and p.slots]
    if not drafted:
        return None
    slots = max(drafted)[0]
    told = [(length, rounds) for k, length, rounds in drafted if k == slots]
    length = float(np.average([each for each, _ in told], weights=[rounds or UNKNOWN_ROUNDS for _, rounds in told]))
    rounds = sum(each.rounds or each.drafts for each in scrapes) or sum(rounds for _, rounds in told) or UNKNOWN_ROUNDS
    rate = constant_acceptance(length, slots)
    return Counted(
        tuple(rate**k for k in range(1, slots + 1)), 1.0, rounds, f"one acceptance at every position, for {length:.4g} tokens a round", False
    )


def constant_acceptance(length: float, slots: int) -> float:
    """The conditional acceptance, the same at every position, with this accepted length."""
    from scipy.optimize import brentq

    rate = brentq(lambda c: 1 + sum(c**k for k in range(1, slots + 1)) - length, 0.0, 1.0) if length < slots + 1 else 1.0
    return min(max(float(rate), 1e-6), 1 - 1e-6)


def _pooled(rows: Sequence[tuple[Sequence[float], float, float]], source: str) -> Counted:
    """Survival from conditional acceptance, which every file of so many positions tells as far as it came there: (survival, rounds, proposing)."""
    slots = max(len(survival) for survival, _, _ in rows)
    tried, taken = pooled([(survival, rounds * share) for survival, rounds, share in rows], slots)
    conditional = np.divide(taken, tried, out=np.zeros(slots), where=tried > 0)
    whole = [(rounds, share) for survival, rounds, share in rows if len(survival) == slots]
    rounds = sum(each for _, each, _ in rows)
    proposing = float(np.average([share for _, share in whole], weights=[each for each, _ in whole]))
    return Counted(tuple(np.cumprod(conditional).tolist()), proposing, rounds, f"{source}, {rounds:,.0f} decode rounds")


def joined(parts: Sequence[RecordedBlocks]) -> RecordedBlocks:
    """The texts of one drafter's accepted lengths, each part of other domains."""
    first, *rest = parts
    if not rest:
        return first
    domains = tuple(name for part in parts for name in part.domains)
    assert len(set(domains)) == len(domains), domains
    before = np.cumsum([0, *(part.rows for part in parts)])
    proposed = [np.full(part.rows, part.gamma) if part.proposed is None else part.proposed for part in parts]
    return replace(
        first, domains=domains,
        sequence_domain=np.concatenate([part.sequence_domain + domains.index(part.domains[0]) for part in parts]),
        first_row=np.concatenate([part.first_row + row for part, row in zip(parts, before, strict=False)]),
        length=np.concatenate([part.length for part in parts]), accepted=np.concatenate([part.accepted for part in parts]),
        proposed=None if all(part.proposed is None for part in parts) else np.concatenate(proposed),
    )  # fmt: skip


def gamma_of(counted: Counted, cells: Sequence[Cell], asked: int | None) -> int:
    """Slots of a drafter: as asked for, else the most in the files; twice as many of one that proposes now and then, which looks up what it proposes
    and can be set to any length."""
    most = max([counted.slots, *(each.slots for each in counted.apart), *(cell.slots for cell in cells)])
    if asked is not None and asked < most:
        raise DsimError(f"expected at least the {most} tokens that the files draft, got {asked}", key="--slots")
    return asked or (most if counted.proposing > ALWAYS else min(max(2 * counted.slots, most), MOST_SLOTS))

"""The searches, as generators: each yields the trials it needs next and receives their rows, so that many run side by side on one pool."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TypeVar

from simulator.study.planning.judge import Judgement, hopeless, judge
from simulator.study.planning.sla import Sla
from simulator.study.planning.trial import Kind, Trial, TrialRow

Answer = TypeVar("Answer")
Steps = Generator[list[Trial], list[TrialRow], Answer]  # a search: yields trials, receives their rows, returns its answer
LOAD_STEP = 1.03  # how finely the largest load is found
LEAST = 3  # replications before a bound decides: two that happen to lie close together say little
LOAD_REPLICATIONS = 4  # at most, for each load tried


@dataclass
class Assessments:
    """What is known of one cell under one change: rows by replicas, load and kind; every trial is asked for once.

    The same replications meet every fleet (common random numbers), so differences between fleets are not luck.
    """

    cell: int
    sla: Sla
    most: int  # replications, at most
    change: str = ""
    rows: dict[tuple[int, float, Kind], list[TrialRow]] = field(default_factory=dict)

    def assess(self, replicas: int, load: float, kind: Kind = "peak", most: int | None = None) -> Steps[Judgement]:
        """Replications, one, two, three, five, … , until the promise is surely kept or surely broken, or no more may be had."""
        while True:
            rows = self.rows.setdefault((replicas, load, kind), [])
            judgement = judge(rows, self.sla) if rows else "open"
            decided = judgement != "open" and (len(rows) >= LEAST or hopeless(rows, self.sla))
            if decided or len(rows) >= min(most or self.most, self.most):
                return judgement
            yield from self.add(replicas, load, kind, len(rows) + (1 if len(rows) < LEAST else 2))

    def add(self, replicas: int, load: float, kind: Kind, replications: int) -> Steps[list[TrialRow]]:
        """All rows once there are `replications` of them."""
        rows = self.rows.setdefault((replicas, load, kind), [])
        missing = range(len(rows), min(replications, self.most))
        if missing:
            rows += yield [Trial(self.cell, replicas, load, k, kind, self.change) for k in missing]
        return rows

    def peak(self, load: float) -> dict[int, list[TrialRow]]:
        """Rows of the peak at a load, by replicas, rising."""
        return {n: rows for (n, at, kind), rows in sorted(self.rows.items()) if at == load and kind == "peak" and rows}


def least(keeps: Callable[[int], Steps[bool]], guess: int, low: int, high: int) -> Steps[int | None]:
    """The least n in [low, high] that keeps, None where even `high` does not: gallop from a guess, then bisect. Keeping is taken as monotone."""
    guess, step = min(max(guess, low), high), 1
    if (yield from keeps(guess)):
        good, bad = guess, low - 1
        while good > low:
            below = max(good - step, low)
            if not (yield from keeps(below)):
                bad = below
                break
            good, step = below, 2 * step
    else:
        good, bad = 0, guess
        while not good:
            if bad >= high:
                return None
            above = min(bad + step, high)
            if (yield from keeps(above)):
                good = above
            else:
                bad, step = above, 2 * step
    while good - bad > 1:
        middle = (good + bad) // 2
        if (yield from keeps(middle)):
            good = middle
        else:
            bad = middle
    return good


def largest(keeps: Callable[[float], Steps[bool]], start: float, step: float = LOAD_STEP, most: float = 64.0) -> Steps[float]:
    """The largest load that keeps, within a factor `step`, from a `start` that does: gallop up (to `most` times it), then bisect."""
    good, bad, stride, top = start, 0.0, 1.12, start * most
    while not bad:
        above = min(good * stride, top)
        if (yield from keeps(above)):
            if above == top:
                return top
            good, stride = above, stride**2
        else:
            bad = above
    while bad / good > step:
        middle = (good * bad) ** 0.5
        if (yield from keeps(middle)):
            good = middle
        else:
            bad = middle
    return good


def enough(needed: int, carries: float) -> int:
    """How many of `needed` replicas must do, where all of them carry `carries` times the load (found within a factor LOAD_STEP)."""
    return ceil(LOAD_STEP * needed / carries)


def ladder(around: Sequence[int], low: int, high: int, most: int = 6) -> list[int]:
    """Replica counts for the frontier: those in `around`, and up to `most` spread evenly in ratio over [low, high]."""
    rungs = set(around)
    for i in range(most):
        rungs.add(round(low * (high / low) ** (i / max(most - 1, 1))))
    return sorted(n for n in rungs if low <= n <= high)


def bracket(fluid: float, low: int, high: int) -> int:
    """Where to begin: a little above the fluid bound, which knows no queues and no slow users."""
    return min(max(ceil(1.25 * fluid), low), high) if fluid < high else high


def below(fluid: float, low: int) -> int:
    """The fewest replicas worth a look: the fluid bound itself."""
    return max(floor(fluid), low)

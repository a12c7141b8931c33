"""A seal beside what was measured: errors, coverage, ranking, what following it costs, and the limits of the board."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import log, sqrt
from typing import Any

import numpy as np

from simulator.study.sealed import decisions as decide
from simulator.study.sealed.numbers import NUMBERS, SPEED, THROUGHPUT
from simulator.study.sealed.result import (
    KINDS,
    ConditionFacts,
    CrossingFound,
    Kind,
    KneeFound,
    Limit,
    Pair,
    Place,
    Ranking,
    Regret,
    ScoredCell,
    SealFacts,
    Summary,
)
from simulator.study.sealed.seal import ChoiceFor, Condition, Seal

BEYOND = 2.0  # standard errors of a difference, from which on it is no noise
JUDGED = (SPEED, THROUGHPUT)
MEDIAN, MEDIAN_LLAMA, WORST, COVERED, RANKED, REGRET, OPEN_TTFT = 0.06, 0.08, 0.18, (0.80, 0.98), 0.95, 0.03, 0.20


@dataclass(frozen=True)
class Scoring:
    """A seal, what was measured of it, and the standard deviation of one measurement's logarithm by kind of load and number."""

    seal: Seal
    cells: Sequence[ScoredCell]
    noise: Mapping[tuple[Kind, str], float]

    @property
    def follows(self) -> dict[str, Any]:
        """All of a score that follows from the seal, its cells and their noise, by its names there."""
        summary, ranking, regret = tuple(self.summary()), self.ranking(), tuple(self.regret())
        measured = {cell.condition for cell in self.cells}
        return {
            "seal": SealFacts.of(self.seal, profiles={condition.name: condition.profile.sha256 for condition in self.seal.conditions}),
            "conditions": tuple(ConditionFacts.of_sealed(condition) for condition in self.seal.conditions if condition.name in measured),
            "not_measured": self.not_measured,
            "failed": sum(cell.failed for cell in self.cells),
            "summary": summary,
            "ranking": ranking,
            "regret": regret,
            "knees": tuple(self.knees()),
            "crossings": tuple(self.crossings()),
            "limits": tuple(limits(summary, ranking, regret, all(condition.profile.llama_cpp for condition in self.seal.conditions))),
        }

    @cached_property
    def not_measured(self) -> tuple[Place, ...]:
        """What was sealed and is in no file."""
        done = {(cell.condition, cell.policy, cell.load) for cell in self.cells}
        every = ((c.name, cell.policy, cell.load) for c in self.seal.conditions for cell in c.cells)
        return tuple(Place(condition=name, policy=policy, load=load) for name, policy, load in every if (name, policy, load) not in done)

    @property
    def unchosen(self) -> Iterator[Place]:
        """What was recommended at a load, and is in no file though others are."""
        missing = {(place.condition, place.policy, place.load) for place in self.not_measured}
        for condition in self.seal.conditions:
            loads = decide.loads_of(self._sides(condition)[1])
            for choice in condition.decisions.recommended:
                if choice.load in loads and (condition.name, choice.policy, choice.load) in missing:
                    yield Place(condition=condition.name, policy=choice.policy, load=choice.load)

    def summary(self) -> Iterator[Summary]:
        """Of every number, closed and open loops apart."""
        for kind in KINDS:
            for name in NUMBERS:
                having = [(cell, cell.numbers[name]) for cell in self.cells if cell.kind == kind and name in cell.numbers]
                if not having:
                    continue
                sizes = [abs(number.error) for _, number in having]
                held = [number.inside for _, number in having if number.inside is not None]
                worst = having[int(np.argmax(sizes))][0]
                halves = [(n.high - n.low) / 2 / n.predicted for _, n in having if n.low is not None and n.high is not None]
                yield Summary(
                    kind=kind, number=name, cells=len(sizes), median=float(np.median(sizes)), p90=float(np.quantile(sizes, 0.9)), worst=max(sizes),
                    worst_at=Place(condition=worst.condition, policy=worst.policy, load=worst.load), held=sum(held), intervals=len(held),
                    half_width=float(np.median(halves)) if halves else None, noise=self.noise.get((kind, name)),
                )  # fmt: skip

    # decisions, over the cells that both sides have

    def _sides(self, condition: Condition) -> tuple[decide.Cells, decide.Cells]:
        """Predicted and measured numbers."""
        mine = {(cell.policy, cell.load): cell.numbers for cell in self.cells if cell.condition == condition.name}
        predicted = {key: {name: number.predicted for name, number in numbers.items()} for key, numbers in mine.items()}
        return predicted, {key: {name: number.measured for name, number in numbers.items()} for key, numbers in mine.items()}

    def ranking(self) -> Ranking:
        """Pairs at the same load."""
        pairs = right = ties = 0
        wrong = []
        for condition in self.seal.conditions:
            sd = self.noise.get((condition.load_kind, SPEED), 0.0)
            predicted, measured = self._sides(condition)
            repeats = {(cell.policy, cell.load): cell.repeats for cell in self.cells if cell.condition == condition.name}
            for load in decide.loads_of(measured):
                for first, second in combinations([policy for policy, at in measured if at == load], 2):
                    seen, told = (log(side[first, load][SPEED] / side[second, load][SPEED]) for side in (measured, predicted))
                    if abs(seen) <= BEYOND * sd * sqrt(1 / repeats[first, load] + 1 / repeats[second, load]):
                        ties += 1
                        continue
                    pairs += 1
                    right += seen * told > 0
                    if seen * told <= 0:
                        fast, slow, sign = (first, second, 1) if seen > 0 else (second, first, -1)
                        wrong.append(
                            Pair(condition=condition.name, load=load, first=fast, second=slow, measured=np.expm1(sign * seen),
                                 predicted=np.expm1(sign * told))
                        )  # fmt: skip
        return Ranking(pairs=pairs, right=right, ties=ties, wrong=tuple(wrong))

    def regret(self) -> Iterator[Regret]:
        """Of the choice at every load where there was one to make, and at every promised speed that some policy was measured to keep."""
        for condition in self.seal.conditions:
            predicted, measured = (_choosable(side, condition) for side in self._sides(condition))
            for load in decide.loads_of(measured):
                speeds = {policy: numbers[SPEED] for (policy, at), numbers in measured.items() if at == load}
                if len(speeds) > 1:
                    chosen, best = decide.ranked(predicted, load)[0], max(speeds, key=lambda policy: speeds[policy])
                    yield Regret(condition=condition.name, load=load, chosen=chosen, best=best, loss=1 - speeds[chosen] / speeds[best])
            for promise, choice, best_choice in self._promised(condition):
                if choice and best_choice:
                    given = decide.delivered(measured, promise.tps_per_user)[choice.policy]
                    yield Regret(condition=condition.name, tps_per_user=promise.tps_per_user, chosen=choice.policy, best=best_choice.policy,
                                 loss=1 - given / best_choice.throughput_tok_s)  # fmt: skip

    def _promised(self, condition: Condition) -> Iterator[tuple[ChoiceFor, ChoiceFor | None, ChoiceFor | None]]:
        """Every promise of the seal that there was a choice for, with what is predicted and what was measured to deliver most there."""
        predicted, measured = (_choosable(side, condition) for side in self._sides(condition))
        for promise in condition.decisions.promises if len(decide.policies_of(measured)) > 1 else ():
            yield promise, decide.best_at(predicted, promise.tps_per_user), decide.best_at(measured, promise.tps_per_user)

    @property
    def unkept(self) -> Iterator[str]:
        """Promises of the seal that have no regret: no policy that was measured keeps them, or none of them was predicted to."""
        for condition in self.seal.conditions:
            for promise, choice, best_choice in self._promised(condition):
                if not (choice and best_choice):
                    why = "predicted to keep it where it was measured" if best_choice else "measured to keep it"
                    yield f"{condition.name}: promised {promise.tps_per_user:.3g} tok/s per user: no policy was {why} (the seal: {promise.policy})"

    def knees(self) -> Iterator[KneeFound]:
        """Of every policy that was measured at two loads or more."""
        for condition in self.seal.conditions:
            predicted, measured = self._sides(condition)
            for policy in decide.policies_of(measured) if condition.load_kind == "concurrency" else ():
                if len(decide.loads_of(measured, policy)) > 1:
                    told, seen = decide.knee(predicted, policy), decide.knee(measured, policy)
                    loss = 1 - decide.power(measured[policy, told.load]) / decide.power(measured[policy, seen.load])
                    yield KneeFound(condition=condition.name, policy=policy, predicted=told.load, measured=seen.load, loss=loss)

    def crossings(self) -> Iterator[CrossingFound]:
        """Of every pair that crosses on either side."""
        for condition in self.seal.conditions:
            sides = [defaultdict[tuple[str, str], list[float]](list) for _ in range(2)]
            for side, cells in zip(sides, self._sides(condition), strict=True):
                for crossing in decide.crossings(cells):
                    side[min(crossing.first, crossing.second), max(crossing.first, crossing.second)].append(crossing.load)
            for first, second in sorted({*sides[0], *sides[1]}):
                told, seen = (tuple(side[first, second]) for side in sides)
                yield CrossingFound(condition=condition.name, first=first, second=second, predicted=told, measured=seen)


def _choosable(cells: decide.Cells, condition: Condition) -> decide.Cells:
    return {key: numbers for key, numbers in cells.items() if key[0] in condition.choosable}


def limits(summary: Sequence[Summary], ranking: Ranking, regret: Sequence[Regret], llama_cpp: bool) -> Iterator[Limit]:
    """Those of the board: closed loops by speed and throughput, open ones by TTFT. `llama_cpp`: all that was sealed is of it."""
    by: Mapping[tuple[str, str], Summary] = {(one.number, one.kind): one for one in summary}
    median = MEDIAN_LLAMA if llama_cpp else MEDIAN
    judged = [by[name, "concurrency"] for name in JUDGED if (name, "concurrency") in by]
    for one in judged:
        title = NUMBERS[one.number].title
        yield _limit(f"median error of {title}", one.median, most=median)
        yield _limit(f"worst error of {title}", one.worst, most=WORST)
    if intervals := sum(one.intervals for one in judged):
        yield _limit("measurements within the 90 % interval", sum(one.held for one in judged) / intervals, *COVERED)
    if ranking.pairs:
        yield _limit("pairs ranked rightly", ranking.right / ranking.pairs, least=RANKED)
    if regret:
        yield _limit("mean regret of decisions", float(np.mean([one.loss for one in regret])), most=REGRET)
    for name in ("ttft_p50_s", "ttft_p90_s"):
        if (name, "rate_rps") in by:
            yield _limit(f"worst error of {NUMBERS[name].title}, open loop", by[name, "rate_rps"].worst, most=OPEN_TTFT)


def _limit(what: str, value: float, least: float | None = None, most: float | None = None) -> Limit:
    kept = (least is None or value >= least) and (most is None or value <= most)
    return Limit(what=what, value=value, least=least, most=most, ok=kept)

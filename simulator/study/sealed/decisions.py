"""What follows from the numbers of some cells, predicted or measured: who is fastest, where two cross, what to run, where more load stops paying."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np

from simulator.study.run.prediction import delivers
from simulator.study.sealed.numbers import SPEED, THROUGHPUT
from simulator.study.sealed.seal import ChoiceAt, ChoiceFor, Crossing, Decisions, Knee, RankedAt

Cells = Mapping[tuple[str, float], Mapping[str, float]]  # numbers by policy and load


def decisions(cells: Cells, choosable: Collection[str], promises: Sequence[float], closed: bool) -> Decisions:
    """All of them; at `promises`, and knees, for closed loops alone: in an open loop the arrivals set the throughput."""
    ranking = tuple(RankedAt(load=load, policies=ranked(cells, load)) for load in loads_of(cells))
    best = [(at.load, [policy for policy in at.policies if policy in choosable]) for at in ranking]
    world = {key: numbers for key, numbers in cells.items() if key[0] in choosable}
    return Decisions(
        ranking=ranking,
        crossings=tuple(crossings(cells)),
        recommended=tuple(ChoiceAt(load=load, policy=policies[0]) for load, policies in best if policies),
        recommended_overall=_overall(world),
        promises=tuple(choice for promise in promises if (choice := best_at(world, promise))) if closed else (),
        knees=tuple(knee(cells, policy) for policy in policies_of(cells)) if closed else (),
    )


def policies_of(cells: Cells) -> list[str]:
    """In their order."""
    return list(dict.fromkeys(policy for policy, _ in cells))


def loads_of(cells: Cells, policy: str | None = None) -> list[float]:
    """Of all policies or of one, rising."""
    return sorted({load for name, load in cells if policy in (None, name)})


def ranked(cells: Cells, load: float) -> tuple[str, ...]:
    """Policies at a load by per-user speed, the fastest first."""
    here = {policy: numbers[SPEED] for (policy, at), numbers in cells.items() if at == load}
    return tuple(sorted(here, key=lambda policy: -here[policy]))


def crossings(cells: Cells) -> Iterator[Crossing]:
    """Where the faster of two policies changes between neighbouring loads that both have: the logarithm of their ratio is taken as linear in that of
    the load."""
    for first, second in combinations(policies_of(cells), 2):
        loads = [load for load in loads_of(cells, first) if (second, load) in cells]
        ahead = [np.log(cells[first, load][SPEED] / cells[second, load][SPEED]) for load in loads]
        for (low, high), (below, above) in zip(pairwise(loads), pairwise(ahead), strict=True):
            if below * above < 0:
                at = float(np.exp(np.interp(0.0, sorted((below, above)), np.log([low, high] if below < above else [high, low]))))
                yield Crossing(first=first if below > 0 else second, second=second if below > 0 else first, load=at)


def _overall(cells: Cells) -> str:
    """The policy that is nearest to the best at each load, in the geometric mean over the loads that all have; empty where there are none."""
    policies = policies_of(cells)
    shared = [load for load in loads_of(cells) if all((policy, load) in cells for policy in policies)]
    mean = {policy: sum(np.log(cells[policy, load][SPEED]) for load in shared) for policy in policies}
    return max(mean, key=lambda policy: float(mean[policy])) if shared else ""


def delivered(cells: Cells, promise: float) -> dict[str, float]:
    """Throughput of every policy at a promised per-user speed, between its loads along straight lines; 0 where it does not keep it."""
    world = {key: {"tps_per_user_mean": np.array([n[SPEED]]), "throughput_tok_s_gpu": np.array([n[THROUGHPUT]])} for key, n in cells.items()}
    usable = {policy: loads_of(cells, policy) for policy in policies_of(cells)}
    return {policy: float(delivers(world, usable, policy, "tps_per_user_mean", promise)[0]) for policy in usable}


def best_at(cells: Cells, promise: float) -> ChoiceFor | None:
    """The policy that delivers most at a promised speed; None where no policy keeps it."""
    each = delivered(cells, promise)
    policy = max(each, key=lambda name: each[name], default="")
    return ChoiceFor(tps_per_user=promise, policy=policy, throughput_tok_s=each[policy]) if policy and each[policy] else None


def power(numbers: Mapping[str, float]) -> float:
    """Throughput × per-user speed: throughput over the time that a token takes (the "power" of Kleinrock, ICC 1979, largest at the knee)."""
    return numbers[THROUGHPUT] * numbers[SPEED]


def knee(cells: Cells, policy: str) -> Knee:
    """The load of largest power: above it users lose more speed than throughput is gained, in proportion."""
    load = max(loads_of(cells, policy), key=lambda at: power(cells[policy, at]))
    numbers = cells[policy, load]
    return Knee(policy=policy, load=load, throughput_tok_s=numbers[THROUGHPUT], tps_per_user=numbers[SPEED])

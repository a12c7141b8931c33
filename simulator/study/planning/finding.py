"""What is result for each cell: the least fleet, what it carries beyond, the points around it, and what changes when assumptions move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil

from simulator.study.planning.changes import Change, changes
from simulator.study.planning.question import Plan
from simulator.study.planning.result import BreakEven, Outcome, PairedGain
from simulator.study.planning.search import LEAST, LOAD_REPLICATIONS, Assessments, Steps, below, bracket, enough, ladder, largest, least
from simulator.study.planning.trial import Kind, Trial, TrialRow
from simulator.study.run.fleet import fleet_of
from simulator.study.run.fluid import Carried, carried, least_by_fluid, speed_by_fluid


@dataclass
class CellResult:
    """A cell's answer. `replicas` is what to buy, `needed` what the peak needs without a spare; None where the outcome is not `planned`."""

    cell: int
    outcome: Outcome
    known: Assessments
    fluid: float
    alone: list[TrialRow]
    needed: int | None = None
    replicas: int | None = None
    carried_load: float | None = None

    @property
    def spare(self) -> int:
        """How many more are bought than the peak needs; 0 where there is no fleet."""
        return self.replicas - self.needed if self.replicas and self.needed else 0


@dataclass
class WhatIf:
    """A cell under a change: replicas then needed (None: not to be had), and the rows of the unchanged fleet in the changed world."""

    change: Change
    needed: int | None
    rows: list[TrialRow]


@dataclass
class Search:
    """What the searches of a plan have result."""

    cells: dict[int, CellResult]
    best: int
    what_ifs: list[WhatIf] = field(default_factory=list)
    carries: dict[int, float] = field(default_factory=dict)  # fleet size to load
    pairs: list[PairedGain] = field(default_factory=list)
    break_even: list[BreakEven] = field(default_factory=list)
    peak_rps: float = 0.0
    trials: int = 0


def mean_field(plan: Plan, cell: int) -> list[Carried]:
    """Load against speed of one replica of a cell, in the mean."""
    scenario = plan.scenario(cell, 1)
    fleet = fleet_of(scenario, scenario.policies[0], 0)
    return carried(fleet, plan.shape.mean_prompt, plan.shape.mean_output, scenario.workload.domains)


def search_cell(plan: Plan, cell: int, curve: list[Carried]) -> Steps[CellResult]:
    """The least fleet that keeps the promise through the peak (and, if asked, through a loss in it), the largest load it carries, and the
    points of the frontier around it."""
    question, load = plan.question, plan.load
    known = Assessments(cell, question.sla, question.run.replications)
    fluid = least_by_fluid(curve, plan.shape.peak_rps, question.sla.tps)
    alone = yield from known.add(1, load, "alone", 2)
    result = CellResult(cell, "unattainable", known, fluid, alone)
    if (yield from known.assess(1, load, "alone")) == "broken":
        return result
    low, high = question.fleet.min_replicas, question.fleet.max_replicas
    keeps: Callable[[int], Steps[bool]] = partial(_keeps, known, load, "peak")
    guess = yield from _better_guess(plan, known, curve, bracket(fluid, low, high))
    needed = yield from least(keeps, guess, low, high)
    if needed is None:
        judged = yield from known.assess(high, load)
        result.outcome = "too few replicas" if judged == "broken" else "not clear"
        share = min(high / fluid, 1.0)  # of the load, that the fluid would carry
        start = (yield from _a_kept_load(known, high, load * share)) if share > 0 else None
        result.carried_load = (yield from largest(partial(_keeps_load, known, high), start)) if start is not None else None
        return result
    needed, result.carried_load = yield from _confirmed(known, keeps, load, needed, low)
    result.needed = result.replicas = needed
    if question.fleet.survive_loss:
        result.replicas = yield from least(partial(_keeps, known, load, "loss"), needed + 1, needed + 1, high) if needed < high else _none()
        if result.replicas is None:
            result.outcome = "too few replicas"
            return result
    result.outcome = "planned"
    top = min(max(round(1.7 * needed), needed + 2), max(high, needed))
    yield from _rungs(known, load, [needed - 1, needed, result.replicas], max(min(below(fluid, low), needed - 1), needed // 2, 1), top)
    return result


def _confirmed(known: Assessments, keeps: Callable[[int], Steps[bool]], load: float, needed: int, low: int) -> Steps[tuple[int, float]]:
    """The least fleet and the largest load that it carries. Where that says that fewer replicas must do, they are looked at as well: the search
    was misled by a replication of bad luck."""
    while True:
        carried = yield from largest(partial(_keeps_load, known, needed), load)
        fewer = enough(needed, carried / load)
        if fewer >= needed:
            return needed, carried
        less = yield from least(keeps, fewer, low, needed)
        if less is None or less >= needed:
            return needed, carried
        needed = less


def _better_guess(plan: Plan, known: Assessments, curve: list[Carried], guess: int) -> Steps[int]:
    """One look at the guess says how much slower the promised user is than the mean one of the fluid; the fluid then says how many more it takes."""
    question = plan.question
    (row,) = (yield from known.add(guess, plan.load, "peak", 1))[:1]
    mean = speed_by_fluid(curve, plan.shape.peak_rps / guess)
    if row.verdict != "overloaded" and question.sla.speed is None:
        return guess
    if row.verdict == "overloaded" or not row.speed or not mean:
        return min(max(guess + 1, round(1.5 * guess)), question.fleet.max_replicas)
    better = least_by_fluid(curve, plan.shape.peak_rps, question.sla.tps * mean / row.speed)
    return max(question.fleet.min_replicas, ceil(min(better, 2.0 * guess, question.fleet.max_replicas)))


def _none() -> Steps[None]:
    return
    yield


def _keeps(known: Assessments, load: float, kind: Kind, replicas: int) -> Steps[bool]:
    return (yield from known.assess(replicas, load, kind)) == "kept"


def _keeps_load(known: Assessments, replicas: int, load: float) -> Steps[bool]:
    return (yield from known.assess(replicas, load, most=LOAD_REPLICATIONS)) == "kept"


def _rungs(known: Assessments, load: float, around: list[int], low: int, high: int) -> Steps[None]:
    """Enough replications at each rung of the ladder, asked for together."""
    rungs = [n for n in ladder([n for n in around if n > 0], max(low, 1), max(high, 1)) if len(known.rows.get((n, load, "peak"), [])) < LEAST]
    wanted = {n: range(len(known.rows.get((n, load, "peak"), [])), LEAST) for n in rungs}
    trials = [Trial(known.cell, n, load, k) for n, ks in wanted.items() for k in ks]
    if not trials:
        return
    rows = yield trials
    for trial, row in zip(trials, rows, strict=True):
        known.rows.setdefault((trial.replicas, load, "peak"), []).append(row)


def search_change(plan: Plan, result: CellResult, change: Change) -> Steps[WhatIf]:
    """The least fleet in a changed world, looked for from the unchanged answer on; and what the unchanged fleet gives there."""
    assert result.needed is not None
    question = plan.question
    known = Assessments(result.cell, question.sla, question.run.replications, change.name)
    load = plan.load * change.load
    rows = yield from known.add(result.needed, load, "peak", LEAST)
    keeps: Callable[[int], Steps[bool]] = partial(_keeps, known, load, "peak")
    needed = yield from least(keeps, result.needed, question.fleet.min_replicas, max(question.fleet.max_replicas, result.needed))
    return WhatIf(change, needed, list(rows))


def search_capacities(plan: Plan, result: CellResult, sizes: list[int]) -> Steps[dict[int, float]]:
    """The largest load that each fleet size carries, in units of load: the steps of an autoscaler."""
    out: dict[int, float] = {}
    assert result.needed is not None
    assert result.carried_load is not None
    per_replica = result.carried_load / result.needed
    for n in sizes:
        guess = n * per_replica
        start = yield from _a_kept_load(result.known, n, guess)
        if start is not None:
            out[n] = yield from largest(partial(_keeps_load, result.known, n), start)
    return out


def _a_kept_load(known: Assessments, replicas: int, guess: float) -> Steps[float | None]:
    """A load that `replicas` replicas carry, at or below a guess; None where none of a few does."""
    for factor in (1.0, 0.8, 0.6, 0.4, 0.2):
        if (yield from _keeps_load(known, replicas, guess * factor)):
            return guess * factor
    return None


def search_pair(plan: Plan, cells: list[int], replicas: int) -> Steps[dict[int, list[TrialRow]]]:
    """Rows of several cells at one fleet size with the same luck, for paired differences."""
    count = LEAST + 1
    trials = [Trial(cell, replicas, plan.load, k) for cell in cells for k in range(min(count, plan.question.run.replications))]
    rows = yield trials
    out: dict[int, list[TrialRow]] = {}
    for trial, row in zip(trials, rows, strict=True):
        out.setdefault(trial.cell, []).append(row)
    return out


def changes_of(plan: Plan, result: CellResult) -> list[Change]:
    """What a plan is shaken by."""
    return list(changes(plan, result.cell).values())

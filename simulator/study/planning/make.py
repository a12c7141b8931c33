"""From a question to its answer: cells side by side, then the best one's day, its what-ifs, and who is better than whom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from simulator.study.planning.breakeven import break_even
from simulator.study.planning.build import best_cell, build, paired_gain
from simulator.study.planning.finding import Search, changes_of, mean_field, search_capacities, search_cell, search_change, search_pair
from simulator.study.planning.question import Plan
from simulator.study.planning.result import BreakEven, PlanResult
from simulator.study.planning.search import Steps
from simulator.study.planning.sure import Sure
from simulator.study.planning.work import Progress, TrialRunner
from simulator.study.run.point import arrivals

Say = Callable[[str], None]
SPANS = 10  # start-ups that the traffic must last for a day of scaling to say anything


def answer(
    plan: Plan,
    keep: Path | None = None,
    workers: int | None = None,
    progress: Progress = lambda _done, _asked: None,
    say: Say = lambda _what: None,
    ray: str | None = None,
    prediction: bool = True,
) -> PlanResult:
    """The result of a plan. `keep` holds the trials that are done; `progress(done, asked)` and `say(phase)` show progress; `ray` is the address of a
    cluster to run on. Without `prediction`, nothing is said of what the profiles are not sure of."""
    with closing(TrialRunner(plan, keep, workers, progress, ray)) as runner:
        say("searching fleets")
        cells = runner.run({c: search_cell(plan, c, mean_field(plan, c)) for c in range(len(plan.choices))})
        search = Search(cells, best_cell(plan, {c: f for c, f in cells.items() if not plan.bound(c)}), peak_rps=_peak_rps(plan))
        best = cells[search.best]
        say("what if, and the day")
        searches: dict[Any, Steps[Any]] = {("change", c.name): search_change(plan, best, c) for c in changes_of(plan, best)}
        pairs = _pairs(plan, search)
        searches |= {("pair", cell): search_pair(plan, [cell, *fixed], n) for cell, (fixed, n) in pairs.items()}
        if len(plan.shape.curve_rps) > 1 and plan.shape.span_s >= SPANS * plan.question.fleet.start_up_s:
            searches["day"] = search_capacities(plan, best, _sizes(best.needed or 1))
        done = runner.run(searches)
        search.what_ifs = [done["change", c.name] for c in changes_of(plan, best)]
        search.carries = done.get("day", {})
        gains = [paired_gain(plan, cell, done["pair", cell], n) for cell, (_, n) in pairs.items()]
        search.pairs = [g for g in gains if g is not None]
        search.trials = len(runner.rows)
    say("break-even")
    search.break_even = _break_evens(plan)
    if prediction:
        say("prediction intervals")
    return build(plan, search, Sure(plan, search) if prediction else None)


def _sizes(needed: int) -> list[int]:
    """Fleet sizes whose largest load is looked for: one, half, all."""
    return sorted({1, max(needed // 2, 1), needed})


def _peak_rps(plan: Plan) -> float:
    """Arrivals per second in the measured window, one replication; of sessions, whose requests come when answers do, as many as are planned for."""
    if plan.question.workload.sessions is not None:
        return plan.shape.peak_rps
    at = arrivals(plan.choices[0].scenario, plan.load, 0).arrival_s
    return float(((plan.warmup_s <= at) & (at < plan.warmup_s + plan.window_s)).sum()) / plan.window_s


def _pairs(plan: Plan, search: Search) -> dict[int, tuple[list[int], int]]:
    """Cells that go by confidences and prices, each with its yardsticks and the fleet that both are shown at: the smaller of their needs."""
    out = {}
    for number, cell in enumerate(plan.choices):
        rule = cell.scenario.policies[0].verification
        if not (rule.needs_confidence and rule.needs_prices) or plan.bound(number):
            continue
        beside = [
            n
            for n, other in enumerate(plan.choices)
            if (other.profile, other.setting) == (cell.profile, cell.setting) and other.scenario.policies[0].verification.yardstick
        ]
        needs = [search.cells[n].needed for n in [number, *beside] if search.cells[n].needed is not None]
        if beside and needs:
            out[number] = (beside, min(n for n in needs if n is not None))
    return out


def _break_evens(plan: Plan) -> list[BreakEven]:
    """One for each profile and drafter that drafts more than one token."""
    seen, out = set(), []
    for number, cell in enumerate(plan.choices):
        policy = cell.scenario.policies[0]
        if policy.drafter is None or (cell.profile, policy.drafter) in seen:
            continue
        seen.add((cell.profile, policy.drafter))
        if cell.scenario.known.drafter(policy.drafter).gamma > 1:
            pays = break_even(plan, number)
            out += [pays] if pays else []
    return out

"""What other promises would need, read from the fleets that were simulated for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.study.planning.finding import CellResult, Search
from simulator.study.planning.judge import judge
from simulator.study.planning.question import Plan
from simulator.study.planning.result import ChoiceAtPromise, PromiseResult
from simulator.study.planning.sla import SpeedPromise
from simulator.study.run.pareto import estimate

TICKS = 12  # promises on the page's slider


def cost_per_mtok(plan: Plan, dollars_per_hour: float) -> float:
    """Per million output tokens, over the whole span: what runs is paid for at night, too."""
    return dollars_per_hour / (plan.shape.tokens_per_s * 3600 / 1e6)


def promises(plan: Plan, search: Search) -> list[float]:
    """Speeds on the slider: those asked for, that of the SLA, and round ones over what the simulated fleets reach."""
    sla = plan.question.sla
    speeds = set(plan.question.promises) | ({sla.speed.tps} if sla.speed else set())
    if not plan.question.promises and sla.speed:
        reached = [p for f in search.cells.values() for rows in f.known.peak(plan.load).values() for r in rows if (p := r.speed or 0) > 0]
        if reached:
            low, high = min(*reached, sla.speed.tps), max(*reached, sla.speed.tps)
            speeds |= {_round(v) for v in np.geomspace(max(low, 1.0), high, TICKS)}
    return sorted(speeds)


def _round(value: float) -> float:
    """To two significant digits."""
    scale = 10 ** (int(np.floor(np.log10(value))) - 1)
    return float(f"{round(value / scale) * scale:.6g}")


def at_promise(plan: Plan, search: Search, tps: float) -> PromiseResult:
    """What every cell needs at another promised speed, from the simulated fleets alone: `exact` where the next smaller one fails as well."""
    planned = tps == plan.question.sla.tps
    rows = [_needs(plan, search.cells[number], tps, planned) for number in sorted(search.cells)]
    possible = [(r.cost_per_mtok, -(r.speed or 0), r.cell) for r in rows if r.cost_per_mtok is not None and not plan.bound(r.cell)]
    cheapest = min(possible, key=lambda cost: cost[:2])[2] if possible else None
    return PromiseResult(tps=tps, cells=tuple(rows), best=search.best if planned else cheapest)


def _needs(plan: Plan, cell: CellResult, tps: float, planned: bool) -> ChoiceAtPromise:
    """One cell at a promised speed; at the one that is planned for, what its search found."""
    sla = plan.question.sla.model_copy(update={"speed": SpeedPromise(tps=tps, share=plan.question.sla.speed_share)})
    points = {n: r for n, r in cell.known.peak(plan.load).items() if len(r) > 1 and n >= plan.question.fleet.min_replicas}
    needed = cell.needed if planned else _stays_kept(sorted(points), {n for n, r in points.items() if judge(r, sla) == "kept"})
    if needed is None or (planned and cell.replicas is None):
        return ChoiceAtPromise(cell=cell.cell, replicas=None, gpus=None, cost_per_mtok=None, throughput=None, speed=None, exact=False)
    replicas = (cell.replicas if planned else None) or needed + (cell.spare or int(plan.question.fleet.survive_loss))
    choice = plan.choices[cell.cell]
    throughput, speed = (estimate([r[metric] for r in points[needed]]) for metric in ("throughput_tok_s_gpu", "speed"))
    return ChoiceAtPromise(
        cell=cell.cell,
        replicas=replicas,
        gpus=choice.gpus(replicas),
        cost_per_mtok=cost_per_mtok(plan, choice.gpus(replicas) * choice.gpu_hour),
        throughput=throughput.mean if throughput else None,
        speed=speed.mean if speed else None,
        exact=planned or needed == plan.question.fleet.min_replicas or (needed - 1 in points and judge(points[needed - 1], sla) != "kept"),
    )


def _stays_kept(sizes: Sequence[int], kept: set[int]) -> int | None:
    """The least size from which on all larger simulated ones keep."""
    least = None
    for n in reversed(sizes):
        if n not in kept:
            break
        least = n
    return least

"""A published sweep of concurrency under several policies against a simulated one: gains cell by cell, and where curves cross."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.arrays import Floats
from simulator.errors import ScenarioError
from simulator.study.run.checks import CurveCheck, SweepCheck
from simulator.study.run.draws import interval
from simulator.study.run.prediction import World
from simulator.study.run.result import PointRow
from simulator.study.run.scenario import Scenario
from simulator.study.run.validated import ValidationPoint, ValidationRow

if TYPE_CHECKING:
    import pandas as pd

_Place = Callable[[Sequence[float]], int]
_Crossing = tuple[str, str, list[str], list[str], _Place]  # what, the policy it is of, the gains of which over those of which, and the place


def check_sweep(scenario: Scenario, check: SweepCheck, table: pd.DataFrame, key: str) -> None:
    """The table holds what the check names, and every published cell is simulated. Raises ScenarioError."""
    where = scenario.file
    lacks = f"table '{check.table}' has no"
    must_hold(scenario, f"{key}.table", ("policy", "concurrency", check.y), table.columns, f"{lacks} column", "columns")
    systems = (*check.systems, *([check.adaptive] if check.adaptive else []))
    must_hold(scenario, key, systems, table["policy"], f"{lacks} policy", "policies there")
    if (twice := table.duplicated(["policy", "concurrency"])).any():
        policy, load = table.loc[twice, ["policy", "concurrency"]].iloc[0]
        raise ScenarioError(
            f"table '{check.table}' has policy '{policy}' at concurrency {load:g} twice", where=where, key=f"{key}.table", remedy="keep one"
        )
    if check.adaptive is not None and check.adaptive not in check.systems:
        raise ScenarioError(f"adaptive is '{check.adaptive}', which is none of systems", where=where, key=f"{key}.adaptive", remedy="add it there")
    baseline = set(_cells(table, next(iter(check.systems)), check.y))
    for system, name in check.systems.items():
        policy = next(p for p in scenario.policies if p.name == name)
        loads = set(scenario.loads(policy))
        missing = sorted(set(_cells(table, system, check.y)) & baseline - loads)
        if missing:
            problem = f"policy '{name}' is not run at concurrency {missing[0]:g}, which the table holds"
            raise ScenarioError(problem, where=where, key="load", remedy="add it")


def must_hold(scenario: Scenario, key: str, wanted: Iterable[str], present: Iterable[object], problem: str, remedy: str) -> None:
    """Raises ScenarioError for the first of the `wanted` names that is not there."""
    there = list(dict.fromkeys(map(str, present)))
    for name in wanted:
        if name not in there:
            raise ScenarioError(f"{problem} '{name}'", where=scenario.file, key=key, remedy=f"{remedy}: {', '.join(there) or 'none'}")


def sweep_points(
    scenario: Scenario, rows: Sequence[PointRow], check: SweepCheck, table: pd.DataFrame, world: World | None = None
) -> list[ValidationPoint]:
    """One point per published cell: the metric over that of the first system at the same concurrency, simulated and published."""
    (base, base_policy), *others = check.systems.items()
    reference = _cells(table, base, check.y)
    points = []
    for system, policy in others:
        for load, value in _cells(table, system, check.y).items():
            simulated, plain = (mean(rows, name, load, check.metric) for name in (policy, base_policy))
            if load not in reference or simulated is None or not plain:
                continue
            fitted = load in check.fitted.get(system, [])
            drawn = world[policy, load][check.metric] / world[base_policy, load][check.metric] if world else None
            points.append(cell(check, policy, f"{check.metric} over {base_policy}", load, simulated / plain, value / reference[load], fitted, drawn))
    return points


def cell(
    check: CurveCheck | SweepCheck,
    policy: str,
    metric: str,
    load: float,
    simulated: float,
    published: float,
    fitted: bool,
    drawn: Floats | None = None,
) -> ValidationPoint:
    """A simulated number beside the published one, their relative difference, and the interval of what was `drawn` of it [N]."""
    return ValidationPoint(
        policy=policy, metric=metric, load=load, table=check.table, simulated=simulated, published=published,
        difference=simulated / published - 1, fitted=fitted, prediction=None if drawn is None or np.isnan(drawn).any() else interval(drawn),
    )  # fmt: skip


def rms_row(what: str, policy: str, unit: str, points: Sequence[ValidationPoint], limit: float | None = None, **more: Any) -> ValidationRow:
    """The root mean square of the differences, not known where there are no points; `unit` is that of the loads."""
    worst = max(points, key=lambda point: abs(point.difference or 0.0), default=None)
    span = (
        f"{unit} {points[0].load:g} to {points[-1].load:g}, worst {worst.difference:+.1%} at {worst.load:g}"
        if worst
        else "no simulated load in range"
    )
    rms = float(np.sqrt(np.mean([(point.difference or 0.0) ** 2 for point in points]))) if points else None
    what = f"{what}: rms of relative differences ({span})"
    return ValidationRow.judged(what, rms, limit, policy=policy, simulated=None, published=None, unit="fraction", n=len(points), **more)


def sweep_rows(scenario: Scenario, check: SweepCheck, points: Sequence[ValidationPoint]) -> list[ValidationRow]:
    """The errors of each policy, and the crossings."""
    base, *others = check.systems.values()
    what = f"{check.metric} over {base} against {scenario.known.published[check.table].label}"
    mine = {policy: [point for point in points if point.policy == policy] for policy in others}
    rows = [rms_row(what, policy, "concurrency", own) for policy, own in mine.items() if own]
    fixed = [name for system, name in check.systems.items() if name != base and system != check.adaptive]
    crossings: list[_Crossing] = [("speculation stops paying", "best of all", others, [], first_fall)]
    crossings += [(f"{policy} stops paying", policy, [policy], [], first_fall) for policy in fixed]
    if check.adaptive is not None:
        adaptive = check.systems[check.adaptive]
        crossings = [
            (f"{adaptive} overtakes the best of the others", adaptive, [adaptive], fixed, first_at_least),
            (f"{adaptive} no longer ahead of the best of the others", adaptive, [adaptive], fixed, first_fall),
            *crossings,
        ]
    return rows + [_crossing(check, points, *crossing) for crossing in crossings]


def first_at_least(ratio: Sequence[float]) -> int:
    """The first place where a ratio reaches 1; their number where it never does."""
    return next((i for i, value in enumerate(ratio) if value >= 1), len(ratio))


def first_fall(ratio: Sequence[float]) -> int:
    """The first place where a ratio that was above 1 is so no longer, or the very first where it never was; their number where it stays above."""
    above = next((i for i, value in enumerate(ratio) if value > 1), None)
    if above is None:
        return 0
    return next((i for i in range(above, len(ratio)) if ratio[i] <= 1), len(ratio))


def _crossing(
    check: SweepCheck, points: Sequence[ValidationPoint], what: str, policy: str, above: list[str], below: list[str], place: _Place
) -> ValidationRow:
    """A crossing in the published grid, simulated and published, and how many steps they lie apart; None is beyond the grid."""
    simulated, published = (_ratio(points, side, above, below) for side in ("simulated", "published"))
    here, there = (place(list(ratio.values())) for ratio in (simulated, published))
    at, steps, n = [*simulated, None], abs(here - there), len(simulated)
    return ValidationRow.judged(
        f"{what}, from concurrency", steps, check.limit_steps, policy=policy, simulated=at[here], published=at[there], unit="concurrency", n=n
    )


def _ratio(points: Sequence[ValidationPoint], side: str, above: list[str], below: list[str]) -> dict[float, float]:
    """The best gain of `above` over the best of `below` (nothing: ordinary decoding, 1) at every concurrency that all have."""
    ratio = {}
    for load in sorted({p.load for p in points if not isinstance(p.load, str)}):
        gains = {p.policy: getattr(p, side) for p in points if p.load == load}
        if gains.keys() >= {*above, *below}:
            ratio[load] = max(gains[name] for name in above) / max((gains[name] for name in below), default=1.0)
    return ratio


def _cells(table: pd.DataFrame, system: str, y: str) -> dict[float, float]:
    """Concurrency → value of one policy of the table, rising; empty cells are left out."""
    mine = table[table["policy"] == system].dropna(subset=[y]).sort_values("concurrency")
    return {float(load): float(value) for load, value in zip(mine["concurrency"], mine[y], strict=True)}


def mean(rows: Sequence[PointRow], policy: str, load: float, metric: str) -> float | None:
    """A metric of a policy at a load over the replications in which it is known."""
    values = [number for r in rows if r.policy == policy and r.load == load and (number := r[metric]) is not None]
    return float(np.mean(values)) if values else None

"""A published sweep of concurrency under several policies against a simulated one: gains cell by cell, and where curves cross."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulator.errors import ScenarioError
from simulator.study.run.checks import CurveCheck, SweepCheck
from simulator.study.run.result import PointRow, ValidationPoint, ValidationRow
from simulator.study.run.scenario import Scenario

if TYPE_CHECKING:
    import pandas as pd


def check_sweep(scenario: Scenario, check: SweepCheck, table: pd.DataFrame, key: str) -> None:
    """The table holds what the check names, and every published cell is simulated. Raises ScenarioError."""
    where = scenario.file
    for column in ("policy", "concurrency", check.y):
        if column not in table:
            remedy = f"columns: {', '.join(map(str, table.columns))}"
            raise ScenarioError(f"table '{check.table}' has no column '{column}'", where=where, key=f"{key}.table", remedy=remedy)
    there = list(dict.fromkeys(map(str, table["policy"])))
    for system in (*check.systems, *([check.adaptive] if check.adaptive else [])):
        if system not in there:
            raise ScenarioError(f"table '{check.table}' has no policy '{system}'", where=where, key=key, remedy=f"policies there: {', '.join(there)}")
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


def sweep_points(scenario: Scenario, rows: Sequence[PointRow], check: SweepCheck, table: pd.DataFrame) -> list[ValidationPoint]:
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
            points.append(cell(check, policy, f"{check.metric} over {base_policy}", load, simulated / plain, value / reference[load], fitted))
    return points


def cell(check: CurveCheck | SweepCheck, policy: str, metric: str, load: float, simulated: float, published: float, fitted: bool) -> ValidationPoint:
    """A simulated number beside the published one, and their relative difference."""
    return ValidationPoint(
        policy=policy,
        metric=metric,
        load=load,
        table=check.table,
        simulated=simulated,
        published=published,
        difference=simulated / published - 1,
        fitted=fitted,
    )


def root_mean_square(points: Sequence[ValidationPoint]) -> float | None:
    """Of the differences, None where there are no points."""
    return float(np.sqrt(np.mean([(point.difference or 0.0) ** 2 for point in points]))) if points else None


def sweep_rows(scenario: Scenario, check: SweepCheck, points: Sequence[ValidationPoint]) -> list[ValidationRow]:
    """The errors of each policy, and the crossings."""
    about = scenario.known.published[check.table]
    base, *others = check.systems.values()
    rows = []
    for policy in others:
        mine = [p for p in points if p.policy == policy]
        if not mine:
            continue
        worst = max(mine, key=lambda p: abs(p.difference or 0.0))
        span = f"concurrency {mine[0].load:g} to {mine[-1].load:g}, worst {worst.difference:+.1%} at {worst.load:g}"
        rows.append(
            ValidationRow(
                what=f"{check.metric} over {base} against {about.label}: rms of relative differences ({span})",
                policy=policy,
                simulated=None,
                published=None,
                difference=root_mean_square(mine),
                unit="fraction",
                n=len(mine),
                limit=None,
                ok=None,
            )
        )
    fixed = [name for system, name in check.systems.items() if name != base and system != check.adaptive]
    if check.adaptive is not None:
        adaptive = check.systems[check.adaptive]
        ratios = [_ratio(points, side, [adaptive], fixed) for side in ("simulated", "published")]
        rows.append(_crossing(check, f"{adaptive} overtakes the best of the others, from concurrency", adaptive, ratios, first_at_least))
        rows.append(_crossing(check, f"{adaptive} no longer ahead of the best of the others, from concurrency", adaptive, ratios, first_fall))
    ratios = [_ratio(points, side, others, []) for side in ("simulated", "published")]
    rows.append(_crossing(check, "speculation stops paying, from concurrency", "best of all", ratios, first_fall))
    for policy in fixed:
        ratios = [_ratio(points, side, [policy], []) for side in ("simulated", "published")]
        rows.append(_crossing(check, f"{policy} stops paying, from concurrency", policy, ratios, first_fall))
    return rows


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
    check: SweepCheck, what: str, policy: str, ratios: Sequence[dict[float, float]], place: Callable[[Sequence[float]], int]
) -> ValidationRow:
    """A crossing in the published grid, simulated and published, and how many steps they lie apart; None is beyond the grid."""
    simulated, published = ratios
    grid = sorted(set(simulated) & set(published))
    here, there = (place([ratio[load] for load in grid]) for ratio in ratios)
    at = [*grid, None]
    steps = abs(here - there)
    return ValidationRow(
        what=what,
        policy=policy,
        simulated=at[here],
        published=at[there],
        difference=steps,
        unit="concurrency",
        n=len(grid),
        limit=check.limit_steps,
        ok=None if check.limit_steps is None else steps <= check.limit_steps,
    )


def _ratio(points: Sequence[ValidationPoint], side: str, above: Iterable[str], below: Iterable[str]) -> dict[float, float]:
    """The best gain of `above` over the best of `below` (nothing: ordinary decoding, 1) at every concurrency that all have."""
    best: list[dict[float, float]] = []
    for names in (list(above), list(below)):
        loads = sorted({p.load for p in points if not isinstance(p.load, str)})
        cells = {load: [getattr(p, side) for p in points if p.load == load and p.policy in names] for load in loads}
        best.append({load: max(values) if names else 1.0 for load, values in cells.items() if len(values) == len(names)})
    return {load: best[0][load] / best[1][load] for load in best[0] if load in best[1]}


def _cells(table: pd.DataFrame, system: str, y: str) -> dict[float, float]:
    """Concurrency → value of one policy of the table, rising; empty cells are left out."""
    mine = table[table["policy"] == system].dropna(subset=[y]).sort_values("concurrency")
    return {float(load): float(value) for load, value in zip(mine["concurrency"], mine[y], strict=True)}


def mean(rows: Sequence[PointRow], policy: str, load: float, metric: str) -> float | None:
    """A metric of a policy at a load over the replications in which it is known."""
    values = [number for r in rows if r.policy == policy and r.load == load and (number := r[metric]) is not None]
    return float(np.mean(values)) if values else None

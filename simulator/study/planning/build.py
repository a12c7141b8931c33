"""What the searches found, as the result of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from simulator.errors import ScenarioError
from simulator.study.planning.day import Day, autoscaled
from simulator.study.planning.finding import CellResult, Search, WhatIf
from simulator.study.planning.judge import judge, keeps, margins, prediction
from simulator.study.planning.promises import at_promise, cost_per_mtok, promises
from simulator.study.planning.question import Plan
from simulator.study.planning.result import (
    METRICS,
    ChangeResult,
    ChoiceResult,
    DayResult,
    FleetResult,
    LoadFacts,
    LossResult,
    OfferedProfile,
    PairedGain,
    PlanFacts,
    PlanResult,
    SmallerFleet,
    ThreeWays,
)
from simulator.study.planning.sure import Sure
from simulator.study.planning.telling import answer_lines, conditions, warnings
from simulator.study.planning.token_prices import token_prices
from simulator.study.planning.trial import TrialRow
from simulator.study.run.build import shown_file, worst
from simulator.study.run.classes import together
from simulator.study.run.facts import sources
from simulator.study.run.pareto import estimate, gain
from simulator.study.run.wording import count, share


def best_cell(plan: Plan, cells: Mapping[int, CellResult]) -> int:
    """The cheapest planned cell; of equally cheap ones that which carries most. Raises with the best attainable promise where there is none."""
    planned = [f for f in cells.values() if f.outcome == "planned" and f.replicas is not None]
    if not planned:
        raise _no_plan(plan, cells)
    return min(planned, key=lambda f: (_dollars_per_hour(plan, f), -(f.carried_load or 0.0), f.cell)).cell


def _no_plan(plan: Plan, cells: Mapping[int, CellResult]) -> ScenarioError:
    """Why nothing keeps the promise, and the nearest one that could be kept."""
    sla = plan.question.sla
    if all(f.outcome == "unattainable" for f in cells.values()):
        fastest = max(cells.values(), key=lambda f: min(min(margins(r, sla)) for r in f.alone))
        slow = min(fastest.alone, key=lambda r: min(margins(r, sla)))
        attained = [f"{slow.speed or 0:.3g} tok/s for {share(sla.speed.share)} of users"] if sla.speed else []
        attained += [f"first token within {slow.ttft:.3g} s for {share(sla.ttft.share)}"] if sla.ttft and slow.ttft is not None else []
        attained += [
            f"{share(sla.class_share)} of class {name} within {used:.3g} times its limits" for name, used in slow.limits_used.items() if used
        ]
        broken = next((name for name, used in slow.limits_used.items() if used is None or used > 1), "")
        gets = ", ".join(attained) or "no first token"
        problem = f"no fleet meets the SLA: a request alone on a replica of {plan.label(fastest.cell)}, the fastest choice, gets {gets}"
        key = "sla.speed.tps" if (slow.speed or 0) < sla.tps else f"workload.classes.{broken}.sla" if broken else "sla.ttft.seconds"
        return ScenarioError(problem, where=plan.file, key=key, remedy="relax the SLA, or add a faster profile or policy")
    most = plan.question.fleet.max_replicas
    nearest = max(cells.values(), key=lambda f: f.carried_load or 0.0)
    carries = f"; {plan.label(nearest.cell)} carries most, {(nearest.carried_load or 0) * plan.shape.unit_rps:.3g}" if nearest.carried_load else ""
    problem = f"{count(most, 'replica')} cannot meet the SLA at {plan.question.peak_load_rps:g} requests per second under any policy{carries}"
    return ScenarioError(problem, where=plan.file, key="fleet.max_replicas", remedy="raise it, relax the SLA or lower the load")


def _dollars_per_hour(plan: Plan, cell: CellResult) -> float:
    assert cell.replicas is not None
    return plan.choices[cell.cell].gpus(cell.replicas) * plan.choices[cell.cell].gpu_hour


def build(plan: Plan, search: Search, sure: Sure | None = None) -> PlanResult:
    """The result of a plan; with prediction intervals where it is asked how `sure` it is."""
    from importlib.metadata import version

    question = plan.question
    day, ticks = _day(plan, search), promises(plan, search)
    result = PlanResult(
        dsim_version=version("dsim"),
        kind="plan",
        plan=PlanFacts.of(
            question,
            file=shown_file(question._file, "scenarios/plans"),
            seed=question.run.seed,
            overrides=question._overrides,
            content=question._content,
        ),
        sla=question.sla,
        price=question.price,
        load=LoadFacts(
            mean_rps=question.peak_load_rps,
            peak_rps=search.peak_rps,
            mean_prompt_tokens=plan.shape.mean_prompt,
            mean_output_tokens=plan.shape.mean_output,
            told=plan.shape.told,
            trace=trace.words(plan.folder) if (trace := question.workload.trace) else "",
        ),
        profiles=tuple(_profile(plan, number) for number in range(len(question.profiles))),
        cells=tuple(_cell(plan, search.cells[n], sure) for n in sorted(search.cells)),
        best=search.best,
        promises=tuple(ticks),
        by_promise=tuple(at_promise(plan, search, tps) for tps in ticks),
        day=_day_result(plan, search, day) if day else None,
        what_if=tuple(_change(plan, search, what_if) for what_if in search.what_ifs),
        gains=tuple(search.pairs),
        break_even=tuple(search.break_even),
        conditions=tuple(conditions(plan, search.peak_rps)),
        trials=search.trials,
        prediction=sure.facts() if sure else None,
    )
    result = result.model_copy(update={"warnings": tuple(warnings(plan, search, result))})
    return result.model_copy(update={"answer": tuple(answer_lines(plan, result))})


def _cell(plan: Plan, cell: CellResult, sure: Sure | None) -> ChoiceResult:
    """One cell with its points."""
    choice, bought = plan.choices[cell.cell], cell.replicas if cell.outcome == "planned" else None
    hourly = None if bought is None else choice.gpus(bought) * choice.gpu_hour
    carried = cell.carried_load if bought is not None else None
    lost = cell.known.rows.get((bought, plan.load, "loss")) if bought is not None else None
    at_peak = cell.known.peak(plan.load).get(cell.needed or 0, [])
    return ChoiceResult(
        cell=cell.cell,
        label=plan.label(cell.cell),
        profile=choice.scenario.known.name,
        policy=choice.policy,
        setting=choice.setting,
        verification=choice.scenario.policies[0].verification.model_dump(mode="json"),
        bound=plan.bound(cell.cell),
        outcome=cell.outcome,
        alone_tps=min((r.speed for r in cell.alone if r.speed is not None), default=None),
        fluid_bound=cell.fluid if np.isfinite(cell.fluid) else None,
        replicas_needed=cell.needed,
        replicas=cell.replicas,
        gpus=None if bought is None else choice.gpus(bought),
        cost_per_hour=hourly,
        cost_per_mtok=None if hourly is None else cost_per_mtok(plan, hourly),
        carried_rps=None if carried is None else carried * plan.shape.unit_rps,
        headroom=None if carried is None else carried / plan.load - 1,
        points=tuple(_fleet(plan, cell, n, rows) for n, rows in cell.known.peak(plan.load).items()),
        fewer=_fewer(plan, cell),
        loss=LossResult(**{name: estimate([r[name] for r in lost]) for name in LossResult.model_fields}) if lost else None,
        sure=sure.of(cell.cell) if sure else None,
        prices=None if hourly is None else token_prices(plan, cell.cell, hourly, at_peak),
        sessions_per_gpu=_sessions_per_gpu(at_peak, choice.gpus(bought)) if bought is not None else None,
    )


def _sessions_per_gpu(rows: Sequence[TrialRow], gpus: float) -> float | None:
    """Sessions under way at the peak, by the GPUs that are bought."""
    told = [sessions for row in rows if (sessions := row["sessions"]) is not None]
    return float(np.mean(told)) / gpus if told else None


def _fleet(plan: Plan, cell: CellResult, replicas: int, rows: Sequence[TrialRow]) -> FleetResult:
    choice = plan.choices[cell.cell]
    speeds = [r.speed for r in rows if r.speed is not None]
    return FleetResult(
        replicas=replicas,
        gpus=choice.gpus(replicas),
        rps_per_replica=plan.question.peak_load_rps / replicas,
        cost_per_mtok=cost_per_mtok(plan, choice.gpus(replicas) * choice.gpu_hour),
        n=len(rows),
        kept=judge(rows, plan.question.sla),
        verdict=worst([r.verdict for r in rows]),
        sure_speed=prediction(speeds)[0] if len(speeds) == len(rows) > 1 else None,
        metrics={name: estimate([r[name] for r in rows]) for name in METRICS},
        **({"classes": together([r.classes for r in rows])} if rows and all(r.classes for r in rows) else {}),
    )


def _fewer(plan: Plan, cell: CellResult) -> SmallerFleet | None:
    """The fleet with one replica less than needed, where that may be had: how many of its replications keep the promise."""
    if cell.needed is None or cell.needed <= plan.question.fleet.min_replicas:
        return None
    rows = cell.known.peak(plan.load).get(cell.needed - 1, [])
    return SmallerFleet(replicas=cell.needed - 1, n=len(rows), kept=sum(keeps(r, plan.question.sla) for r in rows)) if rows else None


def _day(plan: Plan, search: Search) -> Day | None:
    best = search.cells[search.best]
    if not search.carries or best.replicas is None:
        return None
    shape, fleet = plan.shape, plan.question.fleet
    return autoscaled(
        shape.curve_s, shape.curve_rps, shape.span_s, _carries_rps(plan, search), best.replicas, fleet.min_replicas, best.spare, fleet.start_up_s
    )


def _carries_rps(plan: Plan, search: Search) -> dict[int, float]:
    """By replicas, the highest rate of the curve that they carry through its peak. The busiest window of a trace is often shorter than the stretches
    of its curve and busier than the mean of any, so there the load that is planned for stands for the highest of these."""
    peak_rps = search.peak_rps if plan.shape.trace_rps is None else plan.shape.peak_rps
    return {n: load * peak_rps / plan.load for n, load in sorted(search.carries.items())}


def _day_result(plan: Plan, search: Search, day: Day) -> DayResult:
    choice = plan.choices[search.best]
    pool_hours = choice.scenario.prefill_gpus * plan.shape.span_s / 3600  # GPU-hours of prefill workers, which run all the time
    million = plan.shape.tokens_per_s * plan.shape.span_s / 1e6
    hours = {"fixed": day.fixed_hours, "forecast": day.paid_hours, "reactive": day.reactive_hours}
    slots = {name: getattr(day, name).tolist() for name in ("rate_rps", "needed", "paid", "reactive")}
    return DayResult.of(
        day,
        **slots,
        cell=search.best,
        span_s=plan.shape.span_s,
        start_up_s=plan.question.fleet.start_up_s,
        carries_rps={str(n): rps for n, rps in _carries_rps(plan, search).items()},
        replica_hours=ThreeWays(**hours),
        cost_per_mtok=ThreeWays(**{way: (each * choice.gpus_per_replica + pool_hours) * choice.gpu_hour / million for way, each in hours.items()}),
        reactive_short_share=day.short_share,
    )


def _change(plan: Plan, search: Search, what_if: WhatIf) -> ChangeResult:
    """A change: replicas then, and how the promised speed moves when the fleet stays; paired by replication."""
    best = search.cells[search.best]
    assert best.needed is not None
    pairs = list(zip(what_if.rows, best.known.peak(plan.load)[best.needed], strict=False))
    replicas = None if what_if.needed is None else what_if.needed + best.spare
    return ChangeResult.of(
        what_if.change,
        replicas=replicas,
        gpus=None if replicas is None else plan.choices[search.best].gpus(replicas),
        speed=estimate([moved.speed for moved, _ in pairs]),
        speed_change=estimate([gain(moved.speed, base.speed) for moved, base in pairs]),
        ttft=estimate([moved.ttft for moved, _ in pairs]),
        keeps_unchanged=judge(what_if.rows, plan.question.sla) == "kept",
        overloads=any(moved.verdict == "overloaded" for moved in what_if.rows),
    )


def _profile(plan: Plan, number: int) -> OfferedProfile:
    known = next(c.scenario.known for c in plan.choices if c.profile == number)
    price = plan.question.profiles[number].gpu_hour or plan.question.price.gpu_hour
    return OfferedProfile.of(known, gpu_hour=price, provenance=sources(known))


def paired_gain(plan: Plan, scheduled: int, rows: Mapping[int, Sequence[TrialRow]], replicas: int) -> PairedGain | None:
    """The promised speed under a scheduled policy against the best fixed one, same fleet and random draws; distinguishable where the
    interval leaves zero out."""
    fixed = [c for c in rows if c != scheduled]
    if not fixed:
        return None
    best = max(fixed, key=lambda c: float(np.mean([r.speed or 0.0 for r in rows[c]])))
    ratios = [gain(a.speed, b.speed) for a, b in zip(rows[scheduled], rows[best], strict=True) if a.speed and b.speed]
    if not ratios:
        return None
    gained = estimate(ratios)
    return PairedGain(
        scheduled=scheduled,
        fixed=best,
        replicas=replicas,
        gain=gained,
        n=len(ratios),
        distinguishable=gained is not None and gained.low is not None and gained.high is not None and (gained.low > 0 or gained.high < 0),
        worst_margin=min(min(margins(r, plan.question.sla)) for r in rows[scheduled]),
    )

"""What was found, as the one dictionary that result.json holds and every report of a plan is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulator.errors import ScenarioError
from simulator.study.planning.day import Day, autoscaled
from simulator.study.planning.finding import Findings, Found, Moved
from simulator.study.planning.judge import judge, keeps, margins, prediction
from simulator.study.planning.question import Plan
from simulator.study.planning.telling import answer_lines, conditions, percent, warnings
from simulator.study.planning.trial import Row
from simulator.study.run import pareto
from simulator.study.run.result import UNKNOWN

TICKS = 12  # promises on the page's slider
METRICS = (
    "speed", "ttft", "throughput_tok_s_gpu", "accepted_length", "verification_budget", "waste_fraction", "concurrency_mean", "waiting_mean",
    "busy_fraction", "preemptions", "unfinished", "speed_kept", "ttft_kept", "requests",
)  # fmt: skip


def estimate(values: Sequence[float | None]) -> Mapping[str, float | None]:
    """As result.json holds it."""
    known = pareto.estimate(values)
    return known.to_json() if known else UNKNOWN


def best_cell(plan: Plan, cells: Mapping[int, Found]) -> int:
    """The cheapest planned cell; of equally cheap ones that which carries most. Raises with the best attainable promise where there is none."""
    planned = [f for f in cells.values() if f.outcome == "planned" and f.replicas is not None]
    if not planned:
        raise _no_plan(plan, cells)
    return min(planned, key=lambda f: (_dollars_per_hour(plan, f), -(f.carried_load or 0.0), f.cell)).cell


def _no_plan(plan: Plan, cells: Mapping[int, Found]) -> ScenarioError:
    """Why nothing keeps the promise, and the nearest one that could be kept."""
    sla = plan.asked.sla
    if all(f.outcome == "unattainable" for f in cells.values()):
        fastest = max(cells.values(), key=lambda f: min(r["speed"] or 0.0 for r in f.alone))
        slow = min(fastest.alone, key=lambda r: r["speed"] or 0.0)
        attained = f"{slow['speed'] or 0:.3g} tok/s for {percent(sla.speed.share)} of users"
        attained += f", first token within {slow['ttft']:.3g} s for {percent(sla.ttft.share)}" if sla.ttft and slow["ttft"] is not None else ""
        problem = f"no fleet keeps the promise: a request alone on a replica of {plan.label(fastest.cell)}, the best of all, gets {attained}"
        key = "sla.speed.tps" if (slow["speed"] or 0) < sla.speed.tps else "sla.ttft.seconds"
        return ScenarioError(problem, where=plan.file, key=key, remedy="promise less, or offer a faster profile or policy")
    most = plan.asked.fleet.max_replicas
    nearest = max(cells.values(), key=lambda f: f.carried_load or 0.0)
    told = f"; {plan.label(nearest.cell)} carries most, {(nearest.carried_load or 0) * plan.shape.unit_rps:.3g}" if nearest.carried_load else ""
    problem = f"{most} replicas do not keep the promise at {plan.asked.peak_load_rps:g} requests per second under any policy{told}"
    return ScenarioError(problem, where=plan.file, key="fleet.max_replicas", remedy="raise it, promise less, or lower the load")


def _dollars_per_hour(plan: Plan, found: Found) -> float:
    assert found.replicas is not None
    return plan.cells[found.cell].gpus(found.replicas) * plan.cells[found.cell].gpu_hour


def cost_per_mtok(plan: Plan, dollars_per_hour: float) -> float:
    """Per million output tokens, over the whole span: what runs is paid for at night, too."""
    return dollars_per_hour / (plan.shape.tokens_per_s * 3600 / 1e6)


def build(plan: Plan, found: Findings) -> dict[str, Any]:
    """result.json."""
    from importlib.metadata import version

    asked = plan.asked
    cells = [_cell(plan, found.cells[n]) for n in sorted(found.cells)]
    day = _day(plan, found)
    ticks = promises(plan, found)
    result: dict[str, Any] = {
        "dsim_version": version("dsim"),
        "kind": "plan",
        "plan": {
            "name": asked.name,
            "question": asked.question,
            "file": asked._file.name if asked._file.parent.name != "plans" else f"scenarios/plans/{asked._file.name}",
            "seed": asked.run.seed,
            "overrides": asked._overrides,
            "content": asked._content,
        },
        "sla": asked.sla.model_dump(),
        "price": asked.price.model_dump(),
        "load": {
            "mean_rps": asked.peak_load_rps,
            "peak_rps": found.peak_rps,
            "mean_prompt_tokens": plan.shape.mean_prompt,
            "mean_output_tokens": plan.shape.mean_output,
            "told": plan.shape.told,
        },
        "profiles": [_profile(plan, number) for number in range(len(asked.profiles))],
        "cells": cells,
        "best": found.best,
        "promises": ticks,
        "by_promise": [_at_promise(plan, found, tps) for tps in ticks],
        "day": _day_told(plan, found, day) if day else None,
        "what_if": [_moved(plan, found, m) for m in found.moved],
        "gains": found.pairs,
        "break_even": found.break_even,
        "conditions": list(conditions(plan, found.peak_rps)),
        "trials": found.trials,
    }
    result["warnings"] = list(warnings(plan, found, result))
    result["answer"] = list(answer_lines(plan, found, result))
    return result


def _cell(plan: Plan, found: Found) -> dict[str, Any]:
    """One cell with its points."""
    it = plan.cells[found.cell]
    rule = it.scenario.policies[0].verification
    told: dict[str, Any] = {
        "cell": found.cell,
        "label": plan.label(found.cell),
        "profile": it.scenario.known.name,
        "policy": it.policy,
        "setting": it.setting,
        "verification": rule.model_dump(mode="json"),
        "bound": plan.bound(found.cell),
        "outcome": found.outcome,
        "alone_tps": min((r["speed"] or 0.0 for r in found.alone), default=None),
        "fluid_bound": found.fluid if np.isfinite(found.fluid) else None,
        "replicas_needed": found.needed,
        "replicas": found.replicas,
        "gpus": None,
        "cost_per_hour": None,
        "cost_per_mtok": None,
        "carried_rps": None,
        "headroom": None,
        "points": [_point(plan, found, n, rows) for n, rows in found.known.peak(plan.load).items()],
        "fewer": _fewer(plan, found),
        "loss": None,
    }
    if found.outcome == "planned" and found.replicas is not None:
        hourly = _dollars_per_hour(plan, found)
        told |= {"gpus": it.gpus(found.replicas), "cost_per_hour": hourly, "cost_per_mtok": cost_per_mtok(plan, hourly)}
        if found.carried_load is not None:
            told |= {"carried_rps": found.carried_load * plan.shape.unit_rps, "headroom": found.carried_load / plan.load - 1}
        lost = found.known.rows.get((found.replicas, plan.load, "loss"))
        told["loss"] = {name: estimate([r[name] for r in lost]) for name in ("speed", "ttft", "speed_kept")} if lost else None
    return told


def _point(plan: Plan, found: Found, replicas: int, rows: Sequence[Row]) -> dict[str, Any]:
    it = plan.cells[found.cell]
    hourly = it.gpus(replicas) * it.gpu_hour
    verdicts = [r["verdict"] for r in rows]
    speeds = [r["speed"] or 0.0 for r in rows]
    return {
        "replicas": replicas,
        "gpus": it.gpus(replicas),
        "rps_per_replica": plan.asked.peak_load_rps / replicas,
        "cost_per_mtok": cost_per_mtok(plan, hourly),
        "n": len(rows),
        "kept": judge(rows, plan.asked.sla),
        "verdict": next((v for v in ("overloaded", "backlogged") if v in verdicts), "stable"),
        "sure_speed": prediction(speeds)[0] if len(speeds) > 1 else None,
        "metrics": {name: estimate([r[name] for r in rows]) for name in METRICS},
    }


def _fewer(plan: Plan, found: Found) -> dict[str, Any] | None:
    """The fleet with one replica less than needed: how many of its replications keep the promise."""
    if found.needed is None or found.needed <= 1:
        return None
    rows = found.known.peak(plan.load).get(found.needed - 1, [])
    return {"replicas": found.needed - 1, "n": len(rows), "kept": sum(keeps(r, plan.asked.sla) for r in rows)} if rows else None


def promises(plan: Plan, found: Findings) -> list[float]:
    """Speeds on the slider: those asked for, that of the SLA, and round ones over what the simulated fleets reach."""
    given = set(plan.asked.promises) | {plan.asked.sla.speed.tps}
    if not plan.asked.promises:
        sure = [p for f in found.cells.values() for rows in f.known.peak(plan.load).values() for r in rows if (p := r["speed"] or 0) > 0]
        if sure:
            low, high = min(*sure, plan.asked.sla.speed.tps), max(*sure, plan.asked.sla.speed.tps)
            given |= {_round(v) for v in np.geomspace(max(low, 1.0), high, TICKS)}
    return sorted(given)


def _round(value: float) -> float:
    """To two significant digits."""
    scale = 10 ** (int(np.floor(np.log10(value))) - 1)
    return float(f"{round(value / scale) * scale:.6g}")


def _at_promise(plan: Plan, found: Findings, tps: float) -> dict[str, Any]:
    """What every cell needs at another promised speed, from the simulated fleets alone: `exact` where the next smaller one fails as well."""
    asked = tps == plan.asked.sla.speed.tps
    rows = [_needs(plan, found.cells[number], tps, asked) for number in sorted(found.cells)]
    possible = [r for r in rows if r["replicas"] is not None and not plan.bound(r["cell"])]
    cheapest = min(possible, key=lambda r: (r["cost_per_mtok"], -(r["speed"] or 0)), default=None)
    if asked:
        cheapest = rows[found.best]
    return {"tps": tps, "cells": rows, "best": cheapest["cell"] if cheapest else None}


def _needs(plan: Plan, found: Found, tps: float, asked: bool) -> dict[str, Any]:
    """One cell at a promised speed; at the one asked for, what its search found."""
    sla = plan.asked.sla.model_copy(update={"speed": plan.asked.sla.speed.model_copy(update={"tps": tps})})
    points = {n: r for n, r in found.known.peak(plan.load).items() if len(r) > 1}
    needed = found.needed if asked else _stays_kept(sorted(points), {n for n, r in points.items() if judge(r, sla) == "kept"})
    row: dict[str, Any] = {
        "cell": found.cell,
        "replicas": None,
        "gpus": None,
        "cost_per_mtok": None,
        "throughput": None,
        "speed": None,
        "exact": False,
    }
    if needed is None or (asked and found.replicas is None):
        return row
    replicas = (found.replicas if asked else None) or needed + int(plan.asked.fleet.survive_loss)
    it = plan.cells[found.cell]
    exact = asked or needed == plan.asked.fleet.min_replicas or (needed - 1 in points and judge(points[needed - 1], sla) != "kept")
    means = {
        name: estimate([r[metric] for r in points[needed]])["mean"] for name, metric in (("throughput", "throughput_tok_s_gpu"), ("speed", "speed"))
    }
    gpus = it.gpus(replicas)
    return row | {"replicas": replicas, "gpus": gpus, "cost_per_mtok": cost_per_mtok(plan, gpus * it.gpu_hour), "exact": exact} | means


def _stays_kept(sizes: Sequence[int], kept: set[int]) -> int | None:
    """The least size from which on all larger simulated ones keep."""
    least = None
    for n in reversed(sizes):
        if n not in kept:
            break
        least = n
    return least


def _day(plan: Plan, found: Findings) -> Day | None:
    best = found.cells[found.best]
    if not found.carries or best.replicas is None:
        return None
    shape, fleet = plan.shape, plan.asked.fleet
    per_load = found.peak_rps / plan.load  # requests per second in the busiest window, by load
    carries = {n: load * per_load for n, load in found.carries.items()}
    return autoscaled(
        shape.curve_s, shape.curve_rps, shape.span_s, carries, best.replicas, fleet.min_replicas, int(fleet.survive_loss), fleet.start_up_s
    )


def _day_told(plan: Plan, found: Findings, day: Day) -> dict[str, Any]:
    it = plan.cells[found.best]
    gpus_each = it.gpus(1)
    million = plan.shape.tokens_per_s * plan.shape.span_s / 1e6

    def cost(hours: float) -> float:
        return hours * gpus_each * it.gpu_hour / million

    return {
        "cell": found.best,
        "span_s": plan.shape.span_s,
        "slot_s": day.slot_s,
        "rate_rps": day.rate_rps.tolist(),
        "needed": day.needed.tolist(),
        "paid": day.paid.tolist(),
        "reactive": day.reactive.tolist(),
        "fixed": day.fixed,
        "start_up_s": plan.asked.fleet.start_up_s,
        "carries_rps": {str(n): load * found.peak_rps / plan.load for n, load in sorted(found.carries.items())},
        "replica_hours": {"fixed": day.fixed_hours, "forecast": day.paid_hours, "reactive": day.reactive_hours},
        "cost_per_mtok": {"fixed": cost(day.fixed_hours), "forecast": cost(day.paid_hours), "reactive": cost(day.reactive_hours)},
        "reactive_short_share": day.short_share,
    }


def _moved(plan: Plan, found: Findings, moved: Moved) -> dict[str, Any]:
    """A change: replicas then, and how the promised speed moves when the fleet stays; paired by replication."""
    best = found.cells[found.best]
    assert best.needed is not None
    base = best.known.peak(plan.load)[best.needed]
    pairs = list(zip(moved.rows, base, strict=False))
    spare = int(plan.asked.fleet.survive_loss)
    replicas = None if moved.needed is None else moved.needed + spare
    it = plan.cells[found.best]
    return {
        "name": moved.change.name,
        "label": moved.change.label,
        "pair": moved.change.pair,
        "replicas": replicas,
        "gpus": None if replicas is None else it.gpus(replicas),
        "speed": estimate([m["speed"] for m, _ in pairs]),
        "speed_change": estimate([m["speed"] / b["speed"] - 1 if m["speed"] is not None and b["speed"] else None for m, b in pairs]),
        "ttft": estimate([m["ttft"] for m, _ in pairs]),
        "keeps_unchanged": judge(moved.rows, plan.asked.sla) == "kept",
        "overloads": any(m["verdict"] == "overloaded" for m in moved.rows),
    }


def _profile(plan: Plan, number: int) -> dict[str, Any]:
    known = next(c.scenario.known for c in plan.cells if c.profile == number)
    return {
        "name": known.name,
        "hardware": known.hardware,
        "engine": known.engine,
        "target": known.target,
        "gpus_per_replica": known.gpus_per_replica,
        "gpu_hour": plan.asked.profiles[number].gpu_hour or plan.asked.price.gpu_hour,
        "provenance": known.provenance(),
        "assumed": known.assumed,
        "not_identifiable": known.not_identifiable,
        "notes": known.notes,
    }


def paired_gain(plan: Plan, scheduled: int, rows: Mapping[int, Sequence[Row]], replicas: int) -> dict[str, Any] | None:
    """The promised speed under a scheduled policy against the best fixed one, same fleet and luck; the interval says whether it is luck."""
    fixed = [c for c in rows if c != scheduled]
    if not fixed:
        return None
    best = max(fixed, key=lambda c: float(np.mean([r["speed"] or 0.0 for r in rows[c]])))
    ratios = [a["speed"] / b["speed"] - 1 for a, b in zip(rows[scheduled], rows[best], strict=True) if a["speed"] and b["speed"]]
    gain = estimate(ratios)
    clear = gain["low"] is not None and gain["high"] is not None and (gain["low"] > 0 or gain["high"] < 0)
    return {
        "scheduled": scheduled,
        "fixed": best,
        "replicas": replicas,
        "gain": gain,
        "n": len(ratios),
        "distinguishable": clear,
        "worst_margin": min(min(margins(r, plan.asked.sla)) for r in rows[scheduled]),
    }

"""Acceptance that telemetry cannot show directly: two numbers of a parametric drafter, fitted with the scheduler in the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.engine.replica import ReplicaSettings
from simulator.engine.simulate import ClosedTraffic, Fleet, simulate
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, LinearDraft, RoundCost
from simulator.measurements.fit import rms
from simulator.measurements.replay import lay_out
from simulator.policies.prefill import Instant
from simulator.policies.routing import RoundRobin
from simulator.policies.verification import ConfidenceScheduled
from simulator.rng import stream, uniform_at
from simulator.study.run.meter import summarise
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.lengths import Fixed
from simulator.traffic.workload import Workload

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScheduledPoint:
    """An operating point under confidence-scheduled verification: what telemetry shows of it."""

    concurrency: int
    tps_per_user: float
    budget: float


@dataclass(frozen=True)
class AcceptanceFit:
    """The fitted drafter and the relative residuals at the points."""

    acceptance: ParametricAcceptance
    speed_rms: float
    budget_rms: float
    evaluations: int


def fit_acceptance(
    points: Sequence[ScheduledPoint],
    costs: Costs,
    draft: LinearDraft,
    shape: ParametricAcceptance,
    domains: dict[str, float],
    progress: Callable[[str], None] = lambda _: None,
) -> AcceptanceFit:
    """`level_shift` and `spread` of `shape` under which the simulated scheduler shows the given speeds and budgets.

    A published speed may be the mean over requests or tokens over users' time (= throughput ÷ concurrency); where requests differ the
    first is higher. Both readings are residuals, so the fit favours neither. Same seeds at every trial, so the misfit is nearly
    smooth; Nelder and Mead's simplex needs no gradient.
    """
    from scipy.optimize import minimize

    tried = 0

    def misfit(x: Floats) -> float:
        nonlocal tried
        tried += 1
        speed, budget = scheduled_residuals(points, costs, draft, _with(shape, x), domains)
        progress(f"trial {tried}: level {x[0]:+.3f}, spread {x[1]:.3f}: speed {rms(speed):.2%}, budget {rms(budget):.2%} rms")
        return float(np.mean(np.square(speed)) + np.mean(np.square(budget)))

    start = np.array([shape.level_shift, shape.spread])
    simplex = start + np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]])
    options: Any = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 5e-6, "maxfev": 80}
    found = minimize(misfit, start, method="Nelder-Mead", bounds=[(-4.0, 4.0), (0.0, 6.0)], options=options)
    best = shape.model_copy(update={"level_shift": round(float(found.x[0]), 3), "spread": round(float(found.x[1]), 3)})
    speed, budget = scheduled_residuals(points, costs, draft, _with(shape, found.x), domains)
    return AcceptanceFit(best, rms(speed), rms(budget), tried)


def scheduled_residuals(
    points: Sequence[ScheduledPoint], costs: Costs, draft: LinearDraft, acceptance: ParametricAcceptance, domains: dict[str, float]
) -> tuple[Floats, Floats]:
    """Relative differences of simulated from given speed (both readings) [2, points] and budget [points]; calibrated confidences, lag 2."""
    replay = lay_out(acceptance.generate("trial"), None, False, 0, 0)
    prices = RoundCost(costs, draft, acceptance.gamma, acceptance.gamma)
    workload = Workload(arrivals=ClosedLoop(), prompt_tokens=Fixed(tokens=1), output_tokens=Fixed(tokens=600), domains=domains)
    speed, budget = np.empty((2, len(points))), np.empty(len(points))
    for i, point in enumerate(points):
        users = point.concurrency
        settings = ReplicaSettings(max_batch=users, prefill=Instant())
        fleet = Fleet(1, settings, ConfidenceScheduled(), replay, prices, prices, RoundRobin(), None, 16, stream(0, "routing"))
        traffic = ClosedTraffic(users, workload.closed_loop(users, 0, 0), max(2, 400 // users), uniform_at(0, "residual", 0, np.arange(users)))
        found = summarise(simulate(traffic, fleet), 1.0, 1, False, False)
        speed[:, i] = found.known("tps_per_user_mean") / point.tps_per_user - 1, found.known("tps_per_user_overall") / point.tps_per_user - 1
        budget[i] = found.known("verification_budget") / point.budget - 1
    return speed, budget


def _with(shape: ParametricAcceptance, x: Floats) -> ParametricAcceptance:
    """`shape` with trial values, confidences calibrated as after sequential temperature scaling."""
    return shape.model_copy(update={"level_shift": float(x[0]), "spread": float(x[1]), "miscalibration": [1.0] * shape.gamma})

"""Acceptance from telemetry, which shows it indirectly: two parameters of a parametric drafter, fitted with the scheduler in the loop.

Run on recorded blocks, it says how they vary along texts and between them, and fits the generator's variation to that, domain by domain:
python profiles/fit_acceptance.py profiles/cpu-smollm2-135m/blocks-dspark.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.acceptance import ParametricAcceptance, Variation
from simulator.measurements.cost import Costs, LinearDraft
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import rms
from simulator.measurements.prices import RoundCost
from simulator.measurements.replay import lay_out
from simulator.measurements.spread import fit_variation, like, spread_of
from simulator.policies.verification import ConfidenceScheduled
from simulator.study.profiles.one_replica import closed_loop


@dataclass(frozen=True)
class ScheduledPoint:
    """An operating point under confidence-scheduled verification: users, tok/s per user, verified tokens per request and step."""

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
    """`level_shift` and `spread` of `shape` such that the simulated scheduler has the speeds and budgets of the points.

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
    result = minimize(misfit, start, method="Nelder-Mead", bounds=[(-4.0, 4.0), (0.0, 6.0)], options=options)
    best = shape.model_copy(update={"level_shift": round(float(result.x[0]), 3), "spread": round(float(result.x[1]), 3)})
    speed, budget = scheduled_residuals(points, costs, draft, _with(shape, result.x), domains)
    return AcceptanceFit(best, rms(speed), rms(budget), tried)


def scheduled_residuals(
    points: Sequence[ScheduledPoint], costs: Costs, draft: LinearDraft, acceptance: ParametricAcceptance, domains: dict[str, float]
) -> tuple[Floats, Floats]:
    """Relative differences of simulated from published speed (both readings) [2, points] and budget [points]; calibrated confidences, lag 2."""
    replay = lay_out(acceptance.generate("trial"), None, False, 0, 0)
    prices = RoundCost(costs, draft, acceptance.gamma, acceptance.gamma)
    speed, budget = np.empty((2, len(points))), np.empty(len(points))
    for i, point in enumerate(points):
        users = point.concurrency
        metrics = closed_loop(users, max(2, 400 // users), 600, ConfidenceScheduled(), replay, prices, domains)
        speed[:, i] = metrics.known("tps_per_user_mean") / point.tps_per_user - 1, metrics.known("tps_per_user_overall") / point.tps_per_user - 1
        budget[i] = metrics.known("verification_budget") / point.budget - 1
    return speed, budget


def _with(shape: ParametricAcceptance, x: Floats) -> ParametricAcceptance:
    """`shape` with trial values, confidences calibrated as after sequential temperature scaling."""
    return shape.model_copy(update={"level_shift": float(x[0]), "spread": float(x[1]), "miscalibration": [1.0] * shape.gamma})


def main() -> None:
    """Recorded blocks against synthetic ones: by the generator's defaults, and as fitted (another seed than the fit's)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", type=Path)
    parser.add_argument("--domain", action="append", help="only these")
    options = parser.parse_args()
    blocks = RecordedBlocks.load(options.blocks)
    for domain in options.domain or blocks.domains:
        recorded = spread_of(blocks, domain)
        fitted = fit_variation(blocks, domain)
        print(f"{domain}: {recorded.tokens} tokens in {recorded.rounds:.1f} rounds, cv {recorded.variation:.3f}; {_said(fitted)}")
        for name, variation in {"defaults": Variation(), "fitted": fitted}.items():
            found = spread_of(like(blocks, domain, variation, seed=1), domain, recorded.tokens)
            print(f"  {name}: " + ", ".join(f"{what} {value:+.1%}" for what, value in recorded.apart(found).items()))


def _said(variation: Variation) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in variation.model_dump().items())


if __name__ == "__main__":
    main()

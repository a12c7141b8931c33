"""Sequential temperature scaling of confidences, and how well it predicts prefix survival (DSpark paper, §3.2.1 and Figure 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import ProfileError
from simulator.measurements.draft_blocks import RecordedBlocks

BINS = 20
_COLDEST, _HOTTEST = 0.1, 10.0  # temperatures searched


@dataclass(frozen=True)
class Reliability:
    """One point per bin that holds predictions (paper, Figure 6)."""

    predicted: Floats  # [bins], mean prediction
    observed: Floats  # [bins], share of outcomes
    rows: Integers  # [bins]


@dataclass(frozen=True)
class CalibrationReport:
    """How predicted prefix survival a_k compares with A ≥ k, per position, each [γ]."""

    error: Floats  # expected calibration error, 0 … 1
    auroc: Floats
    brier: Floats
    reliability: list[Reliability]


@dataclass(frozen=True)
class Calibration:
    """Temperatures fitted on one half of the texts, and the calibration of raw and scaled confidences on the other half.

    Scaling keeps the order of confidences at a position, so `conditional_auroc` is that of both. `auroc` in the reports ranks by products of
    confidences: their order is kept at the first position and nearly kept at the others.
    """

    temperatures: list[float]  # [γ]
    before: CalibrationReport
    after: CalibrationReport
    conditional_auroc: Floats  # [γ], of c_k for A ≥ k among the rows with A ≥ k - 1


def halves(blocks: RecordedBlocks) -> tuple[Integers, Integers]:
    """Rows to fit on, and rows to judge on: sequences alternate, sorted by domain."""
    order = np.argsort(blocks.sequence_domain, kind="stable")
    fit = np.zeros(len(order), dtype=np.bool_)
    fit[order[::2]] = True
    of_row = fit[blocks.sequence_of_row]
    return np.flatnonzero(of_row), np.flatnonzero(~of_row)


def calibrate(blocks: RecordedBlocks, bins: int = BINS) -> Calibration:
    """Fit on one half of the sequences and judge on the other. Raises ProfileError for fewer than two sequences, or without confidences."""
    raw = blocks.conditional()
    fit, judged = halves(blocks)
    if not len(judged):
        raise ProfileError(f"calibration of drafter '{blocks.drafter}' needs at least two sequences, got 1", remedy="record more texts")
    temperatures = fit_temperatures(raw[fit], blocks.accepted[fit], bins)
    accepted, scaled = blocks.accepted[judged], blocks.conditional(temperatures)[judged]
    before, after = (calibration_report(np.asarray(np.cumprod(confidence, axis=1)), accepted, bins) for confidence in (raw[judged], scaled))
    return Calibration(temperatures, before, after, conditional_auroc(scaled, accepted))


def fit_temperatures(confidence: Floats, accepted: Integers, bins: int = BINS) -> list[float]:
    """Sequential temperature scaling: for k = 1 … γ the t_k minimising the ECE of Π_{j≤k} σ(logit(c_j)/t_j), those before k frozen.

    `confidence` [N, γ] raw, `accepted` [N]: rows that the result is not judged on. A position that no temperature improves keeps 1.
    """
    if len(confidence) != len(accepted) or not len(accepted):
        raise ProfileError(f"calibration needs one outcome per row ({len(confidence)} rows, {len(accepted)} outcomes)", remedy="record again")
    before = np.ones(len(confidence))  # predicted survival up to the slot before
    temperatures: list[float] = []
    for k in range(1, confidence.shape[1] + 1):
        outcome = accepted >= k
        with np.errstate(divide="ignore"):  # 0 beyond what is proposed
            odds = 1 / confidence[:, k - 1] - 1

        def loss(t: float, before: Floats = before, odds: Floats = odds, outcome: Flags = outcome) -> float:
            return expected_calibration_error(_longer(before, odds, t), outcome, bins)

        temperatures.append(_lowest(loss))
        before = _longer(before, odds, temperatures[-1])
    return temperatures


def _longer(survival: Floats, odds: Floats, temperature: float) -> Floats:
    """Survival times σ(logit(c) / t); odds = (1 - c) / c."""
    with np.errstate(over="ignore"):  # a tiny confidence made colder is 0
        return np.asarray(survival / (1 + odds ** (1 / temperature)))


def expected_calibration_error(predicted: Floats, outcome: Flags, bins: int = BINS) -> float:
    """Mean distance of prediction and outcome over equal bins, weighted by rows: 0 … 1."""
    which = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(which, weights=predicted - outcome, minlength=bins)).sum() / len(predicted))


def auroc(predicted: Floats, outcome: Flags) -> float:
    """P(a row with the outcome is ranked above one without), ties count half; NaN unless there are both."""
    from scipy.stats import rankdata

    positives = int(outcome.sum())
    negatives = len(outcome) - positives
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(predicted)[outcome].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def conditional_auroc(confidence: Floats, accepted: Integers) -> Floats:
    """AUROC of c_k [N, γ] for A ≥ k among the rows with A ≥ k - 1 where slot k is proposed. # [γ]"""
    reached = [(accepted >= k - 1) & (confidence[:, k - 1] > 0) for k in range(1, confidence.shape[1] + 1)]
    return np.array([auroc(confidence[rows, k - 1], accepted[rows] >= k) for k, rows in enumerate(reached, 1)])


def brier(predicted: Floats, outcome: Flags) -> float:
    """Mean squared distance of prediction and outcome."""
    return float(np.mean((predicted - outcome) ** 2))


def reliability_curve(predicted: Floats, outcome: Flags, bins: int = BINS) -> Reliability:
    """Mean prediction and observed share in each of the equal bins that hold any rows."""
    which = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    rows = np.bincount(which, minlength=bins)
    used = rows > 0
    mean_predicted, mean_observed = (np.bincount(which, weights=values, minlength=bins)[used] / rows[used] for values in (predicted, outcome))
    return Reliability(mean_predicted, mean_observed, rows[used])


def calibration_report(survival: Floats, accepted: Integers, bins: int = BINS) -> CalibrationReport:
    """ECE, AUROC, Brier score and reliability of predicted prefix survival [N, γ] at every position."""
    positions = [(survival[:, k - 1], accepted >= k) for k in range(1, survival.shape[1] + 1)]
    error = np.array([expected_calibration_error(*position, bins) for position in positions])
    curves = [reliability_curve(*position, bins) for position in positions]
    return CalibrationReport(error, np.array([auroc(*p) for p in positions]), np.array([brier(*p) for p in positions]), curves)


def _lowest(loss: Callable[[float], float], points: int = 33, rounds: int = 3) -> float:
    """The minimiser in [_COLDEST, _HOTTEST] of a piecewise loss, 1 if none is better: logarithmic grids, refined around the best point."""
    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    for _ in range(rounds):
        grid = np.linspace(low, high, points)
        best = float(grid[np.argmin([loss(float(np.exp(x))) for x in grid])])
        width = grid[1] - grid[0]
        low, high = max(best - 2 * width, np.log(_COLDEST)), min(best + 2 * width, np.log(_HOTTEST))
        points = 17
    temperature = float(np.exp(best))
    return temperature if loss(temperature) < loss(1.0) else 1.0

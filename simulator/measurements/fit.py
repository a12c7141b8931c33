"""Fit a step-cost curve to telemetry (DSpark paper, Figures 7 and 8; docs/fit.md)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.arrays import Floats
from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.cost import FittedCurve
from simulator.quantities import TINY, spoken
from simulator.reading.csv_files import numbers, place_of_row, read_csv
from simulator.schema import validate

COLUMNS = ("concurrency", "tps_per_user", "throughput_tok_s_gpu")
OF_LENGTHS = ("use", "accepted_length", "budget")  # columns beside k or policy
MOST_POINTS = 50_000
USERS, SPEED = (1e-3, 1e6), (1e-3, 1e6)  # requests in flight per replica, tokens per second of one
MOST_STEP_S = 1000.0
MISSES = 0.10  # rms of residuals above which points do not belong to one engine, or it is no such engine


@dataclass(frozen=True)
class Telemetry:
    """Operating points of one policy: requests in flight per replica, and the speed each user saw."""

    concurrency: Floats  # [n]
    tps_per_user: Floats  # [n] tokens per second


@dataclass(frozen=True)
class CostFit:
    """A fitted curve and how well it fits: fitted ÷ measured - 1 of every step time, whose squares are least."""

    curve: FittedCurve
    differences: Floats  # [n]
    plain_rms: float  # of a + b B alone, fitted likewise, to show how much the other parts improve

    @property
    def points(self) -> int:
        return len(self.differences)

    @property
    def rms(self) -> float:
        return rms(self.differences)

    @property
    def worst(self) -> float:
        return float(np.abs(self.differences).max())


def read_telemetry(path: Path, gpus_per_replica: float = 1.0) -> Telemetry:
    """A CSV with at least two of concurrency (per replica), tps_per_user, throughput_tok_s_gpu; throughput × GPUs = R × speed.

    Raises DsimError with file, line and column.
    """
    rows = read_csv(path)
    if (column := next((name for name in OF_LENGTHS if name in rows), None)) is not None:
        raise DsimError("is for points that say what was drafted", where=path, key=column, remedy="add a column k, or take this one out")
    present = [c for c in COLUMNS if c in rows]
    for column in map(str, rows.columns):
        near = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.6)
        if column not in COLUMNS and near and near[0] not in rows:
            raise DsimError(f"unknown column {shown(column)}", where=path, remedy=f"did you mean '{near[0]}'?")
    if len(present) < 2:
        remedy = f"columns found: {', '.join(str(name)[:40] for name in rows.columns[:20])}"
        raise DsimError(f"needs two of the columns {', '.join(COLUMNS)}", where=path, remedy=remedy)
    if len(rows) > MOST_POINTS:
        raise DsimError(f"expected at most {MOST_POINTS:,} operating points, got {len(rows):,}", where=path, remedy="give means over longer times")
    for column in present:
        rows[column] = numbers(rows, column, path)
    if "throughput_tok_s_gpu" not in present:
        rows["throughput_tok_s_gpu"] = rows["tps_per_user"] * rows["concurrency"] / gpus_per_replica
    throughput = rows["throughput_tok_s_gpu"] * gpus_per_replica
    speed = rows["tps_per_user"] if "tps_per_user" in present else throughput / rows["concurrency"]
    users = rows["concurrency"] if "concurrency" in present else throughput / speed
    if len(present) == 3:
        off = (throughput / (users * speed) - 1).abs()
        if (off > 0.1).any():
            row = int(off.to_numpy().argmax())
            gap = f"throughput is {off.iloc[row]:.0%} away from concurrency × speed"
            remedy = "use the concurrency in flight (not offered) per replica, or leave one column out"
            raise DsimError(gap, where=place_of_row(path, row), remedy=remedy)
    for column, values, (least, most) in (("concurrency", users, USERS), ("tps_per_user", speed, SPEED)):
        wrong = ~((values >= least) & (values <= most)).to_numpy()
        if wrong.any():
            row = int(wrong.argmax())
            problem = f"expected {spoken(least)} to {spoken(most)}, got {values.iloc[row]:g}"
            raise DsimError(problem, where=place_of_row(path, row), key=column, remedy="check the units, and --gpus-per-replica")
    return Telemetry(users.to_numpy(dtype=np.float64), speed.to_numpy(dtype=np.float64))


def fit_cost(
    telemetry: Telemetry, accepted_length: float, budget: float, cliffs: Sequence[int] = (), draft_s_per_request: float = 0.0, source: str = ""
) -> CostFit:
    """T(B) = a + b B + c (1 - exp(-B / d)) + cliffs from T = τ / speed at B = budget × concurrency, by least squares on relative residuals.

    Telemetry shows only τ / T, so every time scales with the assumed τ. `draft_s_per_request` is subtracted before the fit.
    Raises DsimError when there are too few points for a fit.
    """
    from scipy.optimize import least_squares, nnls

    tokens = telemetry.concurrency * budget
    time = accepted_length / telemetry.tps_per_user - draft_s_per_request * telemetry.concurrency
    if len(tokens) < 2 or tokens.max() < 1.5 * tokens.min():
        raise DsimError("too few operating points to fit a step cost", remedy="give at least two whose concurrency differs by half")
    if time.max() > MOST_STEP_S:
        raise DsimError(f"a step would take {time.max():g} s, expected at most {MOST_STEP_S:g} s", key="tps_per_user", remedy="check the units")
    if (time <= 0).any():
        raise DsimError("drafting would take longer than the whole step", key="draft cost", remedy="assume a smaller draft cost")
    edges = sorted(c for c in cliffs if tokens.min() < c < tokens.max())
    concave = len(tokens) >= 6 + len(edges)

    def misfit(x: Floats) -> Floats:
        return model(x) / time - 1

    def model(x: Floats) -> Floats:
        steps = sum((x[4 + i] * (tokens > edge) for i, edge in enumerate(edges)), np.zeros(len(tokens)))
        return np.asarray(x[0] + x[1] * tokens - x[2] * np.expm1(-tokens / x[3]) + steps)

    slope, base = np.polyfit(tokens, time, 1)
    scale = float(np.median(tokens))
    start = np.array([max(base, time.min() / 2), max(slope, 1e-9), time.min() / 5, scale / 5, *([0.0] * len(edges))])
    upper = np.array([np.inf, np.inf, np.inf if concave else 1e-15, 4 * scale, *([np.inf] * len(edges))])
    lower = np.array([0, 0, 0, min(max(tokens.min() / 4, 1.0), scale), *([0.0] * len(edges))])
    start = np.clip(start, lower + 1e-16, upper * (1 - 1e-9))
    size = np.array([time.mean(), time.mean() / scale, time.mean(), scale, *([time.mean()] * len(edges))])
    solution = least_squares(misfit, start, bounds=(lower, upper), x_scale=size, max_nfev=1000, ftol=1e-12, xtol=1e-12)
    (base, slope), missed = nnls(np.stack([1 / time, tokens / scale / time], axis=1), np.ones(len(time)))
    line = np.array([base, slope / scale, 0.0, start[3], *([0.0] * len(edges))])
    best = min(solution.x, line, key=lambda x: rms(misfit(x)))
    a, b, c, d, *jumps = (float(v) for v in best)
    differences = misfit(best)
    note = f"fitted to {len(tokens)} operating points, {rms(differences):.2%} rms; assumed accepted length {accepted_length:g}, budget {budget:g}"
    content = {
        "provenance": "fitted",
        "source": source,
        "note": note,
        "base_s": _round(a),
        "per_token_s": _round(b),
        "concave_s": _round(c) if concave else 0.0,
        "concave_tokens": _round(d) if concave else 1.0,
        "cliffs": [{"tokens": edge, "add_s": _round(jump)} for edge, jump in zip(edges, jumps, strict=True)],
        "measured_tokens": (_round(float(tokens.min())), _round(float(tokens.max()))),
    }
    curve = validate(FittedCurve, content, "the fitted step cost", DsimError)
    return CostFit(curve, differences, float(missed) / len(time) ** 0.5)


def check_misses(missed: float, worst: str, astray: str = "", remedy: str = "") -> None:
    """Raises DsimError where a fit misses its points by too much (rms), or its steps are `astray`."""
    if missed > MISSES or astray:
        raise DsimError(f"no step cost fits these points: {missed:.0%} rms, {worst}{astray}", remedy=remedy)


def rms(residual: Floats) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(residual))))


def _round(value: float) -> float:
    """Five significant digits: more than a fit can claim."""
    return float(f"{value:.5g}") if abs(value) >= TINY else 0.0

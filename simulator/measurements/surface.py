"""One joint fit of step costs, drafting, scheduling, prompts and acceptance to operating points of one target under several lengths (docs/fit.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.errors import DsimError
from simulator.measurements import surface_priors as priors
from simulator.measurements.cost import Costs
from simulator.measurements.fit import check_misses
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.marginals import UNKNOWN_ROUNDS, logit, pooled
from simulator.measurements.surface_model import Acceptance, Model, Rows, rows_of
from simulator.measurements.surface_parts import DrafterFit, costs_of, drafter_of, uncertainty_of, untold
from simulator.measurements.surface_priors import DraftKind
from simulator.measurements.uncertainty import Uncertainty

STRAYS = 0.5  # rms of steps against a smooth curve, from which it is no engine: those of CPUs stray by a quarter, between the sizes of their kernels
NOISE = 0.03  # least relative sd of a speed: single runs of others differ by as much
TTFT_SD = 0.1  # of the logarithm of a TTFT outside of what the model allows; where a prompt is alone it is a prefill time, as exact as a speed
OUTLIER = 2.0  # standard deviations beyond which a point pulls less and less
COUNTED_SD = 0.05  # logits of acceptance between counters and the traffic that speeds were measured on


@dataclass(frozen=True)
class PointFit:
    """A point's speed per user as measured and as fitted. `used`: it went into the fit."""

    point: LoadPoint
    drafter: str
    measured: float
    predicted: float
    used: bool = True

    @property
    def difference(self) -> float:
        """Predicted ÷ measured - 1."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class SurfaceFit:
    """What operating points say together. `noise` is the relative sd of a speed as it was taken or found; `rms` and `worst` are of the residuals."""

    costs: Costs
    drafters: dict[str, DrafterFit]
    scheduling_s: float
    uncertainty: Uncertainty
    points: list[PointFit]
    noise: float
    assumed: list[str]
    unknown: list[str]
    _model: Model
    _z: Floats
    _cov: Floats

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean([point.difference**2 for point in self.points])))

    @property
    def worst(self) -> float:
        return max(abs(point.difference) for point in self.points)

    @property
    def strays(self) -> float:
        """By what part measured steps stray from a smooth curve, rms."""
        return self._model.strays(self._z)

    @property
    def astray(self) -> str:
        """What there is to say where steps stray by more than those of one engine do."""
        return f"; steps stray by {self.strays:.0%} from a smooth curve" if self.strays > STRAYS else ""

    def check(self) -> None:
        """Raises DsimError where the fit misses its points: they are not of one engine under one setting, or it is no such engine."""
        worst = max(self.points, key=lambda point: abs(point.difference))
        remedy = "give points of one server, or say its graph limit"
        check_misses(self.rms, f"{worst.point.source} by {worst.difference:+.0%}", self.astray, remedy)

    def with_scheduling(self, points: Sequence[LoadPoint], drafters: Sequence[str]) -> SurfaceFit:
        """The fit with a cost of scheduling from adaptive points whose lengths were simulated: they say nothing of the rest."""
        from scipy.optimize import least_squares

        model, rows = replace(self._model, scheduled=True), rows_of(points, drafters)
        place = model.names.index("scheduling")
        z, cov = np.insert(self._z, place, 0.0), np.insert(np.insert(self._cov, place, 0.0, axis=0), place, 0.0, axis=1)
        speed, step = np.log([point.tps_per_user for point in points]), 1e-4

        def of(values: Floats) -> Floats:
            return np.asarray(np.log(model.speed(values, rows)))

        slopes = np.array([(of(z + step * e) - of(z - step * e)) / (2 * step) for e in np.eye(len(z))]).T  # [points, unknowns]
        sd = np.sqrt(self.noise**2 + np.einsum("ij,jk,ik->i", slopes, cov, slopes))
        one = np.eye(len(z))[place]

        def misfit(x: Floats) -> Floats:
            return np.concatenate(((of(z + one * x) - speed) / sd, x))

        z = z + one * least_squares(misfit, np.zeros(1)).x
        own = (of(z + step * one) - of(z - step * one)) / (2 * step) / sd**2
        variance = 1 / (1 + float(own @ (own * sd**2)))
        follows = -variance * own @ slopes * (1 - one)  # how it moves with the others
        cov[place], cov[:, place] = follows @ cov, follows @ cov
        cov[place, place] = variance + follows @ cov @ follows
        known = _result(model, z, cov, self.costs.verify.source, self.costs.verify.note, self.uncertainty.points + len(points))
        fit = replace(self, **known)
        return replace(fit, points=[*fit.points, *(replace(point, used=True) for point in fit.predict(points, drafters))])

    def waits(self, points: Sequence[LoadPoint], drafters: Sequence[str], told: Sequence[tuple[float, float, float] | None]) -> Floats:
        """What simulated times to the first token consist of, [n, 3]: steps of prompts alone, tokens of prompts, and the time of rounds in rounds as
        the fit has them; NaN where nothing was simulated."""
        round_s = self._model.round_s(self._z, rows_of(points, drafters))
        waits = np.array([(np.nan,) * 3 if each is None else each for each in told])
        waits[:, 2] /= round_s
        return waits

    def predict(self, points: Sequence[LoadPoint], drafters: Sequence[str]) -> list[PointFit]:
        """Points that were kept out of the fit; their speeds are only compared with."""
        rows = rows_of(points, drafters)
        speeds = self._model.speed(self._z, rows)
        return [PointFit(p, d, p.tps_per_user, float(s), used=False) for p, d, s in zip(points, drafters, speeds, strict=True)]


def fit_surface(
    points: Sequence[LoadPoint],
    drafters: Sequence[str] | None = None,
    *,
    kinds: Mapping[str, DraftKind] | None = None,
    shape: Mapping[str, Sequence[float]] | None = None,
    slots: int = 0,
    graph_limit: float | None = None,
    also: Sequence[str] = (),
    by_tokens: bool = False,
    waits: Floats | None = None,
    shared: bool = False,
    ahead: bool = False,
    source: str = "",
) -> SurfaceFit:
    """Step costs, drafting, scheduling, prompts and acceptance that fit all points at once, by maximum a posteriori with weak priors.

    `drafters` names each point's drafter ("" without speculation; default: one, "drafter", wherever a point drafts), `kinds` how they draft, where
    that is known. `shape` is by drafter the conditional acceptance by position that is known from elsewhere: its level is fitted where nothing was
    counted. A drafter's block has at least `slots` tokens: positions that no point tells of accept as the last known one. Steps of more than
    `graph_limit` tokens leave captured graphs. `also` are drafters that no point has: what is known of others stands for them.
    `by_tokens`: the caller books on tokens what requests cost, so that a prompt's token costs about as much as both.
    `waits` [n, 3]: as `SurfaceFit.waits` has it. `shared`: requests share one cache, and every token of a step goes through all of it, so that steps
    grow with tokens × cached tokens; needs lengths of prompts and answers. `ahead`: the engine drafts at the end of a step, prompts' included.
    Raises DsimError where the points cannot carry a fit.
    """
    if not points:
        raise DsimError("there are no operating points", remedy="give at least two")
    names = list(drafters) if drafters is not None else ["drafter" if _drafts(point) else "" for point in points]
    rows = rows_of(points, names, waits)
    if rows.tokens.max() < 1.5 * rows.tokens.min():
        raise DsimError("too few operating points to fit a step cost", remedy="give at least two whose tokens in a step differ by half")
    model = _model(points, rows, also, kinds or {}, shape or {}, slots, graph_limit, by_tokens, shared, ahead)
    speed = np.log([point.tps_per_user for point in points])
    z, cov, noise = _solve(model, rows, speed)
    fitted = model.speed(z, rows)
    residuals = [PointFit(p, d, p.tps_per_user, float(s)) for p, d, s in zip(points, names, fitted, strict=True)]
    note = f"fitted to {len(points)} operating points, {np.sqrt(np.mean(np.square(fitted / np.exp(speed) - 1))):.2%} rms"
    known = _result(model, z, cov, source, note, sum(map(bool, names)))
    return SurfaceFit(**known, points=residuals, noise=noise, assumed=_assumed(model, rows))


def _result(model: Model, z: Floats, cov: Floats, source: str, note: str, drafting: int) -> dict[str, Any]:
    """What unknowns say of a profile."""
    uncertainty = uncertainty_of(model, z, cov, drafting)
    return {
        "costs": costs_of(model, z, source, note),
        "drafters": {name: drafter_of(model, z, name, source) for name in model.acceptance},
        "scheduling_s": model.scheduling_s(z) if model.scheduled else 0.0,
        "uncertainty": uncertainty,
        "unknown": untold(model, uncertainty),
        "_model": model,
        "_z": z,
        "_cov": cov,
    }


def _assumed(model: Model, rows: Rows) -> list[str]:
    """What the fit takes for granted."""
    said = []
    if model.shared:
        said.append(
            "one cache for all requests: a step costs more by its tokens × all cached tokens; jumps of kernels that attend in tiles are not told"
        )
    how: dict[DraftKind, str] = {"chain": "token after token", "block": "whole blocks at once"}
    said += [f"{name} drafts {how[known.kind]}, as it was told or as its name says" for name, known in model.acceptance.items() if known.kind in how]
    if not model.prompts:
        said.append("prompts are within the step cost, for not every point says how long prompts and answers are: take them as instant")
    if model.limit is not None and not (rows.tokens > model.limit).any():
        said.append(
            f"steps of more than {model.limit:g} tokens leave captured graphs and cost as much again as in other systems: no point is as large"
        )
    return said


def _drafts(point: LoadPoint) -> bool:
    return bool(point.slots) or (point.slots is None and (point.budget or 1) > 1)


def _model(
    points: Sequence[LoadPoint],
    rows: Rows,
    also: Sequence[str],
    kinds: Mapping[str, DraftKind],
    shape: Mapping[str, Sequence[float]],
    slots: int,
    limit: float | None,
    by_tokens: bool,
    shared: bool,
    ahead: bool,
) -> Model:
    plain = np.array([not name for name in rows.drafter])
    knots, inside = _knots(rows.requests[plain], rows)
    octaves = np.log2(knots[1:] / knots[:-1])
    walk = np.where(np.arange(1, len(knots)) < inside, priors.WALK, priors.WALK_BEYOND) * np.sqrt(octaves)
    lengths = np.where(np.isnan(rows.tau), 2.0, rows.tau)
    first = int(np.argmin(rows.tokens))
    base = float(lengths[first] / points[first].tps_per_user)
    prompts = not (np.isnan(rows.prompt) | np.isnan(rows.output)).any()
    found = {name: _acceptance(points, rows, name, shape.get(name), slots) for name in dict.fromkeys([*rows.drafter, *also]) if name}
    acceptance = {name: replace(known, kind=kinds.get(name, "unknown"), ahead=ahead) for name, known in found.items()}
    measured = (float(rows.tokens.min()), float(rows.tokens.max()))
    return Model(knots, inside, measured, base, acceptance, limit, prompts, bool(rows.adaptive.any()), by_tokens, walk, shared and prompts)


def _knots(plain: Floats, rows: Rows) -> tuple[Floats, int]:
    """Where the curve may bend: at batches that were measured without speculation, at every doubling between, and beyond; how many of them are not
    beyond."""
    most = float(rows.tokens.max()) * priors.BEYOND
    start = plain if len(plain) else rows.requests
    at = [float(np.min(start))]
    for x in sorted(set(start.tolist())):
        while x > at[-1] * 2.2:
            at.append(at[-1] * 2 if x > at[-1] * 4.4 else float(np.sqrt(at[-1] * x)))
        if x > at[-1] * 1.3:
            at.append(x)
    inside = len(at)
    while at[-1] < most:
        at.append(at[-1] * 2)
    return np.array(at), inside


def _acceptance(points: Sequence[LoadPoint], rows: Rows, name: str, shape: Sequence[float] | None, slots: int) -> Acceptance:
    """Conditional acceptance pooled over points by their rounds; where nothing was counted, the shape that is given, else a flat one."""
    mine = [i for i, drafter in enumerate(rows.drafter) if drafter == name]
    gamma = max(slots, len(shape or ()), *(int(rows.slots[i]) for i in mine), 1)
    fixed = [i for i in mine if not points[i].adaptive] or mine
    told = [(survival, (points[i].rounds or UNKNOWN_ROUNDS) * float(rows.proposing[i])) for i in fixed if (survival := points[i].survival)]
    share = float(np.mean(rows.proposing[mine])) if mine else 1.0
    if any(rounds for _, rounds in told):
        reached, kept = pooled(told, gamma)
        conditional = np.clip(kept / np.maximum(reached, 1e-9), 1e-4, 1 - 1e-4)
        known = reached > 0
        conditional[~known] = conditional[known][-1]
        return Acceptance(logit(conditional), COUNTED_SD, COUNTED_SD, True, share)
    if shape is not None:
        given = np.array([*shape, *[shape[-1]] * gamma])[:gamma]
        return Acceptance(logit(np.clip(given, 1e-4, 1 - 1e-4)), priors.SHAPE_LEVEL, priors.SHAPE_TILT, False, share)
    place = np.linspace(-0.5, 0.5, gamma) if gamma > 1 else np.zeros(1)
    return Acceptance(float(logit(np.array(priors.LEVEL[0]))) + priors.TILT[0] * place, priors.LEVEL[1], priors.TILT[1], False, share)


def _solve(model: Model, rows: Rows, speed: Floats) -> tuple[Floats, Floats, float]:
    """The most probable unknowns (in prior sds), their covariance, and the noise of speeds: at least NOISE, more where residuals say so."""
    from scipy.optimize import least_squares

    timed, ttft = ~np.isnan(rows.ttft) & model.prompts, np.log(np.where(np.isnan(rows.ttft), 1.0, rows.ttft))
    counted = ~np.isnan(rows.tau) & (rows.slots > 0) & (rows.adaptive == 0)
    noise, z = NOISE, np.zeros(len(model.names))
    for _ in range(3):

        def misfit(z: Floats, noise: float = noise) -> Floats:
            parts = [(np.log(model.speed(z, rows)) - speed) / noise, z]
            if timed.any():
                least, most = (np.log(bound) - ttft for bound in model.ttft_s(z, rows))
                sd = np.minimum(np.maximum(rows.users - 1, noise), TTFT_SD)
                parts.append(((np.maximum(least, 0.0) + np.minimum(most, 0.0)) / sd)[timed])
            if counted.any():
                parts.append(np.log(model.length(z, rows) / np.where(counted, rows.tau, 1))[counted] / COUNTED_SD)
            return np.concatenate(parts)

        found = least_squares(misfit, z, loss="soft_l1", f_scale=OUTLIER, max_nfev=100)
        z = found.x
        jacobian = np.asarray(found.jac)
        cov = np.linalg.inv(jacobian.T @ jacobian)
        residual = np.log(model.speed(z, rows)) - speed
        spent = len(z) - float(np.trace(cov))
        left = max(len(residual) - spent, 1.0)
        spread = 1.4826 * float(np.median(np.abs(residual))) * np.sqrt(len(residual) / left)
        if max(NOISE, spread) < noise * 1.1:
            break
        noise = max(NOISE, spread)
    return z, cov, noise

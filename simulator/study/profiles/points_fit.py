"""`dsim fit` of operating points of several lengths: a whole profile with its drafters, and points that were kept out to check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.points import PointFile, conditional_of, read_points
from simulator.measurements.profile import Drafter
from simulator.measurements.surface import PointFit, SurfaceFit, fit_surface
from simulator.measurements.surface_parts import DrafterFit
from simulator.measurements.surface_priors import DraftKind, family_of, kind_of
from simulator.study.profiles.about import DOMAIN, About
from simulator.study.profiles.adaptive import as_scheduled, uncounted

Pair = tuple[LoadPoint, str]  # a point and its drafter, "" without one
Drafters = dict[str, tuple[Drafter, RecordedBlocks]]
SCHEDULED = "adaptive points without a budget verify what the scheduler of the DSpark paper does on these costs"
BY_THROUGHPUT = "speeds are throughput ÷ concurrency: what users wait for a first token is within the step cost"


@dataclass(frozen=True)
class PointsFit:
    """What to fit: points of a CSV; their acceptance by position from elsewhere, how they draft, and where captured graphs end, as far as known."""

    path: Path
    file: PointFile
    shape: Sequence[float] | None = None
    drafting: DraftKind = "unknown"
    graph_limit: int | None = None

    def pairs(self, check: bool) -> list[Pair]:
        """The points for the fit, or those for checking it."""
        return [(p, d) for p, d, kept in zip(self.file.points, self.file.drafters, self.file.checks, strict=True) if kept == check]

    def fitted(self) -> tuple[SurfaceFit, Drafters]:
        """The fit and its drafters; adaptive points that nobody counted tell the cost of scheduling.
        Raises DsimError, also where the fit misses its points."""
        used = self.pairs(check=False)
        told = [(point, drafter) for point, drafter in used if not uncounted(point)]
        try:
            fit, drafters = self._fit(told)
            fit.check()
            if guessed := scheduled([pair for pair in used if uncounted(pair[0])], fit, drafters):
                fit = fit.with_scheduling([point for point, _ in guessed], [drafter for _, drafter in guessed])
        except DsimError as problem:
            raise DsimError(problem.problem, where=self.path, key=problem.key, remedy=problem.remedy) from None
        return fit, drafters

    def _fit(self, pairs: Sequence[Pair]) -> tuple[SurfaceFit, Drafters]:
        points, names = [point for point, _ in pairs], [drafter for _, drafter in pairs]
        drafters = sorted({*names} - {""})
        fit = fit_surface(
            points,
            names,
            kinds=dict.fromkeys(drafters, self.drafting),
            shape=dict.fromkeys(drafters, self.shape) if self.shape else {},
            slots=max(point.slots or 0 for point in self.file.points),
            graph_limit=self.graph_limit,
            source=f"{self.path.name}, {len(pairs)} operating points",
        )
        return fit, {name: fitted_drafter(name, fit.drafters[name], self.drafting, self.path.name) for name in drafters}


def scheduled(pairs: Sequence[Pair], fit: SurfaceFit, drafters: Drafters) -> list[Pair]:
    """The points whose drafter is known, with what the scheduler verifies where nobody counted it."""
    known = [(point, name) for point, name in pairs if name in ("", *drafters)]
    return [(as_scheduled(point, fit.costs, *drafters[name]) if uncounted(point) else point, name) for point, name in known]


def profile_from_points(
    path: Path, about: About, lengths_by_k: Sequence[float] = (), drafting: DraftKind = "unknown", graph_limit: int | None = None
) -> dict[str, Any]:
    """Fits and writes the profile; the fit for people and programs. Raises DsimError."""
    about.check()
    file = read_points(path, about.gpus_per_replica, about.drafter)
    asked = PointsFit(path, file, conditional_of(lengths_by_k) if lengths_by_k else None, drafting, graph_limit)
    fit, drafters = asked.fitted()
    kept = scheduled(asked.pairs(check=True), fit, drafters)
    checks = fit.predict([point for point, _ in kept], [drafter for _, drafter in kept])
    assumed = [*fit.assumed, *(f"acceptance of {name} by position: {_told(fit.drafters[name], asked.shape)}" for name in drafters)]
    if file.by_throughput:
        assumed.append(BY_THROUGHPUT)
    if any(uncounted(point) for point in file.points):
        assumed.append(SCHEDULED)
    profile = about.write(fit.costs, drafters, assumed, fit.unknown, f"Made by dsim fit {path.name}", uncertainty=fit.uncertainty)
    return summary(fit, checks, len(file.points) - len(fit.points) - len(checks), assumed, about.out, list(profile.drafters))


def lengths_of(text: str) -> list[float]:
    """Accepted lengths at k = 1, 2, … of the option. Raises DsimError."""
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise DsimError(f"expected numbers with commas between them, got {shown(text)}", key="--lengths-by-k") from None


def _told(drafter: DrafterFit, shape: Sequence[float] | None) -> str:
    if drafter.counted:
        return "as counted"
    return "the shape of --lengths-by-k, its level from speeds" if shape else "falling slowly as with other drafters, its level from speeds"


def fitted_drafter(name: str, fit: DrafterFit, kind: DraftKind, source: str) -> tuple[Drafter, RecordedBlocks]:
    """A drafter with synthetic blocks that have the fitted acceptance at every position, its confidences as the generator makes them."""
    survival = np.cumsum(np.cumprod(fit.conditional))
    marginals: dict[str, Any] = {"conditional": {DOMAIN: fit.conditional}, "proposing": min(max(fit.proposing, 1e-6), 1.0)}
    if not fit.counted:  # what speeds ask for is the accepted length of a run with each k, not what one run counts by position
        marginals = {"accepted_length": {DOMAIN: (1 + survival).tolist()}}
    shape = ParametricAcceptance(miscalibration=[1.0] * fit.gamma, **marginals)
    blocks = shape.generate(name, "fitted", f"{source}: {'counters' if fit.counted else 'speeds'}")
    note = "marginals fitted; variation along a text and confidences are the parametric generator's defaults"
    family = family_of(name) if kind in ("unknown", kind_of(name)) else "other"
    return Drafter(family=family, gamma=fit.gamma, draft=fit.draft, blocks=f"{name}.parquet", confidence=True, note=note), blocks


def summary(fit: SurfaceFit, checks: Sequence[PointFit], apart: int, assumed: Sequence[str], folder: Path, drafters: list[str]) -> dict[str, Any]:
    """The fit for people and programs."""
    verify, prefill = fit.costs.verify, fit.costs.prefill
    users = [point.point.concurrency for point in fit.points]
    low, high = min(users), max(users)
    one, many = (float(verify.seconds(x, x)) for x in (low, high))
    lines = [
        f"a step without speculation takes {1e3 * one:.2f} ms at {low:g} requests and {1e3 * many:.2f} ms at {high:g}",
        *(f"drafter {name}: {_drafted(drafter, one)}" for name, drafter in fit.drafters.items()),
    ]
    if fit.scheduling_s:
        lines.append(f"scheduling: {1e3 * fit.scheduling_s:.2f} ms a step of adaptive lengths")
    if prefill:
        base_s = prefill.seconds(0)
        lines.append(f"prompts: {1e3 * base_s:.2f} ms + {1e3 * (prefill.seconds(1) - base_s):.4f} ms a token")
    lines += [
        "",
        *_table("fitted", fit.points),
        *(["", *_table("kept out of the fit", checks)] if checks else []),
        *([f"{apart} points were neither fitted nor predicted: their drafter has no others"] if apart else []),
        "",
        *(f"assumed: {sentence}" for sentence in assumed),
        *(f"not told by these points: {sentence}" for sentence in fit.unknown),
        f"profile written to {folder}",
    ]
    data = {"rms": fit.rms, "worst": fit.worst, "noise": fit.noise, "costs": fit.costs.model_dump(mode="json"), "drafters": drafters}
    data |= {"acceptance": {name: drafter.conditional for name, drafter in fit.drafters.items()}}
    data |= {"uncertainty": fit.uncertainty.model_dump(mode="json"), "points": [_row(p) for p in [*fit.points, *checks]]}
    if checks:
        data["checked"] = {"points": len(checks), "median": _median(checks), "worst": max(abs(p.difference) for p in checks)}
    return data | {"assumed": list(assumed), "not_identifiable": fit.unknown, "profile": str(folder), "text": "\n".join(lines)}


def _drafted(drafter: DrafterFit, step_s: float) -> str:
    survival = np.cumprod(drafter.conditional)
    length = 1 + drafter.proposing * float(survival.sum())
    seconds = drafter.draft.seconds(1, 0, drafter.gamma)
    price = f"a block of {drafter.gamma} takes {1e3 * seconds:.2f} ms ({seconds / step_s:.0%} of a step)"
    return f"{price}, survival {' '.join(f'{s:.2f}' for s in survival)}, accepted length {length:.2f}"


def _table(what: str, points: Sequence[PointFit]) -> list[str]:
    """Measured and predicted speed per user, a line each, worst last."""
    head = f"{what}: {len(points)} points, median error {_median(points):.1%}, worst {max(abs(p.difference) for p in points):.1%}"
    width = max(len(p.point.source) for p in points)
    rows = [f"  {p.point.source:<{width}}  measured {p.measured:8.1f}  predicted {p.predicted:8.1f} tok/s  {p.difference:+6.1%}" for p in points]
    return [head, *rows]


def _median(points: Sequence[PointFit]) -> float:
    return float(np.median([abs(p.difference) for p in points]))


def _row(p: PointFit) -> dict[str, Any]:
    names: Mapping[str, Any] = {"point": p.point.source, "drafter": p.drafter, "k": p.point.slots, "concurrency": p.point.concurrency}
    return {**names, "measured": p.measured, "predicted": p.predicted, "difference": p.difference, "use": "fit" if p.used else "check"}

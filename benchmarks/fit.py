"""How well a few operating points predict the rest of two published sweeps. Run: python benchmarks/fit.py

Every number is of cells that were kept out of the fit: speed predicted against published, the median over cells, and over choices of points.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.points import conditional_of, read_points
from simulator.measurements.surface import fit_surface
from simulator.measurements.surface_priors import DraftKind

PROFILES = Path(__file__).parent.parent / "profiles"
LENGTHS_BY_K = [1.84, 2.51, 3.01, 3.36, 3.61, 3.77]  # InferenceX, v4-pro-0813 (profiles/deepseek-v4-pro-0813-b300/published)
CHOICES = 30  # of all choices of points, at random


class Sweep:
    """A published sweep: ordinary decoding, and fixed lengths with one drafter."""

    def __init__(self, folder: str, kind: DraftKind, shape: list[float] | None) -> None:
        points = read_points(PROFILES / folder / "published" / "sweep.csv", 8, "drafter").points
        self.points = [point for point in points if not point.adaptive]
        self.kind, self.shape = kind, shape

    def errors(self, known: Sequence[LoadPoint], asked: Sequence[LoadPoint]) -> list[float]:
        """Of the cells `asked`, from a fit to the points `known`."""
        fit = fit_surface(known, kinds={"drafter": self.kind}, shape={"drafter": self.shape} if self.shape else None, slots=7)
        return [abs(point.difference) for point in fit.predict(asked, ["drafter" if point.slots else "" for point in asked])]

    def from_few(self, points: int) -> list[float]:
        """Median errors of the cells left when so many of speculation are known, for each choice of them."""
        none, drafting = self._parts(self.points)
        return [float(np.median(self.errors([*none, *chosen], [p for p in drafting if p not in chosen]))) for chosen in _choices(drafting, points)]

    def without_a_load(self, points: int | None) -> list[float]:
        """Errors of all cells at each concurrency, from points at the others: all of them, or without speculation and so many with it."""
        found = []
        for users in sorted({round(p.concurrency) for p in self.points}):
            here = [p for p in self.points if round(p.concurrency) == users]
            none, drafting = self._parts([p for p in self.points if p not in here])
            choices = [drafting] if points is None else _choices(drafting, points, 8)
            for chosen in choices:
                found += self.errors([*none, *chosen], here)
        return found

    def _parts(self, points: Sequence[LoadPoint]) -> tuple[list[LoadPoint], list[LoadPoint]]:
        return [p for p in points if not p.slots], [p for p in points if p.slots]


def _choices(points: Sequence[LoadPoint], size: int, most: int = CHOICES) -> list[tuple[LoadPoint, ...]]:
    every = list(itertools.combinations(points, size))
    if len(every) <= most:
        return every
    picked = np.random.default_rng(0).choice(len(every), most, replace=False)
    return [every[i] for i in picked]


def main() -> None:
    print("| sweep | known besides ordinary decoding | choices or cells | median | p10 | p90 |\n|---|---|---|---|---|---|")
    for name, folder, kind, shape, few in (
        ("DeepSeek-V4-Pro, 8 B300", "deepseek-v4-pro-0813-b300", "unknown", conditional_of(LENGTHS_BY_K), (1, 2, 3)),
        ("Qwen3-8B, 8 TPU v7x", "qwen3-8b-tpu-v7x8", "unknown", None, (1, 2)),
    ):
        sweep = Sweep(folder, kind, shape)  # type: ignore[arg-type]
        for points in few:
            _say(name, f"{points} of its points with speculation", sweep.from_few(points))
        for many in (None, *few):
            what = "all points at other concurrencies" if many is None else f"{many} with speculation, none at this concurrency"
            _say(name, what, sweep.without_a_load(many))


def _say(name: str, known: str, errors: Sequence[float]) -> None:
    low, middle, high = np.quantile(errors, [0.1, 0.5, 0.9])
    print(f"| {name} | {known} | {len(errors)} | {middle:.1%} | {low:.1%} | {high:.1%} |", flush=True)


if __name__ == "__main__":
    main()

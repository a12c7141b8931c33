"""Measured cost tables: CSV rows of a key (tokens or requests), optionally requests and context, and p10/p50/p90 seconds with n."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from simulator.arrays import Floats
from simulator.errors import ProfileError
from simulator.quantities import spoken
from simulator.reading.csv_files import numbers, place_of_row, read_csv

if TYPE_CHECKING:
    import pandas as pd

Key = Literal["tokens", "requests", "slots"]
Between = Literal["step", "linear"]
_MOST_CELLS = 1000  # of requests and context
_BOUNDS = {
    "tokens": (1e-3, 1e8, "tokens"),
    "slots": (1e-3, 127, "tokens"),
    "requests": (1e-3, 1e6, "requests"),
    "context_tokens": (0, 1e8, "tokens"),
    "p50_s": (1e-9, 1000, "seconds"),
    "n": (0, 1e15, "steps"),
}  # of the columns: least, if the column is the key or a time, most, and unit


@dataclass(frozen=True)
class Curve:
    """Time against the key at one (requests, context): what was captured in graphs, and eager rows above them."""

    graph_x: Floats
    graph_s: Floats
    eager_x: Floats
    eager_s: Floats

    def seconds(self, x: Floats, between: Between) -> Floats:
        """Below the first row its value; above the last graph the eager rows, or the last segment carried on."""
        if between == "step":
            at = np.minimum(np.searchsorted(self.graph_x, x), len(self.graph_x) - 1)
            inside = self.graph_s[at]
        else:
            inside = np.interp(x, self.graph_x, self.graph_s)
        above = x > self.graph_x[-1]
        if not above.any():
            return inside
        xs, ys = (self.eager_x, self.eager_s) if len(self.eager_x) else (self.graph_x, self.graph_s)
        slope = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]) if len(xs) > 1 else 0.0
        beyond = np.interp(x, xs, ys) + np.maximum(x - xs[-1], 0) * max(slope, 0.0)
        return np.where(above, beyond, inside)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and highest key measured."""
        keys = np.concatenate([self.graph_x, self.eager_x])
        return float(keys.min()), float(keys.max())

    def carried(self, beside: Curve, x: Floats, between: Between) -> Floats:
        """This curve where it was measured; beyond its ends it rises and falls as `beside` does."""
        held = np.clip(x, *self.ends)
        return self.seconds(held, between) + beside.seconds(x, between) - beside.seconds(held, between)


@dataclass(frozen=True)
class CostTable:
    """Curves on the grid requests × contexts (one of each where the table does not vary with them).

    `contexts_between: step` reads the next measured context up, for engines that pad the context; `linear` interpolates.
    """

    requests: Floats
    contexts: Floats
    curves: dict[tuple[float, float], Curve]
    between: Between
    lowest: float
    highest: float
    contexts_between: Between = "linear"
    spread: float | None = None  # p90 over p10 of a cell, in the median, where the table has both

    def seconds(self, x: Floats, requests: float, context_tokens: float) -> Floats:
        """Median seconds at key values `x`, interpolated between the measured requests and contexts, held at their ends."""
        x = np.asarray(x, dtype=np.float64)
        if self.contexts_between == "step":
            context_tokens = float(self.contexts[min(int(np.searchsorted(self.contexts, context_tokens)), len(self.contexts) - 1)])
        total = np.zeros(np.shape(x))
        for c, weight in _bracket(self.contexts, context_tokens):
            total = total + weight * self._at(x, requests, c)
        return total

    def _at(self, x: Floats, requests: float, context: float) -> Floats:
        """At the same key on the curves of the two nearest numbers of requests: exact for T = f(tokens) + g(requests), cliffs in f included."""
        around = [(self.curves[r, context], weight) for r, weight in _bracket(self.requests, requests)]
        if len(around) == 1:
            return around[0][0].seconds(x, self.between)
        (low, low_weight), (high, high_weight) = around
        return low_weight * low.carried(high, x, self.between) + high_weight * high.carried(low, x, self.between)


def _bracket(grid: Floats, at: float) -> list[tuple[float, float]]:
    """The grid points around `at` that have a weight, with it."""
    i = int(np.searchsorted(grid, at))
    if i == 0 or i == len(grid) or grid[i] == at:
        return [(float(grid[min(i, len(grid) - 1)]), 1.0)]
    weight = float((at - grid[i - 1]) / (grid[i] - grid[i - 1]))
    return [(float(grid[i - 1]), 1.0 - weight), (float(grid[i]), weight)]


def read_cost_table(path: Path, key: Key, between: Between, contexts_between: Between = "linear") -> CostTable:
    """A table of `key`, p50_s and optionally requests, context_tokens, p10_s, p90_s, n, regime (graph or eager), suspicious.

    Many requests of long contexts may be missing, for they do not fit in memory; that corner is carried on from its neighbours.

    Raises ProfileError with file, line and column: missing columns, non-positive times, disordered quantiles, holes in the grid.
    """
    rows = read_csv(path, (key, "p50_s"), ProfileError, remedy="restore the file, or correct its name in profile.yaml")
    if rows.empty:
        raise ProfileError("has no rows", where=path)
    _check_numbers(rows, path, key)
    requests = rows["requests"].fillna(0.0) if key != "requests" and "requests" in rows else rows[key] * 0.0
    contexts = rows["context_tokens"].fillna(0.0) if "context_tokens" in rows else rows[key] * 0.0
    if "regime" in rows and not (known := rows["regime"].isin(["graph", "eager"])).all():
        row = int((~known).to_numpy().argmax())
        got = rows["regime"].tolist()[row]
        raise ProfileError(f"expected graph or eager, got {got!r}", where=place_of_row(path, row), key="regime")
    eager = rows["regime"].eq("eager") if "regime" in rows else rows[key] < 0
    if eager.all():
        eager = ~eager  # an engine without graphs: one regime
    grid_r, grid_c = np.unique(requests), np.unique(contexts)
    if len(grid_r) * len(grid_c) > _MOST_CELLS:
        problem = f"has {len(grid_r):,} numbers of requests and {len(grid_c):,} contexts, expected at most {_MOST_CELLS:,} pairs of them"
        raise ProfileError(problem, where=path, remedy="leave some out")
    curves = {}
    for r, c in sorted(set(zip(requests, contexts, strict=True))):
        here = (requests == r) & (contexts == c)
        if not (here & ~eager).any():
            raise ProfileError(f"no captured row at requests {r:g}, context {c:g}", where=path, key="regime")
        keys = rows.loc[here, key]
        if len(twice := keys[keys.duplicated()]):
            raise ProfileError(f"{key} {twice.iloc[0]:.15g} appears twice at the same requests and context", where=path, key=key)
        curves[float(r), float(c)] = _curve(rows[here & ~eager], rows[here & eager], key)
    _fill_corner(curves, grid_r, grid_c, path)
    spread = float((rows["p90_s"] / rows["p10_s"]).median()) if {"p10_s", "p90_s"} <= set(rows.columns) else float("nan")
    return CostTable(
        grid_r, grid_c, curves, between, float(rows[key].min()), float(rows[key].max()), contexts_between, spread if spread >= 1 else None
    )


def _fill_corner(curves: dict[tuple[float, float], Curve], requests: Floats, contexts: Floats, path: Path) -> None:
    """Curves for the largest (requests, context) where they are missing: what the longer context adds is taken to grow with the requests."""
    holes = [(i, j) for i, r in enumerate(requests) for j, c in enumerate(contexts) if (float(r), float(c)) not in curves]
    for i, j in holes:
        beyond = [(r, c) for r in requests[i:].tolist() for c in contexts[j:].tolist()]
        if min(i, j) == 0 or any(place in curves for place in beyond):
            problem = f"no rows for requests {requests[i]:g} at context {contexts[j]:g}"
            raise ProfileError(problem, where=path, remedy="measure the missing cells or drop the column")
    for i, j in holes:
        fewer, shorter, r, c = float(requests[i - 1]), float(contexts[j - 1]), float(requests[i]), float(contexts[j])
        long, short = curves[fewer, c], curves[fewer, shorter]
        x = np.asarray(min(long.ends[1], short.ends[1]))
        added = float(long.seconds(x, "linear") - short.seconds(x, "linear"))
        base, more = curves[r, shorter], max(added, 0.0) * r / fewer
        curves[r, c] = replace(base, graph_s=base.graph_s + more, eager_s=base.eager_s + more)


def _curve(graphs: pd.DataFrame, eager: pd.DataFrame, key: str) -> Curve:
    return Curve(*(rows.sort_values(key)[column].to_numpy(dtype=np.float64) for rows in (graphs, eager) for column in (key, "p50_s")))


def _check_numbers(rows: pd.DataFrame, path: Path, key: str) -> None:
    for column in (key, "p50_s", "p10_s", "p90_s", "requests", "context_tokens", "n"):
        if column in rows:
            positive = column.endswith("_s") or column == key
            rows[column] = numbers(rows, column, path, ProfileError, positive, optional=column not in (key, "p50_s"))
            least, most, unit = _BOUNDS["p50_s" if positive and column != key else column]
            wrong = ((rows[column] > most) | (rows[column] < (least if positive else 0.0))).to_numpy()
            if wrong.any():
                row = int(wrong.argmax())
                problem = f"expected {spoken(least)} to {spoken(most)} {unit}, got {rows[column].tolist()[row]:.6g}"
                raise ProfileError(problem, where=place_of_row(path, row), key=column)
    if {"p10_s", "p90_s"} <= set(rows.columns):
        crossed = ((rows["p10_s"] > rows["p50_s"]) | (rows["p50_s"] > rows["p90_s"])).to_numpy()
        if crossed.any():
            where = place_of_row(path, int(crossed.argmax()))
            raise ProfileError("quantiles are out of order (p10 ≤ p50 ≤ p90)", where=where, key="p50_s")

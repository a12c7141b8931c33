"""Measured cost tables: CSV rows of a key (tokens or requests), optionally requests and context, and p10/p50/p90 seconds with n."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.errors import ProfileError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Time against the key at one (requests, context): what was captured in graphs, and eager rows above them."""

    graph_x: Floats
    graph_s: Floats
    eager_x: Floats
    eager_s: Floats

    def seconds(self, x: Floats, between: Literal["step", "linear"]) -> Floats:
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


@dataclass(frozen=True)
class CostTable:
    """Curves on the grid requests × contexts (one of each where the table does not vary with them)."""

    requests: Floats
    contexts: Floats
    curves: dict[tuple[float, float], Curve]
    between: Literal["step", "linear"]
    lowest: float
    highest: float

    def seconds(self, x: Floats, requests: float, context_tokens: float) -> Floats:
        """Median seconds at key values `x`, interpolated between the measured requests and contexts, held at their ends."""
        total = np.zeros(np.shape(x))
        for r, request_weight in _bracket(self.requests, requests):
            for c, context_weight in _bracket(self.contexts, context_tokens):
                if request_weight * context_weight:
                    total = total + request_weight * context_weight * self.curves[r, c].seconds(np.asarray(x), self.between)
        return total


def _bracket(grid: Floats, at: float) -> list[tuple[float, float]]:
    """The grid points around `at` with their weights."""
    if len(grid) == 1 or at <= grid[0]:
        return [(float(grid[0]), 1.0)]
    if at >= grid[-1]:
        return [(float(grid[-1]), 1.0)]
    i = int(np.searchsorted(grid, at))
    weight = float((at - grid[i - 1]) / (grid[i] - grid[i - 1]))
    return [(float(grid[i - 1]), 1.0 - weight), (float(grid[i]), weight)]


def read_cost_table(path: Path, key: Literal["tokens", "requests"], between: Literal["step", "linear"]) -> CostTable:
    """A table of `key`, p50_s and optionally requests, context_tokens, p10_s, p90_s, n, regime (graph or eager), suspicious.

    Raises ProfileError with file, line and column: missing columns, non-positive times, disordered quantiles, holes in the grid.
    """
    import pandas as pd

    if not path.is_file():
        raise ProfileError("no such file", where=path, remedy="the profile names it; restore it or mend profile.yaml")
    try:
        rows = pd.read_csv(path, comment="#")
    except (ValueError, UnicodeDecodeError) as problem:
        raise ProfileError(f"not a CSV table ({problem})", where=path) from None
    for column in (key, "p50_s"):
        if column not in rows:
            raise ProfileError("column is missing", where=path, key=column, remedy=f"columns found: {', '.join(map(str, rows.columns))}")
    if rows.empty:
        raise ProfileError("has no rows", where=path)
    _check_numbers(rows, path, key)
    requests = rows["requests"].fillna(0.0) if key != "requests" and "requests" in rows else rows[key] * 0.0
    contexts = rows["context_tokens"].fillna(0.0) if "context_tokens" in rows else rows[key] * 0.0
    eager = rows["regime"].eq("eager") if "regime" in rows else rows[key] < 0
    curves = {}
    for r, c in sorted(set(zip(requests, contexts, strict=True))):
        part = rows[(requests == r) & (contexts == c)]
        if part[~eager.loc[part.index]].empty:
            raise ProfileError(f"no captured row at requests {r:g}, context {c:g}", where=path, key="regime")
        curves[float(r), float(c)] = _curve(part.sort_values(key), key, eager, path)
    grid_r, grid_c = np.unique(requests), np.unique(contexts)
    for r in grid_r:
        for c in grid_c:
            if (float(r), float(c)) not in curves:
                raise ProfileError(f"no rows for requests {r:g} at context {c:g}", where=path, remedy="measure the missing cells or drop the column")
    return CostTable(grid_r, grid_c, curves, between, float(rows[key].min()), float(rows[key].max()))


def _curve(part, key: str, eager, path: Path) -> Curve:  # type: ignore[no-untyped-def]
    if part[key].duplicated().any():
        twice = part[key][part[key].duplicated()].iloc[0]
        raise ProfileError(f"{key} {twice:g} appears twice at the same requests and context", where=path, key=key)
    slow = eager.loc[part.index]
    as_floats = [rows[column].to_numpy(dtype=np.float64) for rows in (part[~slow], part[slow]) for column in (key, "p50_s")]
    return Curve(*as_floats)


def _check_numbers(rows, path: Path, key: str) -> None:  # type: ignore[no-untyped-def]
    import pandas as pd

    numeric = [c for c in (key, "p50_s", "p10_s", "p90_s", "requests", "context_tokens", "n") if c in rows]
    for column in numeric:
        values = pd.to_numeric(rows[column], errors="coerce")
        must = column in (key, "p50_s")
        above = column.endswith("_s") or column == key
        bad = (values.isna() & (rows[column].notna() | must)) | (values <= 0 if above else values < 0) | (values == float("inf"))
        if bad.any():
            row = int(bad.to_numpy().argmax())
            found = f"{rows[column].tolist()[row]!r} is not a {'positive number' if above else 'number of at least 0'}"
            raise ProfileError(found, where=f"{path}:{line_of(path, row)}", key=column)
        rows[column] = values
    if {"p10_s", "p90_s"} <= set(rows.columns):
        crossed = (rows["p10_s"] > rows["p50_s"]) | (rows["p50_s"] > rows["p90_s"])
        if crossed.any():
            line = line_of(path, int(crossed.to_numpy().argmax()))
            raise ProfileError("quantiles are out of order (p10 ≤ p50 ≤ p90)", where=f"{path}:{line}", key="p50_s")


def line_of(path: Path, row: int) -> int:
    """The line of the file that holds table row `row`, counted from 1; empty lines and comments hold none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")][row + 1]

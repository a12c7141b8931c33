"""How many of the cells that nothing was fitted to lie in their 90 % prediction interval: as shipped, and leave one sweep out.

The intervals of docs/validation/*.json have the model's own error as it ships, which comes from the same comparisons. To leave a sweep out, its part
of the variance is replaced by what the other sweeps alone would give; the rest, what its profile says of itself, stays. Cells of our own engine have
no interval in their file: theirs is the model's own error alone, which they were themselves the source of.

    PYTHONPATH=. .venv/bin/python benchmarks/interval_coverage.py
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.model_error import ROOT, cells_of, parts
from simulator.measurements.model_error import model_error

NORMAL = 1.6449  # standard deviations on each side of 90 % of a normal distribution
SWEEPS = ("v4-pro-0813-b300", "qwen3-8b-tpu-v7x8", "v4-flash-pareto", "v4-pro-pareto")


def cells(content: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Logarithm of published ÷ simulated, of the interval's half width, and how many policies a cell is of: 2 where it is a gain."""
    told = [p for p in content.get("points", ()) if not p.get("fitted") and p.get("prediction")]
    return [
        (np.log(p["published"] / p["simulated"]), np.log(p["prediction"][1] / p["prediction"][0]) / 2, 1 + (" over " in p["metric"])) for p in told
    ]


def own(policies: float, common: float, policy: float, cell: float) -> float:
    """Variance of the logarithm of a cell by the model's own error; what policies have in common cancels in a gain."""
    return policies * (policy**2 + cell**2) + (common**2 if policies == 1 else 0.0)


def main() -> None:
    """Print both."""
    files = sorted((ROOT / "docs" / "validation").glob("*.json"))
    contents = {file.stem: json.loads(file.read_text()) for file in files}
    all_held = all_cells = 0
    print("| comparison | cells not fitted | in the interval | leaving its sweep out |\n|---|---:|---:|---:|")
    for name, content in contents.items():
        told = cells(content)
        if not told:
            continue
        sweep = next((s for s in SWEEPS if name.startswith(s)), name)
        points = int(any(point.get("fitted") for point in content["points"]))
        shipped = model_error("fitted", points)["speed"]
        others = cells_of([file for file in files if not file.stem.startswith(sweep)])
        measured = parts(others["measured", 0, "speed"])
        *_, cell, _ = parts(others["fitted", points, "speed"], order=1)
        held = sum(low <= 0 <= high for low, high in _bounds(content))
        out = 0
        for error, half, policies in told:
            rest = max((half / NORMAL) ** 2 - own(policies, shipped.common, shipped.policy, shipped.cell), 0.0)
            out += abs(error) <= NORMAL * np.sqrt(rest + own(policies, *measured[:2], max(cell, measured[2])))
        all_held, all_cells = all_held + held, all_cells + len(told)
        print(f"| {name} | {len(told)} | {held} | {out} |")
    engine = [e for runs in cells_of(files)["measured", 0, "speed"].values() for points in runs.values() for _, e in points]
    if engine:
        error = model_error("measured", 0)["speed"]
        held = sum(abs(e) <= NORMAL * np.sqrt(own(1, error.common, error.policy, error.cell)) for e in engine)
        all_held, all_cells = all_held + held, all_cells + len(engine)
        print(f"| our own engine | {len(engine)} | {held} | – |")
    print(f"\n{all_held} of {all_cells} cells, {all_held / max(all_cells, 1):.0%}")


def _bounds(content: dict[str, Any]) -> Sequence[tuple[float, float]]:
    """Of each cell, the interval's ends relative to what was published, as logarithms."""
    told = [p for p in content["points"] if not p.get("fitted") and p.get("prediction")]
    return [(float(np.log(p["prediction"][0] / p["published"])), float(np.log(p["prediction"][1] / p["published"]))) for p in told]


if __name__ == "__main__":
    main()

"""Makes simulator/measurements/model_error.csv from the cells of docs/validation/*.json that nothing was fitted to.

Every cell is one policy at one load with its simulated and its published or measured number. Logarithms of their ratios are taken apart into what
all policies of a comparison have in common, what each has for itself, and what is left in a cell. Where a profile was measured, all of that is the
model's own error. Where it was fitted or published, what the cells of a policy have in common, and how it grows with the load, belongs to the numbers
that such a profile is unsure of, which are drawn as well; so only what is left around a line in the logarithm of the load is taken from these
comparisons, and the rest from the measured ones.

    .venv/bin/python benchmarks/model_error.py
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from simulator.measurements.model_error import FILE, GROUPS

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"measured": "measured", "imported": "fitted", "fitted": "fitted", "published": "published", "synthetic": "published"}
STARTS = {"per-user speed": "speed", "tps_per_user": "speed", "throughput": "speed", "TTFT": "ttft", "accepted length": "accepted_length"}
Cells = dict[str, dict[str, list[tuple[float, float]]]]  # load, and logarithm of measured ÷ predicted, by comparison and policy


def cells_of(files: list[Path]) -> dict[tuple[str, int, str], Cells]:
    """By kind of profile, whether points with speculation were fitted (0 or 1), and group of metrics."""
    found: dict[tuple[str, int, str], Cells] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for file in files:
        content = json.loads(file.read_text())
        kind, points = _kind(content), int(any(point.get("fitted") for point in content.get("points", ())))
        for point in content.get("points", ()):
            group = next((group for start, group in STARTS.items() if point["metric"].startswith(start)), None)
            if group and not point.get("fitted") and point["simulated"] and point["published"] and point["metric"] != "throughput":
                found[kind, points, group][file.stem][point["policy"]].append((point["load"], float(np.log(point["published"] / point["simulated"]))))
    return found


def _kind(content: dict[str, Any]) -> str:
    if "runs" in content:  # of our own engine, with a measured profile
        return "measured"
    return KINDS[next((row["provenance"] for row in content.get("provenance", ()) if row["table"] == "verify cost"), "fitted")]


def parts(cells: Cells, order: int = 0) -> tuple[float, float, float, int]:
    """Standard deviations: common to a comparison, of a policy, of a cell around a polynomial of that order; and the number of cells."""
    common, policy, left = [], [], []
    for policies in cells.values():
        middles = {name: float(np.mean([error for _, error in points])) for name, points in policies.items()}
        middle = float(np.mean(list(middles.values())))
        common.append(middle**2)
        policy += [(m - middle) ** 2 * len(middles) / max(len(middles) - 1, 1) for m in middles.values()]
        for points in policies.values():
            errors = np.array([error for _, error in points])
            place = np.log([float(load) for load, _ in points]) if order else np.arange(len(points))
            if len(errors) > order + 1:
                rest = errors - np.polyval(np.polyfit(place, errors, order), place)
                left += list(rest**2 * len(errors) / (len(errors) - order - 1))
    return *(float(np.sqrt(np.mean(squares))) if squares else 0.0 for squares in (common, policy, left)), len(left)


def main() -> None:
    """Write the table."""
    found = cells_of(sorted((ROOT / "docs" / "validation").glob("*.json")))
    rows = []
    for group in GROUPS:
        measured = parts(found["measured", 0, group])
        rows.append(["measured", 0, group, *measured[:3], measured[3], ", ".join(sorted(found["measured", 0, group]))])
        for kind, points in (("fitted", 0), ("fitted", 1), ("published", 0), ("estimated", 0)):
            mine = found.get((kind, points, group)) or found.get(("fitted", points, group)) or {}
            *_, cell, count = parts(mine, order=1)
            names = ", ".join(sorted({*found["measured", 0, group], *mine}))
            rows.append([kind, points, group, measured[0], measured[1], max(cell, measured[2]), measured[3] + count, names])
    known = {tuple(row[:3]): row for row in csv.reader(FILE.read_text().splitlines())}
    with FILE.open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["kind", "points", "metric", "sd_common", "sd_policy", "sd_cell", "comparisons", "source"])
        texts = [[*map(str, row[:3]), *(f"{sd:.4f}" for sd in row[3:6]), *row[6:]] for row in rows]
        table.writerows(known[tuple(row[:3])] if row[0] == "estimated" else row for row in texts)  # benchmarks/silicon.py makes those


if __name__ == "__main__":
    main()

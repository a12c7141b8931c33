"""How far dsim was off where its predictions could be compared with measurements, by kind of profile: the model's own error."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from simulator.errors import ProfileError
from simulator.reading.csv_files import read_csv

FILE = Path(__file__).with_name("model_error.csv")  # made by benchmarks/model_error.py
Group = Literal["speed", "ttft", "accepted_length"]
GROUPS: tuple[Group, ...] = get_args(Group)


class ModelError(NamedTuple):
    """Standard deviations of the logarithm of measured ÷ predicted: what all policies have in common, of a policy, and of one of its loads; from so
    many comparisons. That of speed is one of the pace: of every time."""

    common: float
    policy: float
    cell: float
    comparisons: int
    source: str


def model_error(kind: str, points: int) -> dict[Group, ModelError]:
    """That of profiles of a kind, made with at least so many operating points with speculation; by group of metrics."""
    rows = [row for row in _rows() if row[0] == kind and row[1] <= points]
    best = {metric: max((row for row in rows if row[2] == metric), key=lambda row: row[1], default=None) for metric in GROUPS}
    return {metric: row[3] if row else ModelError(0.0, 0.0, 0.0, 0, "no comparison") for metric, row in best.items()}


@cache
def _rows() -> list[tuple[str, int, str, ModelError]]:
    columns = ("kind", "points", "metric", "sd_common", "sd_policy", "sd_cell", "comparisons", "source")
    table = read_csv(FILE, columns, ProfileError)
    rows = zip(*(table[name].tolist() for name in columns), strict=True)
    return [(str(k), int(p), str(m), ModelError(float(a), float(b), float(c), int(n), str(source))) for k, p, m, a, b, c, n, source in rows]

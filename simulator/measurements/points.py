"""Operating points of several lengths in one CSV: what `dsim fit` reads besides telemetry of a single policy (docs/fit.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.fit import SPEED, USERS
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.names import check_word
from simulator.quantities import MOST_SLOTS, spoken
from simulator.reading.csv_files import numbers, place_of_row, read_csv

if TYPE_CHECKING:
    import pandas as pd

LENGTHS = ("k", "policy")  # a file with one of these columns has points of several lengths
MOST_POINTS = 2000
_BOUNDS = {
    "concurrency": USERS, "tps_per_user": SPEED, "throughput_tok_s_gpu": (1e-6, 1e9), "throughput_tok_s_total": (1e-6, 1e9),
    "k": (0, MOST_SLOTS), "accepted_length": (1, MOST_SLOTS + 1), "budget": (1, MOST_SLOTS + 1),
    "prompt_tokens": (1, 1e8), "output_tokens": (2, 1e8), "ttft_s": (1e-6, 1e5),
}  # fmt: skip
_POLICY = re.compile(r"(?P<kind>none|plain|off|fixed|k|mtp|adaptive|scheduled)(?:[ _-]?(?P<k>\d{1,3}))?", re.IGNORECASE)
_DISAGREE = 0.1  # relative: between concurrency x speed and throughput, where users in flight all decode
_TOLD = ("accepted_length", "budget", "prompt_tokens", "output_tokens", "ttft_s")

Cells = dict[str, float | None]


@dataclass(frozen=True)
class PointFile:
    """Operating points of a CSV: each with its drafter ("" without one), and whether it is kept out of the fit to check it. `by_throughput`: speeds
    are throughput ÷ concurrency, what users wait for a first token included."""

    points: list[LoadPoint]
    drafters: list[str]
    checks: list[bool]
    by_throughput: bool


def holds_lengths(path: Path) -> bool:
    """Does the CSV say what was drafted at each point? Raises DsimError where it cannot be read."""
    rows = read_csv(path)
    return any(column in rows for column in LENGTHS)


def read_points(path: Path, gpus_per_replica: float, drafter: str) -> PointFile:
    """A CSV of operating points, one a row, `drafter` where it names none. Raises DsimError with file, line and column."""
    rows = read_csv(path)
    if rows.empty:
        raise DsimError("has no rows", where=path, remedy="give at least two operating points")
    if len(rows) > MOST_POINTS:
        raise DsimError(f"expected at most {MOST_POINTS:,} operating points, got {len(rows):,}", where=path, remedy="give means over longer times")
    table = _numbers(rows, path)
    by_throughput = any(cells["tps_per_user"] is None and cells["concurrency"] is not None for cells in table)
    policies, cut, names, uses = (_texts(rows, name) for name in ("policy", "adaptive", "drafter", "use"))
    points, drafters, checks = [], [], []
    for row, cells in enumerate(table):
        where = place_of_row(path, row)
        slots, adaptive = _drafted(policies[row], cut[row], cells["k"], where)
        users, speed, offered = _speed(cells, gpus_per_replica, by_throughput, where)
        name = f"{policies[row] or (f'k = {slots}' if slots else 'none')}, {cells['concurrency'] or users:.4g} users (line {row + 2})"
        told = {key: cells[key] for key in _TOLD}
        if adaptive and (told["accepted_length"] is None) != (told["budget"] is None):
            raise DsimError(
                "an adaptive point needs both or neither", where=where, key="accepted_length, budget", remedy="give what the engine counts"
            )
        points.append(LoadPoint(name, speed, users * speed, slots=slots, adaptive=adaptive, offered=offered, **told))  # type: ignore[arg-type]
        drafters.append(_drafter(names[row] or drafter, where) if slots else "")
        checks.append(_use(uses[row], where))
    return PointFile(points, drafters, checks, by_throughput)


def _numbers(rows: pd.DataFrame, path: Path) -> list[Cells]:
    """The cells of the columns that are numbers, None where one is empty."""
    columns = {}
    for name, (least, most) in _BOUNDS.items():
        values = numbers(rows, name, path, positive=name != "k", optional=True) if name in rows else np.full(len(rows), np.nan)
        wrong = (values < least) | (values > most)
        if wrong.any():
            row = int(wrong.argmax())
            problem = f"expected {spoken(least)} to {spoken(most)}, got {values[row]:g}"
            raise DsimError(problem, where=place_of_row(path, row), key=name, remedy="check the units")
        columns[name] = values
    return [{name: None if np.isnan(values[row]) else float(values[row]) for name, values in columns.items()} for row in range(len(rows))]


def _texts(rows: pd.DataFrame, name: str) -> list[str]:
    """A column of words, "" where a cell is empty or there is no such column."""
    return rows[name].fillna("").astype(str).str.strip().tolist() if name in rows else [""] * len(rows)


def _drafted(policy: str, adaptive: str, k: float | None, where: str) -> tuple[int, bool]:
    """Tokens drafted of a request and round, and whether the engine cuts them."""
    named = _POLICY.fullmatch(policy) if policy else None
    if policy and named is None:
        remedy = "write none, fixed_K or adaptive_K, or give a column k"
        raise DsimError(f"unknown policy {shown(policy)}", where=where, key="policy", remedy=remedy)
    if k is not None and k != int(k):
        raise DsimError(f"expected a whole number of drafted tokens, got {k:g}", where=where, key="k")
    if adaptive.lower() not in ("", "0", "1", "no", "yes", "false", "true"):
        raise DsimError(f"expected yes or no, got {shown(adaptive)}", where=where, key="adaptive")
    kind = named["kind"].lower() if named else ""
    said = 0 if kind in ("none", "plain", "off") else int(named["k"]) if named and named["k"] else None
    slots = said if k is None else int(k)
    if slots is None or slots > MOST_SLOTS:
        raise DsimError("does not say how many tokens were drafted", where=where, key="k", remedy="give the column k; 0 without speculation")
    if said is not None and said != slots:
        raise DsimError(f"the policy {shown(policy)} and k = {slots} contradict each other", where=where, key="k", remedy="leave one out")
    return slots, bool(slots) and (kind in ("adaptive", "scheduled") or adaptive.lower() in ("1", "yes", "true"))


def _speed(cells: Cells, gpus: float, by_throughput: bool, where: str) -> tuple[float, float, float | None]:
    """Requests decoding at once, tokens per second of each, and users, where the file says how many there are besides."""
    per_gpu, total, users, speed = (cells[key] for key in ("throughput_tok_s_gpu", "throughput_tok_s_total", "concurrency", "tps_per_user"))
    throughput = total if total is not None else None if per_gpu is None else per_gpu * gpus
    if users is not None and throughput is not None and speed is not None and not by_throughput:
        if throughput / (users * speed) - 1 > _DISAGREE:
            gap = f"throughput is {throughput / (users * speed) - 1:.0%} above concurrency × speed"
            raise DsimError(gap, where=where, remedy="leave one of the three columns out, or check --gpus-per-replica")
        return min(throughput / speed, users), speed, users
    if users is not None and throughput is not None:
        return users, throughput / users, None
    if speed is not None and (users is not None or throughput is not None):
        return (users if users is not None else float(throughput or 0) / speed), speed, None
    raise DsimError("needs two of concurrency, tps_per_user and throughput", where=where, remedy="fill in the cells, or leave the row out")


def _drafter(name: str, where: str) -> str:
    try:
        check_word(name, "drafter", file=True)
    except DsimError as problem:
        raise DsimError(problem.problem, where=where, key="drafter", remedy=problem.remedy) from None
    return name


def _use(text: str, where: str) -> bool:
    if text not in ("", "fit", "check"):
        raise DsimError(f"expected fit or check, got {shown(text)}", where=where, key="use")
    return text == "check"


def conditional_of(lengths: Sequence[float]) -> list[float]:
    """Conditional acceptance by position from accepted lengths at k = 1, 2, … Raises DsimError where they do not rise ever less."""
    survival = np.diff([1.0, *lengths])
    before = np.array([1.0, *survival[:-1]])
    if not ((survival > 0) & (survival <= before)).all():
        raise DsimError(
            "accepted lengths rise by less from each k to the next, and by 1 at most", key="--lengths-by-k", remedy="leave the last ones out"
        )
    return [float(c) for c in survival / before]

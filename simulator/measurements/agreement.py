"""Compare two profiles: cost tables cell by cell, accepted lengths in standard errors, temperatures, hardware and software."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulator.errors import ProfileError
from simulator.measurements.composed import OperatorCost, OperatorPrefill, OperatorVerify
from simulator.measurements.cost import DraftTable, FittedCurve, LinearDraft, LinearPrefill, MeasuredTable, PrefillTable
from simulator.measurements.profile import Drafter, Profile
from simulator.measurements.statistics import acceptance_statistics, visited_rows
from simulator.reading.csv_files import numbers, read_csv

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("tokens", "requests", "slots", "context_tokens")
POINTS = 33  # at which two formulas are compared
WORST = 5
_UNSUSPICIOUS = {"0", "0.0", "no", "false", "none"}
Key = tuple[tuple[str, float], ...]


class Cell(NamedTuple):
    """Seconds of one cell of a cost table; the quantiles are NaN where the table has none."""

    p50_s: float
    p10_s: float = math.nan
    p90_s: float = math.nan


Cells = dict[Key, Cell]


@dataclass(frozen=True)
class _Part:
    """One cost of a profile: a file of cells, or a formula that can be evaluated at any cell."""

    cost: FittedCurve | MeasuredTable | OperatorVerify | LinearPrefill | PrefillTable | OperatorPrefill | LinearDraft | DraftTable
    path: Path | None
    gamma: int = 0

    def cells(self, keys: Sequence[Key] = ()) -> Cells:
        """The cells of the file; else the formula's at `keys`, without those outside the range of its data and where it is 0."""
        if self.path is not None:
            return cells_of(self.path)
        return {key: Cell(seconds) for key in keys if (seconds := self.cost.at_cell(dict(key), self.gamma)) > 0}


def cost_rows(path: Path) -> pd.DataFrame:
    """The rows of a cost table: keys, p10_s, p50_s, p90_s, n, `eager` and `suspicious` (text, "" for none). Raises ProfileError."""
    import pandas as pd

    rows = read_csv(path, ("p50_s",), ProfileError)
    for column in (*KEYS, "p10_s", "p50_s", "p90_s", "n"):
        if column in rows:
            rows[column] = numbers(rows, column, path, ProfileError, positive=False, optional=column != "p50_s")
        elif column not in KEYS:
            rows[column] = np.nan
    rows["eager"] = rows["regime"].eq("eager") if "regime" in rows else False
    reasons = rows["suspicious"].astype(object).fillna("").astype(str).str.strip() if "suspicious" in rows else pd.Series("", index=rows.index)
    rows["suspicious"] = reasons.where(~reasons.str.lower().isin(_UNSUSPICIOUS), "")
    return rows


def cells_of(path: Path) -> Cells:
    """The rows of a cost table by their keys (rounded to six digits)."""
    rows = cost_rows(path)
    keys = [key for key in KEYS if key in rows]
    places = [[(key, float(f"{at:.6g}")) for key, at in zip(keys, row, strict=True) if not math.isnan(at)] for row in rows[keys].to_numpy()]
    return {tuple(place): Cell(*times) for place, times in zip(places, rows[[*Cell._fields]].to_numpy().tolist(), strict=True)}


def cell_count(profile: Profile) -> int:
    """Of all cost tables of a profile."""
    return sum(len(cost_rows(part.path)) for _, part in _parts(profile) if part.path is not None)


def compare_profiles(a: Profile, b: Profile) -> dict[str, Any]:
    """B compared with A as plain data: verdict, differences in set-up, tables, accepted lengths, temperatures. Raises ProfileError."""
    tables, ratios, priced = [], [], 0
    parts_a, parts_b = dict(_parts(a)), dict(_parts(b))
    for name in (name for name in parts_a if name in parts_b):
        compared_at, *cells = _priced(parts_a[name], parts_b[name])
        table, cell_ratios = _table(name, compared_at, *cells)
        tables.append(table)
        ratios += cell_ratios
        priced += len(cell_ratios) if compared_at != "cells" else 0
    lengths = list(_lengths(a, b))
    apart = np.abs(np.array(ratios) - 1)
    scores = [abs(row["z"]) for row in lengths if row["z"] is not None]
    median, p90 = (float(np.quantile(apart, q)) if len(apart) else None for q in (0.5, 0.9))
    return {
        "verdict": _verdict(median, p90, len(apart), priced, scores),
        "a": {"name": a.name, "folder": str(a.folder)},
        "b": {"name": b.name, "folder": str(b.folder)},
        "measured_on": differences(a, b),
        "cells": len(apart),
        "median_difference": median,
        "p90_difference": p90,
        "largest_z": max(scores, default=None),
        "tables": tables,
        "numbers": list(_numbers(a, b)),
        "accepted_lengths": lengths,
        "temperatures": list(_temperatures(a, b)),
        "suspicious": {"a": a.suspicious, "b": b.suspicious},
    }


def differences(a: Profile, b: Profile) -> list[dict[str, str]]:
    """Differences in hardware, target, engine, environment and drafters."""
    flat = [dict(_facts(profile)) for profile in (a, b)]
    keys = list(dict.fromkeys([*flat[0], *flat[1]]))
    rows = [{"what": key, "a": flat[0].get(key, "–"), "b": flat[1].get(key, "–")} for key in keys]
    return [row for row in rows if row["a"] != row["b"]]


def _facts(profile: Profile) -> Iterator[tuple[str, str]]:
    yield from (("hardware", profile.hardware), ("target", profile.target), ("engine", profile.engine))
    yield "GPUs per replica", f"{profile.gpus_per_replica:g}"
    first = sorted(profile.environment.items(), key=lambda item: item[0] not in ("device", "dtype"))
    yield from _flat(dict(first), "environment")
    for name, drafter in profile.drafters.items():
        temperature = profile.blocks(name).temperature
        yield f"drafter {name}", f"{drafter.family}, block {drafter.gamma}"
        yield f"drafter {name}, sampling temperature", "not stated" if temperature is None else f"{temperature:g}"


def _flat(raw: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from _flat(value, f"{name}.{key}")
    else:
        yield name, str(raw)


def _parts(profile: Profile) -> Iterator[tuple[str, _Part]]:
    costs: list[tuple[str, Any, int]] = [("verify", profile.costs.verify, 0), ("prefill", profile.costs.prefill, 0)]
    costs += [(f"draft {name}", drafter.draft, drafter.gamma) for name, drafter in profile.drafters.items()]
    for name, cost, gamma in costs:
        if cost is not None:
            yield name, _Part(cost, profile.folder / cost.file if hasattr(cost, "file") else None, gamma)
        if isinstance(cost, OperatorVerify | OperatorPrefill):
            yield f"{name} attention", _Part(cost, profile.folder / cost.attention)
    for name, drafter in profile.drafters.items():
        yield from ((f"{part} {name}", _Part(drafter.draft, profile.folder / file)) for part, file in further_files(drafter).items())


def further_files(drafter: Drafter) -> dict[str, str]:
    """Cost tables of the sequential head and of absorbing tokens, for a drafter that has them separately."""
    if not isinstance(drafter.draft, DraftTable):
        return {}
    return {part: file for part, file in (("head", drafter.draft.head), ("absorb", drafter.draft.absorb)) if file}


def _priced(left: _Part, right: _Part) -> tuple[str, Cells, Cells]:
    """How they are compared, and the cells of both. A formula is evaluated at the other's cells, two formulas at the same points; so is a cost that
    is composed of operators, unless the other is composed as well."""
    if isinstance(left.cost, OperatorCost) != isinstance(right.cost, OperatorCost):
        left, right = (replace(part, path=None) if isinstance(part.cost, OperatorCost) else part for part in (left, right))
    if left.path and right.path:
        return "cells", left.cells(), right.cells()
    if left.path or right.path:
        keys, how = list((left if left.path else right).cells()), "cells of the table, priced by the formula"
    else:
        keys = _points(left, right)
        how = f"{len(keys)} points of two formulas"
    return how, left.cells(keys), right.cells(keys)


def _points(left: _Part, right: _Part) -> list[Key]:
    """Where two formulas are compared: the range that both cover."""
    curves = FittedCurve | OperatorVerify
    if isinstance(left.cost, curves) and isinstance(right.cost, curves):
        ranges = (left.cost.tokens_range(), right.cost.tokens_range())
        low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
        return [(("tokens", float(np.clip(x, low, high))),) for x in np.geomspace(low, high, POINTS)] if low < high else []
    if isinstance(left.cost, LinearPrefill | OperatorPrefill):
        return [(("tokens", float(x)),) for x in 2 ** np.arange(14)]
    return [(("requests", float(x)),) for x in 2 ** np.arange(9)]


def _table(name: str, compared_at: str, a: Cells, b: Cells) -> tuple[dict[str, Any], list[float]]:
    """Agreement of one table, and the ratios B / A of the shared cells."""
    shared = [key for key in a if key in b]
    rows = [{**dict(key), "a_s": a[key].p50_s, "b_s": b[key].p50_s, "ratio": b[key].p50_s / a[key].p50_s} for key in shared]
    ranges = [(a[key], b[key]) for key in shared if not np.isnan([*a[key], *b[key]]).any()]
    ratios = [row["ratio"] for row in rows]
    off = np.abs(np.array(ratios) - 1)
    summary = {
        "table": name,
        "compared_at": compared_at,
        "cells": len(rows),
        "median_difference": float(np.median(off)) if rows else None,
        "p90_difference": float(np.quantile(off, 0.9)) if rows else None,
        "median_ratio": float(np.median(ratios)) if rows else None,
        "with_ranges": len(ranges),
        "ranges_apart": sum(x.p10_s > y.p90_s or y.p10_s > x.p90_s for x, y in ranges),
        "worst": [rows[i] for i in np.argsort(-off, kind="stable")[:WORST] if off[i] > 0],
        "only_in_a": [dict(key) for key in a if key not in b],
        "only_in_b": [dict(key) for key in b if key not in a],
    }
    return summary, ratios


def _numbers(a: Profile, b: Profile) -> Iterator[dict[str, Any]]:
    """Single numbers of both."""
    for cost in ("overhead", "scheduling"):
        both = [getattr(profile.costs, cost) for profile in (a, b)]
        for of, seconds in (("step", "seconds"), ("request and step", "per_request_s")) if any(both) else ():
            x, y = (getattr(one, seconds, 0.0) for one in both)
            yield {"what": f"{cost} per {of}, s", "a": x, "b": y}
    if a.kv and b.kv:
        yield {"what": "KV bytes per token", "a": a.kv.bytes_per_token, "b": b.kv.bytes_per_token}
        yield {"what": "memory for KV, bytes", "a": a.kv.memory_bytes, "b": b.kv.memory_bytes}


def _lengths(a: Profile, b: Profile) -> Iterator[dict[str, Any]]:
    """Accepted lengths at the anchors that a run which verifies everything visits; z in standard errors of the difference, None without one.

    The texts of the two count as independent. If they are the same, z is too small.
    """
    for name in a.drafters:
        if name not in b.drafters:
            continue
        blocks = [profile.blocks(name) for profile in (a, b)]
        for domain in (d for d in blocks[0].domains if d in blocks[1].domains):
            x, y = (acceptance_statistics(of, domain, visited_rows(of)) for of in blocks)
            error = math.hypot(x.accepted_length_error, y.accepted_length_error)
            change = y.accepted_length - x.accepted_length
            row = {"drafter": name, "domain": domain, "z": change / error if 0 < error < math.inf else None}
            for side, statistics in (("a", x), ("b", y)):
                error = statistics.accepted_length_error
                row |= {side: statistics.accepted_length, f"{side}_sequences": statistics.sequences}
                row[f"{side}_error"] = error if math.isfinite(error) else None
            yield row


def _temperatures(a: Profile, b: Profile) -> Iterator[dict[str, Any]]:
    """Calibration temperatures of drafters calibrated in both, by position."""
    for name, drafter in a.drafters.items():
        x, y = drafter.temperatures, b.drafters[name].temperatures if name in b.drafters else None
        if x and y:
            apart = max(abs(v / u - 1) for u, v in zip(x, y, strict=False))
            yield {"drafter": name, "a": x, "b": y, "largest_difference": apart}


def _verdict(median: float | None, p90: float | None, cells: int, priced: int, scores: list[float]) -> str:
    """The comparison in one line."""
    if median is None or p90 is None:
        costs = "no cost cell in common"
    else:
        costs = f"median cell difference {100 * median:.1f} %, p90 {100 * p90:.1f} %, over {cells} cells"
        costs += f" ({priced} of them priced by a formula)" if priced else ""
    lengths = f"accepted lengths: largest |z| {max(scores):.1f} of {len(scores)}" if scores else "no accepted length to compare"
    return f"{costs}; {lengths}"

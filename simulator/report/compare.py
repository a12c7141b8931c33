"""Two results side by side: what differs between the scenarios, and which differences are more than luck."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit

from simulator.report import wording
from simulator.report.reading import Estimate, Result, estimate, number, read

LEVEL = 0.95  # of the intervals in a result
METRICS = ("tps_per_user_mean", "throughput_tok_s_gpu", "verification_budget", "accepted_length", "ttft_p99_s", "tpot_p99_s")
_SHOWN = {
    "tps_per_user_mean": "tok/s per user",
    "throughput_tok_s_gpu": "tok/s/GPU",
    "verification_budget": "budget",
    "accepted_length": "accepted length",
}
_ABSENT = "(absent)"


def compare(a: Result, b: Result) -> tuple[dict[str, Any], str]:
    """Policies × loads that both results have, b against a; as data for JSON and as text for a terminal."""
    points = list(_points(a, b))
    keys = [{(p.policy, p.load) for p in read(result).all_points()} for result in (a, b)]
    data: dict[str, Any] = {
        "a": _identity(a),
        "b": _identity(b),
        "level": LEVEL,
        "scenario_differences": scenario_differences(a, b),
        "points": points,
        "only_in_a": [{"policy": policy, "load": load} for policy, load in sorted(keys[0] - keys[1])],
        "only_in_b": [{"policy": policy, "load": load} for policy, load in sorted(keys[1] - keys[0])],
        "gains": [*_gains(a, b, "at_sla", "sla_tps"), *_gains(a, b, "at_matched_throughput", "because")],
    }
    verdicts = [metric["distinguishable"] for point in points for metric in point["metrics"].values()]
    verdicts += [row["distinguishable"] for row in data["gains"]]
    data["compared"], data["distinguishable"] = len(verdicts), verdicts.count(True)
    data["expected_by_chance"] = round((1 - LEVEL) * sum(verdict is not None for verdict in verdicts), 2)
    return data, _text(data)


def difference(a: Estimate, b: Estimate, n_a: int | None, n_b: int | None) -> dict[str, Any]:
    """b − a with Welch's interval, from the two intervals and their numbers of replications.

    Distinguishable: True or False, or None where a side has no interval. It does not use that both may have met the same luck, so it errs
    on the side of "no".
    """
    change = b.mean - a.mean
    out: dict[str, Any] = {"a": a._asdict(), "b": b._asdict(), "difference": change, "low": None, "high": None, "distinguishable": None}
    out["relative"] = change / abs(a.mean) if a.mean else None
    errors = [_error(found, n) for found, n in ((a, n_a), (b, n_b))]
    if any(error is None for error in errors):
        return out
    (ea, da), (eb, db) = (error for error in errors if error)
    error = math.hypot(ea, eb)
    if error == 0:
        return out | {"low": change, "high": change, "distinguishable": change != 0}
    freedom = error**4 / (ea**4 / da + eb**4 / db)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return out | {"low": change - half, "high": change + half, "distinguishable": bool(abs(change) > half)}


def scenario_differences(a: Result, b: Result) -> list[dict[str, str]]:
    """The keys of the scenarios, and of what they ran on, that differ: dotted names, both values as text."""
    flat = [dict(_flat(_compared(result))) for result in (a, b)]
    keys = list(dict.fromkeys([*flat[0], *flat[1]]))
    values = [(key, flat[0].get(key, _ABSENT), flat[1].get(key, _ABSENT)) for key in keys]
    return [{"key": key, "a": left, "b": right} for key, left, right in values if left != right]


def _compared(result: Result) -> dict[str, Any]:
    scenario, profile = result.get("scenario") or {}, result.get("profile") or {}
    ran = {key: scenario.get(key) for key in ("seed", "replications")}
    known = {key: profile.get(key) for key in ("name", "hardware", "engine", "target", "gpus_per_replica")}
    return {"dsim_version": result.get("dsim_version"), "run": ran, "profile": known, "scenario": scenario.get("content") or {}}


def _flat(raw: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves as (dotted name, text); lists of named things (policies) by name, so that an insertion is one difference."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(raw, list) and raw and all(isinstance(item, Mapping) and "name" in item for item in raw):
        for item in raw:
            yield from _flat({key: value for key, value in item.items() if key != "name"} or {"listed": True}, f"{prefix}[{item['name']}]")
    else:
        yield prefix, "null" if raw is None else str(raw)


def _error(found: Estimate, n: int | None) -> tuple[float, int] | None:
    """Standard error and degrees of freedom behind a Student interval."""
    if found.low is None or found.high is None or n is None or n < 2:
        return None
    return (found.high - found.low) / 2 / float(stdtrit(n - 1, (1 + LEVEL) / 2)), n - 1


def _points(a: Result, b: Result) -> Iterator[dict[str, Any]]:
    left, right = read(a), read(b)
    others = {(point.policy, point.load): point for point in right.all_points()}
    for point in left.all_points():
        other = others.get((point.policy, point.load))
        if other is None:
            continue
        metrics = {}
        for metric in dict.fromkeys((left.speed, *METRICS)):
            x, y = point.get(metric), other.get(metric)
            if x and y:
                metrics[metric] = difference(x, y, point.n, other.n)
        yield {"policy": point.policy, "load": point.load, "verdict_a": point.verdict, "verdict_b": other.verdict, "metrics": metrics}


def _gains(a: Result, b: Result, where: str, key: str) -> Iterator[dict[str, Any]]:
    """Gains at the same promise by the same policy."""
    counts = [min((p.n for p in read(result).all_points() if p.n is not None), default=None) for result in (a, b)]
    others = {(str(row.get(key)), row.get("policy")): row for row in (b.get("gains") or {}).get(where) or []}
    for row in (a.get("gains") or {}).get(where) or []:
        other = others.get((str(row.get(key)), row.get("policy")))
        x, y = estimate(row.get("gain")), estimate(other.get("gain")) if other else None
        if x and y:
            at = row.get(key) if number(row.get(key)) is not None else str(row.get(key))
            yield {"where": where, "at": at, "policy": row.get("policy"), **difference(x, y, *counts)}


def _identity(result: Result) -> dict[str, Any]:
    scenario, profile = result.get("scenario") or {}, result.get("profile") or {}
    return {
        "scenario": scenario.get("name"),
        "file": scenario.get("file"),
        "profile": profile.get("name"),
        "dsim_version": result.get("dsim_version"),
    }


def _text(data: Mapping[str, Any], width: int = 110) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    for side in ("a", "b"):
        names = [str(value) for value in (data[side]["scenario"], data[side]["file"], data[side]["profile"]) if value]
        console.print(Text(f"{side.upper()}: {' · '.join(names)}"))
    console.print()
    if data["scenario_differences"]:
        console.print(_listed("what differs", [(d["key"], d["a"], d["b"]) for d in data["scenario_differences"]], ("key", "A", "B"), numbers=False))
    else:
        console.print("The scenarios are the same.")
    if data["points"]:
        console.print()
        console.print(_listed("B against A; * more than luck", [_point_row(point) for point in data["points"]], ("policy", "load", *_SHOWN.values())))
    else:
        console.print("No policy and load is in both.")
    for side in ("a", "b"):
        only = [f"{p['policy']} at {wording.load(p['load'])}" for p in data[f"only_in_{side}"]]
        if only:
            console.print(Text(f"only in {side.upper()}: {', '.join(only)}"))
    if data["gains"]:
        console.print()
        console.print(_listed("gains over the baseline", [_gain_row(row) for row in data["gains"]], ("policy", "at", "A", "B", "B − A", "")))
    console.print()
    console.print(
        Text(
            f"{data['distinguishable']} of {data['compared']} differences are more than luck (Welch, {LEVEL:.0%}); "
            f"about {wording.plain(data['expected_by_chance'], 1)} would look so by chance alone."
        )
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _listed(title: str, rows: list[tuple[str, ...]], columns: tuple[str, ...], numbers: bool = True) -> Table:
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if numbers and column not in ("policy", "at") else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _point_row(point: Mapping[str, Any]) -> tuple[str, ...]:
    """`112.5 → 135.0 +20.0 % *` for the metrics that matter most; JSON has the others."""
    cells = []
    for metric in _SHOWN:
        found = point["metrics"].get(metric)
        if found is None:
            cells.append(wording.DASH)
            continue
        a, b = (wording.plain(found[side]["mean"], wording.measure(metric).decimals) for side in ("a", "b"))
        change = wording.percent(found["relative"], 1) if found["difference"] else "same"
        cells.append(f"{a} → {b} {change}{' *' if found['distinguishable'] else '  '}")
    return (point["policy"], wording.load(point["load"]), *cells)


def _gain_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    at = f"{wording.load(number(row['at']))} tok/s/user" if row["where"] == "at_sla" else f"throughput of {row['at']}"
    change = Estimate(100 * row["difference"], *(None if row[key] is None else 100 * row[key] for key in ("low", "high")))
    a, b = (wording.gain_mean(Estimate(row[key]["mean"], None, None)) for key in ("a", "b"))
    return (
        str(row["policy"]),
        at,
        a,
        b,
        f"{wording.interval(change, 1)} points",
        "*" if row["distinguishable"] else "same" if row["difference"] == 0 else "",
    )

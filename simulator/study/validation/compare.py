"""A result against what was published: curves point by point, callouts beside each other. Limits and tables come from the scenario."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.arrays import Floats
from simulator.errors import ProfileError, ScenarioError
from simulator.quantities import LARGEST
from simulator.reading.csv_files import numbers, read_csv
from simulator.study.run.checks import CalloutCheck, Check, CurveCheck, SweepCheck
from simulator.study.run.metrics import names
from simulator.study.run.pareto import curves, estimate, gain
from simulator.study.run.prediction import Prediction, World
from simulator.study.run.result import PointRow, PublishedCurve
from simulator.study.run.scenario import Scenario
from simulator.study.run.validated import Validation, ValidationPoint, ValidationRow, all_within
from simulator.study.validation.sweep_check import cell, check_sweep, mean, must_hold, rms_row, sweep_points, sweep_rows

if TYPE_CHECKING:
    import pandas as pd

Cells = dict[str, Any]  # of a published table, by column
NUMBERS = ("concurrency", "tps_per_user", "throughput_tok_s_gpu", "verification_budget")  # of any table
LEAST = 1e-9  # of what something is divided by
CALLOUT_COLUMNS = ("anchor", "role", "system", "tps_per_user", "throughput_tok_s_gpu")


def check_checks(scenario: Scenario) -> None:
    """Every check names tables and policies that exist. Raises ScenarioError before any work starts."""
    for number, check in enumerate(scenario.validation):
        key, profile = f"validation.{number}", scenario.known
        must_hold(scenario, f"{key}.table", [check.table], profile.published, f"profile '{profile.name}' has no published table", "tables there")
        used = [check.policy] if isinstance(check, CurveCheck) else check.systems.values()
        must_hold(scenario, key, used, (policy.name for policy in scenario.policies), "no policy", "policies")
        table, lacks = _table(scenario, check), f"table '{check.table}' has no"
        if isinstance(check, CalloutCheck):
            must_hold(
                scenario, f"{key}.table", CALLOUT_COLUMNS, table.columns, f"{lacks} column", f"callouts need {', '.join(CALLOUT_COLUMNS)}; columns"
            )
            must_hold(scenario, f"{key}.systems", check.systems, sorted(table["system"]), f"{lacks} system", "systems there")
            _callout_cells(scenario, check, table)
            continue
        if check.metric not in names():
            near = difflib.get_close_matches(check.metric, names(), n=1, cutoff=0.5)
            remedy = f"did you mean '{near[0]}'?" if near else f"metrics: {', '.join(names())}"
            raise ScenarioError(f"unknown metric '{check.metric}'", where=scenario.file, key=f"{key}.metric", remedy=remedy)
        if isinstance(check, SweepCheck):
            check_sweep(scenario, check, table, key)
            continue
        if check.between[0] > check.between[1]:
            raise ScenarioError("must be [lowest, highest]", where=scenario.file, key=f"{key}.between", remedy="turn it round")
        for name in ("concurrency", check.y):
            _column(scenario, check, table, name)


def validate_result(scenario: Scenario, rows: Sequence[PointRow], prediction: Prediction | None = None) -> Validation:
    """Every check of the scenario in a row or more, and the points behind the curves, with their intervals where there is a prediction."""
    world = prediction.world if prediction else None
    summary: list[ValidationRow] = []
    points: list[ValidationPoint] = []
    for check in scenario.validation:
        if isinstance(check, CurveCheck):
            compared = _curve(scenario, rows, check, world)
            points += compared
            what = f"{check.metric} against {scenario.known.published[check.table].label}"
            summary.append(rms_row(what, check.policy, "load", compared, check.limit_rms, fitted=check.fitted))
        elif isinstance(check, SweepCheck):
            compared = sweep_points(scenario, rows, check, _table(scenario, check), world)
            points += compared
            summary += sweep_rows(scenario, check, compared)
        else:
            summary += _callouts(scenario, rows, check)
    return Validation(rows=tuple(summary), points=tuple(points), ok=all_within(summary))


def compared(scenario: Scenario, rows: Sequence[PointRow]) -> tuple[list[PublishedCurve], Validation | None]:
    """The published curves to draw beside a result, and the comparison with them where the scenario asks for one."""
    return overlays(scenario), validate_result(scenario, rows) if scenario.validation else None


def overlays(scenario: Scenario) -> list[PublishedCurve]:
    """Published curves that the checks name, to be drawn behind the simulated ones."""
    drawn: dict[tuple[str, str], PublishedCurve] = {}
    for check in scenario.validation:
        if not isinstance(check, CurveCheck):
            continue
        about, table = scenario.known.published[check.table], _table(scenario, check)
        pairs = [("tps_per_user", "throughput_tok_s_gpu"), ("concurrency", "verification_budget"), ("concurrency", "throughput_tok_s_gpu")]
        if "concurrency" not in table and {"tps_per_user", "throughput_tok_s_gpu"} <= set(table.columns):
            table = table.assign(concurrency=table["throughput_tok_s_gpu"] / table["tps_per_user"])
        for x, y in pairs:
            if x in table and y in table and len(spots := table[[x, y]].dropna().to_numpy(dtype=np.float64)):
                points = tuple((float(px), float(py)) for px, py in spots[np.unique(np.linspace(0, len(spots) - 1, 120).astype(int))])
                drawn[check.table, x + y] = PublishedCurve(label=about.label, policy=check.policy, x=x, y=y, source=about.source, points=points)
    return list(drawn.values())


def _table(scenario: Scenario, check: Check) -> pd.DataFrame:
    """The published table of a check; what it is compared by is numbers, and what rows are called by texts. Raises ProfileError."""
    path = scenario.known.folder / scenario.known.published[check.table].file
    table = read_csv(path, error=ProfileError)
    if table.empty:
        raise ProfileError("has no rows", where=path, remedy="restore the table")
    whole = {"callouts": CALLOUT_COLUMNS[-2:], "sweep": ("concurrency",), "curve": ()}[check.kind]
    for column in {*NUMBERS, *([] if isinstance(check, CalloutCheck) else [check.y])} & {*table.columns}:
        table[column] = values = numbers(table, column, path, ProfileError, optional=column not in whole)
        if ((values < LEAST) | (values > LARGEST)).any():
            raise ProfileError(f"expected numbers from {LEAST:g} to {LARGEST:g}", where=path, key=column, remedy="restore the table")
    for column in {"policy", "system", "role"} & {*table.columns}:
        table[column] = table[column].astype(str)
    return table


def _column(scenario: Scenario, check: CurveCheck, table: pd.DataFrame, name: str) -> Floats:
    """A column; concurrency is throughput ÷ speed where the table does not hold it (Little's law for users who never pause)."""
    if name == "concurrency" and name not in table and {"tps_per_user", "throughput_tok_s_gpu"} <= set(table.columns):
        return _numbers(scenario, check.table, table, "throughput_tok_s_gpu") / _numbers(scenario, check.table, table, "tps_per_user")
    must_hold(scenario, "validation", [name], table.columns, f"table '{check.table}' has no column", "columns")
    return _numbers(scenario, check.table, table, name)


def _numbers(scenario: Scenario, name: str, table: pd.DataFrame, column: str) -> Floats:
    """A column without empty cells."""
    return numbers(table, column, scenario.known.folder / scenario.known.published[name].file, ProfileError)


def _curve(scenario: Scenario, rows: Sequence[PointRow], check: CurveCheck, world: World | None) -> list[ValidationPoint]:
    table = _table(scenario, check)
    x, y = _column(scenario, check, table, "concurrency"), _column(scenario, check, table, check.y)
    order = np.argsort(x)
    low, high = max(check.between[0], x.min()), min(check.between[1], x.max())
    points = []
    policy = next(p for p in scenario.policies if p.name == check.policy)
    for load in scenario.loads(policy):
        simulated, published = mean(rows, check.policy, load, check.metric), float(np.interp(load, x[order], y[order]))
        if low <= load <= high and simulated is not None:
            drawn = world[check.policy, load].get(check.metric) if world else None
            points.append(cell(check, check.policy, check.metric, load, simulated, published, check.fitted, drawn))
    return points


def _callouts(scenario: Scenario, rows: Sequence[PointRow], check: CalloutCheck) -> list[ValidationRow]:
    """For each published anchor: what the second system gains over the first, simulated and published."""
    table = _table(scenario, check)
    base, other = check.systems.values()
    speed = scenario.sla.speed
    first, second = curves(rows, base, speed), curves(rows, other, speed)
    out = []
    for sla, there, matched in _callout_cells(scenario, check, table):
        promise = float(sla["tps_per_user"])
        reference = {k: curve.throughput_at(promise) for k, curve in first.items()}
        gained = [gain(second[k].throughput_at(promise), reference[k]) for k in reference]
        faster = [gain(second[k].speed_at(ref) if ref is not None else None, promise) for k, ref in reference.items()]
        published_gain = there["throughput_tok_s_gpu"] / sla["throughput_tok_s_gpu"] - 1
        out.append(_callout(f"throughput gained at {promise:g} tok/s/user", other, gained, published_gain, there))
        out.append(_callout(f"speed gained at the throughput of {base} there", other, faster, matched["tps_per_user"] / promise - 1, matched))
    return out


def _callout_cells(scenario: Scenario, check: CalloutCheck, table: pd.DataFrame) -> list[tuple[Cells, Cells, Cells]]:
    """Of each anchor: the baseline's point at a promise, the other's there, and the other's at matched throughput."""
    base, other = check.systems
    out: list[tuple[Cells, Cells, Cells]] = []
    for anchor in sorted(set(table["anchor"]), key=lambda anchor: (isinstance(anchor, str), anchor)):
        part = table[table["anchor"] == anchor]
        if part.duplicated(["role", "system"]).any():
            problem = f"table '{check.table}', anchor {anchor}, has a role of a system twice"
            raise ScenarioError(problem, where=scenario.file, key="validation", remedy="keep one")
        cell: dict[tuple[str, str], Any] = {(r["role"].split("_")[0], r["system"]): r for r in part.to_dict("records")}
        try:
            out.append((cell["sla", base], cell["sla", other], cell["matched", other]))
        except KeyError as missing:
            role, system = missing.args[0]
            problem = f"table '{check.table}', anchor {anchor}, has no row of role {role} and system {system}"
            raise ScenarioError(problem, where=scenario.file, key="validation", remedy="correct the table") from None
    return out


def _callout(what: str, policy: str, simulated: list[float | None], published: float, row: Cells) -> ValidationRow:
    estimated = estimate(simulated)
    mean = estimated.mean if estimated else None
    label = f" (published as {row['label']})" if isinstance(row.get("label"), str) and row["label"] else ""
    return ValidationRow(
        what=what + label,
        policy=policy,
        simulated=mean,
        interval=(estimated.low, estimated.high) if estimated else (None, None),
        published=float(published),
        difference=None if mean is None else mean - float(published),
        unit="gain",
        n=len(simulated),
    )

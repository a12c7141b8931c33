"""Makes simulator/study/estimate/host.csv: what engines add to their operators, fitted on the half of the sample that may be fitted on.

And the rows of estimated profiles in simulator/measurements/model_error.csv: how far those runs are off then. What such a profile
says already that it is not sure of (prompt costs) is drawn as well; that is taken off.
No run of the sample speculates: all of the error is common to the
policies of a comparison. Runs in pieces: what is done is kept under reports/silicon-fit.

    .venv/bin/python benchmarks/silicon.py
"""

from __future__ import annotations

import csv
from math import log, sqrt
from pathlib import Path

from simulator.measurements.assumed import ASSUMED
from simulator.measurements.model_error import FILE
from simulator.study.estimate.hosts import COLUMNS, HOSTS
from simulator.study.validation.silicon.command import fit
from simulator.study.validation.silicon.result import Pair, errors_of, spread

ROOT = Path(__file__).resolve().parents[1]
ERRORS = {"speed": ("step", lambda run, row: log(row.tpot_s / run.tpot_s)), "ttft": ("prefill", lambda run, row: log(run.ttft_s / row.ttft_s))}


def write_errors(pairs: list[Pair]) -> None:
    """Replace the rows of estimated profiles."""
    rows = list(csv.reader(FILE.read_text().splitlines()))
    for row in rows:
        if row[0] == "estimated" and row[2] in ERRORS:
            parameter, error = ERRORS[row[2]]
            total = spread(pairs, error)
            known = next((one.sd for one in ASSUMED if one.parameter == parameter and "estimated" in one.origins), 0.0)
            row[3], row[6:] = f"{sqrt(max(total**2 - known**2, 0.0)):.4f}", [str(len(pairs)), "runs of aiconfigurator-core's sample"]
    with FILE.open("w", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows(rows)


def main() -> None:
    """Write both tables."""
    hosts, pairs, unseen = fit(ROOT / "reports" / "silicon-fit", say=print)
    with HOSTS.open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(
            [engine, major, f"{host.host_s:g}", f"{host.collective:g}", f"{host.frontend_s:g}"] for (engine, major), host in hosts.fitted.items()
        )
    write_errors(pairs)
    for name, of in (("fitted", pairs), ("own group left out of the fit", unseen)):
        errors = errors_of(name, of)
        print(f"{name}: {errors.runs} runs, TPOT {errors.tpot_median:.1%} (p90 {errors.tpot_p90:.1%}), ", end="")
        print(f"TTFT {errors.ttft_median:.1%} (p90 {errors.ttft_p90:.1%})")


if __name__ == "__main__":
    main()

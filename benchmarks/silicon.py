"""Makes simulator/study/estimate/host.csv: what engines add to their operators, fitted on the half of the sample that may be fitted on.

Runs in pieces: what is done is kept under reports/silicon-fit.

    .venv/bin/python benchmarks/silicon.py
"""

from __future__ import annotations

import csv
from pathlib import Path

from simulator.study.validation.silicon.command import fit
from simulator.study.validation.silicon.hosts import COLUMNS, HOSTS

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the table."""
    hosts = fit(ROOT / "reports" / "silicon-fit", say=print)
    with HOSTS.open("w", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(
            [engine, major, f"{host.host_s:g}", f"{host.collective:g}", f"{host.frontend_s:g}"] for (engine, major), host in hosts.fitted.items()
        )


if __name__ == "__main__":
    main()

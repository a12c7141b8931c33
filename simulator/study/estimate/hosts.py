"""What engines add to their operators, by engine and version: host.csv, which benchmarks/silicon.py fits on real runs of others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simulator.errors import DsimError
from simulator.reading.csv_files import read_csv

HOSTS = Path(__file__).parent / "host.csv"
COLUMNS = ("engine", "major", "host_s", "collective", "frontend_s")
_LATEST = (1 << 30,)


@dataclass(frozen=True)
class Host:
    """Seconds of the host per step, a factor on collectives, seconds before a request is in the engine."""

    host_s: float = 0.0
    collective: float = 1.0
    frontend_s: float = 0.0


@dataclass(frozen=True)
class Hosts:
    """By engine and series of versions."""

    fitted: Mapping[tuple[str, str], Host] = field(default_factory=dict)

    def series(self, engine: str, version: str) -> str:
        """The engine's latest series that is not later than `version`, else its earliest; empty where none was fitted."""
        known = sorted((_numbers(series), series) for name, series in self.fitted if name == engine)
        before = [series for numbers, series in known if numbers <= _numbers(version)]
        return before[-1] if before else known[0][1] if known else ""

    def of(self, engine: str, version: str) -> Host:
        """What a version of an engine adds: that of its series, nothing where none was fitted."""
        return self.fitted.get((engine, self.series(engine, version)), Host())


def read_hosts() -> Hosts:
    """Those that come with dsim."""
    rows = read_csv(HOSTS, COLUMNS, DsimError).astype(str).to_dict("records")
    return Hosts({(row["engine"], row["major"]): Host(*(float(row[name]) for name in COLUMNS[2:])) for row in rows})


def _numbers(version: str) -> tuple[int, ...]:
    """1.3.0rc20 and 1.3.x as (1, 3); a nightly build is the latest."""
    return _LATEST if version == "nightly" else tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])

"""What the benchmarks share: CPU time of a child, medians of repetitions that alternate, and the machine they were taken on."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from simulator.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Key = TypeVar("Key")


def machine() -> dict[str, Any]:
    """What a time means little without."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "simpy", "dsim", *(["numba"] if find_spec("numba") else []))},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def cpu_model() -> str:
    """The name of this machine's processor, as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def alternating(tasks: Mapping[Key, Callable[[], Any]], repetitions: int) -> dict[Key, list[Any]]:
    """Every task once, then all again: a disturbance of the machine hits all of them alike. One round more is run first and thrown away."""
    taken: dict[Key, list[Any]] = {name: [] for name in tasks}
    for round_number in range(repetitions + 1):
        for name, task in tasks.items():
            value = task()
            if round_number:
                taken[name].append(value)
    return taken


def dsim(*words: str, plain: bool = False) -> list[str]:
    """What the script `dsim` does with these words; `plain`: as if numba were not installed."""
    without = "sys.modules['numba'] = None; " if plain else ""
    return [sys.executable, "-c", f"import sys; {without}sys.argv[0] = 'dsim'; from simulator.cli import main; main()", *words]


def child_s(command: Sequence[str], folder: Path = ROOT) -> tuple[float, float]:
    """CPU and wall seconds of a command and its own children, run in `folder`. Its output is shown where it fails."""
    before, start = _children_s(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall_s = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr or done.stdout}")
    return _children_s() - before, wall_s


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and the raw values."""
    return {"median": median(values), "lowest": min(values), "highest": max(values), "values": list(values)}


def save(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` and the machine to results/NAME.json, whole or not at all; returns both."""
    path, whole = RESULTS / f"{name}.json", {"machine": machine(), **content}
    write_whole(path, json.dumps(whole, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")
    return whole

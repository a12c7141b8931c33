"""CPU and wall time of the command: `dsim --help` beside an empty Python, and the quickstart from nothing to its report."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from measure import alternating, child_s, dsim, save, spread

PYTHON = [sys.executable]
GOAL_HELP_S, GOAL_QUICKSTART_S = 0.3, 5.0


def main() -> None:
    """Measure, show, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=11, help="of the quick commands; the quickstart is run 3 times")
    repetitions = parser.parse_args().repetitions
    quick: dict[str, Callable[[], tuple[float, float]]] = {
        "python -c pass": partial(child_s, [*PYTHON, "-c", "pass"]),
        "dsim --help": partial(child_s, dsim("--help")),
    }
    slow = {"dsim run quickstart": _quickstart}
    times = {name: _both(taken) for name, taken in (alternating(quick, repetitions) | alternating(slow, 3)).items()}
    ratio = times["dsim --help"]["cpu_s"]["median"] / times["python -c pass"]["cpu_s"]["median"]
    _show(times, ratio)
    save("startup", {"commands": times, "help_over_empty_python_cpu": ratio})


def _quickstart() -> tuple[float, float]:
    """Into a folder of its own, so that no point is kept from the run before."""
    with tempfile.TemporaryDirectory(prefix="dsim-benchmark-") as folder:
        return child_s(dsim("run", "scenarios/quickstart.yaml", "--out", f"{folder}/out"))


def _both(taken: list[tuple[float, float]]) -> dict[str, Any]:
    cpu, wall = zip(*taken, strict=True)
    return {"cpu_s": spread(cpu), "wall_s": spread(wall)}


def _show(times: dict[str, Any], ratio: float) -> None:
    print(f"{'medians':22}{'CPU s':>9}{'wall s':>9}{'n':>5}")
    for name, taken in times.items():
        print(f"{name:22}{taken['cpu_s']['median']:9.3f}{taken['wall_s']['median']:9.3f}{len(taken['cpu_s']['values']):5}")
    print(f"dsim --help takes {ratio:.1f} times the CPU of an empty Python")
    for name, goal_s in (("dsim --help", GOAL_HELP_S), ("dsim run quickstart", GOAL_QUICKSTART_S)):
        wall_s = times[name]["wall_s"]["median"]
        print(f"{name}: {wall_s:.2f} s, required under {goal_s} s: {'met' if wall_s < goal_s else 'MISSED'}")


if __name__ == "__main__":
    main()

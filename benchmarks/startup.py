"""CPU and wall time of the command: `dsim --help` beside an empty Python, ten thousand requests with and without what a program does not need,
and the quickstart from nothing to its report."""

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
MANY = ("--set", "load=[32]", "--set", "run.requests=1100")  # 9 points of 1,120 measured requests each
SMALL = {  # as programs ask; with pages; with workers, as every run had once
    "tables alone": ("--format", "json"),
    "with pages": ("--format", "json", "--report"),
    "two workers": ("--format", "json", "--workers", "2"),
}


def main() -> None:
    """Measure, show, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=11, help="of the quick commands; the quickstart is run 3 times")
    repetitions = parser.parse_args().repetitions
    quick: dict[str, Callable[[], tuple[float, float]]] = {
        "python -c pass": partial(child_s, [*PYTHON, "-c", "pass"]),
        "dsim --help": partial(child_s, dsim("--help")),
    }
    small = {f"10^4 requests, {name}": partial(_run, *MANY, *words) for name, words in SMALL.items()}
    slow = {"dsim run quickstart": _run}
    taken = alternating(quick, repetitions) | alternating(small, 5) | alternating(slow, 3)
    times = {name: _both(values) for name, values in taken.items()}
    ratio = times["dsim --help"]["cpu_s"]["median"] / times["python -c pass"]["cpu_s"]["median"]
    least = times["10^4 requests, tables alone"]["cpu_s"]["median"]
    ratios = {name: times[name]["cpu_s"]["median"] / least for name in small}
    _show(times, ratio, ratios)
    save("startup", {"commands": times, "help_over_empty_python_cpu": ratio, "cpu_over_tables_alone": ratios})


def _run(*words: str) -> tuple[float, float]:
    """The quickstart, into a folder of its own, so that no point is kept from the run before."""
    with tempfile.TemporaryDirectory(prefix="dsim-benchmark-") as folder:
        return child_s(dsim("run", "scenarios/quickstart.yaml", "--out", f"{folder}/out", *words))


def _both(taken: list[tuple[float, float]]) -> dict[str, Any]:
    cpu, wall = zip(*taken, strict=True)
    return {"cpu_s": spread(cpu), "wall_s": spread(wall)}


def _show(times: dict[str, Any], ratio: float, ratios: dict[str, float]) -> None:
    print(f"{'medians':42}{'CPU s':>9}{'wall s':>9}{'n':>5}")
    for name, taken in times.items():
        print(f"{name:42}{taken['cpu_s']['median']:9.3f}{taken['wall_s']['median']:9.3f}{len(taken['cpu_s']['values']):5}")
    for name, times_as_long in ratios.items():
        print(f"{name}: {times_as_long:.2f} times the CPU of tables alone")
    print(f"dsim --help takes {ratio:.1f} times the CPU of an empty Python")
    for name, goal_s in (("dsim --help", GOAL_HELP_S), ("dsim run quickstart", GOAL_QUICKSTART_S)):
        wall_s = times[name]["wall_s"]["median"]
        print(f"{name}: {wall_s:.2f} s, required under {goal_s} s: {'met' if wall_s < goal_s else 'MISSED'}")


if __name__ == "__main__":
    main()

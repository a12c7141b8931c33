"""One `dsim run` of two checkouts, or of two settings, in turns: CPU seconds of each, and the ratio second / first with its spread.

    python benchmarks/pairs.py ../before .                                  # is this checkout as fast as that one?
    python benchmarks/pairs.py . . --second-set engine.max_batch=64         # what does a setting cost?
    python benchmarks/pairs.py ../before . --plain --set run.requests=200   # without numba, a larger run

Both run under this Python with its libraries; only dsim itself is the checkout's own. Each pair gives one ratio, so that other work on the
machine meets both sides alike.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measure import alternating, child_s, dsim, spread


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="folder of a checkout")
    parser.add_argument("second", type=Path, help="folder of a checkout")
    parser.add_argument("--scenario", default="scenarios/quickstart.yaml", help="within each checkout, or an absolute path")
    parser.add_argument("--repetitions", type=int, default=7, help="pairs; one more comes first and is thrown away")
    parser.add_argument("--plain", action="store_true", help="as if numba were not installed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both sides")
    parser.add_argument("--second-set", action="append", default=[], metavar="KEY=VALUE", help="for the second side")
    options = parser.parse_args()
    tasks = {}
    for side, folder, more in (("first", options.first, []), ("second", options.second, options.second_set)):
        check_imports(folder)
        tasks[side] = partial(run_s, folder.resolve(), options.scenario, [*options.set, *more], options.plain)
    taken = alternating(tasks, options.repetitions)
    for side in tasks:
        cpu = spread(taken[side])
        print(f"{side:7}{cpu['median']:9.3f} CPU s  ({cpu['lowest']:.3f} to {cpu['highest']:.3f})")
    ratio = spread([b / a for a, b in zip(taken["first"], taken["second"], strict=True)])
    print(f"second / first {ratio['median']:.3f}  ({ratio['lowest']:.3f} to {ratio['highest']:.3f}; median and range of {options.repetitions} pairs)")


def check_imports(folder: Path) -> None:
    """An installed dsim must not stand for the checkout's."""
    command = [sys.executable, "-c", "import simulator; print(simulator.__file__)"]
    module = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(module).is_relative_to(folder.resolve()):
        raise SystemExit(f"in {folder}, dsim comes from {module}")


def run_s(folder: Path, scenario: str, settings: Sequence[str], plain: bool) -> float:
    """CPU seconds of one run in one process, into a folder of its own, so that no point is kept from the run before."""
    words = [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="dsim-benchmark-") as out:
        return child_s(dsim("run", scenario, "--out", f"{out}/out", "--workers", "1", *words, plain=plain), folder)[0]


if __name__ == "__main__":
    main()

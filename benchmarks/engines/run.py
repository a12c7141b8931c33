"""Predictions sealed before they are measured, on engines that others wrote: `make engines`, or one step of it.

    python -m benchmarks.engines.run all                          # both engines, from nothing; the same again resumes
    python -m benchmarks.engines.run all --minutes 30             # stops at a good place
    python -m benchmarks.engines.run measure --engine vllm        # one step: setup, models, identify, seal, measure or score

What is measured is in plan.py. Engines and models are kept in --home, results in --out. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engines import models, scenarios
from benchmarks.engines.cells import identified, knee_rps, measured, missing, probes
from benchmarks.engines.measure import Machine, run_cells
from benchmarks.engines.plan import ENGINES, Engine, small
from benchmarks.engines.processes import Failed, cores, end_with_this_program
from benchmarks.engines.setup import setup


@dataclass(frozen=True)
class Job:
    """A step's engine, its folders, when it has to stop (time.monotonic), and its servers, which stay from identifying to measuring."""

    engine: Engine
    home: Path
    out: Path
    end: float
    machine: Machine


def _setup(job: Job) -> bool:
    setup(job.home, "vllm")  # also the client of the others
    setup(job.home, job.engine.name)
    return True


def _models(job: Job) -> bool:
    models.make(job.home, job.engine)
    return True


def _two_cores() -> None:
    client, server = cores()
    if client == server:
        raise Failed(f"server and client need a core each, and this program may use core {server} alone: see taskset -p {os.getpid()}")


def _identify(job: Job) -> bool:
    _two_cores()
    cells = probes(job.engine, job.out)
    if not run_cells(cells, job.machine, job.out, job.end):
        return False
    begun = {cell.folder for cell in cells if cell.result.exists()}
    if lost := [cell for cell in missing(cells) if cell.folder in begun]:
        raise Failed(f"{len(lost)} probes failed, the first {lost[0].result}: run it again before anything is sealed")
    return True


def _seal(job: Job) -> bool:
    scenarios.seal(identified(job.engine, job.out), job.home, job.out)
    return True


def _measure(job: Job) -> bool:
    if not (job.out / "seal.json").exists():
        raise Failed(f"{job.out}/seal.json is missing: what is measured is sealed before (step seal)")
    _two_cores()
    return run_cells(measured(identified(job.engine, job.out), job.out, knee_rps(job.out)), job.machine, job.out, job.end)


def _score(job: Job) -> bool:
    job.machine.stop()
    scenarios.score(job.engine, job.out)
    return True


STEPS: dict[str, Callable[[Job], bool]] = {
    "setup": _setup, "models": _models, "identify": _identify, "seal": _seal, "measure": _measure, "score": _score,
}  # fmt: skip


def main() -> int:
    """The step, or all of them, of one engine or of all. Exit code 1 where something is left to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["all", *STEPS])
    parser.add_argument("--engine", choices=ENGINES, help="this one alone")
    parser.add_argument("--minutes", type=float, default=90, help="then no other cell is begun (default: 90)")
    parser.add_argument("--home", type=Path, default=Path(".engines"), help="folder of engines and models (default: .engines)")
    parser.add_argument("--out", type=Path, default=Path("reports/engines"), help="folder of results (default: reports/engines)")
    parser.add_argument("--small", action="store_true", help="rehearse with few requests; give it an --out of its own")
    options = parser.parse_args()
    end_with_this_program()
    end = time.monotonic() + 60 * options.minutes
    engines = [ENGINES[options.engine]] if options.engine else list(ENGINES.values())
    engines = list(map(small, engines)) if options.small else engines
    jobs = [job_of(engine, options.home.absolute(), (options.out / engine.name).absolute(), end) for engine in engines]
    if options.step == "all":  # what keeps the machine busy comes first, of all engines
        rest = [(name, job) for job in jobs for name in ("identify", "seal", "measure", "score")]
        todo = [(name, job) for name in ("setup", "models") for job in jobs] + rest
    else:
        todo = [(options.step, job) for job in jobs]
    return run(todo)


def job_of(engine: Engine, home: Path, out: Path, end: float) -> Job:
    """Without any server yet."""
    return Job(engine, home, out, end, Machine(engine, home, out / "logs"))


def run(todo: list[tuple[str, Job]]) -> int:
    """One after the other; the steps of an engine end at the first that is not whole."""
    unfinished: set[str] = set()
    for name, job in todo:
        if job.engine.name in unfinished:
            continue
        print(f"== {job.engine.label}: {name}", flush=True)
        try:
            whole = STEPS[name](job)
        except (Failed, subprocess.CalledProcessError) as problem:
            print(f"{job.engine.label}: {name}: {problem}", file=sys.stderr, flush=True)
            whole = False
        if not whole:
            unfinished.add(job.engine.name)
            job.machine.stop()
    return 1 if unfinished else 0


if __name__ == "__main__":
    sys.exit(main())

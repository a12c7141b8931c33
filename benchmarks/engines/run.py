"""Predictions sealed before they are measured, on engines that others wrote: `make engines`, or one step of it.

    python -m benchmarks.engines.run all                          # both engines, from nothing; the same again resumes
    python -m benchmarks.engines.run all --minutes 30             # stops at a good place
    python -m benchmarks.engines.run measure --engine vllm        # one step: setup, models, identify, seal, measure or score

What is measured is in plan.py. Engines and models are kept in --home, results in --out. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engines import models, scenarios
from benchmarks.engines.cells import identified, knee_rps, measured, missing, probes
from benchmarks.engines.measure import SHARED, Machine, pace_of, run_cells
from benchmarks.engines.plan import ENGINES, Engine, small
from benchmarks.engines.processes import Failed, alone_in, cores, end_with_this_program, local_directly
from benchmarks.engines.setup import setup
from simulator.errors import DsimError


@dataclass(frozen=True)
class Job:
    """A step's engine, its folders, when it has to stop (time.monotonic), and its servers, which stay from identifying to measuring."""

    engine: Engine
    home: Path
    out: Path
    end: float
    machine: Machine


def _setup(job: Job) -> bool:
    _two_cores()
    setup(job.home, "vllm")  # also the client of the others
    setup(job.home, job.engine.name)
    return True


def _models(job: Job) -> bool:
    models.make(job.home, job.engine)
    return True


def _two_cores() -> None:
    """Raises Failed where server and client cannot have a core each: better before an hour of preparing than after."""
    if sys.platform != "linux" or shutil.which("taskset") is None:
        raise Failed("server and client are put on a core each: that takes Linux and its taskset")
    client, server = cores()
    if client == server:
        raise Failed(f"server and client need a core each, and this program may use core {server} alone: see taskset -p {os.getpid()}")


def _identify(job: Job) -> bool:
    if (job.out / "seal.json").exists():  # what was sealed is of the probes that there were
        return True
    _two_cores()
    return run_cells(probes(job.engine, job.out), job.machine, job.out, job.end)


def _seal(job: Job) -> bool:
    if (job.out / "seal.json").exists():
        return True
    cells = probes(job.engine, job.out)
    begun = {cell.policy for cell in cells if cell.result.exists()}
    if lost := [cell for cell in missing(cells) if cell.policy in begun | {"none"}]:  # a drafter without any could not be served, and was said
        raise Failed(f"{len(lost)} probes are missing, the first {lost[0].result}: run it again before anything is sealed")
    if any((job.out / "measured").glob("*/*/*.json")):
        raise Failed(f"{job.out}/measured has results of another seal: move {job.out} away, and begin anew")
    paces = [pace_of(cell) for cell in cells if cell.result.exists()]
    least, most = min(paces), max(paces)
    shared = ": something shares the core, and no fit can be closer than that; measure elsewhere, or at another time" if most > SHARED * least else ""
    print(f"the fixed piece of work took {1000 * least:.2f} to {1000 * most:.2f} ms beside the probes{shared}", flush=True)
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
    try:
        alone_in(options.home)
    except Failed as problem:
        parser.error(str(problem))
    end_with_this_program()
    local_directly()
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
        except (Failed, DsimError, OSError, subprocess.CalledProcessError) as problem:
            print(f"{job.engine.label}: {name}: {problem}", file=sys.stderr, flush=True)
            whole = False
        if not whole:
            unfinished.add(job.engine.name)
            job.machine.stop()
    return 1 if unfinished or any(job.machine.failed for _, job in todo) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The GPU battery: everything that waits for a CUDA device, in steps of under ten minutes, what is worth most first.

    python -m benchmarks.gpu                           all steps, on the GPU; again: those that are not done yet
    python -m benchmarks.gpu --step times_4b           one of them, also if it is done
    python -m benchmarks.gpu --minutes 9 --out DIR     stop in time, and keep DIR/gpu.tar.gz of all results, to unpack in the repository
    python -m benchmarks.gpu --device cpu --small      the rehearsal, for machines without a GPU

Each step runs in a process group of its own, with a limit, so that one that fails or hangs leaves the others alone and nothing on the GPU. It leaves
JSON and a log under benchmarks/results/<device>/; profiles go to profiles/<device>-<model>. Whatever ends this program loses one step at most, of
profiles and of the engine's runs what was being measured. Needs no network. A later step is one more function in STEPS.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks import gpu_needs
from benchmarks.engines.processes import Group, end_with_this_program, reason
from benchmarks.gpu_profiles import cost_only, engine_compared, real_pair, trained
from benchmarks.gpu_steps import ROOT, Job, checks, graphs, parity, tests
from benchmarks.gpu_times import times

RESULTS = ROOT / "benchmarks" / "results"
LIMIT_S, LEAST_S = 590, 20  # of a step; time left below which none is begun
LIMITS_S = {"checks": 180}  # two minutes, and what the last one takes
KEPT_EVERY_S = 30

STEPS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "checks": checks,
    "tests": tests,
    "parity": parity,
    "graphs": graphs,
    "profile_small": real_pair,
    "engine_small": engine_compared,
    "profile_8b": cost_only("8b"),
    "times_8b": times("8b"),
    "profile_4b": cost_only("4b"),
    "times_4b": times("4b"),
    "train_small": trained,
}


def run_here(job: Job) -> int:
    """One step in this process."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if job.device == "cpu":
        torch.set_num_threads(1)
    elif ":" in job.device:  # graphs, streams and events are made on the current device
        torch.cuda.set_device(torch.device(job.device))
    begun = time.perf_counter()
    result = STEPS[job.step](job)
    job.keep({**result, "wall_s": time.perf_counter() - begun})
    return 1 if result["ok"] is False else 0


def end_with_parent() -> None:
    """Ends this process group when whoever started it is gone, however it ended: nothing stays on the GPU."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _forked(job: Job, log: Path) -> None:
    """The step in a copy of this process, with a session and a log of its own."""
    os.setsid()
    end_with_parent()
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    for number in (1, 2):  # and of what it starts
        os.dup2(sys.stdout.fileno(), number)
    sys.exit(run_here(job))


def started(job: Job, log: Path) -> Group | BaseProcess:
    """The step in a process group of its own. A CPU's is a copy of this process, which imports what takes seconds once for all steps; a CUDA device
    allows no copies."""
    if job.device == "cpu":
        for module in ("real_runner.drafters.loading", "real_runner.engine", "transformers.models.qwen3.modeling_qwen3"):
            importlib.import_module(module)
        child = multiprocessing.get_context("fork").Process(target=_forked, args=(job, log))
        child.start()
        return child
    words = [sys.executable, "-m", "benchmarks.gpu", "--device", job.device, "--step", job.step, "--here", str(job.results)]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return Group([*words, *(["--small"] if job.small else [])], log, {"PYTHONPATH": path})


def code_of(process: Group | BaseProcess, seconds: float) -> int | None:
    """Its exit code; none where it still runs after so many seconds."""
    if isinstance(process, Group):
        with suppress(subprocess.TimeoutExpired):
            return process.process.wait(seconds)
        return None
    process.join(seconds)
    return process.exitcode


def stop(process: Group | BaseProcess) -> None:
    """Ends it and all that it started."""
    if isinstance(process, Group):
        process.stop()
    elif process.pid is not None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def run_step(job: Job, limit_s: float, keep: Callable[[], None]) -> tuple[int, str]:
    """The exit code of a step, and a few words on it; `keep` is called now and then."""
    file, log = job.results / f"{job.step}.json", job.results / f"{job.step}.log"
    job.results.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # what an earlier run left must not stand for this one
    end, code = time.monotonic() + limit_s, None
    process = started(job, log)
    try:
        while code is None and (left := end - time.monotonic()) > 0:
            code = code_of(process, min(left, KEPT_EVERY_S))
            keep()
    finally:
        stop(process)
        keep()
    if code is None:
        return 1, f"stopped after {limit_s:.0f} s"
    result = kept_of(job)
    if code == 0:
        return 0, f"skipped: {result['skipped']}" if "skipped" in result else "ok"
    return code, "does NOT hold" if result.get("ok") is False else f"failed with {code}: {reason(log)}"


def kept_of(job: Job) -> dict[str, Any]:
    """What a step's JSON says; nothing where there is none."""
    try:
        return dict(json.loads((job.results / f"{job.step}.json").read_text()))
    except (OSError, ValueError):
        return {}


def pack(out: Path, results: Path) -> None:
    """All results of this device in out/gpu.tar.gz, from the repository's root on; whole at any time."""
    out.mkdir(parents=True, exist_ok=True)
    half = out / ".gpu.tar.gz"
    with tarfile.open(half, "w:gz", compresslevel=1) as archive:
        for folder in (results, *sorted((ROOT / "profiles").glob(f"{results.name}-*"))):
            if folder.exists():
                archive.add(folder, folder.relative_to(ROOT))
    half.rename(out / "gpu.tar.gz")


def name_of(device: str) -> str:
    """What the GPU is called, asked in another process: this one keeps off it. Empty where there is none."""
    code = "import sys, torch; print(torch.cuda.get_device_name(sys.argv[1]) if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", code, device], capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Run the steps. Exit code 1 if one of them fails or is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny dimensions")
    parser.add_argument("--step", choices=STEPS, action="append", help="only these, also if they are done")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many; the same call resumes")
    parser.add_argument("--out", type=Path, help="folder for gpu.tar.gz, all results in one file, kept whole after every step")
    parser.add_argument("--here", type=Path, metavar="RESULTS", help="one step in this process, which ends with the one that started it")
    options = parser.parse_args()
    if options.here is not None:
        end_with_parent()
        return run_here(Job(options.step[0], options.device, options.small, options.here))
    if lacking := gpu_needs.missing():
        print(gpu_needs.advice(lacking), file=sys.stderr)
        return 2
    end, name = time.monotonic() + 60 * options.minutes, "cpu-rehearsal" if options.device == "cpu" else name_of(options.device)
    if not name:
        print("no CUDA device is visible: nothing to run here; rehearse with --device cpu --small", file=sys.stderr)
        return 2
    results, worst = RESULTS / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), 0
    end_with_this_program()
    for step in options.step or STEPS:
        job, begun, left = Job(step, options.device, options.small, results), time.monotonic(), end - time.monotonic()
        before = kept_of(job)
        if not options.step and not job.small and not before.get("small", True) and before.get("ok") is not None:
            code, outcome = (0, "ok before") if before["ok"] else (1, f"did NOT hold before: measure again with --step {step}")
        elif left < LEAST_S:
            code, outcome = 1, "not begun"
        else:
            keep = (lambda: pack(options.out, results)) if options.out else lambda: None
            code, outcome = run_step(job, min(LIMITS_S.get(step, LIMIT_S), left), keep)
        worst = max(worst, min(abs(code), 1))
        print(f"{step:<15}{time.monotonic() - begun:7.1f} s   {outcome}", flush=True)
        print(*(f"    {line}\n" for line in kept_of(job).get("lines", ())), sep="", end="", flush=True)
    print(f"results: {results.relative_to(ROOT)}")
    return worst


if __name__ == "__main__":
    sys.exit(main())

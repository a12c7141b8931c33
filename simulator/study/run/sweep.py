"""All points of a scenario: policies × loads × replications on all cores, each kept when done, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from simulator.errors import DsimError, ScenarioError
from simulator.files import write_whole
from simulator.study.run.bundle import paths_in
from simulator.study.run.point import Part, Point, check_traffic, parts, row_of, run_part, run_point
from simulator.study.run.scenario import Scenario, validate_scenario
from simulator.study.run.tables import RequestsFile, StepsFile

Row = dict[str, Any]
KINDS: dict[str, type[StepsFile | RequestsFile]] = {"steps": StepsFile, "requests": RequestsFile}
_scenario: Scenario | None = None
_unfinished = False  # does this process hold files that are not whole
_holding = 0  # blocks that hold signals back, one in the other
_leaving = False  # has this worker been asked to end


def points(scenario: Scenario) -> list[Point]:
    """Every point, in the order of the result tables."""
    replications = range(scenario.run.replications)
    return [Point(number, load, k) for number, policy in enumerate(scenario.policies) for load in scenario.loads(policy) for k in replications]


def sweep(
    scenario: Scenario,
    keep: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    workers: int | None = None,
    details: Sequence[str] = (),
    ray: str | None = None,
) -> list[Row]:
    """Rows of all points. Points found in `keep` are not run again; each new one is written there as soon as it is done.

    `details` names per-point tables (steps, requests) to be written beside the rows. Interrupting loses only the points under way. `ray` is
    the address of a cluster to run on instead of this machine's cores.
    """
    check_traffic(scenario)
    every = points(scenario)
    mark = fingerprint(scenario)
    new = [folder for folder in (keep, *keep.parents) if not os.path.exists(folder)] if keep else []
    rows: dict[Point, Row] = {}
    for point in every:
        kept = _kept(keep, mark, point, details)
        if kept is not None:
            rows[point] = kept
    todo = _long_first([p for p in every if p not in rows])
    progress(len(rows), len(every))
    if ray is None:
        found = _run(scenario, todo, workers or os.cpu_count() or 1, keep, mark, details)
    else:
        found = _run_on_ray(scenario, todo, ray, keep, mark, details)
    for point, row in found:
        rows[point] = row
        progress(len(rows), len(every))
    ordered = [rows[p] for p in every]
    if all(not row["requests"] for row in ordered):
        _withdraw(every, keep, new)
        raise ScenarioError(
            "no request finished at any point",
            where=scenario.file,
            key="load",
            remedy="lower the load, shorten the requests, or give more KV memory or time (run.drain_s)",
        )
    return ordered


def fingerprint(scenario: Scenario) -> str:
    """Changes when anything that the numbers depend on does: the scenario, the files it names, the code."""
    from importlib.metadata import version

    digest = hashlib.blake2b(digest_size=12)
    relevant = {k: v for k, v in scenario.content.items() if k not in ("question", "sla", "validation", "notes", "baseline")}
    digest.update(json.dumps([relevant, version("dsim")], sort_keys=True, default=str).encode())
    for profile in (scenario.known, scenario.believed):
        for file in profile.files():
            digest.update(file.name.encode() + file.read_bytes())
    for file in (*_traffic_files(scenario), *_code()):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _traffic_files(scenario: Scenario) -> Iterator[Path]:
    """The trace, and the columns that lengths are drawn from."""
    workload = scenario.workload
    if workload.trace is not None:
        yield workload.trace.find(scenario.folder)
    if workload.servegen is not None:
        yield from workload.servegen.files()
    for lengths in (workload.prompt_tokens, workload.output_tokens):
        if lengths is not None:
            yield from paths_in(lengths.model_dump())


def code_mark() -> str:
    """Tells this dsim from another whose numbers may differ."""
    digest = hashlib.blake2b(digest_size=12)
    for file in _code():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _code() -> list[Path]:
    """The modules that make the numbers: a checkout changes without its version."""
    package = Path(__file__).parents[2]
    rooms = (package / room for room in ("traffic", "measurements", "policies", "engine"))
    study = (package / "study" / "run" / f"{module}.py" for module in ("scenario", "point", "metrics", "spread"))
    return [*sorted(file for room in rooms for file in room.glob("*.py")), *study, package / "rng.py"]


def _run(
    scenario: Scenario, todo: Sequence[Point], workers: int, keep: Path | None, mark: str, details: Sequence[str]
) -> Iterator[tuple[Point, Row]]:
    tasks = _tasks(scenario, todo, details)
    if workers == 1 or len(tasks) <= 1:
        for point in todo:
            yield point, _one(scenario, point, keep, mark, details)
        return
    pool = ProcessPoolExecutor(min(workers, len(tasks)), multiprocessing.get_context("spawn"), _begin, (scenario.content, scenario.file))
    resource_tracker.ensure_running()  # the first start of it would let signals through again
    try:
        with held(signal.SIGINT):  # for the workers' whole life: they are born with it. Ctrl-C is the parent's business
            waiting: dict[Future[Row | Part], Point] = {pool.submit(_work, p, part, keep, mark, tuple(details)): p for p, part in tasks}
            done = Done(waiting)
        gather = Gathering(scenario)
        while waiting:
            future = done.next()
            point, found = waiting.pop(future), future.result()
            row = gather(point, found) if isinstance(found, Part) else found
            if row is not None:
                if isinstance(found, Part):
                    _keep(row, point, keep, mark, details)
                yield point, row
    except BrokenExecutor:
        raise DsimError(
            "a worker process died", key="--workers", remedy="often for want of memory: run again with fewer, what is done is kept"
        ) from None
    finally:
        end_pool(pool)


class Done:
    """Futures in the order in which they end. `concurrent.futures.wait` takes the lock of every future, and a Ctrl-C there leaves some of them
    taken, at which the pool then waits for ever; here the main thread waits at a queue alone."""

    def __init__(self, futures: Iterable[Future[Any]] = ()) -> None:
        self._ended: SimpleQueue[Future[Any]] = SimpleQueue()
        for future in futures:
            self.expect(future)

    def expect(self, future: Future[Any]) -> None:
        """One more that will end."""
        future.add_done_callback(self._ended.put)

    def next(self) -> Future[Any]:
        """Waits for one."""
        return self._ended.get()


def end_pool(pool: ProcessPoolExecutor) -> None:
    """No worker outlives its work: each may finish the file it is writing, then is ended, by force if it must be. Nor does the pool's own thread,
    which would close its pipe while the interpreter's end writes to it."""
    workers = list((getattr(pool, "_processes", None) or {}).values())  # the pool forgets both when it shuts down
    manager = getattr(pool, "_executor_manager_thread", None)
    pool.shutdown(wait=False, cancel_futures=True)
    _end(workers)
    if manager is not None:
        manager.join(2)


def _end(workers: Sequence[BaseProcess]) -> None:
    for act in (BaseProcess.terminate, BaseProcess.kill):
        for process in workers:
            with suppress(OSError, ValueError):
                if process.is_alive():
                    act(process)
        for process in workers:
            with suppress(OSError, ValueError, AssertionError):
                process.join(2)


@contextmanager
def held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back until the block ends, in this thread and for good in processes started meanwhile (not on Windows). A library's thread may
    take a signal all the same, and Python then runs its handler here: `_leave` waits for the end of the block as well."""
    global _holding  # noqa: PLW0603
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers) if masks else set()
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _leaving and not _holding:
            _leave()


def _leave(*_: object) -> None:
    """A worker is asked to end. Files that are not whole are removed on the way out; where there are none it goes at once, for an exception may
    come up inside a library's callback (a compiler's), which would swallow it."""
    global _leaving  # noqa: PLW0603
    _leaving = True
    if _holding:
        return
    if _unfinished:
        sys.exit(143)
    os._exit(143)


def be_a_worker() -> None:
    """This process may be ended at any time, and ends behind the file it is writing."""
    signal.signal(signal.SIGTERM, _leave)


def _begin(content: dict[str, Any], file: Path) -> None:
    """A worker reads the scenario once."""
    global _scenario  # noqa: PLW0603
    be_a_worker()
    _scenario = validate_scenario(content, file)


def _work(point: Point, part: int | None, keep: Path | None, mark: str, details: tuple[str, ...]) -> Row | Part:
    assert _scenario is not None
    return _one(_scenario, point, keep, mark, details) if part is None else run_part(_scenario, point, part)


def _tasks(scenario: Scenario, todo: Sequence[Point], details: Sequence[str]) -> list[tuple[Point, int | None]]:
    """What is handed out: points, or their parts where they have some and write no tables."""
    count = parts(scenario)
    return [(point, part) for point in todo for part in (range(count) if count > 1 and not details else (None,))]


class Gathering:
    """Parts as they come in, until a point has all of its."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.count = scenario, parts(scenario)
        self.here: dict[Point, dict[int, Part]] = {}

    def __call__(self, point: Point, found: Part) -> Row | None:
        """The row of the point when this was the last of its parts."""
        here = self.here.setdefault(point, {})
        here[found.number] = found
        if len(here) < self.count:
            return None
        del self.here[point]  # a meter holds all its values up to 65 536
        return row_of(self.scenario, point, [here[part] for part in range(self.count)])


def _one(scenario: Scenario, point: Point, keep: Path | None, mark: str, details: Sequence[str]) -> Row:
    """Run a point, write its tables and last its row: a row that is there says that all of the point is."""
    row = run_whole(scenario, point, {name: keep / f"{_name(point)}.{name}.parquet" for name in details} if keep else {})
    _keep(row, point, keep, mark, details)
    return row


def run_whole(scenario: Scenario, point: Point, paths: dict[str, Path]) -> Row:
    """Run a point; its tables (steps, requests) are at their paths afterwards, whole, or nothing is."""
    head = {"policy": scenario.policies[point.policy].name, "load": point.load, "replication": point.replication}
    global _unfinished  # noqa: PLW0603
    files = [KINDS[name](path, head) for name, path in paths.items()]
    whole, _unfinished = False, bool(files)
    try:
        row = run_point(scenario, point, files)
        whole = True
    finally:
        with held(signal.SIGINT, signal.SIGTERM):  # the one ends a sweep, the other a worker: not in the middle of a file
            for file in files:
                file.close(whole)
            _unfinished = False
    return row


def _keep(row: Row, point: Point, keep: Path | None, mark: str, details: Sequence[str]) -> None:
    """Write down that a point is done."""
    if keep is not None:
        with held(signal.SIGINT, signal.SIGTERM):
            write_whole(keep / f"{_name(point)}.json", json.dumps({"fingerprint": mark, "details": sorted(details), "row": row}))


def _run_on_ray(
    scenario: Scenario, todo: Sequence[Point], address: str, keep: Path | None, mark: str, details: Sequence[str]
) -> Iterator[tuple[Point, Row]]:
    """Points of a Ray cluster, their rows and tables written here."""
    from simulator.study.run.cluster import run_on_ray

    gather, tasks = Gathering(scenario), _tasks(scenario, todo, details if keep else ())
    for point, found, files in run_on_ray(scenario, tasks, address, mark, code_mark(), details if keep else ()) if todo else ():
        row = gather(point, found) if isinstance(found, Part) else found
        if row is None:
            continue
        for name, content in files.items():
            assert keep is not None
            write_whole(keep / f"{_name(point)}.{name}.parquet", content)
        _keep(row, point, keep, mark, details)
        yield point, row


def _withdraw(every: Sequence[Point], keep: Path | None, new: Sequence[Path]) -> None:
    """Take back what the sweep wrote: there is no result that it could be part of."""
    for point in every if keep else ():
        for suffix in ("json", "steps.parquet", "requests.parquet"):
            (keep / f"{_name(point)}.{suffix}").unlink(missing_ok=True)  # type: ignore[operator]
    for folder in new:
        with suppress(OSError):
            folder.rmdir()


def _name(point: Point) -> str:
    return f"{point.policy}-{str(float(point.load)).removesuffix('.0')}-{point.replication}"


def _kept(keep: Path | None, mark: str, point: Point, details: Sequence[str]) -> Row | None:
    """The row of a point that was done before, for this very scenario."""
    if keep is None:
        return None
    try:
        found = json.loads((keep / f"{_name(point)}.json").read_text())
        return found["row"] if found["fingerprint"] == mark and set(details) <= set(found["details"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _long_first(todo: list[Point]) -> list[Point]:
    """High loads take longest: first, so that no core waits for them at the end."""
    return sorted(todo, key=lambda p: -p.load)


def check_workers(workers: int | None) -> int | None:
    """Number of processes asked for. Raises DsimError when it makes no sense."""
    if workers is not None and workers < 1:
        raise DsimError(f"{workers} worker processes cannot work", where="--workers", remedy="give 1 or more")
    return workers

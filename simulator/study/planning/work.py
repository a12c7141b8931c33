"""Many searches on one pool of processes: trials are run once, kept when done, and an interrupted plan goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.study.planning.question import Plan, make_plan
from simulator.study.planning.trial import Row, Trial, run_trial
from simulator.study.run.sweep import Done, be_a_worker, end_pool, fingerprint, held

Key = TypeVar("Key")
Found = TypeVar("Found")
Told = Callable[[int, int], None]  # trials done, trials asked for so far
_plan: Plan | None = None


class Bench:
    """Runs the trials that searches ask for, on `workers` processes, and keeps each in `keep`."""

    def __init__(self, plan: Plan, keep: Path | None = None, workers: int | None = None, told: Told = lambda _done, _asked: None) -> None:
        self.plan, self.keep, self.told = plan, keep, told
        self.workers = workers or os.cpu_count() or 1
        self.marks = [_mark(plan, cell) for cell in range(len(plan.cells))]
        self.rows: dict[Trial, Row] = {}
        self.asked: set[Trial] = set()
        self._pool: ProcessPoolExecutor | None = None
        self._done = Done()

    def __enter__(self) -> Bench:
        if self.workers > 1:
            start = (self.plan.asked._content, self.plan.file)
            self._pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _begin, start)
            resource_tracker.ensure_running()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            end_pool(self._pool)

    def run(self, searches: Mapping[Key, Generator[list[Trial], list[Row], Found]]) -> dict[Key, Found]:
        """Drive all searches to their ends, side by side; what each found."""
        wanted: dict[Key, list[Trial]] = {}
        found: dict[Key, Found] = {}
        running: dict[Future[Row], Trial] = {}
        self._done = Done()  # what an earlier run no longer waited for does not come here
        for key, search in searches.items():
            self._advance(key, search, None, wanted, found)
        try:
            while wanted:
                for key in list(wanted):  # a search may go on several times on kept rows alone
                    while key in wanted and all(t in self.rows for t in wanted[key]):
                        self._advance(key, searches[key], [self.rows[t] for t in wanted[key]], wanted, found)
                self._order(wanted, running)
                if running:
                    self._collect(running)
        except BrokenExecutor:
            remedy = "often for want of memory: run again with fewer, what is done is kept"
            raise DsimError("a worker process died", key="--workers", remedy=remedy) from None
        return found

    def _advance(self, key: Key, search: Any, rows: list[Row] | None, wanted: dict[Key, list[Trial]], found: dict[Key, Any]) -> None:
        try:
            wanted[key] = next(search) if rows is None else search.send(rows)
            for trial in wanted[key]:
                if trial not in self.asked:
                    self.asked.add(trial)
                    row = self._kept(trial)
                    if row is not None:
                        self.rows[trial] = row
            self.told(len(self.rows), len(self.asked))
        except StopIteration as end:
            wanted.pop(key, None)
            found[key] = end.value

    def _order(self, wanted: dict[Key, list[Trial]], running: dict[Future[Row], Trial]) -> None:
        """Give the pool what is wanted and not under way; without a pool, run one here."""
        under_way = set(running.values())
        missing = [t for trials in wanted.values() for t in trials if t not in self.rows and t not in under_way]
        if self._pool is None:
            if missing:
                self._note(missing[0], _one(self.plan, missing[0], self._file(missing[0]), self.marks[missing[0].cell]))
            return
        with held(signal.SIGINT):  # workers are born with it: Ctrl-C is the parent's business
            for trial in dict.fromkeys(missing):
                future = self._pool.submit(_work, trial, self._file(trial), self.marks[trial.cell])
                running[future] = trial
                self._done.expect(future)

    def _collect(self, running: dict[Future[Row], Trial]) -> None:
        future = self._done.next()
        self._note(running.pop(future), future.result())

    def _note(self, trial: Trial, row: Row) -> None:
        self.rows[trial] = row
        self.told(len(self.rows), len(self.asked))

    def _file(self, trial: Trial) -> Path | None:
        """Where a trial is kept: named by what its numbers depend on, so that another order of the policies finds it too."""
        return self.keep / f"{self.marks[trial.cell][:12]}-{trial.name.partition('-')[2]}.json" if self.keep else None

    def _kept(self, trial: Trial) -> Row | None:
        file = self._file(trial)
        if file is None:
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return content["row"] if content["fingerprint"] == self.marks[trial.cell] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _mark(plan: Plan, cell: int) -> str:
    """Changes when anything that a trial's numbers depend on does."""
    asked = plan.asked
    depends = [asked.sla.model_dump(), asked.fleet.start_up_s]
    digest = hashlib.blake2b(fingerprint(plan.cells[cell].scenario).encode() + json.dumps(depends, sort_keys=True).encode(), digest_size=12)
    for module in ("trial", "changes"):
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()


def _begin(content: dict[str, Any], file: Path) -> None:
    """A worker reads the question once."""
    global _plan  # noqa: PLW0603
    be_a_worker()
    _plan = make_plan(content, file)


def _work(trial: Trial, file: Path | None, mark: str) -> Row:
    assert _plan is not None
    return _one(_plan, trial, file, mark)


def _one(plan: Plan, trial: Trial, file: Path | None, mark: str) -> Row:
    row = run_trial(plan, trial)
    if file is not None:
        with held(signal.SIGINT, signal.SIGTERM):
            write_whole(file, json.dumps({"fingerprint": mark, "row": row}))
    return row

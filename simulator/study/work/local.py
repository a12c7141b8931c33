"""Tasks on the cores of this machine. However it ends, no process, no lock and no half-written file stay behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from simulator.errors import DsimError
from simulator.study.work.kept import Results, Task
from simulator.study.work.signals import be_a_worker, held

MOST_WORKERS = 1024
_question: Any = None  # of a worker


def worker_count(workers: int | None) -> int:
    """The number of processes asked for, by default that of the cores. Raises DsimError below 1 and above 1024."""
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        remedy = f"this machine has {os.cpu_count()} cores"
        raise DsimError(f"expected 1 to {MOST_WORKERS}, got {workers}", where="--workers", remedy=remedy)
    return workers or os.cpu_count() or 1


def local(todo: deque[Task], workers: int, question: Any, read: Callable[[], Any], folder: Path | None, alone_s: float = 0.0) -> Results:
    """Results by `workers` processes that each `read` the question once, or by this very process, which has it: all of them, or for `alone_s`
    seconds those that are last in line."""
    start_s = time.process_time()
    while todo and workers > 1 and time.process_time() - start_s < alone_s:
        task = todo.pop()
        yield task, task.do(question, folder)
    if todo and workers > 1:
        yield from _pooled(todo, workers, read, folder)
    while True:
        task = todo.popleft()
        yield task, task.do(question, folder)


def _pooled(todo: deque[Task], workers: int, read: Callable[[], Any], folder: Path | None) -> Results:
    """They are waited for at a queue: `concurrent.futures.wait` takes the lock of every future, and a Ctrl-C there leaves some of them taken, at
    which the pool then waits for ever.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (read,))
    running: dict[Future[Any], Task] = {}
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    resource_tracker.ensure_running()  # the first start of it would let signals through again
    try:
        while True:
            with held(signal.SIGINT):  # for the workers' whole life: they are born with it. Ctrl-C is the parent's business
                while todo:
                    task = todo.popleft()
                    future = pool.submit(_work, task, folder)
                    running[future] = task
                    future.add_done_callback(ended.put)
            future = ended.get()
            yield running.pop(future), future.result()
    except BrokenExecutor:
        remedy = "often for want of memory: run again with fewer, what is done is kept"
        raise DsimError("a worker process died", key="--workers", remedy=remedy) from None
    finally:
        _end(pool)


def _begin(read: Callable[[], Any]) -> None:
    global _question  # noqa: PLW0603
    be_a_worker()
    _question = read()


def _work(task: Task, folder: Path | None) -> Any:
    return task.do(_question, folder)


def _end(pool: ProcessPoolExecutor) -> None:
    """No worker outlives its work: each may finish the file it is writing, then is ended, by force if it must be. Nor does the pool's own thread,
    which would close its pipe while the interpreter's end writes to it."""
    workers: Sequence[BaseProcess] = list((getattr(pool, "_processes", None) or {}).values())  # the pool forgets both when it shuts down
    manager = getattr(pool, "_executor_manager_thread", None)
    pool.shutdown(wait=False, cancel_futures=True)
    for act in (BaseProcess.terminate, BaseProcess.kill):
        for process in workers:
            with suppress(OSError, ValueError):
                if process.is_alive():
                    act(process)
        for process in workers:
            with suppress(OSError, ValueError, AssertionError):
                process.join(2)
    if manager is not None:
        manager.join(2)

"""Tasks on a Ray cluster: the question travels with its files, lost workers are tried again, results are those of a local run."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections import deque
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.study.work.bundle import Bundle
from simulator.study.work.kept import Results, Task, code_mark

TRIES = 10  # of a task whose workers are lost
LOCAL = "local"
_unpacked: dict[str, tuple[Any, tempfile.TemporaryDirectory[str]]] = {}  # on a node: the question by its mark, and where its files are


def cluster(todo: deque[Task], address: str, bundle: Bundle[Any], folder: Path | None) -> Results:
    """Results by a cluster; tables are written to `folder` on this machine. `local` starts a Ray of its own here; `auto` and host:port join one.

    Raises DsimError where Ray is not installed, the cluster is not there or a node has another dsim.
    """
    if find_spec("ray") is None:
        raise DsimError("needs Ray, which is not installed", where="--ray", remedy="pip install 'dsim[ray]'")
    bundle.check()
    import ray

    started = not ray.is_initialized()
    if started:
        _join(address)
    try:
        remote, sent, running = ray.remote(num_cpus=1, max_retries=TRIES)(on_node), ray.put(bundle), {}
        while True:
            while todo:
                task = todo.popleft()
                running[remote.remote(sent, bundle.mark, code_mark(), task)] = task
            (done,), _ = ray.wait(list(running), num_returns=1)
            task, (result, files) = running.pop(done), _result(ray, done)
            for path, content in check_returned(task, files, folder).items():
                write_whole(path, content)
            yield task, result
    finally:
        if started:
            ray.shutdown()


def check_returned(task: Task, files: dict[str, bytes], folder: Path | None) -> dict[Path, bytes]:
    """The tables that a node made, by their paths in `folder`. Raises DsimError where one is not a table of the task."""
    for name in files:
        if folder is None or name not in {f"{task.name}.{detail}.parquet" for detail in task.details}:
            problem = f"expected the tables of task {task.name}, got file {name[:80]!a} from a node of the cluster"
            raise DsimError(problem, where="--ray", remedy="use a cluster that you trust")
    return {folder / name: content for name, content in files.items()} if folder else {}


def _join(address: str) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, include_dashboard=False, **quiet)
        else:
            host, colon, port = address.removeprefix("ray://").rpartition(":")
            if colon:  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError) as problem:
        reason = getattr(problem, "strerror", None) or (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DsimError(f"no Ray cluster at '{address}' ({reason})", where="--ray", remedy="start one with `ray start`, or use --ray local") from None


def _result(ray: Any, reference: Any) -> Any:
    """What `on_node` returned. Raises DsimError where it did, or where the task lost its workers."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, DsimError):
            raise problem.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError):
        remedy = "often for want of memory: give workers more, and run again, what is done is kept"
        raise DsimError(f"a task lost its worker {TRIES + 1} times", where="--ray", remedy=remedy) from None


def on_node(bundle: Bundle[Any], mark: str, code: str, task: Task) -> tuple[Any, dict[str, bytes]]:
    """On the cluster: the result of a task, and its tables by name. Raises DsimError where the node has another dsim."""
    if code_mark() != code:
        remedy = "install the same on all nodes"
        raise DsimError(f"a node of the cluster has another dsim than this machine ({version('dsim')} there)", where="--ray", remedy=remedy)
    if mark not in _unpacked:
        _unpacked.clear()
        folder = tempfile.TemporaryDirectory(prefix="dsim-scenario-")
        _unpacked[mark] = bundle.unpack(Path(folder.name)), folder
    with tempfile.TemporaryDirectory(prefix="dsim-") as out:
        result = task.do(_unpacked[mark][0], Path(out))
        return result, {file.name: file.read_bytes() for file in Path(out).iterdir()}

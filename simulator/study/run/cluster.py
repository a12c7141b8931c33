"""The points of a sweep as tasks of a Ray cluster: lost workers are tried again, rows are those of a local run."""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.study.run.bundle import Bundle, bundle
from simulator.study.run.point import Part, Point, run_part
from simulator.study.run.scenario import Scenario

Row = dict[str, Any]
Files = dict[str, bytes]  # by kind: steps, requests
TRIES = 10  # of a point whose workers are lost
LOCAL = "local"
_unpacked: dict[str, Scenario] = {}


def check_ray(address: str | None) -> str | None:
    """The cluster asked for. Raises DsimError where Ray is not installed."""
    if address is not None and find_spec("ray") is None:
        raise DsimError("needs Ray, which is not installed", where="--ray", remedy="pip install 'dsim[ray]'")
    return address


def run_on_ray(
    scenario: Scenario, tasks: Sequence[tuple[Point, int | None]], address: str, mark: str, code: str, details: Sequence[str]
) -> Iterator[tuple[Point, Row | Part, Files]]:
    """Rows and tables of all points, or their parts, as they are done. `local` starts a Ray of its own here; `auto` and host:port join a cluster."""
    import ray

    started = not ray.is_initialized()
    if started:
        _join(address)
    try:
        task = ray.remote(num_cpus=1, max_retries=TRIES)(_point)
        sent = ray.put(bundle(scenario))
        waiting = {task.remote(sent, point, part, mark, code, tuple(details)): point for point, part in tasks}
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=1)
            point = waiting.pop(done[0])
            yield point, *_result(ray, done[0])
    finally:
        if started:
            ray.shutdown()


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
        told = getattr(problem, "strerror", None) or (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DsimError(f"no Ray cluster at '{address}' ({told})", where="--ray", remedy="start one with `ray start`, or use --ray local") from None


def _result(ray: Any, reference: Any) -> tuple[Row | Part, Files]:
    try:
        found: tuple[Row | Part, Files] = ray.get(reference)
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, DsimError):
            raise problem.cause from None
        raise
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError):
        remedy = "often for want of memory: give workers more, and run again, what is done is kept"
        raise DsimError(f"a point lost its worker {TRIES + 1} times", where="--ray", remedy=remedy) from None
    return found


def _point(sent: Bundle, point: Point, part: int | None, mark: str, code: str, details: Sequence[str]) -> tuple[Row | Part, Files]:
    """On the cluster: one point, or a part of it, from the files of the bundle."""
    from simulator.study.run.sweep import code_mark, run_whole

    if code_mark() != code:
        remedy = "install the same on all nodes"
        raise DsimError(f"a node of the cluster has another dsim than this machine ({version('dsim')} there)", where="--ray", remedy=remedy)
    with tempfile.TemporaryDirectory(prefix="dsim-") as folder:
        if mark not in _unpacked:
            _unpacked.clear()
            _unpacked[mark] = sent.unpack(Path(tempfile.mkdtemp(prefix="dsim-scenario-")))
        files = {name: Path(folder) / f"{name}.parquet" for name in details}
        if part is not None:
            return run_part(_unpacked[mark], point, part), {}
        row = run_whole(_unpacked[mark], point, files)
        return row, {name: path.read_bytes() for name, path in files.items()}

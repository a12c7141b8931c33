"""What runs while the kernel is not compiled: small runs take the plain path at once, and a process of its own compiles for the next run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import cache

import numpy as np

from simulator.engine.fast import CompiledRun, lower
from simulator.engine.given import ClosedTraffic, Fleet, OpenTraffic, ReplicaSettings, SessionTraffic, Traffic
from simulator.engine.kernel.kept import is_compiled, kept_in
from simulator.engine.records import Kept
from simulator.measurements.cost import Costs
from simulator.measurements.prices import RoundCost
from simulator.measurements.replay import nothing_drafted
from simulator.policies.routing import LeastLoaded
from simulator.policies.verification import NoSpeculation
from simulator.traffic.request import RequestColumns

NOT_KEPT = "compiled code cannot be kept"
_PATIENCE = 100_000  # steps that a process plays uncompiled before it compiles by itself: some ten seconds, less than compiling takes
_left = _PATIENCE
_TESTING = {"CI", "PYTEST_CURRENT_TEST"}


def why_plain(traffic: Traffic, fleet: Fleet) -> str:
    """Why a run that could be compiled is not: nothing is compiled yet, and it ends before that would be. Empty where it is.

    Tests, which must end with all their processes, compile at once.
    """
    global _left  # noqa: PLW0603
    if not _left or is_compiled() or os.environ.keys() & _TESTING or (steps := _steps(traffic, fleet)) > _left:
        _left = 0
        return _numba_fails()
    _left -= int(steps)
    if kept_in() is None:
        return NOT_KEPT
    _compile_beside()
    return "the compiled engine is being made for the next run"


@cache
def _numba_fails() -> str:
    """Why numba cannot be used though it is installed, with another NumPy than its own for example. Empty where it can."""
    try:
        import simulator.engine.kernel.run  # noqa: F401
    except (ImportError, OSError, RuntimeError) as problem:
        return f"numba cannot be used ({' '.join(str(problem).split())})"
    return ""


def _steps(traffic: Traffic, fleet: Fleet) -> float:
    """About how many steps a run takes, or more: each request gets one token a step, beside the others of the batch."""
    if isinstance(traffic, ClosedTraffic):
        users, turns = np.arange(traffic.users)[:, None], np.arange(traffic.turns + 1)
        tokens = traffic.source.draw(users, turns)[..., 1]  # type: ignore[attr-defined]
        answer_s = max(tokens.mean() * fleet.prices.round_s(1, 1.0)[0], 1e-6)
        running = traffic.users / fleet.replicas * answer_s / (answer_s + traffic.source.pause_s(users, turns).mean())
        return float(tokens.sum() / max(min(running, fleet.settings.max_batch), 1.0))
    if isinstance(traffic, SessionTraffic):
        return float(fleet.replicas * (traffic.until_s + traffic.drain_s) / max(fleet.prices.round_s(1, 1.0)[0], 1e-6))
    tokens = RequestColumns.of(traffic.specs).output_tokens.sum()
    if traffic.in_flight is not None and traffic.until_s == np.inf:  # a benchmark client keeps so many in flight
        return float(tokens / min(traffic.in_flight / fleet.replicas, fleet.settings.max_batch))
    return float(min(tokens, fleet.replicas * (traffic.until_s + traffic.drain_s) / max(fleet.prices.round_s(1, 1.0)[0], 1e-6)))


@cache
def _compile_beside() -> None:
    """Compile in a process that outlives this one and lets others go first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    silent = subprocess.DEVNULL
    subprocess.Popen([sys.executable, "-P", "-m", __name__], env=environment, stdin=silent, stdout=silent, stderr=silent, start_new_session=True)


def compile_now() -> None:
    """Compile by running the kernel, unless another process is at it or done."""
    folder = kept_in()
    if folder is None or is_compiled():
        return
    os.nice(19)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends, however it does
        except BlockingIOError:
            return
        costs = Costs.model_validate({
            "verify": {"provenance": "synthetic", "kind": "curve", "base_s": 0.01, "per_token_s": 0.0, "measured_tokens": [1, 1]},
            "overhead": {"provenance": "synthetic", "seconds": 0.0},
        })  # fmt: skip
        prices = RoundCost(costs, None, 0, 0, None, None)
        fleet = Fleet(
            1, ReplicaSettings(), NoSpeculation(), nothing_drafted(), prices, prices, LeastLoaded(), None, 16, np.random.default_rng(0)
        )  # fmt: skip
        traffic = OpenTraffic((), 0.0, 1.0, 0.0)
        CompiledRun(traffic, fleet, lower(traffic, fleet)[0], Kept()).run()


if __name__ == "__main__":
    compile_now()

"""Serves a load with the real engine and writes the same request and step tables as the simulator, so that the two can be laid side by side."""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from real_runner.engine import Engine
from real_runner.environment import machine
from real_runner.records import ServedRequest, request_table, step_table
from real_runner.rounds import Device
from real_runner.target import Target
from simulator.errors import DsimError
from simulator.names import as_cells

PASSES = 5  # of a load, until one captures nothing

Maker = Callable[[Device | None], Engine]


def serve(make: Maker, load: Sequence[ServedRequest], concurrency: int | None, device: Device | None = None) -> Engine:
    """Serves the load, `concurrency` requests at a time or as they arrive, and again on the same graphs while steps had to capture some: the times
    of the last engine, which is returned, are those of serving, but where PASSES were not enough. `make(device)` gives an engine."""
    for _ in range(PASSES):
        engine, requests = make(device), [request.anew() for request in load]
        if concurrency is None:
            engine.run(requests)
        else:
            closed_loop(engine, requests, concurrency)
        if not any(step.captured_graphs for step in engine.steps):
            break
        device = engine.device
    return engine


def closed_loop(engine: Engine, requests: Sequence[ServedRequest], concurrency: int) -> list[ServedRequest]:
    """Keeps `concurrency` requests in the engine: the next one arrives when one has finished."""
    coming = deque(requests)
    engine.begin()
    for _ in range(min(concurrency, len(coming))):
        engine.submit(coming.popleft())
    seen, more = 0, True
    while more:
        more = engine.step()
        for _ in range(min(len(engine.finished) - seen, len(coming))):
            coming[0].arrival_s = engine.now()
            engine.submit(coming.popleft())
            more = True
        seen = len(engine.finished)
    return engine.finished


def summary(engine: Engine, target: Target, policy_name: str, warm_steps: int) -> dict[str, Any]:
    """What the run was and the few numbers people look at first; `warm_steps` are left out of the times."""
    steps = [step for step in engine.steps[warm_steps:] if not step.captured_graphs]
    verified = [part for step in engine.steps for part in step.rounds]
    busy = sum(step.end_s - step.start_s for step in steps)
    return {
        "policy": policy_name,
        "target": target.name,
        "drafter": None if engine.drafter is None else str(engine.drafter.spec.folder),
        "lossless": engine.lossless,
        "slots": engine.slots,
        "tiers": None if engine.tiers is None else engine.tiers.model_dump(),
        "requests": len(engine.finished),
        "rounds": len(verified),
        "accepted_length": sum(p.tokens for p in verified) / len(verified) if verified else None,
        "verified_per_round": sum(p.verified for p in verified) / len(verified) if verified else None,
        "committed_tokens_per_s": sum(step.committed for step in steps) / busy if busy else None,
        "captured_graphs": engine.device.runner.captured,
        "machine": machine(target),
    }


def write(out: Path, engine: Engine, policy_name: str, report: dict[str, Any]) -> None:
    """requests.csv, steps.csv and run.json, all or none."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".half") as half:
            made = Path(half) / "made"
            made.mkdir()
            as_cells(request_table(engine.finished, policy_name)).to_csv(made / "requests.csv", index=False)
            step_table(engine.steps).to_csv(made / "steps.csv", index=False)
            (made / "run.json").write_text(json.dumps(report, indent=2) + "\n")
            made.rename(out)
    except OSError as error:
        raise DsimError(f"cannot be written: {error.strerror}", where=out, remedy="give a folder that does not exist yet") from error

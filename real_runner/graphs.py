"""One way to run a step on every device: eagerly, or from a CUDA graph captured per shape."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

from simulator.errors import DsimError

Step = Callable[..., tuple[Tensor | None, ...]]


def refuse_waiting_rope(config: Any) -> None:
    """Raises DsimError where the model's rotary embedding reads the longest position back in each step, which no graph can."""
    config = config.get_text_config()
    parts = getattr(config, "rope_parameters", None) or {}
    for part in (parts, *(part for part in parts.values() if isinstance(part, dict))):
        kind = str(part.get("rope_type"))
        if "dynamic" in kind or kind == "longrope":
            problem = f"rotary embedding of type {kind!r} waits for the device in each step, so steps cannot be captured"
            raise DsimError(problem, key="rope_type", remedy="use --no-tiers")


class Runner(Protocol):
    """Runs `step(*inputs)`; equal `key`s promise equal shapes and the same Python path."""

    captured: int

    def run(self, key: Hashable, step: Step, *inputs: Tensor) -> tuple[Tensor | None, ...]: ...


class Eager:
    """Calls the step."""

    captured = 0

    def run(self, key: Hashable, step: Step, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        return step(*inputs)


class Captured:
    """The first call of a key runs eagerly and is then captured without running; later calls copy their inputs and replay.

    A step may change state in place (caches, positions): it runs once per call either way. Outputs live until the next call of any key, graphs
    share their memory: keep a copy of what is needed later.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, tuple[Any, tuple[Tensor, ...], tuple[Tensor | None, ...]]] = {}
        self._pool: Any = None
        self._side: Any = None  # one stream for all first calls: each stream has memory of its own

    @property
    def captured(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    def run(self, key: Hashable, step: Step, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        if key not in self._graphs:
            return self._capture(key, step, inputs)
        graph, held, outputs = self._graphs[key]
        for own, new in zip(held, inputs, strict=True):
            if own.data_ptr() != new.data_ptr():
                own.copy_(new, non_blocking=True)
        graph.replay()
        return outputs

    def _capture(self, key: Hashable, step: Step, inputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        held = tuple(tensor.clone() for tensor in inputs)
        self._side = self._side or torch.cuda.Stream()
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            first = step(*held)
        torch.cuda.current_stream().wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # an older graph that is finalised during a capture would break it
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = step(*held)
        finally:
            if collecting:
                gc.enable()
        self._pool = graph.pool() if self._pool is None else self._pool
        self._graphs[key] = (graph, held, outputs)
        return first

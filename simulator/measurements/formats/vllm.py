"""vLLM's numbers, read and written: the cost curves of adaptive verification, a table of lengths by batch size. Its counters: scrapes.py.

Forms as in vllm-project/vllm at 057929c (v1/worker/gpu/spec_decode/adaptive_verification.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator, Field

from simulator.measurements.formats.reading import MOST_PROBES, Part, read_document
from simulator.quantities import Within

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class CostCurves:
    """Milliseconds of drafting by requests and of verifying by tokens, rising; above `graph_limit` tokens steps run without captured graphs
    (0: unknown)."""

    draft: list[tuple[float, float]]
    verify: list[tuple[float, float]]
    graph_limit: int


Point = Annotated[list[Annotated[float, Within(1e-6, 1e8)]], Field(min_length=2, max_length=2)]  # requests or tokens, milliseconds


def _rising(curve: list[list[float]]) -> list[list[float]]:
    for (before, _), (after, _) in pairwise(curve):
        if after <= before:
            raise ValueError(f"expected rising sizes, got {after:.15g} after {before:.15g}")
    if curve[0][0] < 1:
        raise ValueError(f"expected sizes of at least 1, got {curve[0][0]:g}")
    if (most := max(ms for _, ms in curve)) > 1e6:
        raise ValueError(f"expected at most 1e+06 ms, got {most:g}")
    return curve


Curve = Annotated[list[Point], Field(min_length=1, max_length=MOST_PROBES), AfterValidator(_rising)]


class _Curves(Part):
    draft_curve: Curve
    verify_curve: Curve
    cudagraph_limit: Annotated[int, Within(0, 1e8, "tokens")] | None = None


def read_cost_curves(path: Path) -> CostCurves:
    """The arguments of `set_cost_curves` as JSON: draft_curve [[requests, ms], …], verify_curve [[tokens, ms], …] and cudagraph_limit. The engine
    keeps them in memory: dump them from there. Times are made rising, as the engine does. Raises DsimError with file and field."""
    document = read_document(path, "draft_curve", "verify_curve")
    curves = document.read(_Curves)
    limit, least = curves.cudagraph_limit or 0, curves.verify_curve[0][0]
    if limit and limit < least:
        raise document.fail("cudagraph_limit", f"expected at least the smallest profiled step, {least:g}, got {limit}")
    return CostCurves(_never_falling(curves.draft_curve), _never_falling(curves.verify_curve), limit)


def _never_falling(curve: list[list[float]]) -> list[tuple[float, float]]:
    top = np.maximum.accumulate([y for _, y in curve]).tolist()
    return [(x, y) for (x, _), y in zip(curve, top, strict=True)]


def lengths_by_batch_json(table: Sequence[tuple[int, int, int]]) -> str:
    """`num_speculative_tokens_per_batch_size`: [first, last, length], ends included, for --speculative-config."""
    return json.dumps({"num_speculative_tokens_per_batch_size": [list(row) for row in table]}) + "\n"

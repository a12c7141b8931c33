"""vLLM's numbers, read and written: the cost curves of adaptive verification, the `vllm:spec_decode_*` counters, a table of lengths by batch size.

Forms as in vllm-project/vllm at 057929c (v1/worker/gpu/spec_decode/adaptive_verification.py) and 016a858 (v1/spec_decode/metrics.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.formats.reading import read_fields
from simulator.reading.opening import read_text

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PREFIX = "vllm:spec_decode_num_"
PER_POSITION = f"{PREFIX}accepted_tokens_per_pos"
SCRAPE = "scrape /metrics of a vLLM server that speculates"


@dataclass(frozen=True)
class CostCurves:
    """Milliseconds of drafting by requests and of verifying by tokens, rising; above `graph_limit` tokens steps run without captured graphs
    (0: unknown)."""

    draft: list[tuple[float, float]]
    verify: list[tuple[float, float]]
    graph_limit: int


@dataclass(frozen=True)
class SpecCounters:
    """Rounds, drafted and accepted tokens, and how many rounds accepted each position."""

    drafts: float
    draft_tokens: float
    accepted_tokens: float
    per_position: list[float]

    @property
    def survival(self) -> list[float]:
        """P(at least k accepted), k = 1 … γ."""
        return [count / self.drafts for count in self.per_position]

    @property
    def accepted_length(self) -> float:
        """Tokens committed per round, bonus included."""
        return 1 + self.accepted_tokens / self.drafts


def read_cost_curves(path: Path) -> CostCurves:
    """The arguments of `set_cost_curves` as JSON: draft_curve [[requests, ms], …], verify_curve [[tokens, ms], …] and cudagraph_limit. The engine
    keeps them in memory: dump them from there. Times are made rising, as the engine does. Raises DsimError with file and field."""
    fields = read_fields(path, "draft_curve", "verify_curve")
    draft, verify = (fields.pairs(key) for key in ("draft_curve", "verify_curve"))
    limit = fields.whole("cudagraph_limit") if "cudagraph_limit" in fields else 0
    if limit and limit < verify[0][0]:
        raise fields.fail("cudagraph_limit", f"expected at least the smallest profiled step, {verify[0][0]:g}, got {limit}")
    return CostCurves(_rising(draft), _rising(verify), limit)


def _rising(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    top = np.maximum.accumulate([y for _, y in curve]).tolist()
    return [(x, y) for (x, _), y in zip(curve, top, strict=True)]


def read_counters(path: Path, before: Path | None = None) -> SpecCounters:
    """Counters of all engines in a scrape of /metrics, less those of an earlier scrape. Raises DsimError with file and counter."""
    now = _counters(path)
    if before is None:
        return _checked(now, path)
    then = _counters(before)
    if len(then.per_position) != len(now.per_position):
        problem = f"expected {len(now.per_position)} positions as in the later scrape, got {len(then.per_position)}"
        raise DsimError(problem, where=before, key=PER_POSITION, remedy="scrape one server")
    per_position = [a - b for a, b in zip(now.per_position, then.per_position, strict=True)]
    less = SpecCounters(now.drafts - then.drafts, now.draft_tokens - then.draft_tokens, now.accepted_tokens - then.accepted_tokens, per_position)
    if min(less.drafts, less.draft_tokens, less.accepted_tokens, *per_position) < 0:
        raise DsimError("a counter fell between the scrapes", where=path, key=f"{PREFIX}drafts", remedy="the server was restarted: scrape it again")
    return _checked(less, path)


def counters_in(text: str, where: Path | str) -> SpecCounters | None:
    """The counters in a scrape, None where the server does not speculate. Raises DsimError where they are broken."""
    totals: dict[str, float] = defaultdict(float)
    positions: dict[str, float] = defaultdict(float)
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(PREFIX):
            continue
        sample = _sample(line, f"{where}:{number}")
        name = sample.name.removesuffix("_total")
        if name == PER_POSITION:
            positions[sample.labels.get("position", "")] += sample.value
        elif not name.endswith("_created"):
            totals[name] += sample.value
    if not totals and not positions:
        return None
    for key in (f"{PREFIX}drafts", f"{PREFIX}draft_tokens", f"{PREFIX}accepted_tokens"):
        if key not in totals:
            raise DsimError("is missing", where=where, key=key, remedy=SCRAPE)
    counted = [positions.get(str(k)) for k in range(len(positions))]
    per_position = [count for count in counted if count is not None]
    if not per_position or len(per_position) < len(positions):
        raise DsimError(f"expected positions from 0 on, got {sorted(positions)}", where=where, key=PER_POSITION, remedy="scrape /metrics again")
    return SpecCounters(totals[f"{PREFIX}drafts"], totals[f"{PREFIX}draft_tokens"], totals[f"{PREFIX}accepted_tokens"], per_position)


def _sample(line: str, where: str) -> Sample:
    """The sample on a line of Prometheus' text format. Raises DsimError where it is no count."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        (sample,) = (sample for family in text_string_to_metric_families(line) for sample in family.samples)
    except ValueError:
        raise DsimError(f"expected a Prometheus sample, got {line[:80]!r}", where=where, remedy="scrape /metrics again") from None
    if not 0 <= sample.value < float("inf"):
        raise DsimError(f"expected a count, got {sample.value}", where=where, key=sample.name, remedy="scrape /metrics again")
    return sample


def _counters(path: Path) -> SpecCounters:
    text = read_text(path)
    if text.lstrip().startswith(("{", "[")):
        raise DsimError("expected a scrape of /metrics, got JSON", where=path, remedy=SCRAPE)
    counters = counters_in(text, path)
    if counters is None:
        raise DsimError("is missing", where=path, key=f"{PREFIX}drafts", remedy=SCRAPE)
    return counters


def _checked(counters: SpecCounters, path: Path) -> SpecCounters:
    """The counters, if rounds were counted and survival falls. Raises DsimError."""
    if counters.drafts <= 0:
        raise DsimError("counts no drafted round", where=path, key=f"{PREFIX}drafts", remedy="scrape again after some traffic")
    for k, (longer, shorter) in enumerate(zip(counters.per_position, [counters.drafts, *counters.per_position], strict=False)):
        if longer > shorter:
            problem = f"position {k} was accepted {longer:g} times, more often than the one before ({shorter:g})"
            raise DsimError(problem, where=path, key=PER_POSITION, remedy="scrape /metrics again")
    return counters


def lengths_by_batch_json(table: Sequence[tuple[int, int, int]]) -> str:
    """`num_speculative_tokens_per_batch_size`: [first, last, length], ends included, for --speculative-config."""
    return json.dumps({"num_speculative_tokens_per_batch_size": [list(row) for row in table]}) + "\n"

"""vLLM's numbers, read and written: the cost curves of adaptive verification, the `vllm:spec_decode_*` counters, a table of lengths by batch size.

Forms as in vllm-project/vllm at 057929c (v1/worker/gpu/spec_decode/adaptive_verification.py) and 016a858 (v1/spec_decode/metrics.py).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator, Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.reading import AGREE, MOST_PROBES, Part, read_document
from simulator.quantities import MOST_SLOTS, Within
from simulator.reading.opening import read_text

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PREFIX = "vllm:spec_decode_num_"
PER_POSITION = f"{PREFIX}accepted_tokens_per_pos"
MOST_SAMPLES, LONGEST = 20_000, 10_000  # counters of speculation in a scrape (of all engines), and characters of one
MOST_COUNT = 1e15
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

    @property
    def budget(self) -> float:
        """Tokens verified per round, anchor included."""
        return 1 + self.draft_tokens / self.drafts


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


def read_counters(path: Path, before: Path | None = None) -> SpecCounters:
    """Counters of all engines in a scrape of /metrics, less those of an earlier scrape. Raises DsimError with file and counter, also where no round
    was counted."""
    counters = _counters(path)
    counters = _checked(counters, path) if before is None else counted_between(_counters(before), counters, path)
    if counters.drafts == 0:
        raise DsimError("counts no drafted round", where=path, key=f"{PREFIX}drafts", remedy="scrape again after some traffic")
    return counters


def counted_between(before: SpecCounters, after: SpecCounters, where: Path | str) -> SpecCounters:
    """What was counted between two scrapes of one server. Raises DsimError where a counter fell."""
    if (count := len(before.per_position)) != len(after.per_position):
        problem = f"expected {count} positions as in the earlier scrape, got {len(after.per_position)}"
        raise DsimError(problem, where=where, key=PER_POSITION, remedy="scrape one server")
    names = ("drafts", "draft_tokens", "accepted_tokens", *("accepted_tokens_per_pos" for _ in range(count)))
    earlier, later = ((c.drafts, c.draft_tokens, c.accepted_tokens, *c.per_position) for c in (before, after))
    for name, then, now in zip(names, earlier, later, strict=True):
        if now < then:
            problem = f"fell from {then:.15g} to {now:.15g} between the scrapes"
            raise DsimError(problem, where=where, key=f"{PREFIX}{name}", remedy="the server was restarted, or the files are exchanged: scrape again")
    rounds, drafted, accepted, *per_position = (now - then for then, now in zip(earlier, later, strict=True))
    return _checked(SpecCounters(rounds, drafted, accepted, per_position), where)


def counters_in(text: str, where: Path | str) -> SpecCounters | None:
    """The counters in a scrape, None where the server does not speculate. Raises DsimError where they are broken."""
    totals: dict[str, float] = defaultdict(float)
    positions: dict[str, float] = defaultdict(float)
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        name = re.split(r"[{\s]", line, maxsplit=1)[0].removesuffix("_total") if line.startswith(PREFIX) else "_created"
        if name.endswith("_created"):
            continue
        if len(seen) == MOST_SAMPLES:
            raise DsimError(f"expected at most {MOST_SAMPLES:,} counters of speculation", where=where, remedy="scrape one server")
        sample = _sample(line, f"{where}:{number}")
        if (series := (name, frozenset(sample.labels.items()))) in seen:
            raise DsimError("appears twice", where=f"{where}:{number}", key=sample.name, remedy="give one scrape in a file")
        seen.add(series)
        if name == PER_POSITION:
            positions[sample.labels.get("position", "")] += sample.value
        else:
            totals[name] += sample.value
    if not totals and not positions:
        return None
    for key in (f"{PREFIX}drafts", f"{PREFIX}draft_tokens", f"{PREFIX}accepted_tokens"):
        if key not in totals:
            raise DsimError("is missing", where=where, key=key, remedy=SCRAPE)
    if len(positions) > MOST_SLOTS:
        raise DsimError(f"expected at most {MOST_SLOTS} positions, got {len(positions)}", where=where, key=PER_POSITION)
    names = [str(k) for k in range(len(positions))]
    if not names or set(names) != set(positions):
        labels = shown(", ".join(sorted(positions)))
        raise DsimError(f"expected positions from 0 on, got {labels}", where=where, key=PER_POSITION, remedy="scrape /metrics again")
    per_position = [positions[name] for name in names]
    return SpecCounters(totals[f"{PREFIX}drafts"], totals[f"{PREFIX}draft_tokens"], totals[f"{PREFIX}accepted_tokens"], per_position)


def _sample(line: str, where: str) -> Sample:
    """The sample on a line of Prometheus' text format. Raises DsimError where it is no count."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        if len(line) > LONGEST:
            raise ValueError
        (sample,) = (sample for family in text_string_to_metric_families(line) for sample in family.samples)
    except (ValueError, LookupError):
        raise DsimError(f"expected a Prometheus sample, got {shown(line)}", where=where, remedy="scrape /metrics again") from None
    if not (0 <= sample.value <= MOST_COUNT and sample.value == int(sample.value)):
        raise DsimError(f"expected a count, got {sample.value:g}", where=where, key=sample.name[:80], remedy="scrape /metrics again")
    return sample


def _counters(path: Path) -> SpecCounters:
    text = read_text(path)
    if text.lstrip().startswith(("{", "[")):
        raise DsimError("expected a scrape of /metrics, got JSON", where=path, remedy=SCRAPE)
    counters = counters_in(text, path)
    if counters is None:
        raise DsimError("is missing", where=path, key=f"{PREFIX}drafts", remedy=SCRAPE)
    return counters


def _checked(counters: SpecCounters, where: Path | str) -> SpecCounters:
    """The counters, where they do not contradict one another. Raises DsimError."""

    def refuse(name: str, problem: str) -> None:
        raise DsimError(problem, where=where, key=f"{PREFIX}{name}", remedy="scrape /metrics again: its counters contradict one another")

    rounds, drafted, accepted, per_position = counters.drafts, counters.draft_tokens, counters.accepted_tokens, counters.per_position
    if not rounds <= drafted <= rounds * len(per_position):
        refuse("draft_tokens", f"expected 1 to {len(per_position)} tokens for each of {rounds:,.0f} drafts, got {drafted:,.0f}")
    if accepted > drafted:
        refuse("accepted_tokens", f"expected at most the {drafted:,.0f} drafted tokens, got {accepted:,.0f}")
    for position, (before, count) in enumerate(pairwise([rounds, *per_position])):
        if count > before:
            refuse("accepted_tokens_per_pos", f"position {position} was accepted {count:,.0f} times, more often than the one before ({before:,.0f})")
    if abs(sum(per_position) - accepted) > AGREE * accepted:
        refuse("accepted_tokens_per_pos", f"expected {accepted:,.0f} accepted tokens in all positions, got {sum(per_position):,.0f}")
    return counters


def lengths_by_batch_json(table: Sequence[tuple[int, int, int]]) -> str:
    """`num_speculative_tokens_per_batch_size`: [first, last, length], ends included, for --speculative-config."""
    return json.dumps({"num_speculative_tokens_per_batch_size": [list(row) for row in table]}) + "\n"

"""vLLM's numbers, read and written: the cost curves of adaptive verification, the `vllm:spec_decode_*` counters, a table of lengths by batch size.

Forms as in vllm-project/vllm at 057929c (v1/worker/gpu/spec_decode/adaptive_verification.py) and 016a858 (v1/spec_decode/metrics.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.formats.reading import read_json

PREFIX = "vllm:spec_decode_num_"
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class CostCurves:
    """Milliseconds of drafting by requests and of verifying by tokens, rising; above `graph_limit` tokens steps run without captured graphs
    (0: not told)."""

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
    fields = read_json(path)
    draft, verify = (fields.pairs(key) for key in ("draft_curve", "verify_curve"))
    limit = fields.whole("cudagraph_limit") if "cudagraph_limit" in fields else 0
    if limit and limit < verify[0][0]:
        raise fields.fail("cudagraph_limit", f"must be at least the smallest profiled step, {verify[0][0]:g} (got {limit})")
    return CostCurves(_rising(draft), _rising(verify), limit)


def _rising(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    top = np.maximum.accumulate([y for _, y in curve]).tolist()
    return [(x, y) for (x, _), y in zip(curve, top, strict=True)]


def read_counters(path: Path, before: Path | None = None) -> SpecCounters:
    """Counters of all engines from /metrics in Prometheus' text form; less those of an earlier scrape. Raises DsimError with file and counter."""
    now = _counters(path)
    if before is None:
        return _checked(now, path)
    then = _counters(before)
    if len(then.per_position) != len(now.per_position):
        raise DsimError("has other positions than the later scrape", where=before, key=f"{PREFIX}accepted_tokens_per_pos", remedy="scrape one server")
    gone = [a - b for a, b in zip(now.per_position, then.per_position, strict=True)]
    less = SpecCounters(now.drafts - then.drafts, now.draft_tokens - then.draft_tokens, now.accepted_tokens - then.accepted_tokens, gone)
    if min(less.drafts, less.draft_tokens, less.accepted_tokens, *gone) < 0:
        raise DsimError("a counter fell between the scrapes", where=path, key=f"{PREFIX}drafts", remedy="the server was restarted: scrape it again")
    return _checked(less, path)


def counters_in(text: str, where: Path | str) -> SpecCounters | None:
    """The counters in a scrape, None where the server does not speculate. Raises DsimError where they are broken."""
    totals: dict[str, float] = {}
    positions: dict[int, float] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith(PREFIX):
            continue
        sample = _SAMPLE.match(line.strip())
        place = f"{where}:{number}"
        name = (sample[1] if sample else line.split("{")[0].split()[0]).removeprefix(PREFIX).removesuffix("_total")
        if name.endswith("_created"):
            continue
        try:
            value = float(sample[3]) if sample else float("nan")
        except ValueError:
            value = float("nan")
        if not 0 <= value < float("inf"):
            raise DsimError(f"not a counter's line ({line.strip()[:60]!r})", where=place, key=PREFIX + name, remedy="scrape /metrics again")
        if name == "accepted_tokens_per_pos":
            label = dict(_LABEL.findall(sample[2] or "")).get("position", "") if sample else ""
            if not label.isdigit():
                raise DsimError("has no position", where=place, key=PREFIX + name, remedy="scrape /metrics again")
            positions[int(label)] = positions.get(int(label), 0.0) + value
        else:
            totals[name] = totals.get(name, 0.0) + value
    if not totals and not positions:
        return None
    for name in ("drafts", "draft_tokens", "accepted_tokens"):
        if name not in totals:
            raise DsimError("is missing", where=where, key=PREFIX + name, remedy="scrape /metrics of a vLLM server that speculates")
    if sorted(positions) != list(range(len(positions))) or not positions:
        raise DsimError("positions must count up from 0", where=where, key=f"{PREFIX}accepted_tokens_per_pos", remedy="scrape /metrics again")
    return SpecCounters(totals["drafts"], totals["draft_tokens"], totals["accepted_tokens"], [positions[k] for k in sorted(positions)])


def _counters(path: Path) -> SpecCounters:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DsimError("no such file", where=path, remedy="check the path") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise DsimError(f"cannot be read ({problem})", where=path) from None
    found = counters_in(text, path)
    if found is None:
        raise DsimError("is missing", where=path, key=f"{PREFIX}drafts", remedy="scrape /metrics of a vLLM server that speculates")
    return found


def _checked(counters: SpecCounters, path: Path) -> SpecCounters:
    """Rounds there are, and survival that falls."""
    if counters.drafts <= 0:
        raise DsimError("no round was drafted", where=path, key=f"{PREFIX}drafts", remedy="scrape again after some traffic")
    for k, (longer, shorter) in enumerate(zip(counters.per_position, [counters.drafts, *counters.per_position], strict=False)):
        if longer > shorter:
            raise DsimError(
                f"position {k} was accepted {longer:g} times, more often than the one before ({shorter:g})",
                where=path, key=f"{PREFIX}accepted_tokens_per_pos", remedy="scrape /metrics again",
            )  # fmt: skip
    return counters


def lengths_by_batch_json(table: Sequence[tuple[int, int, int]]) -> str:
    """`num_speculative_tokens_per_batch_size`: [first, last, length], ends included, for --speculative-config."""
    return json.dumps({"num_speculative_tokens_per_batch_size": [list(row) for row in table]}) + "\n"

"""A file of requests as a trace: times in seconds from the first arrival, tokens, and what a reader must know of how it was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from simulator.arrays import Integers
from simulator.errors import TraceError
from simulator.traffic.content import hashed_prompts
from simulator.traffic.gathering import Gathering, Wanted, gathered, unix_unit
from simulator.traffic.prefix_blocks import block_tokens as block_of
from simulator.traffic.prefix_blocks import chained, seen_before
from simulator.traffic.request import RequestColumns
from simulator.traffic.trace_files import TraceFile
from simulator.traffic.trace_forms import MOONCAKE, PER_SECOND, Unit

_SPELT: dict[Unit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_LATEST_S = 1e11  # the year 5138: no time in seconds
_LONGEST_S = 3 * 365 * 86400.0
# Mean gap and mean rate of a service whose unit nobody stated: beyond the first said to be doubtful, beyond the second refused.
_SLOW_S, _FAST_RPS = (5.0, 60.0), (20.0, 100.0)
_ENOUGH = {"ms": 3, "s": 10}  # requests that show it, by the unit that it seems to be


@dataclass(frozen=True)
class Recording:
    """The requests of a trace, or those in a window of it, in order of arrival; what is cached of their prompts where they come again; and of all of
    it: what was read in a line (requests, span, rate, unit, blocks, dropped rows), the last arrival, and the tokens of the longest prompt and answer
    together."""

    requests: RequestColumns
    again_cached_tokens: Integers  # [n]
    words: str
    last_s: float
    longest_tokens: int


def recorded(file: TraceFile, wanted: Wanted, block_tokens: int | None, simulated: bool = False) -> Recording:
    """The trace in a file. Rows may come in any order: they are sorted by arrival, and the first becomes time 0. What is cached of prompts follows
    from hash_ids, or is `simulated` later on. Raises TraceError."""
    layout, columns = wanted.layout, wanted.layout.columns
    if wanted.cached and "hash_ids" not in columns:
        raise TraceError("the trace has no hash_ids", where=file.path, key="workload.trace.prefix_cache", remedy="set it to none")
    if wanted.cached and "cached_prompt_tokens" in columns:
        problem = "the trace has cached_prompt_tokens of its own"
        raise TraceError(problem, where=file.path, key="workload.trace.prefix_cache", remedy="set it to none")
    rows = gathered(file, wanted)
    _refuse_empty_rows(rows)
    notes = [_arrivals(file, rows)]
    clock = rows.right_clock
    if rows.clock not in (None, clock):
        rows = gathered(file, wanted, clock)
    row, time, prompt, output, cached, domain = rows.columns()
    time_s = clock.seconds(time)
    order = np.argsort(time_s, kind="stable")
    contents, again = None, cached
    if wanted.cached:
        usual = layout.form.block_tokens if layout.form else MOONCAKE.block_tokens
        place, blocks, tokens = (np.concatenate(column) for column in zip(*rows.blocks, strict=True))
        block = block_of(file, columns["hash_ids"], blocks, tokens, place, usual, block_tokens)
        counts, ids = (np.concatenate(column) for column in zip(*rows.ids, strict=True))
        ids = chained(counts, ids)
        contents = hashed_prompts(ids, counts, prompt, block) if simulated else None
        cached = np.zeros_like(prompt) if simulated else np.minimum(seen_before(counts, ids, order) * block, prompt - 1)
        again = np.zeros_like(prompt) if simulated else np.minimum(counts * block, prompt - 1)
        how = " (inferred from hash_ids)" if block not in (usual, block_tokens) else ""
        notes.append(f"prefix blocks of {block:,} tokens{how}")
    elif "hash_ids" in columns:
        notes.append("hash_ids not used (prefix_cache: none)")
    if empty := rows.all_rows - rows.rows:
        notes.append(f"{empty:,} row{'s' if empty > 1 else ''} of 0 tokens dropped")
    names, place = np.unique(list(rows.domains) or [""], return_inverse=True)
    arrival_s = time_s - clock.origin_s
    requests = RequestColumns(row, arrival_s, prompt, output, cached, place[domain], tuple(names.tolist()), contents)
    requests, again = (requests, again) if (order[1:] > order[:-1]).all() else (requests[order], again[order])
    if wanted.window_s is not None:
        first, end = np.searchsorted(requests.arrival_s, wanted.window_s)
        requests, again = requests[first:end], again[first:end]
    for array in (requests.arrival_s, requests.prompt_tokens, requests.output_tokens, requests.cached_prompt_tokens, requests.domain, again):
        array.setflags(write=False)  # the trace is shared by all runs
    last_s = _span_s(rows)
    return Recording(requests, again, f"{spoken(rows.rows, last_s)}; {', '.join(notes)}", last_s, rows.longest_tokens)


def spoken(n: int, span_s: float) -> str:
    """Requests, span and mean rate of arrivals, such as "30 requests in 8.1 hours, one every 1,000 s"."""
    if n == 1:
        return "1 request"
    if span_s == 0:
        return f"{n:,} requests, all at once"
    unit, name = next((unit, name) for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "s")) if span_s >= 2 * unit or unit == 1)
    span = f"{span_s:.3g}" if unit == 1 else f"{span_s / unit:.1f}"
    gap_s, rps = span_s / (n - 1), (n - 1) / span_s
    rate = f"one every {gap_s:,.0f} s" if gap_s >= 10 else f"{rps:,.0f} per second" if rps >= 100 else f"{rps:.3g} per second"
    return f"{n:,} requests in {span} {name}, {rate} on average"


def _span_s(rows: Gathering) -> float:
    """Seconds from the first arrival to the last."""
    assert rows.high is not None
    clock = rows.right_clock
    return float(clock.seconds(np.array(rows.high.time))) - clock.origin_s


def _refuse_empty_rows(rows: Gathering) -> None:
    """Raise TraceError for rows of 0 tokens that are not to be dropped, or where there are no others."""
    n, (where, key) = rows.all_rows - rows.rows, rows.first_empty
    if not rows.rows:
        raise TraceError("every row has 0 tokens", where=where, key=key, remedy="use a file with at least one request")
    if n and not rows.wanted.drop_empty_rows:
        what = f"{n:,} of {rows.all_rows:,} rows have" if n > 1 else f"1 of {rows.all_rows:,} rows has"
        remedy = "write workload.trace.drop_empty_rows: true to leave out requests that failed"
        raise TraceError(f"{what} 0 tokens", where=where, key=key, remedy=remedy)


def _arrivals(file: TraceFile, rows: Gathering) -> str:
    """How arrivals were read. Raises TraceError where their unit is not clear or contradicts them."""
    column, configured = rows.wanted.layout.columns["arrival_s"], rows.wanted.unit
    assert rows.low is not None
    if rows.stamped:
        _refuse_span(rows, column)
        return f"date-times from {_date(rows.low.time / 1e9)}"
    unit = rows.unit
    if unit is None:
        remedy = f"its values begin {rows.first_cells}: write workload.trace.unit: s or ms"
        raise TraceError(f"the unit of '{column}' is not clear", where=file.where(0), key="workload.trace.unit", remedy=remedy)
    _refuse_epochs(rows, column, unit)
    if rows.wanted.layout.form is MOONCAKE and configured is None and rows.fraction is not None:
        # others write Mooncake's names with seconds
        remedy = "write workload.trace with unit: s, block_tokens: 16 for a trace of Qwen-Bailian or vLLM, or unit: ms"
        raise TraceError(f"{rows.fraction.time:g} is not a whole number of milliseconds", where=rows.fraction.where, key=column, remedy=remedy)
    _refuse_span(rows, column)
    if rows.unix_unit == unit:
        return f"arrivals in Unix {_SPELT[unit]} from {_date(rows.right_clock.origin_s)}"
    return f"arrivals in {_SPELT[unit]}{'' if configured is not None else _doubt(file, rows, column, unit)}"


def _date(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _refuse_epochs(rows: Gathering, column: str, unit: Unit) -> None:
    """Raise TraceError where values are Unix times in another unit, or lie beyond all times."""
    high = rows.high
    assert high is not None
    seen, beyond = rows.unix_unit, high.time / PER_SECOND[unit] > _LATEST_S
    seen = unix_unit(high.time, high.time) if beyond else seen
    if beyond or seen not in (None, unit):
        what = f"it looks like Unix {_SPELT[seen]}" if seen else "it is too large"
        remedy = f"write workload.trace.unit: {seen}" if seen else "fix or drop the row"
        raise TraceError(f"{high.cell} is not a time in {_SPELT[unit]}: {what}", where=high.where, key=column, remedy=remedy)


def _refuse_span(rows: Gathering, column: str) -> None:
    """Raise TraceError where a row lies years from the others."""
    span_s = _span_s(rows)
    if span_s > _LONGEST_S:
        assert rows.low is not None
        assert rows.high is not None
        mean = rows.sum_times / rows.rows
        far = rows.high if rows.high.time - mean > mean - rows.low.time else rows.low
        problem = f"arrivals span {span_s / (365 * 86400):,.0f} years (got {far.cell})"
        raise TraceError(problem, where=far.where, key=column, remedy="fix or drop the row, or set unit")


def _doubt(file: TraceFile, rows: Gathering, column: str, unit: Unit) -> str:
    """What to try where a rate suggests another unit than the one that nobody stated. Raises TraceError where whole numbers make it absurd."""
    span_s, n = _span_s(rows), rows.rows
    if span_s == 0 or rows.unix_unit is not None:
        return ""
    gap_s, rps = span_s / (n - 1), (n - 1) / span_s
    slow, fast = unit == "s" and gap_s >= _SLOW_S[0], rows.wanted.layout.form is MOONCAKE and rps >= _FAST_RPS[0]
    other: Unit = "ms" if slow else "s"
    if not (slow or fast) or n < _ENOUGH[other]:
        return ""
    if (gap_s >= _SLOW_S[1] if slow else rps >= _FAST_RPS[1]) and rows.fraction is None:
        problem = f"{spoken(n, span_s)}, read in {_SPELT[unit]}: are they {_SPELT[other]}?"
        remedy = f"write workload.trace.unit: {other}, or unit: {unit} if it is right"
        raise TraceError(problem, where=file.path, key=column, remedy=remedy)
    return f" (if they are {_SPELT[other]}, set unit: {other})"

"""A table of requests as a trace: times in seconds from the first arrival, tokens, and what a reader must know of how it was read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from simulator.arrays import Flags, Floats, Integers
from simulator.errors import TraceError
from simulator.traffic.prefix_blocks import block_tokens as block_of
from simulator.traffic.prefix_blocks import seen_before
from simulator.traffic.request import RequestColumns
from simulator.traffic.trace_files import Table
from simulator.traffic.trace_forms import AZURE, MOONCAKE, PER_SECOND, Layout, Unit

_SPELT: dict[Unit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_EPOCH_S = (1e9, 4e9)  # Unix times of 2001 to 2096
_LATEST_S = 1e11  # the year 5138: no time in seconds
_LONGEST_S = 3 * 365 * 86400.0
# Mean gap and mean rate of a service whose unit nobody stated: beyond the first said to be doubtful, beyond the second refused.
_SLOW_S, _FAST_RPS = (5.0, 60.0), (20.0, 100.0)
_ENOUGH = {"ms": 3, "s": 10}  # requests that show it, by the unit that it seems to be


@dataclass(frozen=True)
class Recording:
    """A trace and, in a line, what was read: requests, span, rate, unit, blocks, dropped rows."""

    requests: RequestColumns
    words: str


def recorded(table: Table, layout: Layout, *, unit: Unit | None, block_tokens: int | None, drop_empty_rows: bool, cached: bool) -> Recording:
    """The trace in a table. Rows may come in any order: they are sorted by arrival, and the first becomes time 0. Raises TraceError."""
    columns = layout.columns
    _refuse_sessions(table, columns["arrival_s"])
    names = columns["prompt_tokens"], columns["output_tokens"]
    prompt, output = (table.whole(name, least=0) for name in names)
    empty = (prompt == 0) | (output == 0)
    if empty.any():
        _refuse_empty_rows(table, {names[0]: prompt, names[1]: output}, empty, drop_empty_rows)
        table, prompt, output = table.without(empty), prompt[~empty], output[~empty]
    arrival_s, how = _arrivals(table, layout, unit)
    notes = [how]
    hits = np.zeros_like(prompt)
    if "cached_prompt_tokens" in columns:
        hits = table.whole(columns["cached_prompt_tokens"], least=0)
        table.refuse(hits >= prompt, columns["cached_prompt_tokens"], "must be below prompt_tokens", "the last prompt token is never cached")
    if cached and "hash_ids" not in columns:
        raise TraceError("the trace has no hash_ids", where=table.path, key="workload.trace.prefix_cache", remedy="set it to none")
    if cached and "cached_prompt_tokens" in columns:
        problem = "the trace has cached_prompt_tokens of its own"
        raise TraceError(problem, where=table.path, key="workload.trace.prefix_cache", remedy="set it to none")
    if cached:
        usual = layout.form.block_tokens if layout.form else MOONCAKE.block_tokens
        block = block_of(table, columns["hash_ids"], prompt, usual, block_tokens)
        hits = np.minimum(seen_before(table.column(columns["hash_ids"]), arrival_s, block), prompt - 1)
        how = " (inferred from hash_ids)" if block not in (usual, block_tokens) else ""
        notes.append(f"prefix blocks of {block:,} tokens{how}")
    elif "hash_ids" in columns:
        notes.append("hash_ids not used (prefix_cache: none)")
    if empty.any():
        notes.append(f"{int(empty.sum()):,} row{'s' if empty.sum() > 1 else ''} of 0 tokens dropped")
    domains = table.texts(columns["domain"]) if "domain" in columns else None
    requests = _sorted(arrival_s, prompt, output, hits, domains)
    return Recording(requests, f"{spoken(requests.arrival_s)}; {', '.join(notes)}")


def spoken(arrival_s: Floats) -> str:
    """Requests, span and mean rate of sorted arrivals, such as "30 requests in 8.1 hours, one every 1,000 s". # [n]"""
    n, span_s = len(arrival_s), float(arrival_s[-1] - arrival_s[0])
    if n == 1:
        return "1 request"
    if span_s == 0:
        return f"{n:,} requests, all at once"
    unit, name = next((unit, name) for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "s")) if span_s >= 2 * unit or unit == 1)
    span = f"{span_s:.3g}" if unit == 1 else f"{span_s / unit:.1f}"
    gap_s, rps = span_s / (n - 1), (n - 1) / span_s
    rate = f"one every {gap_s:,.0f} s" if gap_s >= 10 else f"{rps:,.0f} per second" if rps >= 100 else f"{rps:.3g} per second"
    return f"{n:,} requests in {span} {name}, {rate} on average"


def _sorted(arrival_s: Floats, prompt: Integers, output: Integers, cached: Integers, names: list[str] | None) -> RequestColumns:
    rows = np.arange(len(arrival_s))
    domains, domain = np.unique(names or [""] * len(rows), return_inverse=True)
    columns = RequestColumns(rows, arrival_s - arrival_s.min(), prompt, output, cached, domain, tuple(domains.tolist()))
    trace = columns[np.argsort(arrival_s, kind="stable")]
    for array in (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.cached_prompt_tokens, trace.domain):
        array.setflags(write=False)  # the trace is shared by all runs
    return trace


def _refuse_sessions(table: Table, arrival: str) -> None:
    """Raise TraceError where a request waits for the answer before it in its session: then the file does not say when it comes."""
    waits = "delay" in table.names and table.column("delay").notna().to_numpy(dtype=bool)
    no_time = "session_id" in table.names and table.column("session_id").notna().to_numpy() & table.column(arrival).isna().to_numpy(dtype=bool)
    bad: Flags = np.asarray(waits | no_time if table.json else False)
    if bad.any():
        remedy = "its turns wait for the answer before them: give every request its own arrival, or use arrivals of kind closed_loop"
        raise TraceError("sessions are not modelled yet", where=table.where(int(np.argmax(bad))), key="session_id", remedy=remedy)


def _refuse_empty_rows(table: Table, tokens: dict[str, Integers], empty: Flags, drop: bool) -> None:
    """Raise TraceError for rows of 0 tokens that are not to be dropped, or where there are no others."""
    n, row = int(empty.sum()), int(np.argmax(empty))
    key = next(name for name, counts in tokens.items() if counts[row] == 0)
    if n == len(empty):
        raise TraceError("every row has 0 tokens", where=table.where(row), key=key, remedy="use a file with at least one request")
    if not drop:
        rows = f"{n:,} of {len(empty):,} rows have" if n > 1 else f"1 of {len(empty):,} rows has"
        remedy = "write workload.trace.drop_empty_rows: true to leave out requests that failed"
        raise TraceError(f"{rows} 0 tokens", where=table.where(row), key=key, remedy=remedy)


def _arrivals(table: Table, layout: Layout, unit: Unit | None) -> tuple[Floats, str]:
    """Arrivals in seconds from the first, and how they were read. # [n]"""
    column = layout.columns["arrival_s"]
    if table.has_stamps(column) or (layout.form is AZURE and unit is None):
        if unit is not None:
            raise TraceError(f"'{column}' holds date-times, which have no unit", where=table.path, key="workload.trace.unit", remedy="drop it")
        stamps = table.stamps_ns(column)
        arrival_s = np.asarray((stamps - stamps.min()) / 1e9)
        _refuse_span(table, column, arrival_s)
        return arrival_s, f"date-times from {_date(float(stamps.min() / 1e9))}"
    values = table.numbers(column, least=0, expected="a number or a date-time such as 2024-05-12 00:00:01.5")
    known = unit or layout.unit or _unix_unit(values)
    if known is None:
        wish = _wish(table, column, "s or ms")
        raise TraceError(f"the unit of '{column}' is not clear", where=table.where(0), key="workload.trace.unit", remedy=wish)
    times_s = values / PER_SECOND[known]
    _refuse_epochs(table, column, values, known)
    if layout.form is MOONCAKE and unit is None:
        _refuse_fractions(table, layout, values)
    _refuse_span(table, column, times_s - times_s.min())
    doubt = "" if unit is not None else _doubt(table, layout, values, times_s, known)
    unix = f"Unix {_SPELT[known]} from {_date(float(times_s.min()))}"
    return times_s, f"arrivals in {unix if _unix_unit(values) == known else _SPELT[known] + doubt}"


def _date(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _wish(table: Table, column: str, unit: str) -> str:
    values = ", ".join(f"{value}" for value in table.column(column).head(3))
    return f"its values begin {values}: write workload.trace.unit: {unit}"


def _unix_unit(values: Floats) -> Unit | None:
    """The unit in which all values are Unix times of this century, if any."""
    low, high = float(values.min()), float(values.max())
    return next((unit for unit, per in PER_SECOND.items() if _EPOCH_S[0] <= low / per and high / per <= _EPOCH_S[1]), None)


def _refuse_epochs(table: Table, column: str, values: Floats, unit: Unit) -> None:
    """Raise TraceError where values are Unix times in another unit, or lie beyond all times."""
    row = int(np.argmax(values))
    seen, beyond = _unix_unit(values), values[row] / PER_SECOND[unit] > _LATEST_S
    seen = _unix_unit(values[row : row + 1]) if beyond else seen
    if beyond or seen not in (None, unit):
        what = f"it looks like Unix {_SPELT[seen]}" if seen else "it is too large"
        remedy = f"write workload.trace.unit: {seen}" if seen else "fix or drop the row"
        raise TraceError(
            f"{table.column(column).iloc[row]} is not a time in {_SPELT[unit]}: {what}", where=table.where(row), key=column, remedy=remedy
        )


def _refuse_span(table: Table, column: str, arrival_s: Floats) -> None:
    """Raise TraceError where a row lies years from the others."""
    if float(arrival_s.max()) > _LONGEST_S:
        row = int(np.argmax(np.abs(arrival_s - np.median(arrival_s))))
        value, years = table.column(column).iloc[row], float(arrival_s.max()) / (365 * 86400)
        raise TraceError(
            f"arrivals span {years:,.0f} years (got {value})", where=table.where(row), key=column, remedy="fix or drop the row, or set unit"
        )


def _refuse_fractions(table: Table, layout: Layout, values: Floats) -> None:
    """Raise TraceError where Mooncake's milliseconds have fractions: others write the same names with seconds."""
    broken = values != np.rint(values)
    if broken.any():
        row, column = int(np.argmax(broken)), layout.columns["arrival_s"]
        remedy = "write workload.trace with unit: s, block_tokens: 16 for a trace of Qwen-Bailian or vLLM, or unit: ms"
        raise TraceError(f"{values[row]:g} is not a whole number of milliseconds", where=table.where(row), key=column, remedy=remedy)


def _doubt(table: Table, layout: Layout, values: Floats, times_s: Floats, unit: Unit) -> str:
    """What to try where a rate suggests another unit than the one that nobody stated. Raises TraceError where whole numbers make it absurd."""
    span_s, n = float(np.ptp(times_s)), len(times_s)
    if span_s == 0 or _unix_unit(values) is not None:
        return ""
    gap_s, rps = span_s / (n - 1), (n - 1) / span_s
    slow, fast = unit == "s" and gap_s >= _SLOW_S[0], layout.form is MOONCAKE and rps >= _FAST_RPS[0]
    other: Unit = "ms" if slow else "s"
    if not (slow or fast) or n < _ENOUGH[other]:
        return ""
    if (gap_s >= _SLOW_S[1] if slow else rps >= _FAST_RPS[1]) and (values == np.rint(values)).all():
        problem = f"{spoken(np.sort(times_s))}, read in {_SPELT[unit]}: are they {_SPELT[other]}?"
        remedy = f"write workload.trace.unit: {other}, or unit: {unit} if it is right"
        raise TraceError(problem, where=table.path, key=layout.columns["arrival_s"], remedy=remedy)
    return f" (if they are {_SPELT[other]}, set unit: {other})"

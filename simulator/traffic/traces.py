"""Recorded traffic: arrivals and lengths, read from the formats in which services publish them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, PositiveInt, model_validator

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.traffic.public import PublicSource
from simulator.traffic.request import RequestColumns
from simulator.traffic.trace_files import Table, head, read_jsonl, read_table

Format = Literal["auto", "azure", "mooncake", "csv"]
PrefixCache = Literal["none", "infinite"]
NonNegative = Annotated[float, Field(ge=0)]

PREFIX_BLOCK_TOKENS = 512  # of Mooncake's hash_ids
_COLUMNS = {
    "azure": ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
    "csv": ["arrival_s", "prompt_tokens", "output_tokens"],
    "mooncake": ["timestamp", "input_length", "output_length"],
}
_NO_OUTPUT = "drop the row: a request without output (failed or cancelled) has no decode to simulate"


def read_trace(path: Path, format: Format = "auto", prefix_cache: PrefixCache = "none") -> RequestColumns:
    """The trace in a file. Rows may come in any order: they are sorted by arrival, and the first arrival becomes time 0; without a column
    `domain` all are of domain "".

    `prefix_cache: infinite` (Mooncake only) counts as cached the leading 512-token blocks of any earlier request; a plain CSV may have a column
    `cached_prompt_tokens`. Rows without prompt or output tokens are refused. Other columns are ignored.
    """
    format = recognise(path) if format == "auto" else format
    if prefix_cache == "infinite" and format != "mooncake":
        raise TraceError(f"a trace in {format} format has no hash_ids", where=path, key="prefix_cache", remedy="set it to none")
    if format == "mooncake":
        return _read_mooncake(path, prefix_cache)
    return _read_azure(path) if format == "azure" else _read_csv(path)


def recognise(path: Path) -> Format:
    """The format of a file, by its extension, else by its first line."""
    names = head(path, rows=1)[0]
    if path.suffix in (".jsonl", ".json") or names[0].startswith("{"):
        return "mooncake"
    formats: tuple[Format, ...] = ("azure", "csv")
    best = max(formats, key=lambda name: len(set(_COLUMNS[name]) & set(names)))
    if set(_COLUMNS[best]) & set(names):
        return best
    expected = " or ".join(",".join(columns) for name, columns in _COLUMNS.items() if name != "mooncake")
    raise TraceError(f"unknown header '{','.join(names)[:60]}'", where=f"{path}:1", key="format", remedy=f"expected {expected}")


def _read_azure(path: Path) -> RequestColumns:
    stamp, prompt, output = _COLUMNS["azure"]
    table = read_table(path, _COLUMNS["azure"])
    return _trace(table.stamps_s(stamp), *_tokens(table, prompt, output))


def _read_csv(path: Path) -> RequestColumns:
    arrival, prompt, output = _COLUMNS["csv"]
    table = read_table(path, _COLUMNS["csv"])
    prompt_tokens, output_tokens = _tokens(table, prompt, output)
    cached = None
    if table.has("cached_prompt_tokens"):
        cached = table.whole("cached_prompt_tokens", least=0)
        table.refuse(cached >= prompt_tokens, "cached_prompt_tokens", "must be below prompt_tokens", "the last prompt token is never cached")
    domain = table.texts("domain") if table.has("domain") else None
    return _trace(table.numbers(arrival, least=0), prompt_tokens, output_tokens, cached, domain)


def _read_mooncake(path: Path, prefix_cache: PrefixCache) -> RequestColumns:
    stamp, prompt, output = _COLUMNS["mooncake"]
    table = read_jsonl(path, [*_COLUMNS["mooncake"], "hash_ids"])
    arrival_s = table.numbers(stamp, least=0) / 1e3
    prompt_tokens, output_tokens = _tokens(table, prompt, output)
    cached = None
    if prefix_cache == "infinite":
        hashes = table.column("hash_ids")
        table.refuse(~hashes.map(_is_hash_list).to_numpy(dtype=bool), "hash_ids", "must be a list of whole numbers")
        cached = np.minimum(_seen_before(hashes, arrival_s), prompt_tokens - 1)
    return _trace(arrival_s, prompt_tokens, output_tokens, cached)


def _tokens(table: Table, prompt: str, output: str) -> tuple[Integers, Integers]:
    return table.whole(prompt, least=1), table.whole(output, least=1, remedy=_NO_OUTPUT)


def _is_hash_list(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _seen_before(hashes: pd.Series[Any], arrival_s: Floats) -> Integers:
    """Tokens in leading blocks of earlier requests, for each row: a prefix cache that evicts nothing. # [n]"""
    seen: set[int] = set()
    tokens = np.zeros(len(hashes), dtype=np.int64)
    rows = hashes.tolist()
    for row in np.argsort(arrival_s, kind="stable"):
        blocks = rows[row]
        hits = next((i for i, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks[hits:])
        tokens[row] = hits * PREFIX_BLOCK_TOKENS
    return tokens


def _trace(arrival_s: Floats, prompt: Integers, output: Integers, cached: Integers | None = None, domain: list[str] | None = None) -> RequestColumns:
    rows = np.arange(len(arrival_s))
    names, domains = np.unique(domain or [""] * len(rows), return_inverse=True)
    cached = np.zeros_like(rows) if cached is None else cached
    columns = RequestColumns(rows, arrival_s - arrival_s.min(), prompt, output, cached, domains, tuple(names.tolist()))
    trace = columns[np.argsort(arrival_s, kind="stable")]
    for array in (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.cached_prompt_tokens, trace.domain):
        array.setflags(write=False)  # the trace is shared by all runs
    return trace


class TraceSource(PublicSource):
    """A recorded trace: a `path` (relative to the scenario file, else to the working folder), or the `name` of a public trace. The path wins.

    `window_s` keeps the arrivals in [start, end) of the trace; what a prefix cache holds from before the window counts. `repeat` plays them
    that many times in a row.
    """

    key: ClassVar = "trace"

    format: Format = "auto"
    window_s: tuple[NonNegative, NonNegative] | None = None
    prefix_cache: PrefixCache = "none"
    repeat: PositiveInt = 1

    @model_validator(mode="after")
    def _window_is_valid(self) -> Self:
        if self.window_s and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s must end after it starts, but is {list(self.window_s)}")
        return self

    def load(self, folder: Path) -> RequestColumns:
        """The trace, read once per process and file. `folder` is the scenario file's."""
        path = self.find(folder)
        stat = path.stat()
        trace = _read_once(path, self.format, self.prefix_cache, (stat.st_mtime_ns, stat.st_size))
        if self.window_s:
            first, end = np.searchsorted(trace.arrival_s, self.window_s)
            if first == end:
                remedy = f"its arrivals span 0 to {trace.arrival_s[-1]:.6g} s"
                raise TraceError(f"no request arrives in {list(self.window_s)}", where=path, key="window_s", remedy=remedy)
            trace = replace(trace[first:end], arrival_s=trace.arrival_s[first:end] - self.window_s[0])
        return _repeated(trace, self.repeat) if self.repeat > 1 else trace

    def find(self, folder: Path) -> Path:
        """The file of the trace."""
        if self.path is not None:
            beside, from_here = (folder / self.path.expanduser()).resolve(), self.path.expanduser().resolve()
            if not beside.exists() and not from_here.exists():
                raise TraceError("no such file", where=beside, remedy="pass --set workload.trace.path=FILE")
            return beside if beside.exists() else from_here
        return self.cached()


def _repeated(trace: RequestColumns, times: int) -> RequestColumns:
    """A trace `times` times in a row, its mean gap between the last arrival and the first of the next round."""
    n = len(trace)
    period_s = trace.arrival_s[-1] * (n / (n - 1)) if n > 1 else 1.0
    return replace(trace[np.tile(np.arange(n), times)], arrival_s=(np.arange(times)[:, None] * period_s + trace.arrival_s).ravel())


@lru_cache(maxsize=8)
def _read_once(path: Path, format: Format, prefix_cache: PrefixCache, version: tuple[int, int]) -> RequestColumns:
    return read_trace(path, format, prefix_cache)

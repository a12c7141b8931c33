"""A recorded vLLM run with time stamps per request and a series per second: meta.json, requests.jsonl, timeseries.csv.

The format is that of LLMServingSim's `bench` (casys-kaist/LLMServingSim @ 5daddb2, vLLM 0.19).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.errors import DsimError
from simulator.reading.csv_files import numbers, read_csv
from simulator.reading.json_files import json_lines, read_json

STAMPS = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
COUNTS = ("input_toks", "output_toks")
_REMEDY = "give a folder with meta.json, requests.jsonl and timeseries.csv"
SERIES = ("t", "prompt_throughput", "gen_throughput", "running", "waiting")


@dataclass(frozen=True)
class RecordedRun:
    """Stamps in seconds since the first arrival, all on the engine's clock.

    Arrivals were stamped on the wall clock. The clocks are aligned at the request with the shortest delay from arrival to queue, so arrivals are late
    by at most that delay.
    """

    folder: Path
    model: str
    engine: str
    gpus: float
    max_batch: int
    token_budget: int
    arrival_s: Floats  # [n]
    queued_s: Floats  # [n]
    first_token_s: Floats  # [n]
    last_token_s: Floats  # [n]
    prompt_tokens: Integers  # [n]
    output_tokens: Integers  # [n]
    series: dict[str, Floats]  # [seconds] each: t, prompt_throughput (a prompt counts when it is done), gen_throughput, running, waiting

    def __len__(self) -> int:
        return len(self.arrival_s)


def read_recorded_run(folder: Path) -> RecordedRun:
    """The run in a folder. Raises DsimError with file, line and field."""
    meta = read_json(folder / "meta.json", remedy=_REMEDY)
    settings = meta.get("engine_kwargs")
    if not isinstance(settings, dict):
        raise DsimError("expected a mapping", where=folder / "meta.json", key="engine_kwargs", remedy=_REMEDY)
    sizes = [_positive(settings, key, folder / "meta.json") for key in ("max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size")]
    rows = _requests(folder / "requests.jsonl")
    stamps = {key: np.array([row[key] for row in rows], dtype=np.float64) for key in STAMPS}
    offset = (stamps["queued_ts"] - stamps["arrival_time"]).min()
    start = stamps["arrival_time"].min() + offset
    return RecordedRun(
        folder=folder,
        model=str(meta.get("model", "not stated")),
        engine=f"vLLM {meta.get('vllm_version', 'not stated')}",
        gpus=float(sizes[2]) * float(settings.get("data_parallel_size") or 1),
        max_batch=int(sizes[0]),
        token_budget=int(sizes[1]),
        arrival_s=stamps["arrival_time"] + offset - start,
        queued_s=stamps["queued_ts"] - start,
        first_token_s=stamps["first_token_ts"] - start,
        last_token_s=stamps["last_token_ts"] - start,
        prompt_tokens=np.array([row["input_toks"] for row in rows], dtype=np.int64),
        output_tokens=np.array([row["output_toks"] for row in rows], dtype=np.int64),
        series=_series(folder / "timeseries.csv"),
    )


def _positive(content: dict[str, Any], key: str, where: Path | str) -> float:
    value: Any = content.get(key)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise DsimError(f"must be a positive number (got {value!r})", where=where, key=key)
    return float(value)


def _requests(path: Path) -> list[dict[str, float]]:
    """Rows in order of arrival."""
    rows = []
    for where, content in json_lines(path, remedy=_REMEDY):
        row = {key: _positive(content, key, where) for key in (*STAMPS, *COUNTS)}
        if not row["queued_ts"] <= row["first_token_ts"] <= row["last_token_ts"]:
            raise DsimError("stamps must follow queued, first token, last token", where=where, key="first_token_ts")
        rows.append(row)
    if not rows:
        raise DsimError("expected at least one request, the file is empty", where=path)
    return sorted(rows, key=lambda row: row["arrival_time"])


def _series(path: Path) -> dict[str, Floats]:
    table = read_csv(path, SERIES, remedy=_REMEDY)
    if table.empty:
        raise DsimError("has no rows", where=path, remedy=_REMEDY)
    return {name: numbers(table, name, path, positive=False) for name in SERIES}

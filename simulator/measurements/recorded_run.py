"""A recorded vLLM run with time stamps per request and a series per second: meta.json, requests.jsonl, timeseries.csv.

The format is that of LLMServingSim's `bench` (casys-kaist/LLMServingSim @ 5daddb2, vLLM 0.19, and @ 577724e, bench/core/stat_logger.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from simulator.arrays import Floats, Integers
from simulator.errors import DsimError
from simulator.measurements.formats.reading import Line, Part
from simulator.quantities import Batch, Tokens, Within
from simulator.reading.csv_files import numbers, place_of_row, read_csv
from simulator.reading.json_files import json_lines, read_json
from simulator.schema import validate

MOST_REQUESTS, MOST_ROWS = 100_000, 1_000_000
LATE_S = 60.0  # by which the clock of the series may begin after the first arrival
TOTALS_DIFFER = 2.0  # ratio from which series and requests are of two runs
_REMEDY = "give a folder with meta.json, requests.jsonl and timeseries.csv"
MOST_IN_SERIES = {"t": 1e8, "prompt_throughput": 1e9, "gen_throughput": 1e9, "running": 1e6, "waiting": 1e8, "prompt_cached_throughput": 1e9}
SERIES = ("t", "prompt_throughput", "gen_throughput", "running", "waiting")  # that every file has
SLIGHT = 0.05  # of a tick, by which a row may be off where ticks before it have none
Stamp = Annotated[float, Within(1e-9, 1e11, "seconds")]
Machines = Annotated[int, Within(1, 1000, "GPUs")]


@dataclass(frozen=True)
class RecordedRun:
    """Stamps in seconds since the first arrival, all on the engine's clock.

    Arrivals were stamped on the wall clock. The clocks are aligned at the request with the shortest delay from arrival to queue, so arrivals are late
    by at most that delay.

    A cycle of all pipeline stages counts as one step: each stage has a batch of its own under way, of `max_num_batched_tokens` at most, and in the
    time of one pass every running request gets a token (vllm-project/vllm, v1/engine/core.py, `step_with_batch_queue`).
    """

    folder: Path
    model: str
    engine: str
    gpus: float  # of a replica
    max_batch: int  # requests of a replica
    token_budget: int  # of a replica's step; of all stages together where there are several
    arrival_s: Floats  # [n]
    queued_s: Floats  # [n]
    first_token_s: Floats  # [n]
    last_token_s: Floats  # [n]
    prompt_tokens: Integers  # [n]
    output_tokens: Integers  # [n]
    series: dict[str, Floats]  # [seconds] each: t, prompt_throughput (a prompt counts when done), gen_throughput, running, waiting; of all replicas
    replicas: int = 1  # data parallel ranks, each an engine with a batch of its own

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def tick_s(self) -> float:
        """Time between two rows of the series."""
        return float(np.diff(self.series["t"]).min())

    @property
    def cached_share(self) -> float:
        """Share of the prompts' tokens that a prefix cache had, which newer files say; `prompt_throughput` has them too."""
        prompts, cached = self.series["prompt_throughput"].sum(), self.series.get("prompt_cached_throughput", np.zeros(1)).sum()
        return float(cached / prompts) if prompts else 0.0

    @property
    def half_s(self) -> float:
        """The time of the series by which half of all output tokens are there."""
        totals = np.cumsum(self.series["gen_throughput"])
        return float(self.series["t"][np.searchsorted(totals, totals[-1] / 2)])

    @property
    def kept_back(self) -> float:
        """Share of all output tokens that come after that: not half where a row has many of them."""
        generated = self.series["gen_throughput"]
        return float(generated[self.series["t"] > self.half_s].sum() / generated.sum())


class _Parallel(Part):
    pipeline_parallel_size: Machines | None = None
    data_parallel_size: Machines | None = None


class _Engine(_Parallel):
    max_num_seqs: Batch
    max_num_batched_tokens: Tokens
    tensor_parallel_size: Machines


class _Resolved(Part):
    parallel_config: _Parallel = _Parallel()


class _Meta(Part):
    model: Line = "not stated"
    vllm_version: Line = "not stated"
    engine_kwargs: _Engine
    resolved_config: _Resolved = _Resolved()  # what vLLM made of them, of newer versions of the bench
    num_requests: Annotated[int, Within(1, MOST_REQUESTS, "requests")] | None = None


class _Request(Part):
    arrival_time: Stamp
    queued_ts: Stamp
    first_token_ts: Stamp
    last_token_ts: Stamp
    input_toks: Tokens
    output_toks: Tokens


def read_recorded_run(folder: Path) -> RecordedRun:
    """The run in a folder. Raises DsimError with file, line and field, also where its files contradict each other."""
    file = folder / "meta.json"
    meta = validate(_Meta, read_json(file, remedy=_REMEDY), file, DsimError)
    settings = meta.engine_kwargs
    stages, replicas = _parallel(meta, file)
    rows = _requests(folder / "requests.jsonl", meta.num_requests)
    arrival, queued, first, last = np.array([(row.arrival_time, row.queued_ts, row.first_token_ts, row.last_token_ts) for row in rows]).T
    offset = (queued - arrival).min()
    start = arrival.min() + offset
    run = RecordedRun(
        folder=folder,
        model=meta.model,
        engine=f"vLLM {meta.vllm_version}",
        gpus=float(settings.tensor_parallel_size * stages),
        max_batch=settings.max_num_seqs,
        token_budget=settings.max_num_batched_tokens * stages,
        arrival_s=arrival + offset - start,
        queued_s=queued - start,
        first_token_s=first - start,
        last_token_s=last - start,
        prompt_tokens=np.array([row.input_toks for row in rows], dtype=np.int64),
        output_tokens=np.array([row.output_toks for row in rows], dtype=np.int64),
        series=_series(folder / "timeseries.csv"),
        replicas=replicas,
    )
    _check_totals(run)
    _check_running(run)
    return replace(run, series=_every_tick(run.series))


def _parallel(meta: _Meta, file: Path) -> tuple[int, int]:
    """Pipeline stages and data parallel ranks. Raises DsimError where the settings that were asked for are not those that vLLM ran with."""
    found = []
    for name in ("pipeline_parallel_size", "data_parallel_size"):
        asked, ran = getattr(meta.engine_kwargs, name), getattr(meta.resolved_config.parallel_config, name)
        if asked is not None and ran is not None and asked != ran:
            problem = f"is {asked}, and {ran} in resolved_config.parallel_config"
            raise DsimError(problem, where=file, key=f"engine_kwargs.{name}", remedy="give the files of one run")
        found.append(asked or ran or 1)
    return found[0], found[1]


def _requests(path: Path, expected: int | None) -> list[_Request]:
    """Rows in order of arrival."""
    rows: list[_Request] = []
    for where, content in json_lines(path, remedy=_REMEDY):
        row = validate(_Request, content, where, DsimError)
        if not row.queued_ts <= row.first_token_ts <= row.last_token_ts:
            raise DsimError("stamps must follow queued, first token, last token", where=where, key="first_token_ts")
        if len(rows) == MOST_REQUESTS:
            raise DsimError(
                f"expected at most {MOST_REQUESTS:,} requests", where=path, remedy="give a shorter run: each trial of a fit plays it whole"
            )
        rows.append(row)
    if not rows:
        raise DsimError("expected at least one request, the file is empty", where=path)
    if expected is not None and len(rows) != expected:
        raise DsimError(
            f"expected the {expected} requests of meta.json, got {len(rows)}", where=path, key="num_requests", remedy="copy the files again"
        )
    return sorted(rows, key=lambda row: row.arrival_time)


def _series(path: Path) -> dict[str, Floats]:
    """Columns as the file has them: a row for every tick, but those in which no step ended."""
    table = read_csv(path, SERIES, remedy=_REMEDY)
    if table.empty:
        raise DsimError("has no rows", where=path, remedy=_REMEDY)
    series = {name: numbers(table, name, path, positive=False) for name in MOST_IN_SERIES if name in table}
    for name, values in series.items():
        if values.max() > (most := MOST_IN_SERIES[name]):
            row = int(values.argmax())
            problem = f"expected a number of at most {most:g}, got {values[row]:g}"
            raise DsimError(problem, where=place_of_row(path, row), key=name)
    _check_ticks(series["t"], path)
    return series


def _tick_s(t: Floats) -> float:
    """Time between two rows that no tick lies between. NaN where there are none."""
    rising = np.diff(t)[np.diff(t) > 0]
    return float(np.median(rising[rising < 1.5 * rising.min()])) if len(rising) else np.nan


def _check_ticks(t: Floats, path: Path) -> None:
    """Raises DsimError where time falls, and where a row is no whole number of ticks after the one before."""
    tick, steps = _tick_s(t), np.diff(t)
    if np.isnan(tick):
        raise DsimError("expected two rows or more, and time between them", where=path, key="t", remedy="record a longer run")
    odd = np.abs(steps - tick) > 0.5 * tick
    wrong = odd & ((steps < tick) | (np.abs(steps / tick - np.rint(steps / tick)) > SLIGHT))
    if wrong.any():
        row = int(wrong.argmax())
        row += 0 if row and odd[row - 1] else 1  # the row before is out of place, where it is far from both its neighbours
        problem = f"expected a row every {tick:g} s, got one at {t[row]:g} s after {t[row - 1]:g} s"
        raise DsimError(problem, where=place_of_row(path, row), key="t", remedy="put the rows back in order")
    if (rows := (t[-1] - t[0]) / tick) > MOST_ROWS:
        raise DsimError(f"expected at most {MOST_ROWS:,} rows, got {rows:,.0f} ticks", where=path, key="t", remedy="give a shorter run")


def _every_tick(series: dict[str, Floats]) -> dict[str, Floats]:
    """The same with a row for every tick. The recorder leaves those out in which no step ended: no tokens came, and requests stayed as they were."""
    ticks = np.maximum(np.rint(np.diff(series["t"]) / _tick_s(series["t"])), 1).astype(np.int64)
    place = np.concatenate(([0], np.cumsum(ticks)))
    rows = np.arange(place[-1] + 1)
    at, came = np.searchsorted(place, rows, side="right") - 1, np.isin(rows, place)
    whole = {name: values[at] * came if name.endswith("throughput") else values[at] for name, values in series.items()}
    return whole | {"t": np.interp(rows, place, series["t"])}


def _check_totals(run: RecordedRun) -> None:
    """The series counts the tokens of the requests, to their end. Raises DsimError where it does not."""
    path, end_s = run.folder / "timeseries.csv", float(run.series["t"][-1])
    if (last_s := float(run.last_token_s.max())) > end_s + LATE_S:
        raise DsimError(f"ends at {end_s:g} s, and requests.jsonl at {last_s:g} s", where=path, key="t", remedy="give the files of one run, whole")
    for name, tokens in (("gen_throughput", run.output_tokens), ("prompt_throughput", run.prompt_tokens)):
        counted, expected = float(run.series[name].sum() * run.tick_s), float(tokens.sum())
        least = 0 if name == "prompt_throughput" else expected / TOTALS_DIFFER  # an engine may leave out what its prefix cache held
        if not least <= counted <= TOTALS_DIFFER * expected:
            problem = f"counts {counted:,.0f} tokens, and requests.jsonl has {expected:,.0f}"
            raise DsimError(problem, where=path, key=name, remedy="give the files of one run, whole")


def _check_running(run: RecordedRun) -> None:
    """No more requests run at once than the engines hold. Raises DsimError where more do: there were more of them."""
    running, most = run.series["running"], run.max_batch * run.replicas
    if running.max() > most:
        row = int(running.argmax())
        problem = f"counts {running[row]:g} running requests, and meta.json allows {most} (max_num_seqs × data_parallel_size)"
        remedy = "put the ranks that ran into meta.json as data_parallel_size"
        raise DsimError(problem, where=place_of_row(run.folder / "timeseries.csv", row), key="running", remedy=remedy)

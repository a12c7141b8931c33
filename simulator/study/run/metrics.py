"""Records of a run to its numbers, as they come and in bounded memory. Definitions as vLLM and AIPerf users know them, see docs/design.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.engine.records import End, RequestRecord, Run, record_of
from simulator.engine.step import StepRecord
from simulator.study.run.spread import Spread

Floats = NDArray[np.float64]
Columns = dict[str, Floats]

CHUNK = 1 << 15  # rows added up at a time: fixed, so that sums do not depend on how the rows came
GRID = 200  # times at which the requests in an open system are counted

NUMBERS = (
    "tps_per_user_mean", "tps_per_user_overall", "tps_per_user_p10", "tps_per_user_p50", "tps_per_user_p90", "throughput_tok_s_gpu",
    "verification_budget", "accepted_length",
    "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_p50_s", "tpot_p90_s", "tpot_p99_s", "itl_p50_s", "itl_p90_s",
    "itl_p99_s", "e2e_p50_s", "e2e_p90_s", "e2e_p99_s", "step_p50_s", "waste_fraction", "concurrency_mean", "waiting_mean", "busy_fraction",
    "preemptions", "unfinished", "rejected", "tokens_per_step_p50", "tokens_per_step_max", "user_s_per_token_draft",
    "user_s_per_token_verify_accepted", "user_s_per_token_verify_rejected", "user_s_per_token_overhead", "user_s_per_token_prefill",
    "user_s_per_token_waiting",
)  # fmt: skip

ROUND_NUMBERS = (
    "tps_per_user_overall", "verification_budget", "accepted_length", "step_p50_s", "waste_fraction", "tokens_per_step_p50", "tokens_per_step_max",
)  # fmt: skip


def summarise(run: Run, gpus: float, replicas: int, ttft_known: bool, open_loop: bool) -> dict[str, Any]:
    """All metrics of a run that was kept: request quantiles over the measured requests, the rest over its window. Unknown ones are None."""
    meter = Meter(run.start_s, run.end_s, open_loop)
    meter.steps(np.stack(list(run.steps.columns.values()), axis=-1))
    meter.requests(np.array([record_of(r, 0) for r in run.requests], dtype=np.float64).reshape(-1, len(RequestRecord._fields)), [])
    meter.joins(run.join_gaps)
    meter.waits(run.prefill_waits)
    end = End(run.start_s, run.end_s, run.unfinished, run.rejected, run.preemptions, run.kv_pages_left)
    return meter.row(end, gpus, replicas, ttft_known)


class Meter:
    """A sink that adds up. The window is (start_s, until_s]; that of a closed loop starts when the run says so and has no end."""

    def __init__(self, start_s: float, until_s: float, open_loop: bool) -> None:
        self.start_s, self.until_s, self.open_loop = start_s, until_s, open_loop
        self.steps = Chunks(len(StepRecord._fields), self._steps)
        self._request_rows = Chunks(len(RequestRecord._fields), self._requests)
        self.joins, self.waits = Chunks(3, self._joins), Chunks(2, self._waits)
        self.sums: dict[str, float] = dict.fromkeys(SUMS, 0.0)
        self.tokens_per_step = np.zeros(1, dtype=np.int64)  # how many steps had so many tokens
        self.step_s, self.itl_s = Spread(), Spread()
        self.speed, self.tpot_s, self.ttft_s, self.e2e_s = Spread(), Spread(), Spread(), Spread()
        self.came, self.went = np.zeros(GRID + 1), np.zeros(GRID + 1)  # before, or at, each time of the grid and after the one before
        self._last_end_s = np.full(1, np.nan)  # of each replica's last decoding step in the window

    @classmethod
    def closed(cls) -> Meter:
        """For a closed loop."""
        return cls(np.inf, np.inf, open_loop=False)

    def warm(self, start_s: float) -> None:
        """Closed loop: the window starts."""
        self.start_s = start_s

    def requests(self, rows: Floats, _domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        self._request_rows(rows)

    def merge(self, other: Meter) -> None:
        """All that `other` has seen, of replicas of its own."""
        for mine, theirs in (
            (self.steps, other.steps),
            (self._request_rows, other._request_rows),
            (self.joins, other.joins),
            (self.waits, other.waits),
        ):
            mine.flush()
            theirs.flush()
        for name in SUMS:
            self.sums[name] += other.sums[name]
        self.tokens_per_step = _added(self.tokens_per_step, other.tokens_per_step)
        self.came += other.came
        self.went += other.went
        for name in ("step_s", "itl_s", "speed", "tpot_s", "ttft_s", "e2e_s"):
            getattr(self, name).merge(getattr(other, name))

    def row(self, end: End, gpus: float, replicas: int, ttft_known: bool) -> dict[str, Any]:
        """All metrics; unknown ones are None."""
        for chunks in (self.steps, self._request_rows, self.joins, self.waits):
            chunks.flush()
        committed = self.sums["committed"] - end.lost_tokens  # those are made again, and counted then
        row: dict[str, Any] = {"requests": int(self.sums["requests_done"])}
        row |= self._per_request(ttft_known)
        row |= self._per_step(end.end_s - end.start_s, committed)
        row |= self._per_second(end.end_s - end.start_s, gpus, replicas, committed)
        row |= dict(zip(("itl_p50_s", "itl_p90_s", "itl_p99_s"), self.itl_s.quantiles((0.5, 0.9, 0.99)), strict=True))
        row |= self._time_per_token(committed)
        row |= {"preemptions": end.preemptions, "unfinished": end.unfinished, "rejected": end.rejected}
        row["verdict"] = self._verdict(end, row["waiting_mean"], row["concurrency_mean"])
        return {name: _plain(value) for name, value in row.items()}

    def _inside(self, times_s: Floats) -> NDArray[np.bool_]:
        return (times_s > self.start_s) & (times_s <= self.until_s)

    def _steps(self, rows: Floats) -> None:
        inside = self._inside(rows[:, 2])
        columns = np.ascontiguousarray((rows if inside.all() else rows[inside]).T)
        of = dict(zip(StepRecord._fields, columns, strict=True))
        length, users, sums = of["end_s"] - of["start_s"], of["running"], self.sums
        decoding = of["requests"] > 0
        sent = np.maximum(of["requests"] + of["verified"], 1)
        rejected = of["verify_s"] * (of["verified"] - of["accepted"]) / sent
        for name in ("requests", "verified", "accepted", "committed"):
            sums[name] += of[name].sum()
        sums["length_s"] += length.sum()
        sums["running_s"] += (users * length).sum()
        sums["waiting_s"] += ((of["waiting"] + of["waiting_end"]) / 2 * length).sum()
        sums["draft_s"] += (users * of["draft_s"]).sum()
        sums["verify_accepted_s"] += (users * (of["verify_s"] - rejected)).sum()
        sums["verify_rejected_s"] += (users * rejected).sum()
        sums["overhead_s"] += (users * of["overhead_s"]).sum()
        sums["prefill_s"] += (users * of["prefill_s"]).sum()
        self.step_s.add(length[decoding])
        tokens = (of["requests"] + of["verified"])[decoding].astype(np.int64)
        self.tokens_per_step = _added(self.tokens_per_step, np.bincount(tokens))
        self._gaps(*(of[name][decoding] for name in ("replica", "end_s", "requests", "joined")))

    def _gaps(self, replica: Floats, end_s: Floats, requests: Floats, joined: Floats) -> None:
        """ITL: gaps between the bursts a user sees, each burst once per user. Never inverted into a speed."""
        if not len(replica):
            return
        order = np.argsort(replica.astype(np.int16 if replica.max() < 2**15 else np.int64), kind="stable")  # short ones are sorted by radix
        mine, end_s = replica[order].astype(np.int64), end_s[order]
        if mine[-1] >= len(self._last_end_s):
            self._last_end_s = np.append(self._last_end_s, np.full(mine[-1] + 1 - len(self._last_end_s), np.nan))
        first = np.append(True, mine[1:] != mine[:-1])
        before = np.where(first, self._last_end_s[mine], np.append(np.nan, end_s[:-1]))
        last = np.append(first[1:], True)
        self._last_end_s[mine[last]] = end_s[last]
        stayed = (requests - joined)[order]
        kept = (stayed > 0) & ~np.isnan(before)
        self.itl_s.add((end_s - before)[kept], stayed[kept])

    def _joins(self, rows: Floats) -> None:
        rows = rows[self._inside(rows[:, 0])]
        self.itl_s.add(rows[:, 1], np.ones(len(rows)))
        self.sums["out_of_batch_s"] += rows[:, 2].sum()

    def _waits(self, rows: Floats) -> None:
        """Before a prefill worker; those that still wait do so to the end, which is added when it is known."""
        begin, end = np.maximum(rows[:, 0], self.start_s), np.minimum(rows[:, 1], self.until_s)
        over = np.isfinite(end)
        self.sums["queued_s"] += np.maximum(end - begin, 0.0)[over].sum()
        self.sums["still_queued"] += (~over).sum()
        self.sums["still_queued_since_s"] += begin[~over].sum()

    def _requests(self, rows: Floats) -> None:
        """Speed is (tokens - 1) / (last token - first token) of each request, then quantiles over requests; TPOT its inverse."""
        of = dict(zip(RequestRecord._fields, rows.T, strict=True))
        self.sums["first_tokens"] += self._inside(of["first_token_s"]).sum()
        if self.open_loop:
            self._count(self.came, of["arrival_s"])
            self._count(self.went, of["finish_s"][np.isfinite(of["finish_s"])])
            self.sums["came"] += ((of["arrival_s"] >= self.start_s) & (of["arrival_s"] < self.until_s)).sum()
        done = (of["measured"] > 0) & np.isfinite(of["finish_s"])
        arrival, first, last, tokens = (of[name][done] for name in ("arrival_s", "first_token_s", "finish_s", "output_tokens"))
        several = (tokens > 1) & (last > first)
        speed = (tokens[several] - 1) / (last[several] - first[several])
        self.sums["requests_done"] += len(arrival)
        self.sums["speed"] += speed.sum()
        self.speed.add(speed)
        self.tpot_s.add(1 / speed)
        self.ttft_s.add(np.maximum(first - arrival, 0.0))  # the clock adds floats
        self.e2e_s.add(last - arrival)

    def _count(self, counts: Floats, times_s: Floats) -> None:
        grid = np.linspace(self.start_s, self.until_s, GRID)
        counts += np.bincount(np.searchsorted(grid, times_s, side="left"), minlength=GRID + 1)

    def _per_request(self, ttft_known: bool) -> dict[str, float | None]:
        row: dict[str, float | None] = {"tps_per_user_mean": self.sums["speed"] / self.speed.count if self.speed.count else None}
        row |= _quantiles(self.speed, "tps_per_user", "", (10, 50, 90))
        row |= _quantiles(self.ttft_s if ttft_known else Spread(), "ttft", "_s")
        row |= _quantiles(self.tpot_s, "tpot", "_s")
        return row | _quantiles(self.e2e_s, "e2e", "_s")

    def _per_step(self, window_s: float, committed: float) -> dict[str, float | None]:
        """Batch-level numbers: budget counts the anchor, accepted length the bonus token; waste is rejected over all verified tokens;
        overall speed is tokens of rounds over the time that requests spent in the batch."""
        requests, verified, accepted = (self.sums[name] for name in ("requests", "verified", "accepted"))
        if not requests or window_s <= 0:
            return dict.fromkeys(ROUND_NUMBERS)
        steps = self.tokens_per_step.cumsum()
        middle = np.searchsorted(steps, [(steps[-1] + 1) // 2, steps[-1] // 2 + 1])
        return {
            "tps_per_user_overall": committed / self.sums["running_s"],
            "verification_budget": 1 + verified / requests,
            "accepted_length": 1 + accepted / requests,
            "step_p50_s": self.step_s.quantiles([0.5])[0],
            "waste_fraction": (verified - accepted) / (requests + verified),
            "tokens_per_step_p50": float(middle.mean()),
            "tokens_per_step_max": float(len(self.tokens_per_step) - 1),
        }

    def _per_second(self, window_s: float, gpus: float, replicas: int, committed: float) -> dict[str, float | None]:
        """Over the window's time: output tokens (first ones included) per GPU; requests in the batch, requests waiting (before a replica, the
        queue taken as linear between a step's start and end, or before a prefill worker) and the share of time in steps, per replica."""
        if window_s <= 0:
            return {"throughput_tok_s_gpu": None, "concurrency_mean": 0.0, "waiting_mean": 0.0, "busy_fraction": 0.0}
        output = committed + self.sums["first_tokens"]
        end_s = self.start_s + window_s
        queued = self.sums["queued_s"] + self.sums["still_queued"] * end_s - self.sums["still_queued_since_s"]
        return {
            "throughput_tok_s_gpu": output / window_s / gpus if output else None,
            "concurrency_mean": self.sums["running_s"] / window_s / replicas,
            "waiting_mean": (self.sums["waiting_s"] + queued) / window_s / replicas,
            "busy_fraction": self.sums["length_s"] / window_s / replicas,
        }

    def _time_per_token(self, committed: float) -> dict[str, float | None]:
        """Where a user's time per token goes: every running request lives through the whole step; times summed over requests ÷ tokens."""
        parts = {name: self.sums[f"{name}_s"] for name in ("draft", "verify_accepted", "verify_rejected", "overhead", "prefill")}
        parts["waiting"] = self.sums["out_of_batch_s"]
        return {f"user_s_per_token_{name}": part / committed if committed else None for name, part in parts.items()}

    def _verdict(self, end: End, waiting: float, running: float) -> str:
        """overloaded: requests in the system grow by more than 5 % of the arrivals, beyond their noise; backlogged: a queue stands
        before the replicas (at least one request, a tenth of those running) but does not grow; else stable."""
        if self.open_loop:
            inside = (self.came - self.went).cumsum()[:GRID]
            growth = np.polyfit(np.linspace(0, 1, GRID), inside, 1)[0]
            came = int(self.sums["came"])
            if growth > max(0.05 * came, 3 * np.sqrt(max(came, 1))) or end.unfinished > 0.02 * max(came, 1):
                return "overloaded"
        return "backlogged" if waiting >= max(1.0, 0.1 * running) else "stable"


class Chunks:
    """Passes rows on, CHUNK at a time and the rest at the end."""

    def __init__(self, width: int, take: Callable[[Floats], None]) -> None:
        self.take = take
        self._rows: list[Floats] = [np.empty((0, width))]
        self._held = 0

    def __call__(self, rows: Floats) -> None:
        """More rows."""
        self._rows.append(rows)
        self._held += len(rows)
        while self._held >= CHUNK:
            everything = np.concatenate(self._rows)
            self.take(everything[:CHUNK])
            self._rows, self._held = [everything[CHUNK:]], len(everything) - CHUNK

    def flush(self) -> None:
        """Pass on what is left."""
        if self._held:
            everything = np.concatenate(self._rows)
            self._rows, self._held = [np.empty((0, everything.shape[1]))], 0  # a view would hold on to all of it
            self.take(everything)


SUMS = (
    "requests", "verified", "accepted", "committed", "length_s", "running_s", "waiting_s", "draft_s", "verify_accepted_s", "verify_rejected_s",
    "overhead_s", "prefill_s", "out_of_batch_s", "queued_s", "still_queued", "still_queued_since_s", "first_tokens", "came", "requests_done", "speed",
)  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _quantiles(values: Spread, stem: str, unit: str, points: tuple[int, ...] = (50, 90, 99)) -> dict[str, float | None]:
    found = values.quantiles([q / 100 for q in points])
    return {f"{stem}_p{q}{unit}": value for q, value in zip(points, found, strict=True)}


def _added(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two histograms, the shorter one filled up with zeros."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total

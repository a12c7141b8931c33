"""Records of a run to its numbers, as they come and in bounded memory. Definitions as vLLM and AIPerf users know them, see docs/design.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats
from simulator.engine.given import SessionTraffic, Traffic, truncated
from simulator.engine.records import End, Outside, RequestRecord, Run, StepRecord, record_of
from simulator.study.run.classes import ENDINGS, Classes, ClassRow
from simulator.study.run.metrics import METRICS, OF_POOL, SHARES, Number, Totals, Verdict
from simulator.study.run.queues import Queue
from simulator.study.run.reuse import Reuse
from simulator.study.run.spread import Chunks, Spread
from simulator.traffic.goodput import Goodput
from simulator.traffic.impatience import Senders


@dataclass(frozen=True)
class GroupNumbers:
    """Of a part of the machines: requests that finished there, and what is known of it."""

    requests: int
    numbers: dict[str, Number]


@dataclass(frozen=True)
class RunMetrics:
    """What a run was measured to be: measured requests that finished, every metric by its name, and how it bore its load."""

    requests: int
    numbers: dict[str, Number]
    verdict: Verdict
    curves: dict[str, tuple[float, ...]] = field(default_factory=dict)  # TTFT and TPOT, seconds, at each of SHARES
    classes: tuple[ClassRow, ...] = ()

    def __getitem__(self, metric: str) -> Number:
        return self.numbers[metric]

    def known(self, metric: str) -> float:
        """A metric of a run of which it is sure to be known."""
        number = self.numbers[metric]
        assert number is not None, metric
        return number


def summarise(run: Run, gpus: float, replicas: int, ttft_known: bool, open_loop: bool, goodput: Goodput | None = None) -> RunMetrics:
    """All metrics of a run that was kept: request quantiles over the measured requests, the rest over its window. Unknown ones are None."""
    meter = Meter(run.start_s, run.end_s, open_loop, goodput)
    meter.steps(np.stack(list(run.steps.columns.values()), axis=-1))
    meter.requests(np.array([record_of(r, 0) for r in run.requests], dtype=np.float64).reshape(-1, len(RequestRecord._fields)), [])
    meter.joins(run.join_gaps)
    meter.waits(run.prefill_waits)
    meter.outside(run.outside)
    end = End(run.start_s, run.end_s, run.unfinished, run.rejected, run.preemptions, run.kv_pages_left)
    return meter.row(end, gpus, replicas, ttft_known)


class Meter:
    """A sink that adds up. The window is (start_s, until_s]; that of a closed loop starts when the run says so and has no end. `senders` where they
    are impatient or of several classes."""

    def __init__(self, start_s: float, until_s: float, open_loop: bool, goodput: Goodput | None = None, senders: Senders | None = None) -> None:
        self.start_s, self.until_s, self.goodput = start_s, until_s, goodput
        self.steps = Chunks(len(StepRecord._fields), self._steps)
        self._request_rows = Chunks(len(RequestRecord._fields), self._requests)
        self.joins, self.waits, self.outside = Chunks(4, self._joins), Chunks(2, self._waits), Chunks(4, self._outside)
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.tokens_per_step = np.zeros(1, dtype=np.int64)  # how many steps had so many tokens
        self.step_s, self.itl_s = Spread(), Spread()
        self.speed, self.tpot_s, self.ttft_s, self.e2e_s = Spread(), Spread(), Spread(), Spread()
        self.queue = Queue(start_s, until_s) if open_loop else None
        self.reuse = Reuse(start_s, until_s)
        self.classes = Classes(senders) if senders is not None and senders.classes else None
        self.leave = senders is not None and senders.leave
        self.most_tokens: int | None = None
        self._last_end_s = np.full(1, np.nan)  # of each replica's last decoding step in the window

    @classmethod
    def closed(cls, goodput: Goodput | None = None, senders: Senders | None = None) -> Meter:
        """For a closed loop."""
        return cls(np.inf, np.inf, open_loop=False, goodput=goodput, senders=senders)

    @classmethod
    def whole(cls, goodput: Goodput | None = None) -> Meter:
        """For a run that is measured from its start, what happens at time 0 included, to its end."""
        return cls(float(np.nextafter(0.0, -1.0)), np.inf, open_loop=False, goodput=goodput)

    def warm(self, start_s: float) -> None:
        """Closed loop: the window starts."""
        self.start_s = start_s

    def cut(self, traffic: Traffic, max_context: int | None) -> None:
        """Answers are cut at `max_context` tokens: those of sessions are counted as they end (one that just fits as well), others before."""
        if isinstance(traffic, SessionTraffic):
            self.most_tokens = max_context
        else:
            self.sums["truncated"] += truncated(traffic, max_context)

    def requests(self, rows: Floats, _domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        self._request_rows(rows)

    def merge(self, other: Meter) -> None:
        """All that `other` has seen, of replicas of its own."""
        self.flush()
        other.flush()
        for name, value in other.sums.items():
            self.sums[name] += value
        self.tokens_per_step = _added(self.tokens_per_step, other.tokens_per_step)
        if self.queue is not None and other.queue is not None:
            self.queue.merge(other.queue)
        self.reuse.merge(other.reuse)
        if self.classes is not None and other.classes is not None:
            self.classes.merge(other.classes)
        for name in ("step_s", "itl_s", "speed", "tpot_s", "ttft_s", "e2e_s"):
            getattr(self, name).merge(getattr(other, name))

    def flush(self) -> None:
        """Add up the rows that are held."""
        for chunks in (self.steps, self._request_rows, self.joins, self.waits, self.outside):
            chunks.flush()

    def row(self, end: End, gpus: float, replicas: int, ttft_known: bool) -> RunMetrics:
        """All metrics; unknown ones are None."""
        self.flush()
        totals = self._totals(end, gpus, replicas, ttft_known)
        numbers = {metric.name: _plain(metric.of(totals)) for metric in METRICS}
        verdict = self._verdict(numbers["waiting_mean"] or 0.0, numbers["concurrency_mean"] or 0.0)
        spreads = {"tpot": self.tpot_s} | ({"ttft": self.ttft_s} if ttft_known else {})
        curves = {name: tuple(float(f"{value:.4g}") for value in spread.quantiles(SHARES) if value is not None) for name, spread in spreads.items()}
        curves = {name: curve for name, curve in curves.items() if curve}
        groups = [] if self.classes is None else self.classes.groups
        classes = tuple(group.row(totals.requests_per_s, self._measured(end), ttft_known) for group in groups)
        return RunMetrics(int(self.sums["requests_done"]), numbers, verdict, curves, classes)

    def _totals(self, end: End, gpus: float, replicas: int, ttft_known: bool) -> Totals:
        window_s, spreads = end.end_s - end.start_s, {"tpot": self.tpot_s, "e2e": self.e2e_s, "itl": self.itl_s}
        spreads["ttft"] = self.ttft_s if ttft_known else Spread()
        quantiles = {name: _quantiles(values, 50, 90, 99) for name, values in spreads.items()}
        quantiles |= {"speed": _quantiles(self.speed, 10, 50, 90), "step": _quantiles(self.step_s, 50)}
        steps = self.tokens_per_step.cumsum()
        middle = np.searchsorted(steps, [(steps[-1] + 1) // 2, steps[-1] // 2 + 1])
        queued_s = 0.0
        if window_s > 0:  # those that still wait do so to the end
            queued_s = self.sums["queued_s"] + self.sums["still_queued"] * (self.start_s + window_s) - self.sums["still_queued_since_s"]
        return Totals(
            sums=self.sums,
            prompts=ttft_known,
            quantiles=quantiles,
            steps_by_tokens=(float(middle.mean()), float(len(steps) - 1)),
            window_s=window_s,
            gpus=gpus,
            replicas=replicas,
            committed=self.sums["committed"] - end.lost_tokens,  # those are made again, and counted then
            queued_s=queued_s,
            good_share=self._good_share(end),
            requests_per_s=(self._measured(end) if self.queue is not None else self.sums["ended"]) / window_s if window_s > 0 else 0.0,
            requests_timed=self.speed.count,
            preemptions=end.preemptions,
            unfinished=end.unfinished,
            rejected=end.rejected,
            leave=self.leave,
        )

    def _measured(self, end: End) -> float:
        """Measured requests, however they ended."""
        return self.sums["requests_done"] + end.unfinished + end.rejected + sum(self.sums[name] for name in ENDINGS)

    def _good_share(self, end: End) -> Number:
        measured, promised = self._measured(end), self.goodput is not None or self.classes is not None
        kept = self.sums["good"] if self.classes is None else self.classes.good
        return kept / measured if promised and measured else None

    def _inside(self, times_s: Floats) -> NDArray[np.bool_]:
        return (times_s > self.start_s) & (times_s <= self.until_s)

    def _steps(self, rows: Floats) -> None:
        if self.queue is not None:
            self.queue.steps(rows)
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
        """At a front end or before a prefill worker; those that still wait do so to the end, which is added when it is known."""
        if self.queue is not None:
            self.queue.waits(rows[:, 0], rows[:, 1])
        begin, end = np.maximum(rows[:, 0], self.start_s), np.minimum(rows[:, 1], self.until_s)
        over = np.isfinite(end)
        self.sums["queued_s"] += np.maximum(end - begin, 0.0)[over].sum()
        self.sums["still_queued"] += (~over).sum()
        self.sums["still_queued_since_s"] += begin[~over].sum()

    def _outside(self, rows: Floats) -> None:
        """Prompts on prefill workers, and transfers: they count where they end, the time of workers where it is."""
        prompts, inside = rows[:, 0] == Outside.PROMPT, self._inside(rows[:, 2])
        spent_s = np.minimum(rows[:, 2], self.until_s) - np.maximum(rows[:, 1], self.start_s)
        self.sums["worker_s"] += np.maximum(spent_s[prompts], 0.0).sum()
        self.sums["worker_prompts"] += (prompts & inside).sum()
        self.sums["worker_tokens"] += rows[prompts & inside, 3].sum()
        moves = rows[~prompts & inside]
        self.sums["moves"] += len(moves)
        self.sums["move_s"] += (moves[:, 2] - moves[:, 1]).sum()
        self.sums["moved_bytes"] += moves[:, 3].sum()

    def of_pool(self, end: End, workers: int | None) -> GroupNumbers:
        """What prefill workers, of which there are so many or as many as it takes, and the link did."""
        totals = self._totals(end, 1.0, workers or 0, ttft_known=True)
        return GroupNumbers(int(self.sums["worker_prompts"]), {metric.name: _plain(metric.of(totals)) for metric in OF_POOL})

    def _requests(self, rows: Floats) -> None:
        """Speed is (tokens - 1) / (last token - first token) of each request, then quantiles over requests; TPOT its inverse."""
        of = dict(zip(RequestRecord._fields, rows.T, strict=True))
        self.sums["first_tokens"] += self._inside(of["first_token_s"]).sum()
        self.sums["ended"] += (self._inside(of["finish_s"]) | self._inside(of["ended_s"])).sum()
        measured = of["measured"] > 0
        for name, ending in ENDINGS.items():
            self.sums[name] += (measured & (of["ending"] == ending)).sum()
        self.sums["retries"] += of["retries"][measured].sum()
        if self.most_tokens is not None:
            full = (of["prompt_tokens"] < self.most_tokens) & (of["prompt_tokens"] + of["output_tokens"] == self.most_tokens)
            self.sums["truncated"] += (measured & full).sum()
        if self.classes is not None:
            self.classes.add({name: column[measured] for name, column in of.items()})
        if self.queue is not None:
            came = of["arrival_s"] < self.until_s
            self.sums["came"] += (came & (of["arrival_s"] >= self.start_s)).sum()
            self.sums["came_since_0"] += came.sum()
            held = of["sent_s"] > of["arrival_s"]
            self.queue.waits(of["arrival_s"][held], of["sent_s"][held])
        done = measured & np.isfinite(of["finish_s"])
        sent, first, last, tokens = (of[name][done] for name in ("sent_s", "first_token_s", "finish_s", "output_tokens"))
        if self.queue is not None:
            self.sums["client_wait_s"] += (sent - of["arrival_s"][done]).sum()
        several = (tokens > 1) & (last > first)
        decoded, decode_s = tokens[several] - 1, last[several] - first[several]
        speed = decoded / decode_s
        self.sums["requests_done"] += len(sent)
        self.sums["prompt_tokens"] += of["prompt_tokens"][done].sum()
        self.reuse.add({name: column[done] for name, column in of.items()})
        self.sums["cached_tokens"] += of["cached_prompt_tokens"][done].sum()
        self.sums["output_tokens"] += tokens.sum()
        if self.goodput:
            self.sums["good"] += self.goodput.kept(sent, first, last, tokens).sum()
        self.sums["speed"] += speed.sum()
        self.sums["decode_s"] += decode_s.sum()
        self.sums["decode_tokens"] += decoded.sum()
        self.speed.add(speed)
        self.tpot_s.add(1 / speed)
        self.ttft_s.add(np.maximum(first - sent, 0.0))  # the clock adds floats
        self.e2e_s.add(last - sent)

    def _verdict(self, waiting: float, running: float) -> Verdict:
        """overloaded: the queue grows; backlogged: one stands in front of the replicas (at least one request, a tenth of those running);
        else stable."""
        if self.queue is not None and self.queue.grows(self.sums["came"], self.sums["came_since_0"]):
            return "overloaded"
        return "backlogged" if waiting >= max(1.0, 0.1 * running) else "stable"


def _plain(value: Number) -> Number:
    """A plain int or float, None where it is not finite."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _quantiles(values: Spread, *percentiles: int) -> dict[int, Number]:
    return dict(zip(percentiles, values.quantiles([q / 100 for q in percentiles]), strict=True))


def _added(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two histograms, the shorter one filled up with zeros."""
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total

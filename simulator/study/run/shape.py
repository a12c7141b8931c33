"""The shape of a plan's traffic: its mean lengths, its rate over time, and the stretch in which it peaks."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulator.arrays import Floats
from simulator.traffic.process import ArrivalProcess
from simulator.traffic.sessions import Sessions
from simulator.traffic.workload import Workload

_BINS = 96  # of a trace's span, for its curve


@dataclass(frozen=True)
class Shape:
    """What the traffic is like at the planned mean rate.

    `curve_s` and `curve_rps` are the rate over one span (a day, or as long as the trace lasts at this rate), each value holding until the next.
    """

    mean_rps: float
    mean_prompt: float
    mean_output: float
    longest_output: float
    curve_s: Floats  # [W]
    curve_rps: Floats  # [W]
    span_s: float
    trace_rps: float | None  # recorded mean rate of a trace
    per_load: float = field(default=1.0, kw_only=True)  # requests per second in one unit of load, else
    per_session: float = field(default=1.0, kw_only=True)  # requests
    pauses_s: float = field(default=0.0, kw_only=True)  # that a session waits for its users, in all
    repeats: bool = field(default=True, kw_only=True)  # does the curve begin again where it ends?
    workload: Workload
    folder: Path
    told: str

    def load(self, rps: float) -> float:
        """A mean rate in the workload's unit of load."""
        return rps / self.unit_rps

    @property
    def unit_rps(self) -> float:
        """Requests per second in one unit of load."""
        return self.trace_rps or self.per_load

    def session_s(self, answer_s: float) -> float:
        """Seconds of a session, where an answer takes `answer_s`; of an answer where there are no sessions."""
        return self.pauses_s + self.per_session * answer_s

    @property
    def peak_rps(self) -> float:
        """The highest rate of the curve."""
        return float(self.curve_rps.max())

    @property
    def tokens_per_s(self) -> float:
        """Output tokens asked for per second, on average over the span."""
        return self.mean_rps * self.mean_output

    def at_peak(self, content: dict[str, Any], warmup_s: float, window_s: float, drain_s: float) -> dict[str, Any]:
        """The workload's YAML, moved so that the measured window is the busiest of its length."""
        content = deepcopy(content)
        if self.workload.trace is not None:
            content["trace"]["window_s"] = list(self.busiest_of_trace(self.load(self.mean_rps), warmup_s, window_s, drain_s))
        elif self.workload.servegen is not None:
            content["servegen"]["start_s"] = self._busiest_of_curve(warmup_s, window_s)
        elif self.workload.sessions is not None:
            content["sessions"]["arrivals"] |= self.workload.sessions.arrivals.starting(self._busiest_of_curve(warmup_s, window_s))
        elif self.workload.arrivals is not None:
            content["arrivals"] |= self.workload.arrivals.starting(self._busiest_of_curve(warmup_s, window_s))
        return content

    def busiest_of_trace(self, speed: float, warmup_s: float, window_s: float, drain_s: float) -> tuple[float, float]:
        """From, to, in seconds of the whole trace: warm-up, the busiest window and what comes after it, where the trace is played at so many times
        its speed."""
        assert self.workload.trace is not None
        trace, offset = self.workload.trace.load(self.folder), (self.workload.trace.window_s or (0.0, 0.0))[0]
        last = float(trace.arrival_s[-1])
        before, width = warmup_s * speed, window_s * speed
        starts = trace.arrival_s[trace.arrival_s <= max(last - width, 0.0)]
        starts = starts[starts >= min(before, starts[-1])]
        counts = np.searchsorted(trace.arrival_s, starts + width) - np.searchsorted(trace.arrival_s, starts)
        begin = max(float(starts[int(counts.argmax())]) - before, 0.0)
        end = min(begin + (warmup_s + window_s + drain_s) * speed, np.nextafter(last, np.inf))
        return offset + begin, offset + float(end)

    def _busiest_of_curve(self, warmup_s: float, window_s: float) -> float:
        """When a run should start so that its window lies about the highest rate; within a curve that does not repeat, as near as may be."""
        top = int(self.curve_rps.argmax())
        width = float(np.diff(np.append(self.curve_s, self.span_s))[top])
        middle = float(self.curve_s[top]) + width / 2
        start = middle - window_s / 2 - warmup_s
        return float(start % self.span_s if self.repeats else min(max(start, 0.0), max(self.span_s - warmup_s - window_s, 0.0)))


def shape_of(workload: Workload, mean_rps: float, folder: Path) -> Shape:
    """The shape of a workload at a mean rate."""
    if workload.trace is not None:
        return _of_trace(workload, mean_rps, folder)
    if workload.servegen is not None:
        return _of_servegen(workload, mean_rps, folder)
    if workload.sessions is not None:
        return _of_sessions(workload, workload.sessions, mean_rps, folder)
    assert workload.arrivals is not None
    assert workload.prompts is not None
    assert workload.outputs is not None
    curve_s, relative, span_s = _over_time(workload.arrivals)
    varies = len(curve_s) > 1
    told = f"a {workload.arrivals.words} over {span_s:,.0f} s" if varies else f"{workload.arrivals.kind} arrivals at a constant rate"
    return Shape(
        mean_rps=mean_rps,
        mean_prompt=max(workload.prompts.expected_tokens() - workload.cached_prompt_tokens, 1.0),
        mean_output=workload.outputs.expected_tokens(),
        longest_output=float(workload.outputs.at(np.array([0.9995]))[0]),
        curve_s=curve_s,
        curve_rps=mean_rps * relative,
        span_s=span_s,
        trace_rps=None,
        workload=workload,
        folder=folder,
        told=told,
        repeats=workload.arrivals.repeats,
    )


def _over_time(arrivals: ArrivalProcess) -> tuple[Floats, Floats, float]:
    """Where stretches of one rate start, the rates as multiples of the mean, and the span of all of it: a day, where the rate is constant."""
    return arrivals.curve(_BINS) or (np.zeros(1), np.ones(1), 86400.0)


def _of_sessions(workload: Workload, sessions: Sessions, mean_rps: float, folder: Path) -> Shape:
    sample, (curve_s, relative, span_s) = sessions.sample, _over_time(sessions.arrivals)
    return Shape(
        mean_rps=mean_rps,
        mean_prompt=float(sample.prompt_tokens.mean()),
        mean_output=float(sample.output_tokens.mean()),
        longest_output=float(np.quantile(sample.output_tokens, 0.9995)),
        curve_s=curve_s,
        curve_rps=mean_rps * relative,
        span_s=span_s,
        trace_rps=None,
        workload=workload,
        folder=folder,
        told=f"sessions of {sample.requests:.3g} requests each, {sessions.arrivals.words} arrivals of sessions",
        per_load=sample.requests * sessions.unit_rps,
        per_session=sample.requests,
        pauses_s=sample.pauses_s,
        repeats=sessions.arrivals.repeats,
    )


def _of_trace(workload: Workload, mean_rps: float, folder: Path) -> Shape:
    assert workload.trace is not None
    trace = workload.trace.load(folder)
    recorded_s = max(float(trace.arrival_s[-1]), 1e-9)
    trace_rps = len(trace) / recorded_s
    span_s = recorded_s * trace_rps / mean_rps
    edges = np.linspace(0, recorded_s, _BINS + 1)
    counts = np.histogram(trace.arrival_s, edges)[0]
    return Shape(
        mean_rps=mean_rps,
        mean_prompt=float((trace.prompt_tokens - trace.cached_prompt_tokens).mean()),
        mean_output=float(trace.output_tokens.mean()),
        longest_output=float(np.quantile(trace.output_tokens, 0.9995)),
        curve_s=edges[:-1] * trace_rps / mean_rps,
        curve_rps=counts / (span_s / _BINS),
        span_s=span_s,
        trace_rps=trace_rps,
        workload=workload,
        folder=folder,
        told=f"a trace of {len(trace):,} requests, played {mean_rps / trace_rps:.3g} times as fast as recorded",
        repeats=False,
    )


def _of_servegen(workload: Workload, mean_rps: float, folder: Path) -> Shape:
    assert workload.servegen is not None
    service = workload.servegen.service()
    rates = service.rates  # [C, W]
    scale = mean_rps / service.mean_rps
    means = [np.array([[law.mean for law in client.lengths(s)] for s in service.starts_s]) for client in service.clients]  # [C][W, 2]
    prompt, output = (np.array([m[:, side] for m in means]) for side in (0, 1))
    weight = rates / rates.sum()
    often = weight.sum(axis=1) >= 0.005  # clients with few requests do not set how long all must wait
    longest = [law.at(np.array([0.999]))[0] for client, counts in zip(service.clients, often, strict=True) if counts for law in client.output]
    return Shape(
        mean_rps=mean_rps,
        mean_prompt=float((weight * prompt).sum()),
        mean_output=float((weight * output).sum()),
        longest_output=float(max(longest)),
        curve_s=service.starts_s - service.starts_s[0],
        curve_rps=rates.sum(axis=0) * scale,
        span_s=service.span_s,
        trace_rps=None,
        workload=workload,
        folder=folder,
        told=f"{len(service.clients)} clients of a recorded service (ServeGen), each scaled by {scale:.3g}",
    )

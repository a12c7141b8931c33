"""One trial of a plan: a fleet of one cell meets the peak once. Its row holds what users saw against the promise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from simulator.arrays import Flags, Floats
from simulator.engine.given import Absence
from simulator.engine.records import RequestRecord, StepRecord
from simulator.engine.simulate import OpenTraffic, SessionTraffic, observe
from simulator.study.planning.changes import Change, changes
from simulator.study.planning.question import Plan
from simulator.study.planning.sla import Sla
from simulator.study.run.classes import ClassRow
from simulator.study.run.fleet import fleet_of
from simulator.study.run.meter import Meter
from simulator.study.run.metrics import Number
from simulator.study.run.point import Split, arrivals, measured_until, sessions
from simulator.study.run.result import Row
from simulator.study.run.scenario import Scenario
from simulator.traffic.impatience import Senders
from simulator.traffic.request import Ending, RequestColumns

Kind = Literal["peak", "alone", "loss"]
ALONE_REQUESTS = 100
LEAST_S = 1.0  # of a window, where a trace is played so fast that it is over in the warm-up
_APART_S = 1e5  # seconds between requests that never meet


@dataclass(frozen=True, order=True)
class Trial:
    """A cell under a change of assumptions ("" for none), its replicas, load, luck, and what happens: the peak, one request at a time, or
    the peak and the loss of a replica in the middle of it."""

    cell: int
    replicas: int
    load: float
    replication: int
    kind: Kind = "peak"
    change: str = ""

    @property
    def name(self) -> str:
        """Unique, and fit for a file."""
        return f"{self.cell}-{self.change or 'base'}-{self.kind}-{self.replicas}-{self.load:.10g}-{self.replication}"


class TrialRow(Row):
    """What a trial showed; its numbers are the metrics and what was promised. `speed` (tok/s) is what the promised share of users reach, `ttft`
    (seconds) what it does not exceed, None where somebody was never answered."""

    replicas: int
    classes: tuple[ClassRow, ...] = ()
    limits_used: dict[str, Number] = {}  # by class: the part of its limits that `class_share` of its requests do not exceed, as `ttft`

    @property
    def speed(self) -> Number:
        return self["speed"]

    @property
    def ttft(self) -> Number:
        return self["ttft"]


def run_trial(plan: Plan, trial: Trial) -> TrialRow:
    """The row of a trial: all metrics of a run, the promised quantiles, and which trial it was."""
    change = changes(plan, trial.cell)[trial.change] if trial.change else Change("", "")
    scenario = change.scenario(plan.at_load(plan.scenario(trial.cell, trial.replicas), trial.load))
    fleet = change.fleet(fleet_of(scenario, scenario.policies[0], trial.replication))
    traffic = _traffic(plan, trial, scenario, change)
    if trial.kind == "loss":
        middle = plan.warmup_s + plan.window_s / 2
        fleet = replace(fleet, absences=(Absence(0, middle, middle + plan.question.fleet.start_up_s, abrupt=True),))
    meter = Meter(traffic.warmup_s, traffic.until_s, True, plan.question.sla.goodput, traffic.senders)
    meter.cut(traffic, fleet.max_context)
    answers: list[Floats] = [np.empty((0, len(RequestRecord._fields)))]
    time = PromptTime(traffic.warmup_s, traffic.until_s)
    end = observe(traffic, fleet, Split(meter, [time.steps], [lambda rows, _domains: answers.append(rows)]))
    prompts = scenario.engine.prefill.where != "nowhere"
    measured = meter.row(end, scenario.gpus, trial.replicas, ttft_known=prompts)
    rows = np.concatenate(answers)
    kept = promised(rows, plan.question.sla) | ({} if prompts else {"ttft": None, "ttft_kept": None})
    kept |= {"prompt_time_share": time.share(scenario) if prompts else None} | lengths(rows)
    kept |= {"sessions": under_way(rows, traffic.warmup_s, traffic.until_s) if scenario.workload.sessions is not None else None}
    senders = scenario.workload.senders(scenario.run.seed, trial.replication)
    return TrialRow(
        replicas=trial.replicas,
        load=trial.load,
        replication=trial.replication,
        verdict="stable" if trial.kind == "alone" else measured.verdict,
        numbers={"requests": measured.requests} | measured.numbers | kept,
        **({"classes": measured.classes} if measured.classes else {}),
        **({"limits_used": limits_used(rows, senders, plan.question.sla.class_share)} if senders and senders.classes else {}),
    )


class PromptTime:
    """Adds up which share of the GPUs' time in steps prompts take, from rows of StepRecord that end in a window."""

    def __init__(self, start_s: float, until_s: float) -> None:
        self.start_s, self.until_s = start_s, until_s
        self.prompts_s = self.all_s = 0.0

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord # [n, 17]."""
        of = dict(zip(StepRecord._fields, rows.T, strict=True))
        inside = (of["end_s"] > self.start_s) & (of["end_s"] <= self.until_s)
        self.prompts_s += float(of["prefill_s"][inside].sum())
        self.all_s += float((of["end_s"] - of["start_s"])[inside].sum())

    def share(self, scenario: Scenario) -> Number:
        """Of GPUs that only process prompts, all of their time; None where nothing was done."""
        if scenario.engine.prefill.where == "elsewhere":
            return scenario.prefill_gpus / scenario.gpus
        return self.prompts_s / self.all_s if self.all_s else None


def lengths(rows: Floats) -> dict[str, Number]:
    """Mean tokens of the prompts and answers of measured requests, from rows of RequestRecord # [n, fields]."""
    of = dict(zip(RequestRecord._fields, rows[rows[:, RequestRecord._fields.index("measured")] > 0].T, strict=True))
    names = ("prompt_tokens", "output_tokens")
    return {f"{name}_mean": float(of[name].mean()) if len(of[name]) else None for name in names}


def under_way(rows: Floats, start_s: float, until_s: float) -> float:
    """Sessions under way, pauses included, in the mean of a window, from rows of RequestRecord # [n, fields]."""
    of = dict(zip(RequestRecord._fields, rows.T, strict=True))
    order = np.argsort(of["user"], kind="stable")
    _, first = np.unique(of["user"][order], return_index=True)
    if not len(first):
        return 0.0
    begin = np.minimum.reduceat(of["arrival_s"][order], first)
    over = np.where(of["rejected"] > 0, of["sent_s"], np.where(np.isnan(of["ended_s"]), of["finish_s"], of["ended_s"]))
    end = np.maximum.reduceat(np.where(np.isnan(over), np.inf, over)[order], first)
    return float(np.maximum(np.minimum(end, until_s) - np.maximum(begin, start_s), 0.0).sum()) / (until_s - start_s)


def _traffic(plan: Plan, trial: Trial, scenario: Scenario, change: Change) -> OpenTraffic | SessionTraffic:
    """What comes at the peak, or one request or session at a time."""
    alone = trial.kind == "alone"
    if scenario.workload.sessions is None:
        specs = change.requests(arrivals(scenario, trial.load, trial.replication))
        senders = scenario.workload.senders(scenario.run.seed, trial.replication)
        until_s = max(measured_until(scenario, specs, plan.warmup_s + plan.window_s), plan.warmup_s + LEAST_S)
        return _alone(specs) if alone else OpenTraffic(specs, plan.warmup_s, until_s, plan.drain_s, senders=senders)
    traffic = sessions(scenario, trial.load, trial.replication, plan.warmup_s, plan.window_s, plan.drain_s)
    if not alone:
        return traffic
    few = ceil(ALONE_REQUESTS / scenario.workload.sessions.sample.requests)
    return replace(traffic, starts_s=np.arange(few, dtype=np.float64) * _APART_S, warmup_s=0.0, until_s=few * _APART_S, drain_s=_APART_S)


def _alone(specs: RequestColumns) -> OpenTraffic:
    """The first requests, so far apart that none meets another: the fastest that the machine can be for a user."""
    few = specs[:ALONE_REQUESTS]
    few = replace(few, arrival_s=np.arange(len(few), dtype=np.float64) * _APART_S)
    return OpenTraffic(few, 0.0, max(len(few), 1) * _APART_S, _APART_S)


def promised(rows: Floats, sla: Sla) -> dict[str, Number]:
    """The speed that `share` of the measured users reach, the TTFT that `share` do not exceed, and the share that each promise is kept to,
    from rows of RequestRecord # [n, 22].

    Who was never answered, or refused, counts as slowest (speed 0, TTFT unknown); answers of one token have no speed. Quantiles are
    observed values, rounded to the side of the promise's breach. Who left or gave up was never answered; an answer that was stopped counts by what
    there was of it.
    """
    of = dict(zip(RequestRecord._fields, rows[rows[:, RequestRecord._fields.index("measured")] > 0].T, strict=True))
    speed = np.sort(_speed(of))
    waited = np.where(np.isin(of["ending"], (Ending.LEFT, Ending.TIMED_OUT)), np.nan, of["first_token_s"] - of["arrival_s"])
    ttft = np.sort(np.where(np.isnan(waited), np.inf, waited))
    row: dict[str, Number] = {"speed": None, "speed_kept": None, "ttft": None, "ttft_kept": None}
    if len(speed):
        at = max(int(np.ceil((1 - sla.speed_share) * len(speed) - 1e-9)) - 1, 0)
        row |= {"speed": float(speed[at]), "speed_kept": float((speed >= sla.speed.tps).mean()) if sla.speed else None}
    if len(ttft):
        promise = sla.ttft
        at = min(int(np.floor(sla.ttft_share * len(ttft) + 1e-9)), len(ttft) - 1)
        row["ttft"] = float(ttft[at]) if np.isfinite(ttft[at]) else None
        row["ttft_kept"] = float((ttft <= promise.seconds).mean()) if promise else None
    return row


def limits_used(rows: Floats, senders: Senders, share: float) -> dict[str, Number]:
    """By class, of its SLA: the part of a limit that `share` of the measured requests do not exceed, each judged by the limit that it comes nearest
    to; None where that one was never answered, 0 where there was none. Who counts for what as in `promised`. # [n, 22]"""
    of = dict(zip(RequestRecord._fields, rows[rows[:, RequestRecord._fields.index("measured")] > 0].T, strict=True))
    last_s, tokens, answered = _ends(of)
    group, found = senders.group(of["request"].astype(np.int64)), dict[str, Number]()
    for place, (name, one) in enumerate(senders.classes.items()):
        ends = (of["sent_s"], of["first_token_s"], last_s, tokens)
        used = np.sort(np.where(answered, one.sla.used(*ends), np.inf)[group == place])
        worst = used[min(int(np.floor(share * len(used) + 1e-9)), len(used) - 1)] if len(used) else 0.0
        found[name] = float(worst) if np.isfinite(worst) else None
    return found


def _ends(of: dict[str, Floats]) -> tuple[Floats, Floats, Flags]:
    """When each request ended, with how many tokens, and whether it was answered, if only until it was stopped. # [m] each"""
    stopped = of["ending"] == Ending.STOPPED
    last_s, tokens = np.where(stopped, of["ended_s"], of["finish_s"]), np.where(stopped, of["emitted_tokens"], of["output_tokens"])
    return last_s, tokens, np.isfinite(last_s) & ~(of["rejected"] > 0)


def _speed(of: dict[str, Floats]) -> Floats:
    """Tokens per second of every request that has a speed. # [m]"""
    refused = of["rejected"] > 0
    last_s, tokens, answered = _ends(of)
    seconds = last_s - of["first_token_s"]
    at_once = answered & (seconds <= 0)
    speed = np.where(answered, (tokens - 1) / np.where(answered & ~at_once, seconds, 1.0), 0.0)
    return np.where(at_once, np.inf, speed)[(tokens >= 2) | refused]

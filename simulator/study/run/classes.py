"""How requests ended, all together and by class, and which of them kept what their class is promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

from simulator.arrays import Flags, Floats
from simulator.study.run.record import Record, ShortText
from simulator.study.run.spread import Spread
from simulator.traffic.goodput import Goodput
from simulator.traffic.impatience import Senders
from simulator.traffic.request import Ending

ENDINGS = {"left": Ending.LEFT, "stopped": Ending.STOPPED, "timed_out": Ending.TIMED_OUT}


class ClassRow(Record):
    """The measured requests of a class: all, those answered, those that kept its promise, and those that ended otherwise; attempts sent again; times
    of the answered, None where there are none."""

    name: ShortText
    sla: ShortText
    requests: NonNegativeInt
    answered: NonNegativeInt
    good: NonNegativeInt
    left: NonNegativeInt
    stopped: NonNegativeInt
    timed_out: NonNegativeInt
    retries: NonNegativeInt
    goodput_rps: NonNegativeFloat | None
    ttft_p90_s: NonNegativeFloat | None
    tpot_p90_s: NonNegativeFloat | None


def good(of: Mapping[str, Floats], goodput: Goodput) -> Flags:
    """Of the columns of RequestRecord, those that are answered within the limits. # [n]"""
    done = np.isfinite(of["finish_s"])
    kept = goodput.kept(*(np.where(done, of[name], 0.0) for name in ("sent_s", "first_token_s", "finish_s", "output_tokens")))
    return done & kept


class Group:
    """Adds up the requests of one class."""

    def __init__(self, name: str, goodput: Goodput) -> None:
        self.name, self.goodput = name, goodput
        self.counts = dict.fromkeys(("requests", "answered", "good", *ENDINGS, "retries"), 0)
        self.ttft_s, self.tpot_s = Spread(), Spread()

    def add(self, of: Mapping[str, Floats]) -> None:
        """Columns of RequestRecord of its measured requests."""
        done = np.isfinite(of["finish_s"])
        ended = {name: of["ending"] == ending for name, ending in ENDINGS.items()}
        for name, which in {"answered": done, "good": good(of, self.goodput), **ended}.items():
            self.counts[name] += int(which.sum())
        self.counts["requests"] += len(done)
        self.counts["retries"] += int(of["retries"].sum())
        first, last, further = of["first_token_s"][done], of["finish_s"][done], of["output_tokens"][done] - 1
        self.ttft_s.add(np.maximum(first - of["sent_s"][done], 0.0))
        several = (further > 0) & (last > first)
        self.tpot_s.add(((last - first)[several]) / further[several])

    def merge(self, other: Group) -> None:
        """All that `other` has seen."""
        for name, count in other.counts.items():
            self.counts[name] += count
        self.ttft_s.merge(other.ttft_s)
        self.tpot_s.merge(other.tpot_s)

    def row(self, rate_rps: float, measured: float, prompts: bool) -> ClassRow:
        """Of requests that come at so many a second, so many of which are measured; TTFT where prompts are known."""
        rate = self.counts["good"] / measured * rate_rps if measured else None
        ttft_s = self.ttft_s.quantiles([0.9])[0] if prompts else None
        return ClassRow(
            name=self.name, sla=self.goodput.words, goodput_rps=rate, ttft_p90_s=ttft_s, tpot_p90_s=self.tpot_s.quantiles([0.9])[0], **self.counts
        )


class Classes:
    """Adds up measured requests by class."""

    def __init__(self, senders: Senders) -> None:
        self.senders = senders
        self.groups = [Group(name, one.sla) for name, one in senders.classes.items()]

    def add(self, of: Mapping[str, Floats]) -> None:
        """Columns of RequestRecord of measured requests, however they ended."""
        group = self.senders.group(of["request"].astype(np.int64))
        for place, one in enumerate(self.groups):
            one.add({name: column[group == place] for name, column in of.items()})

    def merge(self, other: Classes) -> None:
        """All that `other` has seen."""
        for one, more in zip(self.groups, other.groups, strict=True):
            one.merge(more)

    @property
    def good(self) -> int:
        """Requests that kept what their class is promised."""
        return sum(one.counts["good"] for one in self.groups)


def together(replications: Sequence[Sequence[ClassRow]]) -> tuple[ClassRow, ...]:
    """The rows of several replications: counts added up, times and rates in the mean."""
    return tuple(_together(rows) for rows in zip(*replications, strict=True))


def _together(rows: Sequence[ClassRow]) -> ClassRow:
    counts = {name: sum(getattr(row, name) for row in rows) for name in ("requests", "answered", "good", *ENDINGS, "retries")}
    means = {}
    for name in ("goodput_rps", "ttft_p90_s", "tpot_p90_s"):
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        means[name] = fmean(known) if known else None
    return ClassRow(name=rows[0].name, sla=rows[0].sla, **counts, **means)

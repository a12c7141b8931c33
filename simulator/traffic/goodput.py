"""Goodput: requests per second that keep every limit of an SLA, each request judged on its own (DistServe, OSDI 2024, section 2.3)."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import model_validator

from simulator.arrays import Flags, Floats
from simulator.quantities import SomeSeconds, Within
from simulator.schema import Frozen


class Goodput(Frozen):
    """What a request must keep to be good, in seconds: time to first token, mean time per further token, and time to the last token."""

    ttft_s: Annotated[float, Within(1e-6, 120, "seconds")] | None = None  # more is milliseconds
    tpot_s: Annotated[float, Within(1e-6, 5, "seconds")] | None = None
    e2e_s: SomeSeconds | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("expected at least one of ttft_s, tpot_s, e2e_s, got none")
        return self

    @property
    def reads_prompts(self) -> bool:
        """Does a limit cover the time of the prompt?"""
        return self.ttft_s is not None or self.e2e_s is not None

    @property
    def words(self) -> str:
        """`TTFT at most 2 s, TPOT at most 50 ms`."""
        limits = (("TTFT", self.ttft_s, 1, "s"), ("TPOT", self.tpot_s, 1000, "ms"), ("E2E", self.e2e_s, 1, "s"))
        return ", ".join(f"{name} at most {limit * factor:g} {unit}" for name, limit, factor, unit in limits if limit is not None)

    def kept(self, sent_s: Floats, first_s: Floats, last_s: Floats, tokens: Floats) -> Flags:
        """Which finished requests keep all of it; an answer of one token has no time per further token, so keeps that. # [n] each"""
        kept: Flags = np.all([time <= limit for time, limit in self._taken(sent_s, first_s, last_s, tokens)], axis=0)
        return kept

    def used(self, sent_s: Floats, first_s: Floats, last_s: Floats, tokens: Floats) -> Floats:
        """The largest part of a limit that each finished request takes: 1 is all of it. # [n] each"""
        used: Floats = np.max([time / limit for time, limit in self._taken(sent_s, first_s, last_s, tokens)], axis=0)
        return used

    def _taken(self, sent_s: Floats, first_s: Floats, last_s: Floats, tokens: Floats) -> list[tuple[Floats, float]]:
        """Times, each with its limit."""
        times = (first_s - sent_s, (last_s - first_s) / np.maximum(tokens - 1, 1), last_s - sent_s)
        limits = (self.ttft_s, self.tpot_s, self.e2e_s)
        return [(time, limit) for time, limit in zip(times, limits, strict=True) if limit is not None]

"""When requests come. Open-loop kinds draw one unit-rate process from the stream and rescale it, so a higher load meets the same luck sooner."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from simulator.arrays import Floats
from simulator.quantities import ClockSeconds, Factor, SomeSeconds, Spread, Within
from simulator.traffic.benchmark import Benchmark
from simulator.traffic.pauses import Pause
from simulator.traffic.process import ArrivalProcess

RelativeRate = Annotated[float, Within(0, 1e9)]
_CHUNK = 4096


class ClosedLoop(ArrivalProcess):
    """A fixed number of users; each sends its next request after a pause, `think_s`, that begins when its last answer ends.

    `think_s` is a distribution of seconds; a number is the mean of an exponential one. It is a service under way: every user starts at a random place
    of its pause or answer.
    """

    kind: Literal["closed_loop"] = "closed_loop"
    load_kind: ClassVar = "concurrency"
    think_s: Pause = None

    @property
    def words(self) -> str:
        if self.think_s is None:
            return "users send the next request at once"
        return f"users pause before the next request ({self.think_s.words})"


class Poisson(ArrivalProcess):
    """Independent arrivals: exponential gaps."""

    kind: Literal["poisson"] = "poisson"

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        return _rescaled(_partial_sums(rng.standard_exponential, rate_rps * horizon_s), rate_rps, horizon_s)


class Gamma(ArrivalProcess):
    """Gamma gaps with coefficient of variation `cv`: above 1 burstier than Poisson, below 1 smoother.

    The process starts in equilibrium (the first gap is a residual one), so the expected count is rate × horizon at every cv.
    """

    kind: Literal["gamma"] = "gamma"
    cv: Spread

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        shape = self.cv**-2
        residual = rng.random() * rng.standard_gamma(shape + 1) / shape  # a point uniform in a length-biased gap
        return renewals(lambda n: rng.standard_gamma(shape, n) / shape, residual, rate_rps, horizon_s)


class Constant(ArrivalProcess):
    """One request every 1 / rate seconds, the first at 0; no randomness."""

    kind: Literal["constant"] = "constant"

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        return _rescaled(np.arange(np.ceil(rate_rps * horizon_s), dtype=np.float64), rate_rps, horizon_s)


class RateCurve(ArrivalProcess):
    """Poisson arrivals whose rate follows a curve, such as a day's.

    `points` are (time_s, relative rate), joined by straight lines; only the shape counts, for the curve is scaled so that its mean is the load:
    over one `period_s` where it repeats (the last point joins the first of the next period), else from the first point to the last, with the
    end rates held outside. The run starts `start_s` into the curve and meets `time_scale` seconds of curve per second (24: a day in an hour).
    A run shorter than the period sees its own part of the curve, whose mean may differ from the load.
    """

    kind: Literal["rate_curve"] = "rate_curve"
    points: Annotated[tuple[tuple[ClockSeconds, RelativeRate], ...], Field(min_length=1, max_length=100_000)]
    period_s: SomeSeconds | None = None
    time_scale: Factor = 1.0
    start_s: ClockSeconds = 0.0

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        times, rates = zip(*self.points, strict=True)
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError("points must have strictly increasing times")
        if self.period_s is not None and times[-1] >= self.period_s:
            raise ValueError(f"the last point is at {times[-1]:g} s, but times must lie below period_s = {self.period_s:g}")
        if not any(rates):
            raise ValueError("at least one point needs a relative rate above 0")
        return self

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        """By inverting the cumulative rate (Çinlar, 1975)."""
        knots_s, rates, mass = self._knots(horizon_s)
        begin, end = self._mass_between(horizon_s, knots_s, rates, mass)
        per_mass = rate_rps / self.time_scale  # requests per second of curve at its mean
        unit = _partial_sums(rng.standard_exponential, per_mass * (end - begin))
        curve_s = self._time_of(begin + unit / per_mass, knots_s, rates, mass)
        times = np.maximum.accumulate(np.maximum((curve_s - self.start_s) / self.time_scale, 0.0))
        return times[times < horizon_s]

    def expected(self, rate_rps: float, horizon_s: float) -> float:
        begin, end = self._mass_between(horizon_s, *self._knots(horizon_s))
        return float(rate_rps / self.time_scale * (end - begin))

    def _mass_between(self, horizon_s: float, knots_s: Floats, rates: Floats, mass: Floats) -> Floats:
        """The integral of the rate from 0 to the run's start and end. # [2]"""
        return self._mass_at(np.array([self.start_s, self.start_s + horizon_s * self.time_scale]), knots_s, rates, mass)

    @property
    def repeats(self) -> bool:
        return self.period_s is not None

    def curve(self, bins: int) -> tuple[Floats, Floats, float]:
        times = np.array([t for t, _ in self.points])
        span = (self.period_s or max(float(times[-1] - times[0]), 1.0)) / self.time_scale
        starts = np.linspace(0, span, bins, endpoint=False)
        whole = self.model_copy(update={"start_s": self._begins_s})
        return starts, whole.relative_rate(starts + span / bins / 2), span

    @property
    def _begins_s(self) -> float:
        """Where the span of `curve` begins: of a curve that does not repeat, at its first point."""
        return 0.0 if self.period_s else self.points[0][0]

    def starting(self, run_s: float) -> dict[str, float]:
        return {"start_s": self._begins_s + run_s * self.time_scale}

    def relative_rate(self, time_s: Floats) -> Floats:
        """The rate at each time of the run, as a multiple of the load. # [n] -> [n]"""
        knots_s, rates, _ = self._knots(float(time_s.max(initial=0.0)))
        curve_s = self.start_s + time_s * self.time_scale
        return np.interp(curve_s % self.period_s if self.period_s else curve_s, knots_s, rates)

    def _knots(self, horizon_s: float) -> tuple[Floats, Floats, Floats]:
        """Knots from 0 to the period's or the run's end, the rates there (mean 1) and the mass before each. # [k] each"""
        times, rates = np.array(self.points, dtype=np.float64).T
        if self.period_s:
            end = self.period_s
            at_ends = np.interp(end, np.append(times, times[0] + end), np.append(rates, rates[0]))
            knots, heights = np.r_[0.0, times, end], np.r_[at_ends, rates, at_ends]
            mean = _area(heights, knots)[-1] / end
        else:
            end = max(times[-1], self.start_s + horizon_s * self.time_scale)
            knots, heights = np.r_[0.0, times, end], np.r_[rates[0], rates, rates[-1]]
            mean = _area(rates, times)[-1] / (times[-1] - times[0]) if len(times) > 1 else rates[0]
        heights = heights / mean
        return knots, heights, _area(heights, knots)

    def _mass_at(self, curve_s: Floats, knots_s: Floats, rates: Floats, mass: Floats) -> Floats:
        """The integral of the rate from 0 to each time of the curve. # [n] -> [n]"""
        rounds, within = np.divmod(curve_s, knots_s[-1]) if self.period_s else (np.zeros_like(curve_s), curve_s)
        i = np.clip(np.searchsorted(knots_s, within, side="right") - 1, 0, len(knots_s) - 2)
        x = within - knots_s[i]
        return np.asarray(rounds * mass[-1] + mass[i] + x * (rates[i] + np.interp(within, knots_s, rates)) / 2)

    def _time_of(self, target: Floats, knots_s: Floats, rates: Floats, mass: Floats) -> Floats:
        """The time at which the integral reaches each target: the root of a quadratic in each segment. # [n] -> [n]"""
        rounds, within = np.divmod(target, mass[-1]) if self.period_s else (np.zeros_like(target), target)
        i = np.clip(np.searchsorted(mass, within, side="right") - 1, 0, len(mass) - 2)
        width = knots_s[i + 1] - knots_s[i]
        slope = np.divide(rates[i + 1] - rates[i], width, out=np.zeros_like(width), where=width > 0)
        rest = within - mass[i]
        root = rates[i] + np.sqrt(np.maximum(rates[i] ** 2 + 2 * slope * rest, 0.0))
        x = np.divide(2 * rest, root, out=np.zeros_like(rest), where=root > 0)  # this form of the root loses no digits where the slope is small
        return np.asarray(rounds * knots_s[-1] + knots_s[i] + np.minimum(x, width))


Arrivals = Annotated[ClosedLoop | Poisson | Gamma | Constant | RateCurve | Benchmark, Field(discriminator="kind")]


def _area(heights: Floats, knots: Floats) -> Floats:
    """The integral of a piecewise linear curve from its first knot to each. # [k], [k] -> [k]"""
    return np.concatenate([[0.0], np.cumsum(np.diff(knots) * (heights[1:] + heights[:-1]) / 2)])


def _partial_sums(draw: Callable[[int], Floats], total: float) -> Floats:
    """Partial sums of the gaps drawn, those below `total`; chunks of one size, so that a larger total only adds to them. # [n]"""
    parts: list[Floats] = []
    last = 0.0
    while last < total:
        parts.append(last + np.cumsum(draw(_CHUNK)))
        last = float(parts[-1][-1])
    sums = np.concatenate([np.empty(0), *parts])
    return sums[sums < total]


def renewals(gaps: Callable[[int], Floats], first: float, rate_rps: float, horizon_s: float) -> Floats:
    """Arrivals in [0, horizon_s) with the first at `first` and gaps of mean 1 after it, at `rate_rps`. # [n]"""
    rest = _partial_sums(gaps, rate_rps * horizon_s - first)
    return _rescaled(first + np.concatenate([[0.0], rest]), rate_rps, horizon_s)


def _rescaled(unit: Floats, rate_rps: float, horizon_s: float) -> Floats:
    """A unit-rate process at `rate_rps`, cut at the horizon. # [n] -> [m]"""
    times = unit / rate_rps
    return times[times < horizon_s]

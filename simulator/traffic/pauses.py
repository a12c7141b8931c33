"""How long a user of a closed loop pauses before the next request. A pause is a function of one uniform, so every policy meets the same ones."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator
from scipy.special import ndtri

from simulator.arrays import Floats
from simulator.kind import Kind
from simulator.quantities import MOST_SECONDS, Seconds, SomeSeconds, Spread
from simulator.schema import Beside
from simulator.traffic.trace_files import trace_file, version_of

_STRATA = 4096
# Python's functions for one number: those of numpy may differ in the last bit between arrays of different shapes.
_exp, _log1p = np.frompyfunc(math.exp, 1, 1), np.frompyfunc(math.log1p, 1, 1)


class PauseKind(Kind):
    """A distribution of pauses, in seconds. `in_step`: they are all the same, so that users who meet once meet again."""

    in_step: ClassVar[bool] = False

    def at(self, u: Floats) -> Floats:
        """Pauses at uniforms in [0, 1), in seconds. # [n] -> [n]"""
        raise NotImplementedError

    def rest(self, u: Floats, v: Floats) -> Floats:
        """What is left of a pause that is met at a random time (longer ones are met more often): seconds at two uniforms. # [n], [n] -> [n]"""
        pauses, mass = _strata(self)
        return np.asarray(v * pauses[np.minimum(np.searchsorted(mass, u * mass[-1], side="right"), _STRATA - 1)])


class ExponentialPause(PauseKind):
    """Exponential: most pauses are short, a few are long."""

    kind: Literal["exponential"] = "exponential"
    mean_s: SomeSeconds

    @property
    def words(self) -> str:
        return f"exponential, {self.mean_s:g} s on average"

    def at(self, u: Floats) -> Floats:
        return -self.mean_s * np.asarray(_log1p(-u), dtype=np.float64)


class FixedPause(PauseKind):
    """Always `seconds`: users who meet once stay in step."""

    kind: Literal["fixed"] = "fixed"
    in_step: ClassVar = True
    seconds: SomeSeconds

    @property
    def words(self) -> str:
        return f"always {self.seconds:g} s"

    def at(self, u: Floats) -> Floats:
        return np.full(u.shape, self.seconds)


class UniformPause(PauseKind):
    """Every pause from `min_s` to `max_s` is equally likely."""

    kind: Literal["uniform"] = "uniform"
    min_s: Seconds
    max_s: SomeSeconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_s <= self.min_s:
            raise ValueError(f"expected max_s above min_s = {self.min_s:g}, got {self.max_s:g}")
        return self

    @property
    def words(self) -> str:
        return f"uniform from {self.min_s:g} to {self.max_s:g} s"

    def at(self, u: Floats) -> Floats:
        return self.min_s + (self.max_s - self.min_s) * u


class LognormalPause(PauseKind):
    """Lognormal with this mean and coefficient of variation."""

    kind: Literal["lognormal"] = "lognormal"
    mean_s: SomeSeconds
    cv: Spread

    @property
    def words(self) -> str:
        return f"lognormal, {self.mean_s:g} s on average, cv {self.cv:g}"

    def at(self, u: Floats) -> Floats:
        variance = math.log1p(self.cv**2)
        return self.mean_s * np.asarray(_exp(math.sqrt(variance) * ndtri(u) - variance / 2), dtype=np.float64)


class EmpiricalPause(PauseKind):
    """Pauses in seconds drawn with replacement from a column of a CSV file. A relative `path` is relative to the scenario file."""

    kind: Literal["empirical"] = "empirical"
    path: Annotated[Path, Beside]
    column: str

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        self._values()
        return self

    def _values(self) -> Floats:
        """The column, sorted, read once per process and file. # [n]"""
        return _sorted_column(self.path, self.column, version_of(self.path))

    @property
    def words(self) -> str:
        return f"{self._values().mean():g} s on average, from {self.path.name}"

    def at(self, u: Floats) -> Floats:
        values = self._values()
        return values[np.minimum((u * len(values)).astype(np.int64), len(values) - 1)]


def _of_number(content: Any) -> Any:
    """A number of seconds is the mean of an exponential, 0 no pause at all."""
    if isinstance(content, dict | PauseKind) or content is None:
        return content
    if isinstance(content, bool) or not isinstance(content, int | float) or not 0 <= content < math.inf:
        raise ValueError("expected seconds of at least 0, or a distribution such as {kind: uniform, min_s: 30, max_s: 90}")
    return {"kind": "exponential", "mean_s": content} if content else None


def _above_0(content: Any) -> Any:
    """For pauses of which none at all is a slip."""
    if isinstance(content, int | float) and not isinstance(content, bool) and content <= 0:
        raise ValueError(f"expected seconds above 0, or a distribution such as {{kind: uniform, min_s: 5, max_s: 30}}; got {content:g}")
    return content


_Kinds = Annotated[ExponentialPause | FixedPause | UniformPause | LognormalPause | EmpiricalPause, Field(discriminator="kind")]
Pause = Annotated[_Kinds | None, BeforeValidator(_of_number, json_schema_input_type=Seconds | _Kinds)]
SomePause = Annotated[Pause, BeforeValidator(_above_0)]


@lru_cache(maxsize=8)
def _strata(pause: PauseKind) -> tuple[Floats, Floats]:
    """A pause from each of many equal shares, rising, and their running sum. # [n] each"""
    pauses = pause.at((np.arange(_STRATA) + 0.5) / _STRATA)
    return pauses, pauses.cumsum()


@lru_cache(maxsize=8)
def _sorted_column(path: Path, column: str, version: tuple[int, int]) -> Floats:
    """A column of seconds of at least 0, sorted. # [n]"""
    values = np.sort(trace_file(path).numbers(column, least=0, most=MOST_SECONDS))
    values.setflags(write=False)
    return values

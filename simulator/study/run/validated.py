"""Simulated numbers beside published or measured ones: differences are those of the numbers, and verdicts those of the limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pydantic import NonNegativeFloat, NonNegativeInt, model_validator

from simulator.complaints import shown
from simulator.study.run.metrics import Number
from simulator.study.run.record import Record, ShortText


class ValidationRow(Record):
    """One comparison in a line. `difference` is relative (`unit` fraction or value), in gain (gain), or steps of a grid (concurrency)."""

    what: str
    policy: str | None = None
    simulated: Number = None
    interval: tuple[float | None, float | None] | None = None
    published: Number = None
    difference: Number
    unit: str = "fraction"
    n: NonNegativeInt | None = None
    mean_absolute_difference: float | None = None
    fitted: bool = False
    limit: NonNegativeInt | NonNegativeFloat | None = None
    ok: bool | None = None

    @classmethod
    def judged(cls, what: str, difference: Number, limit: Number, **more: Any) -> Self:
        """A row that is ok where its difference is known and within its limit, if it has one."""
        return cls(what=what, difference=difference, limit=limit, ok=_within(difference, limit), **more)

    @model_validator(mode="after")
    def _judged_by_its_limit(self) -> Self:
        if self.ok != _within(self.difference, self.limit):
            raise ValueError(f"ok is {shown(self.ok)}, with a difference of {shown(self.difference)} and a limit of {shown(self.limit)}")
        if self.unit == "gain" and self.simulated is not None and self.published is not None:
            _same(self.difference, self.simulated - self.published)
        if self.unit == "value":
            _same(self.difference, _relative(self.simulated, self.published))
        return self


def _relative(simulated: Number, published: Number) -> float | None:
    return simulated / published - 1 if simulated is not None and published else None


def _same(difference: Number, computed: float | None) -> None:
    """Raises ValueError where a difference is not that of the numbers beside it."""
    if computed is not None and (difference is None or abs(difference - computed) > 1e-6 * max(1.0, abs(computed))):
        raise ValueError(f"difference is {shown(difference)}, and that of the numbers beside it {computed:.6g}")


def _within(difference: Number, limit: Number) -> bool | None:
    return None if limit is None else difference is not None and abs(difference) <= limit


def all_within(rows: Iterable[ValidationRow]) -> bool | None:
    """Are all limits kept? None where there are none."""
    judged = [row.ok for row in rows if row.ok is not None]
    return all(judged) if judged else None


def check_verdict(ok: bool | None, rows: Iterable[ValidationRow]) -> None:
    """Raises ValueError where a verdict is not that of its rows."""
    if ok is not None and ok != all_within(rows):
        raise ValueError(f"ok is {shown(ok)}, and its rows are not")


class ValidationPoint(Record):
    """One compared cell: a metric of a policy at a load."""

    policy: ShortText
    metric: ShortText
    load: int | float | ShortText
    table: ShortText
    simulated: Number
    published: Number
    difference: Number
    fitted: bool = False
    prediction: tuple[float, float] | None = None  # the middle 90 % of what is predicted, where that was asked for

    @property
    def held(self) -> bool | None:
        """Does the prediction interval hold what was published? None without one."""
        if self.prediction is None or self.published is None:
            return None
        return self.prediction[0] <= self.published <= self.prediction[1]

    @model_validator(mode="after")
    def _difference_of_its_numbers(self) -> Self:
        _same(self.difference, _relative(self.simulated, self.published))
        return self


class Validation(Record):
    """A result beside what was published; `ok`: all limits are kept (None: there are none)."""

    rows: tuple[ValidationRow, ...]
    points: tuple[ValidationPoint, ...] = ()
    ok: bool | None = None

    @model_validator(mode="after")
    def _ok_where_its_rows_are(self) -> Self:
        check_verdict(self.ok, self.rows)
        return self

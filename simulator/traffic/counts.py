"""How many: turns of a session, calls of an agent. A count is a function of one uniform, so every policy meets the same ones."""

from __future__ import annotations

from math import log1p
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from simulator.arrays import Floats, Integers
from simulator.kind import Kind
from simulator.quantities import Within

MOST = 1000
Number = Annotated[int, Within(1, MOST)]
Mean = Annotated[float, Within(1, MOST)]


class CountKind(Kind):
    """A distribution of whole numbers from 1 to 1,000."""

    @property
    def largest(self) -> int:
        """No count is above it."""
        return MOST

    def at(self, u: Floats) -> Integers:
        """Counts at uniforms in [0, 1). # [n] -> [n]"""
        raise NotImplementedError


class FixedCount(CountKind):
    """Always the same."""

    kind: Literal["fixed"] = "fixed"
    count: Number

    @property
    def largest(self) -> int:
        return self.count

    def at(self, u: Floats) -> Integers:
        return np.full(u.shape, self.count, dtype=np.int64)


class UniformCount(CountKind):
    """Every number from `least` to `most`, both included."""

    kind: Literal["uniform"] = "uniform"
    least: Number
    most: Number

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"expected most of at least {self.least}, got {self.most}")
        return self

    @property
    def largest(self) -> int:
        return self.most

    def at(self, u: Floats) -> Integers:
        return self.least + np.floor(u * (self.most - self.least + 1)).astype(np.int64)


class GeometricCount(CountKind):
    """At least 1, with this mean: after each there is another with the same chance."""

    kind: Literal["geometric"] = "geometric"
    mean: Mean

    def at(self, u: Floats) -> Integers:
        if self.mean == 1:
            return np.ones(u.shape, dtype=np.int64)
        more = np.floor(np.log1p(-u) / log1p(-1 / self.mean))
        return np.asarray(np.minimum(1 + more, MOST), dtype=np.int64)


def _plain(value: Any) -> Any:
    """A number is a fixed count."""
    return {"kind": "fixed", "count": value} if isinstance(value, int) and not isinstance(value, bool) else value


_Kinds = Annotated[FixedCount | UniformCount | GeometricCount, Field(discriminator="kind")]
Count = Annotated[_Kinds, BeforeValidator(_plain, json_schema_input_type=Number | _Kinds)]

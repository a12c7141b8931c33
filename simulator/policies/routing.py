"""On which replica a request runs. Every router sees the number of requests each replica holds and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from simulator.schema import Frozen


class Router(Protocol):
    """Chooses a replica for the `arrival`-th request, given `held[i]`: requests waiting or running on replica i."""

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int: ...


class RoundRobin(Frozen):
    """One after the other."""

    kind: Literal["round_robin"] = "round_robin"

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return arrival % len(held)


class LeastLoaded(Frozen):
    """The replica that holds the fewest requests, the first of equals."""

    kind: Literal["least_loaded"] = "least_loaded"

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return min(range(len(held)), key=held.__getitem__)


class PowerOfTwo(Frozen):
    """The less loaded of two drawn at random (Mitzenmacher, 2001)."""

    kind: Literal["power_of_two"] = "power_of_two"

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        if len(held) == 1:
            return 0
        first = int(luck.integers(len(held)))
        second = (first + 1 + int(luck.integers(len(held) - 1))) % len(held)
        return first if held[first] <= held[second] else second


Routing = Annotated[RoundRobin | LeastLoaded | PowerOfTwo, Field(discriminator="kind")]

"""On which replica a request runs. Every router sees the number of requests each replica holds and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
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


class Random(Frozen):
    """Any replica, whatever it holds."""

    kind: Literal["random"] = "random"

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return int(luck.integers(len(held)))


@dataclass(frozen=True, eq=False)
class Assigned:
    """Replicas chosen beforehand, for the requests in order of arrival."""

    replica: NDArray[np.int64]  # [n]
    kind: str = "assigned"

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return int(self.replica[arrival])


def assigned(router: Router, arrivals: int, replicas: int, luck: np.random.Generator) -> Assigned | None:
    """What a router that does not look at the replicas will choose; None where it does look."""
    if isinstance(router, RoundRobin):
        return Assigned(np.arange(arrivals) % replicas)
    if isinstance(router, Random):
        return Assigned(luck.integers(np.full(arrivals, replicas)))
    return None


Routing = Annotated[RoundRobin | LeastLoaded | PowerOfTwo | Random, Field(discriminator="kind")]

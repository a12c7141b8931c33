"""On which replica a request runs. Every router sees the number of requests each replica holds and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from simulator.kind import Kind, Lowered


class Router(Kind):
    """Chooses a replica for the `arrival`-th request, given `held[i]`: requests waiting or running on replica i.

    Where it does not look at them (`looks = False`) its fleet can be simulated in parts, and `drawn` says all. Lowering: `lowered()`.
    """

    looks: ClassVar[bool] = True

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        """The place of the replica."""
        return int(self.drawn(arrival, 1, len(held), luck)[0, 0])

    def drawn(self, first: int, arrivals: int, replicas: int, luck: np.random.Generator) -> NDArray[np.int64]:
        """What the choices for requests first, first + 1, … go by: the replicas themselves, or what is drawn before looking. # [n, 1 or 2]"""
        return np.array([[self.choose(arrival, [0] * replicas, luck)] for arrival in range(first, first + arrivals)])


class RoundRobin(Router):
    """One after the other."""

    kind: Literal["round_robin"] = "round_robin"
    looks: ClassVar = False
    lowered: ClassVar = Lowered("assigned")

    def drawn(self, first: int, arrivals: int, replicas: int, luck: np.random.Generator) -> NDArray[np.int64]:
        return np.arange(first, first + arrivals)[:, None] % replicas


class LeastLoaded(Router):
    """The replica that holds the fewest requests, the first of equals."""

    kind: Literal["least_loaded"] = "least_loaded"
    lowered: ClassVar = Lowered("least_loaded")

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return min(range(len(held)), key=held.__getitem__)


class PowerOfTwo(Router):
    """The less loaded of two drawn at random (Mitzenmacher, 2001)."""

    kind: Literal["power_of_two"] = "power_of_two"
    lowered: ClassVar = Lowered("power_of_two")

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        if len(held) == 1:
            return 0
        first = int(luck.integers(len(held)))
        second = (first + 1 + int(luck.integers(len(held) - 1))) % len(held)
        return first if held[first] <= held[second] else second

    def drawn(self, first: int, arrivals: int, replicas: int, luck: np.random.Generator) -> NDArray[np.int64]:
        return luck.integers(np.tile([replicas, replicas - 1], (arrivals, 1)))


class Random(Router):
    """Any replica, whatever it holds."""

    kind: Literal["random"] = "random"
    looks: ClassVar = False
    lowered: ClassVar = Lowered("assigned")

    def drawn(self, first: int, arrivals: int, replicas: int, luck: np.random.Generator) -> NDArray[np.int64]:
        return luck.integers(np.full((arrivals, 1), replicas))


class Assigned(Router):
    """Replicas chosen beforehand, for the requests in order of arrival."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    kind: Literal["assigned"] = "assigned"
    replica: NDArray[np.int64]  # [n]
    looks: ClassVar = False
    lowered: ClassVar = Lowered("assigned")

    def drawn(self, first: int, arrivals: int, replicas: int, luck: np.random.Generator) -> NDArray[np.int64]:
        part = self.replica[first : first + arrivals]
        return np.pad(part, (0, arrivals - len(part)))[:, None]


Routing = Annotated[RoundRobin | LeastLoaded | PowerOfTwo | Random, Field(discriminator="kind")]

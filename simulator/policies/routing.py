"""On which replica a request runs. Routers see the number of requests each replica holds; some also who served a session, or what caches hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from simulator.kind import Kind, Lowered
from simulator.quantities import Seconds, Within


@dataclass(frozen=True)
class Seen:
    """What a router may see of a request and of the replicas: requests that each holds, the place of the one that had its session last (-1: none),
    tokens of its prompt, and `cached()`, how many of them each has. # [replicas]"""

    arrival: int
    held: Sequence[int]
    luck: np.random.Generator
    home: int
    prompt_tokens: int
    cached: Callable[[], Sequence[int]]


class Router(Kind):
    """Chooses a replica for the `arrival`-th request, given `held[i]`: requests waiting or running on replica i.

    Where it does not look at them (`looks = False`) its fleet can be simulated in parts, and `drawn` says all. Lowering: `lowered()`.
    """

    looks: ClassVar[bool] = True
    remembers: ClassVar[bool] = False  # goes by sessions or caches

    def place(self, seen: Seen) -> int:
        """The place of the replica, for a router that remembers more than how much each holds."""
        return self.choose(seen.arrival, seen.held, seen.luck)

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


class LoadRouter(Router):
    """One that goes by what replicas hold: `held` as it is, or with `stale_s` as it was so many seconds ago, which is what replicas have reported."""

    stale_s: Seconds = 0.0

    @property
    def words(self) -> str:
        return super().words + (f" by loads of {self.stale_s:g} s ago" if self.stale_s else "")


class LeastLoaded(LoadRouter):
    """The replica that holds the fewest requests, the first of equals."""

    kind: Literal["least_loaded"] = "least_loaded"

    def lowered(self) -> Lowered | None:
        return None if self.stale_s else Lowered("least_loaded")

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return min(range(len(held)), key=held.__getitem__)


class PowerOfTwo(LoadRouter):
    """The less loaded of two drawn at random (Mitzenmacher, 2001)."""

    kind: Literal["power_of_two"] = "power_of_two"

    def lowered(self) -> Lowered | None:
        return None if self.stale_s else Lowered("power_of_two")

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


class SessionAffinity(LoadRouter):
    """The replica that had the session last, unless it holds more than `most` times what the replicas hold in the mean, and one; else the one that
    holds the fewest requests."""

    kind: Literal["session_affinity"] = "session_affinity"
    remembers: ClassVar = True
    most: Annotated[float, Within(1, 1e6, "times the mean")] = 2.0

    def lowered(self) -> Lowered | None:
        return None if self.stale_s else Lowered("session_affinity", {"most_held": self.most})

    def place(self, seen: Seen) -> int:
        mean = sum(seen.held) / len(seen.held)
        if seen.home >= 0 and seen.held[seen.home] <= self.most * mean + 1:
            return seen.home
        return min(range(len(seen.held)), key=seen.held.__getitem__)


class PrefixAware(LoadRouter):
    """The replica whose cache has most of the prompt, weighed against load: the largest share of the prompt less `load_weight` times the requests
    it holds beyond the fewest, relative to the mean and one.

    `sees`: `exact` is what caches hold at that time, as engines report it; `approximate` what the router has sent to each, evicted since or not.
    Only loads are stale.
    """

    kind: Literal["prefix_aware"] = "prefix_aware"
    remembers: ClassVar = True
    load_weight: Annotated[float, Within(0, 1000)] = 0.5
    sees: Literal["exact", "approximate"] = "exact"

    def lowered(self) -> Lowered | None:
        return None if self.stale_s or self.sees == "approximate" else Lowered("prefix_aware", {"load_weight": self.load_weight})

    def place(self, seen: Seen) -> int:
        held, cached = seen.held, seen.cached()
        fewest, mean = min(held), sum(held) / len(held)
        worth = [has / seen.prompt_tokens - self.load_weight * (holds - fewest) / (mean + 1) for has, holds in zip(cached, held, strict=True)]
        return max(range(len(held)), key=lambda place: (worth[place], -held[place]))


Routing = Annotated[RoundRobin | LeastLoaded | PowerOfTwo | Random | SessionAffinity | PrefixAware, Field(discriminator="kind")]

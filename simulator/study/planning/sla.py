"""What users of a planned fleet are promised."""

from __future__ import annotations

from typing import Annotated

from pydantic import PrivateAttr

from simulator.quantities import InnerShare, Within
from simulator.schema import Frozen
from simulator.traffic.goodput import Goodput

USUAL_SHARE = 0.9
USUAL_PROBABILITY = 0.9


class SpeedPromise(Frozen):
    """At least `tps` tokens per second for `share` of the users, each over its own answer."""

    tps: Annotated[float, Within(0.2, 1e6, "tokens per second")]  # less is seconds per token
    share: InnerShare = USUAL_SHARE


class TtftPromise(Frozen):
    """The first token within `seconds` for `share` of the users."""

    seconds: Annotated[float, Within(1e-6, 120, "seconds")]  # more is milliseconds
    share: InnerShare = USUAL_SHARE


class Sla(Frozen):
    """What every user is promised: a speed, a first token, or both. A request that never ends has broken both. Where the workload has classes,
    `class_share` of the requests of each must keep the class's own `sla` as well. `probability`: beside the fleet that is enough by the profile as it
    is, a plan names one that is enough so often, all that the profile does not know included."""

    speed: SpeedPromise | None = None
    ttft: TtftPromise | None = None
    class_share: InnerShare = USUAL_SHARE
    probability: InnerShare = USUAL_PROBABILITY
    _classes: dict[str, Goodput] = PrivateAttr(default_factory=dict)  # what each class of the workload is promised

    @property
    def tps(self) -> float:
        """The promised speed, tok/s; 0 where none is."""
        return self.speed.tps if self.speed else 0.0

    @property
    def speed_share(self) -> float:
        """Of the users whose speed is told."""
        return self.speed.share if self.speed else USUAL_SHARE

    @property
    def ttft_share(self) -> float:
        """Of the users whose TTFT is told."""
        return self.ttft.share if self.ttft else USUAL_SHARE

    @property
    def covers_waiting(self) -> bool:
        """Does any promise cover the time before the first token?"""
        return self.ttft is not None or any(one.reads_prompts for one in self._classes.values())

    @property
    def class_words(self) -> str:
        """`batch: E2E at most 60 s; chat: TTFT at most 2 s`."""
        return "; ".join(f"{name}: {one.words}" for name, one in self._classes.items())

    @property
    def goodput(self) -> Goodput | None:
        """The same limits for a single request; None where only classes are promised anything."""
        if self.speed is None and self.ttft is None:
            return None
        return Goodput(ttft_s=self.ttft.seconds if self.ttft else None, tpot_s=1 / self.speed.tps if self.speed else None)

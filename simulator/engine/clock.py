"""The clock of a run."""

from __future__ import annotations

from heapq import heappush

import simpy
from simpy.events import NORMAL


class Clock(simpy.Environment):
    """SimPy's, which adds delays to the time; arrivals must not depend on what else made it stop before."""

    def at(self, time_s: float) -> simpy.Event:
        """An event at exactly this time, from now on."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, NORMAL, next(self._eid), event))
        return event

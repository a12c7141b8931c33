"""The requests that wait, over a window: do they become more?"""

from __future__ import annotations

import numpy as np

from simulator.arrays import Floats
from simulator.engine.records import StepRecord

TIMES = 201  # at which they are counted
PARTS = 20  # of a window, whose growths show its noise


class Queue:
    """Requests that wait at replicas, their front ends, for prefill workers and at a client's limit, counted at times of a window: whole numbers,
    whose sums do not depend on the order or the parts in which they come."""

    def __init__(self, start_s: float, until_s: float) -> None:
        self._times_s = np.linspace(start_s, until_s, TIMES)
        self._changes = np.zeros(TIMES + 1)
        self._last = np.zeros((1, 2))  # when each replica's last step ended, and how many waited then

    def waits(self, begin_s: Floats, end_s: Floats, requests: Floats | float = 1.0) -> None:
        """Requests that wait from one time to another."""
        first, last = (np.searchsorted(self._times_s, times_s) for times_s in (begin_s, end_s))
        seen = first < last
        requests = np.broadcast_to(requests, seen.shape)[seen]
        np.add.at(self._changes, first[seen], requests)
        np.subtract.at(self._changes, last[seen], requests)

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord: as many wait through a step as when it begins."""
        of = dict(zip(StepRecord._fields, rows.T, strict=True))
        self.waits(of["start_s"], of["end_s"], of["waiting"])
        replica = of["replica"].astype(np.int64)
        if (more := int(replica.max(initial=0)) + 1 - len(self._last)) > 0:
            self._last = np.concatenate([self._last, np.zeros((more, 2))])
        self._last[replica, 0], self._last[replica, 1] = of["end_s"], of["waiting_end"]

    def merge(self, other: Queue) -> None:
        """All of other replicas."""
        self._changes += other._changes
        self._last = np.concatenate([self._last, other._last])

    def grows(self, came: float, since_0: float) -> bool:
        """Does it grow by 2 % of the requests that came in the window, and by more than noise? Either within the window, or so that more wait at its
        end than the noise of all that came since the run began with no queue. A fleet that fills holds more and more too, but nobody waits."""
        length = self._changes.cumsum()[:TIMES]
        for end_s, requests in self._last:  # a step that is under way when the run ends is not written down
            length[np.searchsorted(self._times_s, end_s) :] += requests
        growth = float(np.polyfit(np.linspace(0, 1, TIMES), length, 1)[0])
        if not came or growth <= 0.02 * came:
            return False
        error = np.sqrt(PARTS) * np.diff(length[:: TIMES // PARTS]).std(ddof=1)
        noise = max(3 * np.sqrt(came), 2 * error)
        return bool(growth > noise or length[-TIMES // PARTS :].mean() > noise * np.sqrt(since_0 / came))

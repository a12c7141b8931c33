"""What the groups of a fleet did, whose replicas differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from simulator.arrays import Floats
from simulator.engine.records import End, RequestRecord
from simulator.study.run.meter import GroupNumbers, Meter
from simulator.study.run.metrics import OF_GROUPS

_REPLICA, _MEASURED, _FINISH_S, _ENDING = (RequestRecord._fields.index(name) for name in ("replica", "measured", "finish_s", "ending"))
_JOINED = 3  # the replica in rows of joins


class Groups:
    """A sink that tells a meter of each group what its replicas do: the first `sizes[0]`, the next `sizes[1]`, …"""

    def __init__(self, meters: Sequence[Meter], sizes: Sequence[int]) -> None:
        self.meters, self.sizes, self.ends = meters, sizes, np.cumsum(sizes)
        self.unanswered = [0] * len(meters)  # measured requests that were sent there, refused or without an end at the end

    def warm(self, start_s: float) -> None:
        """Closed loop: the window starts."""
        for meter in self.meters:
            meter.warm(start_s)

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord."""
        for number, mine in self._split(rows, 0):
            self.meters[number].steps(mine)

    def requests(self, rows: Floats, domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        for number, mine in self._split(rows, _REPLICA):
            self.meters[number].requests(mine, domains)
            self.unanswered[number] += int(((mine[:, _MEASURED] > 0) & np.isnan(mine[:, _FINISH_S]) & (mine[:, _ENDING] == 0)).sum())

    def joins(self, rows: Floats) -> None:
        """Rows of Sink.joins."""
        for number, mine in self._split(rows, _JOINED):
            self.meters[number].joins(mine)

    def numbers(self, end: End, gpus: Sequence[float], prompts: bool) -> list[GroupNumbers]:
        """Of every group, over the window of the run; `gpus` of each."""
        ends = (End(end.start_s, end.end_s, count, 0, 0, 0) for count in self.unanswered)
        rows = (meter.row(own_end, own, size, prompts) for meter, own_end, own, size in zip(self.meters, ends, gpus, self.sizes, strict=True))
        return [GroupNumbers(row.requests, {name: row[name] for name in OF_GROUPS}) for row in rows]

    def _split(self, rows: Floats, column: int) -> Iterator[tuple[int, Floats]]:
        place = np.where(rows[:, column] < 0, -1, np.searchsorted(self.ends, rows[:, column], side="right"))
        for number in range(len(self.meters)):
            if (mine := place == number).any():
                yield number, rows[mine]

"""What the groups of a fleet did, whose replicas differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from simulator.arrays import Floats
from simulator.engine.records import End, RequestRecord
from simulator.study.run.meter import GroupNumbers, Meter
from simulator.study.run.metrics import OF_GROUPS

_REPLICA = RequestRecord._fields.index("replica")


class Groups:
    """A sink that tells a meter of each group what its replicas do: the first `sizes[0]`, the next `sizes[1]`, …"""

    def __init__(self, meters: Sequence[Meter], sizes: Sequence[int]) -> None:
        self.meters, self.sizes, self.ends = meters, sizes, np.cumsum(sizes)

    def warm(self, start_s: float) -> None:
        """Closed loop: the window starts."""
        for meter in self.meters:
            meter.warm(start_s)

    def steps(self, rows: Floats) -> None:
        """Rows of StepRecord."""
        for meter, mine in self._split(rows, 0):
            meter.steps(mine)

    def requests(self, rows: Floats, domains: Sequence[str]) -> None:
        """Rows of RequestRecord."""
        for meter, mine in self._split(rows, _REPLICA):
            meter.requests(mine, domains)

    def numbers(self, end: End, gpus: Sequence[float], prompts: bool) -> list[GroupNumbers]:
        """Of every group, over the window of the run; `gpus` of each."""
        window = End(end.start_s, end.end_s, 0, 0, 0, 0)
        rows = (meter.row(window, own, size, prompts) for meter, own, size in zip(self.meters, gpus, self.sizes, strict=True))
        return [GroupNumbers(row.requests, {name: row[name] for name in OF_GROUPS}) for row in rows]

    def _split(self, rows: Floats, column: int) -> Iterator[tuple[Meter, Floats]]:
        place = np.where(rows[:, column] < 0, -1, np.searchsorted(self.ends, rows[:, column], side="right"))
        for number, meter in enumerate(self.meters):
            if (mine := place == number).any():
                yield meter, rows[mine]

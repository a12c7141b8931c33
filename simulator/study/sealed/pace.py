"""The machine's pace beside each measurement: what a shared machine did, apart from what the prediction missed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from simulator.errors import DsimError
from simulator.study.profiles.given_points import named_files
from simulator.study.sealed.measured import MeasuredCell, read_result
from simulator.study.sealed.numbers import SPEED, THROUGHPUT, noise_of
from simulator.study.sealed.result import AtPace, Pace

MARKED = 0.05  # difference of the pace from that of the probes, beyond which a cell is marked


def probes_pace(words: Sequence[str], measured: Collection[Path]) -> list[float]:
    """Pace of the results that a profile was made from, seconds. Raises DsimError where one does not say it, is given twice or is among those that
    are `measured`."""
    found, seen = [], set[Path]()
    for file in named_files(words, "--probes"):
        path = file.path.resolve()
        if path in seen or path in measured:
            problem = "is given twice" if path in seen else "is among the measurements of the seal"
            raise DsimError(problem, where=file.path, key="--probes", remedy="give the results that the profile was made from, each once")
        seen.add(path)
        for point in read_result(file.path).points:
            if point.pace_s is None:
                raise DsimError("does not say the pace of its machine", where=file.path, key="pace_s", remedy="leave out --probes")
            found.append(point.pace_s)
    return found


def pace_of(cell: MeasuredCell, probes_s: float) -> list[float] | None:
    """Of each repeat, ÷ that of the probes; None where a file does not say it."""
    each = [point.pace_s for point in cell.points]
    return None if None in each else [pace_s / probes_s for pace_s in each if pace_s]


def scored_pace(cells: Sequence[MeasuredCell], probes: Sequence[float]) -> Pace | None:
    """Of all cells whose files say it; None where none does."""
    probes_s = float(np.median(probes))
    paces = [(cell, pace) for cell in cells if (pace := pace_of(cell, probes_s))]
    if not paces:
        return None
    each = np.array([float(np.mean(pace)) for _, pace in paces])
    return Pace(
        probes=len(probes), spread=float(np.std(np.log(probes))), cells=len(each), lowest=float(each.min()), median=float(np.median(each)),
        highest=float(each.max()), marked=MARKED, off=int((np.abs(each - 1) > MARKED).sum()), errors=tuple(_errors(paces)),
    )  # fmt: skip


def _errors(paces: Sequence[tuple[MeasuredCell, list[float]]]) -> Iterator[AtPace]:
    closed = [(cell, pace) for cell, pace in paces if cell.condition.load_kind == "concurrency"]
    for name in (SPEED, THROUGHPUT):
        rows = [(cell, np.array(cell.values[name]), np.array(pace)) for cell, pace in closed if name in cell.values and name in cell.sealed.numbers]
        if rows:
            power = -1 if name == SPEED else 1  # a speed is the rate of a mean time
            sizes = [abs(cell.sealed.numbers[name].value / float(np.mean((v * pace) ** power)) ** power - 1) for cell, v, pace in rows]
            yield AtPace(
                number=name, cells=len(sizes), median=float(np.median(sizes)), worst=max(sizes),
                noise_measured=noise_of([values for _, values, _ in rows]), noise=noise_of([values * pace for _, values, pace in rows]),
            )  # fmt: skip

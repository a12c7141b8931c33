"""Measured cells as a score has them, beside what was sealed, and the noise of one measurement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simulator.reading.opening import read_bytes
from simulator.study.sealed.measured import MeasuredCell
from simulator.study.sealed.numbers import NUMBERS, noise_of
from simulator.study.sealed.pace import pace_of
from simulator.study.sealed.result import KINDS, Kind, ScoredCell, ScoredNumber
from simulator.study.sealed.seal import Seal, SealedNumber, sha256


def scored_cells(cells: Sequence[MeasuredCell], seal: Seal, probes: Sequence[float]) -> tuple[ScoredCell, ...]:
    """In the order of the seal; `probes` are paces of the machine, seconds, beside what the profile was made from."""
    order = [(condition.name, cell.policy, cell.load) for condition in seal.conditions for cell in condition.cells]
    place = {key: number for number, key in enumerate(order)}
    probes_s = float(np.median(probes)) if probes else None
    return tuple(_scored(cell, probes_s) for cell in sorted(cells, key=lambda c: place[c.condition.name, c.sealed.policy, c.sealed.load]))


def _scored(cell: MeasuredCell, probes_s: float | None) -> ScoredCell:
    pace = pace_of(cell, probes_s) if probes_s else None
    return ScoredCell(
        condition=cell.condition.name, policy=cell.sealed.policy, load=cell.sealed.load, kind=cell.condition.load_kind,
        files=tuple(point.source for point in cell.points), repeats=len(cell.points), requests=sum(point.requests or 0 for point in cell.points),
        failed=sum(point.failed or 0 for point in cell.points), pace=float(np.mean(pace)) if pace else None,
        numbers={name: scored_number(value, told) for name, value in cell.means.items() if (told := cell.sealed.numbers.get(name))},
        files_sha256=tuple(sha256(read_bytes(Path(point.source))) for point in cell.points),
    )  # fmt: skip


def scored_number(measured: float, told: SealedNumber) -> ScoredNumber:
    """A measured number beside the sealed one."""
    return ScoredNumber(
        measured=measured, predicted=told.value, low=told.low, high=told.high, error=told.value / measured - 1, inside=told.holds(measured)
    )


def noise_by_kind(cells: Sequence[MeasuredCell]) -> dict[tuple[Kind, str], float]:
    """Standard deviation of one measurement's logarithm, pooled over the cells of a kind of load with repeats; where there are none, of the other
    kind; without any it is not there."""
    every = [(cell.condition.load_kind, cell.values) for cell in cells]
    noise = {
        (kind, name): sd
        for kind in KINDS
        for name in NUMBERS
        if (sd := noise_of([values[name] for mine, values in every if mine == kind and name in values])) is not None
    }
    return {(kind, name): noise[other, name] for kind, other in (KINDS, KINDS[::-1]) for name in NUMBERS if (other, name) in noise} | noise

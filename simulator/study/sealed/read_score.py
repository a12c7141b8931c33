"""Score files beside their seals: read, and made again as far as they follow from the seal and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.reading.json_files import read_json
from simulator.study.sealed.cells import scored_number
from simulator.study.sealed.numbers import SPEED, THROUGHPUT
from simulator.study.sealed.result import Score, ScoredCell
from simulator.study.sealed.score import Scoring
from simulator.study.sealed.seal import Seal, read_seal

AGAIN = "make it again with dsim score"


def read_scores(folder: Path) -> list[Score]:
    """NAME.score.json of a folder, the last sealed first; NAME.seal.json beside it is whole, the seal that was scored, and with what was measured
    gives all else. Raises DsimError."""
    scores = []
    for path in sorted(folder.glob("*.score.json")):
        score, name = Score.from_json(read_json(path, remedy=AGAIN), path, AGAIN), path.name.removesuffix(".score.json")
        if score.name != name:
            problem = f"expected the name of the file, {shown(name)}, got {shown(score.name)}"
            raise DsimError(problem, where=path, key="name", remedy="make them alike")
        seal = read_seal(path.with_name(f"{name}.seal.json"))
        if seal.digest != score.seal.digest:
            raise DsimError("is of another seal than the one beside it", where=path, key="seal.digest", remedy="score that seal")
        for cell in score.cells:
            _check_cell(cell, seal, path)
        _check(score, seal, path)
        scores.append(score)
    return sorted(scores, key=lambda score: score.seal.sealed_at, reverse=True)


def _check_cell(cell: ScoredCell, seal: Seal, path: Path) -> None:
    """It is a cell of the seal, and its errors are those of what was measured. Raises DsimError."""
    condition, key = seal.condition(cell.condition), f"{cell.condition}/{cell.policy}/{cell.load:g}"
    sealed = next((one for one in condition.cells if (one.policy, one.load) == (cell.policy, cell.load)), None) if condition else None
    if condition is None or sealed is None or cell.kind != condition.load_kind or not {SPEED, THROUGHPUT} <= cell.numbers.keys():
        raise DsimError("does not follow from the seal", where=path, key=key, remedy=AGAIN)
    for name, number in cell.numbers.items():
        told = sealed.numbers.get(name)
        if told is None or not _same(number.model_dump(), scored_number(number.measured, told).model_dump()):
            raise DsimError("does not follow from the seal", where=path, key=f"{key}/{name}", remedy=AGAIN)


def _check(score: Score, seal: Seal, path: Path) -> None:
    """All that follows from the cells, but for their noise, is what the score says. Raises DsimError."""
    noise = {(one.kind, one.number): one.noise for one in score.summary if one.noise is not None}
    follows = Scoring(seal, score.cells, noise).follows
    made = score.model_copy(update=follows).model_dump()
    for key, value in score.model_dump(include=set(follows)).items():
        if not _same(value, made[key]):
            raise DsimError("does not follow from the seal and the cells", where=path, key=key, remedy=AGAIN)


def _same(one: Any, other: Any) -> bool:
    """But for rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)

"""A seal and result files to a score file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.files import write_whole
from simulator.reading.json_files import read_json
from simulator.study.sealed.cells import noise_by_kind, scored_cells
from simulator.study.sealed.measured import Measured, given_files, not_of_the_seal, read_measured
from simulator.study.sealed.others import OtherPrediction, compared, read_others
from simulator.study.sealed.pace import probes_pace, scored_pace
from simulator.study.sealed.result import Score, ScoredCell
from simulator.study.sealed.score import Scoring
from simulator.study.sealed.seal import NOT_STATED, Seal, alike

CLIENT_TIME = "%Y%m%d-%H%M%S"  # of vllm bench serve: local time of the client's machine
LOOPS = {"concurrency": "closed loops", "rate_rps": "open loops"}


def score_of(
    seal: Seal, name: str, words: Sequence[str], engine: str = "", hardware: str = "", model: str = "", others: Path | None = None,
    probes: Sequence[str] = (),
) -> Score:  # fmt: skip
    """What was measured beside what was sealed. `engine`, `hardware` and `model` are the profiles' where they are not given; `probes` are the results
    that they were made from, with the machine's pace. Raises DsimError."""
    told, files = read_others(others, seal) if others else [], given_files(words, seal)
    paces = tuple(probes_pace(probes, {path.resolve() for _, _, path in files}))
    found = read_measured(files)
    found.not_sealed += not_of_the_seal(words, seal)
    scoring = Scoring(seal, scored_cells(found.cells, seal, paces), noise_by_kind(found.cells))
    pace = scored_pace(found.cells, paces) if paces else None
    older = _older(seal, found)
    undated = sum(_time(point.measured_at) is None for point in found.points)
    dates = [point.measured_at for point in found.points if point.measured_at]
    return Score(
        kind="score", name=name, dsim_version=version("dsim"), scored_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        engine=engine or "; ".join(_stated(seal, "engine")), hardware=hardware or "; ".join(_stated(seal, "hardware")),
        model=model or "; ".join(_stated(seal, "target")) or found.model,
        first_measured=dates[0] if dates else "", last_measured=dates[-1] if dates else "", older=older, undated=undated,
        cells=tuple(scoring.cells), not_sealed=tuple(found.not_sealed), others=tuple(compared(told, scoring.cells)), pace=pace,
        remarks=(
            *_of_options(seal, found, {"engine": engine, "hardware": hardware, "model": model}), *_of_dates(len(found.points), older, undated),
            *(["no measurement says the pace of its machine (pace_s)"] if paces and pace is None else []), *_remarks(found, scoring),
            *_of_others(told, scoring.cells),
        ),
        **scoring.follows,
    )  # fmt: skip


def check_score(path: Path) -> None:
    """What is at `path` is an earlier score, or nothing. Raises DsimError."""
    if os.path.lexists(path) and read_json(path, remedy="name another --out").get("kind") != "score":
        raise DsimError("is not a score, and is not overwritten", where=path, key="--out", remedy="name another file")


def write_score(score: Score, path: Path) -> None:
    """To a score file."""
    write_whole(path, json.dumps(score.to_json(), indent=1, ensure_ascii=False) + "\n")


def _stated(seal: Seal, fact: str) -> list[str]:
    """What the profiles say, each once."""
    every = dict.fromkeys(getattr(condition.profile, fact) for condition in seal.conditions)
    return [text for text in every if text != NOT_STATED]


def _older(seal: Seal, found: Measured) -> int:
    """Measurements that began before the seal, as far as files say when they were made: clients write the end."""
    sealed_at = datetime.fromisoformat(seal.sealed_at)
    ends = [(point, at) for point in found.points if (at := _time(point.measured_at)) is not None]
    return sum(at - timedelta(seconds=point.duration_s or 0) < sealed_at for point, at in ends)


def _of_options(seal: Seal, found: Measured, options: Mapping[str, str]) -> Iterator[str]:
    """Where options, the seal's profiles and the server's name of its model contradict each other."""
    facts, targets = {"engine": "engine", "hardware": "hardware", "model": "target"}, _stated(seal, "target")
    for option, text in options.items():
        for stated in _stated(seal, facts[option]) if text else ():
            if not alike(text, stated):
                yield f"--{option} says {shown(text)}, and the profile of the seal {shown(stated)}"
    for name in targets or [options["model"]]:
        if name and found.model and not alike(name, found.model):
            yield f"the server called its model {shown(found.model)}, and {'the seal' if targets else '--model'} is of {shown(name)}"


def _of_dates(measurements: int, older: int, undated: int) -> Iterator[str]:
    if older:
        yield f"{older} of {measurements} measurements are older than the seal (by this machine's time zone): these were no predictions"
    if undated:
        yield f"{undated} of {measurements} files do not say when they were measured: that they are younger than the seal is for you to know"


def _of_others(told: Sequence[OtherPrediction], cells: Sequence[ScoredCell]) -> Iterator[str]:
    measured = {name for cell in cells for name in cell.numbers}
    for metric in dict.fromkeys(row.metric for row in told if row.metric not in measured):
        yield f"--others predicts {metric}, which no file has"


def _remarks(found: Measured, scoring: Scoring) -> Iterator[str]:
    for place in scoring.unchosen:
        yield f"recommended and not measured: {place.condition}/{place.policy} at {place.load:g}; regret and ranking there are of the others"
    yield from scoring.unkept
    yield from _of_noise(scoring.cells)
    if scoring.not_measured:
        cells = ", ".join(f"{place.condition}/{place.policy} at {place.load:g}" for place in scoring.not_measured)
        yield f"sealed and not measured: {cells}"
    if found.not_sealed:
        yield f"measured and not sealed: {', '.join(found.not_sealed)}"
    yield from dict.fromkeys(found.remarks)


def _of_noise(cells: Sequence[ScoredCell]) -> Iterator[str]:
    """Where there are no repeats to know it from."""
    repeated = {cell.kind for cell in cells if cell.repeats > 1}
    if not repeated:
        yield "no cell was measured twice: noise is not known, so every difference between policies counts"
        return
    for kind in {cell.kind for cell in cells} - repeated:
        yield f"no cell of {LOOPS[kind]} was measured twice: their noise is taken to be that of {LOOPS[min(repeated)]}"


def _time(date: str) -> datetime | None:
    """A client's local time, or an ISO time; None of another form."""
    with suppress(ValueError, OverflowError):
        return datetime.strptime(date, CLIENT_TIME).astimezone()
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(date).astimezone()
    return None

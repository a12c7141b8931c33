"""Scrapes of /metrics that a command line names: whose they are, and the files that they fill in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.formats.scrapes import read_counters
from simulator.study.profiles.given_points import ALWAYS, ANY, CONTRADICTS, NONE, Cell, Named


def _by_drafter(cells: Iterable[Cell], drafter: str) -> dict[str, list[LoadPoint]]:
    """The points of servers that may have drafted; `drafter` is the name of that of files that name none."""
    points: dict[str, list[LoadPoint]] = {}
    for cell in cells:
        if cell.drafter != NONE and cell.point.slots != 0:
            points.setdefault(cell.drafter or drafter, []).append(cell.point)
    return points


def read_scrapes(
    after: Sequence[Named], before: Sequence[Named], model: str | None, remarks: list[str], drafter: str, cells: Sequence[Cell] | None = None
) -> dict[str, list[SpecCounters]]:
    """Counters of each drafter's scrapes, less the earlier ones, and as many answers as results in `cells` have where the engine counts none; what is
    to be said of them joins `remarks`. Raises DsimError where there are not as many earlier ones, where they are of several models, or of a drafter
    that no result is of."""
    if before and len(before) != len(after):
        if not after:
            raise DsimError("an earlier scrape needs a later one", key="--metrics", remedy="give --metrics too")
        problem = f"expected {len(after)} earlier scrapes, one for each of --metrics, got {len(before)}"
        raise DsimError(problem, key="--metrics-before", remedy="give both in the same order")
    points = _by_drafter(cells or (), drafter)
    told: dict[str, list[SpecCounters]] = {}
    earlier_of: Sequence[Named | None] = before or [None] * len(after)
    for file, earlier in zip(after, earlier_of, strict=True):
        if file.drafter == NONE:
            raise DsimError("counts acceptance, and a server without speculation has none", where=file.path, key="--metrics", remedy="leave it out")
        if file.domain != ANY:
            problem = f"names the domain {shown(file.domain)}, and a scrape is of all that its server did"
            raise DsimError(problem, where=file.path, key="--metrics", remedy="give a result file of that domain")
        name = file.drafter or drafter
        if cells is not None and name not in points:
            others = shown(", ".join(sorted(points))) if points else "no drafter"
            problem = f"is of {shown(name)}, and the results are of {others}"
            raise DsimError(problem, where=file.path, key="--metrics", remedy="name it as its results are, NAME=FILE, or leave it out")
        counters = read_counters(file.path, earlier.path if earlier else None, model).answered(_answer_tokens(points.get(name, ())))
        check_whole(counters, file.path)
        remarks += counters.remarks(file.path.name)
        told.setdefault(name, []).append(counters)
    names = {counters.model for each in told.values() for counters in each if counters.model}
    if len(names) > 1:
        raise DsimError(f"are of {len(names)} models, {shown(', '.join(sorted(names)))}", key="--metrics", remedy="choose one with --model")
    return told


def _answer_tokens(points: Sequence[LoadPoint]) -> float | None:
    """Mean tokens of an answer, where files say them."""
    rows = [(point.output_tokens, point.requests or 1) for point in points if point.output_tokens]
    return float(np.average([tokens for tokens, _ in rows], weights=[requests for _, requests in rows])) if rows else None


def check_whole(counters: SpecCounters, where: Path | str) -> None:
    """An engine that cuts blocks counts what it never verified as rejected. Raises DsimError, but for drafters that had no more to propose."""
    if counters.cut and not counters.tried and (counters.proposing is None or counters.proposing > ALWAYS):
        mean = (counters.draft_tokens or 0) / counters.drafts
        problem = f"blocks of {counters.slots} were cut to {mean:.3g} in the mean, and what lies beyond the cut was never tried"
        remedy = "scrape a server with a fixed length, or one that counts spec_decode_num_draft_tokens_per_pos"
        raise DsimError(problem, where=where, key=f"{counters.engine}:spec_decode_num_draft_tokens", remedy=remedy)


def filled(cells: Sequence[Cell], scrapes: Mapping[str, Sequence[SpecCounters]], drafter: str, chosen: bool = False) -> list[Cell]:
    """Cells of clients that count nothing, and SGLang's rows, whose accepted length is a mean since its start, with what their server's scrapes
    counted; `drafter` is the name of that of files that name none. `chosen`: --model names what the server calls the model, which clients may know by
    another name. Raises DsimError where the two contradict each other."""
    out = []
    for cell in cells:
        mine = scrapes.get(cell.drafter or drafter, ())
        if not mine or cell.drafter == NONE or cell.point.slots == 0:
            out.append(cell)
            continue
        _check_server(cell, mine[0], chosen)
        if cell.point.accepted_length is not None and cell.point.engine != "SGLang":
            out.append(cell)
            continue
        _check_one_length(cell, mine)
        rounds = sum(each.rounds or each.drafts for each in mine)
        length, budget, proposing = (_mean(mine, name) for name in ("accepted_length", "budget", "proposing"))
        budget, slots = budget or cell.point.budget, mine[0].slots or cell.point.slots
        point = replace(cell.point, accepted_length=length, budget=budget, proposing=proposing or 1.0, slots=slots, rounds=rounds)
        out.append(replace(cell, point=point))
    return out


def _check_one_length(cell: Cell, mine: Sequence[SpecCounters]) -> None:
    """Raises DsimError where scrapes of several lengths would all count for a file: they do not say which is its own."""
    lengths = sorted({each.slots for each in mine})
    if len(lengths) > 1:
        problem = f"counts nothing itself, and the scrapes of its drafter draft {' and '.join(map(str, lengths))} tokens"
        remedy = "name the files and scrapes of each length (eagle3k3=FILE, eagle3k5=FILE), or give results with counters"
        raise DsimError(problem, where=cell.point.source, key="--metrics", remedy=remedy)


def _mean(counters: Sequence[SpecCounters], name: str) -> float | None:
    values, weights = [getattr(each, name) for each in counters], [each.rounds or each.drafts for each in counters]
    return None if None in values else float(np.average(values, weights=weights))


def _check_server(cell: Cell, counters: SpecCounters, chosen: bool) -> None:
    """Raises DsimError where a scrape is not of the server that the file is of."""
    point, remedy = cell.point, "scrape the server that was benchmarked"
    if counters.model and point.model and counters.model != point.model and not chosen:
        problem = f"is of model {shown(point.model)}, and the scrape of {shown(counters.model)}"
        raise DsimError(problem, where=point.source, key="--metrics", remedy=f"{remedy}, or say its --served-model-name with --model")
    if (point.engine == "SGLang") != (counters.engine == "sglang") and (point.engine or point.survival):
        raise DsimError(f"is not of {counters.engine}, as the scrape is", where=point.source, key="--metrics", remedy=remedy)
    if point.survival and len(point.survival) == counters.slots:
        ours = 1 + sum(point.survival)
        theirs = 1 + counters.accepted_tokens / max(counters.drafts, 1.0)
        if abs(ours / theirs - 1) > 2 * CONTRADICTS:
            problem = f"counts {ours:.3g} tokens in a round that drafted, and the scrape {theirs:.3g}"
            raise DsimError(problem, where=point.source, key="--metrics", remedy=remedy)

"""probe.json: what a probe measured, kept so that another probe's points can join it, and its comparison as a result file of docs/validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.reading import Line, Part
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.server import Measured
from simulator.names import check_word
from simulator.quantities import MOST_SLOTS, Flag, MeanTokens, Seconds, Share, Slots, TokensPerSecond, Users, Within
from simulator.reading.json_files import read_json
from simulator.schema import validate
from simulator.study.profiles.about import About
from simulator.study.profiles.given_points import Cell
from simulator.study.profiles.probe_plan import ProbePlan
from simulator.study.run.validated import ValidationRow, all_within

Row = dict[str, Any]
FIT_LIMIT, CHECK_LIMIT = 0.05, 0.10  # median at the fitted levels, each at those left out
FILE = "probe.json"
UNSTEADY = 0.2  # p90 ÷ p10 - 1 of the time between pieces, above which a level is measured again, and marked
PerRound = Annotated[float, Within(1, MOST_SLOTS + 1, "tokens")]
Throughput = Annotated[float, Within(1e-3, 1e9, "tokens per second")]
Rounds = Annotated[float, Within(0, 1e15, "rounds")]


@dataclass(frozen=True)
class Level:
    """What a number of users saw, and what the engine counted meanwhile."""

    at: Measured
    counted: SpecCounters | None
    held_out: bool
    attempts: int = 1

    @property
    def unsteady(self) -> bool:
        return self.at.spread > UNSTEADY


class _Point(Part):
    """A LoadPoint under its names, of which drafter, and whether it is kept out of the fit."""

    source: Line
    drafter: Line
    held_out: Flag
    offered: Users
    tps_per_user: TokensPerSecond
    throughput_tok_s: Throughput
    ttft_s: Seconds | None = None
    accepted_length: PerRound
    budget: PerRound
    survival: Annotated[list[Share], Field(max_length=MOST_SLOTS)] | None = None
    proposing: Share | None = None
    slots: Slots
    rounds: Rounds | None = None
    prompt_tokens: MeanTokens | None = None
    output_tokens: MeanTokens
    adaptive: Flag = False

    def cell(self, where: Path) -> Cell:
        if self.drafter:
            check_word(self.drafter, f"{where}: drafter", file=True)
        values = self.model_dump(exclude={"drafter", "held_out"})
        return Cell(LoadPoint(**values), self.drafter, where, self.held_out)


KEPT = tuple(field.name for field in fields(LoadPoint) if field.name in _Point.model_fields)


class _Server(Part):
    model: Line
    output_tokens: MeanTokens


class _Kept(Part):
    label: Line = ""
    server: _Server
    raw_points: Annotated[list[_Point], Field(min_length=1, max_length=10_000)]


def points_json(cells: Sequence[Cell]) -> list[Row]:
    """Raw points as probe.json keeps them."""
    return [{"drafter": cell.drafter, "held_out": cell.held_out} | {name: getattr(cell.point, name) for name in KEPT} for cell in cells]


def read_points(profile: Path, plan: ProbePlan) -> list[Cell]:
    """The points that a probe kept beside its profile. Raises DsimError, also where they are of another server than the plan's."""
    file = profile / FILE
    content = read_json(file, remedy="give the folder of a profile that dsim probe made")
    if "raw_points" not in content:
        raise DsimError("keeps no points", where=file, key="raw_points", remedy="probe again with this version of dsim")
    kept = validate(_Kept, content, file, DsimError)
    for name, then, now in (("model", kept.server.model, plan.server.model), ("output_tokens", kept.server.output_tokens, plan.server.output_tokens)):
        if then != now:
            text = f"is {shown(then)}, and {shown(now)} in this probe" if name == "model" else f"is {then:g}, and {now:g} in this probe"
            raise DsimError(text, where=file, key=f"server.{name}", remedy="add probes of one model under one setting")
    prefix = f"{plan.label}: "
    if not plan.label or any(point.source.startswith(prefix) for point in kept.raw_points):
        taken = "is taken by points of the added profile" if plan.label else "is missing"
        raise DsimError(taken, key="--label", remedy="say in a word of your own what is different now, for example k3")
    return [point.cell(file) for point in kept.raw_points]


def result_json(plan: ProbePlan, about: About, comparison: Sequence[Row]) -> Row:
    """The comparison as a result file of docs/validation, where it can be copied to."""
    rows = []
    for row in comparison:
        what, limit = (", left out of the fit", CHECK_LIMIT) if row["held_out"] else ("", None)
        numbers = {"simulated": row["simulated"], "published": row["measured"], "n": row["n"], "fitted": not row["held_out"]}
        name = f"per-user speed of {row['source']}{what}"
        rows.append(ValidationRow.judged(name, row["difference"], limit, **numbers, policy="", unit="value"))
    median = float(np.median([abs(row["difference"]) for row in comparison if not row["held_out"]]))
    rows.append(ValidationRow.judged("per-user speed at the fitted levels: median of differences", median, FIT_LIMIT, policy="", fitted=True))
    grid, checks = (",".join(map(str, counts)) for counts in (plan.concurrency, plan.check))
    added = sorted({row["users"] for row in comparison if row["label"] == plan.label} - {*plan.concurrency, *plan.check})
    return {
        "name": f"probe-{about.called}",
        "title": "A running server measured from outside, a profile fitted to it, and that profile simulated",
        "system": f"{Path(plan.server.model).name}, {about.hardware}, {about.engine}",
        "sources": ["dsim probe"],
        "command": f"dsim probe --concurrency {grid}" + (f" --check {checks}" if checks else "")
        + (f" --refine {plan.refine}" if plan.refine else "") + f" --requests {plan.turns} --output-tokens {plan.server.output_tokens}"
        + (f" --label {plan.label}" if plan.label else "") + f" --seed {plan.seed}",
        "dsim_version": version("dsim"),
        "conditions": [
            f"Closed loop: {plan.turns} measured answers per user, {plan.server.output_tokens} tokens at most, {len(plan.prompts)} prompts, each "
            "request beginning with words of its own.",
            *([f"{', '.join(map(str, added))} users were added where step times jump."] if added else []),
        ],
        "rows": [row.to_json() for row in rows],
        "points": [],
        "compared_with": "measured",
        "ok": all_within(rows),
    }  # fmt: skip


def level_json(level: Level, label: str) -> Row:
    """A level as it was measured."""
    at, prompts = level.at, [a.prompt_tokens for a in level.at.answers if a.prompt_tokens is not None]
    return {
        "label": label,
        "users": at.users,
        "held_out": level.held_out,
        "attempts": level.attempts,
        "unsteady": level.unsteady,
        "answers": len(at.answers),
        "tokens_counted_by_server": sum(a.counted for a in at.answers),
        "hidden_tokens_mean": float(np.mean([a.hidden for a in at.answers])),
        "tps_per_user_mean": at.tps_per_user,
        **{f"tps_per_user_p{q}": float(np.percentile(at.speeds, q)) for q in (10, 50, 90)},
        "throughput_tok_s": at.throughput_tok_s,
        "decoding_mean": at.decoding,
        "ttft_p50_s": at.ttft_s,
        "prompt_tokens_mean": float(np.mean(prompts)) if prompts else None,
        "output_tokens_mean": float(np.mean([a.tokens + a.hidden for a in at.answers])),
    }

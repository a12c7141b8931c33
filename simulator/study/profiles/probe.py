"""`dsim probe`: measures a server at several concurrency levels, fits a profile to them and to those of earlier probes, and compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.endpoint import Server
from simulator.measurements.formats.loadgen import PIECES, LoadPoint
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.formats.scrapes import counted_between, counters_in
from simulator.measurements.server import Measured, measure, scrape
from simulator.study.profiles.about import About
from simulator.study.profiles.given_points import Cell, check_per_round
from simulator.study.profiles.probe_fit import profile_of
from simulator.study.profiles.probe_plan import ProbePlan
from simulator.study.profiles.probe_record import FILE, Level, Row, level_json, points_json, read_points, result_json
from simulator.study.profiles.scraped import check_whole
from simulator.study.run.output import write_json

NO_COUNTERS = "the server has no counters in /metrics: taken for one without speculation; if it speculates, give --accepted-length and --budget"
JUMP = 1.25  # ratio of neighbouring step times above which a level between them is worth measuring
Say = Callable[[str], None]


def probe_server(
    plan: ProbePlan, about: About, assumed_length: float | None, assumed_budget: float | None, add: Path | None = None, say: Say = lambda _: None
) -> Row:
    """Measures the server, writes the profile of these points and those of the profile `add`, with probe.json beside it, and compares its simulation
    with the server. Raises DsimError."""
    about.check()
    check_per_round(assumed_length, assumed_budget)
    if (assumed_length is None) != (assumed_budget is None):
        raise DsimError("expected both or none", key="--accepted-length, --budget", remedy="give both; without speculation both are 1")
    earlier = read_points(add, plan) if add is not None else []
    say(f"warming up {plan.server.shown}")
    first = measure(plan.server, plan.prompts, 1, 1, plan.fresh(0, 0))
    _check_counted(first, assumed_length, plan.server)
    counts = assumed_length is None and _counters(plan.server) is not None
    if silent := assumed_length is None and not counts:
        _check_pieces(first, plan.server)
    levels = _measure_levels(plan, counts, say)
    cells = [_cell(level, plan, assumed_length, assumed_budget) for level in levels.values()]
    warnings = [*([NO_COUNTERS] if silent else []), *_warnings(list(levels.values()), plan)]
    warnings += dict.fromkeys(remark for level in levels.values() for remark in _remarks(level))
    imported = profile_of(about, f"probe of {Path(plan.server.model).name}", [*earlier, *cells], warnings)
    comparison = _compared(imported["cells"], levels, plan)
    length, budget = _per_round(cells)
    record = {
        **result_json(plan, about, comparison),
        "assumed": imported["assumed"],
        "not_identifiable": imported["not_identifiable"],
        "server": {"model": plan.server.model, "chat": plan.server.chat, "output_tokens": plan.server.output_tokens, "extra": plan.server.extra},
        "label": plan.label,
        "seed": plan.seed,
        "accepted_length": length,
        "budget": budget,
        "measured": [level_json(level, plan.label) for level in levels.values()],
        "comparison": comparison,
        "raw_points": points_json([*earlier, *cells]),
        "warnings": warnings,
    }
    write_json(record, about.out / FILE)
    text = "\n".join([*(f"warning: {warning}" for warning in warnings), imported["text"]])
    told = {name: imported[name] for name in ("drafters", "rms", "remarks")}
    return {**record, "profile": str(about.out), **told, "text": text}


def _measure_levels(plan: ProbePlan, counts: bool, say: Say) -> dict[int, Level]:
    """What every number of users saw, the planned ones and those added where step times jump, in order."""
    levels: dict[int, Level] = {}

    def measure_at(users: int, why: str = "") -> None:
        level = _level(plan, users, counts, 1)
        if level.unsteady:
            say(f"{users} users: the time between pieces differs by {level.at.spread:.0%} between p10 and p90, measuring again")
            level = min(level, _level(plan, users, counts, 2), key=lambda each: each.at.spread)
            level = replace(level, attempts=2)
        at = level.at
        marked = ", unsteady" if level.unsteady else ""
        say(f"{users} users: {at.tps_per_user:.2f} tok/s per user, {at.throughput_tok_s:.1f} tok/s, TTFT {at.ttft_s * 1e3:.0f} ms{why}{marked}")
        levels[users] = level

    for users in sorted((*plan.concurrency, *plan.check)):
        measure_at(users)
    for _ in range(plan.refine):
        between = widest_jump({users: level.at.tps_per_user for users, level in levels.items() if not level.held_out}, plan.check)
        if between is None:
            break
        measure_at(between, " (added where step times jump)")
    return dict(sorted(levels.items()))


def _level(plan: ProbePlan, users: int, counts: bool, attempt: int) -> Level:
    before = _counters(plan.server) if counts else None
    at = measure(plan.server, plan.prompts, users, plan.turns, plan.fresh(users, attempt))
    after = _counters(plan.server) if counts else None
    counted = counted_between(before, after, plan.server.shown) if before and after else None
    return Level(at, counted, users in plan.check)


def widest_jump(speeds: dict[int, float], check: Sequence[int]) -> int | None:
    """The number of users between the two neighbours whose step times have the largest ratio; None where no ratio is above JUMP with a number in
    between. Numbers kept for the check are not used."""
    users = sorted(speeds)
    jumps = []
    for a, b in pairwise(users):
        inside = [u for u in range(a + 1, b) if u not in check]
        ratio = max(speeds[a] / speeds[b], speeds[b] / speeds[a])
        if inside and ratio > JUMP:
            jumps.append((ratio, min(inside, key=lambda u: (abs(u - (a + b) / 2), u))))
    return max(jumps)[1] if jumps else None


def _counters(server: Server) -> SpecCounters | None:
    """What the server has counted so far of the model that is probed; None where it counts nothing."""
    text = scrape(server)
    named = text is not None and f'model_name="{server.model}"' in text
    return counters_in(text, server.shown, server.model if named else None) if text else None


def _cell(level: Level, plan: ProbePlan, length: float | None, budget: float | None) -> Cell:
    """A level as an operating point, its rounds as the engine counted them, else as assumed, else one token each. Raises DsimError where tokens of
    answers were not counted and a round commits several, and where the engine cut blocks."""
    point = _point(level.at, plan)
    if length is not None and budget is not None:
        point = replace(point, accepted_length=length, budget=budget, slots=max(round(budget - 1), 1) if budget > 1 else 0)
    elif level.counted is not None and level.counted.drafts:
        if level.counted.budget is None:
            problem = "does not say how many tokens a round verifies"
            raise DsimError(problem, where=plan.server.shown, key="--budget", remedy="give it and --accepted-length")
        counters = level.counted.answered(point.output_tokens)
        check_whole(counters, plan.server.shown)
        point = point.counted(counters)
    else:
        if level.counted is None:
            _check_pieces(level.at, plan.server)
        point = replace(point, accepted_length=1.0, budget=1.0, proposing=0.0, slots=0)
    _check_counted(level.at, point.accepted_length, plan.server)
    return Cell(point, plan.drafter if point.slots else "", Path(FILE), level.held_out)


def _check_counted(at: Measured, length: float | None, server: Server) -> None:
    """Raises DsimError where tokens of answers were not counted and a round commits several."""
    uncounted = sum(not answer.counted for answer in at.answers)
    if uncounted and (length or 1.0) > 1:
        problem = f"does not count the tokens of {uncounted} of {len(at.answers)} answers, and a piece of one may hold several accepted ones"
        remedy = """let usage through (stream_options.include_usage), or ask for all tokens with --extra '{"ignore_eos": true}'"""
        raise DsimError(problem, where=server.shown, key="usage.completion_tokens", remedy=remedy)


def _check_pieces(at: Measured, server: Server) -> None:
    """Raises DsimError where nothing counts rounds and pieces of answers have several tokens. One of an answer, its end, may come in no piece."""
    seen = [answer for answer in at.answers if not answer.hidden]
    tokens, pieces = sum(answer.tokens - 1 for answer in seen), sum(answer.chunks for answer in seen)
    if tokens > (1 + PIECES) * pieces:
        problem = f"sends {tokens / pieces:.3g} tokens in a piece, as one that speculates does, and has no counters in /metrics"
        raise DsimError(problem, where=server.shown, key="--accepted-length", remedy="give it and --budget; without speculation both are 1")


def _point(at: Measured, plan: ProbePlan) -> LoadPoint:
    """Means over answers. Throughput is that of the users who decode, by Little's law: of the time in which all were there."""
    tokens = float(np.mean([a.tokens + a.hidden for a in at.answers]))
    speed = 1 / float(np.mean([1 / tps for tps in at.speeds]))
    prompts = [a.prompt_tokens for a in at.answers if a.prompt_tokens]
    return LoadPoint(
        source=f"{plan.label}: {at.users} users" if plan.label else f"{at.users} users",
        tps_per_user=speed,
        throughput_tok_s=at.decoding * speed / (1 - 1 / tokens),
        ttft_s=float(np.mean([a.begin_s - a.sent_s for a in at.answers])),
        model=plan.server.model,
        prompt_tokens=float(np.mean(prompts)) if prompts else None,
        output_tokens=tokens,
        offered=float(at.users),
    )


def _warnings(levels: Sequence[Level], plan: ProbePlan) -> list[str]:
    """What makes the measurement less than it seems."""
    found, answers = [], [answer for level in levels for answer in level.at.answers]
    if uncounted := sum(not answer.counted for answer in answers):
        found.append(
            f"the server does not count the tokens of {uncounted} of {len(answers)} answers: a piece is taken for a token, which is too few where it "
            "speculates or sends several at once"
        )
    if hidden := sum(answer.hidden > 0 for answer in answers):
        found.append(f"{hidden} of {len(answers)} answers have thinking that is counted and not streamed: their speed is that of what was streamed")
    if marked := [str(level.at.users) for level in levels if level.unsteady]:
        found.append(f"unsteady at {', '.join(marked)} users, measured twice: times between pieces differ by more than 20 % between p10 and p90")
    return found


def _remarks(level: Level) -> list[str]:
    return level.counted.remarks("/metrics") if level.counted else []


def _compared(rows: Sequence[Row], levels: dict[int, Level], plan: ProbePlan) -> list[Row]:
    """Simulated and measured speed of every point, those of added probes first."""
    prefix = f"{plan.label}: " if plan.label else ""
    mine = {f"{prefix}{users} users": level for users, level in levels.items()}
    found = []
    for row in rows:
        level, speed = mine.get(row["source"]), row["tps_per_user"]
        n = len(level.at.answers) if level else None
        error = float(np.std(level.at.speeds, ddof=1) / np.sqrt(n)) if level and n and n > 1 else None
        label = plan.label if level else row["source"].partition(": ")[0] if ": " in row["source"] else ""
        found.append({
            "source": row["source"], "label": label, "users": round(row["users"]), "drafter": row["drafter"], "simulated": speed["simulated"],
            "measured": speed["measured"], "measured_error": error, "n": n, "difference": speed["difference"], "held_out": not row["fitted"],
        })  # fmt: skip
    return found


def _per_round(cells: Sequence[Cell]) -> tuple[float, float]:
    """Tokens committed and verified per round of this probe, over all of its rounds."""
    weights = [cell.point.rounds or 1.0 for cell in cells]
    length, budget = (np.average([getattr(cell.point, name) for cell in cells], weights=weights) for name in ("accepted_length", "budget"))
    return float(length), float(budget)

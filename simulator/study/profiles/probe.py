"""`dsim probe`: measures a server at several concurrency levels, fits a profile and compares its simulation with the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import DsimError
from simulator.measurements.cost import Costs
from simulator.measurements.endpoint import Server
from simulator.measurements.formats.loadgen import LoadPoint, Loads
from simulator.measurements.formats.rounds import SpecCounters
from simulator.measurements.formats.scrapes import counted_between, counters_in
from simulator.measurements.prices import RoundCost
from simulator.measurements.replay import nothing_drafted
from simulator.measurements.server import Measured, measure, scrape
from simulator.policies.verification import NoSpeculation
from simulator.study.profiles.about import About
from simulator.study.profiles.given_points import check_per_round
from simulator.study.profiles.one_replica import closed_loop
from simulator.study.profiles.probe_fit import import_load
from simulator.study.profiles.probe_plan import ProbePlan
from simulator.study.run.output import write_json
from simulator.study.run.validated import ValidationRow, all_within

Row = dict[str, Any]
SMOOTH_WITHIN = 0.03  # rms up to which a curve is used; kernels that change with the batch miss it
JUMP = 1.25  # ratio of neighbouring step times above which a level between them is worth measuring
FIT_LIMIT, CHECK_LIMIT = 0.05, 0.10  # median at the fitted levels, each at those left out


def probe_server(
    plan: ProbePlan, about: About, assumed_length: float | None, assumed_budget: float | None, say: Callable[[str], None] = lambda _: None
) -> Row:
    """Measures the server, writes the profile with probe.json beside it and compares the profile's simulation with the server. Raises DsimError."""
    about.check()
    check_per_round(assumed_length, assumed_budget)
    if (assumed_length is None) != (assumed_budget is None):
        raise DsimError("expected both or none", key="--accepted-length, --budget", remedy="give both; without speculation both are 1")
    say(f"warming up {plan.server.shown}")
    measure(plan.server, plan.prompts, 1, 1)
    before = _counters(plan.server) if assumed_length is None else None
    measured = _measure_levels(plan, say)
    after = _counters(plan.server) if before else None
    length, budget = _per_round(before, after, assumed_length, assumed_budget, plan.server.shown)
    fitted = [at for users, at in measured.items() if users not in plan.check]  # all users count as in the step: what prompts cost is in the speed
    points = [LoadPoint(f"{at.users} users", at.tps_per_user, at.tps_per_user * at.users, at.ttft_s) for at in fitted]
    imported = import_load(about, f"probe of {Path(plan.server.model).name}", Loads(points, []), length, budget, SMOOTH_WITHIN)
    comparison = compare(imported["costs"], length, budget, measured, plan)
    record = {
        **_result(plan, about, comparison),
        "server": {"model": plan.server.model, "chat": plan.server.chat, "output_tokens": plan.server.output_tokens, "extra": plan.server.extra},
        "accepted_length": length,
        "budget": budget,
        "measured": [_record(at, users in plan.check) for users, at in measured.items()],
        "comparison": comparison,
    }
    write_json(record, about.out / "probe.json")
    near, checked = ([abs(row["difference"]) for row in comparison if row["held_out"] == apart] for apart in (False, True))
    lines = [imported["text"], *map(_line, comparison)]
    lines.append(f"simulated per-user speed at the fitted levels: {np.median(near):.1%} off (median), {max(near):.1%} at most")
    if checked:
        lines.append(f"at the levels left out of the fit: {max(checked):.1%} at most")
    return {**record, "profile": str(about.out), "text": "\n".join(lines)}


def _measure_levels(plan: ProbePlan, say: Callable[[str], None]) -> dict[int, Measured]:
    """What every number of users saw, the planned ones and those added where step times jump, in order."""
    measured: dict[int, Measured] = {}

    def measure_at(users: int, why: str = "") -> None:
        at = measured[users] = measure(plan.server, plan.prompts, users, plan.turns)
        say(f"{users} users: {at.tps_per_user:.2f} tok/s per user, {at.throughput_tok_s:.1f} tok/s, TTFT {at.ttft_s * 1e3:.0f} ms{why}")

    for users in sorted((*plan.concurrency, *plan.check)):
        measure_at(users)
    for _ in range(plan.refine):
        between = widest_jump({users: at.tps_per_user for users, at in measured.items() if users not in plan.check}, plan.check)
        if between is None:
            break
        measure_at(between, " (added where step times jump)")
    return dict(sorted(measured.items()))


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


def _result(plan: ProbePlan, about: About, comparison: list[Row]) -> Row:
    """The comparison as a result file of docs/validation, where it can be copied to."""
    rows = []
    for row in comparison:
        what, limit = (", left out of the fit", CHECK_LIMIT) if row["held_out"] else ("", None)
        numbers = {"simulated": row["simulated"], "published": row["measured"], "n": row["n"], "fitted": not row["held_out"]}
        rows.append(
            ValidationRow.judged(f"per-user speed of {row['users']} users{what}", row["difference"], limit, **numbers, policy="", unit="value")
        )
    median = float(np.median([abs(row["difference"]) for row in comparison if not row["held_out"]]))
    rows.append(ValidationRow.judged("per-user speed at the fitted levels: median of differences", median, FIT_LIMIT, policy="", fitted=True))
    grid, checks = (",".join(map(str, counts)) for counts in (plan.concurrency, plan.check))
    added = sorted({row["users"] for row in comparison} - {*plan.concurrency, *plan.check})
    return {
        "name": f"probe-{about.called}",
        "title": "A running server measured from outside, a profile fitted to it, and that profile simulated",
        "system": f"{Path(plan.server.model).name}, {about.hardware}, {about.engine}",
        "sources": ["dsim probe"],
        "command": f"dsim probe --concurrency {grid}" + (f" --check {checks}" if checks else "")
        + (f" --refine {plan.refine}" if plan.refine else "") + f" --requests {plan.turns} --output-tokens {plan.server.output_tokens}",
        "dsim_version": version("dsim"),
        "conditions": [
            f"Closed loop: {plan.turns} measured answers per user, {plan.server.output_tokens} tokens at most, {len(plan.prompts)} prompts.",
            *([f"{', '.join(map(str, added))} users were added where step times jump."] if added else []),
        ],
        "assumed": ["the cost that prompts have for other users is part of the step cost, for the probe's prompts"],
        "rows": [row.to_json() for row in rows],
        "points": [],
        "compared_with": "measured",
        "ok": all_within(rows),
    }  # fmt: skip


def _counters(server: Server) -> SpecCounters | None:
    text = scrape(server)
    return counters_in(text, server.shown) if text else None


def _per_round(
    before: SpecCounters | None, after: SpecCounters | None, length: float | None, budget: float | None, where: str
) -> tuple[float, float]:
    """Tokens committed and verified per round: as assumed, else from the counters, else 1 and 1. Raises DsimError where the counters fell."""
    if length is not None and budget is not None:
        return length, budget
    counted = counted_between(before, after, where) if before and after else None
    if not counted or not counted.drafts:
        return 1.0, 1.0
    if counted.budget is None:
        raise DsimError("does not say how many tokens a round verifies", where=where, key="--budget", remedy="give it and --accepted-length")
    return counted.accepted_length, counted.budget


def compare(costs: Costs, length: float, budget: float, measured: dict[int, Measured], plan: ProbePlan) -> list[Row]:
    """Per-user speed of a simulated closed loop under the fitted costs beside the measured one. A round costs `budget` tokens per request and
    commits `length`: ordinary decoding at scaled costs."""
    rows = []
    for users, at in measured.items():
        loop = closed_loop(users, 2, plan.server.output_tokens, NoSpeculation(), nothing_drafted(), _Scaled(costs, budget), {})
        simulated, n = loop.known("tps_per_user_mean") * length, len(at.speeds)
        error = float(np.std(at.speeds, ddof=1) / np.sqrt(n)) if n > 1 else None
        row = {"users": users, "simulated": simulated, "measured": at.tps_per_user, "measured_error": error, "n": n}
        rows.append(row | {"difference": simulated / at.tps_per_user - 1, "held_out": users in plan.check})
    return rows


class _Scaled(RoundCost):
    """Rounds of `budget` tokens per request."""

    def __init__(self, costs: Costs, budget: float) -> None:
        super().__init__(costs, None, 0, 0)
        self.budget = budget

    def round_s(self, requests: int, context_tokens: float) -> Any:
        return self.costs.verify.seconds([requests * self.budget], requests, context_tokens) + self.overhead_s


def _record(at: Measured, held_out: bool) -> Row:
    prompts = [a.prompt_tokens for a in at.answers if a.prompt_tokens is not None]
    return {
        "users": at.users,
        "held_out": held_out,
        "answers": len(at.answers),
        "tokens_counted_by_server": sum(a.counted for a in at.answers),
        "tps_per_user_mean": at.tps_per_user,
        **{f"tps_per_user_p{q}": float(np.percentile(at.speeds, q)) for q in (10, 50, 90)},
        "throughput_tok_s": at.throughput_tok_s,
        "decoding_mean": at.decoding,
        "ttft_p50_s": at.ttft_s,
        "prompt_tokens_mean": float(np.mean(prompts)) if prompts else None,
        "output_tokens_mean": float(np.mean([a.tokens for a in at.answers])),
    }


def _line(row: Row) -> str:
    apart = " (left out of the fit)" if row["held_out"] else ""
    return f"{row['users']:4d} users: simulated {row['simulated']:.2f}, measured {row['measured']:.2f} tok/s, {row['difference']:+.1%}{apart}"

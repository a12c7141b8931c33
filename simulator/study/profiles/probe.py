"""`dsim probe`: any OpenAI-compatible server over a grid of concurrency to a profile, and the profile held against the server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from simulator.engine.replica import ReplicaSettings
from simulator.engine.simulate import ClosedTraffic, Fleet, simulate
from simulator.errors import DsimError
from simulator.measurements.cost import Costs, RoundCost
from simulator.measurements.formats.loadgen import LoadPoint
from simulator.measurements.formats.vllm import SpecCounters, counters_in
from simulator.measurements.replay import nothing_drafted
from simulator.measurements.server import Measured, Server, measure, scrape
from simulator.policies.prefill import Instant
from simulator.policies.routing import RoundRobin
from simulator.policies.verification import NoSpeculation
from simulator.rng import stream, uniform_at
from simulator.study.profiles.importing import About, import_load
from simulator.study.run.meter import summarise
from simulator.study.run.output import write_json
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.lengths import Fixed
from simulator.traffic.workload import Workload

Row = dict[str, Any]
PROMPTS = (
    "Explain how a bicycle stays upright when it is moving.",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "List the steps to bake bread at home, with times and temperatures.",
    "What are the main differences between a virus and a bacterium?",
    "Describe the water cycle to a ten-year-old child.",
    "Write a Python function that returns the prime numbers below n, and explain it.",
    "Summarise the causes of the French Revolution in plain words.",
    "Compare trains and aeroplanes for a journey of six hundred kilometres.",
)


@dataclass(frozen=True)
class ProbePlan:
    """Which server is asked what, by how many users."""

    server: Server
    prompts: tuple[str, ...]
    concurrency: tuple[int, ...]
    check: tuple[int, ...]
    turns: int
    refine: int = 0

    @classmethod
    def of(
        cls,
        base_url: str,
        model: str,
        prompts: Path | None,
        concurrency: str,
        check: str,
        turns: int,
        tokens: int,
        chat: bool,
        extra: str,
        wait: float,
        refine: int = 0,
    ) -> ProbePlan:
        """A plan from the command's options. Raises DsimError."""
        if urlsplit(base_url).scheme not in ("http", "https"):
            raise DsimError(f"'{base_url}' is no address", key="--base-url", remedy="for example http://127.0.0.1:8000/v1")
        try:
            more = json.loads(extra)
        except ValueError as problem:
            raise DsimError(f"not JSON ({problem})", key="--extra", remedy="""for example '{"temperature": 0}'""") from None
        if not isinstance(more, dict):
            raise DsimError("must be an object", key="--extra", remedy="""for example '{"temperature": 0}'""")
        grid, apart = _counts(concurrency, "--concurrency"), _counts(check, "--check") if check else ()
        if len(grid) < 2:
            raise DsimError("one concurrency cannot carry a fit", key="--concurrency", remedy="give at least two that differ by half")
        if set(grid) & set(apart):
            raise DsimError("names a concurrency that is fitted", key="--check", remedy="check others than --concurrency")
        return cls(Server(base_url, model, chat, tokens, more, wait), _read_prompts(prompts), grid, apart, turns, refine)


def _counts(text: str, key: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*", text):
        raise DsimError(f"'{text}' is no list of whole numbers above 0", key=key, remedy="for example 1,2,4,8")
    return tuple(sorted({int(part) for part in text.split(",")}))


def _read_prompts(path: Path | None) -> tuple[str, ...]:
    """A prompt a line, or JSON lines with a field `prompt`."""
    if path is None:
        return PROMPTS
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise DsimError(f"cannot be read ({problem})", where=path, key="--prompts") from None
    if path.suffix in (".jsonl", ".json"):
        try:
            lines = [json.loads(line)["prompt"] for line in lines]
        except (ValueError, KeyError, TypeError):
            raise DsimError("needs an object with a text 'prompt' on every line", where=path, key="--prompts") from None
    if not lines or not all(isinstance(line, str) and line for line in lines):
        raise DsimError("holds no prompts", where=path, key="--prompts")
    return tuple(lines)


def probe_server(
    plan: ProbePlan, about: About, assumed_length: float | None, assumed_budget: float | None, say: Callable[[str], None] = lambda _: None
) -> Row:
    """Measure, fit, write the profile with probe.json beside it, and say how the profile's simulation compares with the server."""
    about.check()
    say(f"warming up {plan.server.url}")
    measure(plan.server, plan.prompts, 1, 1)
    before = _counters(plan.server)
    measured: dict[int, Measured] = {}

    def look(users: int, why: str = "") -> None:
        found = measured[users] = measure(plan.server, plan.prompts, users, plan.turns)
        told = f"{users} users: {found.tps_per_user:.2f} tok/s each, {found.throughput_tok_s:.1f} tok/s, TTFT {found.ttft_s * 1e3:.0f} ms"
        say(told + why)

    for users in sorted((*plan.concurrency, *plan.check)):
        look(users)
    for _ in range(plan.refine):
        speeds = {users: found.tps_per_user for users, found in measured.items() if users not in plan.check}
        between = widest_jump(speeds, plan.check)
        if between is None:
            break
        look(between, " (between neighbours whose steps differ most)")
    order = sorted(measured)
    after = _counters(plan.server)
    length, budget = _rounds(before, after, assumed_length, assumed_budget)
    points = [_point(measured[users]) for users in order if users not in plan.check]
    told = import_load(about, f"probe of {Path(plan.server.model).name}", points, length, budget, SMOOTH_WITHIN)
    comparison = compare(told["costs"], length, budget, measured, plan)
    record = {
        **_result(plan, about, comparison),
        "server": {"model": plan.server.model, "chat": plan.server.chat, "output_tokens": plan.server.output_tokens, "extra": plan.server.extra},
        "accepted_length": length,
        "budget": budget,
        "measured": [_record(measured[users], users in plan.check) for users in order],
        "comparison": comparison,
    }
    write_json(record, about.out / "probe.json")
    lines = [_line(row) for row in comparison]
    fitted = [abs(row["difference"]) for row in comparison if not row["held_out"]]
    lines.append(f"simulated per-user speed at the probed concurrencies: {np.median(fitted):.1%} off (median), {max(fitted):.1%} at worst")
    apart = [abs(row["difference"]) for row in comparison if row["held_out"]]
    if apart:
        lines.append(f"at those kept out of the fit: {max(apart):.1%} at worst")
    return {**record, "profile": str(about.out), "text": told["text"] + "\n" + "\n".join(lines)}


SMOOTH_WITHIN = 0.03  # rms of a curve that is taken; kernels that change with the batch make others
JUMP = 1.25  # ratio of neighbouring step times from which on a look between them is worth its time


def widest_jump(speeds: dict[int, float], check: Sequence[int]) -> int | None:
    """The number of users to look at between the two neighbours whose step times differ most (in ratio); None where none differ by much, or
    nothing lies between. What is kept for checking is left alone."""
    users = sorted(speeds)
    jumps = []
    for a, b in pairwise(users):
        inside = [u for u in range(a + 1, b) if u not in check]
        ratio = max(speeds[a] / speeds[b], speeds[b] / speeds[a])
        if inside and ratio > JUMP:
            jumps.append((ratio, min(inside, key=lambda u: (abs(u - (a + b) / 2), u))))
    return max(jumps)[1] if jumps else None


FIT_LIMIT, APART_LIMIT = 0.05, 0.10  # median at the probed concurrencies, each at those kept out


def _result(plan: ProbePlan, about: About, comparison: list[Row]) -> Row:
    """The comparison in the form of a result file of docs/validation; copied there it joins the page."""
    rows: list[Row] = []
    for row in comparison:
        what = f"per-user speed of {row['users']} users" + (", kept out of the fit" if row["held_out"] else "")
        found = {"what": what, "policy": "", "simulated": row["simulated"], "published": row["measured"], "difference": row["difference"]}
        limit = APART_LIMIT if row["held_out"] else None
        judged = {"limit": limit, "ok": abs(row["difference"]) <= limit if limit else None, "fitted": not row["held_out"]}
        rows.append({**found, "unit": "value", "n": row["n"], **judged})
    median = float(np.median([abs(row["difference"]) for row in comparison if not row["held_out"]]))
    told = {"what": "per-user speed at the probed concurrencies: median of differences", "policy": "", "simulated": None, "published": None}
    rows.append({**told, "difference": median, "unit": "fraction", "limit": FIT_LIMIT, "ok": median <= FIT_LIMIT, "fitted": True})
    grid, apart = (",".join(map(str, counts)) for counts in (plan.concurrency, plan.check))
    added = sorted({row["users"] for row in comparison} - {*plan.concurrency, *plan.check})
    looks = [f"Between neighbours whose steps differ most, {', '.join(map(str, added))} users were probed, too."] if added else []
    return {
        "name": f"probe-{about.name or about.out.resolve().name}",
        "title": "A running server measured from outside, a profile fitted to it, and that profile simulated",
        "system": f"{Path(plan.server.model).name}, {about.hardware}, {about.engine}",
        "sources": ["dsim probe"],
        "command": f"dsim probe --concurrency {grid}" + (f" --check {apart}" if apart else "")
        + (f" --refine {plan.refine}" if plan.refine else "") + f" --requests {plan.turns} --output-tokens {plan.server.output_tokens}",
        "dsim_version": version("dsim"),
        "conditions": [
            f"Closed loop: {plan.turns} measured answers a user, {plan.server.output_tokens} tokens at most, {len(plan.prompts)} prompts.", *looks,
        ],
        "assumed": ["what prompts cost other users is in the step cost: the probe's prompts"],
        "rows": rows,
        "points": [],
        "compared_with": "measured",
        "ok": all(row["ok"] for row in rows if row["ok"] is not None),
    }  # fmt: skip


def _counters(server: Server) -> SpecCounters | None:
    text = scrape(server.base_url)
    return counters_in(text, server.base_url) if text else None


def _rounds(before: SpecCounters | None, after: SpecCounters | None, length: float | None, budget: float | None) -> tuple[float, float]:
    """Tokens committed and verified per round: as told, else from the counters, else without speculation."""
    if length is not None or budget is not None:
        if length is None or budget is None:
            raise DsimError("one is given without the other", key="--accepted-length, --budget", remedy="give both; no speculation: 1 and 1")
        return length, budget
    if before is None or after is None:
        return 1.0, 1.0
    drafts = after.drafts - before.drafts
    if drafts <= 0:
        return 1.0, 1.0
    return 1 + (after.accepted_tokens - before.accepted_tokens) / drafts, 1 + (after.draft_tokens - before.draft_tokens) / drafts


def _point(found: Measured) -> LoadPoint:
    """Users are taken as requests in the step: those whose prompt is being processed are in it too, and what that costs is in the speed."""
    return LoadPoint(f"{found.users} users", found.tps_per_user, found.tps_per_user * found.users, found.ttft_s)


def compare(costs: Costs, length: float, budget: float, measured: dict[int, Measured], plan: ProbePlan) -> list[Row]:
    """Per-user speed of a simulated closed loop under the fitted costs beside the measured one. A round is priced at `budget` tokens a request
    and commits `length`, so ordinary decoding at scaled prices stands for it."""
    rows = []
    for users, found in measured.items():
        speed = simulated_speed(costs, users, budget, plan.server.output_tokens) * length
        error = float(np.std(found.speeds, ddof=1) / np.sqrt(len(found.speeds))) if len(found.speeds) > 1 else None
        row = {"users": users, "simulated": speed, "measured": found.tps_per_user, "measured_error": error, "n": len(found.speeds)}
        rows.append(row | {"difference": speed / found.tps_per_user - 1, "held_out": users in plan.check})
    return rows


class _Scaled(RoundCost):
    """Rounds of `budget` tokens a request."""

    def __init__(self, costs: Costs, budget: float) -> None:
        super().__init__(costs, None, 0, 0)
        self.budget = budget

    def round_s(self, requests: int, context_tokens: float) -> Any:
        return self.costs.verify.seconds([requests * self.budget], requests, context_tokens) + self.overhead_s


def simulated_speed(costs: Costs, users: int, budget: float, output_tokens: int) -> float:
    """Mean per-user speed of `users` in a closed loop, prompts left out, tok/s for one token a round."""
    prices = _Scaled(costs, budget)
    workload = Workload(arrivals=ClosedLoop(), prompt_tokens=Fixed(tokens=1), output_tokens=Fixed(tokens=output_tokens))
    settings = ReplicaSettings(max_batch=users, prefill=Instant())
    fleet = Fleet(1, settings, NoSpeculation(), nothing_drafted(), prices, prices, RoundRobin(), None, 16, stream(0, "routing"))
    traffic = ClosedTraffic(users, workload.closed_loop(users, 0, 0), 2, uniform_at(0, "residual", 0, np.arange(users)))
    return summarise(simulate(traffic, fleet), 1.0, 1, False, False).known("tps_per_user_mean")


def _record(found: Measured, held_out: bool) -> Row:
    counted = sum(a.counted for a in found.answers)
    prompts = [a.prompt_tokens for a in found.answers if a.prompt_tokens is not None]
    p10, p50, p90 = (float(v) for v in np.percentile(found.speeds, (10, 50, 90)))
    return {
        "users": found.users,
        "held_out": held_out,
        "answers": len(found.answers),
        "tokens_counted_by_server": counted,
        "tps_per_user_mean": found.tps_per_user,
        "tps_per_user_p10": p10,
        "tps_per_user_p50": p50,
        "tps_per_user_p90": p90,
        "throughput_tok_s": found.throughput_tok_s,
        "decoding_mean": found.decoding,
        "ttft_p50_s": found.ttft_s,
        "prompt_tokens_mean": float(np.mean(prompts)) if prompts else None,
        "output_tokens_mean": float(np.mean([a.tokens for a in found.answers])),
    }


def _line(row: Row) -> str:
    apart = " (kept out of the fit)" if row["held_out"] else ""
    return f"{row['users']:4d} users: simulated {row['simulated']:.2f}, measured {row['measured']:.2f} tok/s, {row['difference']:+.1%}{apart}"

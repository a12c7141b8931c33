"""`dsim fit`: a profile from production telemetry, with what was assumed written in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import numpy as np

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, LinearDraft, Overhead
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import CostFit, check_misses, fit_cost, read_telemetry
from simulator.measurements.points import holds_lengths
from simulator.measurements.profile import Drafter
from simulator.measurements.surface_priors import DraftKind, family_of
from simulator.quantities import MOST_SLOTS, TINY
from simulator.study.profiles.about import DOMAIN, SLOPE, About, without_head
from simulator.study.profiles.counted import constant_acceptance
from simulator.study.profiles.points_fit import lengths_of, profile_from_points

MOST_DRAFT_S = 10.0  # of one request and round
NOT_IDENTIFIABLE = [
    "the level of all times (the assumed accepted length scales them)",
    "cost per verified token as opposed to cost per request, if the budget is constant",
    "drafting and host time as opposed to verification",
    "prefill cost and memory for KV: there is neither, so prompts have to be left out (prefill: {kind: instant})",
]


@dataclass(frozen=True)
class Assumptions:
    """What telemetry does not show: tokens committed and verified per request and round, drafting time, and where steps jump (tokens)."""

    accepted_length: float
    budget: float
    draft_s_per_request: float = 0.0
    cliffs: Sequence[int] = ()

    def check(self) -> None:
        """Raises DsimError where they are out of range or contradict each other."""
        options = {"--budget": self.budget, "--accepted-length": self.accepted_length, "--draft-s-per-request": self.draft_s_per_request}
        for option, value in options.items():
            if not isfinite(value):
                raise DsimError(f"expected a finite number, got {value}", key=option)
        if not 1 <= self.budget <= MOST_SLOTS + 1:
            remedy = "count tokens per request, anchor included: 2 for MTP-1, 1 without speculation"
            raise DsimError(f"expected 1 to {MOST_SLOTS + 1} tokens per request and step, got {self.budget:g}", key="--budget", remedy=remedy)
        if not 1 <= self.accepted_length <= self.budget:
            remedy = "count the bonus token; MTP-1 has 1.8 to 1.9"
            raise DsimError(f"expected 1 to the budget of {self.budget:g}, got {self.accepted_length:g}", key="--accepted-length", remedy=remedy)
        if any(not 1 <= cliff <= 1e8 for cliff in self.cliffs):
            raise DsimError(f"expected 1 to 1e+08 tokens per step, got {min(self.cliffs):g} to {max(self.cliffs):g}", key="--cliff")
        if self.draft_s_per_request != 0 and not TINY <= self.draft_s_per_request <= MOST_DRAFT_S:
            problem = f"expected 0 to {MOST_DRAFT_S:g} seconds, got {self.draft_s_per_request:g}"
            raise DsimError(problem, key="--draft-s-per-request")

    def sentences(self) -> list[str]:
        """What the profile says was assumed."""
        return [
            f"accepted length {self.accepted_length:g} (bonus included) at {self.budget:g} tokens per request and step: "
            "telemetry shows only accepted length ÷ step time, so an error of 1 % here moves every time by 1 %",
            f"drafting takes {self.draft_s_per_request * 1e3:g} ms per request and round on top of the fitted step cost",
            SLOPE,
        ]


def fit_telemetry(
    path: Path, about: About, accepted_length: float | None, budget: float | None, draft_s_per_request: float, cliffs: Sequence[int],
    lengths_by_k: str, drafting: str, graph_limit: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Points of several lengths fitted jointly, or those of one policy with its assumptions. Raises DsimError, also for options of the other."""
    of_one = {"--accepted-length": accepted_length, "--budget": budget, "--draft-s-per-request": draft_s_per_request, "--cliff": cliffs}
    of_several = {"--lengths-by-k": lengths_by_k, "--drafting": drafting != "unknown", "--graph-limit": graph_limit}
    several = holds_lengths(path)
    for option, given in (of_one if several else of_several).items():
        if given:
            why = "says what was drafted at each point" if several else "has no column k or policy"
            raise DsimError(f"{path.name} {why}", key=option, remedy="leave the option out")
    if several:
        if drafting not in get_args(DraftKind):
            raise DsimError(f"expected {', '.join(get_args(DraftKind))}, got {shown(drafting)}", key="--drafting")
        return profile_from_points(path, about, lengths_of(lengths_by_k), drafting, graph_limit)  # type: ignore[arg-type]
    if accepted_length is None or budget is None:
        option = "--accepted-length" if accepted_length is None else "--budget"
        remedy = "give both options for points of one policy, or a column k for points of several lengths"
        raise DsimError("is not told by the points", where=path, key=option, remedy=remedy)
    return profile_from_telemetry(path, about, Assumptions(accepted_length, budget, draft_s_per_request, cliffs))


def profile_from_telemetry(telemetry: Path, about: About, assumed: Assumptions) -> dict[str, Any]:
    """Fits and writes the profile; the fit for people and programs. Raises DsimError."""
    about.check()
    assumed.check()
    points = read_telemetry(telemetry, about.gpus_per_replica)
    if not len(points.concurrency):
        raise DsimError("has no rows", where=telemetry, remedy="give at least two operating points")
    source = f"{telemetry.name}, {len(points.concurrency)} operating points"
    try:
        fit = fit_cost(points, assumed.accepted_length, assumed.budget, assumed.cliffs, assumed.draft_s_per_request, source)
        at = int(np.abs(fit.differences).argmax())
        worst = f"the step at {points.concurrency[at]:.4g} requests in flight by {fit.differences[at]:+.0%}"
        check_misses(fit.rms, worst, remedy="drop points of other conditions, or name jumps with --cliff TOKENS")
    except DsimError as problem:
        raise DsimError(problem.problem, where=telemetry, key=problem.key, remedy=problem.remedy) from None
    slots = round(assumed.budget - 1)
    whole = slots >= 1 and abs(assumed.budget - 1 - slots) < 1e-9
    costs = Costs(verify=fit.curve, overhead=Overhead(provenance="fitted", note="part of the fitted step cost; telemetry cannot separate it"))
    command = f"dsim fit {telemetry.name} --accepted-length {assumed.accepted_length:g} --budget {assumed.budget:g}"
    drafters = {about.drafter: assumed_drafter(about.drafter, assumed, slots)} if whole else {}
    profile = about.write(costs, drafters, assumed.sentences(), NOT_IDENTIFIABLE, f"Made by {command}")
    return summary(fit, about.out, assumed, list(profile.drafters))


def assumed_drafter(name: str, assumed: Assumptions, slots: int) -> tuple[Drafter, RecordedBlocks]:
    """The drafter in production: one conditional acceptance at every position, such that the accepted length is the assumed one."""
    rate = constant_acceptance(assumed.accepted_length, slots)
    shape = ParametricAcceptance(conditional={DOMAIN: [rate] * slots}, spread=0.0, miscalibration=[1.0] * slots, sequences_per_domain=64)
    blocks = shape.generate(name, "synthetic", f"constant conditional acceptance {rate:.4f}, from the assumed accepted length")
    draft = LinearDraft(provenance="synthetic", per_request_s=assumed.draft_s_per_request, note="assumed; subtracted from step times before the fit")
    note = "acceptance assumed, the same at every position"
    return Drafter(family=family_of(name), gamma=slots, draft=draft, blocks=f"{name}.parquet", note=note), without_head(blocks)


def summary(fit: CostFit, folder: Path, assumed: Assumptions, drafters: list[str]) -> dict[str, Any]:
    """The fit for people and programs."""
    curve = fit.curve
    low, high = curve.measured_tokens
    lines = [
        f"T(B) = {curve.base_s * 1e3:.3f} + {curve.per_token_s * 1e3:.5f} B "
        + (f"+ {curve.concave_s * 1e3:.3f} (1 - exp(-B / {curve.concave_tokens:.1f})) ms" if curve.concave_s else "ms (no concave part)"),
        *(f"     + {cliff.add_s * 1e3:.3f} ms above {cliff.tokens} tokens" for cliff in curve.cliffs),
        f"fitted to {fit.points} points from {low:g} to {high:g} tokens per step: error of step times {fit.rms:.2%} rms, {fit.worst:.1%} at most "
        f"(a + b B alone: {fit.plain_rms:.2%} rms)",
        f"assumed accepted length {assumed.accepted_length:g}: all times scale with it",
    ]
    if fit.rms > 0.05:
        lines.append("warning: the curve misses the points by more than 5 % rms: try --cliff TOKENS, or drop points under other conditions")
    if assumed.budget > 1 and not drafters:
        lines.append(f"note: the profile has no drafter, because a budget of {assumed.budget:g} is not a whole number of tokens")
    lines.append(f"profile written to {folder}")
    shown = {"base_s", "per_token_s", "concave_s", "concave_tokens", "cliffs", "measured_tokens"}
    data = {"curve": curve.model_dump(mode="json", include=shown), "rms": fit.rms, "worst": fit.worst, "plain_rms": fit.plain_rms}
    return data | {"points": fit.points, "drafters": drafters, "profile": str(folder), "text": "\n".join(lines)}

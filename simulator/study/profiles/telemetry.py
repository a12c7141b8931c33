"""`dsim fit`: telemetry of the policy that runs today, and what is assumed about it, to a profile that says so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.files import why_not_writable
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.cost import Costs, LinearDraft, Overhead
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.fit import CostFit, fit_cost, read_telemetry
from simulator.measurements.profile import Drafter, Profile, save_profile

DOMAIN = "any"
MOST_SLOTS = 127  # of recorded blocks


@dataclass(frozen=True)
class Assumptions:
    """What telemetry does not show and somebody has to say."""

    accepted_length: float
    budget: float
    drafter: str
    name: str
    draft_s_per_request: float = 0.0
    cliffs: list[int] = field(default_factory=list)
    hardware: str = "not stated"
    engine: str = "not stated"
    target: str = "not stated"
    gpus_per_replica: float = 1.0

    def check(self) -> None:
        """Raises DsimError where they contradict each other."""
        given = {"--budget": self.budget, "--accepted-length": self.accepted_length, "--gpus-per-replica": self.gpus_per_replica}
        for option, value in (given | {"--draft-s-per-request": self.draft_s_per_request}).items():
            if not isfinite(value):
                raise DsimError(f"{value} is not a number to count on", key=option, remedy="give a finite one")
        if self.budget > MOST_SLOTS + 1:
            problem = f"{self.budget:g} tokens per request and step are more than {MOST_SLOTS + 1}"
            raise DsimError(problem, key="--budget", remedy="count them per request")
        if not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", self.drafter):
            raise DsimError(f"'{self.drafter}' is no name for a drafter", key="--drafter", remedy="use letters, digits, '.', '_' and '-'")
        if any(cliff < 1 for cliff in self.cliffs):
            raise DsimError(f"{min(self.cliffs)} tokens a step is not positive", key="--cliff", remedy="give the size above which steps jump")
        if not self.budget >= 1:
            problem = f"{self.budget:g} tokens per request and step is less than the anchor"
            raise DsimError(problem, key="--budget", remedy="MTP-1 is 2, no speculation 1")
        if not 1 <= self.accepted_length <= self.budget:
            problem = f"accepted length {self.accepted_length:g} lies outside 1 … {self.budget:g}, the verification budget"
            raise DsimError(problem, key="--accepted-length", remedy="count the bonus token; MTP-1 is 1.8 to 1.9")
        if self.draft_s_per_request < 0:
            raise DsimError(f"{self.draft_s_per_request:g} seconds is negative", key="--draft-s-per-request")
        if not self.gpus_per_replica > 0:
            raise DsimError(f"{self.gpus_per_replica:g} GPUs is not positive", key="--gpus-per-replica")


def profile_from_telemetry(telemetry: Path, folder: Path, assumed: Assumptions, force: bool = False) -> dict[str, Any]:
    """Fit, write the profile folder, and tell what was found."""
    assumed.check()
    if (folder / "profile.yaml").exists() and not force:
        raise DsimError("there is a profile already", where=folder, remedy="choose another --out, or --force to replace it")
    points = read_telemetry(telemetry, assumed.gpus_per_replica)
    source = f"{telemetry.name}, {len(points.concurrency)} operating points"
    if not len(points.concurrency):
        raise DsimError("has no rows", where=telemetry, remedy="give at least two operating points")
    try:
        found = fit_cost(points, assumed.accepted_length, assumed.budget, assumed.cliffs, assumed.draft_s_per_request, source)
    except DsimError as problem:
        raise DsimError(problem.problem, where=telemetry, key=problem.key, remedy=problem.remedy) from None
    slots = round(assumed.budget - 1)
    drafters, blocks = {}, None
    if slots >= 1 and abs(assumed.budget - 1 - slots) < 1e-9:
        drafters[assumed.drafter], blocks = assumed_drafter(assumed, slots)
    profile = Profile(
        format=1,
        name=assumed.name,
        hardware=assumed.hardware,
        engine=assumed.engine,
        target=assumed.target,
        gpus_per_replica=assumed.gpus_per_replica,
        costs=Costs(verify=found.curve, overhead=Overhead(provenance="fitted", note="within the fitted step cost; telemetry cannot show it apart")),
        drafters=drafters,
        assumed=assumptions(assumed),
        not_identifiable=NOT_IDENTIFIABLE,
    )
    _make(folder)
    if blocks is not None:
        blocks.save(folder / f"{assumed.drafter}.parquet")
    save_profile(profile, folder, f"Made by dsim fit {telemetry.name} --accepted-length {assumed.accepted_length:g} --budget {assumed.budget:g}")
    return told(found, folder, assumed, list(drafters))


def _make(folder: Path) -> None:
    """Make the profile's folder, or say that it cannot be written."""
    why = why_not_writable(folder)
    if why is not None:
        raise DsimError(f"cannot write ({why})", where=folder, remedy="choose another --out")


def assumed_drafter(assumed: Assumptions, slots: int) -> tuple[Drafter, RecordedBlocks]:
    """The drafter that runs today: one conditional acceptance at every position that gives the assumed accepted length."""
    from scipy.optimize import brentq

    rate = float(brentq(lambda c: 1 + sum(c**k for k in range(1, slots + 1)) - assumed.accepted_length, 0.0, 1.0))
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    drafter = ParametricAcceptance(conditional={DOMAIN: [rate] * slots}, spread=0.0, miscalibration=[1.0] * slots, sequences_per_domain=64)
    blocks = drafter.generate(assumed.drafter, "synthetic", f"constant conditional acceptance {rate:.4f}, from the assumed accepted length")
    file = f"{assumed.drafter}.parquet"
    draft = LinearDraft(provenance="synthetic", per_request_s=assumed.draft_s_per_request, note="assumed; taken off the step time before the fit")
    note = "acceptance assumed, the same at every position"
    return Drafter(family="mtp" if slots == 1 else "other", gamma=slots, draft=draft, blocks=file, note=note), without_head(blocks)


def without_head(blocks: RecordedBlocks) -> RecordedBlocks:
    """The same blocks of a drafter without a confidence head."""
    from dataclasses import replace

    return replace(blocks, confidence=None)


def assumptions(assumed: Assumptions) -> list[str]:
    """What the profile says was assumed."""
    return [
        f"accepted length {assumed.accepted_length:g} (bonus included) at {assumed.budget:g} tokens per request and step: "
        "telemetry shows accepted length ÷ step time alone, so an error of 1 % here moves every time by 1 %",
        f"drafting takes {assumed.draft_s_per_request * 1e3:g} ms per request and round beside the fitted step cost",
        "the slope belongs to verified tokens: one policy alone cannot tell a cost per token from a cost per request",
    ]


NOT_IDENTIFIABLE = [
    "the level of all times (an assumed accepted length scales them)",
    "cost per verified token against cost per request, where the budget is constant",
    "drafting and host time apart from verification",
    "prefill cost and memory for KV: none is given, so prompts can only be left out (prefill: {kind: instant})",
]


def told(found: CostFit, folder: Path, assumed: Assumptions, drafters: list[str]) -> dict[str, Any]:
    """The fit for people and machines."""
    curve = found.curve
    low, high = curve.measured_tokens
    lines = [
        f"T(B) = {curve.base_s * 1e3:.3f} + {curve.per_token_s * 1e3:.5f} B "
        + (f"+ {curve.concave_s * 1e3:.3f} (1 - exp(-B / {curve.concave_tokens:.1f})) ms" if curve.concave_s else "ms (no concave part found)"),
        *(f"     + {cliff.add_s * 1e3:.3f} ms above {cliff.tokens} tokens" for cliff in curve.cliffs),
        f"over {low:g} to {high:g} tokens per step, {found.points} points: {found.rms:.2%} rms, {found.worst:.1%} at worst "
        f"(a + b B alone: {found.plain_rms:.2%} rms)",
        f"assumed accepted length {assumed.accepted_length:g}: all times scale with it",
    ]
    if found.rms > 0.05:
        lines.append("warning: the curve misses by more than 5 % rms: look for cliffs (--cliff TOKENS) or for points under different conditions")
    if assumed.budget > 1 and not drafters:
        lines.append(f"note: no drafter in the profile, for a budget of {assumed.budget:g} is no whole block: it holds costs alone")
    lines.append(f"profile written to {folder}")
    shown = {"base_s", "per_token_s", "concave_s", "concave_tokens", "cliffs", "measured_tokens"}
    data = {"curve": curve.model_dump(mode="json", include=shown), "rms": found.rms, "worst": found.worst, "plain_rms": found.plain_rms}
    return data | {"points": found.points, "drafters": drafters, "profile": str(folder), "text": "\n".join(lines)}

"""Runs of a real engine: which ones a scenario asks for, what they left in their folders, and the numbers that are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.arrays import Floats, Integers
from simulator.errors import DsimError, ScenarioError
from simulator.study.run.scenario import Policy, Scenario
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.request import RequestSpec

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {
    "tps_per_user_p10": "per-user speed p10", "tps_per_user_p50": "per-user speed p50", "tps_per_user_p90": "per-user speed p90",
    "throughput_tok_s": "throughput", "accepted_length": "accepted length", "verification_budget": "verification budget",
    "ttft_p50_s": "TTFT p50", "step_p10_s": "step p10", "step_p50_s": "step p50", "step_p90_s": "step p90",
}  # fmt: skip
HEADLINE = ("tps_per_user_p50", "throughput_tok_s")


@dataclass(frozen=True)
class ServedRun:
    """One run of the engine."""

    policy: Policy
    concurrency: int
    open_loop: bool
    requests: pd.DataFrame
    steps: pd.DataFrame
    prompts: Sequence[int] | None = None  # which of its domain each request's prompt is


class MeasuredSpan(NamedTuple):
    """What is compared: from when to when the engine was as full as asked, and which of all requests count."""

    start_s: float
    end_s: float
    counted: NDArray[np.bool_]


@dataclass
class Listed:
    """Closed loop in which whoever is done takes the next request of a list; past its end it begins anew."""

    specs: Sequence[RequestSpec]
    think_s: float = 0.0
    _next: int = field(default=0, repr=False)

    def pause_s(self, user: int | Integers, turn: int | Integers) -> Floats:
        """Seconds before every request but the first."""
        return np.where(np.broadcast_arrays(user, turn)[1] > 0, self.think_s, 0.0)

    def spec(self, user: int, turn: int, arrival_s: float) -> RequestSpec:
        """The next request, sent at `arrival_s`."""
        spec = self.specs[self._next % len(self.specs)]
        index, self._next = self._next, self._next + 1
        return RequestSpec(index, arrival_s, spec.prompt_tokens, spec.output_tokens, spec.domain, spec.cached_prompt_tokens)


def planned(scenario: Scenario) -> list[tuple[str, str | None, Any, int]]:
    """Name, drafter, rule and concurrency of every run that the scenario asks for. Raises ScenarioError where it is not of closed loops or of
    a rule that no engine can run."""
    users = scenario.workload.arrivals
    if not isinstance(users, ClosedLoop):
        raise ScenarioError("an engine is compared in a closed loop", where=scenario.file, key="workload.arrivals", remedy="use kind: closed_loop")
    if users.think_s is not None:
        problem = "users of an engine that is compared send the next request at once"
        raise ScenarioError(problem, where=scenario.file, key="workload.arrivals.think_s", remedy="drop it")
    for policy in scenario.policies:
        if policy.verification.clairvoyant:
            raise ScenarioError(f"policy '{policy.name}' is a bound that no engine can run", where=scenario.file, remedy="leave it out")
    runs = [(p.name, p.drafter, p.verification, int(load)) for p in scenario.policies for load in scenario.loads(p)]
    return sorted(runs, key=lambda run: run[3])  # those that are compared with each other soon after each other: a machine drifts


def read_run(folder: Path, policies: Sequence[Policy]) -> ServedRun:
    """A run's folder. Raises DsimError where a file is missing or of another policy than the scenario's."""
    import pandas as pd

    try:
        about = json.loads((folder / "run.json").read_text())
        requests, steps = (pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=["nan", ""]) for name in ("requests", "steps"))
    except (OSError, ValueError) as problem:
        raise DsimError(f"no run of an engine ({problem})", where=folder, remedy="serve it again") from None
    policy = next((p for p in policies if p.name == about["policy"]), None)
    if policy is None:
        raise DsimError(f"a run of policy {about['policy']!r}, which the scenario does not have", where=folder)
    return ServedRun(policy, int(about["concurrency"]), bool(about.get("open_loop", False)), requests, steps, about.get("prompt_numbers"))


def window_of(run: ServedRun) -> MeasuredSpan:
    """Closed loop: from when as many are done as there are places until the last one comes; requests that came then, but the last ones."""
    requests, places = run.requests, run.concurrency
    arrival = requests["arrival_s"].to_numpy()
    if run.open_loop:
        return MeasuredSpan(float(arrival.min()), float(arrival.max()), np.ones(len(requests), dtype=bool))
    start = float(np.sort(requests["finish_s"])[min(places, len(requests)) - 1])
    return MeasuredSpan(start, float(arrival.max()), (arrival >= start) & (requests["request"] < len(requests) - places).to_numpy())


def numbers(requests: pd.DataFrame, steps: pd.DataFrame, window: MeasuredSpan) -> dict[str, float]:
    """The numbers compared, of an engine or of the simulator alike. Steps that took prompts in count for throughput, not for step times."""
    start_s, end_s, counted = window
    mine = requests[counted]
    several = mine[(mine["output_tokens"] > 1) & (mine["finish_s"] > mine["first_token_s"])]
    speed = ((several["output_tokens"] - 1) / (several["finish_s"] - several["first_token_s"])).to_numpy()
    inside = steps[(steps["end_s"] > start_s) & (steps["end_s"] <= end_s)]
    rounds = inside[inside["requests"] > 0]
    plain = rounds[rounds["prefill_tokens"] == 0]
    length = (plain["end_s"] - plain["start_s"]).to_numpy()
    firsts = int(((requests["first_token_s"] > start_s) & (requests["first_token_s"] <= end_s)).sum())
    known = {f"tps_per_user_p{q}": float(np.percentile(speed, q)) if len(speed) else float("nan") for q in (10, 50, 90)}
    known["throughput_tok_s"] = float(inside["committed"].sum() + firsts) / (end_s - start_s)
    known["accepted_length"] = 1 + float(rounds["accepted"].sum() / max(rounds["requests"].sum(), 1))
    known["verification_budget"] = 1 + float(rounds["verified"].sum() / max(rounds["requests"].sum(), 1))
    known["ttft_p50_s"] = float((mine["first_token_s"] - mine["arrival_s"]).median())
    return known | {f"step_p{q}_s": float(np.percentile(length, q)) if len(length) else float("nan") for q in (10, 50, 90)}

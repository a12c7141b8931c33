"""Runs of a real engine: which ones a scenario asks for, what they left in their folders, and the numbers that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from simulator.arrays import Floats, Integers
from simulator.complaints import shown
from simulator.errors import DsimError, ScenarioError
from simulator.names import from_cell
from simulator.quantities import LARGEST, MOST_SECONDS, Flag, Within
from simulator.reading.csv_files import numbers as csv_numbers
from simulator.reading.csv_files import read_csv
from simulator.reading.json_files import read_json
from simulator.schema import Frozen, validate_json
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import Policy
from simulator.traffic.arrivals import ClosedLoop
from simulator.traffic.request import RequestSpec

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {
    "tps_per_user_p10": "per-user speed p10", "tps_per_user_p50": "per-user speed p50", "tps_per_user_p90": "per-user speed p90",
    "throughput_tok_s": "throughput", "accepted_length": "accepted length", "verification_budget": "verification budget",
    "ttft_p50_s": "TTFT p50", "step_p10_s": "step p10", "step_p50_s": "step p50", "step_p90_s": "step p90",
}  # fmt: skip
_REMEDY = "serve it again"
MOST_TOKENS, MOST_PLACES = 1e7, 100_000  # of a run: far more than any engine holds
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


class _Load(Frozen):
    """How requests were made, as far as a reader is shown it."""

    model_config = ConfigDict(extra="ignore")

    max_tokens: Annotated[int, Within(0, MOST_TOKENS, "tokens")] | None = None
    temperature: Annotated[float, Within(0, 1e6)] | None = None


class _Asked(Frozen):
    model_config = ConfigDict(extra="ignore")

    load: _Load = _Load()


class RunFacts(Frozen):
    """What run.json says of a run, as far as it is compared."""

    model_config = ConfigDict(extra="ignore")

    policy: str
    concurrency: Annotated[int, Within(1, MOST_PLACES, "requests")]
    open_loop: Flag = False
    prompt_numbers: tuple[Annotated[int, Within(0, LARGEST)], ...] | None = None
    machine: dict[str, str | Annotated[int, Within(-LARGEST, LARGEST)] | Annotated[float, Within(-LARGEST, LARGEST)] | None] = {}
    asked: _Asked = _Asked()


def read_facts(folder: Path) -> RunFacts:
    """Those of a run's folder. Raises DsimError."""
    file = folder / "run.json"
    return validate_json(RunFacts, read_json(file, remedy=_REMEDY), file, _REMEDY)


def read_run(folder: Path, policies: Sequence[Policy]) -> ServedRun:
    """A run's folder. Raises DsimError where a file is missing, does not fit the others, or is of another policy than the scenario's."""
    about, (requests, steps) = read_facts(folder), (read_csv(folder / f"{name}.csv", remedy=_REMEDY) for name in ("requests", "steps"))
    policy = next((p for p in policies if p.name == about.policy), None)
    if policy is None:
        raise DsimError(f"a run of policy {shown(about.policy)}, which the scenario does not have", where=folder)
    _check_requests(requests, folder / "requests.csv")
    _check_steps(steps, folder / "steps.csv", about.concurrency)
    for wrong, problem in (
        (not about.open_loop and len(requests) < about.concurrency, f"{len(requests)} requests at {about.concurrency} a time"),
        (about.prompt_numbers is not None and len(about.prompt_numbers) != len(requests), "prompt_numbers has another length than requests.csv"),
    ):
        if wrong:
            raise DsimError(problem, where=folder / "run.json", remedy=_REMEDY)
    return ServedRun(policy, about.concurrency, about.open_loop, requests, steps, about.prompt_numbers)


def _check_requests(table: pd.DataFrame, file: Path) -> None:
    """Whole numbers and times in order, numbered from 0; puts the numbers into the table."""
    for name in ("arrival_s", "first_token_s", "finish_s"):
        table[name] = _column(table, name, file, MOST_SECONDS)
    for name in ("request", "prompt_tokens", "output_tokens"):
        table[name] = _column(table, name, file, MOST_TOKENS, whole=True)
    _refuse(_present(table, "domain", file).isna().to_numpy(), file, "domain", "is empty")
    table["domain"] = table["domain"].astype(str).map(from_cell)
    _refuse(np.sort(table["request"].to_numpy()) != np.arange(len(table)), file, "request", "expected every number from 0 on, once")
    _refuse((table["first_token_s"] < table["arrival_s"]).to_numpy(), file, "first_token_s", "is before the arrival")
    _refuse((table["finish_s"] < table["first_token_s"]).to_numpy(), file, "finish_s", "is before the first token")


def _check_steps(table: pd.DataFrame, file: Path, places: int) -> None:
    """As `_check_requests`."""
    for name in ("start_s", "end_s", "overhead_s"):
        table[name] = _column(table, name, file, MOST_SECONDS)
    for name in ("requests", "verified", "accepted", "committed", "prefill_tokens", "context_tokens"):
        table[name] = _column(table, name, file, MOST_TOKENS, whole=True)
    for name in ("longest_context", "captured_graphs"):  # runs of earlier releases do not have them
        if name in table:
            table[name] = _column(table, name, file, MOST_TOKENS)
    _refuse((table["end_s"] <= table["start_s"]).to_numpy(), file, "end_s", "is not after the start")
    _refuse((table["requests"] > places).to_numpy(), file, "requests", f"more than the {places} that the engine holds")
    _refuse((table["accepted"] > table["verified"]).to_numpy(), file, "accepted", "more than were verified")


def _present(table: pd.DataFrame, name: str, file: Path) -> pd.Series[Any]:
    """A column that is there, with rows."""
    if name not in table or not len(table):
        raise DsimError("column is missing" if name not in table else "has no rows", where=file, key=name, remedy=_REMEDY)
    return table[name]


def _column(table: pd.DataFrame, name: str, file: Path, most: float, whole: bool = False) -> NDArray[Any]:
    """A column of numbers from 0 to `most`, without empty cells."""
    _present(table, name, file)
    values = csv_numbers(table, name, file, positive=False)
    _refuse((values > most) | (whole & (values != np.floor(values))), file, name, f"expected a {'whole ' * whole}number of at most {most:g}")
    return values.astype(np.int64) if whole else values


def _refuse(wrong: NDArray[np.bool_], file: Path, name: str, problem: str) -> None:
    """Raise for the first row that is wrong."""
    if wrong.any():
        raise DsimError(f"{problem}, row {int(wrong.argmax()) + 1}", where=file, key=name, remedy=_REMEDY)


def window_of(run: ServedRun) -> MeasuredSpan:
    """Closed loop: from when as many are done as there are places until the last one comes; requests that came then, but the last ones."""
    requests, places = run.requests, run.concurrency
    arrival = requests["arrival_s"].to_numpy()
    if run.open_loop:
        return MeasuredSpan(float(arrival.min()), float(arrival.max()), np.ones(len(requests), dtype=bool))
    start = float(np.sort(requests["finish_s"])[min(places, len(requests)) - 1])
    return MeasuredSpan(start, float(arrival.max()), (arrival >= start) & (requests["request"] < len(requests) - places).to_numpy())


def refuse_stalls(run: ServedRun, window: MeasuredSpan) -> None:
    """Raises DsimError where a step of the window captured a CUDA graph: its time, and that of the requests in it, is not of serving."""
    if "captured_graphs" not in run.steps:
        return
    last_s = max(window.end_s, float(run.requests["finish_s"][window.counted].max()) if window.counted.any() else window.end_s)
    inside = (run.steps["end_s"] > window.start_s) & (run.steps["start_s"] < last_s)
    captured = int((run.steps["captured_graphs"][inside] > 0).sum())
    if captured:
        problem = f"{captured} of {int(inside.sum())} measured steps captured CUDA graphs, so their times are not those of serving"
        raise DsimError(problem, where=f"run of policy '{run.policy.name}' at {run.concurrency}", remedy="remove its folder and serve it again")


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
    known["throughput_tok_s"] = float(inside["committed"].sum() + firsts) / (end_s - start_s) if end_s > start_s else float("nan")
    known["accepted_length"] = 1 + float(rounds["accepted"].sum() / max(rounds["requests"].sum(), 1))
    known["verification_budget"] = 1 + float(rounds["verified"].sum() / max(rounds["requests"].sum(), 1))
    known["ttft_p50_s"] = float((mine["first_token_s"] - mine["arrival_s"]).median())
    return known | {f"step_p{q}_s": float(np.percentile(length, q)) if len(length) else float("nan") for q in (10, 50, 90)}

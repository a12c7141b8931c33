"""A kind of one's own, one for each row of the table in docs/design.md: what it has to say is here, and everything else follows from it.

A kind enters the union of a file for the length of a test; nothing in the package is told of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import yaml
from numpy.typing import ArrayLike
from pydantic import BaseModel, Field

from simulator.arrays import Floats, Integers
from simulator.engine.given import ReplicaSettings
from simulator.kind import Lowered
from simulator.measurements.cost import Costs, DrafterCost
from simulator.measurements.cost_kind import Cost, PromptCost
from simulator.measurements.profile import Drafter, Profile
from simulator.policies.admission import AdmissionOrder
from simulator.policies.prefill import PrefillMode
from simulator.policies.routing import Router
from simulator.policies.verification import StepView, VerificationPolicy
from simulator.schema import Frozen
from simulator.study.planning.question import FleetBounds, PlanFile, PlannedPolicy, Setting
from simulator.study.run.scenario import Scenario
from simulator.study.run.settings import EngineSettings, FleetPlan, Policy
from simulator.traffic.arrivals import ArrivalProcess, ClosedLoop
from simulator.traffic.pauses import PauseKind
from simulator.traffic.workload import Workload
from tests.conftest import SCENARIO as SMALL
from tests.planning.conftest import PLAN

Content = dict[str, Any]
POLICIES, ENGINES, FLEETS = (Policy, PlannedPolicy), (ReplicaSettings, EngineSettings, Setting), (FleetPlan, FleetBounds)
HOLDERS = (ClosedLoop, *POLICIES, *ENGINES, *FLEETS, Workload, Costs, Drafter, Profile, Scenario, PlanFile)
SOURCE = {"provenance": "synthetic"}


class TokenCap(VerificationPolicy):
    """CONTRIBUTING.md's rule: the longest block that keeps a step at `tokens` tokens."""

    kind: Literal["token_cap"] = "token_cap"
    tokens: int = Field(ge=1)

    def drafted(self, requests: int, gamma: int) -> int:
        return min(max(self.tokens // requests - 1, 0), gamma)

    def lowered(self, rows: StepView, most: int) -> Lowered:
        return self.by_batch(rows, most)


class Halved(PrefillMode):
    """Half of what waits, in every step."""

    kind: Literal["halved"] = "halved"

    def chunk(self, decode_tokens: int, pending_tokens: int) -> int:
        return (pending_tokens + 1) // 2


class LastCome(AdmissionOrder):
    """Last come, first served."""

    kind: Literal["last_come"] = "last_come"

    def next(self, prompt_tokens: Sequence[int]) -> int:
        return len(prompt_tokens) - 1


class TwoByTwo(Router):
    """Two requests to each replica, one after the other."""

    kind: Literal["two_by_two"] = "two_by_two"
    looks: ClassVar = False

    def choose(self, arrival: int, held: Sequence[int], luck: np.random.Generator) -> int:
        return arrival // 2 % len(held)


class Pairs(ArrivalProcess):
    """Two at a time, evenly spaced."""

    kind: Literal["pairs"] = "pairs"

    def times(self, rate_rps: float, horizon_s: float, rng: np.random.Generator) -> Floats:
        return np.arange(0, horizon_s, 2 / rate_rps).repeat(2)


class Either(Frozen):
    """Short or long, one as often as the other."""

    kind: Literal["either"] = "either"
    short: int
    long: int

    def at(self, u: Floats) -> Integers:
        return np.where(u < 0.5, self.short, self.long)

    def expected_tokens(self) -> float:
        return (self.short + self.long) / 2


class Once(PauseKind):
    """One user in two pauses."""

    kind: Literal["once"] = "once"
    seconds: float

    def at(self, u: Floats) -> Floats:
        return np.where(u < 0.5, 0.0, self.seconds)


class Root(Cost):
    """A step takes as long as the root of its tokens."""

    kind: Literal["root"] = "root"
    scale_s: float
    varies_with: ClassVar = "tokens"

    def tokens_range(self) -> tuple[float, float]:
        return 1.0, 256.0

    def seconds(self, tokens: ArrayLike, requests: float = 1, context_tokens: float = 0) -> Floats:
        return self.scale_s * np.sqrt(np.asarray(tokens, dtype=np.float64) + 1)


class Flat(DrafterCost):
    """Drafting takes as long whatever is drafted."""

    kind: Literal["flat"] = "flat"
    flat_s: float

    def seconds(self, requests: float, context_tokens: float, slots: int) -> float:
        return self.flat_s


class Quadratic(PromptCost):
    """Prompts by their square."""

    kind: Literal["quadratic"] = "quadratic"
    scale_s: float

    def seconds(self, tokens: float, attended_tokens: float = 0) -> float:
        return self.scale_s * tokens**2


def widened(annotation: Any, toy: type[BaseModel]) -> Any:
    """The union with one member more, wherever it stands in the annotation of a field."""
    if get_origin(annotation) is Annotated:
        union, *about = get_args(annotation)
        return Annotated[(Union[union, toy], *about)]  # noqa: UP007
    members = get_args(annotation)
    if members and get_origin(members[0]) is Annotated:  # the union, or nothing
        return Union[(widened(members[0], toy), *members[1:])]
    return Union[annotation, toy]  # noqa: UP007


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets fields of the files' models take a toy, until the test ends."""

    def take(toy: type[BaseModel], *fields: str) -> None:
        for model in HOLDERS:
            for name in fields:
                if name in model.model_fields:
                    monkeypatch.setattr(model.model_fields[name], "annotation", widened(model.model_fields[name].annotation, toy))
        rebuild()

    yield take
    monkeypatch.undo()
    rebuild()


def rebuild() -> None:
    for model in HOLDERS:
        model.model_rebuild(force=True)


Both = tuple[Content, str, Content, str]  # of a run and of a plan: result.json and report.md
OPEN = {"workload": PLAN["workload"], "load": [40], "run": {"replications": 2, "warmup_s": 1.0, "duration_s": 4.0}}
SHORT: Content = {"load_rps": 30.0, "run": {"warmup_s": 1.0, "window_s": 3.0, "replications": 3}, "policies": PLAN["policies"][2:]}


@pytest.fixture
def through(scenario: Callable[..., Path], world: Path, dsim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Both]:
    """Scenario, simulation, report and plan of the small world with some keys replaced. Pictures are not drawn: they know no kinds."""
    monkeypatch.setattr("simulator.report.page.Page.pictures", lambda _page: [])
    monkeypatch.setattr("simulator.report.render.html.html", lambda _page: "")

    def go(change: Content, plan: Content) -> Both:
        results: list[Any] = []
        (world / "plan.yaml").write_text(yaml.safe_dump(PLAN | SHORT | plan, sort_keys=False))
        for command, file in (("run", scenario(**(OPEN | change))), ("plan", world / "plan.yaml")):
            done = dsim(command, file, "--out", command, "--workers", 1)
            assert done.code == 0, done.err
            results += [json.loads((world / command / "result.json").read_text()), (world / command / "report.md").read_text()]
        return tuple(results)  # type: ignore[return-value]

    return go


def metric(result: Content, name: str, policy: str = "plain") -> float:
    """The mean of a metric of the run's only load."""
    (point,) = (point for point in result["frontier"] if point["policy"] == policy)
    return float(point["metrics"][name]["mean"])


def test_a_verification_rule(known: Any, through: Callable[..., Both]) -> None:
    """It is priced for what it drafts, compiled as it lowers, and refused where it has no drafter."""
    known(TokenCap, "verification")
    policies = [{"name": "cap", "drafter": "head", "verification": {"kind": "token_cap", "tokens": 24}}]
    run, text, plan, _ = through({"policies": policies, "sla": None}, {"policies": policies})
    assert run["policies"][0]["verification"] == {"kind": "token_cap", "tokens": 24}
    assert "token_cap" in text
    assert 1 < metric(run, "verification_budget", "cap") < 4
    assert "Engine: compiled." in run["conditions"] or find_spec("numba") is None
    assert plan["cells"][plan["best"]]["policy"] == "cap"


def test_a_prefill_mode(known: Any, through: Callable[..., Both], edit_profile: Any) -> None:
    known(Halved, "prefill")
    edit_profile(lambda p: p["costs"].update(prefill=SOURCE | {"kind": "linear", "base_s": 0.001, "per_token_s": 1e-5}))
    engine = {"max_batch": 16, "prefill": {"kind": "halved"}}
    run, text, plan, _ = through({"engine": engine}, {"settings": [engine], "sla": PLAN["sla"] | {"ttft": {"seconds": 5.0, "share": 0.9}}})
    assert "Prefill: prompts are processed halved." in text
    assert metric(run, "ttft_p50_s") > 6 * 0.001  # 50 tokens: 25, 13, 6, 3, 2, 1
    assert any("the prefill is Halved, written in Python" in line for line in run["conditions"]) or find_spec("numba") is None
    assert plan["cells"][plan["best"]]["replicas"]


def test_an_order_of_admission(known: Any, through: Callable[..., Both]) -> None:
    known(LastCome, "admission")
    median = {}
    for order in ("first_come", "last_come"):
        engine = {"max_batch": 4, "prefill": {"kind": "instant"}, "admission": {"kind": order}}
        run, *_ = through({"engine": engine}, {"settings": [engine | {"max_batch": 16}]})
        median[order] = metric(run, "e2e_p50_s")
    assert median["last_come"] < median["first_come"] / 2  # overloaded: who comes last waits least


def test_a_router(known: Any, through: Callable[..., Both]) -> None:
    """One that does not look at the replicas: its fleet is simulated in parts."""
    known(TwoByTwo, "routing")
    run, text, _, plan_text = through({"fleet": {"replicas": 4, "routing": {"kind": "two_by_two"}}}, {"fleet": {"routing": {"kind": "two_by_two"}}})
    assert "routed two by two" in text
    assert any("simulated as 4 independent fleets" in line for line in run["conditions"])
    assert "Routing: two by two." in plan_text


def test_arrivals(known: Any, through: Callable[..., Both]) -> None:
    known(Pairs, "arrivals")
    workload = PLAN["workload"] | {"arrivals": {"kind": "pairs"}}
    run, _, plan, _ = through({"workload": workload}, {"workload": workload})
    assert [point["requests"] for point in run["frontier"]] == [2 * 4 * 40] * 3
    assert any("pairs arrivals at a constant rate" in line for line in plan["conditions"])


def test_pauses(known: Any, through: Callable[..., Both]) -> None:
    known(Once, "think_s")
    users = {"arrivals": {"kind": "closed_loop", "think_s": {"kind": "once", "seconds": 3.0}}}
    run, text, _, _ = through({"workload": PLAN["workload"] | users, "load": [4], "run": {"replications": 1, "requests": 200}}, {})
    assert "users pause before the next request (once)" in text
    assert 4 / (1.5 + 0.4) * 20 * 0.7 < metric(run, "throughput_tok_s_gpu") < 4 / 1.5 * 20


def test_lengths(known: Any, through: Callable[..., Both]) -> None:
    known(Either, "prompt_tokens", "output_tokens")
    workload = PLAN["workload"] | {"output_tokens": {"kind": "either", "short": 3, "long": 60}}
    run, _, plan, _ = through({"workload": workload}, {"workload": workload})
    assert metric(run, "e2e_p90_s") > 15 * metric(run, "tpot_p50_s")
    assert plan["cells"][plan["best"]]["replicas"]


def test_the_cost_of_a_step(known: Any, through: Callable[..., Both], edit_profile: Any, dsim: Callable[..., Any]) -> None:
    known(Root, "verify")
    edit_profile(lambda p: p["costs"].update(verify=SOURCE | {"kind": "root", "scale_s": 0.003}))
    run, *_ = through({"policies": SMALL["policies"][:1], "sla": None, "load": [1]}, {})
    assert metric(run, "step_p50_s") == pytest.approx(0.003 * np.sqrt(2) + 0.001)
    assert dsim("profile", "show", "tiny").code == 0


def test_the_cost_of_drafting(known: Any, through: Callable[..., Both], edit_profile: Any, dsim: Callable[..., Any]) -> None:
    known(Flat, "draft")
    edit_profile(lambda p: p["drafters"]["head"].update(draft=SOURCE | {"kind": "flat", "flat_s": 0.5}))
    run, *_ = through({"policies": SMALL["policies"][2:], "sla": None, "load": [1]}, {"policies": PLAN["policies"][:1]})
    assert metric(run, "user_s_per_token_draft", "scheduled") > 0.5 / 4
    assert dsim("profile", "show", "tiny").code == 0


def test_the_cost_of_prompts(known: Any, through: Callable[..., Both], edit_profile: Any, dsim: Callable[..., Any]) -> None:
    """Not a line, so the kernel asks for it: on both paths it is the kind's own method that prices."""
    known(Quadratic, "prefill")
    edit_profile(lambda p: p["costs"].update(prefill=SOURCE | {"kind": "quadratic", "scale_s": 1e-5}))
    engine = {"max_batch": 16, "prefill": {"kind": "separate"}}
    run, *_ = through({"engine": engine, "load": [1]}, {"settings": [engine]})
    assert metric(run, "ttft_p50_s") == pytest.approx(1e-5 * 50**2 + 0.001, rel=0.05)
    assert dsim("profile", "show", "tiny").code == 0

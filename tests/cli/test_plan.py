"""`dsim plan` and `dsim schema`: what they print and write, what they refuse, and that they go on where they stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from simulator import shipped
from simulator.cli.shipped import TEMPLATES
from simulator.reading.yaml_files import read_yaml
from simulator.study.planning import work
from simulator.study.reference import What, json_schema
from tests.conftest import SCENARIO, Content
from tests.planning.conftest import PLAN

Dsim = Callable[..., Any]
QUICK: dict[str, Any] = {"policies": PLAN["policies"][:1], "load_rps": 30.0, "run": {"warmup_s": 1.0, "window_s": 3.0, "replications": 3}}


@pytest.fixture
def plan_file(world: Path) -> Callable[..., Path]:
    """Write plan.yaml: the quick plan with some keys replaced (None drops one)."""

    def write(**changes: Any) -> Path:
        path = world / "plan.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in (PLAN | QUICK | changes).items() if v is not None}, sort_keys=False))
        return path

    return write


def test_a_plan_is_printed_and_written(dsim: Dsim, plan_file: Callable[..., Path], world: Path) -> None:
    said = dsim("plan", plan_file(), "--out", "out", "--workers", 1)
    assert said.code == 0, said.err
    assert "plain on " in said.out
    assert "USD per million output tokens" in " ".join(said.out.split())
    assert {p.name for p in (world / "out").iterdir()} >= {"report.html", "report.md", "result.json", "fleets.csv", "plan_frontier.png", "trials"}
    result = json.loads((world / "out" / "result.json").read_text())
    assert result["kind"] == "plan"
    best = result["cells"][result["best"]]
    assert f"on {best['replicas']} replica" in result["answer"][0]
    header, *rows = (world / "out" / "fleets.csv").read_text().splitlines()
    assert header.startswith("choice,profile,policy,setting,replicas,gpus")
    fleet = next(f for f in best["points"] if f["replicas"] == best["replicas"])["metrics"]
    assert fleet["goodput_share"]["mean"] == pytest.approx(fleet["speed_kept"]["mean"], abs=0.01)  # a promise of speed alone
    assert fleet["goodput_rps"]["mean"] == pytest.approx(30 * fleet["speed_kept"]["mean"], rel=0.2)
    assert len(rows) == sum(len(c["points"]) for c in result["cells"])


def test_json_is_the_result_file(dsim: Dsim, plan_file: Callable[..., Path], world: Path) -> None:
    said = dsim("plan", plan_file(), "--out", "out", "--workers", 1, "--format", "json")
    assert json.loads(said.out) == json.loads((world / "out" / "result.json").read_text())


def test_what_is_done_is_not_done_again(dsim: Dsim, plan_file: Callable[..., Path], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dsim("plan", plan_file(), "--out", "out", "--workers", 1)
    before = (world / "out" / "result.json").read_bytes()
    ran: list[Any] = []
    monkeypatch.setattr(work, "run_trial", lambda _plan, trial: ran.append(trial))
    second = dsim("plan", plan_file(), "--out", "out", "--workers", 1)
    assert (first.code, second.code) == (0, 0)
    assert ran == []
    assert (world / "out" / "result.json").read_bytes() == before
    another_price = dsim("plan", plan_file(price={"gpu_hour": 4}), "--out", "out", "--workers", 1)
    assert another_price.code == 0
    assert ran == [], "a price needs no simulation"


def test_an_interrupted_plan_goes_on(dsim: Dsim, plan_file: Callable[..., Path], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = work.run_trial, 0

    def some(plan: Any, trial: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return real(plan, trial)

    monkeypatch.setattr(work, "run_trial", some)
    said = dsim("plan", plan_file(), "--out", "out", "--workers", 1)
    assert said.code == 130
    assert "run the same command to resume" in said.err
    kept = len(list((world / "out" / "trials").glob("[!.]*.json")))
    assert kept == 3
    assert not (world / "out" / "result.json").exists()
    monkeypatch.setattr(work, "run_trial", real)
    assert dsim("plan", plan_file(), "--out", "out", "--workers", 1).code == 0
    whole = json.loads((world / "out" / "result.json").read_text())
    assert dsim("plan", plan_file(), "--out", "other", "--workers", 1).code == 0
    assert whole == json.loads((world / "other" / "result.json").read_text())


TRACE = {"trace": {"path": "trace.csv", "format": "csv"}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"price": None}, "price: a plan needs a price"),
        ({"price": {"gpu_hour": 0}}, "price.gpu_hour"),
        ({"sla": {"speed": {"tps": 5000}}}, "the fastest choice, gets 90.1 tok/s"),  # alone: 11.1 ms a step
        ({"sla": {"speed": {"tps": 60, "share": 1.0}}}, "sla.speed.share"),
        ({"sla": {"speed": {"tps": 60}, "ttft": {"seconds": 1}}}, "sla.ttft is promised, but prefill"),
        ({"fleet": {"min_replicas": 5, "max_replicas": 4}}, "max_replicas = 4 is below min_replicas = 5"),
        ({"fleet": {"max_replicas": 1, "survive_loss": True}}, "one more to survive a loss"),
        ({"fleet": {"max_replicas": 1}, "load_rps": 500.0}, "under any policy; plain carries most, "),
        ({"policies": [{"name": "oracle", "drafter": "mtp", "verification": {"kind": "oracle"}}]}, "all policies are bounds"),
        ({"workload": {"arrivals": {"kind": "closed_loop"}, **{k: PLAN["workload"][k] for k in ("prompt_tokens", "output_tokens")}}}, "closed_loop"),
        ({"workload": PLAN["workload"] | {"max_concurrency": 9}}, "drop workload.max_concurrency"),
        ({"workload": TRACE}, "output_tokens: column is missing"),
        ({"workload": TRACE | {"servegen": {"path": "x"}}}, "expected one source of traffic, got trace and servegen: drop one"),
        ({"workload": {"servegen": {"path": "nowhere"}}}, "no such folder"),
        ({"policies": [PLAN["policies"][0] | {"lengths": [1, 2]}]}, "lengths go with"),
        ({"policies": [PLAN["policies"][1] | {"lengths": [1, 2]}]}, "at most 1"),
        ({"policies": [PLAN["policies"][0], PLAN["policies"][0]]}, "two policies are called 'plain'"),
        ({"policies": [PLAN["policies"][0] | {"load": [3]}]}, "a plan has one load"),
        ({"settings": [{"max_batch": 4}, {"max_batch": 8}]}, "two settings are called 'default'"),
        ({"profiles": ["nowhere"]}, "no profile at"),
        ({"load_rps": -1}, "load_rps"),
        ({"loud_rps": 3}, "did you mean 'load_rps'?"),
        ({"run": {"replications": 1}}, "run.replications"),
    ],
)
def test_bad_input_is_one_line(dsim: Dsim, plan_file: Callable[..., Path], world: Path, changes: dict[str, Any], told: str) -> None:
    (world / "trace.csv").write_text("arrival_s,prompt_tokens\n0,5\n1,5\n")
    said = dsim("plan", plan_file(**changes), "--out", "out", "--workers", 1)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: ")
    assert told in said.err
    assert "Traceback" not in said.err


def test_a_spare_is_bought_where_a_loss_must_be_survived(dsim: Dsim, plan_file: Callable[..., Path], world: Path) -> None:
    assert dsim("plan", plan_file(), "--out", "a", "--workers", 1).code == 0
    assert dsim("plan", plan_file(fleet={"max_replicas": 24, "survive_loss": True}), "--out", "b", "--workers", 1).code == 0
    plain, spare = (json.loads((world / f / "result.json").read_text())["cells"][0] for f in "ab")
    assert spare["replicas_needed"] == plain["replicas"]
    assert spare["replicas"] > plain["replicas"]
    assert spare["loss"]["speed"]["mean"] >= 81


def test_every_fixed_length_is_a_choice_of_its_own(dsim: Dsim, plan_file: Callable[..., Path], world: Path) -> None:
    policy = {"name": "head", "drafter": "head", "verification": {"kind": "fixed"}, "lengths": [1, 3]}
    assert dsim("plan", plan_file(policies=[policy]), "--out", "out", "--workers", 1).code == 0
    result = json.loads((world / "out" / "result.json").read_text())
    assert [c["policy"] for c in result["cells"]] == ["head k=1", "head k=3"]
    budgets = [c["points"][0]["metrics"]["verification_budget"]["mean"] for c in result["cells"]]
    assert budgets == [2, 4]


def test_growth_multiplies_the_load(dsim: Dsim, plan_file: Callable[..., Path], world: Path) -> None:
    dsim("plan", plan_file(load_rps=20.0, growth=1.5), "--out", "a", "--workers", 1)
    dsim("plan", plan_file(), "--out", "b", "--workers", 1)
    a, b = (json.loads((world / f / "result.json").read_text()) for f in "ab")
    assert a["load"]["mean_rps"] == b["load"]["mean_rps"] == 30
    assert a["cells"] == b["cells"]


@pytest.mark.parametrize("what", ["scenario", "plan"])
def test_the_schema_knows_every_key(dsim: Dsim, what: str) -> None:
    schema = json.loads(dsim("schema", what).out)
    assert schema["additionalProperties"] is False
    assert {"name", "workload"} <= set(schema["properties"])
    assert "Poisson" in schema["$defs"]


FILES = {file.stem if file.parent != TEMPLATES else f"init {file.stem}": file for file in (*shipped.scenarios().values(), *TEMPLATES.iterdir())}


@pytest.mark.parametrize("name", FILES)
def test_the_schema_allows_dsims_own_files(name: str) -> None:
    content = read_yaml(FILES[name])
    problems = jsonschema.Draft202012Validator(json_schema("plan" if "profiles" in content else "scenario")).iter_errors(content)
    assert [f"{problem.json_path}: {problem.message}" for problem in problems] == []


SHORT_FORMS: dict[str, tuple[What, Content]] = {
    "one load": ("scenario", {"load": 8}),
    "a client's rate": ("scenario", {"workload": {"arrivals": {"kind": "benchmark", "client": "vllm", "num_prompts": 9, "request_rate": "inf"}}}),
    "turns": ("scenario", {"workload": {"sessions": {"arrivals": {"kind": "poisson"}, "turns": 4}}}),
    "one length of several": ("plan", {"policies": [{"name": "x", "drafter": "head", "verification": {"kind": "fixed"}, "lengths": [1, 3]}]}),
    "a profile with a price": ("plan", {"profiles": [{"profile": "tiny", "gpu_hour": 3.0}, "other"]}),
}
SLIPS: dict[str, tuple[What, Content]] = {
    "no load": ("scenario", {"load": []}),
    "a load of text": ("scenario", {"load": "8"}),
    "a number for a profile": ("plan", {"profiles": [3]}),
    "an unknown key of a rule": ("plan", {"policies": [{"name": "x", "verification": {"kind": "fixed", "lenght": 1}}]}),
}


@pytest.mark.parametrize("case", [*SHORT_FORMS, *SLIPS])
def test_the_schema_allows_short_forms_and_no_slips(case: str) -> None:
    what, change = (SHORT_FORMS | SLIPS)[case]
    base = PLAN if what == "plan" else SCENARIO
    problems = list(jsonschema.Draft202012Validator(json_schema(what)).iter_errors(base | change))
    assert bool(problems) == (case in SLIPS), problems


@pytest.mark.parametrize("what", ["scenario", "plan"])
def test_the_reference_is_that_of_the_models(dsim: Dsim, repository: Path, what: str) -> None:
    written = (repository / "docs" / f"reference-{what}.md").read_text()
    assert dsim("schema", what, "--format", "markdown").out.strip() == written.strip(), (
        f"dsim schema {what} --format markdown > docs/reference-{what}.md"
    )

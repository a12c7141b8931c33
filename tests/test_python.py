"""dsim from Python: three names, dataframes that agree with the result, and something to look at in a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import yaml

from dsim import StepView, VerificationPolicy, evaluate, load_scenario, plan
from simulator.errors import DsimError
from simulator.policies.verification import ConfidenceScheduled
from simulator.study.planning.question import make_plan
from simulator.study.run.sweep import sweep
from tests.planning.conftest import PLAN

pytestmark = pytest.mark.usefixtures("sketched")


def quick(**changes: Any) -> dict[str, Any]:
    return PLAN | {"policies": PLAN["policies"][:1], "load_rps": 30.0, "run": {"warmup_s": 1.0, "window_s": 3.0, "replications": 3}} | changes


def test_evaluate(scenario: Callable[..., Path], tmp_path: Path) -> None:
    found = evaluate(load_scenario(scenario()))
    assert len(found.points) == 3 * 2 * 2
    assert found.answer == found.result["answer"]
    shown = found._repr_html_()
    assert "<svg" in shown
    assert found.answer[0].split("(")[0][:20] in shown
    assert found.save(tmp_path / "report").is_file()


class Sure(VerificationPolicy):
    """A rule of a caller's: what is more likely than not."""

    kind: Literal["sure"] = "sure"
    needs_confidence: ClassVar = True

    def choose(self, view: StepView) -> Any:
        return (view.survival > 0.5).sum(axis=1)


def test_a_rule_of_the_callers(scenario: Callable[..., Path]) -> None:
    """It runs beside the others; what is checked of a policy in a file is checked of it."""
    question = load_scenario(scenario())
    name, drafter = question.policies[-1].name, question.policies[-1].drafter
    ours = evaluate(question.with_policy("sure", Sure(), drafter))
    assert set(ours.points["policy"]) == {policy.name for policy in question.policies} | {"sure"}
    assert ours.points.groupby("policy")["verification_budget"].mean()["sure"] > 1
    for mistake, says in {
        (name, drafter): f"two policies are called '{name}'",
        ("sure", None): "names no drafter",
        ("sure", "mtp"): "confidence",
    }.items():
        with pytest.raises(DsimError, match=says):
            question.with_policy(mistake[0], Sure(), mistake[1])


class Shorter(ConfidenceScheduled):
    """A rule of a caller's that has the kind of one of dsim's: one token of each request."""

    def choose(self, view: StepView) -> Any:
        return np.ones(view.requests, dtype=np.int64)


@pytest.mark.parametrize("rule", [Sure(), Shorter()], ids=["kind of its own", "kind of dsim's"])
@pytest.mark.parametrize(
    "options, line",
    [
        ({"workers": 2}, "'mine' has a rule of your own, and other processes do not have it; use workers=1, without ray"),
        ({"ray": "local"}, "'mine' has a rule of your own, and other processes do not have it; use workers=1, without ray"),
        ({"keep": Path("points")}, "'mine' has a rule of your own, and kept points do not show when it changes; leave out keep"),
    ],
)
def test_a_rule_of_the_callers_runs_in_this_process_alone(rule: Any, options: Any, line: str, scenario: Callable[..., Path], world: Path) -> None:
    """Others would not know it, or take dsim's own rule of that kind for it."""
    question = load_scenario(scenario()).with_policy("mine", rule, "head")
    with pytest.raises(DsimError) as refused:
        sweep(question, **options)
    assert str(refused.value) == f"{question.file}: policies.3: {line}"
    assert not (world / "points").exists()


def test_a_rule_of_the_callers_starts_no_workers(scenario: Callable[..., Path], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default there are as many as cores; and what is dsim's own is kept."""
    monkeypatch.setattr("simulator.study.run.sweep.ALONE_S", 0.0)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    question = load_scenario(scenario(run={"replications": 1, "requests": 12}, load=[2]))
    *_, found = sweep(question.with_policy("mine", Shorter(), "head"))
    assert found.numbers["verification_budget"] == 2
    assert sweep(question.with_policy("again", ConfidenceScheduled(), "head"), world / "points", workers=1)[3].policy == "again"


def test_plan(world: Path) -> None:
    (world / "plan.yaml").write_text(yaml.safe_dump(quick()))
    found, same = plan(world / "plan.yaml"), plan(quick())
    assert found.result["cells"] == same.result["cells"]
    assert found.choices["replicas"].tolist() == [c["replicas"] for c in found.result["cells"]]
    assert len(found.fleets) == len(found.result["cells"][0]["points"])
    assert found.what_if.empty
    assert "<table" in found._repr_html_()
    assert found.save(world / "report").read_text().startswith("<!DOCTYPE html>")


def test_overrides_are_never_passed_over(scenario: Callable[..., Path]) -> None:
    """A dictionary is asked with them and stays as it is; what is loaded already is refused."""
    question = quick()
    with pytest.raises(DsimError, match="load_rps"):
        plan(question, overrides=["load_rps=-1", "run.seed=3"])
    with pytest.raises(DsimError, match=r"run\.seed: is set more than once"):
        plan(question, overrides=["run.seed=1", "run.seed=2"])
    assert question == quick()
    with pytest.raises(DsimError, match="give them to load_plan"):
        plan(make_plan(question, Path("plan.yaml")), overrides=["load_rps=20"])
    with pytest.raises(DsimError, match="give them to load_scenario"):
        evaluate(load_scenario(scenario()), overrides=["load=[2]"])


def test_the_package_stays_light() -> None:
    code = "import sys, dsim; print([m for m in ('pandas', 'matplotlib', 'scipy', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ImportError):
        from dsim import nothing  # type: ignore[attr-defined] # noqa: F401


def test_the_example_of_the_docs_runs(repository: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/python.md, block after block, in one namespace, as a notebook would."""
    text = (repository / "docs" / "python.md").read_text()
    monkeypatch.chdir(repository)
    names: dict[str, Any] = {"OUT": world / "out"}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (world / "out" / "report.html").is_file()

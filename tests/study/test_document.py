"""A scenario's or plan's file: the keys that one kind has and the other lacks, and whatever may be changed in it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.misspelt import places
from simulator.study.planning.question import PlanFile, load_plan
from simulator.study.run.document import PLAN_KEYS
from simulator.study.run.limits import check_limits
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.warnings import warnings
from tests.conftest import SCENARIO, Content
from tests.planning.conftest import PLAN


def dotted(model: Any) -> set[str]:
    return {".".join(place.keys) for place in places(model)}


def test_the_keys_of_a_plan_that_a_scenario_has_not() -> None:
    ours = dotted(Scenario)
    assert {key for key in dotted(PlanFile) - ours if "." not in key or key.rpartition(".")[0] in ours - {"sla.speed"}} == PLAN_KEYS


@pytest.mark.parametrize(
    "kind, run, notes",
    [
        ("closed_loop", {"requests": 12}, []),
        ("closed_loop", {"duration_s": 60, "warmup_s": 5, "drain_s": None}, ["No effect with a closed loop: run.warmup_s, run.duration_s."]),
        ("poisson", {"duration_s": 60}, []),
        ("poisson", {"duration_s": 60, "requests": 12}, ["No effect with arrivals: run.requests."]),
    ],
)
def test_keys_without_effect_are_noted(kind: str, run: Content, notes: list[str], scenario: Callable[..., Path]) -> None:
    workload = SCENARIO["workload"] | {"arrivals": {"kind": kind}}
    loaded = load_scenario(scenario(workload=workload, run=run))
    assert [remark.text for remark in warnings(loaded, [], []) if remark.text.startswith("No effect")] == notes


def paths(content: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path for key, value in items for path in ((*prefix, key), *paths(value, (*prefix, key)))]


VALUES = st.sampled_from([
    None, True, False, 0, 1, -1, 2.5, 1e9, 10**30, float("inf"), float("nan"), "", "x", "yes", "60s", "10k", "1e5", "tiny", "mtp", "none", "fixed",
    [], [1], [1, 1], ["x"], [[1, 2]], [[]], {}, {"kind": "fixed"}, {"kind": "none"}, {"kind": 3}, {"x": 1}, {1: 2}, {None: 1}, [None], [{}],
])  # fmt: skip


def change(content: Content, path: tuple[Any, ...], what: str, value: Any) -> None:
    *parents, last = path
    holder: Any = content
    for part in parents:
        holder = holder[part]
    if what == "drop":
        del holder[last]
    elif what == "rename" and isinstance(holder, dict):
        holder[f"{last}s"] = holder.pop(last)
    else:
        holder[last] = value


def refusal(plan: bool, file: Path) -> str:
    """What is said of a file; nothing where it is right."""
    try:
        if plan:
            load_plan(file)
        else:
            check_limits(load_scenario(file))
    except DsimError as error:
        return error.line()
    return ""


@pytest.mark.parametrize("base", [SCENARIO, PLAN], ids=["scenario", "plan"])
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_changed_is_read_or_refused_in_one_line(base: Content, data: st.DataObject, world: Path) -> None:
    """Keys dropped, renamed, retyped: never anything but an answer or a DsimError that names its file."""
    content = copy.deepcopy(base)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths(content)))
        change(content, path, data.draw(st.sampled_from(["drop", "rename", "replace", "replace"])), data.draw(VALUES))
        if not content:
            return
    file = world / "changed.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    line = refusal(base is PLAN, file)
    assert "\n" not in line
    assert not line or re.match(r".*(changed\.yaml|tiny)", line), line

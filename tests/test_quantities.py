"""Every number that is read from a file has bounds and a unit, and nothing else passes for a number."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import Strict, TypeAdapter, ValidationError

from simulator import quantities
from simulator.engine.given import Failures
from simulator.errors import ScenarioError
from simulator.quantities import Within
from simulator.schema import Frozen, validate
from simulator.study.run.scenario import Scenario
from tests.conftest import SCENARIO


def models(model: type[Frozen]) -> Iterator[type[Frozen]]:
    for inner in model.__subclasses__():
        yield from (inner, *models(inner))


for module in (
    "real_runner.serving",
    "simulator.measurements.acceptance",
    "simulator.study.planning.question",
    "simulator.study.validation.engine_runs",
):
    import_module(module)  # and all that they read
OURS = sorted({model for model in models(Frozen) if model.__module__.startswith(("simulator", "real_runner"))}, key=lambda m: m.__name__)


def plain_types(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The types in an annotation that hold no others, each with what is said of it."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from plain_types(inner, (*metadata, *more))
    elif get_origin(annotation) is None:
        yield annotation, metadata
    else:
        for inner in get_args(annotation):
            yield from plain_types(inner)


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_every_number_has_bounds(model: type[Frozen]) -> None:
    for name, field in model.model_fields.items():
        for kind, metadata in plain_types(field.annotation, tuple(field.metadata)):
            if kind in (int, float):
                assert any(isinstance(one, Within) for one in metadata), f"{name}: no bounds; use a type of simulator/quantities.py"
            assert kind is not bool or Strict() in metadata, f"{name}: use Flag"


def test_the_models_are_all_there() -> None:
    names = {model.__name__ for model in OURS}
    assert {"Scenario", "PlanFile", "Profile", "FittedCurve", "RateCurve", "Lognormal", "Serving", "ParametricAcceptance"} <= names
    assert len(OURS) > 60


def test_types_of_quantities_are_bounded() -> None:
    for name, kind in vars(quantities).items():
        if get_origin(kind) is Annotated and name != "Flag":
            adapter = TypeAdapter(kind)
            (within,) = (one for one in get_args(kind) if isinstance(one, Within))
            assert adapter.validate_python(within.most) == within.most
            for wrong in (True, "2", within.most * 1.1 + 1, -1e-3, float("nan"), float("inf"), 10**400):
                with pytest.raises(ValidationError):
                    adapter.validate_python(wrong)


# part, key, value of a scenario, and the line
LINES: list[tuple[str, str, Any, str]] = [
    ("run", "duration_s", 1e308, "expected a number of at most 100,000,000 seconds, got 1e+308"),
    ("run", "duration_s", 1e-320, "expected a number of at least 1e-09 seconds, got 1e-320"),
    ("run", "warmup_s", 1e-320, "expected a number of at least 1e-100 seconds, got 1e-320"),
    ("run", "replications", 100_000_000, "expected a number of at most 10,000 replications, got 100000000"),
    ("run", "replications", True, "expected a whole number, got true"),
    ("run", "seed", -1, "expected a number of at least 0, got -1"),
    ("fleet", "replicas", "2", "expected a whole number, got '2'; write the number alone: 2"),
    ("fleet", "replicas", 1.5, "expected a whole number, got 1.5"),
    ("engine", "graph_sizes", 1e20, "expected a list, got 1e+20; write [1e+20]"),
    ("engine", "max_context_tokens", 1, "expected a number of at least 2 tokens, got 1"),
    ("engine", "kv_tokens", 1e300, "expected a number of at most 1e+12 tokens, got 1e+300"),
    (
        "sla",
        "speed",
        True,
        "expected 'tps_per_user_mean', 'tps_per_user_overall', 'tps_per_user_p10', 'tps_per_user_p50' or 'tps_per_user_p90', got true",
    ),
]


@pytest.mark.parametrize("part, key, value, line", LINES)
def test_a_number_out_of_range_is_refused_with_its_unit(part: str, key: str, value: Any, line: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        validate(Scenario, SCENARIO | {part: SCENARIO.get(part, {}) | {key: value}}, "s.yaml")
    assert str(refused.value) == f"s.yaml: {part}.{key}: {line}"


@pytest.mark.parametrize("load", [True, [True], ["2"], 1e308, [1e-320], [10**400]])
def test_a_load_out_of_range_is_refused(load: Any) -> None:
    with pytest.raises(ScenarioError, match=r"^s\.yaml: load\.0: expected a number"):
        validate(Scenario, SCENARIO | {"load": load}, "s.yaml")


def test_whole_numbers_may_be_written_as_floats() -> None:
    plan = validate(Scenario, SCENARIO | {"run": {"requests": 1e6, "replications": 2.0}}, "s.yaml").run
    assert (plan.requests, plan.replications) == (1_000_000, 2)
    assert isinstance(plan.requests, int)
    assert Failures(every_hours=100).every_hours == 100.0

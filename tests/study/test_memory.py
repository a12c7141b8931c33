"""A map over load and memory: which policy is best where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.errors import ScenarioError
from simulator.study.run.memory import MemoryPoint, best, by_spot
from simulator.study.run.scenario import load_scenario
from tests.conftest import SCENARIO, Content, Dsim
from tests.study.test_sessions import ENGINE, RUN, WORKLOAD, with_prompts  # noqa: F401


@pytest.mark.usefixtures("with_prompts")
def test_a_map_is_beside_the_sweep(scenario: Callable[..., Path], dsim: Dsim) -> None:
    """More memory, more of the prompts in the cache; the sweep's own numbers are those without a map."""
    asked: Content = {"workload": WORKLOAD, "engine": ENGINE | {"kv_tokens": 8000}, "run": RUN, "sla": {"goodput": {"ttft_s": 0.1}}, "load": [2, 8]}
    asked["policies"] = SCENARIO["policies"][:2]
    assert dsim("run", scenario(**asked, memory=[0.2, 1, 3]), "--out", "map", "--workers", 1).code == 0
    assert dsim("run", scenario(**asked), "--out", "plain", "--workers", 1, "--no-report").code == 0
    assert Path("map/points.csv").read_bytes() == Path("plain/points.csv").read_bytes()
    points = json.loads(Path("map/result.json").read_text())["memory"]
    spots = {(p["policy"], p["load"], p["kv_share"]) for p in points}
    assert spots == {(n, k, m) for n in ("plain", "MTP-1") for k in (2, 8) for m in (0.2, 1, 3)}
    assert {p["kv_share"]: p["kv_tokens"] for p in points} == {0.2: 1600, 1: 8000, 3: 24_000}
    hits = [next(p["numbers"]["prefix_hit_share"] for p in points if (p["policy"], p["load"], p["kv_share"]) == ("plain", 8, m)) for m in (0.2, 1, 3)]
    assert hits[0] < hits[1] <= hits[2]
    assert Path("map/memory.png").is_file()
    assert "Which policy, by load and memory" in Path("map/report.md").read_text()


def test_memory_that_nobody_knows_is_not_varied(scenario: Callable[..., Path], dsim: Dsim) -> None:
    told = dsim("run", scenario(memory=[0.5, 1]), "--out", "out")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "memory: profile 'tiny' does not say how much KV memory there is" in told.err
    told = dsim("run", scenario(memory=[0.5, 0]), "--out", "out")
    assert (told.code, "memory.1" in told.err) == (2, True)


def test_the_best_of_a_spot() -> None:
    def point(policy: str, speed: float | None, load: float = 4) -> MemoryPoint:
        return MemoryPoint(kv_share=1, kv_tokens=9, policy=policy, load=load, verdict="stable", numbers={"speed": speed})

    points = [point("a", 50), point("b", 75), point("c", None), point("a", None, 8)]
    spots = by_spot(points)
    assert best(spots[4, 1], "speed") == (points[1], 1.5)
    assert best(spots[8, 1], "speed") is None
    assert best(points[:1], "speed") == (points[0], None)


@pytest.mark.usefixtures("with_prompts")
@pytest.mark.parametrize(
    ("engine", "memory", "line"),
    [
        ({"kv_tokens": 4000, "page_tokens": 8192}, None, "engine.kv_tokens: expected KV memory for at least one page of 8,192 tokens, got 4,000"),
        ({"kv_tokens": 8192, "page_tokens": 8192}, [0.5, 1], "memory: expected KV memory for at least one page of 8,192 tokens, got 4,096"),
        (
            {"page_tokens": 64, "prefill": {"kind": "disaggregated", "workers": 1, "kv_tokens": 50, "prefix_cache": {"kind": "lru"}}}, None,
            "engine.prefill.kv_tokens: expected KV memory for at least one page of 64 tokens, got 50",
        ),
    ],
)  # fmt: skip
def test_memory_below_a_page_is_refused(engine: Content, memory: list[float] | None, line: str, scenario: Callable[..., Path]) -> None:
    asked: Content = {"workload": WORKLOAD, "engine": engine, "run": RUN, "sla": None, "load": [2]}
    with pytest.raises(ScenarioError) as refused:
        load_scenario(scenario(**asked, memory=memory))
    assert line in str(refused.value)


@pytest.mark.usefixtures("with_prompts")
def test_memory_of_a_page_is_enough(scenario: Callable[..., Path]) -> None:
    asked: Content = {"workload": WORKLOAD, "engine": {"kv_tokens": 8192, "page_tokens": 8192}, "run": RUN, "sla": None, "load": [2]}
    assert load_scenario(scenario(**asked)).kv_tokens(load_scenario(scenario(**asked)).policies[0]) == 8192

"""A small plan on the tiny profile, and how its searches are driven without a pool."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.study.planning.question import Plan, load_plan

Content = dict[str, Any]

PLAN: Content = {
    "name": "small",
    "question": "How many?",
    "profiles": ["tiny"],
    "policies": [
        {"name": "plain", "verification": {"kind": "none"}},
        {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}},
        {"name": "scheduled", "drafter": "head", "verification": {"kind": "confidence_scheduled"}},
    ],
    "settings": [{"max_batch": 16, "prefill": {"kind": "instant"}}],
    "workload": {
        "arrivals": {"kind": "poisson"},
        "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "lognormal", "mean_tokens": 20, "cv": 0.5, "max_tokens": 60},
        "domains": {"chat": 2, "code": 1},
    },
    "load_rps": 100.0,
    "sla": {"speed": {"tps": 81, "share": 0.9}},
    "price": {"gpu_hour": 2.0},
    "fleet": {"max_replicas": 24},
    "run": {"warmup_s": 1.0, "window_s": 6.0},
    "what_if": False,
}


@pytest.fixture
def plan_file(world: Path) -> Callable[..., Path]:
    """Write plan.yaml with some keys replaced (None drops one); returns its path."""

    def write(**changes: Any) -> Path:
        content = copy.deepcopy(PLAN) | changes
        path = world / "plan.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return path

    return write


@pytest.fixture
def make(plan_file: Callable[..., Path]) -> Callable[..., Plan]:
    """A plan with some keys replaced."""
    return lambda **changes: load_plan(plan_file(**changes))


def drive(search: Generator[Any, Any, Any], answer: Callable[[Any], Any]) -> Any:
    """Run a search to its end, each request answered by `answer`."""
    try:
        wanted = next(search)
        while True:
            wanted = search.send(answer(wanted))
    except StopIteration as end:
        return end.value

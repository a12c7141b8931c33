"""Warnings where a simulation leaves what a measured table holds, and silence where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.warnings import warnings
from tests.report import synthetic_result as synthetic


def scenario(folder: Path, **change: Any) -> Scenario:
    """A profile measured at up to 4 requests, 16 tokens, contexts to 512, prefills to 256; plain decoding."""
    grid = [(t, r, c) for r in (1, 4) for t in (r, 4 * r) for c in (16, 512)]
    (folder / "verify.csv").write_text("tokens,requests,context_tokens,p50_s\n" + "".join(f"{t},{r},{c},0.01\n" for t, r, c in grid))
    (folder / "prefill.csv").write_text("tokens,context_tokens,p50_s\n" + "".join(f"{t},{c},0.01\n" for t in (1, 256) for c in (0, 512)))
    made = {"provenance": "synthetic", "source": "test"}
    profile = {
        "format": 1, "name": "x", "hardware": "x", "engine": "x", "target": "x", "gpus_per_replica": 1,
        "costs": {
            "verify": {**made, "kind": "table", "file": "verify.csv", "between": "linear"},
            "prefill": {**made, "kind": "table", "file": "prefill.csv"},
            "overhead": made,
        },
    }  # fmt: skip
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    asked = {
        "name": "x", "profile": str(folder), "policies": [{"name": "plain", "verification": {"kind": "none"}}], "load": 4,
        "workload": {
            "arrivals": {"kind": "closed_loop"},
            "prompt_tokens": {"kind": "fixed", "tokens": change.pop("prompt", 100)},
            "output_tokens": {"kind": "fixed", "tokens": change.pop("output", 100)},
        },
        **change,
    }  # fmt: skip
    (folder / "asked.yaml").write_text(yaml.safe_dump(asked))
    return load_scenario(folder / "asked.yaml")


def warned(asked: Scenario, requests: float = 4.0, tokens: float = 4.0) -> list[str]:
    row = synthetic.row("plain", 4.0, {"tokens_per_step_max": tokens, "tokens_per_step_p50": 4.0, "concurrency_mean": requests})
    return [remark.text for remark in warnings(asked, [row], []) if "measured" in remark.text]


def test_nothing_is_said_within_the_table(tmp_path: Path) -> None:
    assert warned(scenario(tmp_path)) == []


@pytest.mark.parametrize("seen", [{"requests": 4.5}, {"tokens": 5.0}])
def test_more_requests_than_measured(tmp_path: Path, seen: dict[str, float]) -> None:
    assert any("more than the 4 requests" in text for text in warned(scenario(tmp_path), **seen))


def test_contexts_and_prefills_longer_than_measured(tmp_path: Path) -> None:
    long = warned(scenario(tmp_path, prompt=1000, engine={"prefill": {"kind": "chunked", "token_budget": 200}}))
    assert [text.split(",")[0] for text in long] == ["Contexts of 1", "Prompts of 1"]
    assert "1,050 tokens on average" in long[0]
    assert "in parts, and prefill was measured behind 512 at most" in long[1]
    assert ["up to 300 tokens in a step" in text for text in warned(scenario(tmp_path, prompt=300))] == [True]
    assert warned(scenario(tmp_path, prompt=300, engine={"prefill": {"kind": "instant"}})) == []


@pytest.mark.parametrize(("kind", "origin", "said"), [("instant", "measured", True), ("instant", "synthetic", False), ("chunked", "measured", False)])
def test_prompts_that_are_free_though_the_profile_prices_them(tmp_path: Path, kind: str, origin: str, said: bool) -> None:
    asked = scenario(tmp_path, engine={"prefill": {"kind": kind}})
    profile = yaml.safe_load((tmp_path / "profile.yaml").read_text())
    profile["costs"]["prefill"]["provenance"] = origin
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
    asked = load_scenario(asked.file)
    assert any(remark.text.startswith("Prompts take no time here") for remark in warnings(asked, [], [])) is said

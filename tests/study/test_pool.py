"""Prefill workers in a scenario: what they cost, what they are told, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.errors import DsimError
from simulator.study.planning.trial import PromptTime
from simulator.study.run.build import build_result
from simulator.study.run.point import Point, run_point
from simulator.study.run.scenario import Scenario, load_scenario
from simulator.study.run.sweep import bundle, points
from tests.conftest import PROFILE

SESSIONS: dict[str, Any] = {
    "policies": [
        {"name": "plain", "verification": {"kind": "none"}},
        {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}},
    ],
    "workload": {
        "sessions": {
            "arrivals": {"kind": "poisson"},
            "turns": 4,
            "new_tokens": {"kind": "fixed", "tokens": 60},
            "output_tokens": {"kind": "fixed", "tokens": 20},
            "think_s": 0.5,
        }
    },
    "load": [2],
    "run": {"duration_s": 150, "warmup_s": 5, "replications": 1},
}
CACHE = {"kind": "vllm"}
POOL = {"kind": "disaggregated", "workers": 2}


def profile(folder: Path, name: str, **changes: Any) -> None:
    """The tiny profile with prompts and memory."""
    content = PROFILE | {"name": name, "kv": {"provenance": "synthetic", "bytes_per_token": 1000.0, "memory_bytes": 4e6, "page_tokens": 16}}
    content["costs"] = PROFILE["costs"] | {"prefill": {"provenance": "synthetic", "kind": "linear", "base_s": 0.005, "per_token_s": 1e-4}}
    (folder / "profile.yaml").write_text(yaml.safe_dump(content | changes))


@pytest.fixture
def made(world: Path, scenario: Callable[..., Path]) -> Callable[..., Scenario]:
    """A scenario with this prefill, beside a second profile of two GPUs a replica."""
    shutil.copytree(world / "tiny", world / "other")
    profile(world / "tiny", "tiny")
    profile(world / "other", "other", gpus_per_replica=2.0, hardware="another GPU")

    def make(prefill: dict[str, Any], cache: Any = None, **changes: Any) -> Scenario:
        return load_scenario(scenario(**{**SESSIONS, "engine": {"prefill": prefill, "prefix_cache": cache, "page_tokens": 16}, **changes}))

    return make


def row(of: Scenario, policy: int = 0) -> Any:
    return run_point(of, Point(policy, 2.0, 0))


def test_the_gpus_of_prefill_workers_count(made: Callable[..., Scenario]) -> None:
    assert made(POOL).gpus == 1  # as ever, where nothing is said of them
    assert made(POOL | {"gpus_per_worker": 3}).gpus == 7
    assert made(POOL | {"bandwidth_bytes_s": 1e6}).gpus == 3
    assert made(POOL | {"profile": "other"}).gpus == 5
    assert made(POOL | {"profile": "other", "gpus_per_worker": 3}).gpus == 7
    assert PromptTime(0, 1).share(made(POOL | {"profile": "other"})) == 4 / 5  # what a plan pays for prompts
    alone, both = row(made(POOL)), row(made(POOL | {"profile": "other"}))
    assert alone["throughput_tok_s_gpu"] == pytest.approx(5 * both["throughput_tok_s_gpu"], rel=0.02)


def test_an_equal_profile_changes_nothing_but_gpus(made: Callable[..., Scenario], world: Path) -> None:
    profile(world / "other", "other")
    words = POOL | {"bandwidth_bytes_s": 3e5, "transfer_s": 0.01, "prefix_cache": CACHE}
    for policy in (0, 1):
        assert row(made(words, CACHE), policy).numbers == row(made(words | {"profile": "other"}, CACHE), policy).numbers


def test_what_is_computed_and_what_moves_adds_up(made: Callable[..., Scenario]) -> None:
    words = POOL | {"bandwidth_bytes_s": 4e6}
    without, sender, both = row(made(words)), row(made(words | {"prefix_cache": CACHE})), row(made(words | {"prefix_cache": CACHE}, CACHE))
    pool = {name: one.groups[-1].numbers for name, one in (("without", without), ("sender", sender), ("both", both))}
    assert [one.groups[-1].name for one in (without, sender, both)] == ["prefill"] * 3
    moved, computed = ({name: one[key] or 0.0 for name, one in pool.items()} for key in ("transfer_bytes_s", "prompt_tokens_s"))
    assert moved["without"] == pytest.approx(1000 * computed["without"], rel=0.02)  # 1000 bytes per token, all of every prompt
    assert computed["sender"] < 0.6 * computed["without"]  # turns begin with all that was said
    assert moved["sender"] == pytest.approx(moved["without"], rel=0.05)
    assert moved["both"] < 0.6 * moved["sender"]
    assert (without["prefix_hit_share"], sender["prefix_hit_share"]) == (None, pytest.approx(both["prefix_hit_share"], rel=0.05))
    assert (pool["both"]["transfer_mean_s"] or 0.0) < (pool["without"]["transfer_mean_s"] or 0.0)


def test_the_report_says_what_the_workers_did(made: Callable[..., Scenario]) -> None:
    of = made(POOL | {"profile": "other", "bandwidth_bytes_s": 1e6, "prefix_cache": CACHE}, CACHE)
    result = build_result(of, [run_point(of, point) for point in points(of)])
    (group,) = result.frontier[0].groups
    assert set(group.metrics) == {"busy_fraction", "waiting_mean", "prompt_tokens_s", "transfer_mean_s", "transfer_bytes_s"}
    assert all(group.metrics.values())
    assert "profile other, bandwidth_bytes_s 1000000.0, prefix cache vllm (recomputed_blocks 1, last_round_unnamed True)" in result.conditions[0]
    assert "gpus_per_worker" not in result.conditions[0]
    assert "Prefill workers: 2 of 2 GPUs, another GPU (profile 'other')." in result.conditions
    assert "another GPU" in result.profile.hardware
    assert type(result).from_json(result.to_json()) == result


def test_a_bundle_has_the_profile_of_prefill_workers(made: Callable[..., Scenario], tmp_path_factory: pytest.TempPathFactory) -> None:
    of = made(POOL | {"profile": "other"})
    there = bundle(of).unpack(tmp_path_factory.mktemp("node"))
    assert (there.gpus, row(there).numbers) == (of.gpus, row(of).numbers)


@pytest.mark.parametrize(
    "prefill, cache, line",
    [
        ({"workers": None, "prefix_cache": CACHE}, None, "engine.prefill.workers: prefix_cache is of each worker, so there must be a number of them"),
        ({"workers": None, "profile": "other"}, None, "engine.prefill.workers: profile is of each worker"),
        ({"kv_tokens": 1000}, None, "engine.prefill.kv_tokens: memory of workers counts with a prefix cache in it"),
        ({"profile": "gone"}, None, "engine.prefill.profile: no profile at"),
        ({"profile": "large"}, None, "engine.prefill.profile: profile 'large' is of another model, the scenario's of small"),
        ({"profile": "wide"}, None, "engine.prefill.profile: expected 1,000 bytes of KV per token as on the replicas, got 2,000"),
        ({"profile": "mute"}, None, "profile 'mute' has no prefill cost"),
        ({"bandwidth_bytes_s": 0}, None, "engine.prefill.bandwidth_bytes_s: expected a number above 0, got 0"),
        ({}, CACHE, "engine.prefix_cache: is simulated where prompts are processed on the replica"),
    ],
)
def test_refusals(made: Callable[..., Scenario], world: Path, prefill: dict[str, Any], cache: Any, line: str) -> None:
    for name in ("large", "wide", "mute"):
        shutil.copytree(world / "other", world / name)
    profile(world / "large", "large", target="another model")
    profile(world / "wide", "wide", kv={"provenance": "synthetic", "bytes_per_token": 2000.0, "memory_bytes": 4e6})
    profile(world / "mute", "mute", costs=PROFILE["costs"])
    with pytest.raises(DsimError) as refused:
        made({key: value for key, value in (POOL | prefill).items() if value is not None}, cache)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_link_needs_the_size_of_a_token(made: Callable[..., Scenario], world: Path) -> None:
    profile(world / "tiny", "tiny", kv=None)
    with pytest.raises(DsimError, match="profile 'tiny' does not say how many bytes of KV a token has"):
        made(POOL | {"bandwidth_bytes_s": 1e9})

"""The compiled path against the plain one on random worlds: the same rows in the same order, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_worlds import fleets, requests
from worlds import Users

from simulator.engine.simulate import ClosedTraffic, End, Fleet, OpenTraffic, Traffic, observe
from simulator.traffic.request import RequestSpec

pytest.importorskip("numba")
MANY = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(autouse=True, scope="module")
def path() -> None:
    """Both paths are run here anyway."""


class Rows:
    """A sink that keeps bytes; the order among rows of one kind counts."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[bytes]] = {"steps": [], "requests": [], "joins": [], "waits": []}
        self.names: list[str] = []
        self.start_s = 0.0

    def warm(self, start_s: float) -> None:
        self.start_s = start_s

    def steps(self, rows: Any) -> None:
        self.kinds["steps"].append(rows.tobytes())

    def requests(self, rows: Any, domains: Any) -> None:
        self.names += [domains[int(code)] for code in rows[:, 4]]
        rows = rows.copy()
        rows[:, 4] = 0  # the two paths may number the domains differently
        self.kinds["requests"].append(rows.tobytes())

    def joins(self, rows: Any) -> None:
        self.kinds["joins"].append(rows.tobytes())

    def waits(self, rows: Any) -> None:
        self.kinds["waits"].append(rows.tobytes())


def told(traffic: Traffic, over: Fleet, path: Any) -> tuple[dict[str, bytes], list[str], float, End]:
    over.luck.bit_generator.state = np.random.default_rng(7).bit_generator.state
    rows = Rows()
    end = observe(traffic, over, rows, path)
    assert end.path == path
    return {kind: b"".join(parts) for kind, parts in rows.kinds.items()}, rows.names, rows.start_s, end


def same(traffic: Traffic, over: Fleet) -> None:
    plain, compiled = told(traffic, over, "plain"), told(traffic, over, "compiled")
    for kind, found in plain[0].items():
        wide = {"steps": 17, "requests": 15, "joins": 3, "waits": 2}[kind]
        expected, got = (np.frombuffer(b, np.float64).reshape(-1, wide) for b in (found, compiled[0][kind]))
        assert found == compiled[0][kind], f"{kind}:\n{expected}\n{got}"
    assert plain[1:3] == compiled[1:3]
    ends = [{**vars(end), "path": "", "why_plain": ""} for end in (plain[3], compiled[3])]
    assert ends[0] == ends[1]


@MANY
@given(
    over=fleets(), specs=requests(), warmup_s=st.sampled_from([0.0, 0.2]), until_s=st.sampled_from([0.3, 1.0]), drain_s=st.sampled_from([0.05, 1e6])
)
def test_open_loop(over: Fleet, specs: list[RequestSpec], warmup_s: float, until_s: float, drain_s: float) -> None:
    same(OpenTraffic(specs, warmup_s, until_s, drain_s), over)


@MANY
@given(over=fleets(least=8, most=48), users=st.integers(20, 60), seed=st.integers(0, 1000), grid=st.sampled_from([0.0, 0.25]))
def test_large_batches(over: Fleet, users: int, seed: int, grid: float) -> None:
    """More tokens a step than are sorted as they come; on a grid of confidences, most of them ties."""
    if grid and over.replay.gamma and not over.policy.clairvoyant:
        survival = np.maximum(np.ceil(over.replay.survival / grid) * grid, 0.0)
        survival[survival <= grid] = 0.0  # some that can never be accepted
        over = replace(over, replay=replace(over.replay, survival=survival))
    lengths = np.random.default_rng(seed).integers(1, 20, (2, users, 400))
    source = Users(users, lambda u, t: int(lengths[0, u, t % 400]), lambda u, t: int(lengths[1, u, t % 400]), 0.0, "b")
    same(ClosedTraffic(users, source, 2, np.random.default_rng(seed).random(users)), over)


@MANY
@given(over=fleets(), specs=requests(), step_s=st.sampled_from([0.0, 0.01, 0.0125]))
def test_events_at_the_same_time_keep_their_order(over: Fleet, specs: list[RequestSpec], step_s: float) -> None:
    """Arrivals on a coarse grid that the steps fall on, too."""
    on_grid = [RequestSpec(s.index, i // 3 * step_s, s.prompt_tokens, s.output_tokens, s.domain, s.cached_prompt_tokens) for i, s in enumerate(specs)]
    same(OpenTraffic(on_grid, 0.0, 1.0, 1e6), over)


@MANY
@given(
    over=fleets(),
    users=st.integers(1, 8),
    turns=st.integers(1, 4),
    think_s=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 50),
    most=st.integers(1, 12),
)
def test_closed_loop(over: Fleet, users: int, turns: int, think_s: float, seed: int, most: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, most + 1, (2, users, 400))
    source = Users(users, lambda u, t: int(lengths[0, u, t % 400]), lambda u, t: int(lengths[1, u, t % 400]), think_s, "a")
    same(ClosedTraffic(users, source, turns, np.random.default_rng(seed).random(users)), over)

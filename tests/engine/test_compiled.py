"""The compiled path against the plain one on random worlds: the same rows in the same order, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.engine.records import RequestRecord, StepRecord
from simulator.engine.simulate import ClosedTraffic, End, Fleet, OpenTraffic, Traffic, observe
from simulator.measurements.cost import PrefillTable
from simulator.measurements.prices import RoundCost
from simulator.policies.prefill import Chunked, Disaggregated, Separate
from simulator.policies.verification import ConfidenceScheduled
from simulator.traffic.request import RequestSpec
from tests.engine.random_worlds import fleets, requests
from tests.engine.worlds import Users, blocks, costs, fleet, replay

pytest.importorskip("numba")
MANY = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


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

    def outside(self, rows: Any) -> None:
        raise AssertionError("compiled runs know no prefill pools")


def told(traffic: Traffic, over: Fleet, path: Any) -> tuple[dict[str, bytes], list[str], float, End]:
    over.luck.bit_generator.state = np.random.default_rng(7).bit_generator.state
    rows = Rows()
    end = observe(traffic, over, rows, path)
    assert end.path == path
    return {kind: b"".join(parts) for kind, parts in rows.kinds.items()}, rows.names, rows.start_s, end


def same(traffic: Traffic, over: Fleet) -> None:
    plain, compiled = told(traffic, over, "plain"), told(traffic, over, "compiled")
    for kind, found in plain[0].items():
        wide = {"steps": len(StepRecord._fields), "requests": len(RequestRecord._fields), "joins": 4, "waits": 2}[kind]
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


@settings(MANY, max_examples=80)
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
    varied=st.booleans(),
    context=st.none() | st.integers(2, 20),
    seed=st.integers(0, 50),
    most=st.integers(1, 12),
)
def test_closed_loop(over: Fleet, users: int, turns: int, think_s: float, varied: bool, context: int | None, seed: int, most: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, most + 1, (2, users, 400))
    source = Users(users, lambda u, t: int(lengths[0, u, t % 400]), lambda u, t: int(lengths[1, u, t % 400]), think_s, "a", varied)
    same(ClosedTraffic(users, source, turns, np.random.default_rng(seed).random(users)), replace(over, max_context=context))


@MANY
@given(
    over=fleets(),
    specs=requests(),
    in_flight=st.none() | st.integers(1, 4),
    context=st.none() | st.integers(2, 20),
    whole=st.booleans(),
    grid=st.booleans(),
)
def test_a_client_with_a_limit(over: Fleet, specs: list[RequestSpec], in_flight: int | None, context: int | None, whole: bool, grid: bool) -> None:
    """Requests wait at the client, at times of their own or all from the start, until the window ends or until all are done."""
    specs = [replace(s, arrival_s=0.0) for s in specs] if grid else specs
    same(OpenTraffic(specs, 0.0, np.inf if whole else 0.3, 0.0 if whole else 0.4, in_flight), replace(over, max_context=context))


class Own(ConfidenceScheduled):
    """A policy of a user, even one that is a built-in by inheritance."""


class OwnPrices(RoundCost):
    """So is this cost model."""


@pytest.mark.parametrize("change, told", [
    ({"policy": Own()}, "the policy is Own, written in Python"),
    ({"prices": OwnPrices(costs(0.01), None, 0, 0)}, "the cost model is OwnPrices, written in Python"),
])  # fmt: skip
def test_what_a_user_wrote_goes_by_the_plain_path_and_says_so(change: dict[str, Any], told: str) -> None:
    over = replace(fleet(costs(0.01)), **change)
    if "policy" in change:
        over = replace(over, replay=replay(blocks([[1] * 9], 1, np.full((9, 1), 0.5))), prices=RoundCost(costs(0.01), None, 1, 1))
        over = replace(over, believed=over.prices)
    end = observe(OpenTraffic([RequestSpec(0, 0.0, 5, 9, "a")], 0.0, 1.0, 1.0), over, Rows())
    assert (end.path, end.why_plain) == ("plain", told)


def test_many_requests_at_once_and_long_queues_grow_the_arrays() -> None:
    specs = [RequestSpec(i, 0.001 * (i // 700), 3, 2 + i % 3, "") for i in range(6000)]
    same(OpenTraffic(specs, 0.0, 1.0, 1e6), fleet(costs(0.01, 1e-4, 1e-7, prefill=(0.001, 1e-5)), prefill=Disaggregated(workers=3), replicas=2))


def test_prices_that_do_not_fit_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.engine.fast._MOST_PRICES", 1 << 16)
    drawn = replay(blocks([[0, 1, 3, 2] * 20], 3, np.random.default_rng(0).uniform(0.1, 0.9, (80, 3))))
    source = Users(90, lambda u, t: 2 + (7 * u + t) % 300, lambda u, t: 1 + (u * u + 31 * t) % 4000)
    over = fleet(costs(0.01, 1e-4, 1e-7), ConfidenceScheduled(), drawn, max_batch=90)
    same(ClosedTraffic(90, replace(source, domain="a"), 2, np.linspace(0.01, 1, 90)), over)


def test_a_table_of_prefill_times_is_asked_step_by_step(tmp_path: Path) -> None:
    (tmp_path / "prefill.csv").write_text("tokens,context_tokens,p50_s\n1,0,0.001\n64,0,0.004\n1,500,0.002\n64,500,0.009\n")
    table = PrefillTable(provenance="synthetic", file="prefill.csv")
    table.attach(tmp_path)
    price = costs(0.01, 1e-4).model_copy(update={"prefill": table})
    specs = [RequestSpec(i, 0.003 * i, 5 + 13 * i % 90, 1 + i % 9, "") for i in range(60)]
    for prefill in (Chunked(token_budget=16), Separate(max_tokens=24), Disaggregated(workers=2, transfer_s=0.01)):
        same(OpenTraffic(specs, 0.0, 1.0, 1e6), fleet(price, prefill=prefill, max_batch=4))

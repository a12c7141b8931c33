"""Costs composed of operators: attention read once, whatever is verified, and prompts that go through the operators of the step."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.measurements.composed import OperatorPrefill, OperatorVerify
from simulator.measurements.cost import Costs, Overhead
from simulator.measurements.prices import RoundCost

FACTS = {"provenance": "estimated", "source": "a table of this test"}


def verify(folder: Path, **more: object) -> OperatorVerify:
    """Operators 10 ms + 0.1 ms a token; attention 1 µs per request and 1,000 cached tokens, as a plane."""
    (folder / "operators.csv").write_text("tokens,p50_s\n1,0.0101\n1001,0.1101\n")
    rows = [f"{r},{c},{1e-9 + 1e-6 * r * c / 1000}" for r in (1, 1001) for c in (0, 8000)]
    (folder / "attention.csv").write_text("\n".join(["requests,context_tokens,p50_s", *rows]) + "\n")
    cost = OperatorVerify(file="operators.csv", attention="attention.csv", **FACTS, **more)  # type: ignore[arg-type]
    cost.attach(folder)
    return cost


def prefill(folder: Path, **more: object) -> OperatorPrefill:
    """Operators 10 ms + 0.1 ms a token up to 101, 0.2 beyond; attention 1 ns per token and token it attends to."""
    (folder / "prompt.csv").write_text("tokens,p50_s\n1,0.0101\n101,0.0201\n1101,0.2201\n")
    rows = [f"{n},{a},{1e-9 * n * a + 1e-9}" for n in (1, 1001) for a in (0, 8000)]
    (folder / "prompt_attention.csv").write_text("\n".join(["tokens,context_tokens,p50_s", *rows]) + "\n")
    cost = OperatorPrefill(file="prompt.csv", attention="prompt_attention.csv", **FACTS, **more)  # type: ignore[arg-type]
    cost.attach(folder)
    return cost


def test_attention_of_no_context_takes_its_time_too(tmp_path: Path) -> None:
    cost = verify(tmp_path)
    (tmp_path / "attention.csv").write_text("requests,context_tokens,p50_s\n1,0,0.001\n1,8000,0.002\n")
    cost.attach(tmp_path)
    assert float(cost.seconds(1)) == pytest.approx(0.0101 + 0.001)


def test_attention_is_read_once_however_many_tokens_are_verified(tmp_path: Path) -> None:
    cost = verify(tmp_path)
    plain, drafted = (float(cost.seconds(tokens, 50, 4000)) for tokens in (50, 400))
    assert plain == pytest.approx(0.01 + 50e-4 + 50 * 4e-6, rel=1e-6)
    assert drafted - plain == pytest.approx(350e-4)


def test_attention_is_bound_by_arithmetic_where_the_queries_are_many(tmp_path: Path) -> None:
    cost = verify(tmp_path, query_s=1e-9)  # 4 µs per query at 4,000 tokens: what reading costs per request
    assert float(cost.seconds(50, 50, 4000)) == pytest.approx(0.015 + 50 * 4e-6, rel=1e-6)
    assert float(cost.seconds(400, 50, 4000)) == pytest.approx(0.05 + 400 * 4e-6)


def test_only_the_operators_that_see_tokens_are_padded(tmp_path: Path) -> None:
    assert float(verify(tmp_path, padded_to=[64]).seconds(50, 50, 4000)) == pytest.approx(0.0164 + 50 * 4e-6, rel=1e-6)


def test_prompts_go_through_the_operators_of_the_step(tmp_path: Path) -> None:
    costs = Costs(verify=verify(tmp_path), prefill=prefill(tmp_path), overhead=Overhead(provenance="estimated"))
    cost = RoundCost(costs, None, 0, 0)
    alone = 0.0201 + 1e-9 * 101 * 2000
    assert cost.chunk_s(101, 2000, beside=0) == pytest.approx(alone, rel=1e-4)
    # 101 tokens more than the 100 that decode: 1 at 0.1 ms and 100 at 0.2 ms
    assert cost.chunk_s(101, 2000, beside=100) == pytest.approx(1e-4 + 100 * 2e-4 + 1e-9 * 101 * 2000, rel=1e-4)


def test_prompts_that_run_apart_share_nothing(tmp_path: Path) -> None:
    costs = Costs(verify=verify(tmp_path), prefill=prefill(tmp_path, apart=True), overhead=Overhead(provenance="estimated"))
    cost = RoundCost(costs, None, 0, 0)
    assert cost.chunk_s(101, 2000, beside=100) == cost.chunk_s(101, 2000, beside=0)

"""Benchmark clients: the flags mean what they mean to each client, and prompts come when it sends them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.rng import stream
from simulator.traffic.benchmark import Benchmark
from simulator.traffic.lengths import Fixed, Uniform
from simulator.traffic.workload import Workload


def client(which: str = "vllm", **flags: Any) -> Benchmark:
    return Benchmark.model_validate({"client": which, "num_prompts": 100, **flags})


def sized(which: str, ratio: float | None, tokens: int = 1000) -> Fixed | Uniform:
    flags = {} if ratio is None else {"random_range_ratio": ratio}
    return client(which, random_input_len=tokens, random_output_len=tokens, **flags).lengths(tokens)


@pytest.mark.parametrize("which, ratio, low, high", [
    ("vllm", None, 1000, 1000), ("vllm", 0.0, 1000, 1000), ("vllm", 0.25, 750, 1250), ("vllm", 0.9999, 1, 2000),
    ("sglang", None, 1, 1000), ("sglang", 1.0, 1000, 1000), ("sglang", 0.5, 500, 1000),
    ("inferencemax", None, 1000, 1000), ("inferencemax", 0.8, 800, 1000),
])  # fmt: skip
def test_the_ratio_means_what_the_client_means_by_it(which: str, ratio: float | None, low: int, high: int) -> None:
    lengths = sized(which, ratio)
    drawn = lengths.at((np.arange(20_000) + 0.5) / 20_000)
    assert (drawn.min(), drawn.max()) == (low, high)
    assert isinstance(lengths, Fixed) == (low == high)
    assert lengths.expected_tokens() == pytest.approx(drawn.mean(), rel=1e-3)


@given(low=st.integers(1, 50), more=st.integers(0, 50))
def test_every_uniform_length_is_equally_likely(low: int, more: int) -> None:
    lengths, n = Uniform(min_tokens=low, max_tokens=low + more), 6 * (more + 1)
    assert np.bincount(lengths.at((np.arange(n) + 0.5) / n))[low:].tolist() == [6] * (more + 1)
    assert lengths.expected_tokens() == low + more / 2


def test_uniform_lengths_are_in_order() -> None:
    with pytest.raises(ValidationError, match="max_tokens = 3 is below min_tokens = 4"):
        Uniform(min_tokens=4, max_tokens=3)


@pytest.mark.parametrize("which", ["vllm", "sglang", "inferencemax"])
@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness(which: str, burstiness: float) -> None:
    if which == "sglang" and burstiness != 1:
        return
    n, rate = 40_000, 5.0
    times = client(which, burstiness=burstiness, load_flag="request_rate").sent_s(n, rate, stream(1, "a", 0))
    gaps = np.diff(times)
    error = burstiness**-0.5 / np.sqrt(n)
    assert gaps.mean() * rate == pytest.approx(1, abs=5 * error)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)
    if which == "vllm":
        assert times[-1] == pytest.approx(n / rate)  # stretched to it
    else:
        assert times[0] == 0  # the first is sent at once
        assert times[-1] != pytest.approx(n / rate, rel=1e-6)


def test_all_at_once_and_how_many() -> None:
    assert (client().sent_s(5, None, stream(0, "a")) == 0).all()
    both = client(num_prompts=12, prompts_per_concurrency=4)
    assert [both.prompts(load, 1) for load in (1, 3, 8)] == [12, 12, 32]
    many = client(num_prompts=None, prompts_per_concurrency=10)
    assert (many.prompts(64, 1), many.prompts(64, 2), client().prompts(64, 2)) == (640, 1280, 100)
    assert (many.in_flight(64, 2), client(load_flag="request_rate").in_flight(3, 1)) == (128, None)
    limited = client(load_flag="request_rate", max_concurrency=8, num_prompts=None, prompts_per_concurrency=5)
    assert (limited.in_flight(3, 2), limited.prompts(3, 2), limited.rate_rps(3)) == (8, 40, 3)
    for infinite in ("inf", float("inf")):
        assert client(request_rate=infinite).at_once
    assert client(request_rate=7).rate_rps(64) == 7


def test_a_workload_takes_its_lengths_from_the_flags() -> None:
    flags = {"kind": "benchmark", "client": "inferencemax", "num_prompts": 5000, "random_input_len": 1000, "random_output_len": 50}
    sent = Workload.model_validate({"arrivals": flags | {"random_range_ratio": 0.8}}).sent(64, 1, 0, 0)
    assert (sent.prompt_tokens.min(), sent.prompt_tokens.max()) == (800, 1000)
    assert (sent.output_tokens.min(), sent.output_tokens.max()) == (40, 50)
    assert abs(np.corrcoef(sent.prompt_tokens, sent.output_tokens)[0, 1]) < 5 / np.sqrt(5000)
    again = Workload.model_validate(Workload.model_validate({"arrivals": flags}).model_dump())
    assert again.prompt_tokens == Fixed(tokens=1000)


@pytest.mark.parametrize("flags, problem", [
    ({"num_prompts": None}, "expected num_prompts, prompts_per_concurrency or both"),
    ({"max_concurrency": 3}, "max_concurrency is what the scenario's load gives: drop it, or set load_flag: request_rate"),
    ({"load_flag": "request_rate", "request_rate": 3}, "request_rate is what the scenario's load gives"),
    ({"load_flag": "request_rate", "num_prompts": None, "prompts_per_concurrency": 3}, "give num_prompts"),
    ({"which": "sglang", "burstiness": 2}, "no burstiness"),
    ({"random_input_len": 3}, "got one of them"),
    ({"random_range_ratio": 0.5}, "goes with random_input_len"),
    ({"random_input_len": 3, "random_output_len": 3, "random_range_ratio": 1}, "below 1"),
    ({"which": "guidellm"}, "client"),
])  # fmt: skip
def test_flags_that_contradict_themselves(flags: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        client(**flags)

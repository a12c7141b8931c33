"""Routers, orders of admission, and the share of a step that prompts get."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.policies.admission import FirstCome, ShortestPrompt
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Separate
from simulator.policies.routing import LeastLoaded, PowerOfTwo, RoundRobin

LUCK = np.random.default_rng(0)


def test_round_robin_goes_round() -> None:
    assert [RoundRobin().choose(i, [9, 0, 5], LUCK) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_least_loaded_takes_the_first_of_equals() -> None:
    assert LeastLoaded().choose(0, [3, 1, 2, 1], LUCK) == 1
    assert LeastLoaded().choose(5, [0, 0], LUCK) == 0


def test_power_of_two_compares_two_different_ones_drawn_evenly() -> None:
    """Of n = 4 replicas with loads 0 < 1 < 2 < 3, the i-th is the less loaded of a random pair with probability (n-1-i) / 6."""
    luck, n = np.random.default_rng(1), 6000
    chosen = np.bincount([PowerOfTwo().choose(i, [2, 0, 3, 1], luck) for i in range(n)], minlength=4)
    expected = np.array([1, 3, 0, 2]) / 6
    error = np.sqrt(expected * (1 - expected) / n)
    assert (np.abs(chosen / n - expected) <= 4 * error).all()  # an even choice, 1/4 each, would be 16 errors off or more
    assert PowerOfTwo().choose(0, [7], luck) == 0


def test_orders_of_admission() -> None:
    assert FirstCome().next([5, 1, 3]) == 0
    assert ShortestPrompt().next([5, 1, 3, 1]) == 1


@given(decode=st.integers(0, 50), pending=st.integers(0, 50), budget=st.integers(1, 40))
def test_the_share_of_a_step_that_prompts_get(decode: int, pending: int, budget: int) -> None:
    for mode in (Instant(), Disaggregated()):
        assert (mode.chunk(decode, pending), mode.decodes(pending)) == (0, True)
    chunked = Chunked(token_budget=budget)
    assert chunked.decodes(pending)
    assert chunked.chunk(decode, pending) == max(0, min(pending, budget - decode))
    separate = Separate(max_tokens=budget)
    assert separate.chunk(decode, pending) == min(pending, budget)
    assert separate.decodes(pending) == (pending == 0)


@pytest.mark.parametrize("mode, where", [(Instant(), "nowhere"), (Separate(), "replica"), (Chunked(), "replica"), (Disaggregated(), "elsewhere")])
def test_where_prompts_are_processed(mode: Instant | Separate | Chunked | Disaggregated, where: str) -> None:
    assert mode.where == where

"""Requests arrive at the very float that they were given, whatever the clock stood at before."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from worlds import costs, fleet, open_traffic, simulate

from simulator.engine.simulate import _delay_to
from simulator.traffic.request import RequestSpec


@given(now_s=st.floats(0, 1e6), more_s=st.floats(0, 1e6))
@example(now_s=0.1, more_s=0.2)
def test_the_delay_reaches_the_time(now_s: float, more_s: float) -> None:
    at_s = now_s + more_s
    assert now_s + _delay_to(at_s, now_s) == at_s


def test_first_tokens_of_an_empty_replica() -> None:
    times = sorted(0.1 * i + 0.013 * (i % 7) for i in range(400))
    run = simulate(open_traffic([RequestSpec(i, at, 1, 2, "") for i, at in enumerate(times)]), fleet(costs(base=1e-4)))
    assert [r.first_token_s for r in run.requests] == times

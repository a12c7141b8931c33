"""Requests arrive at the very float that they were given, whatever the clock stood at before."""

from __future__ import annotations

from collections.abc import Iterator

import simpy
from hypothesis import example, given
from hypothesis import strategies as st

from simulator.engine.simulate import Clock
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import Engine, costs, fleet, open_traffic


@given(times=st.lists(st.floats(0, 1e6), min_size=1, max_size=20).map(sorted), steps=st.lists(st.floats(1e-9, 1e3), max_size=20))
@example(times=[0.01885702023146934, 0.11552067630843095], steps=[])  # no delay added to the one gives the other
def test_the_clock_stops_at_the_time_itself(times: list[float], steps: list[float]) -> None:
    clock, seen = Clock(), []

    def arrivals() -> Iterator[simpy.Event]:
        for at in times:
            yield clock.at(at)
            seen.append(clock.now)

    def others() -> Iterator[simpy.Event]:
        for step in steps:
            yield clock.timeout(step)

    clock.process(arrivals())
    clock.process(others())
    clock.run()
    assert seen == times


def test_first_tokens_of_an_empty_replica(engine: Engine) -> None:
    times = sorted(0.1 * i + 0.013 * (i % 7) for i in range(400))
    run = engine.run(open_traffic([RequestSpec(i, at, 1, 2, "") for i, at in enumerate(times)]), fleet(costs(base=1e-4)))
    assert [r.first_token_s for r in run.requests] == times

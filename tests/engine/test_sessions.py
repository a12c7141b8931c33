"""Sessions: each request comes after the ones it waits for, with all that they said; and what a prefix cache makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.given import Fleet, SessionTraffic
from simulator.engine.records import Kept, Run
from simulator.engine.simulate import World, simulate
from simulator.policies.prefill import Chunked
from simulator.policies.prefix_cache import Lru, VllmCache
from simulator.policies.routing import LeastLoaded, PrefixAware, SessionAffinity
from simulator.policies.verification import FixedLength
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.request import Request
from simulator.traffic.sessions import Sessions
from tests.engine.worlds import blocks, costs, fleet, replay

FIXED: dict[str, Any] = {
    "arrivals": {"kind": "poisson"},
    "turns": 3,
    "new_tokens": {"kind": "fixed", "tokens": 10},
    "output_tokens": {"kind": "fixed", "tokens": 6},
}
VARIED: dict[str, Any] = FIXED | {
    "turns": {"kind": "uniform", "least": 1, "most": 5},
    "new_tokens": {"kind": "uniform", "min_tokens": 1, "max_tokens": 30},
    "output_tokens": {"kind": "uniform", "min_tokens": 1, "max_tokens": 9},
    "think_s": {"kind": "exponential", "mean_s": 0.2},
    "system": {"count": 3, "tokens": {"kind": "uniform", "min_tokens": 5, "max_tokens": 40}, "zipf": 1},
    "tools": {"share": 0.5, "new_tokens": {"kind": "fixed", "tokens": 17}, "pause_s": {"kind": "fixed", "seconds": 0.05}},
    "fan_out": {
        "share": 0.4, "calls": {"kind": "uniform", "least": 1, "most": 3}, "new_tokens": {"kind": "fixed", "tokens": 4},
        "output_tokens": {"kind": "uniform", "min_tokens": 1, "max_tokens": 5},
    },
}  # fmt: skip
PRICE = costs(0.01, 0.001, 0.0, 0.0, (0.001, 0.001))


def source(seed: int = 0, **more: Any) -> SessionSource:
    return SessionSource(Sessions.model_validate(FIXED | more), seed, 0)


def served(capacity: int | None = None, **more: Any) -> Fleet:
    settings = {"prefill": Chunked(token_budget=64), "max_batch": 8} | more
    cached = {"prefix_cache": settings.pop("prefix_cache", Lru())}
    return replace(fleet(PRICE, kv_pages=capacity, page_tokens=4, **settings), **cached)


def traffic(sessions: SessionSource, starts_s: list[float], until_s: float = 1e3, under_way: list[float] | None = None) -> SessionTraffic:
    return SessionTraffic(sessions, np.array(starts_s), 0.0, until_s, 1e6, None if under_way is None else np.array(under_way))


def test_prompts_grow_by_what_was_said() -> None:
    first, second, third = source(system={"tokens": {"kind": "fixed", "tokens": 100}}).session(4)
    assert [spec.prompt_tokens for spec in (first, second, third)] == [110, 126, 142]
    assert first.content is not None
    assert second.content is not None
    assert second.content.names(0, 29, 4) == [*first.content.names(0, 29, 4)]
    other = source(system={"tokens": {"kind": "fixed", "tokens": 100}}).session(5)[0]
    assert other.content is not None
    assert [a == b for a, b in zip(first.content.names(0, 27, 4), other.content.names(0, 27, 4), strict=True)] == [True] * 25 + [False] * 2


def test_a_session_is_a_function_of_its_number() -> None:
    one, two = SessionSource(Sessions.model_validate(VARIED), 3, 1), SessionSource(Sessions.model_validate(VARIED), 3, 1)
    numbers = [500, 3, 70, 3, 0]
    assert [one.session(n) for n in numbers] == [two.session(n) for n in reversed(numbers)][::-1]
    assert len({spec.index for n in range(200) for spec in one.session(n)}) == sum(len(one.session(n)) for n in range(200))
    assert [len(one.session(n)) for n in range(50)] != [len(SessionSource(one.sessions, 4, 1).session(n)) for n in range(50)]


def kept(sessions: SessionTraffic, over: Fleet) -> tuple[World, Run]:
    sink = Kept()
    world = World(sessions, over, sink)
    return world, sink.run(world.run())


def followed(run: Run, sessions: SessionSource) -> None:
    """Every request was sent its pause after the last of those it waits for was done."""
    done: dict[int, Request] = {r.spec.index: r for r in run.requests}
    for number in {r.user for r in run.requests}:
        specs = sessions.session(number)
        before: dict[int, list[int]] = {}
        for row, spec in enumerate(specs):
            assert spec.place is not None
            for then in range(spec.place.then, spec.place.then + spec.place.count):
                before.setdefault(then, []).append(row)
        for row, waits in before.items():
            mine = done.get(specs[row].index)
            if mine is None or not all(specs[other].index in done for other in waits):
                continue
            assert specs[row].place is not None
            assert len(waits) == specs[row].place.waits
            last = max(done[specs[other].index].finish_s for other in waits)
            assert mine.sent_s == pytest.approx(last + specs[row].place.pause_s)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), capacity=st.sampled_from([None, 60, 90]), replicas=st.integers(1, 3), loop=st.booleans(),
       router=st.sampled_from([LeastLoaded(), SessionAffinity(), PrefixAware(), PrefixAware(sees="approximate")]))  # fmt: skip
def test_sessions_are_played_to_their_end(seed: int, capacity: int | None, replicas: int, loop: bool, router: Any) -> None:
    sessions = SessionSource(Sessions.model_validate(VARIED), seed, 0)
    over = served(capacity, replicas=replicas, router=router)
    luck = np.random.default_rng(seed)
    if loop:
        asked = traffic(sessions, [0.0] * 5, until_s=2.0, under_way=luck.random(5).tolist())
    else:
        asked = traffic(sessions, np.cumsum(luck.exponential(0.1, 12)).tolist(), until_s=50.0)
    world, run = kept(asked, over)
    assert run.unfinished == 0
    assert run.kv_pages_left == 0
    followed(run, sessions)
    if not loop:
        refused = {r.user for r in run.requests if r.rejected}
        assert [sum(r.user == n for r in run.requests) for n in range(12) if n not in refused] == [
            len(sessions.session(n)) for n in range(12) if n not in refused
        ]
        assert [replica.kv.used for replica in world.replicas] == [0] * replicas
        owed = sum(r.spec.prompt_tokens - r.spec.cached_prompt_tokens for r in run.requests if not r.rejected)
        assert run.preemptions or run.steps["prefill_tokens"].sum() == owed
    again = simulate(asked, over)
    np.testing.assert_array_equal([r.finish_s for r in again.requests], [r.finish_s for r in run.requests])


def test_alone_every_turn_finds_all_that_was_said_before() -> None:
    run = simulate(traffic(source(think_s=1.0), [0.0]), served())
    assert [r.spec.prompt_tokens for r in run.requests] == [10, 26, 42]
    assert [r.spec.cached_prompt_tokens for r in run.requests] == [0, 12, 28]  # 15 and 31 tokens have keys and values: whole blocks of 4
    prompts = simulate(traffic(source(think_s=1.0), [0.0]), served(prefix_cache=Lru(answers=False)))
    assert [r.spec.cached_prompt_tokens for r in prompts.requests] == [0, 8, 24]
    drafting = replay(blocks([[1, 2, 3]], 3))
    costly = served(prefix_cache=VllmCache(), policy=FixedLength(length=3), drawn=drafting)
    assert [r.spec.cached_prompt_tokens for r in simulate(traffic(source(think_s=1.0), [0.0]), costly).requests] == [0, 8, 24]
    lost = replace(costly, prefix_cache=Lru(unnamed_tokens=8))
    assert [r.spec.cached_prompt_tokens for r in simulate(traffic(source(think_s=1.0), [0.0]), lost).requests] == [0, 4, 20]


def test_without_a_cache_all_is_computed() -> None:
    run = simulate(traffic(source(think_s=1.0), [0.0, 0.0]), replace(served(), prefix_cache=None))
    assert run.steps["prefill_tokens"].sum() == sum(r.spec.prompt_tokens for r in run.requests) == 2 * (10 + 26 + 42)


def test_recomputation_finds_what_was_computed() -> None:
    """Two requests that do not fit together: the one that is thrown out finds its own pages as far as they were not needed."""
    sessions = source(turns=1, new_tokens={"kind": "fixed", "tokens": 30}, output_tokens={"kind": "fixed", "tokens": 40})
    without, with_cache = (simulate(traffic(sessions, [0.0, 0.0]), replace(served(24), prefix_cache=rule)) for rule in (None, Lru()))
    assert without.preemptions > 0
    assert with_cache.preemptions > 0
    assert with_cache.steps["prefill_tokens"].sum() < without.steps["prefill_tokens"].sum()


def test_sessions_stay_where_their_cache_is() -> None:
    sessions = source(think_s=0.5, turns=8)
    starts = np.arange(40) * 0.05

    def share(router: Any) -> float:
        run = simulate(traffic(sessions, starts.tolist()), served(replicas=4, router=router))
        return sum(r.spec.cached_prompt_tokens for r in run.requests) / sum(r.spec.prompt_tokens for r in run.requests)

    anywhere, home, exact, guessed = map(share, (LeastLoaded(), SessionAffinity(), PrefixAware(), PrefixAware(sees="approximate")))
    assert anywhere < 0.7 * home
    assert exact == pytest.approx(home, rel=0.1)
    assert guessed == pytest.approx(exact, rel=0.1)

"""Prefill workers with a profile, a cache and a link of their own: by hand, against what is simpler, and what is conserved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.given import Absence, PrefillPool
from simulator.engine.records import Kept, Outside
from simulator.engine.simulate import Fleet, Run, World, simulate
from simulator.measurements.prices import RoundCost
from simulator.policies.prefill import Disaggregated
from simulator.policies.prefix_cache import Lru
from simulator.policies.routing import LeastLoaded
from simulator.traffic.content import Lineage
from simulator.traffic.impatience import Impatience, Senders
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import costs, fleet, open_traffic, poisson

KV = 10.0  # bytes per token
PRICE = costs(base=1.0, prefill=(0.5, 0.1))


def pooled(pool: PrefillPool, workers: int = 1, transfer_s: float = 0.0, **over: Any) -> Fleet:
    mode = Disaggregated(workers=workers, transfer_s=transfer_s)
    cache = over.pop("cache", None)
    return replace(fleet(PRICE, prefill=mode, **over), pool=pool, kv_bytes_per_token=KV, prefix_cache=cache)


def prices(base_s: float, token_s: float) -> RoundCost:
    return RoundCost(costs(base=1.0, prefill=(base_s, token_s)), None, 0, 0)


def ends(run: Run) -> list[tuple[float, float]]:
    return [(round(r.first_token_s, 9), round(r.finish_s, 9)) for r in run.requests]


def moved(run: Run) -> list[tuple[float, float, float]]:
    return [(round(a, 9), round(b, 9), size) for kind, a, b, size in run.outside.tolist() if kind == Outside.MOVE]


def text(number: int, tokens: int, output: int, arrival_s: float, which: int = 7) -> RequestSpec:
    """A request whose prompt begins with text `which`."""
    return RequestSpec(number, arrival_s, tokens, output, "", content=Lineage((which,), ()))


def test_two_transfers_share_the_link() -> None:
    """Prompts of 5 take 1 s on one worker each; 50 bytes at 20 bytes/s take 2.5 s alone, 5 s side by side; then a step of 1 s."""
    specs = [RequestSpec(i, 0.0, 5, 2, "") for i in range(2)]
    run = simulate(open_traffic(specs), pooled(PrefillPool(prices(0.5, 0.1), bandwidth_bytes_s=20.0), workers=2))
    assert run.why_plain.startswith("prefill workers have a profile, a cache or a link")
    assert moved(run) == [(1.0, 6.0, 50.0)] * 2
    assert ends(run) == [(1.0, 7.0)] * 2
    one = simulate(open_traffic(specs), pooled(PrefillPool(prices(0.5, 0.1), bandwidth_bytes_s=20.0), workers=1, transfer_s=0.25))
    # The second prompt is done at 2 s and moves from 2.25 s; the first has 20 bytes of 50 then, and both get 10 bytes/s.
    assert moved(one) == [(1.0, 5.25, 50.0), (2.0, 6.25, 50.0)]


def test_prompts_cost_what_they_do_there() -> None:
    run = simulate(open_traffic([RequestSpec(0, 0.0, 5, 2, "")]), pooled(PrefillPool(prices(2.0, 1.0))))
    assert ends(run) == [(7.0, 8.0)]


def test_without_link_and_cache_it_is_the_plain_mode_where_replicas_are_idle() -> None:
    """Nothing is shared, and a replica admits at once, not after a step: the transfer may as well come before."""
    specs = poisson(2.0, np.random.default_rng(1).integers(1, 9, 80), 1, prompt=4)
    idle: dict[str, Any] = {"replicas": 40, "router": LeastLoaded()}
    plain = simulate(open_traffic(specs), fleet(PRICE, prefill=Disaggregated(workers=2, transfer_s=0.25), **idle), "plain")
    pool = simulate(open_traffic(specs), pooled(PrefillPool(prices(0.5, 0.1)), workers=2, transfer_s=0.25, **idle))
    assert max(plain.steps["running"]) == 1
    assert ends(plain) == ends(pool)
    np.testing.assert_array_equal(plain.prefill_waits, pool.prefill_waits)
    assert len(plain.prefill_waits) == 80


def test_the_worker_computes_what_it_lacks_and_the_replica_fetches_what_it_lacks() -> None:
    """Blocks of 4. The second prompt of 17 begins like the first of 12, whose 3 blocks both sides then have: 5 tokens are computed, 5 move."""
    specs = [text(0, 12, 2, 0.0), text(1, 17, 2, 20.0)]
    pool = PrefillPool(prices(0.5, 0.1), kv_pages=20, prefix_cache=Lru(), bandwidth_bytes_s=20.0)
    run = simulate(open_traffic(specs), pooled(pool, cache=Lru(), kv_pages=20, page_tokens=4))
    computed = [tokens for kind, *_, tokens in run.outside.tolist() if kind == Outside.PROMPT]
    assert computed == [12, 5]
    assert moved(run) == [(1.7, 7.7, 120.0), (21.0, 23.5, 50.0)]
    assert ends(run) == [(1.7, 8.7), (21.0, 24.5)]


@pytest.mark.parametrize("side", ["worker", "replica"])
def test_a_cache_on_one_side_saves_the_work_of_that_side(side: str) -> None:
    specs = [text(0, 12, 2, 0.0), text(1, 17, 2, 20.0)]
    pool = PrefillPool(prices(0.5, 0.1), kv_pages=20, prefix_cache=Lru() if side == "worker" else None, bandwidth_bytes_s=20.0)
    run = simulate(open_traffic(specs), pooled(pool, cache=Lru() if side == "replica" else None, kv_pages=20, page_tokens=4))
    computed = [tokens for kind, *_, tokens in run.outside.tolist() if kind == Outside.PROMPT]
    assert computed == [12, 5 if side == "worker" else 17]
    assert [size for *_, size in moved(run)] == [120.0, 50.0 if side == "replica" else 170.0]


def test_the_free_worker_with_the_longest_prefix_takes_a_prompt() -> None:
    """Two texts at once go to two workers; each comes back to the one that has it."""
    specs = [text(0, 12, 1, 0.0, 7), text(1, 12, 1, 0.0, 8), text(2, 13, 1, 9.0, 8), text(3, 13, 1, 9.0, 7)]
    run = simulate(open_traffic(specs), pooled(PrefillPool(prices(0.5, 0.1), 20, Lru()), workers=2, page_tokens=4))
    assert [tokens for kind, *_, tokens in run.outside.tolist() if kind == Outside.PROMPT] == [12, 12, 1, 1]


def test_a_prompt_stays_on_its_worker_until_it_has_moved() -> None:
    """Room for one prompt of 12 in 3 pages of 4 and its answer: the second waits on the worker until the first has gone at 7.7 s."""
    specs = [text(0, 10, 2, 0.0, 7), text(1, 10, 2, 0.0, 8)]
    run = simulate(open_traffic(specs), pooled(PrefillPool(prices(0.5, 0.1), 4, Lru(), 20.0), page_tokens=4))
    assert moved(run)[0] == (1.5, 6.5, 100.0)
    assert [round(start, 9) for kind, start, *_ in run.outside.tolist() if kind == Outside.PROMPT] == [0.0, 6.5]
    refused = simulate(open_traffic(specs), pooled(PrefillPool(prices(0.5, 0.1), 2, Lru()), page_tokens=4))
    assert [r.rejected for r in refused.requests] == [True, True]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20), workers=st.integers(1, 3), replicas=st.integers(1, 2), pages=st.sampled_from([14, 18, 40]),
    bandwidth=st.sampled_from([None, 30.0, 3000.0]), both=st.booleans(), dies=st.booleans(),
)  # fmt: skip
def test_nothing_is_lost(seed: int, workers: int, replicas: int, pages: int, bandwidth: float | None, both: bool, dies: bool) -> None:
    """Requests, pages and bytes, on either side, with preemptions and replicas that die."""
    luck = np.random.default_rng(seed)
    specs = [text(i, int(luck.integers(1, 30)), int(luck.integers(1, 20)), at, int(luck.integers(1, 4))) for i, at in enumerate(_times(luck, 25))]
    pool = PrefillPool(prices(0.05, 0.01), pages, Lru(), bandwidth)
    over = pooled(
        pool, workers, 0.01, cache=Lru() if both else None, kv_pages=pages, page_tokens=4, replicas=replicas, router=LeastLoaded(), max_batch=4
    )  # fmt: skip
    over = replace(over, absences=[Absence(0, 3.0, 6.0, abrupt=True)] if dies else [])
    sink = Kept()
    world = World(open_traffic(specs), over, sink)
    run = sink.run(world.run())
    assert all(r.finished for r in run.requests)
    assert run.kv_pages_left == 0
    assert world.pool is not None
    assert not world.pool.kept
    for cache in world.pool.caches:
        assert (cache.used, cache.users) == (0, {})
        assert len(cache.kept) <= pages
    moves = run.outside[run.outside[:, 0] == Outside.MOVE]
    if bandwidth:
        span_s = moves[:, 2].max(initial=0) - moves[:, 1].min(initial=0)
        assert moves[:, 3].sum() <= bandwidth * span_s * (1 + 1e-9)
    if not both and not dies:  # all keys and values of a context, each time it comes: with preemption again, with what it had emitted
        once = sum(r.spec.prompt_tokens * KV for r in run.requests if r.spec.output_tokens > 1)
        assert moves[:, 3].sum() >= once
        assert moves[:, 3].sum() == once or run.preemptions


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), patience_s=st.sampled_from([0.2, 1.0, 4.0]), bandwidth=st.sampled_from([30.0, 3000.0]))
def test_who_leaves_leaves_nothing_behind(seed: int, patience_s: float, bandwidth: float) -> None:
    """In the queue, on a worker, on the way, in the batch."""
    luck = np.random.default_rng(seed)
    specs = [text(i, int(luck.integers(1, 30)), int(luck.integers(2, 20)), at, int(luck.integers(1, 4))) for i, at in enumerate(_times(luck, 25))]
    over = pooled(PrefillPool(prices(0.05, 0.01), 18, Lru(), bandwidth), 2, 0.01, cache=Lru(), kv_pages=18, page_tokens=4, max_batch=4)
    impatience = Impatience.model_validate({"patience_s": patience_s, "stop_share": 0.3, "timeout": {"seconds": 3 * patience_s, "retries": 1}})
    sink = Kept()
    world = World(replace(open_traffic(specs), senders=Senders(impatience, {}, 0, 0, 1)), over, sink)
    run = sink.run(world.run())
    assert all(r.finished or r.ending for r in run.requests)
    world.env.run(until=world.env.now + 1000)  # what is under way comes to its end
    assert world.pool is not None
    assert not world.pool.kept
    assert world.pool.free == {0, 1}
    for kv in (*world.pool.caches, world.replicas[0].kv):
        assert kv.used == 0
    assert world.replicas[0].held == 0


def _times(luck: np.random.Generator, n: int) -> Sequence[float]:
    return np.cumsum(luck.exponential(0.6, n)).tolist()

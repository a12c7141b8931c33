"""The prefix cache: hit rates against a computation that knows no cache, pages that are never lost, and what speculation costs it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine.pages import CopyingCache, PrefixCache, prefix_cache
from simulator.policies.prefix_cache import Lru, PrefixCaching, SglangCache, VllmCache
from simulator.traffic.content import Content, Hashed, Lineage, hashed_prompts
from simulator.traffic.prefix_blocks import chained, seen_before
from simulator.traffic.request import Request, RequestSpec

RULES = [
    Lru(), VllmCache(), SglangCache(), Lru(unnamed_tokens=5), Lru(hit_unit_tokens=8), VllmCache(hit_unit_tokens=8), Lru(keeps_copies=True),
    VllmCache(keeps_copies=True),
]  # fmt: skip


def cache(capacity: int | None, page: int = 4, rule: PrefixCaching | None = None, speculates: bool = False) -> PrefixCache:
    return prefix_cache(capacity, page, rule or Lru(), speculates)


def asking(content: Content, prompt: int, output: int = 1) -> Request:
    return Request(RequestSpec(0, 0.0, prompt, output, "", 0, content))


def played(kv: PrefixCache, request: Request, whole: bool = False) -> int:
    """Blocks found by a request that is alone, and leaves its prompt behind: all of it, or but for a last token that would fill a block, whose
    computation beside the block that is there takes a page for a while."""
    full = (request.spec.prompt_tokens - (not whole)) // kv.page_tokens
    assert kv.admit(request, full)
    found = request.named
    kv.computed(request, full * kv.page_tokens)
    kv.leave(request, full)
    return found


def by_stack_distance(chains: Sequence[Sequence[int]], capacities: Sequence[int]) -> list[int]:
    """Hits of an LRU cache of every size at once: a block is there if fewer others were used since it was (Mattson et al., 1970). A request uses its
    blocks from the last to the first, so that no block outlives the one before it."""
    size = sum(map(len, chains)) + 1
    tree, last, hits, clock, distinct = [0] * (size + 1), {}, [0] * len(capacities), 0, 0

    def add(at: int, what: int) -> None:
        while at <= size:
            tree[at] += what
            at += at & -at

    def upto(at: int) -> int:
        total = 0
        while at:
            total += tree[at]
            at -= at & -at
        return total

    for chain in chains:
        distances = [distinct - upto(last[block]) if block in last else np.inf for block in chain]
        for place, capacity in enumerate(capacities):
            hits[place] += next((i for i, distance in enumerate(distances) if distance >= capacity), len(chain))
        for block in reversed(chain):
            if block in last:
                add(last[block], -1)
                distinct -= 1
            clock += 1
            last[block] = clock
            add(clock, 1)
            distinct += 1
    return hits


def hits_of(ids: Sequence[Sequence[int]], prompts: Sequence[int], tokens: int, capacity: int | None) -> int:
    return sum(hits_by_request(ids, prompts, tokens, capacity))


def hits_by_request(ids: Sequence[Sequence[int]], prompts: Sequence[int], tokens: int, capacity: int | None) -> list[int]:
    blocks = np.array([len(row) for row in ids])
    contents = hashed_prompts(np.concatenate([np.array(row, dtype=np.int64) for row in ids]), blocks, np.array(prompts), tokens)
    kv = cache(capacity, tokens)
    return [played(kv, asking(contents.of(row), prompt), capacity is None) for row, prompt in enumerate(prompts)]


@given(st.data())
def test_hits_are_those_of_stack_distances(data: st.DataObject) -> None:
    tree = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=40))
    names: dict[tuple[int, ...], int] = {}
    ids = [[names.setdefault(tuple(path[: i + 1]), len(names)) for i in range(len(path))] for path in tree]
    prompts = [8 * len(row) + 1 for row in ids]  # the last token is never cached: here it is in no block
    capacities = [6, 8, 12, 30, 1000]
    assert [hits_of(ids, prompts, 8, capacity) for capacity in capacities] == by_stack_distance(ids, capacities)


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=30))
def test_ids_stand_for_all_up_to_their_block(rows: list[list[int]]) -> None:
    """Whatever the file's do: [1, 2] and [3, 2] share nothing, [7, 7] has two blocks. Those that do already stay as they are."""
    blocks, flat = np.array(list(map(len, rows))), np.array([one for row in rows for one in row], dtype=np.int64)
    found = chained(blocks, flat)
    names = [tuple(found[end - size : end].tolist()) for size, end in zip(blocks, np.cumsum(blocks), strict=True)]
    prefixes = {(i, depth): tuple(row[: depth + 1]) for i, row in enumerate(rows) for depth in range(len(row))}
    by_name: dict[int, set[tuple[int, ...]]] = {}
    for (i, depth), prefix in prefixes.items():
        by_name.setdefault(names[i][depth], set()).add(prefix)
    assert all(len(meant) == 1 for meant in by_name.values())
    assert len(by_name) == len(set(prefixes.values()))
    assert (chained(blocks, found) == found).all()


def test_hits_on_mooncakes_conversations(shared: Path) -> None:
    file = shared / "traffic" / "mooncake_fast25" / "conversation_trace.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    prompts = [row["input_length"] for row in rows]
    ids = [row["hash_ids"] for row in rows]
    chains = [row[: (prompt - 1) // 512] for row, prompt in zip(ids, prompts, strict=True)]
    capacities = [500, 2000, 8000, 30_000, 200_000]
    assert [hits_of(ids, prompts, 512, capacity) for capacity in capacities] == by_stack_distance(chains, capacities)
    blocks, flat = np.array(list(map(len, ids))), np.concatenate([np.array(row) for row in ids])
    infinite = np.minimum(seen_before(blocks, flat, np.arange(len(ids))), (np.array(prompts) - 1) // 512).sum()
    assert hits_of(ids, prompts, 512, None) == infinite
    assert infinite / blocks.sum() == pytest.approx(0.366, abs=0.001)  # ../shared/traffic/README.md


@pytest.mark.parametrize(("million_tokens", "replayed"), [(0.256, 0.045), (1, 0.056), (4, 0.188), (16, 0.356), (None, 0.398)])
def test_hits_on_mooncakes_conversations_are_those_of_another_replay(million_tokens: float | None, replayed: float, shared: Path) -> None:
    """Cached tokens of the last half of the requests, as llmtrafficlens 0.12.0 reports them for this file (pypi.org/project/llmtrafficlens; by its
    page, kvcache-simulator of the trace's authors has the same ceiling): equal to a fifth of a point."""
    file = shared / "traffic" / "mooncake_fast25" / "conversation_trace.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    prompts = [row["input_length"] for row in rows]
    capacity = None if million_tokens is None else int(million_tokens * 1e6 / 512)
    hits = hits_by_request([row["hash_ids"] for row in rows], prompts, 512, capacity)
    half = len(rows) // 2
    assert 512 * sum(hits[half:]) / sum(prompts[half:]) == pytest.approx(replayed, abs=0.002)


def test_blocks_of_another_size_than_the_recorded_ones() -> None:
    long, short = Hashed((7, 8), 512, 1000, 1), Hashed((7,), 512, 512, 2)
    assert long.names(0, 32, 16) == short.names(0, 32, 16)
    assert len(set(long.names(0, 62, 16))) == 62
    assert long.names(0, 3, 200)[:2] == short.names(0, 2, 200)
    assert long.names(0, 80, 16)[70:] == long.names(70, 80, 16)
    assert set(long.names(0, 80, 16)[62:]).isdisjoint(Hashed((7, 8), 512, 1000, 3).names(62, 80, 16))  # answers are their own


def test_a_text_that_another_one_leaves() -> None:
    main, call = Lineage((1, 5), (10,)), Lineage((1, 5, 6), (10, 22))
    assert main.names(0, 2, 4) == Lineage((1, 9), (10,)).names(0, 2, 4)
    assert main.names(2, 3, 4) != Lineage((1, 9), (10,)).names(2, 3, 4)  # tokens 8 and 9 are the system's, 10 and 11 are not
    assert main.names(0, 5, 4) == call.names(0, 5, 4)
    assert main.names(5, 6, 4) != call.names(5, 6, 4)
    assert len(set(call.names(0, 50, 4))) == 50


def check(kv: PrefixCache, running: dict[Request, int]) -> None:
    """No page is lost, none used twice, and none in use evicted."""
    assert kv.unowned(running) == 0
    assert kv.capacity is None or kv.used + len(kv.kept) <= kv.capacity
    assert not kv.users.keys() & kv.kept.keys()
    assert min(kv.users.values(), default=1) > 0
    uses: dict[int, int] = {}
    for request in running:
        assert request.spec.content is not None
        names = request.spec.content.names(0, request.named, kv.page_tokens)
        blocks = kv.held[request] if isinstance(kv, CopyingCache) else names
        assert not isinstance(kv, CopyingCache) or [kv.name_of[copy] for copy in blocks] == list(names)
        for block in blocks:
            uses[block] = uses.get(block, 0) + 1
    assert uses == kv.users
    if isinstance(kv, CopyingCache):
        assert {copy: name for name, copies in kv.copies.items() for copy in copies} == kv.name_of
        assert kv.name_of.keys() == kv.users.keys() | kv.kept.keys()


@given(
    capacity=st.one_of(st.none(), st.integers(5, 30)), rule=st.sampled_from(RULES),
    speculates=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_pages_are_free_or_in_use_or_kept(capacity: int | None, rule: PrefixCaching, speculates: bool, seed: int) -> None:
    luck = np.random.default_rng(seed)
    kv = prefix_cache(capacity, 4, rule, speculates)
    running: dict[Request, int] = {}
    for _ in range(60):
        if running and luck.random() < 0.5:
            request = list(running)[int(luck.integers(len(running)))]
            if luck.random() < 0.3:  # it decodes into a new page
                if kv.fits(1):
                    kv.take(1)
                    running[request] += 1
            else:
                if luck.random() < 0.8:
                    kv.computed(request, int(luck.integers(4 * running[request] + 1)))
                if luck.random() < 0.6:
                    kv.leave(request, running.pop(request))
        else:
            system, own = int(luck.integers(3)), 3 + int(luck.integers(6))
            request = asking(Lineage((system, own), (int(luck.integers(12)),)), int(luck.integers(1, 40)))
            pages = kv.pages(request.spec.prompt_tokens + 1)
            before, room = kv.used, kv.fits(pages)
            if kv.admit(request, pages):
                running[request] = pages
                assert request.cached_tokens < request.spec.prompt_tokens
            else:
                assert not room  # what is kept never keeps one out
                assert (kv.used, request.named) == (before, 0)
        check(kv, running)
    for request, pages in list(running.items()):
        kv.leave(request, pages)
        del running[request]
        check(kv, running)
    assert kv.used == 0


def test_the_least_recently_used_goes_first_and_of_one_request_the_last() -> None:
    kv = cache(6)
    first, second = Lineage((1,)), Lineage((2,))
    played(kv, asking(first, 13))
    played(kv, asking(second, 13))
    assert kv.matched(asking(first, 13)) == 3
    assert played(kv, asking(first, 9)) == 2  # its third block is now the oldest of all
    third = asking(Lineage((3,)), 5)
    played(kv, third)
    assert (kv.matched(asking(first, 13)), kv.matched(asking(second, 13)), kv.evictions) == (2, 3, 1)
    busy = asking(second, 13)
    assert kv.admit(busy, 4)
    assert not kv.admit(asking(Lineage((4,)), 17), 5)  # 2 pages are not in use
    assert kv.admit(asking(Lineage((4,)), 5), 2)
    assert kv.matched(asking(second, 13)) == 3


def test_what_two_compute_at_once_is_kept_once() -> None:
    kv, one, two = cache(10), asking(Lineage((1,)), 13), asking(Lineage((1,)), 13)
    assert kv.admit(one, 4)
    assert kv.admit(two, 4)
    assert (one.cached_tokens, two.cached_tokens, kv.used) == (0, 0, 8)
    kv.computed(one, 12)
    kv.computed(two, 8)
    assert kv.used == 6
    kv.leave(one, 4)
    kv.leave(two, 4)
    assert (kv.used, len(kv.kept)) == (0, 3)


@pytest.mark.parametrize("unit", [16, 64, 2144])
@pytest.mark.parametrize("prompt", [1, 15, 16, 17, 2144, 2145, 4289, 9000, 25_000])
def test_hits_of_vllm_with_a_hybrid_cache(unit: int, prompt: int) -> None:
    """vllm issue 54360: with a drafter that reads features a repeated prompt of L tokens hits max(0, ⌊(L − 1) ÷ u⌋ − 1) · u."""
    kv = cache(None, unit, VllmCache(), speculates=True)
    played(kv, asking(Lineage((1,)), prompt))
    again = asking(Lineage((1,)), prompt)
    kv.admit(again, kv.pages(prompt))
    assert again.cached_tokens == max(0, (prompt - 1) // unit - 1) * unit
    plain = replace(kv, speculates=False)
    assert plain.matched(asking(Lineage((1,)), prompt)) == (prompt - 1) // unit


def test_hits_that_are_aligned_to_more_than_a_block() -> None:
    """vllm-ascend issue 9247: of a repeated prompt 32,768 tokens are there; the drop of a block and an alignment to 16,384 halve the hit."""
    for rule, speculates, hit in ((VllmCache, False, 32_768), (VllmCache, True, 16_384), (Lru, True, 32_768)):
        kv = cache(None, 128, rule(hit_unit_tokens=16_384), speculates)
        played(kv, asking(Lineage((1,)), 32_769))
        assert kv.matched(asking(Lineage((1,)), 32_769)) * 128 == hit

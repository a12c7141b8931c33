"""Sessions and prefix caches on both paths: the same rows in the same order, to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.engine.simulate import Fleet, OpenTraffic, SessionTraffic, simulate
from simulator.errors import TraceError
from simulator.policies.prefill import Chunked, Disaggregated, Instant, Separate
from simulator.policies.prefix_cache import Lru, PrefixCaching, SglangCache, VllmCache
from simulator.traffic.content import hashed_prompts
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.recorded_sessions import RecordedSource
from simulator.traffic.request import RequestColumns
from simulator.traffic.sessions import Sessions
from tests.engine.random_worlds import fleets
from tests.engine.test_compiled import MANY, same
from tests.engine.test_sessions import FIXED, VARIED, served, traffic

CACHES: list[PrefixCaching | None] = [
    None, Lru(), Lru(answers=False), VllmCache(), VllmCache(hit_unit_tokens=8), SglangCache(), Lru(unnamed_tokens=3, recomputed_blocks=2),
]  # fmt: skip


def cached(over: Fleet, rule: PrefixCaching | None, pages: int, chunk: int, context: int | None) -> Fleet:
    """The fleet with a cache in little memory, and prompts on the replicas."""
    prefill = Chunked(token_budget=chunk) if chunk % 2 else Separate(max_tokens=chunk)
    settled = over.settings.model_copy(update={"prefill": prefill})
    return replace(over, settings=settled, prefix_cache=rule, kv_pages=pages, page_tokens=4, max_context=context)


@settings(MANY, max_examples=200)
@given(
    over=fleets(), rule=st.sampled_from(CACHES), pages=st.integers(15, 120), chunk=st.integers(5, 80), context=st.sampled_from([None, 60, 150]),
    seed=st.integers(0, 10**6), loop=st.booleans(), until_s=st.sampled_from([0.5, 2.0]), drain_s=st.sampled_from([0.1, 20.0]),
)  # fmt: skip
def test_sessions(
    over: Fleet, rule: PrefixCaching | None, pages: int, chunk: int, context: int | None, seed: int, loop: bool, until_s: float, drain_s: float
) -> None:
    luck = np.random.default_rng(seed)
    source = SessionSource(Sessions.model_validate(VARIED if seed % 3 else FIXED), seed, 0)
    starts_s, under_way = (np.zeros(6), luck.random(6)) if loop else (np.cumsum(luck.exponential(0.1, 15)), None)
    same(SessionTraffic(source, starts_s, 0.2, until_s, drain_s, under_way), cached(over, rule, pages, chunk, context))


@settings(MANY, max_examples=40)
@given(over=fleets(), seed=st.integers(0, 10**6), prefill=st.sampled_from([Instant(), Disaggregated(workers=1, transfer_s=0.1)]))
def test_sessions_whose_prompts_are_processed_elsewhere(over: Fleet, seed: int, prefill: Any) -> None:
    over = replace(over, settings=over.settings.model_copy(update={"prefill": prefill}))
    source = SessionSource(Sessions.model_validate(VARIED), seed, 0)
    same(SessionTraffic(source, np.arange(8) * 0.07, 0.2, 1.0, 5.0), over)


@settings(MANY, max_examples=120)
@given(
    over=fleets(), rule=st.sampled_from(CACHES[1:]), pages=st.integers(20, 90), chunk=st.integers(5, 80), seed=st.integers(0, 10**6),
    tokens=st.sampled_from([4, 6, 16]),
)  # fmt: skip
def test_traces_with_contents(over: Fleet, rule: PrefixCaching, pages: int, chunk: int, seed: int, tokens: int) -> None:
    luck = np.random.default_rng(seed)
    names: dict[tuple[int, ...], int] = {}
    paths = [luck.integers(0, 2, luck.integers(1, 6)).tolist() for _ in range(30)]
    ids = [[names.setdefault(tuple(path[: i + 1]), len(names)) for i in range(len(path))] for path in paths]
    blocks = np.array([len(row) for row in ids])
    prompts = blocks * tokens - luck.integers(0, tokens, 30)
    contents = hashed_prompts(np.array([name for row in ids for name in row]), blocks, prompts, tokens)
    zeros = np.zeros(30, dtype=np.int64)
    columns = RequestColumns(np.arange(30), np.cumsum(luck.exponential(0.05, 30)), prompts, luck.integers(1, 9, 30), zeros, zeros, ("",), contents)
    same(OpenTraffic(columns, 0.0, 1.0, 1e6), cached(over, rule, pages, chunk, None))


def rows_of_sessions(seed: int, hashed: bool, forks: bool) -> list[dict[str, Any]]:
    """Sessions as a file has them: requests with parents, prompts that begin with all before them, and hashes of blocks of 4 tokens."""
    luck, names = np.random.default_rng(seed), {}
    rows: list[dict[str, Any]] = []
    for session in range(12):
        at_s, texts = float(luck.exponential(0.1) * session), [(1, 2, 3, 4, 5)[: int(luck.integers(0, 6))]]  # some begin alike
        for turn in range(int(luck.integers(1, 5))):
            parent = int(luck.integers(0, turn)) if forks and turn else turn - 1
            prompt = (*texts[parent + 1], *luck.integers(6, 10**6, int(luck.integers(1, 12))).tolist())
            output = int(luck.integers(1, 9))
            texts.append((*prompt, *luck.integers(10**6, 10**9, output).tolist()))
            row = {
                "request": f"{session}.{turn}", "parent": f"{session}.{parent}" if turn else None, "arrival_s": at_s if not turn else None,
                "pause_s": float(luck.exponential(0.1)) if luck.random() < 0.8 else None, "prompt_tokens": len(prompt), "output_tokens": output,
            }  # fmt: skip
            ids = [names.setdefault(prompt[:end], len(names)) for end in range(4, len(prompt) + 4, 4)]
            rows.append(row | ({"hash_ids": ids} if hashed else {}))
    return rows


def with_calls(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same with calls of some turns, one or two after one another, for which the turn after them waits."""
    luck, calls = np.random.default_rng(seed), list[dict[str, Any]]()
    heirs = {row["parent"]: row["request"] for row in rows}
    for row in rows:
        row |= {"call": 0, "joins": None}
        for number in range(int(luck.integers(0, 3))):
            before = row["request"]
            for depth in range(int(luck.integers(1, 3))):
                name, prompt = f"{row['request']}:{number}.{depth}", int(luck.integers(1, 12)) + 24 * depth
                call = row | {"request": name, "parent": before, "call": 1, "prompt_tokens": prompt, "arrival_s": None, "pause_s": 0.05}
                if "hash_ids" in row:
                    call["hash_ids"] = luck.integers(10**9, 10**12, -(-prompt // 4)).tolist()
                calls.append(call)
                before = name
            calls[-1]["joins"] = heirs.get(row["request"])
    return rows + calls


def recorded(tmp_path: Path, rows: list[dict[str, Any]], arrivals: str) -> RecordedSource:
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys: dict[str, Any] = {"path": tmp_path / "s.jsonl"} | ({"block_tokens": 4} if "hash_ids" in rows[0] else {"hash_ids": False})
    if any(row["parent"] and row["pause_s"] is None for row in rows):
        keys["think_s"] = 0.1
    sessions = Sessions.model_validate({"recorded": keys, "arrivals": {"kind": arrivals}})
    source = sessions.source(3, 0, ("",), np.zeros_like)
    assert isinstance(source, RecordedSource)
    return source


@settings(MANY, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    over=fleets(), rule=st.sampled_from(CACHES), pages=st.integers(15, 120), chunk=st.integers(5, 80), context=st.sampled_from([None, 60]),
    seed=st.integers(0, 10**6), hashed=st.booleans(), kind=st.sampled_from(["recorded", "poisson", "closed_loop"]), calls=st.booleans(),
)  # fmt: skip
def test_recorded_sessions(
    tmp_path: Path, over: Fleet, rule: PrefixCaching | None, pages: int, chunk: int, context: int | None, seed: int, hashed: bool, kind: str,
    calls: bool,
) -> None:  # fmt: skip
    rows = rows_of_sessions(seed, hashed, forks=kind != "closed_loop" and not calls)
    rows = with_calls(rows, seed) if calls else rows
    try:
        source = recorded(tmp_path, rows, kind)
    except TraceError as error:
        assert "fork more than twice" in str(error) and not hashed  # noqa: PT017, PT018
        return
    luck = np.random.default_rng(seed)
    starts_s = (
        np.asarray(source.recorded.starts_s) if kind == "recorded" else np.cumsum(luck.exponential(0.1, 30)) if kind == "poisson" else np.zeros(6)
    )
    under_way = luck.random(6) if kind == "closed_loop" else None
    same(SessionTraffic(source, starts_s, 0.2, 1.5, 20.0, under_way), cached(over, rule, pages, chunk, context))


@pytest.mark.parametrize("hashed", [True, False])
def test_recorded_sessions_alone_find_all_that_was_said(tmp_path: Path, hashed: bool) -> None:
    """Blocks of 4: of what the request before left, prompt and answer without its last token, all that are whole."""
    source = recorded(tmp_path, rows_of_sessions(8, hashed, False), "recorded")
    run = simulate(traffic(source, [1000.0 * number for number in range(12)], until_s=1e5), served(4000))
    assert run.path == "compiled"
    for number in range(12):
        specs = source.session(number)
        held = [(before.prompt_tokens + before.output_tokens - 1) // 4 * 4 for before in specs[:-1]]
        found = [r.spec.cached_prompt_tokens for r in run.requests if r.user == number]
        assert found[1:] == held
        assert found[0] == 0 or hashed  # what sessions of a file share


def test_what_is_played_in_python_says_why() -> None:
    source = SessionSource(Sessions.model_validate(FIXED), 0, 0)
    run = simulate(traffic(source, [0.0]), served())
    assert (run.path, run.why_plain) == ("plain", "a prefix cache whose memory has no end is played in Python")
    assert simulate(traffic(source, [0.0]), served(100)).path == "compiled"


@pytest.mark.parametrize("capacity", [None, 60])
def test_a_session_that_is_refused_is_over(capacity: int | None) -> None:
    source = SessionSource(Sessions.model_validate(VARIED), 5, 0)
    over = replace(served(capacity, prefix_cache=Lru() if capacity else None), max_context=90)
    run = simulate(traffic(source, [0.0] * 8, until_s=10.0, under_way=[0.0] * 8), over)
    refused = [r for r in run.requests if r.rejected]
    assert refused
    assert run.unfinished == 0

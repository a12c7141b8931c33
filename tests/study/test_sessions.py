"""Sessions and a prefix cache from a scenario to its page, and what is said of mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simulator.study.run.reuse import Reuse, together
from simulator.traffic.counts import FixedCount, GeometricCount, UniformCount
from simulator.traffic.drawn_sessions import SessionSource
from simulator.traffic.sessions import Sessions
from tests.conftest import SCENARIO, Content, Dsim

SESSIONS: Content = {
    "arrivals": {"kind": "closed_loop"},
    "turns": {"kind": "geometric", "mean": 4},
    "new_tokens": {"kind": "fixed", "tokens": 60},
    "output_tokens": {"kind": "fixed", "tokens": 20},
    "think_s": 0.5,
    "system": {"count": 2, "tokens": {"kind": "fixed", "tokens": 100}},
}
WORKLOAD: Content = {"sessions": SESSIONS, "domains": {"chat": 1}}
ENGINE: Content = {"max_batch": 8, "prefill": {"kind": "chunked"}, "prefix_cache": {"kind": "vllm"}, "kv_tokens": 2400}
RUN: Content = {"replications": 2, "warmup_s": 2, "duration_s": 8}


@pytest.fixture
def with_prompts(edit_profile: Callable[[Callable[[Content], object]], None]) -> None:
    """Prompts have a cost."""
    edit_profile(lambda c: c["costs"].update(prefill={"provenance": "synthetic", "kind": "linear", "base_s": 0.001, "per_token_s": 1e-4}))


@pytest.mark.parametrize("changes, wrong", [
    ({"workload": WORKLOAD | {"sessions": SESSIONS | {"think_s": -1}}}, "workload.sessions.think_s"),
    ({"workload": WORKLOAD | {"sessions": SESSIONS | {"turns": 0}}}, "workload.sessions.turns"),
    ({"workload": WORKLOAD | {"sessions": SESSIONS | {"turns": {"kind": "uniform", "least": 3, "most": 2}}}}, "expected most of at least 3, got 2"),
    ({"workload": WORKLOAD | {"trace": {"path": "t.csv"}}}, "expected one source of traffic, got trace and sessions"),
    ({"workload": WORKLOAD | {"arrivals": {"kind": "poisson"}}}, "sessions have its own"),
    ({"workload": WORKLOAD | {"max_concurrency": 4}}, "max_concurrency cannot hold it back"),
    ({"workload": SCENARIO["workload"]}, "engine.prefix_cache: needs requests that say what their prompts begin with"),
    ({"engine": ENGINE | {"prefill": {"kind": "instant"}}}, "use {kind: chunked} or {kind: separate}"),
    ({"engine": ENGINE | {"prefix_cache": {"kind": "vlm"}}}, "engine.prefix_cache"),
    ({"run": {"replications": 2}}, "sessions have no end: give run.duration_s"),
    ({"load": [2.5]}, "load counts users"),
    ({"workload": SCENARIO["workload"], "engine": {"prefill": {"kind": "chunked"}}, "fleet": {"replicas": 2, "routing": {"kind": "prefix_aware"}}},
     "prefix_aware needs requests of sessions"),
])  # fmt: skip
def test_mistakes_are_one_line(scenario: Callable[..., Path], with_prompts: None, dsim: Dsim, changes: Content, wrong: str) -> None:
    told = dsim("run", scenario(**({"workload": WORKLOAD, "engine": ENGINE, "run": RUN, "sla": {}} | changes)), "--out", "out")
    assert (told.code, wrong in told.err, told.err.count("\n")) == (2, True, 1), told.err
    assert not Path("out").exists()


def test_a_trace_that_is_to_be_played_wants_a_cache(scenario: Callable[..., Path], with_prompts: None, dsim: Dsim) -> None:
    rows = [{"timestamp": 100 * i, "input_length": 1100, "output_length": 9, "hash_ids": [1, 2, 3 + i % 3]} for i in range(60)]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = {"trace": {"path": "t.jsonl", "prefix_cache": "simulated"}, "domains": {"chat": 1}}
    run = {"replications": 1, "warmup_s": 1}
    told = dsim("run", scenario(workload=trace, engine={"prefill": {"kind": "chunked"}}, load=[1], run=run, sla={}), "--out", "out")
    assert (told.code, "workload.trace.prefix_cache: simulated, but the engine has no prefix cache" in told.err) == (2, True), told.err
    engine = {"prefill": {"kind": "chunked"}, "prefix_cache": {"kind": "lru"}}
    assert dsim("run", scenario(workload=trace, engine=engine, load=[1], run=run, sla={}), "--out", "out").code == 0
    share = pd.read_csv("out/points.csv")["prefix_hit_share"]
    assert (share > 0.9).all()  # 1,088 of 1,100 tokens, once all three are there
    told = dsim("run", scenario(workload=trace, engine=engine | {"kv_tokens": 1200}, load=[1], run=run, sla={}), "--out", "less")
    assert told.code == 0
    assert (pd.read_csv("less/points.csv")["prefix_hit_share"] < share - 0.01).all()  # two of three fall out in between: 1,024 tokens at best


def test_from_a_scenario_to_its_page(scenario: Callable[..., Path], with_prompts: None, dsim: Dsim) -> None:
    path = scenario(workload=WORKLOAD, engine=ENGINE, run=RUN, sla={}, load=[2, 8])
    told = dsim("run", path, "--out", "out")
    assert told.code == 0, told.err
    result = json.loads(Path("out/result.json").read_text())
    turns = [row for row in result["frontier"][0]["reuse"] if row["by"] == "turn"]
    assert [row["start"] for row in turns][:3] == [0, 1, 2]
    assert turns[0]["said"] == 0
    assert turns[1]["said"] == 180 * turns[1]["requests"]  # system prompt, message and answer
    assert turns[1]["withheld"] <= 32 * turns[1]["requests"]
    assert 0.5 < sum(row["cached"] for row in turns) / sum(row["prompt"] for row in turns) < 1
    assert any(row["by"] == "time" for row in result["frontier"][0]["reuse"])
    page = Path("out/report.md").read_text()
    assert "## Prefix cache" in page
    assert "evicted or elsewhere" in page
    assert "Prefix cache: vllm" in page
    assert {"prefix_cache.png", "by_turn.png"} <= {file.name for file in Path("out").rglob("*.png")} or "prefix_cache" in page
    with_more = scenario("more.yaml", workload=WORKLOAD, engine=ENGINE | {"kv_tokens": 24_000}, run=RUN, sla={}, load=[8])
    assert dsim("run", with_more, "--out", "more").code == 0
    little, much = (pd.read_csv(f"{out}/points.csv").query("load == 8 and policy == 'plain'")["prefix_hit_share"].mean() for out in ("out", "more"))
    assert little < much


def test_answers_that_are_cut_are_counted(scenario: Callable[..., Path], with_prompts: None, dsim: Dsim) -> None:
    """Prompts of 100, 180, 260, … tokens and answers of 20: all fit in 285 tokens, and in 270 the last answer does not."""
    fixed: Content = SESSIONS | {"turns": 3, "system": {"count": 1, "tokens": {"kind": "fixed", "tokens": 40}}}
    for most, cut in ((285, False), (270, True)):
        workload, engine = WORKLOAD | {"sessions": fixed}, ENGINE | {"max_context_tokens": most}
        assert dsim("run", scenario(workload=workload, engine=engine, run=RUN, sla={}, load=[4]), "--out", f"out{most}").code == 0
        assert bool(pd.read_csv(f"out{most}/points.csv")["truncated"].sum()) is cut


def test_recorded_sessions_from_a_file_to_the_page(scenario: Callable[..., Path], with_prompts: None, dsim: Dsim) -> None:
    """Three turns of 60 new tokens and answers of 20: the same prompts as those that are drawn."""
    first: list[Content] = [{"session_id": f"s{n}", "timestamp": 250 * n, "input_length": 60, "output_length": 20} for n in range(48)]
    rows = [row for one in first for row in (one, *({"delay": 400} | {k: v for k, v in one.items() if k != "timestamp"} for _ in range(2)))]
    Path("s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded: Content = {"sessions": {"recorded": {"path": "s.jsonl"}, "arrivals": {"kind": "recorded"}}, "domains": {"chat": 1}}
    run: Content = {"replications": 1, "warmup_s": 2, "duration_s": 8}
    content: Content = {"workload": recorded, "engine": ENGINE | {"kv_tokens": 24_000}, "run": run, "sla": {}, "load": [1]}
    told = dsim("run", scenario(**content), "--out", "out")
    assert told.code == 0, told.err
    turns = [row for row in json.loads(Path("out/result.json").read_text())["frontier"][0]["reuse"] if row["by"] == "turn"]
    assert [(row["said"], row["prompt"]) for row in turns] == [(80 * turn * row["requests"], (80 * turn + 60) * row["requests"])
                                                               for turn, row in enumerate(turns)]  # fmt: skip
    assert all(30 <= row["requests"] <= 34 for row in turns)  # of 4 sessions a second for 8 s
    page = Path("out/report.md").read_text()
    assert "48 sessions of 3 requests that begin over 11.75 s, AIPerf, 0.4 s between turns" in page
    assert "times the recorded rate of sessions" in page
    fast = dsim("run", scenario("fast.yaml", **(content | {"load": [8]})), "--out", "fast")
    assert (fast.code, "at load 8 the last session begins after 1.469 s" in fast.err, fast.err.count("\n")) == (2, True, 1), fast.err
    Path("s.jsonl").write_text("".join(json.dumps(row | {"delay": -1}) + "\n" for row in rows))
    wrong = dsim("run", scenario(**content), "--out", "wrong")
    assert (wrong.code, "s.jsonl:2: delay: comes 0.001 s before" in wrong.err, wrong.err.count("\n")) == (2, True, 1), wrong.err


def test_counts_have_their_means() -> None:
    u = (np.arange(200_000) + 0.5) / 200_000
    assert set(FixedCount(count=7).at(u)) == {7}
    assert UniformCount(least=2, most=5).at(u).mean() == pytest.approx(3.5)
    assert GeometricCount(mean=8).at(u).mean() == pytest.approx(8, rel=1e-3)
    assert set(GeometricCount(mean=1).at(u)) == {1}
    assert GeometricCount(mean=1000).at(u).max() == 1000


def test_a_session_has_an_end() -> None:
    three = {"kind": "fixed", "tokens": 3}
    fan_out = {"share": 1, "calls": 900, "new_tokens": three, "output_tokens": three}
    huge = SESSIONS | {"turns": 1000, "fan_out": fan_out}
    specs = SessionSource(Sessions.model_validate(huge), 0, 0).session(1)
    assert len(specs) <= 4096
    last = specs[-1].place
    assert last is not None
    assert last.count == 0
    assert all(spec.place is not None and spec.place.then + spec.place.count <= len(specs) for spec in specs if spec.place and spec.place.count)


def test_reuse_is_added_up() -> None:
    rows = []
    for start in (0.0, 0.0):
        reuse = Reuse(start, 10.0)
        names = ("turn", "sent_s", "first_token_s", "prompt_tokens", "said_tokens", "cached_prompt_tokens", "withheld_tokens")
        table = np.array([[0, 1, 1.5, 100, 0, 0, 0], [1, 2, 2.25, 200, 110, 96, 14], [5, 9, 9.5, 400, 300, 0, 4]], dtype=np.float64).T
        reuse.add(dict(zip(names, table, strict=True)))
        rows += reuse.rows()
    total = together(rows)
    turns = [row for row in total if row.by == "turn"]
    assert [(row.start, row.requests, row.prompt, row.lost) for row in turns] == [(0, 2, 200, 0), (1, 2, 400, 0), (4, 2, 800, 592)]
    assert sum(row.requests for row in total if row.by == "time") == 6

"""The workload: what it yields, and that nothing but seed, replication and request moves a draw."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.errors import ScenarioError, TraceError
from simulator.traffic.pauses import ExponentialPause
from simulator.traffic.request import RequestColumns, RequestSpec
from simulator.traffic.workload import Workload

LENGTHS = {
    "prompt_tokens": {"kind": "lognormal", "mean_tokens": 1155, "p50_tokens": 1020},
    "output_tokens": {"kind": "lognormal", "mean_tokens": 211, "p50_tokens": 129},
}
MIX: dict[str, Any] = {"domains": {"math": 1, "chat": 3}}


def workload(kind: str = "poisson", **more: Any) -> Workload:
    return Workload.model_validate({"arrivals": {"kind": kind}, **LENGTHS, **more})


def traced(folder: Path, header: str = "", rows: tuple[str, ...] = ("0,10,1", "2,20,2", "6,30,3"), **more: Any) -> Workload:
    (folder / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens" + header + "\n" + "\n".join(rows) + "\n")
    return Workload.model_validate({"trace": {"path": "t.csv"}, **more})


def test_the_kind_of_load_follows_the_arrivals(tmp_path: Path) -> None:
    assert workload().load_kind == "rate_rps"
    assert workload("closed_loop").load_kind == "concurrency"
    assert traced(tmp_path).load_kind == "rate_scale"


def test_an_open_loop_is_ordered_plain_and_the_same_again() -> None:
    specs = workload(**MIX).open_loop(5, 20, seed=1, replication=0)
    assert [spec.index for spec in specs] == list(range(len(specs)))
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(specs))
    assert {type(spec.prompt_tokens) for spec in specs} == {int}
    assert {type(spec.arrival_s) for spec in specs} == {float}
    assert {spec.domain for spec in specs} == {"math", "chat"}
    assert specs == workload(**MIX).open_loop(5, 20, seed=1, replication=0)
    assert specs == pickle.loads(pickle.dumps(workload(**MIX))).open_loop(5, 20, seed=1, replication=0)
    assert specs != workload(**MIX).open_loop(5, 20, seed=1, replication=1)
    assert specs != workload(**MIX).open_loop(5, 20, seed=2, replication=0)


@given(load=st.floats(0.5, 10), factor=st.floats(1.1, 5), seed=st.integers(0, 50))
def test_at_a_higher_load_the_same_requests_come_sooner(load: float, factor: float, seed: int) -> None:
    slow = workload(**MIX).open_loop(load, 10, seed, 0)
    fast = workload(**MIX).open_loop(load * factor, 10, seed, 0)
    for a, b in zip(slow, fast, strict=False):
        assert (a.index, a.prompt_tokens, a.output_tokens, a.domain) == (b.index, b.prompt_tokens, b.output_tokens, b.domain)
        assert b.arrival_s == pytest.approx(a.arrival_s / factor, rel=1e-9)


def test_one_cause_never_moves_another() -> None:
    plain = workload(**MIX).open_loop(5, 20, 1, 0)
    other_outputs = workload(**MIX | {"output_tokens": {"kind": "fixed", "tokens": 9}}).open_loop(5, 20, 1, 0)
    assert [(s.arrival_s, s.prompt_tokens, s.domain) for s in plain] == [(s.arrival_s, s.prompt_tokens, s.domain) for s in other_outputs]
    reordered = workload(domains={"chat": 30, "math": 10}).open_loop(5, 20, 1, 0)
    assert plain == reordered


def test_lengths_and_domains_have_their_distributions_and_are_independent() -> None:
    specs = workload(**MIX).open_loop(1000, 20, 1, 0)
    n = len(specs)
    prompt, output = (np.array([getattr(s, name) for s in specs], dtype=float) for name in ("prompt_tokens", "output_tokens"))
    chat = np.array([s.domain == "chat" for s in specs])
    assert abs(prompt.mean() - 1155) < 4 * prompt.std() / np.sqrt(n)
    assert abs(output.mean() - 211) < 4 * output.std() / np.sqrt(n)
    assert abs(chat.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)
    for a, b in ((prompt, output), (prompt, chat), (output, chat)):
        assert abs(np.corrcoef(np.log(a) if a is not chat else a, b)[0, 1]) < 4 / np.sqrt(n)


def test_without_domains_there_is_none_and_arrivals_need_a_horizon() -> None:
    assert {spec.domain for spec in workload().open_loop(5, 5, 1, 0)} == {""}
    with pytest.raises(ScenarioError, match="horizon_s"):
        workload().open_loop(5, None, 1, 0)


def test_a_closed_loop_knows_each_request_by_user_and_turn() -> None:
    source = workload("closed_loop", **MIX).closed_loop(7, seed=1, replication=0)
    asked = [(6, 40), (0, 0), (3, 16), (3, 15), (6, 40)]
    first = [source.spec(user, turn, 1.5) for user, turn in asked]
    again = workload("closed_loop", **MIX).closed_loop(7, seed=1, replication=0)
    assert first == [again.spec(user, turn, 1.5) for user, turn in reversed(asked)][::-1]  # whatever the order
    assert [spec.index for spec in first] == [turn * 7 + user for user, turn in asked]
    assert first[0].arrival_s == 1.5
    assert type(first[0].prompt_tokens) is int
    more = workload("closed_loop", **MIX).closed_loop(50, seed=1, replication=0)
    for user, turn in asked:  # more users: the first keep their lengths
        a, b = source.spec(user, turn, 0), more.spec(user, turn, 0)
        assert (a.prompt_tokens, a.output_tokens, a.domain) == (b.prompt_tokens, b.output_tokens, b.domain)
    other = workload("closed_loop", **MIX).closed_loop(7, seed=1, replication=1)
    assert [source.spec(u, 0, 0).prompt_tokens for u in range(7)] != [other.spec(u, 0, 0).prompt_tokens for u in range(7)]


def test_a_closed_loop_has_its_think_time_and_its_mean() -> None:
    source = Workload.model_validate({"arrivals": {"kind": "closed_loop", "think_s": 2.5}, **LENGTHS}).closed_loop(64, 1, 0)
    assert source.think_s == ExponentialPause(mean_s=2.5)
    outputs = np.array([source.spec(user, turn, 0).output_tokens for turn in range(200) for user in range(64)])
    assert abs(outputs.mean() - 211) < 4 * outputs.std() / np.sqrt(len(outputs))
    assert len(set(outputs[:64].tolist())) > 30  # users differ
    assert len(set(outputs[::64].tolist())) > 60  # turns differ


def test_a_trace_is_replayed_as_fast_as_asked(tmp_path: Path) -> None:
    specs = traced(tmp_path).open_loop(2, None, 1, 0, tmp_path)
    expected = [RequestSpec(0, 0, 10, 1, ""), RequestSpec(1, 1, 20, 2, ""), RequestSpec(2, 3, 30, 3, "")]
    assert specs == expected
    assert len(traced(tmp_path).open_loop(2, 3, 1, 0, tmp_path)) == 2  # [0, horizon)
    assert len(traced(tmp_path).open_loop(2, 3.1, 1, 0, tmp_path)) == 3


def test_a_trace_brings_domains_and_cached_tokens_or_a_mix_is_drawn(tmp_path: Path) -> None:
    rows = ("0,10,1,math,0", "2,20,2,chat,7")
    specs = traced(tmp_path, ",domain,cached_prompt_tokens", rows).open_loop(1, None, 1, 0, tmp_path)
    assert [(s.domain, s.cached_prompt_tokens) for s in specs] == [("math", 0), ("chat", 7)]
    with pytest.raises(TraceError, match=r"t\.csv: domain: .*drop the column or workload\.domains"):
        traced(tmp_path, ",domain,cached_prompt_tokens", rows, **MIX).open_loop(1, None, 1, 0, tmp_path)
    many = traced(tmp_path, rows=tuple(f"{i},10,1" for i in range(200)), **MIX)
    one, two = many.open_loop(1, None, 1, 0, tmp_path), many.open_loop(1, None, 1, 1, tmp_path)
    assert [s.arrival_s for s in one] == [s.arrival_s for s in two]
    assert [s.domain for s in one] != [s.domain for s in two]  # other luck
    assert one == many.open_loop(1, None, 1, 0, tmp_path)


@pytest.mark.parametrize(
    "content, problem",
    [
        ({}, "missing: arrivals, prompt_tokens, output_tokens"),
        ({"arrivals": {"kind": "poisson"}, "prompt_tokens": {"kind": "fixed", "tokens": 1}}, "missing: output_tokens"),
        ({"trace": {"path": "x"}, "arrivals": {"kind": "poisson"}}, "drop trace or arrivals"),
        ({"trace": {"path": "x"}, "domains": {"chat": 0}}, "above 0"),
        ({"arrivals": {"kind": "closed_loop"}, **LENGTHS, "max_concurrency": 3}, "max_concurrency goes with a rate"),
        ({"trace": {"path": "x"}, "domains": {"chat": float("inf")}}, "finite"),
    ],
)
def test_contradictions_are_refused(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Workload.model_validate(content)


def test_many_turns_at_once_are_the_turns_one_by_one() -> None:
    source = workload("closed_loop", **MIX).closed_loop(5, 3, 1)
    users, turns = np.arange(5)[:, None], np.arange(13, 40)[None, :]
    drawn = source.draw(users, turns)
    for user in range(5):
        for at, turn in enumerate(range(13, 40)):
            spec = source.spec(user, turn, 0.0)
            prompt, output, cached, domain = drawn[user, at].tolist()
            assert (prompt, output, cached, source.domains[domain]) == (spec.prompt_tokens, spec.output_tokens, 0, spec.domain)


def test_columns_are_a_list_of_requests() -> None:
    listed = [RequestSpec(i, i / 3, 5 + i, 1 + i % 4, "ab"[i % 2], i % 3) for i in range(9000)]
    columns = RequestColumns.of(listed)
    assert len(columns) == 9000
    assert columns == listed
    assert (columns[7], columns[-1]) == (listed[7], listed[-1])
    assert columns[3:6] == listed[3:6]
    assert columns[columns.domain == 1] == listed[1::2]
    assert RequestColumns.of(columns) is columns
    assert len(RequestColumns.of([])) == 0


def test_the_beginning_of_every_prompt_may_be_cached() -> None:
    specs = workload(cached_prompt_tokens=500).open_loop(5, 50, 1, 0)
    assert [s.cached_prompt_tokens for s in specs] == [min(500, s.prompt_tokens - 1) for s in specs]
    assert {s.cached_prompt_tokens for s in specs} > {500}  # some prompts are shorter
    assert replace(specs, cached_prompt_tokens=np.zeros(len(specs), dtype=np.int64)) == workload().open_loop(5, 50, 1, 0)
    source = workload("closed_loop", cached_prompt_tokens=500).closed_loop(3, 1, 0)
    assert all(s.cached_prompt_tokens == min(500, s.prompt_tokens - 1) for s in (source.spec(user, 1, 0.0) for user in range(3)))
    with pytest.raises(ValidationError, match="what is cached: drop cached_prompt_tokens"):
        Workload.model_validate({"trace": {"path": "t.csv"}, "cached_prompt_tokens": 5})

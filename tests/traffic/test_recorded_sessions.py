"""Sessions from files: the forms of others, what contradicts itself, and that turns keep their order, lengths and pauses."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.errors import TraceError
from simulator.traffic.content import Hashed
from simulator.traffic.recorded_sessions import RecordedSource
from simulator.traffic.request import RequestSpec
from simulator.traffic.sessions import Sessions
from tests.traffic.trace_rows import Row, without

OWN = [
    {"session": "a", "turn": 1, "arrival_s": 100.0, "end_s": 103.0, "prompt_tokens": 50, "output_tokens": 10},
    {"session": "b", "turn": 1, "arrival_s": 101.0, "end_s": 102.0, "prompt_tokens": 30, "output_tokens": 4},
    {"session": "a", "turn": 2, "arrival_s": 110.0, "end_s": 112.5, "prompt_tokens": 75, "output_tokens": 20},
    {"session": "a", "turn": 3, "arrival_s": 113.0, "end_s": 115.0, "prompt_tokens": 95, "output_tokens": 5},
]  # fmt: skip
AIPERF = [
    {"session_id": "a", "timestamp": 0, "input_length": 50, "output_length": 10},
    {"session_id": "a", "delay": 7000, "input_length": 15, "output_length": 20},
    {"session_id": "b", "timestamp": 1000, "input_length": 30, "output_length": 4},
    {"session_id": "a", "delay": 500, "input_length": 1, "output_length": 5},
]
BAILIAN = [
    {"chat_id": 3, "parent_chat_id": -1, "timestamp": 5.0, "input_length": 40, "output_length": 20, "type": "text", "turn": 1, "hash_ids": [1, 2, 3]},
    {"chat_id": 4, "parent_chat_id": -1, "timestamp": 6.5, "input_length": 33, "output_length": 5, "type": "text", "turn": 1, "hash_ids": [1, 2, 9]},
    {"chat_id": 7, "parent_chat_id": 3, "timestamp": 9.0, "input_length": 70, "output_length": 8, "type": "text", "turn": 2,
     "hash_ids": [1, 2, 4, 5, 6]},
]  # fmt: skip


def read(path: Path, arrivals: str = "recorded", **keys: Any) -> RecordedSource:
    found = Sessions.model_validate({"recorded": {"path": path, **keys}, "arrivals": {"kind": arrivals}})
    source = found.source(3, 1, ("",), np.zeros_like)
    assert isinstance(source, RecordedSource)
    return source


def refusal(path: Path, arrivals: str = "recorded", **keys: Any) -> str:
    with pytest.raises(TraceError) as caught:
        read(path, arrivals, **keys)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{path}", path.name)


def lengths(specs: list[RequestSpec]) -> list[tuple[int, int]]:
    return [(spec.prompt_tokens, spec.output_tokens) for spec in specs]


def pauses(specs: list[RequestSpec]) -> list[float]:
    return [round(spec.place.pause_s, 9) for spec in specs if spec.place]


def span(id_: str, start: int, end: int, tokens: tuple[int, int], operation: str = "chat") -> Row:
    attributes = [
        {"key": "gen_ai.operation.name", "value": {"stringValue": operation}}, {"key": "gen_ai.conversation.id", "value": {"stringValue": id_}},
        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": str(tokens[0])}},
        {"key": "gen_ai.usage.output_tokens", "value": {"intValue": tokens[1]}}, {"key": "tags", "value": {"arrayValue": {"values": []}}},
    ]  # fmt: skip
    times = {"startTimeUnixNano": str(10**18 + start * 10**6), "endTimeUnixNano": str(10**18 + end * 10**6)}
    return {"traceId": f"t-{id_}", "spanId": "s", "name": f"{operation} m", "kind": 3, "attributes": attributes} | times


def otlp(*spans: Row) -> list[Row]:
    """A line for each span."""
    return [{"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [one]}]}]} for one in spans]


def record(session: str, turn: int, start: int, end: int, prompt: int, output: int, **more: Any) -> Row:
    about = {"x_correlation_id": session, "turn_index": turn, "request_start_ns": 10**18 + start * 10**6, "request_end_ns": 10**18 + end * 10**6}
    metrics = {"input_sequence_length": {"value": prompt, "unit": "tokens"}, "output_sequence_length": {"value": output, "unit": "tokens"}}
    return {
        "metadata": about | {"benchmark_phase": "profiling"} | more,
        "metrics": metrics | {"inter_chunk_latency": {"value": [1.0]}},
        "error": None,
    }


LENGTHS = {"kind": "fixed", "tokens": 3}
SPANS = otlp(
    span("a", 110000, 112500, (75, 20)), span("a", 100000, 103000, (50, 10)), span("b", 101000, 102000, (30, 4)),
    span("a", 100000, 120000, (500, 50), "invoke_agent"), span("a", 113000, 115000, (95, 5)),
)  # fmt: skip
RECORDS = [
    record("w", 0, 0, 1, 9, 9, benchmark_phase="warmup"), record("a", 0, 100000, 103000, 50, 10), record("b", 0, 101000, 102000, 30, 4),
    record("a", 1, 110000, 112500, 75, 20), record("a", 2, 113000, 115000, 95, 5),
]  # fmt: skip


@pytest.mark.parametrize("rows", [OWN, SPANS, RECORDS], ids=["own", "spans", "records"])
def test_forms_with_times_say_the_same(file: Callable[..., Path], rows: list[Row]) -> None:
    source = read(file(rows))
    assert source.recorded.starts_s is not None
    assert source.recorded.starts_s.tolist() == [0.0, 1.0]
    first, second = source.session(0), source.session(1)
    assert (lengths(first), lengths(second)) == ([(50, 10), (75, 20), (95, 5)], [(30, 4)])
    assert pauses(first) == [0.0, 7.0, 0.5]
    assert [spec.place.said_tokens for spec in first if spec.place] == [0, 60, 95]


def test_csv_is_read_too(file: Callable[..., Path]) -> None:
    text = "session,turn,arrival_s,pause_s,new_tokens,output_tokens\n01,1,5,,50,10\n1,1,6,,30,4\n01,2,,7,15,20\n"
    source = read(file(text))
    assert [lengths(source.session(n)) for n in range(2)] == [[(50, 10), (75, 20)], [(30, 4)]]
    assert pauses(source.session(0)) == [0.0, 7.0]


def test_aiperf_adds_what_is_new(file: Callable[..., Path]) -> None:
    source = read(file(AIPERF))
    assert lengths(source.session(0)) == [(50, 10), (75, 20), (96, 5)]
    assert pauses(source.session(0)) == [0.0, 7.0, 0.5]
    whole = read(file([row | {"input_length": row["input_length"] + 100 * (i + 1)} for i, row in enumerate(AIPERF)]),
                 columns={"prompt_tokens": "input_length"}, unit="ms")  # fmt: skip
    assert lengths(whole.session(0)) == [(150, 10), (215, 20), (401, 5)]
    without_times = file([without([row], "timestamp")[0] for row in AIPERF])
    assert lengths(read(without_times, "poisson").session(0))
    assert refusal(without_times) == (
        "t.jsonl: workload.sessions.arrivals: the file does not say when every session begins; use arrivals of kind poisson or closed_loop"
    )


def test_a_name_that_first_comes_late_is_seen(file: Callable[..., Path]) -> None:
    rows: list[Row] = [{"session_id": f"s{i}", "timestamp": i, "input_length": 5, "output_length": 2} for i in range(300)]
    source = read(file([*rows, {"session_id": "s0", "delay": 50, "input_length": 3, "output_length": 2}]))
    assert (lengths(source.session(0)), pauses(source.session(0))) == ([(5, 2), (10, 2)], [0.0, 0.05])


def test_bailians_answers_are_known_by_the_next_turn(file: Callable[..., Path]) -> None:
    """40 tokens are blocks 1, 2 and a part of 3; with the answer's 20 the session holds 60 of the 70 that blocks 1, 2, 4, 5, 6 say."""
    assert "answers_tps: tokens per second of the recorded service" in refusal(file(BAILIAN))
    source = read(file(BAILIAN), answers_tps=10.0)
    first, second = source.session(0)
    assert pauses([first, second]) == [0.0, 2.0]
    assert first.content is not None
    assert second.content is not None
    assert first.content.names(0, 3, 16) == second.content.names(0, 3, 16)
    assert first.content.names(3, 4, 16) != second.content.names(3, 4, 16)  # 64 tokens are more than 60
    other = source.session(1)[0]
    assert other.content is not None
    assert [a == b for a, b in zip(first.content.names(0, 3, 16), other.content.names(0, 3, 16), strict=True)] == [True, True, False]
    cut = [BAILIAN[0], BAILIAN[2] | {"input_length": 30, "hash_ids": [1, 8]}]  # history was dropped: the file says what is left of it
    again = read(file(cut), answers_tps=10.0).session(0)
    assert [spec.place.said_tokens for spec in again if spec.place] == [0, 16]


def test_pauses_that_a_file_does_not_say_are_drawn(file: Callable[..., Path]) -> None:
    """Chats without times, as ShareGPT's; those that the file says stay."""
    rows: list[Row] = [{"conv": n, "nth": turn, "asked": 20 + n, "said": 30} for n in range(200) for turn in range(6)]
    keys = {"columns": {"session": "conv", "turn": "nth", "new_tokens": "asked", "output_tokens": "said"}, "think_s": 4}
    path = file(rows)
    assert "or workload.sessions.recorded.think_s: seconds, or add end_s or pause_s" in refusal(path, "poisson", columns=keys["columns"])
    source = read(path, "poisson", **keys)
    drawn = np.array([pauses(source.session(n)) for n in range(200)])
    assert (drawn[:, 0] == 0).all()
    assert abs(drawn[:, 1:].mean() - 4) < 4 * 4 / np.sqrt(1000)  # exponential: its sd is its mean
    assert drawn[3].tolist() == pauses(read(path, "poisson", **keys).session(3))
    at, columns, _ = source.drawn(0, 200)
    np.testing.assert_allclose(columns["pause_s"].reshape(200, 6), drawn, atol=1e-9)
    assert at[-1] == len(rows)
    sessions = Sessions.model_validate({"recorded": {"path": path, **keys}, "arrivals": {"kind": "poisson"}})
    assert abs(sessions.sample.pauses_s - 20) < 4 * 4 * np.sqrt(5 / 200)
    assert sessions.recorded is not None
    assert sessions.recorded.words.endswith("1,000 pauses are drawn (exponential, 4 s on average)")
    some = file([*AIPERF[:3], {"session_id": "a", "input_length": 1, "output_length": 5}])
    assert pauses(read(some, think_s={"kind": "fixed", "seconds": 9}).session(0)) == [0.0, 7.0, 9.0]
    assert "recorded.think_s: the file says all pauses; drop it" in refusal(file(AIPERF), think_s=1)
    with pytest.raises(ValidationError, match="expected seconds above 0"):
        read(path, "poisson", **(keys | {"think_s": 0}))


def test_weka_conversations(file: Callable[..., Path]) -> None:
    call = {"type": "s", "model": "m", "in": 100, "out": 20, "hash_ids": [1, 2], "api_time": 2.0, "t": 0.0}
    line = {
        "id": "x", "models": ["m"], "block_size": 64, "hash_id_scope": "local",
        "requests": [call, call | {"t": 5.0, "in": 150, "hash_ids": [1, 3, 4]}, call | {"t": 9.0, "think_time": 0.5, "in": 90, "hash_ids": [1, 7]}],
    }  # fmt: skip
    path = file([line, line | {"id": "y"}])
    source = read(path, "poisson")
    assert (lengths(source.session(0)), pauses(source.session(0))) == ([(100, 20), (150, 20), (90, 20)], [0.0, 3.0, 0.5])
    one, two = (source.session(n)[0].content for n in range(2))
    assert isinstance(one, Hashed)
    assert isinstance(two, Hashed)
    assert set(one.ids).isdisjoint(two.ids)  # of conversations of their own


@pytest.mark.parametrize("relative", [False, True], ids=["times of the session", "times of the subagent"])
def test_wekas_subagents_hold_up_the_turn_after_them(file: Callable[..., Path], relative: bool) -> None:
    """Two subagents, of two and of one request, between two turns; a third that nobody waits for; and one before the first turn, left out."""
    call = {"type": "n", "in": 100, "out": 20, "hash_ids": [1, 2], "api_time": 1.0}

    def agent(t: float, *requests: tuple[float, int, dict[str, Any]]) -> dict[str, Any]:
        calls = [call | {"t": at - t * relative, "in": blocks * 64, "hash_ids": [1, *range(50, 49 + blocks)]} | more for at, blocks, more in requests]
        return {"type": "subagent", "t": t, "agent_id": "a", "requests": calls}

    requests = [
        agent(1.0, (1.5, 1, {})), call | {"t": 2.0}, agent(3.1, (3.5, 3, {}), (6.0, 4, {})), agent(3.2, (4.0, 2, {"think_time": 0.25})),
        call | {"t": 9.0, "in": 150, "hash_ids": [1, 2, 4]}, agent(10.5, (11.0, 2, {})),
    ]  # fmt: skip
    path = file([{"id": "x", "block_size": 64, "hash_id_scope": "local", "requests": requests}])
    specs = read(path, "poisson").session(0)
    assert [spec.prompt_tokens for spec in specs] == [100, 192, 128, 256, 150, 128]
    assert pauses(specs) == [0.0, 0.5, 0.25, 1.5, 2.0, 1.0]
    places = [spec.place for spec in specs if spec.place]
    assert [(at.turn, at.call, at.waits, at.then, at.count) for at in places] == [
        (0, False, 0, 1, 2), (0, True, 1, 3, 1), (0, True, 1, 4, 1), (0, True, 1, 4, 1), (1, False, 2, 5, 1), (1, True, 1, 0, 0),
    ]  # fmt: skip
    assert [at.said_tokens for at in places] == [0, 64, 64, 212, 120, 64]
    assert len(read(path, "closed_loop").session(0)) == 6  # sessions may begin at the second turn


CALLS: list[Row] = [
    {"request": "a", "parent": None, "call": 0, "joins": None, "arrival_s": 0, "end_s": 2, "new_tokens": 50, "output_tokens": 10},
    {"request": "c", "parent": "a", "call": 1, "joins": "b", "arrival_s": 3, "end_s": 8, "new_tokens": 9, "output_tokens": 5},
    {"request": "d", "parent": "a", "call": 1, "joins": None, "arrival_s": 4, "end_s": 5, "new_tokens": 8, "output_tokens": 6},
    {"request": "e", "parent": "d", "call": 1, "joins": "b", "arrival_s": 6, "end_s": 7, "new_tokens": 7, "output_tokens": 4},
    {"request": "b", "parent": "a", "call": 0, "joins": None, "arrival_s": 9, "end_s": 11, "new_tokens": 20, "output_tokens": 10},
]  # fmt: skip


def test_calls_of_ones_own(file: Callable[..., Path]) -> None:
    """A call begins with nothing, those after it with all of it, and the turn that waits with what its agent has said."""
    specs = read(file(CALLS[::-1])).session(0)
    assert lengths(specs) == [(50, 10), (9, 5), (8, 6), (21, 4), (80, 10)]
    assert pauses(specs) == [0.0, 1.0, 2.0, 1.0, 1.0]
    names = [spec.content.names(0, spec.prompt_tokens, 1) for spec in specs if spec.content]
    assert names[4][:50] == names[0]
    assert names[3][:8] == names[2]
    assert set(names[1]).isdisjoint(names[0])
    assert [spec.place.said_tokens for spec in specs if spec.place] == [0, 0, 0, 14, 60]


def test_later_rounds_share_only_what_sessions_share(file: Callable[..., Path]) -> None:
    source = read(file(BAILIAN), "poisson", answers_tps=10.0)
    ids = [content.ids for n in range(4) if isinstance(content := source.session(n)[0].content, Hashed)]
    assert {row[:2] for row in ids} == {ids[0][:2]}  # the system prompt
    assert len({row[2] for row in ids}) == 4
    assert {tuple(lengths(source.session(n))) for n in (0, 1)} == {tuple(lengths(source.session(n))) for n in (2, 3)}


def test_parents_may_have_several_children(file: Callable[..., Path]) -> None:
    rows = [
        {"request": "r", "parent": None, "arrival_s": 0, "end_s": 1, "prompt_tokens": 10, "output_tokens": 6},
        {"request": "x", "parent": "r", "arrival_s": 2, "end_s": 3, "prompt_tokens": 20, "output_tokens": 6},
        {"request": "y", "parent": "r", "arrival_s": 4, "end_s": 5, "prompt_tokens": 30, "output_tokens": 6},
        {"request": "z", "parent": "x", "arrival_s": 6, "end_s": 7, "prompt_tokens": 40, "output_tokens": 6},
    ]  # fmt: skip
    source = read(file(rows))
    root, x, y, z = source.session(0)
    assert [(spec.place.then, spec.place.count, spec.place.waits) for spec in (root, x, y, z) if spec.place] == [
        (1, 2, 0), (3, 1, 1), (0, 0, 1), (0, 0, 1),
    ]  # fmt: skip
    assert x.content is not None
    assert y.content is not None
    assert [a == b for a, b in zip(x.content.names(0, 5, 4), y.content.names(0, 5, 4), strict=True)] == [True] * 4 + [False]
    assert source.most_calls == 2
    assert "a closed loop begins sessions in their middle" in refusal(file(rows), "closed_loop")


BAD: list[tuple[str, list[Row], dict[str, Any], str]] = [
    ("a turn that is not there", [OWN[0], OWN[3]], {},
     "t.jsonl:2: turn: turn 3 of session a follows turn 2, which is not there; "
     "write workload.sessions.recorded.accept: [orphans] to begin a session there, or fix the row"),
    ("a turn twice", [OWN[0], OWN[0]], {}, "t.jsonl:2: turn: session a has turn 1 twice; fix or drop the row"),
    ("a parent that is not there", [BAILIAN[2]], {"answers_tps": 10.0},
     "t.jsonl:1: parent_chat_id: follows request 3, which is not there; "
     "write workload.sessions.recorded.accept: [orphans] to begin a session there, or fix the row"),
    ("a parent of itself", [BAILIAN[0] | {"parent_chat_id": 3}], {},
     "t.jsonl:1: parent_chat_id: its parents lead back to itself; fix or drop the row"),
    ("a request twice", [BAILIAN[0], BAILIAN[0]], {}, "t.jsonl:2: chat_id: two requests are called 3; fix or drop the row"),
    ("thinks for less than nothing", [AIPERF[0], AIPERF[1] | {"delay": -5000}], {},
     "t.jsonl:2: delay: comes 5 s before the answer that it waits for has ended; "
     "write workload.sessions.recorded.accept: [overlaps] to send it at once, or fix the row"),
    ("comes too early", [OWN[0], OWN[2] | {"arrival_s": 102.0}], {},
     "t.jsonl:2: arrival_s: comes 1 s before the answer that it waits for has ended; "
     "write workload.sessions.recorded.accept: [overlaps] to send it at once, or fix the row"),
    ("ends before it begins", [OWN[0] | {"end_s": 99}], {}, "t.jsonl:1: end_s: the answer ends before the request is sent; fix or drop the row"),
    ("a prompt that forgets", [OWN[0], OWN[2] | {"prompt_tokens": 59}], {},
     "t.jsonl:2: prompt_tokens: a prompt of 59 tokens, and the session holds 60 (prompt and answer before it); "
     "write workload.sessions.recorded.accept: [shorter] to take all of it for new text, or fix the row"),
    ("hashes of another length", [BAILIAN[0], BAILIAN[2] | {"hash_ids": [1, 2, 4]}], {"answers_tps": 10.0, "block_tokens": 16},
     "t.jsonl:2: workload.sessions.recorded.block_tokens: 3 hash_ids for a prompt of 70 tokens cannot be blocks of 16 tokens; "),
    ("a call of nobody", [CALLS[1] | {"parent": None}], {}, "t.jsonl:1: parent: a call follows no turn; "),
    ("a call that is neither", [CALLS[0] | {"call": 2}], {}, "t.jsonl:1: call: expected 0 or 1, got 2; "),
    ("a turn after a call", [*CALLS[:2], CALLS[4] | {"parent": "c"}], {}, "t.jsonl:3: parent: a turn follows a call; "),
    ("joins a turn that is not there", CALLS[:2], {}, "t.jsonl:2: joins: b is not the turn after the one that made the call, "),
    ("joins before its end", [*CALLS[:2], CALLS[2] | {"joins": "b"}, *CALLS[3:]], {}, "t.jsonl:3: joins: b is not the turn after the one that made"),
    ("a turn that waits for no call", [CALLS[0], CALLS[2], CALLS[4]], {}, "t.jsonl:3: joins: no call joins the turn, though the turn before it made"),
    ("calls in a circle", [CALLS[0], *(CALLS[2] | {"request": name, "parent": up} for name, up in ("xy", "yz", "zx"))], {},
     "t.jsonl:2: parent: its parents lead back to itself; "),
    ("a parent for some", [OWN[0] | {"request": 1, "parent": None}, OWN[2] | {"request": 2, "parent": None}], {},
     "t.jsonl:2: parent: missing value, and session a has begun; name the turn before it, or set workload.sessions.recorded.columns"),
    ("a unit of its own", [SPANS[0]], {"unit": "ns"},
     "t.jsonl: workload.sessions.recorded.unit: times of OpenTelemetry spans say their unit themselves; drop it"),
    ("a prompt without end", [{"session": "z", "turn": n, "arrival_s": n, "end_s": n, "new_tokens": 10**8, "output_tokens": 1} for n in (1, 2)], {},
     "t.jsonl:2: new_tokens: the prompt has 200,000,001 tokens with all before it, expected at most 100,000,000; "),
    ("no tokens", [OWN[0] | {"output_tokens": 0}], {}, "t.jsonl:1: output_tokens: must be at least 1 (got 0); "
     "write workload.sessions.recorded.accept: [empty] to count 1, or fix the row"),
    ("less than no tokens", [OWN[0] | {"output_tokens": -1}], {"accept": ["empty"]}, "t.jsonl:1: output_tokens: must be at least 0 (got -1); "),
    ("no name", [OWN[0] | {"session": None}], {}, "t.jsonl:1: session: missing value; fix or drop the row"),
    ("a name that is none", [OWN[0] | {"session": [1]}], {}, "t.jsonl:1: session: not a name (got [1]); fix or drop the row"),
    ("no sessions", without(OWN, "session"), {},
     "t.jsonl:1: session, or request and parent: columns are missing; name them in workload.sessions.recorded.columns; "
     "columns found: turn, arrival_s, end_s, prompt_tokens, output_tokens"),
    ("a column that is not there", OWN, {"columns": {"session": "user"}},
     "t.jsonl:1: workload.sessions.recorded.columns.session: the file has no column 'user'; columns found: "),
    ("texts", [{"session_id": "a", "turns": [{"text": "x"}]}], {}, "t.jsonl:1: turns: the turns have texts and no lengths; count their tokens"),
    ("no end in sight", [AIPERF[0], AIPERF[1] | {"delay": 1e15}], {}, "t.jsonl:2: timestamp: comes 1e+12 s after the answer before it; "),
    ("a request that failed", [RECORDS[1] | {"error": {"code": 499}}], {}, "t.jsonl:1: error: the request failed; drop the rows of its session"),
    ("no spans of requests", otlp(span("a", 0, 1, (1, 1), "invoke_agent")), {}, "t.jsonl: has no spans of kind chat with gen_ai.usage; "),
    ("spans of no conversation", [json.loads(json.dumps(SPANS[0]).replace("gen_ai.conversation.id", "x"))], {},
     "t.jsonl: row 1: session: missing value; write workload.sessions.recorded.columns: {session: trace_id} to take every trace for a session"),
    ("a span that never ended", [json.loads(json.dumps(SPANS[0]).replace("endTimeUnixNano", "x"))], {},
     "t.jsonl:1: resourceSpans.0.scopeSpans.0.spans.0.endTimeUnixNano"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "keys", "line"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_contradicts_itself_is_one_line(file: Callable[..., Path], rows: list[Row], keys: dict[str, Any], line: str) -> None:
    assert refusal(file(rows), **keys).startswith(line)


def test_deviations_that_are_accepted_are_counted(file: Callable[..., Path]) -> None:
    rows = [OWN[0], OWN[2] | {"prompt_tokens": 40, "arrival_s": 102.0}, OWN[3] | {"turn": 7}]
    source = read(file(rows), accept=["orphans", "overlaps", "shorter"])
    assert [lengths(source.session(n)) for n in range(2)] == [[(50, 10), (40, 20)], [(95, 5)]]
    assert pauses(source.session(0)) == [0.0, 0.0]
    first, second = source.session(0)
    assert first.content is not None
    assert second.content is not None
    assert set(first.content.names(0, 10, 4)).isdisjoint(second.content.names(0, 10, 4))
    assert sorted(source.recorded.notes) == [
        "1 prompts shorter than what their session held are new text", "1 turns that came before the answer to their parent ended follow at once",
        "1 turns whose parent is missing begin a session",
    ]  # fmt: skip
    empty = read(file([OWN[0] | {"output_tokens": 0}]), accept=["empty"])
    assert (lengths(empty.session(0)), empty.recorded.notes) == ([(50, 1)], ("1 prompts and answers without a token count 1",))
    assert read(file(SPANS), columns={"session": "trace_id"}).recorded.at.tolist() == [0, 3, 4]


def test_keys_that_do_not_go_together(file: Callable[..., Path]) -> None:
    path = file(OWN)
    for content, words in (
        ({"recorded": {"path": path}, "arrivals": {"kind": "poisson"}, "turns": 3}, "drop recorded or turns"),
        ({"arrivals": {"kind": "poisson"}, "turns": 3}, "missing: new_tokens, output_tokens"),
        ({"arrivals": {"kind": "recorded"}, "turns": 3, "new_tokens": LENGTHS, "output_tokens": LENGTHS}, "add recorded"),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=words):
            Sessions.model_validate(content)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), new=st.booleans(), order=st.randoms())
def test_turns_keep_order_lengths_and_pauses(file: Callable[..., Path], seed: int, new: bool, order: Any) -> None:
    """Whatever the order of rows, and whichever way prompts are written."""
    luck = np.random.default_rng(seed)
    rows, wanted = [], {}
    for name in range(int(luck.integers(1, 6))):
        now, held, said = float(luck.integers(0, 50)), 0, []
        for turn in range(int(luck.integers(1, 6))):
            fresh, output, pause_s = int(luck.integers(1, 40)), int(luck.integers(1, 30)), float(luck.integers(0, 9)) if turn else 0.0
            now += pause_s
            tokens = {"new_tokens": fresh} if new else {"prompt_tokens": held + fresh}
            rows.append({"session": name, "turn": turn, "arrival_s": now, "end_s": now + 2, "output_tokens": output} | tokens)
            said.append((held + fresh, output, pause_s, held))
            held, now = held + fresh + output, now + 2
        wanted[rows[-len(said)]["arrival_s"], name] = said
    order.shuffle(rows)
    source = read(file(rows))
    found = []
    for number in range(len(source.recorded)):
        specs = source.session(number)
        assert [spec.place.turn for spec in specs if spec.place] == list(range(len(specs)))
        assert len({spec.index for spec in specs}) == len(specs)
        found.append([(s.prompt_tokens, s.output_tokens, s.place.pause_s, s.place.said_tokens) for s in specs if s.place])
        begin = [a.content.names(0, a.prompt_tokens + a.output_tokens, 1) for a in specs if a.content]
        assert all(later[: len(before)] == before for before, later in pairwise(begin))
    assert sorted(found) == sorted(wanted.values())

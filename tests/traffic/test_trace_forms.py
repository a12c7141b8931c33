"""Names of columns: those of public traces, those that people use, and the user's own; rows without tokens and sessions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.traffic.trace_rows import Row, mooncake, read, refusal, without, words

FORMS = {
    "BurstGPT 1": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n4,ChatGPT,410,21,431,API log\n49,GPT-4,930,205,1135,API log\n",
        45,
    ),
    "BurstGPT 3": (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "4,s1,1.1,ChatGPT,410,21,431,API log\n49,s1,3.0,ChatGPT,930,205,1135,API log\n",
        45,
    ),
    "Vidur": ("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,410,21\n1.5,930,205\n", 1.5),
    "splitwise-sim": ("request_id,arrival_timestamp,batch_size,prompt_size,token_size\n0,0.0,1,410,21\n1,1.5,1,930,205\n", 1.5),
    "milliseconds in the name": ("timestamp_ms,prompt_tokens,output_tokens\n0,410,21\n1500,930,205\n", 1.5),
    "arrival_ms": ("arrival_ms,prompt_tokens,completion_tokens\n0,410,21\n1500,930,205\n", 1.5),
    "a unit in brackets": ("Arrival time (us),Input tokens,Output tokens\n0,410,21\n1500000,930,205\n", 1.5),
    "camel case": ("startTimeMs,inputTokens,outputTokens\n0,410,21\n1500,930,205\n", 1.5),
    "date-times": ("created_at,isl,osl\n2024-05-12T00:00:00.5Z,410,21\n2024-05-12T02:00:02+02:00,930,205\n", 1.5),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_known_by_their_columns(file: Callable[..., Path], form: str) -> None:
    text, last_s = FORMS[form]
    trace = read(file(text))
    assert trace.arrival_s.tolist() == [0, last_s]
    assert trace.prompt_tokens.tolist() == [410, 930]
    assert trace.output_tokens.tolist() == [21, 205]


def test_dynamos_names_are_mooncakes(file: Callable[..., Path]) -> None:
    rows = [{"created_time": 1000 * i, "input_tokens": 655, "output_tokens": 52, "hash_ids": [1, 2 + i]} for i in range(2)]
    assert read(file(rows), prefix_cache="infinite").cached_prompt_tokens.tolist() == [0, 512]
    assert read(file(rows)).arrival_s.tolist() == [0, 1]


def test_columns_of_ones_own(file: Callable[..., Path]) -> None:
    path = file("when,q,a,kind\n0,10,2,chat\n1.5,20,3,code\n")
    assert refusal(path) == (
        "t.csv:1: arrival_s, prompt_tokens, output_tokens: columns are missing; columns found: when, q, a, kind; "
        "write workload.trace.columns: {arrival_s: NAME, prompt_tokens: NAME, output_tokens: NAME}"
    )
    mapping = {"arrival_s": "when", "prompt_tokens": "q", "output_tokens": "a"}
    trace = read(path, columns=mapping | {"domain": "kind"})
    assert (trace.arrival_s.tolist(), trace.prompt_tokens.tolist(), trace.domains) == ([0, 1.5], [10, 20], ("chat", "code"))
    assert read(path, columns=mapping, unit="ms").arrival_s.tolist() == [0, 0.0015]
    assert refusal(path, columns=mapping | {"domain": "topic"}) == (
        "t.csv:1: workload.trace.columns.domain: the file has no column 'topic'; columns found: when, q, a, kind"
    )
    assert refusal(path, columns=mapping | {"output_tokens": "q"}) == (
        "t.csv:1: workload.trace.columns: column 'q' is used for prompt_tokens and output_tokens; name another column for each"
    )
    plain = file("arrival_s,prompt_tokens,output_tokens\n0,1,2\n", "plain.csv")
    assert "column 'output_tokens' is used for prompt_tokens and output_tokens" in refusal(plain, columns={"prompt_tokens": "output_tokens"})


@pytest.mark.parametrize(
    "text, says",
    [
        ("timestamp,prompt_tokens,output_tokens\n0,1,1\n1500,1,1\n", "workload.trace.unit: the unit of 'timestamp' is not clear; its values begin 0"),
        ("time,input_tokens,prompt_tokens,osl\n0,1,1,1\n", "the unit of 'time' is not clear"),  # our own name wins
        ("time,input_tokens,isl,osl\n0,1,1,1\n", "t.csv:1: prompt_tokens: input_tokens and isl may both be it; write workload.trace.columns: {"),
        ("date,time,isl,osl\n2024-05-12,10:00:00,1,1\n", "arrival_s: date and time may both be it"),
        ("arrival_s,prompt_tokens,output_tokens,prompt_tokens\n0,1,1,9\n", "t.csv:1: prompt_tokens: two columns have this name; rename one"),
        ("0,512,128\n1.5,300,20\n", "t.csv:1: the first line is not a header; add one: arrival_s,prompt_tokens,output_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n12.05.2024 10:00,1,1\n", "not a number or a date-time such as 2024-05-12 00:00:01.5"),
        ("arrival_s,prompt_tokens,output_tokens\n9999-12-31 00:00:00,1,1\n", "t.csv:2: arrival_s: out of range"),
        ("time,prompt_tokens,output_tokens\n1700-01-01 00:00:00,1,1\n2200-01-01 00:00:00,1,1\n", "t.csv:2: time: out of range, expected a year from"),
        ("time,prompt_tokens,output_tokens\n1600-01-01 00:00:00,1,1\n", "t.csv:2: time: out of range, expected a year from 1900 to 2100"),
        ("time,prompt_tokens,output_tokens\n2024-05-12 00:00:00,1,1\nnow,1,1\n", "t.csv:3: time: not a date-time (got 'now')"),
        ("time,prompt_tokens,output_tokens\n2024-05-12 00:00:00,1,1\n2025,1,1\n", "t.csv:3: time: not a date-time (got '2025')"),
        ("time,isl,osl\n2024-05-12 00:00:01,1,1\n2024-05-12 00:00:01+02:00,1,1\n", "t.csv:3: time: some date-times have a time zone"),
        ("arrival_s,prompt_tokens,output_tokens\n1000000000000,1,1\n", "1000000000000 is not a time in seconds: it looks like Unix milliseconds"),
        ("arrival_s,prompt_tokens,output_tokens\n1e30,1,1\n", "1e+30 is not a time in seconds: it is too large; fix or drop the row"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(file: Callable[..., Path], text: str, says: str) -> None:
    assert says in refusal(file(text))


def test_a_file_and_a_cache_do_not_both_say_what_is_cached(file: Callable[..., Path]) -> None:
    path = file([row | {"cached_prompt_tokens": 0} for row in mooncake(512, 3)])
    assert "workload.trace.prefix_cache: the trace has cached_prompt_tokens of its own; set it to none" in refusal(path, prefix_cache="infinite")
    assert len(read(path)) == 3


def test_date_times_have_no_unit(file: Callable[..., Path]) -> None:
    path = file("arrival_s,prompt_tokens,output_tokens\n2024-05-12 00:00:00,1,1\n2024-05-12T00:00:01.5,1,1\n2024-05-12,1,1\n")
    assert read(path).arrival_s.tolist() == [0, 0, 1.5]
    assert "date-times from 2024-05-12 00:00:00 UTC" in words(path)
    assert refusal(path, unit="ms").endswith("workload.trace.unit: 'arrival_s' holds date-times, which have no unit; drop it")


SESSIONS: list[Row] = [
    {"timestamp": 0, "input_length": 655, "output_length": 52, "session_id": "s1"},
    {"session_id": "s1", "delay": 500, "input_length": 672, "output_length": 26},
]


def test_sessions_and_texts_are_refused(file: Callable[..., Path]) -> None:
    assert "t.jsonl:2: session_id: the turns of a session wait for the answer before them" in refusal(file(SESSIONS))
    assert "the turns of a session wait for the answer before them" in refusal(file(without(SESSIONS, "delay")))
    assert "the turns of a session wait for the answer before them" in refusal(file([row | {"timestamp": 0} for row in SESSIONS]))
    assert len(read(file(without([row | {"timestamp": 0} for row in SESSIONS], "delay")))) == 2  # every request has its arrival
    texts = [{"timestamp": 0, "text_input": "hello", "output_length": 5}]
    assert refusal(file(texts)) == "t.jsonl:1: prompt_tokens: the file has texts and no lengths; count the tokens of each prompt and answer first"


def test_rows_of_no_tokens_are_dropped_on_request_and_counted(file: Callable[..., Path]) -> None:
    stamps = ("2024-05-12 00:00:00.5+00:00,0,5", "2024-05-12 00:00:01+00:00,7,5", "2024-05-12 00:00:03.25+00:00,9,6", "2024-05-12 00:00:04+00:00,8,0")
    path = file("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(stamps))
    says = "t.csv:2: ContextTokens: 2 of 4 rows have 0 tokens; write workload.trace.drop_empty_rows: true to leave out requests that failed"
    assert refusal(path) == says
    trace = read(path, drop_empty_rows=True)
    assert (trace.arrival_s.tolist(), trace.prompt_tokens.tolist()) == ([0, 2.25], [7, 9])
    assert words(path, drop_empty_rows=True).endswith(", 2 rows of 0 tokens dropped")
    later = file("arrival_s,prompt_tokens,output_tokens\n0,1,0\n1,1,1\n2,x,1\n", "later.csv")
    assert "later.csv:4: prompt_tokens: not a number (got 'x')" in refusal(later, drop_empty_rows=True)
    cached = file("arrival_s,prompt_tokens,output_tokens,cached_prompt_tokens\n0,1,0,1\n1,2,1,2\n", "cached.csv")
    assert "cached.csv:3: cached_prompt_tokens: must be below prompt_tokens (got 2)" in refusal(cached, drop_empty_rows=True)

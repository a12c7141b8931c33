"""Dialects of CSV and JSON: all give the same trace, or one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.reading import csv_blocks
from simulator.traffic import trace_tables
from simulator.traffic.lengths import Empirical
from tests.traffic.trace_rows import mooncake, read, refusal

ROWS = "arrival_s;prompt_tokens;output_tokens\r\n0;10;2\r\n0,5;20;3\r\n1,25;30;4\r\n"


def packed(content: bytes) -> bytes:
    """Without the time, which would be in the names of the tests."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "content, name",
    [
        (ROWS, "t.csv"),
        ("sep=;\r\n" + ROWS, "t.csv"),
        ("# of the gateway\r\n\r\n" + ROWS, "t.csv"),
        ("\ufeff" + ROWS, "t.csv"),
        (ROWS.replace(",", "."), "t.csv"),
        (ROWS.replace(",", ".").replace(";", ","), "t.csv"),
        (ROWS.replace(";", "\t"), "t.tsv"),
        (ROWS.replace(";", "|"), "t.csv"),
        (ROWS.encode("utf-16"), "t.csv"),
        (ROWS.replace(";", "\t").encode("utf-16"), "t.txt"),
        (packed(ROWS.encode()), "t.csv.gz"),
        (packed(ROWS.encode("utf-16")), "t.csv"),
    ],
)
def test_dialects_of_csv(file: Callable[..., Path], content: str | bytes, name: str) -> None:
    path = file(content, name)
    trace = read(path)
    assert trace.arrival_s.tolist() == [0, 0.5, 1.25]
    assert trace.prompt_tokens.tolist() == [10, 20, 30]
    assert Empirical(path=path, column="output_tokens").expected_tokens() == 3


def test_json_in_a_list_in_lines_and_packed(file: Callable[..., Path]) -> None:
    rows = mooncake(512, 3)
    for content, name in (
        (json.dumps(rows, indent=1), "t.json"),
        (json.dumps(rows), "t.txt"),
        (packed(json.dumps(rows).encode()), "t.json.gz"),
        (packed("\n".join(map(json.dumps, rows)).encode()), "t.jsonl.gz"),
    ):
        assert read(file(content, name), prefix_cache="infinite").cached_prompt_tokens.tolist() == [0, 2048, 2048]
    assert "t.json: row 3: output_length: not a number (got 'x')" in refusal(
        file(json.dumps([*rows[:2], rows[2] | {"output_length": "x"}]), "t.json")
    )
    assert refusal(file("[1, 2]", "t.json")) == "t.json: expected an array of JSON objects; write one JSON object per line"
    assert "t.json: not valid JSON" in refusal(file("[{", "t.json"))
    assert refusal(file("[]", "t.json")).startswith("t.json: the file is empty")


@pytest.mark.parametrize(
    "content, name, says",
    [
        (ROWS.replace("20", "2.000"), "t.csv", "t.csv: prompt_tokens: may have points between thousands, such as 2.000"),
        ("arrival_s;prompt_tokens;output_tokens\n0;2.000;1\n1;850;1\n", "t.csv", "may have points between thousands"),
        ('arrival_s,prompt_tokens,output_tokens\n0,"2,000",1\n', "t.csv", "prompt_tokens: not a number (got '2,000')"),
        ("sep=;\r\n" + ROWS.replace("30", "x"), "t.csv", "t.csv:5: prompt_tokens: not a number (got 'x')"),
        ("# x\r\n# y\r\n" + ROWS.replace("30", "x"), "t.csv", "t.csv:6: prompt_tokens: not a number (got 'x')"),
        (ROWS.replace("30", "300000000000"), "t.csv", "t.csv:4: prompt_tokens: too large (got 300000000000)"),
        ("[" * 100_000, "t.json", "t.json: not valid JSON"),
        ('{"a":' * 100_000, "t.jsonl", "t.jsonl:1: not valid JSON"),
        ("sep=;\r\n" + ROWS + "9;9;9;9\r\n", "t.csv", "t.csv:6: expected 3 fields as in the header, got 4"),
        ("sep=;\r\n", "t.csv", "t.csv: the file is empty"),
        (packed(ROWS.encode())[:-12], "t.csv.gz", "t.csv.gz: is not a whole gzip file"),
        (ROWS.replace("output", "\u00fc").encode("latin-1"), "t.csv", "t.csv: is not UTF-8 text; save it as UTF-8"),
        (b"PK\x03\x04", "t.xlsx", "t.xlsx: expected CSV or JSON lines, got .xlsx; save it as CSV"),
        ("prompt_tokens;prompt_tokens ;arrival_s;output_tokens\n1;1;1;1\n", "t.csv", "t.csv:1: prompt_tokens: two columns have this name"),
        ("_" * 100_000 + ",a,b\n1,2,3\n", "t.csv", "got 3 columns and a name of 100,000 characters"),
        (json.dumps({f"k{n}": n for n in range(2000)}), "t.jsonl", "t.jsonl:1: expected at most 1,000 columns"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 5, "domain": ["a"]}', "t.jsonl", "t.jsonl:1: domain: not a text (got ['a'])"),
        ('{"timestamp": 0, "input_length": 1, "output_length": 5, "domain": "\\u001b"}', "t.jsonl", "t.jsonl:1: domain: has invisible characters"),
        (ROWS + "x;9;9\r\n", "t.csv", "t.csv:5: arrival_s: not a number or a date-time such as 2024-05-12 00:00:01.5 (got 'x')"),
        (ROWS + "1.500;9;9\r\n", "t.csv", "t.csv:5: arrival_s: not a number or a date-time such as 2024-05-12 00:00:01.5 (got '1.500')"),
        (ROWS + "9;9\r\n", "t.csv", "t.csv:5: expected 3 fields as in the header, got 2"),
        (ROWS + "9;9;9;9\r\n8;8\r\n", "t.csv", "t.csv:5: expected 3 fields as in the header, got 4"),
        (ROWS * 9, "t.csv", "t.csv:5: prompt_tokens: not a number (got 'prompt_tokens')"),
        (ROWS + ";" * 100_000, "t.csv", "t.csv:5: expected 3 fields as in the header, got 100001"),
        ("," * 100_000 + "\n1,2\n", "t.csv", "t.csv:1: expected at most 1,000 columns with names of at most 200 characters, got 100,001 columns"),
        (ROWS + '9;9;"9\r\n', "t.csv", "t.csv:5: not valid CSV (a quote in the middle of a cell, or one that is not closed)"),
        (ROWS + '9;9";"9\r\n', "t.csv", "t.csv:5: not valid CSV (a quote in the middle of a cell"),
        ("arrival_s,prompt_tokens,output_tokens,domain\n0,1,1,a\n0,1,1,\x1b[31m\n", "t.csv", "t.csv:3: domain: expected one line without"),
        (ROWS + "9;\0;9\r\n", "t.csv", "is not UTF-8 text"),
        (ROWS + f"9;{'9' * 400};9\r\n", "t.csv", "t.csv:5: prompt_tokens: not finite"),
        ('{"timestamp": 0, "input_length": [[1], 2], "output_length": 5}\n', "t.jsonl", "t.jsonl:1: input_length: not a number (got [[1], 2])"),
        ('{"timestamp": 0, "input_length": 1%s, "output_length": 5}\n' % ("0" * 400), "t.jsonl", "t.jsonl:1: "),
        ('{"timestamp": 0, "input_length": {}, "output_length": 5}\n', "t.jsonl", "t.jsonl:1: input_length: not a number (got {})"),
    ],
)
def test_dialects_that_cannot_be_read(file: Callable[..., Path], content: str | bytes, name: str, says: str) -> None:
    assert says in refusal(file(content, name))


def test_cells_in_quotes_hold_separators_lines_and_quotes(file: Callable[..., Path]) -> None:
    rows = '"arrival_s",prompt_tokens,output_tokens,domain,text\n0,10,2,"a, ""b""",\n\n1.5, "20",3,c,"d\ne"\n2,"30",4,\t01,\n'
    trace = read(file(rows))
    assert (trace.arrival_s.tolist(), trace.prompt_tokens.tolist()) == ([0, 1.5, 2], [10, 20, 30])
    assert [request.domain for request in trace] == ['a, "b"', "c", "01"]
    assert refusal(file(rows + "x,1,1,e,\n", "late.csv")).startswith("late.csv:7: arrival_s: not a number")


def test_a_word_that_looks_like_a_number_is_still_a_word(file: Callable[..., Path]) -> None:
    trace = read(file("arrival_s,prompt_tokens,output_tokens,domain\n0,1,1,01\n1,1,1,1\n2,1,1,1.10\n"))
    assert [request.domain for request in trace] == ["01", "1", "1.10"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('0,1,1\n"' + "0,1,1\n" * 50, "t.csv:3: not valid CSV (a quote in the middle of a cell, or one that is not closed)"),
        ("\n \n\t\n" * 50 + "0,1,x\n", "t.csv:152: output_tokens: not a number (got 'x')"),
        ('0,1,"1"\n' * 50 + "0,1\n", "t.csv:52: expected 3 fields as in the header, got 2"),
        ("0,1,1\n" * 50 + '"1\n",1,1\n0,1\n', "t.csv:54: expected 3 fields as in the header, got 2"),
    ],
)
def test_lines_are_counted_from_block_to_block(file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, rows: str, says: str) -> None:
    path = file("arrival_s,prompt_tokens,output_tokens\n" + rows)
    for block in (1, 7, 1 << 22):
        monkeypatch.setattr(csv_blocks, "_BLOCK", block)
        assert says in refusal(path)


def test_a_column_of_domains_has_few(file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = file("arrival_s,prompt_tokens,output_tokens,domain\n" + "".join(f"{n},1,1,d{n}\n" for n in range(9)))
    monkeypatch.setattr(trace_tables, "_MOST_WORDS", 8)
    for block in (1, 1 << 22):  # whether they come in one block of rows, or in several
        monkeypatch.setattr(csv_blocks, "_BLOCK", block)
        assert refusal(path) == "t.csv: domain: has more than 8 different texts; map another column, or rename this one"

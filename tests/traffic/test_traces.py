"""Traces: every format read as it is written, and every malformed row refused with its file, line and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from simulator.errors import TraceError
from simulator.traffic.prefix_blocks import is_hash_list
from simulator.traffic.traces import TraceSource
from tests.traffic.trace_rows import read

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9999999,374,44\n2023-11-17 00:00:00.2500001,396,109"
CSV = "arrival_s,prompt_tokens,output_tokens"


def written(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def mooncake(*rows: tuple[int, int, int, list[int]]) -> str:
    return "".join(json.dumps(dict(zip(("timestamp", "input_length", "output_length", "hash_ids"), row, strict=True))) + "\n" for row in rows)


def test_azure_keeps_seven_digits_across_midnight(tmp_path: Path) -> None:
    trace = read(written(tmp_path, AZURE))
    np.testing.assert_allclose(trace.arrival_s, [0, 0.2500002], rtol=1e-12)
    assert trace.prompt_tokens.tolist() == [374, 396]
    assert trace.output_tokens.tolist() == [44, 109]
    assert trace.cached_prompt_tokens.tolist() == [0, 0]
    assert trace.domains == ("",)


def test_azure_2024_stamps_with_an_offset_are_read_too(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,1,2\n2024-05-10 00:00:01+00:00,3,4\n"
    np.testing.assert_allclose(read(written(tmp_path, text)).arrival_s, [0, 0.99007])


def test_plain_csv_is_sorted_shifted_and_may_name_domains_and_cached_tokens(tmp_path: Path) -> None:
    text = "id,domain,arrival_s,output_tokens,prompt_tokens,cached_prompt_tokens\n7,NA,12.5,1,100,99\n8,math,10,2,50,0\n9,chat,12.5,3,60,1\n\n"
    trace = read(written(tmp_path, "\ufeff" + text))
    assert trace.arrival_s.tolist() == [0, 2.5, 2.5]
    assert trace.output_tokens.tolist() == [2, 1, 3]  # equal times keep their order
    assert trace.cached_prompt_tokens.tolist() == [0, 99, 1]
    assert [r.domain for r in trace] == ["math", "NA", "chat"]


def test_mooncake_by_hand_with_and_without_a_prefix_cache(tmp_path: Path) -> None:
    rows = [(3000, 1100, 5, [1, 2, 9]), (0, 1200, 7, [1, 2, 3]), (6000, 1024, 1, [1, 2]), (6000, 700, 2, [4, 3])]
    path = written(tmp_path, mooncake(*rows), "m.jsonl")
    assert read(path).cached_prompt_tokens.tolist() == [0, 0, 0, 0]
    trace = read(path, prefix_cache="infinite")
    assert trace.arrival_s.tolist() == [0, 3, 6, 6]
    assert trace.prompt_tokens.tolist() == [1200, 1100, 1024, 700]
    assert trace.cached_prompt_tokens.tolist() == [0, 1024, 1023, 0]  # the last prompt token is computed; a hit counts in a prefix only


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=8))
def test_an_infinite_cache_never_caches_a_whole_prompt_and_never_what_is_new(tmp_path_factory: pytest.TempPathFactory, ids: list[list[int]]) -> None:
    rows = [(i, 512 * len(blocks), 1, blocks) for i, blocks in enumerate(ids)]
    path = written(tmp_path_factory.mktemp("m"), mooncake(*rows), "m.jsonl")
    trace = read(path, prefix_cache="infinite")
    assert trace.cached_prompt_tokens[0] == 0
    for i, blocks in enumerate(ids):
        earlier = {tuple(before[:end]) for before in ids[:i] for end in range(1, len(before) + 1)}  # a block is all up to it
        leading = next((k for k in range(len(blocks)) if tuple(blocks[: k + 1]) not in earlier), len(blocks))
        assert trace.cached_prompt_tokens[i] == min(512 * leading, 512 * len(blocks) - 1)


@pytest.mark.parametrize(
    "text, line",
    [
        ("", "t.csv: the file is empty"),
        ("\n\n", "t.csv: the file is empty"),
        (CSV + "\n", "t.csv: has a header and no rows"),
        (
            "a,b\n1,2\n",
            "t.csv:1: arrival_s, prompt_tokens, output_tokens: columns are missing; columns found: a, b; "
            "write workload.trace.columns: {arrival_s: NAME, prompt_tokens: NAME, output_tokens: NAME}",
        ),
        ("arrival_s,prompt_tokens\n0,1\n", "t.csv:1: output_tokens: column is missing; columns found: arrival_s, prompt_tokens"),
        (CSV + "\n0,1,1\n\n1,x,1\n", "t.csv:4: prompt_tokens: not a number (got 'x')"),
        (CSV + "\n0,1,1\n1,,1\n", "t.csv:3: prompt_tokens: missing value"),
        (CSV + "\n0,1,1\n1,2\n", "t.csv:3: expected 3 fields as in the header, got 2"),
        (CSV + "\n0,1,1\n1,nan,1\n", "t.csv:3: prompt_tokens: not a number (got 'nan')"),
        (CSV + "\n0,1,1\ninf,1,1\n", "t.csv:3: arrival_s: not finite (got inf)"),
        (CSV + "\n0,1,1\n-1,1,1\n", "t.csv:3: arrival_s: must be at least 0 (got -1)"),
        (CSV + "\n0,-5,1\n", "t.csv:2: prompt_tokens: must be at least 0 (got -5)"),
        (CSV + "\n0,0,1\n", "t.csv:2: prompt_tokens: every row has 0 tokens"),
        (CSV + "\n0,1,1\n0,1,0\n", "t.csv:3: output_tokens: 1 of 2 rows has 0 tokens; write workload.trace.drop_empty_rows: true"),
        (CSV + "\n0,1.5,1\n", "t.csv:2: prompt_tokens: not a whole number (got 1.5)"),
        (CSV + "\n0,1e300,1\n", "t.csv:2: prompt_tokens: too large (got 1e+300)"),
        (CSV + "\n0,True,1\n", "t.csv:2: prompt_tokens: not a number (got True)"),
        (CSV + "\n0,1,1\n\n0,1,1,9\n", "t.csv:4: expected 3 fields as in the header, got 4"),
        (CSV + "\n0,1,1,9\n0,1,1,9\n", "t.csv:2: expected 3 fields as in the header, got 4"),
        (CSV + '\n0,1,"1\n', "t.csv:2: not valid CSV (a quote in the middle of a cell, or one that is not closed)"),
        (CSV + ",domain\n0,1,1,chat\n0,1,1,\n", "t.csv:3: domain: missing value"),
        (CSV + ",cached_prompt_tokens\n0,8,1,8\n", "t.csv:2: cached_prompt_tokens: must be below prompt_tokens (got 8)"),
        (AZURE + "\nyesterday,1,1\n", "t.csv:4: TIMESTAMP: not a date-time (got 'yesterday')"),
        (AZURE + "\n2023-11-17 00:00:01,1,0\n", "t.csv:4: GeneratedTokens: 1 of 3 rows has 0 tokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n1234,1,1\n", "t.csv:2: TIMESTAMP: not a date-time (got 1234)"),
        ("TIMESTAMP,ContextTokens\n1234,1\n", "t.csv:1: output_tokens: column is missing"),
    ],
)
def test_a_malformed_csv_is_one_line_that_says_where(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(written(tmp_path, text))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n'


@pytest.mark.parametrize(
    "text, line",
    [
        ("", "t.jsonl: the file is empty"),
        (GOOD + "\n{nonsense\n", "t.jsonl:3: not valid JSON"),
        (GOOD + "[1, 2]\n", "t.jsonl:2: expected a JSON object"),
        (GOOD + GOOD.replace('"input_length": 5, ', ""), "t.jsonl:2: input_length: missing value"),
        (GOOD + GOOD.replace('h": 5, "o', 'h": "5", "o'), "t.jsonl:2: input_length: not a number"),
        (GOOD + GOOD.replace('h": 5, "o', 'h": true, "o'), "t.jsonl:2: input_length: not a number"),
        (GOOD + GOOD.replace('"timestamp": 0', '"timestamp": -3'), "t.jsonl:2: timestamp: must be at least 0 (got -3)"),
        (GOOD + GOOD.replace('output_length": 5', 'output_length": 0'), "t.jsonl:2: output_length: 1 of 2 rows has 0 tokens"),
        (GOOD + GOOD.replace('"input_length": 5', '"input_length": 5.5'), "t.jsonl:2: input_length: not a whole number (got 5.5)"),
        (GOOD + GOOD.replace("[1]", "[1, true]"), "t.jsonl:2: hash_ids: must be a list of whole numbers"),
        (GOOD + GOOD.replace("[1]", "7"), "t.jsonl:2: hash_ids: must be a list of whole numbers"),
        (GOOD + GOOD.replace(', "hash_ids": [1]', ""), "t.jsonl:2: hash_ids: missing value"),
    ],
)
def test_a_malformed_jsonl_is_one_line_that_says_where(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(written(tmp_path, text, "t.jsonl"), prefix_cache="infinite")
    assert line in str(caught.value)


def test_what_is_no_text_or_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"\xc3\x28\x00\x01")
    with pytest.raises(TraceError, match="is not UTF-8 text"):
        read(tmp_path / "b.csv")
    late = written(tmp_path, CSV + "\n0,1,1\n", "late.csv")
    late.write_bytes(late.read_bytes() * 2000 + b"0,1,\xff\n")
    with pytest.raises(TraceError, match="is not UTF-8 text"):
        read(late)
    with pytest.raises(TraceError, match="no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(TraceError, match="expected a file, got a folder"):
        read(tmp_path)


def test_a_prefix_cache_needs_prefix_blocks(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="prefix_cache: the trace has no hash_ids; set it to none"):
        read(written(tmp_path, AZURE), prefix_cache="infinite")
    without = GOOD.replace(', "hash_ids": [1]', "")
    assert len(read(written(tmp_path, without, "m.jsonl"))) == 1  # not needed, not asked for


def test_a_window_starts_at_zero_with_the_cache_as_it_was(tmp_path: Path) -> None:
    text = mooncake((0, 600, 1, [1, 2]), (1000, 600, 2, [1, 3]), (2000, 600, 3, [1, 2]))
    written(tmp_path, text, "m.jsonl")
    trace = TraceSource(path=Path("m.jsonl"), window_s=(0.5, 2.0), prefix_cache="infinite").load(tmp_path)
    assert trace.arrival_s.tolist() == [0.5]
    assert trace.output_tokens.tolist() == [2]
    assert trace.cached_prompt_tokens.tolist() == [512]
    with pytest.raises(TraceError, match=r"m\.jsonl: workload\.trace\.window_s: no request arrives in \[5\.0, 6\.0\]; its arrivals span 0 to 2 s"):
        TraceSource(path=Path("m.jsonl"), window_s=(5, 6)).load(tmp_path)


def test_a_source_reads_a_file_again_only_when_it_changed(tmp_path: Path) -> None:
    source = TraceSource(path=Path("t.csv"))
    written(tmp_path, CSV + "\n0,1,1\n")
    first = source.load(tmp_path)
    assert source.load(tmp_path) is first
    with pytest.raises(ValueError, match="read-only"):
        first.arrival_s[0] = 5
    written(tmp_path, CSV + "\n0,1,1\n0,2,2\n")
    assert len(source.load(tmp_path)) == 2


def test_a_missing_file_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSIM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TraceError, match=r"t\.csv: no such file; pass --set workload\.trace\.path=FILE"):
        TraceSource(path=Path("t.csv")).load(tmp_path)
    remedy = r"run `dsim traces get azure-2023-code` or pass --set workload\.trace\.path=FILE"
    with pytest.raises(TraceError, match=remedy):
        TraceSource(name="azure-2023-code").load(tmp_path)
    (tmp_path / "cache").mkdir()
    written(tmp_path / "cache", AZURE, "azure-2023-code.csv")
    assert len(TraceSource(name="azure-2023-code").load(tmp_path)) == 2
    with pytest.raises(TraceError, match=r"t\.csv: no such file"):  # a path that is given is never passed over for another trace
        TraceSource(path=Path("t.csv"), name="azure-2023-code").load(tmp_path)
    written(tmp_path, CSV + "\n0,1,1\n")
    assert len(TraceSource(path=Path("t.csv"), name="azure-2023-code").load(tmp_path)) == 1  # the file wins


@pytest.mark.parametrize(
    "content, problem",
    [
        ({}, "expected a path or the name"),
        ({"name": "azure-2023-conv"}, "did you mean 'azure-2023-conversation'"),
        ({"name": "zzz"}, "public traces: azure-2023-conversation, azure-2023-code"),
        ({"path": "a", "window_s": [5, 5]}, "window_s must end after it starts"),
        ({"path": "a", "format": "parquet"}, "Input should be 'auto', 'azure', 'mooncake' or 'csv'"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TraceSource.model_validate(content)


def test_a_hash_list_holds_whole_numbers_only() -> None:
    assert is_hash_list([]) is True
    assert not any(map(is_hash_list, (None, 3, [1.0], ["a"], [True])))


def test_a_trace_is_played_several_times_over(tmp_path: Path) -> None:
    """Gaps of 2 and 4 s: the next round begins the mean gap, 3 s, after the last arrival."""
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens,domain\n0,5,1,a\n2,6,2,b\n6,7,3,a\n")
    trace = TraceSource(path=Path("t.csv"), repeat=2).load(tmp_path)
    assert trace.arrival_s.tolist() == [0, 2, 6, 9, 11, 15]
    assert trace.output_tokens.tolist() == [1, 2, 3] * 2
    assert [r.domain for r in trace] == ["a", "b", "a"] * 2


@pytest.mark.parametrize(("window_s", "round_s"), [((2.0, 10.0), 8.0), ((0.0, 20.0), 20.0), ((0.0, 30.0), 24.0)])
def test_a_window_is_repeated_with_the_quiet_at_its_end(tmp_path: Path, window_s: tuple[float, float], round_s: float) -> None:
    """Five requests in the first seconds, and one at 20 s, beyond the first two windows. The third is longer than the file: a gap of 4 s follows."""
    path = written(tmp_path, f"{CSV}\n" + "".join(f"{at},5,1\n" for at in (0, 1, 2, 3, 4, 20)))
    once, trace = (read(path, window_s=window_s, repeat=times).arrival_s for times in (1, 2))
    assert trace.tolist() == [*once, *(once + round_s)]


@pytest.mark.parametrize("window_s", [None, (1.0, 3.0)])
def test_all_prompts_of_a_round_are_cached_in_the_next(tmp_path: Path, window_s: tuple[float, float] | None) -> None:
    """Blocks of 512 tokens; the last token of a prompt is never cached, and of the longest one only whole blocks are listed."""
    rows = mooncake((1000, 1024, 1, [3, 4]), (0, 1024, 1, [1, 2]), (2000, 1100, 1, [1, 5]))
    trace = read(written(tmp_path, rows, "t.jsonl"), prefix_cache="infinite", block_tokens=512, window_s=window_s, repeat=3)
    first, later = ([0, 0, 512], [1023, 1023, 1024]) if window_s is None else ([0, 512], [1023, 1024])
    assert trace.cached_prompt_tokens.tolist() == first + later * 2

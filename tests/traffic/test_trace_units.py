"""Units of time and sizes of prefix blocks: read where the file proves them, refused where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.traffic.trace_rows import LONG, TURNS, bailian, mooncake, read, refusal, without, words


def test_bailian_is_read_in_seconds_and_blocks_of_16(file: Callable[..., Path]) -> None:
    path = file(bailian())
    trace = read(path, prefix_cache="infinite")
    assert trace.arrival_s[-1] == pytest.approx(float(TURNS[-1]["arrival_s"]) - float(TURNS[0]["arrival_s"]))
    assert trace.cached_prompt_tokens.tolist() == [int(turn["cached_prompt_tokens"]) for turn in TURNS]
    assert words(path, prefix_cache="infinite") == (
        "60 requests in 59.1 s, 0.998 per second on average; arrivals in seconds, prefix blocks of 16 tokens"
    )
    assert words(path).endswith("arrivals in seconds, hash_ids not used (prefix_cache: none)")


def test_mooncakes_names_with_fractions_are_refused_with_what_to_write(file: Callable[..., Path]) -> None:
    path = file(without(bailian(), "chat_id", "parent_chat_id", "turn"))
    line = refusal(path)
    assert line.startswith("t.jsonl:1: timestamp: 0.071 is not a whole number of milliseconds")
    assert "unit: s, block_tokens: 16" in line
    assert read(path, unit="s", block_tokens=16, prefix_cache="infinite").cached_prompt_tokens.max() == 256
    assert read(path, unit="ms").arrival_s[-1] < 0.06


def test_mooncakes_names_with_unix_seconds_are_refused(file: Callable[..., Path]) -> None:
    path = file(without(mooncake(512, 3), timestamp=lambda row: 1_715_472_000.5 + row["timestamp"] / 1000))
    assert "it looks like Unix seconds; write workload.trace.unit: s" in refusal(path)
    assert read(path, unit="s").arrival_s.tolist() == [0, 1, 2]


def test_mooncakes_names_with_whole_seconds_are_refused(file: Callable[..., Path]) -> None:
    path = file(mooncake(512, gap=1))
    line = refusal(path)
    assert "40 requests in 0.039 s, 1,000 per second on average, read in milliseconds: are they seconds?" in line
    assert "write workload.trace.unit: s, or unit: ms if it is right" in line
    assert read(path, unit="s").arrival_s[-1] == 39
    assert read(path, unit="ms").arrival_s[-1] == 0.039


def test_bailian_in_milliseconds_is_refused(file: Callable[..., Path]) -> None:
    path = file(without(bailian(), timestamp=lambda row: round(row["timestamp"] * 1000)))
    assert "60 requests in 16.4 hours, one every 1,002 s on average, read in seconds: are they milliseconds?" in refusal(path)
    assert read(path, unit="ms").arrival_s[-1] == pytest.approx(59.1, abs=0.1)


@pytest.mark.parametrize("block", [16, 64, 128, 1024])
@pytest.mark.parametrize("spare", [0, 7])
def test_the_block_is_inferred_where_one_size_fits(file: Callable[..., Path], block: int, spare: int) -> None:
    path = file(mooncake(block, spare=spare))
    assert read(path, prefix_cache="infinite").cached_prompt_tokens.tolist() == [0] + [4 * block] * 39
    assert f"prefix blocks of {block:,} tokens (inferred from hash_ids)" in words(path, prefix_cache="infinite")


def test_blocks_that_leave_out_the_last_tokens_are_known_too(file: Callable[..., Path]) -> None:
    rows = without(mooncake(128), input_length=lambda row: row["input_length"] + 100)
    assert read(file(rows), prefix_cache="infinite").cached_prompt_tokens[1] == 512


def test_a_block_that_the_rows_deny_is_refused(file: Callable[..., Path]) -> None:
    path = file(mooncake(128))
    line = refusal(path, prefix_cache="infinite", block_tokens=512)
    assert "t.jsonl:1: workload.trace.block_tokens: 8 hash_ids for a prompt of 1,024 tokens cannot be blocks of 512 tokens; " in line
    assert line.endswith("write workload.trace.block_tokens: 128")
    assert len(read(path, block_tokens=512)) == 40  # not used


def test_no_size_and_several_sizes_are_refused(file: Callable[..., Path]) -> None:
    mixed = without(mooncake(128), input_length=lambda row: row["input_length"] * (1 + row["timestamp"] % 3000 // 1000))
    assert "no size fits all rows: fix them, or set prefix_cache to none" in refusal(file(mixed), prefix_cache="infinite")
    alike = [{"timestamp": 0, "input_length": 1020, "output_length": 5, "hash_ids": list(range(2))} for _ in range(3)]
    assert read(file(alike), prefix_cache="infinite").cached_prompt_tokens.tolist() == [0, 1019, 1019]  # blocks of 512 are usual
    short = [row | {"input_length": 300} for row in alike]
    assert "write workload.trace.block_tokens: 256" in refusal(file(short), prefix_cache="infinite", block_tokens=512)
    long = [row | {"input_length": 3000, "hash_ids": [1]} for row in alike]
    assert refusal(file(long), prefix_cache="infinite") == (
        f"t.jsonl: hash_ids: may be blocks of {', '.join(f'{2**n:,}' for n in range(12, 20))} or 1,048,576 tokens; "
        "write workload.trace.block_tokens: NUMBER"
    )
    odd = [row | {"input_length": 96 * n, "hash_ids": list(range(n))} for n, row in zip((40, 41, 42), alike, strict=True)]
    assert read(file(odd), prefix_cache="infinite").cached_prompt_tokens.tolist() == [0, 3840, 3936]  # blocks of 96 and no other
    odder = [row | {"input_length": 1000 - 15 * n, "hash_ids": list(range(10))} for n, row in enumerate(alike)]
    assert "hash_ids: may be blocks of 100 or 101 tokens" in refusal(file(odder), prefix_cache="infinite")


@pytest.mark.parametrize("per, unit", [(1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns")])
def test_unix_times_in_every_unit(file: Callable[..., Path], per: float, unit: str) -> None:
    stamps = [int((1_715_472_000 + i) * per) for i in range(30)]
    path = file("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{stamp},300,50\n" for stamp in stamps))
    if unit != "s":
        assert refusal(path) == (
            f"t.csv:31: arrival_s: {stamps[-1]} is not a time in seconds: it looks like Unix {LONG[unit]}; write workload.trace.unit: {unit}"
        )
    assert read(path, unit=unit).arrival_s.tolist() == pytest.approx(list(range(30)), abs=1e-6)
    assert "from 2024-05-12 00:00:00 UTC" in words(path, unit=unit)
    named = file(path.read_text().replace("arrival_s", "timestamp"), "named.csv")
    assert read(named).arrival_s[-1] == pytest.approx(29)  # no other unit makes it a date
    rows = [{"timestamp": stamp, "input_length": 5, "output_length": 5} for stamp in stamps]
    if unit == "ms":
        assert read(file(rows)).arrival_s[-1] == 29
    else:
        assert f"write workload.trace.unit: {unit}" in refusal(file(rows))


def test_whole_numbers_that_are_too_slow_for_seconds_are_refused(file: Callable[..., Path]) -> None:
    path = file("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i * 1000},300,50\n" for i in range(30)))
    assert "arrival_s: 30 requests in 8.1 hours, one every 1,000 s on average, read in seconds: are they milliseconds?" in refusal(path)
    assert words(path, unit="s") == "30 requests in 8.1 hours, one every 1,000 s on average; arrivals in seconds"
    assert words(path, unit="ms") == "30 requests in 29 s, 1 per second on average; arrivals in milliseconds"


@pytest.mark.parametrize(
    "gap, n, says", [(100, 30, "refused"), (60, 3, "refused"), (60, 2, ""), (50, 30, "doubt"), (5, 3, "doubt"), (4, 30, ""), (60.5, 30, "doubt")]
)
def test_a_slow_trace_is_refused_or_doubted(file: Callable[..., Path], gap: float, n: int, says: str) -> None:
    path = file("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i * gap:g},300,50\n" for i in range(n)))
    if says == "refused":
        assert "write workload.trace.unit: ms, or unit: s if it is right" in refusal(path)
    else:
        assert words(path).endswith("arrivals in seconds" + " (if they are milliseconds, set unit: ms)" * (says == "doubt"))
    assert words(path, unit="s").endswith("arrivals in seconds")
    stamps = file("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{1_715_472_000 + i * gap:.1f},300,50\n" for i in range(n)), "unix.csv")
    assert "Unix seconds" in words(stamps)  # no other unit makes it a date


@pytest.mark.parametrize("gap, n, says", [(1, 10, "refused"), (10, 10, "refused"), (1, 9, ""), (20, 40, "doubt"), (60, 40, "")])
def test_fast_milliseconds_are_refused_or_doubted(file: Callable[..., Path], gap: float, n: int, says: str) -> None:
    path = file(without(mooncake(512, n, gap), "hash_ids"))
    if says == "refused":
        assert "are they seconds?" in refusal(path)
    else:
        assert words(path).endswith("arrivals in milliseconds" + " (if they are seconds, set unit: s)" * (says == "doubt"))


def test_a_row_that_lies_years_apart_is_refused(file: Callable[..., Path]) -> None:
    path = file("arrival_s,prompt_tokens,output_tokens\n1715472000,1,1\n0,1,1\n1715472002,1,1\n")
    assert refusal(path).startswith("t.csv:3: arrival_s: arrivals span 54 years (got 0)")
    stamps = file("time,prompt_tokens,output_tokens\n2024-05-12 00:00:01,1,1\n1970-01-01 00:00:00,1,1\n2024-05-12 00:00:02,1,1\n")
    assert refusal(stamps).startswith("t.csv:3: time: arrivals span 54 years (got 1970-01-01 00:00:00)")

"""A window of a trace is read a few rows at a time, and is what it would be in the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.reading import csv_blocks
from simulator.traffic import prefix_blocks, trace_files
from tests.traffic.trace_rows import read, refusal

Row = tuple[int, int, int, list[int]]  # milliseconds, prompt and output tokens, hash_ids
SPAN_S = 40


@st.composite
def traces(draw: st.DrawFn) -> list[Row]:
    """Up to thirty rows in any order, in blocks of 512 tokens."""
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, SPAN_S * 1000), st.integers(1, 9), st.lists(st.integers(0, 9), min_size=1, max_size=4)), min_size=1, max_size=30
        )
    )
    rows = sorted(rows) if draw(st.booleans()) else rows
    return [(time, 512 * len(blocks), output, blocks) for time, output, blocks in rows]


def by_hand(rows: list[Row], first_s: float, end_s: float) -> list[tuple[float, int, int]]:
    """Arrival, output and cached tokens of the window, one request after another."""
    origin, seen, played = min(row[0] for row in rows) / 1000, set[tuple[int, ...]](), []
    for time, prompt, output, blocks in sorted(rows, key=lambda row: row[0]):
        chains = [tuple(blocks[: n + 1]) for n in range(len(blocks))]
        hits = next((n for n, chain in enumerate(chains) if chain not in seen), len(blocks))
        seen.update(chains)
        arrival_s = time / 1000 - origin
        if first_s <= arrival_s < end_s:
            played.append((arrival_s - first_s, output, min(512 * hits, prompt - 1)))
    return played


@settings(max_examples=30, deadline=None)
@given(traces(), st.integers(0, SPAN_S), st.integers(1, SPAN_S), st.integers(1, 60))
def test_a_window_is_that_of_the_whole(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], first_s: int, width_s: int, block: int) -> None:
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    folder, window = tmp_path_factory.mktemp("w"), (float(first_s), float(first_s + width_s))
    expected = by_hand(rows, *window)
    lines, cells = folder / "t.jsonl", folder / "t.csv"
    lines.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    cells.write_text("timestamp,input_tokens,output_tokens\n" + "".join(f"{time},{prompt},{output}\n" for time, prompt, output, _ in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_blocks, "_BLOCK", block)
        patch.setattr(trace_files, "_ROWS", 1 + block % 7)
        patch.setattr(prefix_blocks, "_ROWS", 1 + block % 5)
        for path, keys in ((lines, {"prefix_cache": "infinite", "block_tokens": 512}), (cells, {})):
            settings: dict[str, Any] = {"unit": "ms", **keys}
            if not expected:
                assert "no request arrives in [" in refusal(path, window_s=window, **settings)
                continue
            trace = read(path, window_s=window, **settings)
            assert trace.arrival_s.tolist() == [arrival_s for arrival_s, _, _ in expected]
            assert trace.output_tokens.tolist() == [output for _, output, _ in expected]
            assert trace.cached_prompt_tokens.tolist() == [cached if keys else 0 for _, _, cached in expected]


def test_a_window_of_date_times_that_end_earlier_than_they_begin(tmp_path: Path) -> None:
    stamps = ["2024-05-12 00:01:40", "2024-05-12 00:01:41", "2024-05-12 00:00:00.5", "2024-05-12 00:00:30"]
    (tmp_path / "t.csv").write_text("time,isl,osl\n" + "".join(f"{stamp},{n},1\n" for n, stamp in enumerate(stamps, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_blocks, "_BLOCK", 1)
        trace = read(tmp_path / "t.csv", window_s=(10.0, 100.0))
    assert (trace.arrival_s.tolist(), trace.prompt_tokens.tolist()) == ([19.5, 89.5], [4, 1])


def test_names_that_come_late_in_json_count(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"timestamp": n, "input_length": 5, "output_length": 5} for n in range(6)]
    for late, says in (
        ({"delay": 5}, "t.jsonl:7: session_id: the turns of a session wait for the answer before them"),
        ({"domain": "chat"}, "t.jsonl:1: domain: missing value"),
    ):
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | late]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trace_files, "_SAMPLE", 2)
            assert says in refusal(tmp_path / "t.jsonl", unit="s")


def test_a_window_is_kept_and_little_else(tmp_path: Path) -> None:
    import tracemalloc

    n = 100_000
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},{1 + i % 999},7\n" for i in range(n)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_blocks, "_BLOCK", 1 << 16)
        tracemalloc.start()
        trace = read(tmp_path / "t.csv", window_s=(1000.0, 1010.0), unit="s")
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert trace.prompt_tokens.tolist() == [1 + i % 999 for i in range(1000, 1010)]
    assert peak_bytes < 2e6  # the file has 1.2 MB, and its columns 4 MB

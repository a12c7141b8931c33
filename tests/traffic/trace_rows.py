"""Traces read as a scenario reads them, and rows of the forms in which services publish them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import TraceError
from simulator.traffic.request import RequestColumns
from simulator.traffic.traces import TraceSource

TURNS = list(csv.DictReader((Path(__file__).parent / "turns.csv").open()))
LONG = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
Row = dict[str, Any]


def source(path: Path, **keys: Any) -> TraceSource:
    return TraceSource.model_validate({"path": path, **keys})


def read(path: Path, **keys: Any) -> RequestColumns:
    return source(path, **keys).load(Path())


def words(path: Path, **keys: Any) -> str:
    return source(path, **keys).words(Path())


def refusal(path: Path, **keys: Any) -> str:
    with pytest.raises(TraceError) as caught:
        read(path, **keys)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{path}", path.name)


def bailian(block: int = 16, **changes: Any) -> list[Row]:
    """Sixty turns, a second apart; the second of a chat begins with the first 256 tokens of the turn before."""
    rows, new = [], 0
    for i, turn in enumerate(TURNS):
        blocks, shared = ceil(int(turn["prompt_tokens"]) / block), int(turn["cached_prompt_tokens"]) // block
        hashes = [*rows[-1]["hash_ids"][:shared], *range(new, new + blocks - shared)] if shared else list(range(new, new + blocks))
        new += blocks
        row = {"chat_id": i, "parent_chat_id": i - 1 if shared else -1, "timestamp": float(turn["arrival_s"]), "type": "text", "turn": 1}
        rows.append(row | {"input_length": int(turn["prompt_tokens"]), "output_length": 20, "hash_ids": hashes} | changes)
    return rows


def without(rows: list[Row], *keys: str, **changes: Callable[[Row], Any]) -> list[Row]:
    """Rows without some keys, and with others made from the row."""
    return [{k: v for k, v in row.items() if k not in keys} | {k: make(row) for k, make in changes.items()} for row in rows]


def mooncake(block: int, n: int = 40, gap: float = 1000, spare: int = 0) -> list[Row]:
    """Prompts of 8 to 10 blocks, less `spare` tokens; the first 4 blocks are those of all."""
    rows = []
    for i in range(n):
        blocks = 8 + i % 3
        hashes = [0, 1, 2, 3, *range(100 + 10 * i, 100 + 10 * i + blocks - 4)]
        rows.append({"timestamp": i * gap, "input_length": block * blocks - spare, "output_length": 20, "hash_ids": hashes})
    return rows

"""A seal for a terminal: what was predicted of each condition, and what it recommends."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.report.blocks import Block, Cell, Column, Lines, Row, table
from simulator.report.page import Page, section
from simulator.report.wording import plain
from simulator.study.sealed.numbers import NUMBERS, SPEED, THROUGHPUT
from simulator.study.sealed.result import Kind
from simulator.study.sealed.seal import Condition, Seal, SealedNumber

SHOWN = (SPEED, THROUGHPUT, "ttft_p50_s", "ttft_p90_s")


def seal_page(seal: Seal) -> Page:
    """A section for each condition."""
    parts = (section(condition.name, condition.name, *_blocks(condition)) for condition in seal.conditions)
    return Page("Sealed predictions", "dsim predict", "", seal.dsim_version, tuple(part for part in parts if part))


def _blocks(condition: Condition) -> Iterator[Block]:
    heads, unit = [NUMBERS[name] for name in SHOWN], load_unit(condition.load_kind, condition.replicas)
    columns: tuple[Column | str, ...] = ("policy", unit, *(Column(head.title, head.unit) for head in heads))
    rows: list[Row] = [
        [cell.policy, f"{cell.load:g}", *(shown(cell.numbers.get(head.name), 1e3 if head.unit == "ms" else 1.0) for head in heads)]
        for cell in condition.cells
    ]
    yield table("cells", "Predicted, with 90 % prediction intervals.", columns, rows)
    chosen = condition.decisions
    yield Lines(
        (
            *(f"{choice.load:g} {unit}: {choice.policy}" for choice in chosen.recommended),
            *(f"at {plain(c.tps_per_user)} tok/s per user: {c.policy}, {plain(c.throughput_tok_s)} tok/s" for c in chosen.promises),
        ),
        "Recommended" + (f" (over all: {chosen.recommended_overall})" if chosen.recommended_overall else ""),
    )
    yield Lines(
        tuple(f"{knee.policy}: {knee.load:g} {unit}, {plain(knee.throughput_tok_s)} tok/s" for knee in chosen.knees),
        "Knees (largest throughput × per-user speed)",
    )
    yield Lines(tuple(f"{c.first} is faster below {plain(c.load)}, {c.second} above" for c in chosen.crossings), "Crossings")


def load_unit(kind: Kind, replicas: int) -> str:
    """What a load counts: users of one replica, as in `dsim run`, or requests per second of all."""
    if kind == "rate_rps":
        return "req/s"
    return "users" if replicas == 1 else "users per replica"


def shown(number: SealedNumber | None, factor: float = 1.0) -> Cell:
    """A prediction and its interval."""
    if number is None:
        return Cell("—")
    ends = "" if number.low is None or number.high is None else f"[{plain(number.low * factor)}, {plain(number.high * factor)}]"
    return Cell(plain(number.value * factor), more=ends)

"""The draft length by batch size: few ranges, not rising, nothing given up above the tolerance, and what each is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.measurements.cost import LinearDraft
from simulator.measurements.prices import RoundCost
from simulator.measurements.profile import Profile, load_profile
from simulator.study.profiles.lengths import LengthTable, Range, _non_rising, _wandering, _weights, length_table, token_rates, unmeasured
from tests.exchange.engine_files import CURVES, METRICS

Put = Callable[..., Path]
Dsim = Callable[..., Any]


@pytest.fixture
def imported(put: Put, dsim: Dsim, tmp_path: Path) -> Profile:
    """A profile with captured graphs up to 64 tokens and a drafter of three."""
    assert dsim("import", "vllm", "--curves", put("c.json", CURVES), "--metrics", put("m.txt", METRICS), "--out", tmp_path / "p").code == 0
    return load_profile(tmp_path / "p")


def test_rates_are_those_of_a_walk_along_every_sequence(imported: Profile) -> None:
    price, blocks = RoundCost(imported.costs, imported.drafter("drafter").draft, 3, 3), imported.blocks("drafter")
    rates = token_rates(imported, "drafter", 20, 0)
    for requests, k in ((1, 3), (7, 2), (16, 3), (20, 0)):
        rounds = tokens = 0
        for first, length in zip(blocks.first_row, blocks.length, strict=True):
            at = 0
            while at < length:
                taken = min(int(blocks.accepted[first + at]), k)
                at, rounds, tokens = at + taken + 1, rounds + 1, tokens + taken + 1
        seconds = price.round_s(requests, 0)[requests * k] - (price.draft_s(requests, 0) if k == 0 else 0.0)
        assert rates[requests - 1, k] == pytest.approx(requests * tokens / rounds / seconds)


def test_rates_have_every_part_of_a_round(repository: Path) -> None:
    profile = load_profile(repository / "profiles" / "cpu-smollm2-135m")
    known = profile.drafter("dspark")
    assert known.draft.takes_in
    assert profile.costs.overhead.per_request_s > 0
    price, context = RoundCost(profile.costs, known.draft, known.gamma, known.gamma), 256.0  # a round number: not rounded by the price
    rates = token_rates(profile, "dspark", 8, context)
    gained = rates[:, -1] * [price.round_s(requests, context)[-1] / requests for requests in range(1, 9)]
    assert gained == pytest.approx([gained[0]] * 8)  # tokens of a round, of any batch
    assert rates[:, 0] == pytest.approx([r / (price.round_s(r, context)[0] - price.draft_s(r, context)) for r in range(1, 9)])


def test_rates_of_a_drafter_that_does_not_always_propose(imported: Profile) -> None:
    """Every second anchor at random proposes, nothing is accepted: half the tokens and half the share of each request, and the base of drafting
    where anybody proposes; length 0 drafts nothing."""
    price = LinearDraft(provenance="synthetic", base_s=0.01, per_request_s=0.002)
    drafter = imported.drafter("drafter").model_copy(update={"draft": price})
    profile = imported.model_copy(update={"drafters": {"drafter": drafter}})
    blocks = imported.blocks("drafter")
    blocks = replace(blocks, accepted=0 * blocks.accepted, acceptance=None)
    profile._blocks["drafter"] = blocks.proposing(3 * (np.arange(blocks.rows) % 2))
    rates, verify = token_rates(profile, "drafter", 9, 0), profile.costs.verify
    for requests in (1, 4, 9):
        for k, drafts_s in ((0, 0.0), (2, 0.01 * (1 - 0.5**requests) + 0.001 * requests)):
            seconds = float(verify.seconds(requests * (1 + k / 2), requests, 0)) + profile.costs.overhead.seconds + drafts_s
            assert rates[requests - 1, k] == pytest.approx(requests / seconds)


def test_the_tables_are_those_of_a_search_over_all() -> None:
    share = np.random.default_rng(3).uniform(0.5, 1, (9, 4))
    for ranges, table in enumerate(_non_rising(share), start=1):
        best = 0.0
        for starts in combinations(range(1, 9), ranges - 1):
            for lengths in combinations(range(3, -1, -1), ranges):  # falling
                tried = np.repeat(lengths, np.diff([0, *starts, 9]))
                best = max(best, float((share[np.arange(9), tried] * _weights(9)).sum()))
        assert float((share[np.arange(9), table] * _weights(9)).sum()) == pytest.approx(best)
        assert (np.diff(table) <= 0).all()
        assert len(set(table.tolist())) == ranges


def test_a_jagged_optimum_becomes_few_ranges(imported: Profile) -> None:
    exact, few = (length_table(imported, "drafter", 64, 0, tolerance) for tolerance in (0.0, 0.02))
    assert few.changes > len(few.ranges)  # the stairs of the graphs
    for table in (exact, few):
        assert (table.ranges[0].first, table.ranges[-1].last) == (1, 64)
        assert [row.first for row in table.ranges[1:]] == [row.last + 1 for row in table.ranges[:-1]]
        assert all(a.length > b.length for a, b in zip(table.ranges, table.ranges[1:], strict=False))
    assert len(few.ranges) <= len(exact.ranges)
    assert exact.lost <= few.lost < 0.02 + exact.lost
    assert few.ranges[-1].length == 0  # 64 requests and one draft each leave the captured graphs
    assert length_table(imported, "drafter", 64, 0, 0.99).ranges[0].last == 64
    rates = token_rates(imported, "drafter", 64, 0)
    for row in few.ranges:
        part, sizes = rates[row.first - 1 : row.last], np.arange(row.first, row.last + 1)
        gains = part[:, row.length] / part[:, few.fixed]
        assert row.gain == pytest.approx(float((gains / sizes).sum() / (1 / sizes).sum()) - 1)  # doublings count alike


def test_a_range_stays_where_more_than_the_tolerance_would_be_lost_without_it(imported: Profile) -> None:
    share = token_rates(imported, "drafter", 64, 0)
    share = share / share.max(axis=1, keepdims=True)
    best = _wandering(share)[np.arange(64), _non_rising(share)[-1]]
    for tolerance in (0.001, 0.02):
        ranges = length_table(imported, "drafter", 64, 0, tolerance).ranges
        assert len(ranges) > 1
        for place, row in enumerate(ranges):
            part = slice(row.first - 1, row.last)
            beside = [ranges[other].length for other in (place - 1, place + 1) if 0 <= other < len(ranges)]
            assert row.missed == pytest.approx(min(float((best[part] - _wandering(share)[part, k]).max()) for k in beside))
            assert row.missed > tolerance
    (only,) = length_table(imported, "drafter", 64, 0, 0.99).ranges
    assert (only.missed, only.missed_at) == (None, None)


def test_lengths_beyond_what_was_measured_are_warned_of(put: Put, dsim: Dsim, tmp_path: Path) -> None:
    """Costs are known to 256 tokens, and the counters are of three drafted tokens."""
    files = ("--curves", put("c.json", CURVES), "--metrics", put("m.txt", METRICS), "--slots", 6)
    assert dsim("import", "vllm", *files, "--out", tmp_path / "p").code == 0
    profile = load_profile(tmp_path / "p")
    assert (profile.drafter("drafter").gamma, profile.drafter("drafter").counted) == (6, 3)

    def told(*ranges: tuple[int, int, int]) -> list[str]:
        return unmeasured(profile, "drafter", LengthTable(tuple(Range(*row, 0.0) for row in ranges), 3, 0, 0.0, 0.0, 1))

    assert told((1, 64, 3), (65, 256, 0)) == []
    assert told((1, 32, 5)) == ["k = 5, and 3 tokens were drafted where acceptance was counted: beyond them it is assumed; measure with k = 5"]
    (said,) = told((1, 200, 3))
    assert said.startswith("from 65 requests on steps have more than the 256 tokens that the cost was measured at: their cost is extrapolated")
    call = ("export", "vllm-lengths", tmp_path / "p", "--drafter", "drafter", "--out", tmp_path / "k.json", "--max-batch")
    assert "warning: from 257 requests on steps have more than the 256 tokens" in dsim(*call, 300).out
    assert "more than the 256 tokens" not in dsim(*call, 32).out


def test_the_shipped_stairs_are_worth_few_ranges(repository: Path) -> None:
    """A staircase read off a picture: its exact optimum changes 31 times."""
    profile = load_profile(repository / "profiles" / "deepseek-v4-flash-0731-b300")
    table = length_table(profile, "dspark", 256, 0, 0.02)
    assert table.changes > 20
    assert len(table.ranges) <= 5
    assert table.lost < 0.03


def test_the_export_says_what_each_range_gains(imported: Profile, dsim: Dsim, tmp_path: Path) -> None:
    call = ("export", "vllm-lengths", imported.folder, "--drafter", "drafter", "--out", tmp_path / "k.json", "--max-batch", 64)
    said = dsim(*call)
    assert said.code == 0
    table = json.loads((tmp_path / "k.json").read_text())["num_speculative_tokens_per_batch_size"]
    told = json.loads(dsim(*call, "--format", "json").out)
    assert table == [[row["first"], row["last"], row["length"]] for row in told["ranges"]]
    for row in told["ranges"]:
        gained = f"{100 * row['gain']:+.1f} % over k = {told['fixed']} everywhere in the mean"
        without = f"; without this range {100 * row['missed']:.1f} % lost at {row['missed_at']} requests"
        assert f"{row['first']}-{row['last']}: k = {row['length']}, {gained}{without}" in said.out
    assert "means are over doublings of the batch" in said.out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tolerance", "1"), ("--tolerance", "-0.1"), ("--tolerance", "nan"), ("--context", "nan"), ("--context", "inf"), ("--max-batch", "100000000")],
)
def test_an_option_out_of_range_writes_nothing(imported: Profile, dsim: Dsim, tmp_path: Path, option: str, value: str) -> None:
    said = dsim("export", "vllm-lengths", imported.folder, "--drafter", "drafter", "--out", tmp_path / "k.json", option, value)
    assert said.code == 2
    assert option in said.err
    assert not (tmp_path / "k.json").exists()


def test_the_longest_blocks_at_the_largest_batch_stay_small() -> None:
    import tracemalloc

    share = np.random.default_rng(0).random((64, 128))
    tracemalloc.start()
    tables = _non_rising(share)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 64 * 128 * 128 * 4  # a byte for each choice: 16,384 requests take 270 MB
    assert all((np.diff(table) <= 0).all() for table in tables)

"""What counters say of decode rounds: on real files, on worlds whose rounds are known, and pooled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import DsimError
from simulator.measurements.formats.bench import read_bench
from simulator.measurements.formats.rounds import COUNTS, SpecCounters
from simulator.measurements.formats.scrapes import counted_between, counters_in, read_counters

REAL = Path(__file__).parent / "real"
Put = Callable[..., Path]


@pytest.mark.parametrize(("server", "rounds", "accepted", "drafts"), [("ngram3", 756, 263, 154), ("draft3", 777, 234, 777)])
def test_a_bench_result_has_the_rounds_that_the_engine_counted(server: str, rounds: int, accepted: int, drafts: int) -> None:
    counted = read_counters(REAL / f"vllm-{server}-c4-after.txt", REAL / f"vllm-{server}-c4-before.txt")
    assert (counted.rounds, counted.accepted_tokens, counted.drafts) == (rounds, accepted, drafts)
    (point,) = read_bench(REAL / f"vllm-{server}-c4.json").points
    assert point.rounds == pytest.approx(rounds, rel=0.005)
    assert point.accepted_length == pytest.approx(counted.accepted_length, rel=0.002)
    assert point.accepted_length == pytest.approx(1 + accepted / rounds, rel=0.002)
    assert point.budget == pytest.approx(counted.budget, rel=0.002)
    assert point.proposing == pytest.approx(drafts / rounds, rel=0.005)
    assert point.survival == pytest.approx(counted.survival)
    assert (point.slots, point.requests, point.failed, point.offered, point.adaptive) == (3, 16, 0, 4, False)
    assert (point.prompt_tokens, point.output_tokens) == (99, 64)


def test_a_server_without_speculation_is_known_by_its_pieces() -> None:
    (point,) = read_bench(REAL / "vllm-none-b-c4.json").points
    assert (point.accepted_length, point.budget, point.proposing, point.slots, point.rounds) == (1, 1, 0, 0, 1008)
    counted = counters_in((REAL / "vllm-none-b-c4-after.txt").read_text(), "x")
    assert counted is not None
    assert (counted.drafts, counted.accepted_length, counted.budget, counted.proposing) == (0, 1, 1, 0)
    assert counted.rounds == (counted.generated or 0) - (counted.answers or 0)


def test_pieces_of_several_tokens_say_nothing_without_counters(put: Put) -> None:
    import json

    content = json.loads((REAL / "vllm-ngram3-c4.json").read_text())
    (point,) = read_bench(put("b.json", {key: value for key, value in content.items() if not key.startswith("spec_")})).points
    assert (point.accepted_length, point.budget, point.proposing, point.slots) == (None, None, None, None)


def traffic(seed: int, tokens: int, proposing: float, survival: list[float], answers: int = 4000) -> tuple[SpecCounters, int]:
    """Counters of answers of as many tokens, and their decode rounds: the first token is the prompt's, and drafts beyond the end are accepted too."""
    rng = np.random.default_rng(seed)
    left = np.full(answers, tokens - 1)
    drafts = rounds = 0
    taken = np.zeros(len(survival))
    while len(left):
        drafted = rng.random(len(left)) < proposing
        accepted = np.where(drafted, (rng.random(len(left))[:, None] < np.array(survival)).sum(axis=1), 0)
        rounds, drafts = rounds + len(left), drafts + int(drafted.sum())
        taken += (accepted[:, None] > np.arange(len(survival))).sum(axis=0)
        left = left - 1 - accepted
        left = left[left > 0]
    counts = SpecCounters(drafts, len(survival) * drafts, float(taken.sum()), taken.tolist(), generated=answers * tokens, answers=answers)
    return counts, rounds


@pytest.mark.parametrize("tokens", [10, 30, 64, 600])
@pytest.mark.parametrize(
    ("proposing", "survival"),
    [(1.0, [0.8, 0.55, 0.3]), (0.2, [0.7, 0.5, 0.4]), (0.6, [0.9, 0.85, 0.8, 0.75, 0.7]), (0.3, [0.6]), (0.9, [0.9, 0.8, 0.7])],
)
def test_rounds_are_found_at_every_length_of_answers(tokens: int, proposing: float, survival: list[float]) -> None:
    counted, rounds = traffic(1, tokens, proposing, survival, answers=40_000 // tokens)
    off = 0.01 if rounds > 6 * (counted.answers or 0) else 0.12  # answers of three rounds do not end anywhere
    assert counted.rounds == pytest.approx(rounds, rel=off)
    assert counted.proposing == pytest.approx(proposing, rel=off + 0.03)
    inside = (counted.generated or 0) - (counted.answers or 0) - counted.accepted_tokens
    if tokens < 100 and len(survival) > 1:  # without the tokens beyond the end
        assert abs(inside / rounds - 1) > abs((counted.rounds or 0) / rounds - 1)


def test_counters_of_other_traffic_are_named() -> None:
    counted, _ = traffic(2, 64, 0.3, [0.6, 0.3], answers=200)
    assert counted.remarks("f", 200 * 64) == []
    assert "f: counts more rounds" in counted.__class__(**{**vars(counted), "drafts": counted.drafts * 5}).remarks("f")[-1]
    assert "the server counted 12,800 tokens, the client 6,400" in counted.remarks("f", 6400)[0]
    cached = replace(counted, prompt_tokens=1000, cached_tokens=600)
    assert cached.remarks("f") == ["f: 60% of the prompts' tokens came from a cache: prompts that are not in it cost more"]


COUNT = st.integers(0, 10**6)


@st.composite
def counters(draw: Any, slots: int = 3) -> SpecCounters:
    taken = sorted((draw(st.integers(0, 10**5)) for _ in range(slots)), reverse=True)
    tried = [max(count, draw(st.integers(0, 10**5))) for count in taken]
    tried.sort(reverse=True)
    drafts = max(tried[0], 1) + draw(st.integers(0, 10**5))
    drafted = max(sum(tried), drafts)
    rounds = drafts + draw(COUNT)
    extra = [draw(COUNT) for _ in range(3)]
    return SpecCounters(
        drafts, min(drafted, slots * drafts), sum(taken), taken, tried, rounds + sum(taken), extra[0], rounds, extra[1], extra[2], model="m"
    )


def scrape(counted: SpecCounters, engine: int) -> str:
    """A scrape of vLLM with these counts."""
    labels = f'engine="{engine}",model_name="m"'
    spec = {"drafts": counted.drafts, "draft_tokens": counted.draft_tokens, "accepted_tokens": counted.accepted_tokens}
    lines = [f"vllm:spec_decode_num_{name}_total{{{labels}}} {value}" for name, value in spec.items()]
    names = {"generation_tokens_total": counted.generated, "time_to_first_token_seconds_count": counted.answers}
    names |= {"inter_token_latency_seconds_count": counted.decode_rounds, "prompt_tokens_total": counted.prompt_tokens}
    names |= {"prompt_tokens_cached_total": counted.cached_tokens}
    lines += [f"vllm:{name}{{{labels}}} {value}" for name, value in names.items() if value is not None]
    for name, values in (("accepted", counted.per_position), ("draft", counted.tried or [])):
        lines += [f'vllm:spec_decode_num_{name}_tokens_per_pos_total{{{labels},position="{k}"}} {value}' for k, value in enumerate(values)]
    return "\n".join(lines) + "\n"


@given(counters(), counters())
def test_ranks_of_a_server_count_together_what_they_counted_apart(first: SpecCounters, second: SpecCounters) -> None:
    both = counters_in(scrape(first, 0) + scrape(second, 1), "x")
    assert both is not None
    for name in COUNTS:
        one, other = getattr(first, name), getattr(second, name)
        assert getattr(both, name) == ([a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other)
    total = first.accepted_length * (first.rounds or 0) + second.accepted_length * (second.rounds or 0)
    assert both.accepted_length * (both.rounds or 0) == pytest.approx(total)
    least, most = sorted((first.accepted_length, second.accepted_length))
    assert least - 1e-9 <= both.accepted_length <= most + 1e-9


@given(counters(), counters())
def test_traffic_between_two_scrapes_is_what_came_after_the_first(first: SpecCounters, second: SpecCounters) -> None:
    earlier, later = scrape(first, 0), scrape(first, 0) + scrape(second, 1)
    early, late = counters_in(earlier, "early"), counters_in(later, "late")
    assert early is not None
    assert late is not None
    assert counted_between(early, late, "late") == second


@given(counters())
def test_survival_never_rises_and_lies_between_none_and_all(counted: SpecCounters) -> None:
    values = [1.0, *counted.survival, 0.0]
    assert values == sorted(values, reverse=True)
    assert 0 <= (counted.proposing or 0) <= 1
    assert 1 <= counted.accepted_length <= counted.slots + 1


def test_more_rounds_than_tokens_are_a_contradiction(put: Put) -> None:
    counted = SpecCounters(100, 300, 165, [80, 55, 30], None, 400, 10, 401)
    with pytest.raises(DsimError, match=r"m\.txt: counts 401 decode rounds, and 400 tokens; scrape /metrics again"):
        read_counters(put("m.txt", scrape(counted, 0)))


def test_positions_that_a_server_cut_are_judged_by_the_drafts_that_had_them(put: Put) -> None:
    whole = SpecCounters(100_000, 200_000, 122_500, [80_000, 27_500, 15_000])
    assert whole.cut
    assert "drafts have 2 tokens of 3 in the mean: what was not drafted counts as rejected" in whole.remarks("f")[0]
    told = replace(whole, tried=[100_000, 50_000, 50_000])
    assert told.survival == [0.8, 0.55, 0.3]
    counted = read_counters(put("m.txt", scrape(told, 0)))
    assert counted.survival == told.survival
    assert counted.cut
    with pytest.raises(DsimError, match=r"draft_tokens_per_pos: expected 15,000 to 100,000 drafts with position 2, got 10"):
        read_counters(put("m.txt", scrape(replace(told, tried=[100_000, 50_000, 10]), 0)))
    assert not read_counters(REAL / "vllm-ngram3-c4-after.txt").cut  # 458 tokens for 154 drafts of 3: the end of what was matched

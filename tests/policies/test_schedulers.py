"""The schedulers of serving engines and tables with memory, against small worlds worked out by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from simulator.measurements.cost import Costs, FittedCurve, MeasuredTable, Overhead
from simulator.measurements.prices import RoundCost
from simulator.policies.rule import throughputs
from simulator.policies.schedulers import SGLANG_PROBES
from simulator.policies.verification import (
    AscendAdaptive,
    Belief,
    ByBatchAndContext,
    EngineView,
    SglangAdaptive,
    StepView,
    Tiered,
    Verification,
    VllmAdaptive,
)
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import PLAIN, blocks, costs, drafting, fleet, replay

MADE = {"provenance": "synthetic"}


def view(survival: object, round_s: object, **more: object) -> EngineView:
    rows = np.array(survival, dtype=float)
    lagged = [np.array(more.pop("lagged", rows), dtype=float)] * 2
    return EngineView(len(rows), rows.shape[1], rows, rows, lagged, np.array(round_s, dtype=float), **more)  # type: ignore[arg-type]


# --- vLLM ---


def test_vllms_budget_follows_the_running_means_and_is_spent_on_present_tokens() -> None:
    """One request, γ = 2, rounds of 10, 11 and 12 ms. The means (0.5, 0.4) give Θ of 1/10, 1.5/11, 1.7/12: two tokens;
    means of (0.05, 1) none, whatever the present ones say."""
    rule = VllmAdaptive()
    assert rule.choose(view([[0.9, 0.1]], [10, 11, 12], smoothed=np.array([[0.5, 0.2]]))).tolist() == [2]
    assert rule.choose(view([[0.9, 0.8]], [10, 11, 12], smoothed=np.array([[0.05, 0.05]]))).tolist() == [0]
    two = view([[0.9, 0.1], [0.5, 0.4]], [10, 11, 12, 20, 21], smoothed=np.array([[0.9, 0.8], [0.1, 0.1]]))
    assert rule.choose(two).tolist() == [1, 1]  # two tokens: 3.7/12; the best present ones are 0.9 and 0.5


def test_running_means_are_one_step_old_and_weigh_the_past() -> None:
    """Confidences 0.5, 0.9, 0.1 at the first three anchors. Seen at the steps: nothing (1), 0.5, 0.8 x 0.5 + 0.2 x 0.9 = 0.58, 0.8 x 0.58 + 0.02."""
    seen = []

    class Spy(VllmAdaptive):
        def choose(self, view: StepView) -> np.ndarray:
            assert isinstance(view, EngineView)
            assert view.smoothed is not None
            seen.append(float(view.smoothed[0, 0]))
            return np.zeros(view.requests, dtype=np.int64)

    drawn = replay(blocks([[0] * 9], 1, np.array([[0.5], [0.9], [0.1], *[[0.3]] * 6])))
    PLAIN.open([RequestSpec(0, 0.0, 1, 5, "")], fleet(costs(0.01), Spy(), drawn))
    assert seen == pytest.approx([1.0, 0.5, 0.58, 0.484])


def test_vllms_table_never_falls_and_knows_no_host_time(tmp_path: Path) -> None:
    """Steps that get shorter with more tokens (another kernel) are believed as long as the longest before; the context is not the batch's."""
    assert VllmAdaptive().belief == Belief(rising=True, overhead=False, context_tokens=8192.0)
    verify = FittedCurve(**MADE, base_s=0.010, per_token_s=0.001, per_context_token_s=1e-6, measured_tokens=(1, 9))
    falling = RoundCost(Costs(verify=verify, overhead=Overhead(**MADE)), None, 4, 4, rising=True, at_context=100.0)
    assert falling.round_s(1, 9e9) == pytest.approx(falling.round_s(1, 0.0))  # at one context length
    dips = MeasuredTable(**MADE, file="t.csv")
    (tmp_path / "t.csv").write_text("tokens,p50_s\n1,10\n2,14\n3,12\n4,11\n5,15\n")
    dips.attach(tmp_path)
    rising = RoundCost(Costs(verify=dips, overhead=Overhead(**MADE)), None, 4, 4, rising=True)
    assert rising.round_s(1, 0.0).tolist() == [10, 14, 14, 14, 15]


# --- SGLang ---


def test_sglang_believes_the_step_below() -> None:
    """Steps at 4 and 8 tokens cost 4 and 8 ms (1 ms a token). With four requests, 4 to 7 tokens are believed to cost 4 ms, so that three more are
    free; the fourth doubles the price: three tokens are admitted where each pays for 60 % of itself, and none more."""
    exact = costs(0.0, 0.001)
    floor = RoundCost(exact, None, 1, 1, probes=(4, 8))
    assert floor.round_s(4, 0.0) == pytest.approx([0.004, 0.004, 0.004, 0.004, 0.008])
    assert RoundCost(exact, None, 1, 1, probes=(4, 8)).round_s(9, 0.0)[-1] == pytest.approx(0.008)  # beyond the last as at the last
    assert RoundCost(exact, None, 1, 1, probes=(4, 8)).round_s(2, 0.0)[0] == pytest.approx(0.004)  # below the first as at the first
    chosen = SglangAdaptive().choose(view([[0.6]] * 4, floor.round_s(4, 0.0)))
    assert sorted(chosen.tolist()) == [0, 1, 1, 1]
    assert SglangAdaptive().belief.probes == SGLANG_PROBES
    assert SGLANG_PROBES[:6] == (1, 2, 4, 8, 12, 16)


def test_sglang_looks_two_steps_back_and_may_verify_nothing() -> None:
    now, then = [[0.9], [0.2]], [[0.01], [0.01]]
    assert SglangAdaptive().choose(view(now, [10, 11, 12], lagged=then)).tolist() == [0, 0]  # its minimum of one is the anchor
    assert SglangAdaptive().choose(view(then, [10, 11, 12], lagged=[[0.9], [0.1]])).tolist() == [1, 0]
    assert SglangAdaptive().lag_steps == 2


# --- vLLM-Ascend ---


def test_ascend_counts_survivals_every_sixteenth_step() -> None:
    """γ = 7. Five tokens each at first; of survivals .9 .8 .5 .2 … three a request reach 0.3, odd: three; of four slots, even: five."""
    rule, kept = AscendAdaptive(), np.zeros(AscendAdaptive.keeps)
    three, four = [[0.9, 0.8, 0.5, 0.2, 0.1, 0.05, 0.01]] * 2, [[0.9, 0.8, 0.5, 0.4, 0.1, 0.05, 0.01]] * 2
    sums = [int(rule.choose(view(three, np.ones(15), kept=kept)).sum()) for _ in range(16)]
    assert sums == [10] * 15 + [6]
    sums = [int(rule.choose(view(four, np.ones(15), kept=kept)).sum()) for _ in range(16)]
    assert sums == [6] * 15 + [10]


def test_ascends_floors() -> None:
    """No request goes below min_length; with prices the budget does not go below 80 % of k, however dear the tokens are believed to be."""
    rare = [[0.95, 0.9, 0.9], [0.01, 0.001, 0.0001]]
    kept = np.zeros(4)
    assert AscendAdaptive(initial=2).choose(view(rare, np.ones(7), kept=kept)).tolist() == [3, 1]
    dear = np.array([1.0, 100, 200, 300, 400, 500, 600])
    free = AscendAdaptive(initial=2, min_length=0, floor=0.0)
    kept = np.zeros(4)
    assert free.choose(view(rare, dear, kept=kept, smoothed=np.array(rare))).tolist() == [0, 0]
    floored = AscendAdaptive(initial=2, min_length=0, floor=0.7)
    kept = np.zeros(4)
    assert floored.choose(view(rare, dear, kept=kept, smoothed=np.array(rare))).tolist() == [3, 0]  # ⌈0.7 x 4⌉ = 3
    assert floored.choose(view(rare, np.ones(7), kept=kept, smoothed=np.array(rare))).sum() == 3  # kept until its turn comes


# --- tables with memory and with contexts ---


def tier(kept: np.ndarray, requests: int, rule: Tiered) -> int:
    lengths = rule.choose(view(np.full((requests, 5), 0.5), np.ones(requests * 5 + 1), kept=kept))
    assert len(set(lengths.tolist())) == 1
    return int(lengths[0])


def test_a_tier_is_left_only_beyond_its_band() -> None:
    rule, kept = Tiered(table=[(1, 8, 5), (9, 16, 3), (17, 99, 1)], band=2), np.zeros(1)
    assert [tier(kept, r, rule) for r in (8, 10, 11, 9, 7, 6, 10, 18, 19, 15, 14, 200, 1)] == [5, 5, 3, 3, 3, 5, 5, 1, 1, 1, 3, 1, 5]
    sharp, kept = Tiered(table=[(1, 8, 5), (9, 99, 3)], band=0), np.zeros(1)
    assert [tier(kept, r, sharp) for r in (8, 9, 8)] == [5, 3, 5]


def test_a_tier_is_remembered_by_each_replica_and_drafts_what_it_verifies() -> None:
    """Two users at once, then one: at a border of 1 | 2 with a band of 1 the length of two users stays. Drafting is paid by the token."""
    rule = Tiered(table=[(1, 1, 3), (2, 9, 1)], band=1)
    drawn = replay(blocks([[0] * 20], 3))
    told = PLAIN.open([RequestSpec(0, 0.0, 1, 3, ""), RequestSpec(1, 0.0, 1, 6, "")], fleet(costs(0.01), rule, drawn, drafting(0.0, 0.0, 0.001)))
    decoding = told.steps["requests"] > 0
    assert told.steps["verified"][decoding].tolist() == [2, 2, 1, 1, 1]
    assert told.steps["draft_s"][decoding] == pytest.approx([0.001] * 5)
    assert (told.steps["end_s"] - told.steps["start_s"])[decoding] == pytest.approx([0.011] * 5)


def test_lengths_by_batch_and_context() -> None:
    table = [(1, 4, 0, 767, 3), (1, 4, 768, 9999, 5), (5, 9, 0, 9999, 1)]
    rule = ByBatchAndContext(table=table)
    cases = {(2, 100.0): 3, (4, 767.0): 3, (4, 767.5): 5, (4, 1e9): 5, (5, 100.0): 1, (999, 1e9): 1, (1, 0.0): 3}
    for (requests, context), length in cases.items():
        assert rule.choose(view(np.ones((requests, 5)), np.ones(requests * 5 + 1), context_tokens=context)).tolist() == [length] * requests
        lowered = rule.lowered(view(np.ones((1, 5)), [1]), 1000)
        ends, lengths = lowered.table[: lowered.settings["contexts"]], lowered.table[lowered.settings["contexts"] :].reshape(1001, -1)
        assert lengths[requests, min(np.searchsorted(ends, context), len(ends) - 1)] == length
    assert ByBatchAndContext(table=[(1, 9, 0, 9, 7)]).drafted_at(3, 4, 5.0) == 4  # no more than the drafter has


@pytest.mark.parametrize(
    "table, wrong",
    [
        ([(2, 4, 0, 9, 3)], "should begin at 1"),
        ([(1, 4, 1, 9, 3)], "should begin at 0"),
        ([(1, 4, 0, 9, 3), (1, 4, 11, 20, 3)], "should begin at 10"),
        ([(1, 4, 0, 9, 3), (6, 9, 0, 9, 3)], "should begin at 5"),
    ],
)
def test_holes_in_tables_are_refused(table: list[tuple[int, ...]], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        TypeAdapter(Verification).validate_python({"kind": "by_batch_and_context", "table": table})


def test_all_with_exact_prices_and_one_memory_choose_the_optimum() -> None:
    """Where confidences do not change and prices are true, vLLM's and SGLang's budgets are the best of all prefixes, by brute force."""
    luck = np.random.default_rng(3)
    for _ in range(20):
        survival = luck.uniform(0.05, 0.95, (2, 3)).cumprod(axis=1)
        round_s = 1 + luck.uniform(0, 0.3, 7).cumsum()
        best = max((2 + survival[0, :a].sum() + survival[1, :b].sum()) / round_s[a + b] for a, b in itertools.product(range(4), repeat=2))
        for rule in (VllmAdaptive(), SglangAdaptive()):
            lengths = rule.choose(view(survival, round_s, smoothed=survival))
            taken = 2 + sum(survival[r, : lengths[r]].sum() for r in range(2))
            assert taken / round_s[lengths.sum()] == pytest.approx(best)
    assert throughputs(survival, round_s, 0)[1].max() == pytest.approx(best)


def test_how_engines_are_set_to_follow_them() -> None:
    """vLLM's own switch and the context it profiles at; what no engine can be set to is said."""
    vllm = VllmAdaptive(profile_context=65_536).serving(7)
    assert (vllm.length, vllm.lag, vllm.profile_context) == (7, 1, 65_536)
    assert "ema: 0" in vllm.beyond[0]
    assert not VllmAdaptive(ema=0.0).serving(7).beyond
    assert SglangAdaptive().serving(5).lag == 2
    assert "additive" in SglangAdaptive().serving(5).beyond[0]
    assert "min_verify_tokens 1" in AscendAdaptive().serving(5).beyond[0]
    banded = Tiered(table=[(1, 8, 9), (9, 99, 1)], band=3).serving(5)
    assert (banded.by_batch, banded.table) == (True, ((1, 8, 5), (9, 99, 1)))
    assert "band of 3" in banded.beyond[0]
    assert ByBatchAndContext(table=[(1, 9, 0, 9, 3), (1, 9, 10, 99, 5)]).serving(5).table == ((1, 9, 3),)

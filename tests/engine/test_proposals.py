"""Drafters that propose 0 … γ tokens at an anchor, and the time it takes to choose, against what follows on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.engine.given import Fleet
from simulator.measurements.cost import Costs, LinearDraft, Scheduling
from simulator.measurements.prices import RoundCost
from simulator.policies.prefill import Chunked
from simulator.policies.verification import ByBatch, ConfidenceScheduled, FixedLength, Oracle, StepView, Threshold, Uniform, VerificationPolicy
from simulator.study.planning.breakeven import mean_round_s
from simulator.study.run.fluid import operating
from simulator.traffic.request import RequestSpec
from tests.engine.worlds import Engine, Users, agrees, blocks, costs, drafting, fleet, independent, replay

BASE_S, TOKEN_S = 0.01, 0.001
PRICE, DRAFT = costs(BASE_S, TOKEN_S, overhead=0.002), drafting(base=0.004, per_request=0.0005, per_slot=0.0001)
DRAFT_S = 0.004 + 0.0005 + 3 * 0.0001  # of one request that proposes


def alternating(policy: VerificationPolicy) -> Fleet:
    """Three tokens are proposed at every second anchor, of which two are accepted: the next anchor, three on, proposes nothing."""
    text = blocks([[2, 0] * 40], 3, np.full((80, 3), 0.7)).proposing(np.array([3, 0] * 40))
    return fleet(PRICE, policy, replay(text), DRAFT, max_batch=1)


def test_every_second_round_proposes(engine: Engine) -> None:
    """τ = (3 + 1) / 2, 3 / 2 verified a round, and drafting paid in every second round, all to the last bit of a sum."""
    run = engine.open([RequestSpec(0, 0.0, 1, 41, "a")], alternating(FixedLength(length=3)))
    steps = run.steps
    assert steps["verified"].tolist() == [3, 0] * 10
    assert steps["accepted"].tolist() == [2, 0] * 10
    assert steps["committed"].tolist() == [3, 1] * 10
    assert steps["draft_s"].tolist() == [pytest.approx(DRAFT_S), 0.0] * 10
    assert (steps["end_s"] - steps["start_s"]).tolist() == pytest.approx([BASE_S + 4 * TOKEN_S + 0.002 + DRAFT_S, BASE_S + TOKEN_S + 0.002] * 10)


def test_a_shorter_rule_cuts_what_is_proposed(engine: Engine) -> None:
    """One of three verified: two tokens committed, the next anchor proposes again."""
    steps = engine.open([RequestSpec(0, 0.0, 1, 41, "a")], alternating(FixedLength(length=1))).steps
    assert steps["verified"].tolist() == [1] * 20
    assert steps["committed"].tolist() == [2] * 20


def test_nothing_is_drafted_where_the_rule_drafts_nothing(engine: Engine) -> None:
    steps = engine.open([RequestSpec(0, 0.0, 1, 11, "a")], alternating(ByBatch(table=[(1, 4, 0), (5, 9, 3)]))).steps
    assert not steps["draft_s"].any()
    assert not steps["verified"].any()


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_proposals_by_chance(engine: Engine, share: float) -> None:
    """R requests that each propose three tokens with probability q, slots accepted with c: τ = 1 + q (c + c² + c³), 3 q verified, and a round of
    base + R (1 + 3 q) per token + drafting: its base where anybody proposes, 1 - (1 - q)^R, and its share of each that does."""
    users, chance = 4, 0.6
    tau, verified, seconds = [], [], []
    for seed in range(12):
        luck = np.random.default_rng(100 + seed)
        drawn = independent([chance] * 3, 64 * 40, seed)
        over = fleet(PRICE, FixedLength(length=3), replay(drawn.proposing(3 * (luck.random(drawn.rows) < share)), seed), DRAFT, max_batch=users)
        steps = engine.closed(Users(users, lambda _u, _t: 400, domain="a"), 2, over, seed).steps
        full = steps["requests"] == users
        tau.append(1 + steps["accepted"][full].sum() / (users * full.sum()))
        verified.append(steps["verified"][full].sum() / (users * full.sum()))
        seconds.append((steps["end_s"] - steps["start_s"])[full].mean())
    agrees(tau, 1 + share * (chance + chance**2 + chance**3), power=0.06)
    agrees(verified, 3 * share, power=0.08)
    drafts_s = (0.004 + 3 * 0.0001) * (1 - (1 - share) ** users) + 0.0005 * users * share
    agrees(seconds, 0.002 + BASE_S + users * (1 + 3 * share) * TOKEN_S + drafts_s, power=0.03)


def test_the_mean_field_knows_proposals() -> None:
    """The same closed form, in the mean of many batches."""
    share, users = 0.5, 6
    drawn = independent([0.6] * 3, 64 * 200, 3)
    drawn = drawn.proposing(3 * (np.random.default_rng(4).random(drawn.rows) < share))
    at = operating(fleet(PRICE, FixedLength(length=3), replay(drawn), DRAFT), users, 0.0, draws=2000)
    drafts_s = (0.004 + 3 * 0.0001) * (1 - (1 - share) ** users) + 0.0005 * users * share
    assert at.accepted_length == pytest.approx(1 + share * (0.6 + 0.36 + 0.216), rel=0.02)
    assert at.budget == pytest.approx(1 + 3 * share, rel=0.02)
    assert at.round_s == pytest.approx(0.002 + BASE_S + users * (1 + 3 * share) * TOKEN_S + drafts_s, rel=0.01)
    assert mean_round_s(RoundCost(PRICE, DRAFT, 3, 3), users, 0.0, drawn) == pytest.approx(at.round_s, rel=0.01)


def view(proposed: list[int], round_s: list[float], before: list[int] | None = None) -> StepView:
    """Requests with confidences of one half up to what each proposes, and what it proposed a step ago."""
    confidence, survival = (np.where(np.arange(2) < np.array(proposed)[:, None], c, 0.0) for c in (0.5, np.array([0.5, 0.25])))
    lagged = () if before is None else [np.where(np.arange(2) < np.array(before)[:, None], np.array([0.5, 0.25]), 0.0)]
    seen = StepView(len(proposed), 2, confidence, survival, lagged, np.array(round_s), proposed=np.array(proposed))
    seen.lagged_proposed = () if before is None else [np.array(before)]
    return seen


def test_one_length_for_all_pays_for_those_that_propose() -> None:
    """Of three requests one proposes: length 1 sends one token more, not three. Θ(0) = 3 / 1; Θ(1) = 3.5 / 1.1 > 3; Θ(2) = 3.75 / 1.3 < 3."""
    round_s = [1.0, 1.1, 1.3, 9, 9, 9, 9]
    assert Uniform(lag=0).chosen(view([0, 2, 0], round_s)).tolist() == [0, 1, 0]
    assert Uniform(lag=1).chosen(view([2, 2, 2], round_s, before=[2, 0, 0])).tolist() == [1, 1, 1], "by what is a step old, within what is there now"
    assert Uniform(lag=0, min_length=1).chosen(view([0, 0, 0], round_s)).tolist() == [0, 0, 0]


def test_the_least_length_is_of_what_is_proposed() -> None:
    """One of two proposes, and must be verified: Θ goes on from there. (2 + 0.5) / 1.1 = 2.27, (2 + 0.75) / 1.2 = 2.29 > 2.27; at 1.3 not."""
    for second, expected in ((1.2, 2), (1.3, 1)):
        seen = view([0, 2], [1.0, 1.1, second, 9, 9])
        assert ConfidenceScheduled(mode="synchronous", min_length=1).chosen(seen).tolist() == [0, expected]


def test_no_rule_goes_beyond_what_is_proposed() -> None:
    seen = view([0, 1, 2], [1.0] * 7, before=[2, 2, 2])
    rules = [FixedLength(length=2), Threshold(threshold=0.0), ConfidenceScheduled(lag=1), Uniform(lag=1), ConfidenceScheduled(lag=1, min_length=1)]
    for rule in rules:
        assert (rule.chosen(seen) <= [0, 1, 2]).all()
        assert rule.chosen(seen).sum() == 3, "what costs nothing is all verified"


def scheduling(seconds: float, per_request_s: float = 0.0) -> Costs:
    return PRICE.model_copy(update={"scheduling": Scheduling(provenance="synthetic", seconds=seconds, per_request_s=per_request_s)})


def test_rules_that_weigh_prices_take_time_for_it(engine: Engine) -> None:
    """Every round is longer by that much; a step of prompts alone is not, and neither are rules that weigh nothing."""
    drawn, specs = replay(blocks([[2, 1] * 40], 3, np.full((80, 3), 0.9))), [RequestSpec(i, 0.0, 30, 25, "a") for i in range(2)]
    for rule, pays in ((ConfidenceScheduled(), True), (Uniform(), True), (Threshold(threshold=0.5), False), (FixedLength(length=3), False),
                       (Oracle(), False)):  # fmt: skip
        shape = {"max_batch": 2, "prefill": Chunked(token_budget=16)}
        # what a step costs is so dear that the choice does not change with a millisecond more
        one, other = (engine.open(specs, fleet(price, rule, drawn, DRAFT, **shape)).steps for price in (PRICE, scheduling(0.001, 0.0002)))
        length, more = (s["end_s"] - s["start_s"] for s in (one, other))
        assert one["verified"].tolist() == other["verified"].tolist()
        rounds = one["requests"] > 0
        assert not rounds.all(), "some steps hold prompts alone"
        np.testing.assert_allclose(more - length, pays * rounds * (0.001 + 0.0002 * one["requests"]), atol=1e-12)
        np.testing.assert_allclose(other["overhead_s"] - one["overhead_s"], pays * rounds * 0.001, atol=1e-12)


def test_the_rule_knows_that_its_round_is_longer(engine: Engine) -> None:
    """One request, c = 0.5, one slot at 0.007 s: 1.5 / (t + 0.007) > 1 / t where t > 0.014: not at 0.013, but with 2 ms of scheduling it is."""
    drawn = replay(blocks([[0] * 80], 1, np.full((80, 1), 0.5)))
    price = costs(base=0.006, per_token=0.007)
    for extra, expected in ((0.0, 0), (0.002, 1)):
        costly = price.model_copy(update={"scheduling": Scheduling(provenance="synthetic", seconds=extra)})
        steps = engine.open([RequestSpec(0, 0.0, 1, 9, "a")], fleet(costly, ConfidenceScheduled(lag=0), drawn)).steps
        assert set(steps["verified"].tolist()) == {expected}


def test_a_cost_model_of_ones_own_needs_no_scheduling(engine: Engine) -> None:
    class Bare:
        overhead_s = 0.002

        def round_s(self, requests: int, context_tokens: float) -> np.ndarray:
            return 0.012 + 0.001 * (requests + np.arange(3 * requests + 1))

        def draft_s(self, requests: int, context_tokens: float) -> float:
            return 0.0

    if engine.path == "plain":
        over = fleet(costs(), FixedLength(length=3), replay(blocks([[3] * 40], 3)), LinearDraft(provenance="synthetic"))
        own = Bare()
        over = replace(over, prices=own, believed=own)  # type: ignore[arg-type]
        steps = engine.open([RequestSpec(0, 0.0, 1, 9, "a")], over).steps
        assert (steps["end_s"] - steps["start_s"]).tolist() == pytest.approx([0.016, 0.016])

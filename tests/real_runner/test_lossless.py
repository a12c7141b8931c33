"""Speculation changes nothing but speed: greedy output equals the target's own, and at temperature 1 tokens have the target's own law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from real_runner import sampling
from real_runner.engine import Engine
from real_runner.records import ServedRequest
from simulator.policies.verification import ByBatch, ConfidenceScheduled, FixedLength, NoSpeculation, Threshold, Uniform

TRAINED = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3")


class LinearCosts:
    """A round of B tokens takes 1 + B / 16: cheap enough to speculate, dear enough to cut."""

    def round_s(self, requests, context_tokens, gamma):
        return 1.0 + (requests + np.arange(requests * gamma + 1)) / 16


POLICIES = {
    "none": NoSpeculation(),
    "one": FixedLength(length=1),
    "all": FixedLength(length=7),
    "conditional": Threshold(threshold=0.6),
    "survival": Threshold(threshold=0.3, of="survival"),
    "by batch": ByBatch(table=[(1, 2, 7), (3, 6, 3), (7, 8, 1)]),
    "synchronous": ConfidenceScheduled(mode="synchronous"),
    "one step old": ConfidenceScheduled(lag=1, min_length=1),
    "two steps old": ConfidenceScheduled(lag=2),
    "uniform": Uniform(lag=2),
}
SURVIVAL = [0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
PROMPTS = [[3, 16], [10, 12, 10, 1, 13], [27, 7, 16, 3, 16, 18, 17, 13, 17], [5], [11, 28, 10, 1], [9] * 17, [1, 2, 3, 4, 5, 6], [20, 23, 18]]


@pytest.fixture(scope="module")
def truth(plain):
    return [plain(prompt, 24 + i) for i, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("rule", POLICIES)
@pytest.mark.parametrize("slots", [1, 8])
def test_greedy_output_is_the_targets_own(name, rule, slots, target, drafters, truth):
    policy, drafter = POLICIES[rule], drafters[name]
    if policy.needs_confidence and drafter.spec.confidence == "none":
        pytest.skip("no confidence head")
    few = slice(2, 4) if slots == 1 else slice(None)
    engine = Engine(target, drafter, policy, slots=slots, length=96, costs=LinearCosts(), survival=SURVIVAL, stop_at_eos=False)
    done = engine.run([ServedRequest(i, PROMPTS[i], 24 + i) for i in range(8)[few]])
    assert {r.request: r.output for r in done} == dict(list(enumerate(truth))[few])
    rounds = [part for step in engine.steps for part in step.rounds]
    assert all(part.accepted <= part.verified <= engine.gamma for part in rounds)
    if rule in ("conditional", "two steps old") and slots == 8:
        assert any(len({part.verified for part in step.rounds}) > 1 for step in engine.steps), "never ragged: the test shows nothing"


def first_tokens(target, drafter, policy, texts, prompt, temperature=1.0):
    """Counts of the first three tokens of `texts` samples  # [V, V, V]."""
    engine = Engine(
        target, drafter, policy, slots=256, length=len(prompt) + 24, temperature=temperature, seed=7, costs=LinearCosts(), stop_at_eos=False
    )
    done = engine.run([ServedRequest(i, prompt, 3) for i in range(texts)])
    counts = np.zeros((target.vocabulary,) * 3)
    np.add.at(counts, tuple(np.array([r.output for r in done]).T), 1)
    return counts


def p_value(counts, model, prompt):
    """χ² of the second and third token given those before them, pooled; cells expected below 5 are lumped."""
    statistic, freedom = 0.0, 0
    totals = counts.sum(axis=2)
    contexts = [(prompt, counts.sum(axis=(1, 2)))]
    contexts += [([*prompt, a], totals[a]) for a in range(len(counts)) if totals[a].sum() >= 400]
    contexts += [([*prompt, a, b], counts[a, b]) for a, b in np.argwhere(totals >= 400)]
    for ids, seen in contexts:
        with torch.no_grad():
            law = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), dim=-1).numpy()
        expected = law * seen.sum()
        rare = expected < 5
        observed, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
        keep = expected > 1
        statistic += ((observed - expected) ** 2 / np.maximum(expected, 1e-9))[keep].sum()
        freedom += keep.sum() - 1
    return float(stats.chi2.sf(statistic, freedom))


TEXTS, PROMPT = 4_000, [10, 12, 10, 1, 13, 27]


@pytest.mark.parametrize(
    "name, rule", [("dspark_vanilla", "all"), ("dspark_rnn", "two steps old"), ("dflash", "all"), ("eagle3", "one"), ("dspark_gated", "conditional")]
)
def test_tokens_have_the_targets_law_at_temperature_1(name, rule, target, drafters, plain):
    assert p_value(first_tokens(target, drafters[name], POLICIES[rule], TEXTS, PROMPT), plain.model, PROMPT) > 1e-3


def test_the_law_test_notices_a_biased_acceptance(target, drafters, plain, monkeypatch):
    """Accepting with probability min(1, 1.2 p / q) moves about 2 % of the mass here: the same test on as many samples must fail."""
    monkeypatch.setattr(sampling, "accepts", lambda p, q, luck: luck * q < p * 1.2)
    assert p_value(first_tokens(target, drafters["dflash"], POLICIES["all"], TEXTS, PROMPT), plain.model, PROMPT) < 1e-4

"""Replay of recorded blocks is real speculative decoding: the same law of (verified, accepted, committed) under every policy that does not peek.

The toy: five tokens, a second-order Markov target, a drafter with a Markov head, confidences that are a function of the drafter's state.
"Direct" drafts, chooses, accepts, corrects. "Recorded" drafts one block at every anchor of a finished text by the coupled draw of
spec/recorded_blocks.md §2 and is then replayed (§3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.policies.verification import (
    ByBatch,
    ConfidenceScheduled,
    FixedLength,
    NoSpeculation,
    StepView,
    Threshold,
    Uniform,
    VerificationPolicy,
)
from simulator.rng import stream

VOCABULARY, GAMMA, REQUESTS, ROUNDS, BATCHES = 5, 3, 2, 3, 40_000
STEPS_S = np.array([1.0, 1.38, 1.4, 1.42, 1.5, 1.7, 1.72])  # round_s [γR + 1]
CLIFF_S = np.array([1.0, 2.2, 2.22, 2.24, 2.26, 2.28, 2.3])  # what pays lies behind what does not: asks for a global search
CONFIDENCES = np.array([[0.35, 0.85], [0.3, 0.9], [0.4, 0.95]])  # [γ, 2], low and high at each slot
NONE_YET = 1 << GAMMA  # the code of a block that a request never had

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Language:
    """The target's and the drafter's next-token distributions, and whether the head is sure."""

    target: NDArray[np.float64]  # [V, V, V], p(. | token before, last token)
    draft: NDArray[np.float64]  # [γ, V, V, V, V], d_k(. | token before the anchor, anchor, token drafted before)
    sure: Ints  # [γ, V, V, V], 0 or 1

    def greedy(self) -> Language:
        one_hot = np.eye(VOCABULARY)
        return Language(one_hot[self.target.argmax(axis=-1)], one_hot[self.draft.argmax(axis=-1)], self.sure)


@cache
def language(seed: int) -> Language:
    luck = stream(seed, "language")
    target = luck.dirichlet(np.full(VOCABULARY, 0.7), size=(VOCABULARY,) * 2)
    own = luck.dirichlet(np.full(VOCABULARY, 0.7), size=(GAMMA, *(VOCABULARY,) * 3))
    draft = 0.5 * target[None, None] + 0.5 * own  # the head knows the token before, the backbone the context
    sure = (luck.random((GAMMA, VOCABULARY, VOCABULARY, 1)) + luck.random((GAMMA, 1, 1, VOCABULARY)) > 1).astype(np.int64)
    return Language(target, draft, np.broadcast_to(sure, (GAMMA, *(VOCABULARY,) * 3)))


def draw(luck: np.random.Generator, weight: NDArray[np.float64]) -> Ints:
    """One token per row of unnormalised probabilities [.., V]."""
    total = weight[..., 0].copy()
    edges = [total := total + weight[..., v] for v in range(1, VOCABULARY)]
    mark = luck.random(total.shape) * total
    return np.asarray(np.sum([mark >= edge for edge in (weight[..., 0], *edges[:-1])], axis=0, dtype=np.int64))


def starts(seed: int, batches: int) -> Ints:
    """The last token of the prompt and the anchor, [2, batches, R]."""
    return stream(seed, "starts").integers(0, VOCABULARY, size=(2, batches, REQUESTS))


class LastConfidence(FixedLength):
    """All or nothing by the last slot's confidence, which depends on the tokens drafted before it."""

    length: int = GAMMA

    @property
    def peeks(self) -> bool:
        return True

    def choose(self, view: StepView) -> Ints:
        assert view.confidence is not None
        return view.gamma * (view.confidence[:, -1] > 0.5).astype(np.int64)


@dataclass
class Trajectory:
    """What happened in each round, [T, batches, R], and the last two tokens committed, [2, batches, R]."""

    verified: Ints
    accepted: Ints
    last: Ints


@cache
def _lengths(policy: str, now: tuple[int, ...], then: tuple[int, ...]) -> tuple[int, ...]:
    """The real policy object's lengths for R blocks with these codes now and `lag_steps` ago; the steps between are given as NaN."""
    rule, round_s = POLICIES[policy]
    confidence = _confidence(np.array(now))
    before = np.where(np.array(then)[:, None] == NONE_YET, 1.0, np.cumprod(_confidence(np.array(then)), axis=1))
    lagged = [*[np.full_like(before, np.nan)] * (rule.lag_steps - 1), before]
    return tuple(rule.choose(StepView(REQUESTS, GAMMA, confidence, np.cumprod(confidence, axis=1), lagged, round_s)).tolist())


def _confidence(code: Ints) -> NDArray[np.float64]:
    """[.., γ] from codes [..] whose bit k says whether the head is sure at slot k."""
    return np.asarray(CONFIDENCES[np.arange(GAMMA), (code[..., None] >> np.arange(GAMMA)) & 1])


def choose(policy: str, history: list[Ints]) -> Ints:
    """Lengths [batches, R] from the codes of this round and, as far as the policy looks back, the rounds before."""
    lag = POLICIES[policy][0].lag_steps
    then = history[-1 - lag] if lag < len(history) else np.full_like(history[0], NONE_YET)
    digits = np.concatenate([history[-1], then], axis=1)  # [batches, 2R]
    base = (NONE_YET + 1) ** np.arange(2 * REQUESTS)
    seen, which = np.unique(digits @ base, return_inverse=True)
    codes = (seen[:, None] // base % (NONE_YET + 1)).tolist()  # [U, 2R]
    lengths = [_lengths(policy, tuple(row[:REQUESTS]), tuple(row[REQUESTS:])) for row in codes]
    return np.array(lengths, dtype=np.int64)[which]


def decode(lang: Language, policy: str, seed: int, start: Ints, rounds: int) -> Trajectory:
    """Direct speculative sampling: draft, choose, accept with min(1, p/d), correct or add the bonus token."""
    luck = stream(seed, f"decode {policy}")
    before, anchor = start
    history: list[Ints] = []
    verified, accepted = [], []
    for _ in range(rounds):
        code, tokens, previous = np.zeros_like(anchor), [anchor], anchor
        for k in range(GAMMA):
            code = code | (lang.sure[k, before, anchor, previous] << k)
            previous = draw(luck, lang.draft[k, before, anchor, previous])
            tokens.append(previous)
        history.append(code)
        length = choose(policy, history)
        taken, going = np.zeros_like(anchor), np.ones(anchor.shape, dtype=bool)
        context, root = (before, anchor), (before, anchor)
        for k in range(GAMMA + 1):
            p = lang.target[context]
            bonus = going & (length == k)
            correction = p
            if k < GAMMA:
                x, d = tokens[k + 1], lang.draft[(k, *root, tokens[k])]
                chance = np.take_along_axis(p, x[..., None], -1)[..., 0] / np.take_along_axis(d, x[..., None], -1)[..., 0]
                accept = going & ~bonus & (luck.random(anchor.shape) < chance)
                correction = np.where(bonus[..., None], p, np.maximum(p - d, 0) + 1e-300)
            else:
                x, accept = tokens[-1], np.zeros_like(going)
            final = np.where(accept, x, draw(luck, correction))
            before, anchor = np.where(going, context[1], before), np.where(going, final, anchor)
            taken, going = taken + accept, accept
            context = (np.where(going, context[1], context[0]), np.where(going, x, context[1]))
        verified.append(length)
        accepted.append(taken)
    return Trajectory(np.array(verified), np.array(accepted), np.array([before, anchor]))


def record(lang: Language, seed: int, start: Ints, rounds: int) -> tuple[RecordedBlocks, Ints]:
    """Texts [S, 1 + positions] sampled by ordinary decoding, and a block at every anchor by the coupled draw."""
    luck = stream(seed, "record")
    anchors = (rounds - 1) * (GAMMA + 1) + 1
    text = list(start.reshape(2, -1))  # prompt's last token, y_0, y_1, …
    for _ in range(anchors + GAMMA + 1):
        text.append(draw(luck, lang.target[text[-2], text[-1]]))
    tokens = np.stack(text, axis=1)
    before, anchor = tokens[:, :anchors], tokens[:, 1 : anchors + 1]  # [S, n]
    confidence = np.empty((*anchor.shape, GAMMA))
    previous, going, accepted = anchor, np.ones(anchor.shape, dtype=bool), np.zeros_like(anchor)
    for k in range(GAMMA):
        confidence[..., k] = CONFIDENCES[k][lang.sure[k, before, anchor, previous]]
        d = lang.draft[k, before, anchor, previous]
        p = lang.target[tokens[:, k : k + anchors], tokens[:, k + 1 : k + 1 + anchors]]
        y = tokens[:, k + 2 : k + 2 + anchors]
        chance = np.take_along_axis(d, y[..., None], -1)[..., 0] / np.take_along_axis(p, y[..., None], -1)[..., 0]
        accept = going & (luck.random(anchor.shape) < chance)
        rejected = (going & ~accept)[..., None]
        previous = np.where(accept, y, draw(luck, np.where(rejected, np.maximum(d - p, 0) + 1e-300, d)))
        accepted, going = accepted + accept, accept
    sequences = len(tokens)
    blocks = RecordedBlocks(
        drafter="toy", gamma=GAMMA, temperature=1.0, provenance="synthetic", source="five tokens", domains=("toy",),
        sequence_domain=np.zeros(sequences, dtype=np.int64), first_row=np.arange(sequences) * anchors,
        length=np.full(sequences, anchors), accepted=accepted.reshape(-1), confidence=confidence.reshape(-1, GAMMA),
    )  # fmt: skip
    return blocks, tokens


def replay(blocks: RecordedBlocks, tokens: Ints, policy: str, rounds: int) -> Trajectory:
    """min(ℓ, A) + 1 tokens at a time along the recorded texts."""
    assert blocks.confidence is not None
    codes = ((blocks.confidence > CONFIDENCES.mean(axis=1)) << np.arange(GAMMA)).sum(axis=1)  # [N]
    anchor = np.zeros((len(tokens) // REQUESTS, REQUESTS), dtype=np.int64)
    history: list[Ints] = []
    verified, accepted = [], []
    for _ in range(rounds):
        row = blocks.first_row.reshape(anchor.shape) + anchor
        history.append(codes[row])
        verified.append(choose(policy, history))
        accepted.append(np.minimum(verified[-1], blocks.accepted[row]))
        anchor = anchor + accepted[-1] + 1
    sequence = np.arange(len(tokens)).reshape(anchor.shape)
    return Trajectory(np.array(verified), np.array(accepted), np.array([tokens[sequence, anchor], tokens[sequence, anchor + 1]]))


def chi_square(one: Ints, other: Ints) -> float:
    """Two samples of integer vectors [n, m]: standard errors by which their chi-square exceeds what one law would give."""
    which = np.unique(np.concatenate([one, other]), axis=0, return_inverse=True)[1].reshape(-1)
    first, second = np.bincount(which[: len(one)], minlength=which.max() + 1), np.bincount(which[len(one) :], minlength=which.max() + 1)
    common = first + second >= 40
    first, second = (np.append(cells[common], cells[~common].sum()) for cells in (first, second))
    freedom = max(int((first + second > 0).sum()) - 1, 1)
    return float((np.sum((first - second) ** 2 / np.maximum(first + second, 1)) - freedom) / np.sqrt(2 * freedom))


def disagreement(one: Trajectory, other: Trajectory) -> float:
    """The larger of two tests: one request's verified and accepted over all rounds; both requests' last round with the text it led to."""

    def paths(t: Trajectory) -> Ints:
        return np.concatenate([t.verified[..., 0], t.accepted[..., 0]]).T

    def ends(t: Trajectory) -> Ints:
        return np.concatenate([t.verified[-1], t.accepted[-1], t.last[:, :, 0].T], axis=1)

    return max(chi_square(view(one), view(other)) for view in (paths, ends))


POLICIES: dict[str, tuple[VerificationPolicy, NDArray[np.float64]]] = {
    "none": (NoSpeculation(), STEPS_S),
    "fixed": (FixedLength(length=2), STEPS_S),
    "threshold on conditional": (Threshold(threshold=0.5), STEPS_S),
    "threshold on survival": (Threshold(threshold=0.33, of="survival"), STEPS_S),
    "by batch": (ByBatch(table=[(1, 1, 1), (2, 8, 3)]), STEPS_S),
    "synchronous": (ConfidenceScheduled(mode="synchronous"), STEPS_S),
    "asynchronous": (ConfidenceScheduled(mode="asynchronous", lag=2), STEPS_S),
    "asynchronous, lag 1, at least 1": (ConfidenceScheduled(mode="asynchronous", lag=1, min_length=1), STEPS_S),
    "asynchronous over a cliff": (ConfidenceScheduled(mode="asynchronous", lag=2), CLIFF_S),
    "uniform": (Uniform(lag=2), STEPS_S),
    "global search": (ConfidenceScheduled(mode="asynchronous", lag=0), CLIFF_S),
    "uniform on present": (Uniform(lag=0), CLIFF_S),
    "last confidence": (LastConfidence(), STEPS_S),
}
HONEST = [name for name, (policy, _) in POLICIES.items() if not policy.peeks]
PEEKING = [name for name in POLICIES if name not in HONEST]


@pytest.fixture(scope="module")
def recorded() -> tuple[RecordedBlocks, Ints]:
    return record(language(1), 1, starts(1, BATCHES), ROUNDS)


@pytest.mark.parametrize("policy", HONEST)
def test_replay_has_the_law_of_direct_decoding(recorded: tuple[RecordedBlocks, Ints], policy: str) -> None:
    direct = decode(language(1), policy, 2, starts(2, BATCHES), ROUNDS)
    replayed = replay(*recorded, policy, ROUNDS)
    assert disagreement(direct, replayed) < 4


@pytest.mark.parametrize("policy", PEEKING)
def test_a_policy_that_peeks_breaks_it(recorded: tuple[RecordedBlocks, Ints], policy: str) -> None:
    direct = decode(language(1), policy, 2, starts(2, BATCHES), ROUNDS)
    assert disagreement(direct, replay(*recorded, policy, ROUNDS)) > 10


def test_the_policies_that_adapt_use_all_lengths(recorded: tuple[RecordedBlocks, Ints]) -> None:
    for policy in ("threshold on conditional", "synchronous", "asynchronous"):
        assert len(np.unique(replay(*recorded, policy, ROUNDS).verified)) == GAMMA + 1


@pytest.mark.parametrize("policy", HONEST)
def test_at_temperature_zero_the_same_integers(policy: str) -> None:
    rounds = 6
    for seed in range(4):
        lang, start = language(10 + seed).greedy(), starts(seed, 200)
        direct = decode(lang, policy, seed, start, rounds)
        replayed = replay(*record(lang, seed, start, rounds), policy, rounds)
        for one, other in zip(vars(direct).values(), vars(replayed).values(), strict=True):
            np.testing.assert_array_equal(one, other)


def first_token_is_a(policy: VerificationPolicy) -> float:
    """P(first committed token is A) in the paper's Appendix A, by enumeration of the first drafted token."""
    target, draft = np.array([0.7, 0.3]), np.array([0.5, 0.5])
    residual = np.maximum(target - draft, 0) / np.maximum(target - draft, 0).sum()
    total = 0.0
    for x, second in enumerate((0.9, 0.0)):  # c_2 after A and after B
        confidence = np.array([[0.8, second]])
        round_s = 1 / np.array([1.0, 0.5, 0.45])
        view = StepView(1, 2, confidence, np.cumprod(confidence, axis=1), [], round_s)
        if policy.choose(view)[0] == 0:
            total += draft[x] * target[0]
        else:
            accept = min(1.0, target[x] / draft[x])
            total += draft[x] * (accept * (x == 0) + (1 - accept) * residual[0])
    return total


def test_appendix_a_counterexample() -> None:
    assert first_token_is_a(ConfidenceScheduled(mode="asynchronous", lag=0)) == pytest.approx(0.85, abs=1e-12)
    assert first_token_is_a(ConfidenceScheduled(mode="synchronous")) == pytest.approx(0.70, abs=1e-12)

"""Recorded blocks are what decoding does: integer by integer at temperature 0, in law at temperature 1."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

from real_runner import coupling, sampling
from real_runner.blocks import Said, drafted_along, record_blocks
from real_runner.drafters.drafter import DraftBatch, forced
from real_runner.drafters.layers import choose
from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.layout import lay_out
from real_runner.prompts import own_words
from real_runner.records import ServedRequest
from real_runner.texts import Text
from simulator.errors import DsimError
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.statistics import acceptance_statistics, visited_rows
from simulator.policies.verification import FixedLength, NoSpeculation
from simulator.progress import Progress

from .conftest import TRAINED
from .test_mtp import folder  # noqa: F401

QUIET = Progress(quiet=True)
NAMES = (*TRAINED, "mtp", "narrow")
HALF = ((3, 16, 18, 17, 13, 11), 19)  # prompt and anchor
END = 16  # a token that is said now and then
PROMPTS = [[3, 16, 18, 17], [10, 12], [27, 7, 16, 3, 16, 18, 17, 13], [5], [11, 28, 10, 1], [9] * 17]


@pytest.fixture(scope="module")
def zoo(drafters, target, folder):  # noqa: F811
    """The trained ones, an MTP module, and one that drafts half of the vocabulary only."""
    narrow = copy.deepcopy(drafters["dspark_vanilla"])
    narrow.d2t = torch.arange(0, target.vocabulary, 2)
    for head in (narrow.lm_head, narrow.markov_head.markov_w2):
        head.weight = torch.nn.Parameter(head.weight[narrow.d2t].clone(), requires_grad=False)
    return {**drafters, "mtp": load_drafter(str(folder), target), "narrow": narrow}


@pytest.fixture(autouse=True)
def _many_at_once(monkeypatch):
    """Texts are short here: what goes through the target in one step is more of them, which changes nothing (a test below) but the time."""
    monkeypatch.setattr("real_runner.blocks.TOKENS_AT_ONCE", 16_384)


@pytest.fixture(params=[False, True], ids=["no end of text", "end of text"])
def ends(request, target, monkeypatch):
    if request.param:
        monkeypatch.setattr(target.model.generation_config, "eos_token_id", END, raising=False)
    return request.param


def serve(target, drafter, rule, prompts, tokens, temperature=0.0, seed=0):
    """Texts of an engine, and each one's rounds."""
    longest = max(map(len, prompts)) + tokens
    engine = Engine(target, drafter, rule, slots=min(len(prompts), 256), length=longest + 24, temperature=temperature, seed=seed)
    done = sorted(engine.run([ServedRequest(i, p, tokens) for i, p in enumerate(prompts)]), key=lambda r: r.request)
    rounds = [[] for _ in prompts]
    for part in (part for step in engine.steps for part in step.rounds):
        rounds[part.request].append(part)
    return [Text(r.prompt, r.output, "ab"[r.request % 2], r.request) for r in done], rounds


def record(target, drafter, texts, temperature=0.0, seed=0, at_once=256):
    return record_blocks(target, drafter, "one", texts, temperature=temperature, seed=seed, progress=QUIET, rows_at_once=at_once)


def draw(target, drafter, texts, temperature=0.0, seed=0, at_once=256):
    parts = list(drafted_along(target, drafter, [Said(text) for text in texts], temperature=temperature, seed=seed, rows_at_once=at_once))
    return torch.cat([part.tokens for part in parts]).numpy()


def walk(blocks, length=None):
    """Rows of each sequence that are visited by one who verifies `length` (none: all)."""
    rows = visited_rows(blocks, None if length is None else np.full(blocks.rows, length))
    return [rows[blocks.sequence_of_row[rows] == s].tolist() for s in range(len(blocks.length))]


@pytest.mark.parametrize("name", NAMES)
def test_a_walk_is_the_greedy_decode(name, ends, zoo, target):
    drafter = zoo[name]
    texts, rounds = serve(target, drafter, FixedLength(length=drafter.gamma), PROMPTS, 40)
    blocks, drawn = record(target, drafter, texts), draw(target, drafter, texts)
    assert not ends or any(text.output[-1] == END for text in texts)
    assert blocks.length.tolist() == [len(text.output) - 1 for text in texts]
    for rows, parts in zip(walk(blocks), rounds, strict=True):
        assert [part.drafted for part in parts] == drawn[rows].tolist()
        assert [part.accepted for part in parts] == blocks.accepted[rows].tolist()
        if blocks.confidence is not None:
            np.testing.assert_allclose([part.confidence for part in parts], blocks.confidence[rows], atol=1e-5)
    assert (blocks.confidence is None) == (drafter.spec.confidence == "none")
    if name not in ("mtp", "narrow"):
        assert np.unique(blocks.accepted).size > 2, "hardly anything varies: the test shows little"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_replay_of_a_fixed_length_commits_what_the_engine_commits(name, length, ends, zoo, target):
    drafter = zoo[name]
    texts, _ = serve(target, None, NoSpeculation(), PROMPTS, 40)
    blocks = record(target, drafter, texts)
    said, rounds = serve(target, drafter, FixedLength(length=length), PROMPTS, 40)
    assert said == texts
    for sequence, (rows, parts) in enumerate(zip(walk(blocks, length), rounds, strict=True)):
        left = blocks.first_row[sequence] + blocks.length[sequence] - np.array(rows)
        committed = np.minimum(length, blocks.accepted[rows]) + 1
        assert np.minimum(committed, left).tolist() == np.minimum([part.tokens for part in parts], left).tolist()
        assert np.minimum(committed, left).sum() == blocks.length[sequence]
        if not ends:
            assert committed.tolist() == [part.tokens for part in parts]


def pooled(above, below, cluster):
    """Ratio of sums and its standard error with clusters as the independent units."""
    total = np.bincount(cluster, weights=below)
    ratio = np.bincount(cluster, weights=above).sum() / total.sum()
    apart = np.bincount(cluster, weights=above) - ratio * total
    return ratio, np.sqrt((apart**2).sum() * len(apart) / (len(apart) - 1)) / total.sum()


TEXTS, TOKENS = 450, 24


@pytest.fixture(scope="module")
def sampled(target):
    """Texts of the target at temperature 1."""
    return serve(target, None, NoSpeculation(), own_words(target, TEXTS, 1, length=8), TOKENS, 1.0, seed=11)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_fed_with_the_engines_tokens_give_the_engines_block(name, temperature, zoo, target, monkeypatch):
    """Whoever sends the same tokens gets the same laws and confidences, bit for bit: what exact replay rests on."""
    drafter, compared = zoo[name], []
    sample = drafter.sample

    def twice(hidden, batch, temperature, luck):
        made = sample(hidden, batch, temperature, luck)
        previous = torch.cat([batch.anchor[batch.slots].unsqueeze(1), made.tokens[:, :-1]], dim=1)
        logits, confidence = forced(drafter.steps(drafter.begin(batch), batch, luck.shape[1]), previous)
        for slot in range(luck.shape[1]):
            tokens, law = choose(logits[:, slot], temperature, luck[:, slot], drafter.d2t, target.vocabulary)
            assert torch.equal(tokens, made.tokens[:, slot])
            assert law is None or torch.equal(law, made.probabilities[:, slot])
        assert (confidence is None) == (made.confidence is None) == (drafter.spec.confidence == "none")
        assert confidence is None or torch.equal(confidence, made.confidence)
        compared.append(len(batch.slots))
        return made

    monkeypatch.setattr(drafter, "sample", twice)
    serve(target, drafter, FixedLength(length=drafter.gamma), PROMPTS, TOKENS, temperature, seed=12)
    assert len(compared) > 5


@pytest.fixture(scope="module")
def recorded(target, zoo, sampled):
    """The blocks of those texts, by drafter."""
    return cache(lambda name: record(target, zoo[name], sampled, 1.0, seed=5))


@pytest.fixture(scope="module")
def decoded(target, zoo):
    """Rounds of decoding at temperature 1 with all γ verified, other random draws, the same law of prompts; by drafter."""
    prompts = own_words(target, TEXTS, 2, length=8)
    return cache(lambda name: serve(target, zoo[name], FixedLength(length=zoo[name].gamma), prompts, TOKENS, 1.0, seed=12)[1])


def apart(blocks, rounds):
    """Standard errors between recording and decoding: mean tokens of a round, then survival and mean confidence of each slot."""
    rows = visited_rows(blocks)
    mine, theirs = blocks.sequence_of_row[rows], np.repeat(np.arange(len(rounds)), [len(parts) for parts in rounds])
    accepted = np.array([part.accepted for parts in rounds for part in parts])
    pairs = [(1.0 + blocks.accepted[rows], 1.0 + accepted)]
    pairs += [((blocks.accepted[rows] >= k) + 0.0, (accepted >= k) + 0.0) for k in range(1, blocks.gamma + 1)]
    if blocks.confidence is not None:
        seen = np.array([part.confidence for parts in rounds for part in parts])
        pairs += [(blocks.confidence[rows, k], seen[:, k]) for k in range(blocks.gamma)]
    found = []
    for one, other in pairs:
        here, there = (pooled(values, np.ones(len(values)), cluster) for values, cluster in ((one, mine), (other, theirs)))
        found.append((here[0] - there[0]) / max(np.hypot(here[1], there[1]), 1e-9))
    return np.array(found)


@pytest.mark.parametrize("name", NAMES)
def test_rounds_have_the_law_of_decoding_at_temperature_1(name, recorded, decoded):
    z = apart(recorded(name), decoded(name))
    assert abs(z[0]) < 3
    assert np.abs(z[1:]).max() < 4


@pytest.mark.parametrize("name", ["dspark_vanilla", "eagle3"])
def test_that_notices_a_draw_that_is_not_coupled(name, zoo, target, sampled, decoded, monkeypatch):
    monkeypatch.setattr(coupling, "acceptance", torch.minimum)  # P(drafted and accepted), not given the committed token
    assert abs(apart(record(target, zoo[name], sampled, 1.0, seed=5), decoded(name))[0]) > 10


@pytest.mark.parametrize("name", NAMES)
def test_slots_are_taken_as_often_as_q_says(name, recorded):
    blocks = recorded(name)
    drawn = ~np.isnan(blocks.acceptance)
    taken = blocks.accepted[:, None] >= np.arange(1, blocks.gamma + 1)
    q = blocks.acceptance[drawn]
    assert np.array_equal(drawn, np.arange(blocks.gamma) <= blocks.accepted[:, None])
    assert abs((taken[drawn] - q).sum()) < 4 * np.sqrt((q * (1 - q)).sum())


def first_two(target, drafter, prompt, anchor):
    """The drafter's own law of its first two tokens at one anchor  # [V, V]."""
    vocabulary, gamma, room = target.vocabulary, drafter.gamma, len(prompt) + 2 * drafter.spec.block
    slots, start = np.array([0]), torch.zeros(2, dtype=torch.long)
    layout = lay_out(slots, np.array([len(prompt)]), len(prompt), (1, room), None)
    ints, where = torch.from_numpy(layout.ints), torch.from_numpy(slots)
    target.tap(drafter.taps)
    target.allocate(1, room)
    drafter.allocate(1, room)
    seen = target.step(torch.tensor(prompt), layout.flat(ints, start))
    drafter.absorb(seen.features, torch.tensor([*prompt[1:], anchor]), where, where, ints, layout, start)
    start[0] = len(prompt)
    layout = drafter.lay_out(slots, len(prompt), cache=(1, room), tiers=None)
    hidden = drafter.begin(DraftBatch(torch.from_numpy(layout.ints), layout, where, start, torch.tensor([anchor, 0])))
    previous = torch.full((vocabulary, gamma), anchor)
    previous[:, 1] = torch.arange(vocabulary)
    steps = drafter.head_steps(hidden.expand(vocabulary, -1, -1), previous[:, 0], gamma)
    narrow = torch.softmax(forced(steps, previous)[0][:, :2], dim=-1)
    law = narrow
    if drafter.d2t is not None:
        law = narrow.new_zeros(vocabulary, 2, vocabulary).index_copy_(2, drafter.d2t, narrow)
    return (law[0, 0].unsqueeze(1) * law[:, 1]).double().numpy()


@pytest.fixture(scope="module")
def two_tokens(target):
    """What the target says after a prompt and an anchor, `count` times."""
    return cache(lambda prompt, anchor, count: serve(target, None, NoSpeculation(), [[*prompt, anchor]] * count, 2, 1.0, seed=21)[0])


def drafts_p_value(target, drafter, two_tokens):
    """χ² of the drafted tokens at one anchor against the drafter's own law: texts come and go, the draft must not be bent by them."""
    prompt, anchor, count = tuple(PROMPTS[2]), 17, 6000
    if drafter.d2t is not None:  # one after which the target often says what this drafter can say
        prompt, anchor = HALF
    texts = [Text(list(prompt), [anchor, *text.output]) for text in two_tokens(prompt, anchor, count)]
    tokens = draw(target, drafter, texts, 1.0, seed=7)[::2]  # the rows of anchor 0
    counts = np.zeros((target.vocabulary,) * 2)
    np.add.at(counts, (tokens[:, 0], tokens[:, 1]), 1)
    expected = count * first_two(target, drafter, prompt, anchor)
    rare = expected < 5
    seen, wanted = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    return float(stats.chi2.sf(((seen - wanted) ** 2 / wanted).sum(), len(seen) - 1))


@pytest.mark.parametrize("name", ["dspark_vanilla", "dspark_rnn", "narrow"])
def test_drafts_have_the_drafters_own_law(name, zoo, target, two_tokens):
    assert drafts_p_value(target, zoo[name], two_tokens) > 1e-3


def test_that_notices_a_rejected_token_from_the_wrong_law(zoo, target, two_tokens, monkeypatch):
    monkeypatch.setattr(sampling, "residual", lambda law, other: law)
    assert drafts_p_value(target, zoo["dspark_vanilla"], two_tokens) < 1e-6


@pytest.mark.parametrize("d2t", [None, [3, 0, 4]], ids=["full", "reduced"])
def test_one_slot_has_the_law_of_rejection_sampling(d2t):
    """Of a language of five: the drafted token is v and accepted with min(p, d), v and rejected with max(d - p, 0)."""
    luck, count, temperature = torch.Generator().manual_seed(5), 60_000, 0.7
    logits, draft = torch.randn(1, 5, generator=luck), torch.randn(1, 5 if d2t is None else len(d2t), generator=luck)
    p, law = torch.softmax(logits[0] / temperature, dim=0), torch.softmax(draft[0] / temperature, dim=0)
    d = law if d2t is None else torch.zeros(5).index_copy_(0, torch.tensor(d2t), law)
    tokens = torch.stack([torch.zeros(count, dtype=torch.long), torch.multinomial(p, count, replacement=True, generator=luck)], dim=1)
    said = coupling.Scored(tokens, torch.full((count,), 2), logits, (logits / temperature).logsumexp(dim=-1), torch.zeros_like(tokens))
    every, map_ = torch.arange(count), None if d2t is None else torch.tensor(d2t)
    drawing = coupling.Coupling(said, every, every * 0, temperature, torch.rand(count, 1, 2, generator=luck), map_)
    drafted = drawing.draw(draft.expand(count, -1), 0)
    for taken, expected in ((1, torch.minimum(p, d)), (0, (d - p).clamp(min=0))):
        seen = torch.bincount(drafted[drawing.accepted == taken], minlength=5) / count
        error = (expected * (1 - expected) / count).sqrt()
        assert ((seen - expected).abs() <= 3.5 * error).all()
    error = drawing.acceptance.std() / count**0.5
    assert (drawing.acceptance.mean() - torch.minimum(p, d).sum()).abs() < 3.5 * error


@pytest.mark.parametrize("name", ["dspark_vanilla", "eagle3"])
def test_a_text_cut_by_a_limit_goes_on(name, zoo, target, sampled, recorded):
    """Anchors whose block runs past the cut have the law they have where the text is known; cutting A there would not."""
    cut, gamma = 16, zoo[name].gamma
    short = record(target, zoo[name], [Text(t.prompt, t.output[:cut]) for t in sampled], 1.0, seed=5).accepted.reshape(TEXTS, cut - 1)
    whole = recorded(name).accepted.reshape(TEXTS, TOKENS - 1)[:, : cut - 1]
    same = slice(0, cut - gamma)
    np.testing.assert_array_equal(short[:, same], whole[:, same])
    late = slice(cut - gamma, None)

    def z(one):
        difference = (one[:, late] - whole[:, late]).mean(axis=1)
        return difference.mean() / (difference.std(ddof=1) / np.sqrt(TEXTS))

    assert abs(z(short)) < 4
    assert not np.array_equal(short[:, late], whole[:, late])
    assert z(np.minimum(whole, cut - 1 - np.arange(cut - 1))) < -8


def test_nothing_is_accepted_past_the_end_of_a_text(zoo, target, sampled, monkeypatch):
    monkeypatch.setattr(target.model.generation_config, "eos_token_id", END, raising=False)
    cut = [Text(t.prompt, t.output[: t.output.index(END) + 1] if END in t.output else t.output) for t in sampled]
    cut = [text for text in cut if len(text.output) > 1]
    blocks, ended = record(target, zoo["dspark_vanilla"], cut, 1.0), np.array([text.output[-1] == END for text in cut])
    assert 50 < ended.sum() < len(ended) == len(blocks.length)
    for sequence in np.flatnonzero(ended):
        rows = blocks.first_row[sequence] + np.arange(blocks.length[sequence])
        left = blocks.length[sequence] - np.arange(len(rows))
        assert np.all(blocks.accepted[rows] <= left)
        at_end = (blocks.accepted[rows] == left) & (left < blocks.gamma)
        assert np.all(blocks.acceptance[rows[at_end], left[at_end]] == 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_how_many_go_at_once_changes_nothing(name, temperature, zoo, target, sampled, monkeypatch):
    texts = [Text(t.prompt, t.output[: 3 + i % 20]) for i, t in enumerate(sampled[:20])]
    many, few = record(target, zoo[name], texts, temperature, at_once=64), None
    monkeypatch.setattr("real_runner.blocks.TOKENS_AT_ONCE", 70)
    few = record(target, zoo[name], texts, temperature, at_once=7)
    np.testing.assert_array_equal(many.accepted, few.accepted)
    np.testing.assert_allclose(many.acceptance, few.acceptance, atol=1e-5)
    if many.confidence is not None:
        np.testing.assert_allclose(many.confidence, few.confidence, atol=1e-5)
    other = record(target, zoo[name], texts, temperature, seed=1)
    assert temperature == 0 or not np.array_equal(many.accepted, other.accepted)


@pytest.mark.parametrize("name", ["dspark_rnn", "eagle3"])
def test_a_file_of_blocks_comes_back_the_same(name, zoo, target, sampled, tmp_path):
    drafter = copy.deepcopy(zoo[name])
    if name == "dspark_rnn":  # a head so sure that float32 cannot tell it from certainty
        drafter.confidence_head.proj.bias.data.fill_(60.0)
    texts = [Text(t.prompt, t.output, "ba"[i % 2], i) for i, t in enumerate(sampled[:9])]
    blocks = record(target, drafter, texts, 1.0)
    blocks.save(tmp_path / "b.parquet")
    again = RecordedBlocks.load(tmp_path / "b.parquet")
    assert (again.drafter, again.gamma, again.temperature, again.provenance) == ("one", drafter.gamma, 1.0, "measured")
    assert again.domains == blocks.domains == ("b", "a")
    for field in ("sequence_domain", "first_row", "length", "accepted", "confidence", "acceptance"):
        np.testing.assert_array_equal(getattr(again, field), getattr(blocks, field))
    assert acceptance_statistics(again, "a").sequences == 4


def test_texts_that_are_not_the_targets_are_one_line(zoo, target):
    for texts, said in (
        ([Text([1], [2, 3]), Text([1], [2, 300])], "token 300, but the target has 30"),
        ([Text([1], [2])], "expected a text of at least two tokens after a prompt"),
    ):
        with pytest.raises(DsimError, match=said):
            record(target, zoo["dflash"], texts)

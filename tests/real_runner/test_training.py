"""Training: the forward that learns is the forward that serves; it learns; it goes on after an interruption as if there had been none."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from real_runner.alignment import overlaps
from real_runner.drafters.drafter import forced
from real_runner.drafters.dspark import BlockDrafter
from real_runner.drafters.loading import load_drafter
from real_runner.failures import OutOfMemory
from real_runner.prompts import continued, own_words
from real_runner.target import Target
from real_runner.texts import Text
from real_runner.train import DraftPlan, TextPlan, make_texts, train_draft
from real_runner.training.checkpoints import Shape, default_taps, new_drafter, save_drafter, trained
from real_runner.training.corpus import build_corpus
from real_runner.training.loop import Schedule, Trainer
from real_runner.training.losses import RECIPES, expected_length, loss_of
from simulator.errors import DsimError
from simulator.progress import Progress

from .conftest import GOLDEN, TRAINED

QUIET = Progress(quiet=True)
FAMILIES = ("dspark", "dflash", "eagle3", "mtp")


def heard(drafter, ids, features, anchors):
    """Logits and confidences of training at anchors of a text, the text's own tokens following."""
    previous = ids[anchors.unsqueeze(1) + torch.arange(drafter.gamma)]
    return forced(drafter.steps_along(ids, features, anchors, drafter.gamma), previous)


@pytest.fixture(scope="module")
def texts(target):
    return [Text(ids[:8], ids[8:], "none", i) for i, ids in enumerate(continued(target, own_words(target, 16, 0, length=8), 40, seed=3))]


@pytest.fixture(scope="module")
def corpus(target, texts, tmp_path_factory):
    return build_corpus(target, (0, 1, 2), texts, tmp_path_factory.mktemp("corpus"), QUIET)


def new(family, target, folder, vocabulary=None, gamma=3):
    folder.mkdir(parents=True, exist_ok=True)
    shape = Shape(family, 1 if family == "mtp" else gamma, (0, 1, 2), layers=1, markov_rank=4, mask_token=target.vocabulary - 1)
    return new_drafter(shape, target, folder, vocabulary, seed=0)


def law_of(target, piece, where):
    return torch.softmax(target.head(piece.last).float(), dim=-1)[where]


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_heard_in_training_is_what_is_said_in_serving(name, target, drafters, texts, tmp_path):
    drafter = drafters[name]
    seen = overlaps(target, drafter, [[*t.prompt, *t.output] for t in texts[:3]])  # through the caches  # [texts, anchors, γ]
    corpus = build_corpus(target, drafter.taps, texts[:3], tmp_path, QUIET)
    length, gamma = len(texts[0].prompt) + len(texts[0].output), drafter.gamma
    anchors = torch.tensor(range(length - gamma - 1, 3, -3))
    for text in range(3):
        piece = corpus.piece(text)
        logits, _ = heard(drafter, piece.ids, piece.features, anchors)
        law = law_of(target, piece, anchors.unsqueeze(1) + torch.arange(gamma))
        overlap = torch.minimum(torch.softmax(logits.float(), dim=-1), law).sum(dim=-1)
        np.testing.assert_allclose(overlap.numpy(), seen[text], atol=2e-5)


def test_the_corpus_is_the_targets_own_law(target, corpus, texts):
    piece = corpus.piece(1)
    assert piece.ids.tolist() == [*texts[1].prompt, *texts[1].output]
    torch.testing.assert_close(target.head(piece.last).float().logsumexp(dim=-1), piece.normaliser, atol=1e-4, rtol=1e-5)


def test_a_corpus_goes_on_where_it_was_cut(target, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("real_runner.training.corpus.TOKENS_AT_ONCE", 100)
    whole = build_corpus(target, (0, 1), texts, tmp_path / "whole", QUIET)
    build_corpus(target, (0, 1), texts, tmp_path / "cut", QUIET)
    for name in ("features.bin", "normalisers.bin"):
        file = tmp_path / "cut" / name
        file.write_bytes(file.read_bytes()[: 5 * file.stat().st_size // 8 + 3])
    again = build_corpus(target, (0, 1), texts, tmp_path / "cut", QUIET)
    for text in range(len(texts)):
        torch.testing.assert_close(whole.piece(text).features, again.piece(text).features, atol=1e-5, rtol=1e-4)
    with pytest.raises(DsimError, match="other texts"):
        build_corpus(target, (0, 1), texts[1:], tmp_path / "cut", QUIET)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_drafter_loads_and_says_the_same(family, target, corpus, tmp_path):
    vocabulary = corpus.frequent(20) if family != "mtp" else None
    drafter = new(family, target, tmp_path, vocabulary)
    luck = torch.Generator().manual_seed(5)
    for _, parameter in trained(drafter):
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=luck))
    save_drafter(drafter, target, tmp_path)
    loaded = load_drafter(str(tmp_path), target)
    assert (loaded.spec.family, loaded.gamma) == (family, drafter.gamma)
    piece, anchors = corpus.piece(0), torch.arange(8, 30)
    features = piece.last if family == "mtp" else piece.features
    before, after = (heard(one, piece.ids, features, anchors) for one in (drafter, loaded))
    torch.testing.assert_close(before[0], after[0], atol=1e-5, rtol=1e-5)
    if vocabulary is not None:
        assert torch.equal(loaded.d2t, vocabulary)
    if family == "dspark":
        torch.testing.assert_close(before[1], after[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_helps_on_texts_that_were_kept_apart(family, target, corpus, tmp_path):
    trainer = Trainer(new(family, target, tmp_path), target, corpus, Schedule(steps=30, texts=4, anchors=24, rate=3e-3, held_out=4, look_every=30))
    before = trainer.held_out()["held_out_expected_length"]
    looks = trainer.run(tmp_path / "state", QUIET)
    assert looks[-1]["held_out_expected_length"] > before + 0.05


def test_an_interrupted_training_ends_where_an_undisturbed_one_does(target, corpus, tmp_path, monkeypatch):
    schedule = Schedule(steps=8, texts=2, anchors=8, held_out=4, look_every=4)
    whole = Trainer(new("dspark", target, tmp_path / "a"), target, corpus, schedule)
    whole.run(tmp_path / "a", QUIET)
    cut = Trainer(new("dspark", target, tmp_path / "b"), target, corpus, schedule)
    step = Trainer._step

    def stops(self):
        if self.done == 5:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", stops)
        with pytest.raises(KeyboardInterrupt):
            cut.run(tmp_path / "b", QUIET)
    again = Trainer(new("dspark", target, tmp_path / "b"), target, corpus, schedule)
    again.run(tmp_path / "b", QUIET)
    for (name, a), (_, b) in zip(trained(whole.drafter), trained(again.drafter), strict=True):
        assert torch.equal(a, b), name
    assert [look["step"] for look in json.loads((tmp_path / "b" / "training.json").read_text())["looks"]] == [4, 8]
    with pytest.raises(DsimError, match=r"holds a training with steps 8, now 9; use the same options"):
        Trainer(again.drafter, target, corpus, Schedule(steps=9, held_out=4)).run(tmp_path / "b", QUIET)


def test_a_training_goes_on_only_with_the_options_it_was_begun_with(target, texts, tmp_path):
    """Weights of one shape are not taken for another, and what describes the drafter stays as it was."""
    plan = DraftPlan(gamma=3, layers=1, markov_rank=8, draft_vocabulary=28)
    schedule = Schedule(steps=2, texts=2, anchors=8, held_out=4)

    def trained_as(**changes):
        return train_draft(target, tmp_path, texts, replace(plan, **changes), schedule, temperatures=(), progress=QUIET)

    report = trained_as()
    config = (tmp_path / "dspark" / "config.json").read_text()
    for changed, said in (
        ({"gamma": 2}, "gamma 3, now 2"),
        ({"layers": 2}, "layers 1, now 2"),
        ({"markov_rank": 4}, "markov_rank 8, now 4"),
        ({"draft_vocabulary": 20}, "draft_vocabulary '28 tokens, .*', now '20 tokens, .*'"),
        ({"draft_vocabulary": None}, "draft_vocabulary '28 tokens, .*', now nothing"),
    ):
        with pytest.raises(DsimError, match=f"holds a training with {said}") as refused:
            trained_as(**changed)
        assert "\n" not in refused.value.line()
        assert (tmp_path / "dspark" / "config.json").read_text() == config
    assert trained_as() == report


def test_texts_of_another_target_are_refused_before_its_features_are_made(target, tmp_path):
    file = tmp_path / "texts.jsonl"
    for highest in (29, 30):
        file.write_text("".join(json.dumps({"prompt": [1, 2], "output": [3, highest, i]}) + "\n" for i in range(4)))
        ids = nullcontext() if highest < target.vocabulary else pytest.raises(DsimError, match="texts: token 30, but the target has 30")
        with ids:
            made = make_texts(target, [], file, TextPlan(held_out=2), 0, tmp_path, QUIET)
    assert len(made) == 4


def test_memory_that_runs_out_is_one_line_and_training_goes_on_from_there(target, texts, tmp_path, monkeypatch):
    schedule = Schedule(steps=4, texts=2, anchors=8, held_out=4, look_every=2)

    def train():
        return train_draft(target, tmp_path, texts, DraftPlan(gamma=2, layers=1, markov_rank=4), schedule, temperatures=(), progress=QUIET)

    def refuses(where, name, when):
        real = getattr(where, name)

        def call(self, *given, **more):
            if when(self, given):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(self, *given, **more)

        return lambda patched: patched.setattr(where, name, call)

    for what, refused in (
        ("features of 784 tokens", refuses(Target, "step", lambda self, given: len(given[0]) > 100)),
        ("a training step", refuses(Trainer, "_step", lambda self, given: self.done == 1)),
        ("texts held out", refuses(Trainer, "_heard", lambda self, given: given[1] is None)),
    ):
        with monkeypatch.context() as patched:
            refused(patched)
            with pytest.raises(OutOfMemory, match=f"out of memory for {what}"):
                train()
    assert train()["drafters"]["dspark"]["looks"][-1]["step"] == 4


def test_losses_by_hand():
    law = torch.tensor([[[0.5, 0.3, 0.2]]])
    logits = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]]))
    recipe, truth, known = RECIPES["dspark"], torch.tensor([[1]]), torch.tensor([[True]])
    loss, overlap = loss_of(recipe, logits, torch.zeros(1, 1), law, truth, known)
    assert overlap.item() == pytest.approx(0.7)
    assert loss.item() == pytest.approx(0.1 * -np.log(0.5) + 0.9 * 0.6 + np.log(2))
    without, _ = loss_of(RECIPES["dflash"], logits, None, law, torch.tensor([[-1]]), known)
    assert without.item() == 0.0  # a token outside the draft vocabulary teaches nothing
    lengths = expected_length(torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([[True, True], [True, False]]))
    assert lengths.tolist() == [1.75, 1.5]


def test_taps_are_spread_as_the_released_drafters_have_them():
    assert default_taps(36) == (1, 9, 17, 25, 33)
    assert default_taps(40) == (1, 10, 19, 28, 37)
    assert default_taps(4) == (0, 1, 2)
    assert all(max(default_taps(n)) < n - 1 for n in range(2, 60))


def test_a_reduced_vocabulary_for_mtp_is_refused(target, corpus, tmp_path):
    with pytest.raises(DsimError, match="cannot have a reduced vocabulary"):
        new("mtp", target, tmp_path, corpus.frequent(20))


def test_golden_drafters_are_what_they_were(target):
    """Embedding and head are lent by the target: training must not have touched them."""
    again = load_drafter(str(GOLDEN / "dspark_vanilla"), target)
    assert isinstance(again, BlockDrafter)
    assert not any(parameter.requires_grad for parameter in again.parameters())

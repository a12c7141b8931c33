"""Requests longer than the recorded texts go on at the level they have: as spread as if the texts were long enough."""

from __future__ import annotations

import numpy as np

from simulator.arrays import Floats
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.replay import Replay, lay_out
from simulator.rng import uniform_at

CHAT = [0.7353, 0.7376, 0.7402, 0.744067]  # DSpark paper, Figure 2


def texts(anchors: int, sequences: int = 200, **shape: float) -> RecordedBlocks:
    return ParametricAcceptance(conditional={"chat": CHAT}, sequences_per_domain=sequences, anchors_per_sequence=anchors, **shape).generate("d")


def rounds(replay: Replay, requests: int, tokens: int) -> Floats:
    """Of each request, when all γ are verified."""
    found = []
    for request in range(requests):
        walk = replay.walk(request, "chat", tokens)
        visit, row, left, n = 0, walk.first[0], tokens - 1, 0
        while left > 0:
            advance = int(replay.accepted[row]) + 1
            left, row, n = left - advance, row + advance, n + 1
            if row >= walk.end[visit]:
                visit += 1
                row = walk.first[visit]
        found.append(n)
    return np.array(found, dtype=np.float64)


def test_a_long_answer_is_as_easy_throughout_in_short_texts_as_in_long_ones() -> None:
    """The coefficient of variation of 512-token answers is over texts of 64 anchors that over texts of 600; going on in any text gives 0.6 of it."""
    short, long = (lay_out(texts(anchors), None, False, 0, 0) for anchors in (64, 600))
    spread = [rounds(replay, 1200, 512) for replay in (short, long)]
    cv = [float(n.std() / n.mean()) for n in spread]
    error = cv[1] / np.sqrt(2 * 200)  # the texts are 200
    assert abs(cv[0] - cv[1]) < 3 * error
    first = rounds(short, 1200, 60)
    luck = first.std() / first.mean() / np.sqrt(512 / 60)  # were every stretch another's
    assert cv[0] > 1.4 * luck


def test_texts_without_a_level_follow_each_other_at_random() -> None:
    levels = lay_out(texts(128, sequence_share=0.0), None, False, 0, 0).levels["chat"]
    assert levels.luck > np.sqrt(0.75)  # the share of the level is estimated: nought, within the error of 200 texts
    kept = lay_out(texts(128, sequence_share=0.3), None, False, 0, 0).levels["chat"]
    assert kept.luck < np.sqrt(0.35)


def test_every_text_is_gone_on_in_as_often() -> None:
    """Chi-square over 20 texts, at the second visit: 99.99 % of 19 degrees lie below 50.8."""
    replay = lay_out(texts(64, 20), None, False, 0, 0)
    second = [replay.walk(request, "chat", 65).first[1] for request in range(4000)]
    counts = np.unique(second, return_counts=True)[1]
    assert len(counts) == 20
    assert ((counts - 200) ** 2 / 200).sum() < 50.8


def test_a_request_that_fits_its_text_has_any_of_them_by_its_own_draw() -> None:
    replay = lay_out(texts(64, 20), None, False, 3, 1)
    draws = uniform_at(3, "sequence", 1, np.arange(50), 0)
    assert [replay.walk(request, "chat", 63).first for request in range(50)] == [[64 * int(20 * u)] for u in draws]

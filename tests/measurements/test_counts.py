"""Blocks made of what engines count: runs on them must count the same, whatever the length of answers and the tokens verified."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.errors import ProfileError
from simulator.measurements.acceptance import ParametricAcceptance, extended, from_counts
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.statistics import acceptance_statistics, visited_rows

SURVIVAL = [0.80, 0.55, 0.30]


@pytest.fixture(scope="module")
def counted() -> RecordedBlocks:
    return from_counts(SURVIVAL, "d", "a service")


def rounds_of(blocks: RecordedBlocks, tokens: int, verified: int) -> tuple[int, int]:
    """Rounds, and tokens committed in them, of one answer of `tokens` from every sequence, the first token given; a longer answer goes on in the next
    one, which is as good as any other here."""
    at, left, sequence = blocks.first_row.copy(), np.full(len(blocks.length), tokens - 1), np.arange(len(blocks.length))
    rounds = committed = 0
    live = np.flatnonzero(left > 0)
    while live.size:
        took = np.minimum(blocks.accepted[at[live]], verified) + 1
        rounds, committed = rounds + len(live), committed + int(took.sum())
        at[live] += took
        left[live] -= took
        over = live[at[live] >= (blocks.first_row + blocks.length)[sequence[live]]]
        sequence[over] = (sequence[over] + 1) % len(sequence)
        at[over] = blocks.first_row[sequence[over]]
        live = live[left[live] > 0]
    return rounds, committed


@pytest.mark.parametrize("tokens", [10, 30, 60, 600])
def test_answers_of_any_length_have_the_counted_accepted_length(counted: RecordedBlocks, tokens: int) -> None:
    """As counters have it: not cut at the ends of answers. A sequence begins where a round does."""
    rounds, committed = rounds_of(counted, tokens, 3)
    assert committed / rounds == pytest.approx(1 + sum(SURVIVAL), rel=0.01)


def test_places_where_nothing_is_proposed_come_as_often_as_counted() -> None:
    """A quarter of the rounds, and survival over those that propose; a run that verifies less stays longer where it is proposed."""
    blocks = from_counts(SURVIVAL, "d", "a service", proposing=0.25)
    assert blocks.proposed is not None
    rows = visited_rows(blocks)
    proposing = rows[blocks.proposed[rows] > 0]
    sequence = blocks.sequence_of_row
    share = np.bincount(sequence[proposing], minlength=len(blocks.length)) / np.bincount(sequence[rows])
    assert abs(share.mean() - 0.25) < 4 * share.std() / np.sqrt(len(share)) + 0.005
    assert set(np.unique(blocks.proposed)) == {0, 3}
    assert np.all(blocks.proposed[1:][(blocks.accepted[:-1] > 0) & (np.diff(sequence) == 0)] == 3)  # a run goes on
    found = acceptance_statistics(blocks, rows=proposing)
    assert np.all(np.abs(found.survival - SURVIVAL) < 4 * found.survival_error)
    less = visited_rows(blocks, np.ones(blocks.rows, dtype=np.int64))
    assert np.mean(blocks.proposed[less] > 0) > 0.3


LENGTHS = [1.84, 2.51, 3.01, 3.36, 3.61, 3.77]  # DeepSeek-V4-Pro with DSpark, SPEED-Bench coding, one run for every k (InferenceX)


def test_a_table_by_length_is_met_by_a_run_at_every_length() -> None:
    """Survival taken from such a table, as if all of it were counted in one run, gives some 2 % more."""
    shape = {"sequences_per_domain": 300, "anchors_per_sequence": 96}
    survival = np.diff(LENGTHS, prepend=1.0)
    conditional = (survival / np.array([1.0, *survival[:-1]])).tolist()
    met = ParametricAcceptance(accepted_length={"any": LENGTHS}, **shape).generate("d")
    naive = ParametricAcceptance(conditional={"any": conditional}, **shape).generate("d")
    for k, wanted in enumerate(LENGTHS, start=1):
        rounds, committed = rounds_of(met, 96, k)
        assert committed / rounds == pytest.approx(wanted, rel=0.008)
    rounds, committed = rounds_of(naive, 96, 2)
    assert committed / rounds > 1.02 * LENGTHS[1]


def test_a_table_that_falls_is_refused() -> None:
    with pytest.raises(ProfileError, match=r"accepted_length: position 3: .* tokens, got 2.4; .*leave out the k"):
        ParametricAcceptance(accepted_length={"any": [1.8, 2.5, 2.4]}, sequences_per_domain=8, anchors_per_sequence=32).generate("d")


def test_positions_beyond_the_counted_ones_go_on_like_them() -> None:
    assert extended([0.8, 0.6, 0.5], 2) == [0.8, 0.6]
    assert extended([0.8], 3) == [0.8, 0.8, 0.8]
    assert extended([0.8, 0.6, 0.5], 5)[3:] == pytest.approx([(0.48 + 0.24) / (0.8 + 0.48)] * 2)
    longer = from_counts(SURVIVAL, "d", "a service", gamma=5)
    rows = visited_rows(longer, np.full(longer.rows, 3))  # where a run that verifies the counted ones comes
    found = acceptance_statistics(longer, rows=rows)
    assert np.all(np.abs(found.conditional - extended([0.8, 0.6875, 0.5454545], 5)) < 4 * found.conditional_error)


def test_counters_without_an_accepted_token_are_refused() -> None:
    with pytest.raises(ProfileError, match="counts no accepted token"):
        from_counts([0.0, 0.0], "d", "a service")

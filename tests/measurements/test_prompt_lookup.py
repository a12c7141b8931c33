"""Prompt lookup by hand, and against a search that tries every place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.errors import ProfileError
from simulator.measurements.prompt_lookup import prompt_lookup


def test_a_sentence_that_comes_again() -> None:
    """Prompt 1 2 3 4 5, answer 9 2 3 4 7 8 6 6 (γ = 2, two tokens or more): `2 3` is followed by 4 5, of which 4 comes; `3 4` by 5, and 9."""
    found = prompt_lookup([("chat", [1, 2, 3, 4, 5], [9, 2, 3, 4, 7, 8, 6, 6])], gamma=2, longest=3, shortest=2)
    assert found.proposed is not None
    assert found.proposed.tolist() == [0, 0, 2, 2, 0, 0]
    assert found.accepted.tolist() == [0, 0, 1, 0, 0, 0]
    assert (found.domains, found.length.tolist(), found.confidence) == (("chat",), [6], None)


def test_the_longest_match_wins_and_of_equal_ones_the_first() -> None:
    """`5 6` stands twice, followed by 1 and by 2: the first. `4 5 6` stands once, followed by 2: the longer."""
    prompt = [5, 6, 1, 4, 5, 6, 2, 3]
    short = prompt_lookup([("a", prompt, [4, 5, 6, 2, 0])], gamma=1, longest=2, shortest=2)
    long = prompt_lookup([("a", prompt, [4, 5, 6, 2, 0])], gamma=1, longest=3, shortest=2)
    assert short.accepted.tolist() == [0, 1, 0, 0]
    assert long.accepted.tolist() == [0, 1, 1, 0]


def test_proposals_end_with_the_context_and_at_its_limit() -> None:
    """7 7 7: the last 7 7 stood one earlier, one token follows. With room for one token more, no more is proposed; with none, nothing."""
    texts = [("a", [7], [7, 7, 7, 7, 7, 7, 7])]
    found = [prompt_lookup(texts, 3, 2, 2, max_context=limit).proposed for limit in (None, 5, 4)]
    assert [p is not None and p.tolist() for p in found] == [[0, 1, 2, 3], [0, 1, 1, 0], [0, 1, 0, 0]]


def searched(context: Sequence[int], gamma: int, longest: int, shortest: int, limit: int) -> list[int]:
    """Every length from the longest, every place from the first."""
    for n in range(longest, shortest - 1, -1):
        for start in range(len(context) - n):
            if list(context[start : start + n]) == list(context[len(context) - n :]):
                return list(context[start + n :])[: max(min(gamma, limit - len(context)), 0)]
    return []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    text=st.lists(st.integers(0, 2), min_size=8, max_size=40), prompt=st.integers(1, 4), gamma=st.integers(1, 3),
    shortest=st.integers(1, 3), more=st.integers(0, 2), limit=st.integers(3, 60),
)  # fmt: skip
def test_every_anchor_is_what_a_search_finds(text: list[int], prompt: int, gamma: int, shortest: int, more: int, limit: int) -> None:
    found = prompt_lookup([("a", text[:prompt], text[prompt:])], gamma, shortest + more, shortest, limit)
    drafts = [searched(text[:end], gamma, shortest + more, shortest, limit) for end in range(prompt + 1, len(text) - gamma + 1)]
    follow = [text[end : end + len(draft)] for end, draft in enumerate(drafts, prompt + 1)]
    assert found.proposed is not None
    assert found.proposed.tolist() == [len(draft) for draft in drafts]
    assert found.accepted.tolist() == [int(np.cumprod(np.equal(a, b)).sum()) for a, b in zip(drafts, follow, strict=True)]


def test_answers_must_be_longer_than_a_block() -> None:
    with pytest.raises(ProfileError, match="no answer has more than 3 tokens; record longer answers"):
        prompt_lookup([("a", [1], [1, 2, 3])], 3, 2, 1)

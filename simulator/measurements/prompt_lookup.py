"""Prompt lookup (n-gram) as a drafter: recorded blocks from texts alone, with what vLLM's proposer does at every anchor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.arrays import Integers
from simulator.errors import ProfileError
from simulator.measurements.draft_blocks import RecordedBlocks


def prompt_lookup(
    texts: Sequence[tuple[str, Sequence[int], Sequence[int]]],
    gamma: int,
    longest: int,
    shortest: int,
    max_context: int | None = None,
    drafter: str = "ngram",
    provenance: str = "measured",
    source: str = "prompt lookup in recorded texts",
) -> RecordedBlocks:
    """Blocks at every answer token that `gamma` more follow, of texts (domain, prompt tokens, answer tokens) that the target sampled itself.

    The last n tokens of the context, the most of `shortest` … `longest` that stood there before, are looked up where they stood first, and up to
    `gamma` tokens that followed are proposed, none beyond the context's end or `max_context` (vLLM: vllm/v1/spec_decode/ngram_proposer.py,
    prompt_lookup_max and prompt_lookup_min). Raises ProfileError where no answer is long enough.
    """
    assert 1 <= shortest <= longest, "lengths to look up"
    kept = [text for text in texts if len(text[2]) > gamma]
    if not kept:
        raise ProfileError(f"no answer has more than {gamma} tokens", remedy="record longer answers, or shorten the block")
    domains = tuple(dict.fromkeys(domain for domain, _, _ in kept))
    parts = [_walked([*prompt, *answer], len(prompt), len(answer) - gamma, gamma, longest, shortest, max_context) for _, prompt, answer in kept]
    length = np.array([len(part) for part in parts])
    proposed, accepted = np.concatenate(parts).T
    return RecordedBlocks(
        drafter=drafter, gamma=gamma, temperature=None, provenance=provenance, source=source, domains=domains,
        sequence_domain=np.array([domains.index(domain) for domain, _, _ in kept]), first_row=np.cumsum(length) - length, length=length,
        accepted=accepted, proposed=proposed,
    )  # fmt: skip


def _walked(tokens: list[int], prompt: int, anchors: int, gamma: int, longest: int, shortest: int, max_context: int | None) -> Integers:
    """Tokens proposed and accepted at each anchor of an answer that begins at `prompt`, [anchors, 2]."""
    first: dict[tuple[int, ...], int] = {}  # of every run of tokens, what follows it where it stood first
    rows = []
    for end in range(1, prompt + anchors + 1):  # the context holds `end` tokens, the last one is the anchor
        if end > prompt:
            room = gamma if max_context is None else min(gamma, max_context - end)
            draft = _draft(tokens, end, first, longest, shortest)[: max(room, 0)]
            following = tokens[end : end + len(draft)]
            wrong = [a != b for a, b in zip(draft, following, strict=True)]
            rows.append((len(draft), wrong.index(True) if True in wrong else len(draft)))
        for n in range(shortest, min(longest, end) + 1):
            first.setdefault(tuple(tokens[end - n : end]), end)
    return np.array(rows, dtype=np.int64)


def _draft(tokens: list[int], end: int, first: dict[tuple[int, ...], int], longest: int, shortest: int) -> list[int]:
    """What followed the longest end of the context, [≤ end], where it stood first."""
    for n in range(min(longest, end), shortest - 1, -1):
        start = first.get(tuple(tokens[end - n : end]))
        if start is not None:
            return tokens[start:end]
    return []

"""The prompts that come along: enough, distinct, and in the wheel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DOMAINS = ("math", "code", "chat")


def turns(repository: Path, domain: str) -> list[list[str]]:
    lines = (repository / "real_runner" / "prompt_sets" / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(set(row) == {"turns"} for row in rows)
    return [row["turns"] for row in rows]


@pytest.mark.parametrize("domain", DOMAINS)
def test_at_least_forty_prompts_of_sensible_length(repository: Path, domain: str) -> None:
    found = turns(repository, domain)
    assert len(found) >= 40
    for prompt in found:
        assert len(prompt) == 1
        assert 40 <= len(prompt[0]) <= 1200
        assert prompt[0] == prompt[0].strip()


def test_no_two_prompts_begin_or_read_alike(repository: Path) -> None:
    every = [prompt[0] for domain in DOMAINS for prompt in turns(repository, domain)]
    words = [" ".join("".join(c if c.isalpha() else " " for c in text.lower()).split()) for text in every]
    assert len(set(words)) == len(every)
    assert len({" ".join(text.split()[:8]) for text in words}) == len(every)


@pytest.mark.shared
def test_none_is_in_a_known_benchmark(repository: Path, shared: Path) -> None:
    """No eight words in a row stand in any public prompt set that a development machine has."""
    known: set[tuple[str, ...]] = set()
    files = sorted((shared / "prompts").rglob("*.jsonl"))
    assert files
    for file in files:
        known |= shingles(file.read_text(encoding="utf-8").replace("\\n", " "))
    for domain in DOMAINS:
        for prompt in turns(repository, domain):
            assert not shingles(prompt[0]) & known, prompt[0]


def shingles(text: str, size: int = 8) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

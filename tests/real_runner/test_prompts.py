"""Prompt sets: those that come along, those that are given, and how they become token ids."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from real_runner import prompts as reading
from real_runner.prompts import encoded, own_prompt_sets, prompts_for, read_prompt_set
from simulator.errors import DsimError


class Letters:
    """A tokenizer of letters with a chat template that marks the answer's begin, unless thinking is on."""

    chat_template = "there is one"

    def apply_chat_template(self, turns, *, add_generation_prompt, enable_thinking, return_dict):
        ids = [ord(letter) for turn in turns for letter in turn["content"]]
        return {"input_ids": [*ids, *[0] * add_generation_prompt, *[1] * enable_thinking]}


@pytest.fixture
def letters(monkeypatch):
    monkeypatch.setattr(reading, "tokenizer_of", lambda target: Letters())
    return SimpleNamespace(name="letters")


def test_the_sets_that_come_along_are_there():
    sets = {domain: read_prompt_set(file, domain) for domain, file in own_prompt_sets().items()}
    assert list(sets) == ["math", "code", "chat"]
    turns = [turn for one in sets.values() for turn in one.turns]
    assert len(set(turns)) == len(turns) >= 3 * 24  # as many as training holds out, of each


def test_prompts_without_a_file_take_the_domains_in_turn(letters):
    first = [chr(token) for ids in prompts_for(letters, 3) for token in ids[:-1]]
    assert "".join(first) == "".join(read_prompt_set(file).turns[0] for file in own_prompt_sets().values())
    assert len(prompts_for(letters, 500)) == 500


def test_sets_become_ids_up_to_a_limit(letters, tmp_path):
    for name, turns in (("math", ["ab", "c", "d"]), ("other", ["ef"])):
        lines = [json.dumps({"turns": [turn, "and then?"]}, ensure_ascii=False) for turn in turns]
        (tmp_path / f"{name}.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    sets = [read_prompt_set(tmp_path / "math.jsonl"), read_prompt_set(tmp_path / "other.jsonl", "chat")]
    assert encoded(letters, sets, 2) == [("math", 0, [97, 98, 0]), ("math", 1, [99, 0]), ("chat", 0, [101, 102, 0])]
    assert len(encoded(letters, sets)) == 4


def test_a_target_without_a_tokenizer_takes_no_prompt_sets(target):
    with pytest.raises(DsimError, match="target: the target has no tokenizer; "):
        encoded(target, [read_prompt_set(file) for file in own_prompt_sets().values()])


@pytest.mark.parametrize(
    "content, said",
    [
        (None, r"p\.jsonl: no such file; use a JSON-lines file with `turns`"),
        (b"", r"p\.jsonl: expected at least one prompt"),
        (b'{"turns": ["a"]}\n{"turns": []}\n', r"p\.jsonl:2: turns: expected an object with a list `turns`"),
        (b"[1]\n", r"p\.jsonl:1: expected a JSON object"),
        (b'{"turns": [{"role": "user"}]}\n', r"p\.jsonl:1: turns: expected text in the first turn"),
        (b'{"turns": [" "]}\n', r"p\.jsonl:1: turns: expected text in the first turn"),
        (b'{"turns": ["\xff"]}\n', r"p\.jsonl: is not UTF-8 text"),
    ],
)
def test_files_that_are_wrong_are_one_line(content, said, tmp_path):
    file = tmp_path / "p.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DsimError, match=said):
        read_prompt_set(file)

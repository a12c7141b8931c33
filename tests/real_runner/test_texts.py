"""Texts of the target: the target's own words, kept as they are made, the same after an interruption."""

from __future__ import annotations

import json

import pytest

from real_runner import texts as making
from real_runner.texts import Text, generate_texts, read_texts
from simulator.errors import DsimError
from simulator.progress import Progress

QUIET = Progress(quiet=True)
PROMPTS = [("math", 0, [3, 16, 18, 17]), ("math", 1, [10, 12]), ("code", 0, [27, 7, 16]), ("code", 1, [5]), ("chat", 0, [11, 28, 10, 1])]
PLAN = {"temperature": 1.0, "max_tokens": 12, "slots": 2, "seed": 3}


def make(target, file, prompts=PROMPTS, **changes):
    return generate_texts(target, prompts, **(PLAN | changes), file=file, progress=QUIET)


def test_greedy_texts_are_the_targets_own(target, plain, tmp_path):
    texts = make(target, tmp_path / "t.jsonl", temperature=0.0)
    assert [(t.domain, t.of, t.prompt) for t in texts] == PROMPTS
    assert [t.output for t in texts] == [plain(ids, 12) for _, _, ids in PROMPTS]


def test_texts_end_where_the_target_ends_them(target, tmp_path, monkeypatch):
    whole = make(target, tmp_path / "a.jsonl")
    end = whole[0].output[4]
    monkeypatch.setattr(target.model.generation_config, "eos_token_id", end, raising=False)
    ended = make(target, tmp_path / "b.jsonl")
    cut = [t.output[: t.output.index(end) + 1] if end in t.output else t.output for t in whole[:2]]
    assert next(t.output for t in ended[:2]) == cut[0]  # its batch's luck is the same up to there
    assert all(end not in t.output[:-1] for t in ended)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_an_interrupted_run_goes_on_as_if_there_had_been_none(kept, target, tmp_path):
    whole = make(target, tmp_path / "whole.jsonl")
    content = (tmp_path / "whole.jsonl").read_bytes()
    header = content.index(b"\n") + 1
    (tmp_path / "cut.jsonl").write_bytes(content[: header + int(kept * (len(content) - header))])
    assert make(target, tmp_path / "cut.jsonl") == whole
    assert (tmp_path / "cut.jsonl").read_bytes() == content


def test_a_crash_keeps_what_was_made(target, tmp_path, monkeypatch):
    whole, say, calls = make(target, tmp_path / "whole.jsonl"), making._say, []

    def tired(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return say(*given)

    monkeypatch.setattr(making, "_say", tired)
    with pytest.raises(KeyboardInterrupt):
        make(target, tmp_path / "t.jsonl")
    assert len(read_texts(tmp_path / "t.jsonl")) == 2
    assert make(target, tmp_path / "t.jsonl") == whole
    assert len(calls) == 4, "made again what was there"


@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"max_tokens": 13}, {"seed": 4}, {"slots": 3}])
def test_another_run_is_refused(changes, target, tmp_path):
    make(target, tmp_path / "t.jsonl")
    (key, value), before = next(iter(changes.items())), (tmp_path / "t.jsonl").read_bytes()
    with pytest.raises(DsimError, match=f"t.jsonl: {key}: holds unfinished texts with {key} {PLAN[key]!r}, now {value!r}"):
        make(target, tmp_path / "t.jsonl", **changes)
    with pytest.raises(DsimError, match="prompts: holds unfinished texts"):
        make(target, tmp_path / "t.jsonl", PROMPTS[1:])
    assert (tmp_path / "t.jsonl").read_bytes() == before


def test_given_texts_have_no_header(target, tmp_path):
    file = tmp_path / "given.jsonl"
    file.write_text('{"prompt": [1, 2], "output": [3]}\n\n{"prompt": [4], "output": [5, 6], "domain": "code", "of": 7}\n{"prompt": [1')
    assert read_texts(file) == [Text([1, 2], [3], "none", 0), Text([4], [5, 6], "code", 7)]
    with pytest.raises(DsimError, match="holds texts from elsewhere"):
        make(target, file)


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "t.jsonl:1: not valid JSON"),
        ("[]", "t.jsonl:1: prompt: expected a list of token ids"),
        (json.dumps({"prompt": [1], "output": [True]}), "t.jsonl:1: output: expected a list of token ids"),
        (json.dumps({"prompt": [1], "output": [1], "of": "x"}), "t.jsonl:1: of: 'x'"),
        ("", "t.jsonl: texts: expected at least one text"),
    ],
)
def test_files_that_are_wrong_are_one_line(line, said, tmp_path):
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(DsimError, match=said):
        read_texts(tmp_path / "t.jsonl")


def test_the_targets_positions_are_not_left(target, tmp_path):
    long = [1] * (target.config.max_position_embeddings - 5)
    assert [len(t.output) for t in make(target, tmp_path / "a.jsonl", [("math", 0, long), ("math", 1, [2])])] == [5, 12]
    with pytest.raises(DsimError, match=r"prompt 9 of math: 511 tokens, but the target has 512 positions"):
        make(target, tmp_path / "b.jsonl", [("math", 9, [1] * 511)])
    assert not (tmp_path / "b.jsonl").exists()

"""`--serving KEY=VALUE`: a mistake is one line with the nearest key, and help names every key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from real_runner.serving import Serving, read_serving
from simulator.errors import DsimError

Dsim = Callable[..., Any]


def test_words_become_values() -> None:
    serving = read_serving(["turns=4", "rate=1.5", "prompts=a.jsonl", "prompts=code=b.jsonl", "device=cuda:1", "dtype=bfloat16"])
    assert (serving.turns, serving.rate, serving.device) == (4, 1.5, "cuda:1")
    assert serving.prompts == ["a.jsonl", "code=b.jsonl"]
    assert read_serving([]) == Serving()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("turn=4", "--serving: turn: unknown key 'turn'; did you mean 'turns'?"),
        ("turns", "--serving: expected KEY=VALUE, got 'turns'; for example --serving turns=4"),
        ("turns=many", "--serving: turns: "),
        ("turns=0", "--serving: turns: "),
        ("rate=-1", "--serving: rate: "),
        ("open_requests=1", "--serving: open_requests: "),
        ("dtype=float7", "--serving: dtype: "),
    ],
)
def test_a_mistake_is_one_line(word: str, line: str) -> None:
    with pytest.raises(DsimError) as caught:
        read_serving([word])
    assert caught.value.line().startswith(line)


def test_help_names_every_key(dsim: Dsim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = dsim("validate", "--help").out.partition("--serving")[2].partition("--published")[0]
    assert all(key in shown.replace(",", " ").replace(".", " ").split() for key in Serving.model_fields)

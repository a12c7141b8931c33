"""JSON: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.reading import limits
from simulator.reading.json_files import json_lines, parse_json, read_json

READ: dict[str, Any] = {
    '{"a": [1, 2.5, true, null, "x"]}': {"a": [1, 2.5, True, None, "x"]},
    '"\\ud83d\\ude00"': "😀",
    "[" * 64 + "]" * 64: None,
    '"' + "[" * 100 + '"': "[" * 100,
    '[["' + "{[" * 200 + '"]]': [["{[" * 200]],
    '"' + "9" * 5000 + '"': "9" * 5000,
    f'["{"9" * 400}", {"9" * 40}, 1e308]': ["9" * 400, int("9" * 40), 1e308],
}
REFUSED = {
    "": "Expecting value",
    "{} {}": "Extra data",
    '{"a": 1, "b": 2, "a": 1}': "key 'a' appears twice",
    '[{"x": {"a": 1, "a": 1}}]': "key 'a' appears twice",
    "[" * 65 + "]" * 65: "nested more than 64 deep",
    '{"a":' * 65 + "1" + "}" * 65: "nested more than 64 deep",
    "[" * 100_000: "nested more than 64 deep",
    "[NaN]": "NaN is not a number",
    "[-Infinity]": "-Infinity is not a number",
    "[1e999]": "number 1e999 is too large",
    "[" + "9" * 400 + ".5]": "number 9{59}… is too large",
    "[" + "9" * 400 + "]": "number 9{59}… is too large",
    "[" + "9" * 5000 + "]": "number 9{59}… is too large",
    '["\\ud800"]': r"'\\ud800' is half of a character",
    '{"\\udfff": 1}': r"'\\udfff' is half of a character",
    '"' + "x" * 1000: "Unterminated string",
}


@pytest.mark.parametrize("text", READ, ids=range(len(READ)))
def test_what_is_read(text: str) -> None:
    assert parse_json(text, "f") == (READ[text] if READ[text] is not None else json.loads(text))


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(text: str) -> None:
    with pytest.raises(DsimError, match=rf"^f: not valid JSON \({REFUSED[text]}") as refused:
        parse_json(text, "f")
    assert len(refused.value.line()) < 200


def test_nan_by_option() -> None:
    assert repr(parse_json("[NaN, Infinity, -Infinity]", "f", nan="kept")) == "[nan, inf, -inf]"
    assert parse_json("[NaN, Infinity, 1]", "f", nan="missing") == [None, None, 1]
    with pytest.raises(DsimError, match="too large"):
        parse_json("[1e999]", "f", nan="kept")


def test_values_that_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.VARIABLE, "0.01")
    assert len(parse_json("[" + "{}," * 200 + "1]", "f")) == 201
    with pytest.raises(DsimError, match=r"its values take about 12 MB of memory, at most 0 are used; if it is right, raise the limit"):
        parse_json("[" + "{}," * 50_000 + "1]", "f")


def test_files_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text('{"a": 1}\n\n{"a": 2, "a": 3}\n')
    with pytest.raises(DsimError, match=r"a:3: not valid JSON \(key 'a' appears twice\); each line holds one JSON object$"):
        list(json_lines(path))
    path.write_text("[1]")
    with pytest.raises(DsimError, match=r"a: expected a JSON object"):
        read_json(path)
    path.write_text('\ufeff\n{"a": 1e3}\n')
    assert read_json(path) == {"a": 1000.0}
    assert list(json_lines(path)) == [(f"{path}:2", {"a": 1000.0})]

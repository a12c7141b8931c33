"""YAML: plain scalars, lists and mappings and nothing else; every mistake one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulator.errors import ScenarioError
from simulator.reading import limits
from simulator.reading.yaml_files import parse_yaml, read_yaml

READ: dict[str, Any] = {
    "[yes, No, on, 0x1f, 0x_, 0o17, 12:30:45, 2020-99-99, 1_0_, 1__0, _1, .e1, e5]": None,
    "[010, +7, -0, 1_000, 1e3, .5, 1., true, NULL, ~]": [10, 7, 0, 1000, 1000.0, 0.5, 1.0, True, None, None],
    "b: &b {x: 1}\nq: {r: {s: &a {<<: *b, x: 2}}}\nc: {<<: *a}": {"b": {"x": 1}, "q": {"r": {"s": {"x": 2}}}, "c": {"x": 2}},
    "[.inf, -.INF]": [float("inf"), float("-inf")],
}
REFUSED = {
    "a: !!int ''": "a tag, 'int'",
    "a: !!timestamp x": "a tag, 'timestamp'",
    "a: !!bool maybe": "a tag, 'bool'",
    "a: !!map [a]": "a tag, 'map'",
    "a: !!str 5": "a tag, 'str'",
    "a: ! 5": "a tag, '!'",
    "a: !<tag:yaml.org,2002:python/name:os.system> x": "a tag, 'python/name:os.system'",
    "%TAG ! x\n---\na: !b 1": "a tag, 'xb'",
    "a: " + "9" * 5000: "number '9{40}' is too large",
    "a: 1e999": "number '1e999' is too large",
    "[" * 1500: "nested more than 64 deep",
    "- " * 1500: "nested more than 64 deep",
    "{1: a, 1.0: b}": "key '1.0' appears twice",
    "{<<: {a: 1}, <<: {a: 2}}": "key '<<' appears twice",
    "? [a]\n: b": "found unhashable key",
    'a: "\\ud800"': "half of a character",
    'a: "\\UFFFFFFFF"': "cannot be read",
    "a: {<<: 5}": "expected a mapping or list of mappings for merging",
    "a: \x07": "special characters are not allowed",
    "*" + "a" * 5000: "found undefined alias",
}


@pytest.mark.parametrize("text", READ, ids=range(len(READ)))
def test_what_is_read(text: str) -> None:
    content = parse_yaml(text, "f")
    assert content == (text.strip("[]").split(", ") if READ[text] is None else READ[text])


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"^f[:0-9]*: not valid YAML \(.*" + REFUSED[text]) as refused:
        parse_yaml(text, "f")
    assert len(refused.value.line()) < 400


def test_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML would take seconds for each MB."""
    (tmp_path / "a.yaml").write_text("a: '" + "x" * 600_000 + "'")
    with pytest.raises(ScenarioError, match=r"a.yaml: is larger than 0.5 MB; if it is right, raise the limit with --max-file-mb"):
        read_yaml(tmp_path / "a.yaml")
    monkeypatch.setenv(limits.VARIABLE, "1")
    assert len(read_yaml(tmp_path / "a.yaml")["a"]) == 600_000


@pytest.mark.parametrize("text", ["[" + "1," * 1000 + "]", "[&a 1," + "*a," * 1000 + "]", "? a\n" * 1000])
def test_many_values(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.VARIABLE, "0.01")
    with pytest.raises(ScenarioError, match=r"f:\d+:\d+: not valid YAML \(has more than 500 keys and values\); if it is right, raise the limit"):
        parse_yaml(text, "f")

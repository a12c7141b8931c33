"""YAML as people mean it: version 1.2's words and numbers, each key once, no tags, and one line for what cannot be read."""

from __future__ import annotations

import re
from math import isinf
from pathlib import Path
from typing import Any, ClassVar

import yaml

from simulator.errors import DsimError, ScenarioError
from simulator.reading import limits
from simulator.reading.opening import read_text

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")

# what PyYAML says, in part, and what to do
_REMEDIES = {
    "'\\t'": "indent with spaces, not tabs",
    "mapping values are not allowed": "put a space after each colon, quote a text with ': ' in it, and give the keys of one mapping the same indent",
    "could not find expected ':'": "write KEY: VALUE, with a space after the colon",
    "found unexpected end of stream": "close the quote",
    "expected ',' or ']'": "close the bracket, and put commas between the entries",
    "expected ',' or '}'": "close the brace, and put commas between the entries",
    "expected the node content": "close the bracket, or quote the text",
    "as a key": "write it in quotes",
    "another document": "one file holds one document: drop the line --- and what follows",
    "undefined alias": "quote a text that begins with *",
    "a tag": "drop the tag, or quote a text that begins with !",
    "cannot start any token": "quote the text",
    "expected <block end>": "give the keys of one mapping the same indent, and the entries of one list too",
    "special characters are not allowed": "drop the control characters",
    "keys and values": limits.RAISE,
    "aliases repeat": "write out what the aliases stand for",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: yes, 010, 12:30 and dates are what they look like, a text, 10, a text and a text. A key may appear once."""

    yaml_implicit_resolvers: dict[Any, Any] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = {}
    _depth = _nodes = 0
    _most_nodes = 0.0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth, self._nodes = self._depth + 1, self._nodes + 1
        if self._depth > limits.DEPTH:
            raise _complaint(f"nested more than {limits.DEPTH} deep", self.get_mark())
        if self._nodes > self._most_nodes:
            raise _complaint(f"has more than {self._most_nodes:,.0f} keys and values", self.get_mark())
        if (tag := getattr(event := self.peek_event(), "tag", None)) is not None:  # type: ignore[no-untyped-call]
            raise _complaint(f"expected a plain value, got a tag, '{str(tag).removeprefix(_TAG)[:40]}'", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        try:
            str(node.value).encode()
        except UnicodeEncodeError:
            raise _complaint("half of a character", node.start_mark) from None
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag in (f"{_TAG}bool", f"{_TAG}null"):
                raise _complaint(f"expected a text as a key, got '{key.value}'", key.start_mark)
            name = self._number(key) if key.tag in (f"{_TAG}int", f"{_TAG}float") else key.value
            if name in seen:
                raise _complaint(f"key '{str(key.value)[:80]}' appears twice", key.start_mark)
            seen.add(name)
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > limits.ALIASED_NODES:
            raise _complaint("aliases repeat each other without end", node.start_mark)
        return node

    def _number(self, node: yaml.ScalarNode) -> int | float:
        text = str(node.value)
        value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if isinf(value) and "inf" not in text.lower():
            raise _complaint(f"number '{text[:40]}' is too large", node.start_mark)
        return int(text) if node.tag == f"{_TAG}int" else value


def _complaint(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Nodes below and with `node`, aliases written out: endless where one holds itself."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # while it is being counted
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + (sum(_size(part, sizes) for part in inner) if isinstance(node, yaml.CollectionNode) else 0)
    return sizes[id(node)]


def _prepare() -> None:
    for tag, pattern, first in (
        ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
        ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
        ("merge", r"<<\Z", "<"),
    ):
        _Loader.add_implicit_resolver(f"{_TAG}{tag}", re.compile(pattern), list(first))
    _Loader.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
    _Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
    for kind in ("null", "bool", "str", "seq", "map"):
        _Loader.add_constructor(f"{_TAG}{kind}", getattr(yaml.SafeLoader, f"construct_yaml_{kind}"))
    for kind in ("int", "float"):
        _Loader.add_constructor(f"{_TAG}{kind}", _Loader._number)
    _Loader.yaml_constructors[None] = yaml.SafeLoader.construct_undefined


_prepare()


def read_yaml(path: Path, error: type[DsimError] = ScenarioError) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `error` with file, line and column when it cannot be read."""
    content = parse_yaml(read_text(path, error, most_mb=limits.YAML_MB), path, error)
    if not isinstance(content, dict):
        what = {list: "a list", type(None): "an empty file"}.get(type(content), "a text")
        raise error(f"expected a mapping of keys to values, got {what}", where=path, remedy="dsim init writes one to start from")
    return content


def parse_yaml(text: str, where: Path | str, error: type[DsimError] = ScenarioError) -> Any:
    """The value of a YAML text. Raises `error` with line and column, and what is likely wrong there."""
    mark, what = None, "cannot be read"
    try:
        loader = _Loader(text)
        loader._most_nodes = limits.YAML_NODES_PER_MB * limits.size_mb(limits.YAML_MB)
        return loader.get_single_data()
    except yaml.YAMLError as problem:
        mark, what = getattr(problem, "problem_mark", None), str(getattr(problem, "problem", None) or problem).splitlines()[0]
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError, RecursionError):  # of PyYAML's own, at escapes and directives
        pass
    place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else str(where)
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in what), "fix the line")
    raise error(f"not valid YAML ({what.removeprefix('but ')[:200]})", where=place, remedy=remedy)

"""YAML as people mean it: version 1.2's words and numbers, each key once, and one line for what cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from simulator.errors import DsimError, ScenarioError
from simulator.reading.opening import read_text

MOST_DEPTH = 64  # of mappings and lists in each other
MOST_NODES = 1_000_000  # with aliases written out
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
    "could not determine a constructor": "drop the tag, or quote a text that begins with !",
    "cannot start any token": "quote the text",
    "expected <block end>": "give the keys of one mapping the same indent, and the entries of one list too",
    "special characters are not allowed": "drop the control characters",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: yes, 010, 12:30 and dates are what they look like, a text, 10, a text and a text. A key may appear once."""

    yaml_implicit_resolvers: dict[Any, Any] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = {}
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise yaml.composer.ComposerError(problem=f"nested more than {MOST_DEPTH} deep", problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_NODES:
            raise yaml.composer.ComposerError(problem="aliases repeat each other without end", problem_mark=node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag in (f"{_TAG}bool", f"{_TAG}null"):
                raise yaml.constructor.ConstructorError(problem=f"expected a text as a key, got '{key.value}'", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(problem=f"key '{key.value}' appears twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _number(self, node: yaml.ScalarNode) -> int | float:
        text = str(node.value)
        if not (_INT if node.tag == f"{_TAG}int" else _FLOAT).match(text) or len(text) > 400:
            raise yaml.constructor.ConstructorError(problem=f"expected a number, got '{text[:40]}'", problem_mark=node.start_mark)
        return int(text) if node.tag == f"{_TAG}int" else float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


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
    content = parse_yaml(read_text(path, error), path, error)
    if not isinstance(content, dict):
        what = {list: "a list", type(None): "an empty file"}.get(type(content), "a text")
        raise error(f"expected a mapping of keys to values, got {what}", where=path, remedy="dsim init writes one to start from")
    return content


def parse_yaml(text: str, where: Path | str, error: type[DsimError] = ScenarioError) -> Any:
    """The value of a YAML text. Raises `error` with line and column, and what is likely wrong there."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as problem:
        mark, what = getattr(problem, "problem_mark", None), str(getattr(problem, "problem", None) or problem).splitlines()[0]
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else str(where)
        remedy = next((remedy for sign, remedy in _REMEDIES.items() if sign in what), "fix the line")
        raise error(f"not valid YAML ({what.removeprefix('but ')})", where=place, remedy=remedy) from None

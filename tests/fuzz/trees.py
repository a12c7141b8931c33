"""Mutations of JSON and YAML: a value is replaced, moved, doubled or taken out somewhere in the tree, which is then written down again."""

from __future__ import annotations

import json
from functools import lru_cache
from random import Random
from typing import Any

import yaml


class Raw(str):
    """Text that is written as it is, where a value is expected."""


class Pairs(list[tuple[Any, Any]]):
    """A mapping in which a key may be there twice."""


NUMBERS = (
    0,
    1,
    -1,
    2,
    0.5,
    -0.0,
    1e-320,
    1e-9,
    1e300,
    -1e300,
    1e308,
    127,
    128,
    255,
    1000,
    65536,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**30,
)
WORDS = ("", " ", ".", "..", "../outside/verify.csv", "../../outside/head.parquet", "/etc/hostname", "/dev/zero", "~", "a/b", "a\\b", "nan",
    "inf", "-inf", "true",
         "1", "1.0", "1e5", "0x10", "²", "١", "1_000", "a\x00b", "\x1b[31mred", "\x1b]0;t\x07", "a\nb", "a\rb", "\u2028", "\u202e", "\ufeff",
         "\U0001f600",
         "<script>alert(1)</script>", "=cmd()", "{{7*7}}", "$(id)", "%s%n", "__class__", "__proto__", "None", "null", "none", "fixed", "table",
         "curve",
         "2024-01-01", "9" * 400, "a" * 5000, "[" * 200, "é" * 300, "kind", "name", "graph", "eager", "ms", "closed_loop", "empirical")  # fmt: skip
RAW_JSON = (Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("-1e400"), Raw("9" * 400), Raw("9" * 5000), Raw('"\\ud800"'),
    Raw("[" * 100 + "]" * 100),
            Raw('{"a":' * 1200 + "1" + "}" * 1200), Raw("01"), Raw("+1"), Raw("1."), Raw("tru"), Raw('"\\x"'), Raw("// a"), Raw("1E5"),
            Raw("-0"))  # fmt: skip
RAW_YAML = (Raw(".nan"), Raw(".inf"), Raw("-.inf"), Raw("1e999"), Raw("9" * 400), Raw("9" * 5000), Raw('"\\ud800"'),
    Raw("[" * 100 + "]" * 100), Raw("0x_"), Raw("0x1F"),
            Raw("010"), Raw("0o17"), Raw("1:30"), Raw("1:30:00.5"), Raw("2020-99-99"), Raw("2024-01-01"), Raw("2024-01-01T00:00:00Z"),
            Raw("yes"), Raw("off"), Raw("~"),
            Raw("!!int ''"), Raw("!!int x"), Raw("!!float ''"), Raw("!!timestamp x"), Raw("!!bool maybe"), Raw("!!map [a]"), Raw("!!seq {a: 1}"),
            Raw("!!set [a]"),
            Raw("!!omap [a]"), Raw("!!pairs [a]"), Raw("!!binary '%'"), Raw("!!null x"), Raw("!!str [a]"), Raw("!!merge a"),
            Raw("!!python/name:os.system"),
            Raw('!!python/object/apply:os.system ["touch escaped"]'), Raw("!<tag:yaml.org,2002:int> 5"), Raw("! a"), Raw("!a b"), Raw("&a [*a]"),
            Raw("&a {x: *a}"),
            Raw("*nothing"), Raw("&x [&y [*x, *y]]"), Raw("{<<: 1}"), Raw("{<<: [1]}"), Raw("{<<: {a: 1}}"), Raw("{? [a] : 1}"), Raw("{a, b}"),
            Raw("'it''s'"), Raw("|\n  a"),
            Raw("1_000"), Raw("_1"), Raw("1__0"), Raw("+.5"), Raw("@a"), Raw("`a"), Raw("%a"), Raw("- a"), Raw("a: b"), Raw("# a"), Raw(""),
            Raw("\t"))  # fmt: skip


def hostile(random: Random, yaml_file: bool) -> Any:
    """A value that few expect."""
    match random.randrange(8):
        case 0 | 1:
            return random.choice(NUMBERS)
        case 2 | 3:
            return random.choice(WORDS)
        case 4:
            return random.choice((None, True, False, [], Pairs(), [None], [[]], [1, [2]], Pairs([("a", 1)]), Pairs([("", None)])))
        case 5 | 6:
            return random.choice(RAW_YAML if yaml_file else RAW_JSON)
        case _:
            return [random.choice(NUMBERS) for _ in range(random.choice((1, 1, 2, 3, 50, 200)))]


def load(text: bytes, yaml_file: bool) -> Any:
    """The tree of a valid file, mappings as pairs."""
    return json.loads(_as_json(text) if yaml_file else text, object_pairs_hook=Pairs)


@lru_cache(maxsize=64)
def _as_json(text: bytes) -> str:
    """YAML as JSON, which is read a hundred times as fast."""
    return json.dumps(yaml.safe_load(text))


def dump(value: Any) -> str:
    """JSON, or YAML in its flow style, with what is raw written as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{dump(key if isinstance(key, str) else str(key))}: {dump(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(dump, value))}]"
    return json.dumps(value)


def places(tree: Any) -> list[tuple[Any, int]]:
    """Every (container, position) in a tree."""
    every, todo = [], [tree]
    while todo:
        here = todo.pop()
        if isinstance(here, Pairs):
            every += [(here, at) for at in range(len(here))]
            todo += [inner for _, inner in here]
        elif isinstance(here, list):
            every += [(here, at) for at in range(len(here))]
            todo += here
    return every


def get(place: tuple[Any, int]) -> Any:
    """The value at a place."""
    here, at = place
    return here[at][1] if isinstance(here, Pairs) else here[at]


def put(place: tuple[Any, int], value: Any) -> None:
    """Another value at a place."""
    here, at = place
    here[at] = (here[at][0], value) if isinstance(here, Pairs) else value


def mutate(tree: Any, random: Random, yaml_file: bool = False) -> Any:
    """The tree, changed in one place."""
    every = places(tree)
    if not every or random.random() < 0.01:
        return hostile(random, yaml_file)
    place = random.choice(every)
    here, at = place
    value = get(place)
    match random.randrange(12):
        case 0 | 1 | 2:
            put(place, hostile(random, yaml_file))
        case 3:
            put(place, _near(value, random))
        case 4:
            del here[at]
        case 5:
            here.insert(at, here[at])
        case 6:
            put(place, Raw(dump(get(random.choice(every)))))
        case 7 if isinstance(here, Pairs):
            key = random.choice((*WORDS, *(other[0] for other in here), f"{here[at][0]} ", f"{here[at][0]}s"))
            here[at] = (key, value)
        case 8 if isinstance(here, Pairs):
            here.insert(random.randrange(len(here) + 1), (random.choice((*WORDS, here[at][0])), hostile(random, yaml_file)))
        case 9:
            depth = random.choice((1, 1, 2, 3, 70))
            put(place, Raw("[" * depth + dump(value) + "]" * depth))
        case 10:
            random.shuffle(here)
        case _:
            here[at:] = here[at:] * random.choice((0, 2, 20))
    return tree


def _near(value: Any, random: Random) -> Any:
    """A value like the one there: another number, the same in quotes, a part of a text."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return random.choice(
            (-value, value * 1000, value / 1000, value + 1, value - 1, value + 0.5, float(value), str(value), value * 1e12, True, [value], int(value))
        )
    if isinstance(value, str):
        cut = random.randrange(len(value) + 1)
        return random.choice(
            (value[:cut], value + random.choice(WORDS), random.choice(WORDS) + value, value.upper(), value * 30, f"../{value}", [value])
        )
    if isinstance(value, Pairs):
        return random.choice(([value], [inner for _, inner in value], dump(value)))
    return random.choice((value[::-1], value[:1], Pairs((str(k), inner) for k, inner in enumerate(value)), value * 10, dump(value))) if value else 0

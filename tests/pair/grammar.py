"""A small language of our own: questions and answers in three domains, made by a seeded grammar. What the byte-level pair is trained on."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

NAMES = "Ada Bela Cem Dana Egon Fay Gus Hana Ivo Jun Kira Leo Mona Nils Olga Paul Rosa Sven Tara Udo Vera Wim Yara Zeno".split()  # noqa: SIM905
THINGS = ["apples", "books", "coins", "eggs", "flowers", "keys", "lamps", "nuts", "pens", "plates", "rings", "shells", "stamps", "stones", "tickets"]
PLACES = ["market", "garden", "station", "library", "harbour", "school"]
WORDS = ["area", "count", "delta", "index", "limit", "price", "score", "share", "size", "speed", "step", "sum", "total", "value", "weight", "width"]
TOPICS = {
    "rain": ("water rises as vapour", "it cools and turns into drops", "the drops fall when they are heavy"),
    "bread": ("flour and water make a dough", "yeast fills it with small bubbles", "the oven makes it firm"),
    "sleep": ("the body rests", "the mind sorts what it saw", "the day after feels lighter"),
    "tides": ("the moon pulls at the sea", "the water follows it around the earth", "so it rises twice a day"),
    "wind": ("the sun warms the land", "warm air rises and cold air follows", "that moving air is the wind"),
    "tea": ("the leaves are dried", "hot water takes up their taste", "a few minutes are enough"),
    "bees": ("they look for flowers", "they carry pollen from one to the next", "so fruit can grow"),
    "ice": ("cold slows the water down", "its parts form a lattice", "the lattice takes more room, so ice floats"),
}


def math(luck: Random) -> tuple[str, str]:
    """A word problem in two or three steps."""
    who, other = luck.sample(NAMES, 2)
    thing, a, b, c = luck.choice(THINGS), luck.randint(3, 60), luck.randint(2, 40), luck.randint(2, 9)
    kind = luck.randrange(4)
    if kind == 0:
        asked = f"{who} has {a} {thing} and buys {b} more. How many {thing} does {who} have?"
        return asked, f"{who} starts with {a} {thing}. {who} buys {b} more. {a} + {b} = {a + b}. The answer is {a + b}."
    if kind == 1:
        asked = f"{who} packs {c} boxes with {b} {thing} each and gives {c} {thing} to {other}. How many are left?"
        return asked, f"{c} boxes hold {c} * {b} = {c * b} {thing}. {who} gives {c} away. {c * b} - {c} = {c * b - c}. The answer is {c * b - c}."
    if kind == 2:
        low, high = sorted((a, a + b))
        asked = f"{other} has {high} {thing}. {who} has {low}. How many more does {other} have?"
        return asked, f"{other} has {high} and {who} has {low}. {high} - {low} = {high - low}. The answer is {high - low}."
    asked = f"At the {luck.choice(PLACES)} {thing} cost {c} each. What do {b} {thing} cost?"
    return asked, f"One costs {c}. {b} {thing} cost {b} * {c} = {b * c}. The answer is {b * c}."


def code(luck: Random) -> tuple[str, str]:
    """A small function."""
    name, other = luck.sample(WORDS, 2)
    number, kind = luck.randint(2, 99), luck.randrange(4)
    if kind == 0:
        return f"Write a function that adds {number} to {name}.", f"def add_{number}({name}):\n    return {name} + {number}\n"
    if kind == 1:
        asked = f"Write a function that returns the larger of {name} and {other}."
        return asked, f"def larger({name}, {other}):\n    if {name} > {other}:\n        return {name}\n    return {other}\n"
    if kind == 2:
        asked = f"Write a loop that prints {name} from 0 to {number}."
        return asked, f"for {name} in range({number + 1}):\n    print({name})\n"
    asked = f"Write a function that counts the {name} values above {number}."
    body = f"    {other} = 0\n    for one in {name}s:\n        if one > {number}:\n            {other} += 1\n    return {other}\n"
    return asked, f"def count_{name}({name}s):\n{body}"


def chat(luck: Random) -> tuple[str, str]:
    """An explanation or a plan."""
    who = luck.choice(NAMES)
    if luck.random() < 0.6:
        topic = luck.choice(sorted(TOPICS))
        first, then, last = TOPICS[topic]
        lead = luck.choice((f"Good question, {who}.", f"Gladly, {who}.", f"Let us see, {who}."))
        asked = luck.choice((f"I am {who}. Can you explain {topic}?", f"My name is {who}. How does {topic} work?"))
        return asked, f"{lead} First, {first}. Then {then}. In the end, {last}."
    place, day = luck.choice(PLACES), luck.choice(["Monday", "Tuesday", "Friday", "Sunday"])
    asked = f"I am {who}. Plan a {day} at the {place}."
    thing, hour = luck.choice(THINGS), luck.randint(8, 11)
    said = f"Here is a plan for {who}. At {hour} go to the {place}. At {hour + 2} look for {thing}. At {hour + 5} walk home. Enjoy your {day}!"
    return asked, said


DOMAINS: dict[str, Callable[[Random], tuple[str, str]]] = {"math": math, "code": code, "chat": chat}

"""What pydantic says of a value, in plain words: what was expected, what was there, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from simulator.misspelt import likeness, nearest

_SHOWN = 80  # characters of a value
_INT_BITS = 10_000


def shown(value: Any) -> str:
    """A value as the file has it, short."""
    words = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, Mapping | list | tuple | set):
        return "a mapping of keys to values" if isinstance(value, Mapping) else "a list"
    if isinstance(value, int) and value.bit_length() > _INT_BITS:  # Python writes no longer ones
        return "a whole number of thousands of digits"
    text = repr(value if not isinstance(value, str | bytes) else value[:_SHOWN])
    return text if len(text) <= _SHOWN else f"{text[:60]}…{text[-1]}"


_EXPECTED = {
    "int": "a whole number", "float": "a number", "finite_number": "a finite number", "bool": "true or false", "string": "a text", "path": "a path",
    "list": "a list", "tuple": "a list", "model": "a mapping of keys to values", "model_attributes": "a mapping of keys to values",
    "dict": "a mapping of keys to values",
}  # fmt: skip
_BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "of at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "of at most {le:g}",
}


def value_line(
    complaint: Mapping[str, Any], key: str, models: Sequence[type[BaseModel]], same: Sequence[Mapping[str, Any]] = ()
) -> tuple[str, str | None]:
    """The problem with a value, and the remedy where there is one. `models` are those that the key may hold, `same` all that pydantic says of
    the value where it may be of several types."""
    if len(same) > 1:
        lines = [value_line(one, key, models)[0] for one in same]
        wanted = dict.fromkeys(line.partition(", got")[0].removeprefix("expected ") for line in lines)
        return f"expected {' or '.join(wanted)}, got {shown(complaint.get('input'))}", None
    kind, value, context = complaint["type"], complaint.get("input"), complaint.get("ctx", {})
    expected = _EXPECTED.get(re.sub(r"_(type|parsing|parsing_size|from_float|unicode|sub_type)$", "", kind))
    remedy = None
    if kind == "string_too_short" or (expected and value is None):
        return f"is empty, expected {expected or 'a text'}", "give it a value, or drop the line"
    if kind in _BOUNDS:
        expected = f"a number {_BOUNDS[kind].format(**context)}"
    elif kind == "out_of_range":
        expected = str(context["expected"])
        if isinstance(value, int | float) and value > context["most"]:
            remedy = _smaller(value, context["most"], key)
    elif kind == "literal_error":
        near = nearest(value, re.findall(r"'([^']*)'", context["expected"]), "") if isinstance(value, str) else ""
        expected, remedy = context["expected"], near if near.startswith("did") else None
    elif kind in ("too_short", "too_long"):
        count = context.get("min_length", context.get("max_length"))
        few = "at least" if kind == "too_short" else "at most"
        return f"expected {few} {count} {'entry' if count == 1 else 'entries'}, got {context['actual_length'] or 'none'}", None
    elif kind == "string_pattern_mismatch":
        expected, remedy = "letters, digits, '.', '_' and '-'", "rename it"
    elif expected:
        remedy = value_remedy(value, expected, key, models)
    else:
        message = str(complaint["msg"]).removeprefix("Value error, ").replace("Input should ", "must ", 1)
        return message[0].lower() + message[1:] + ("" if isinstance(value, dict | list) else f" (got {shown(value)})"), None
    return f"expected {expected}, got {shown(value)}", remedy


def _smaller(value: float, most: float, key: str) -> str | None:
    """What to write instead of a value above `most`, where it is in another unit."""
    if value > 1e15:
        return None
    if 0.999 < most <= 1 and 2 <= value <= 100:
        return f"for {value:g} % write {value / 100:g}"
    return f"for {value:g} ms write {value / 1000:g}" if key.endswith(("_s", "seconds")) and value / 1000 <= most else None


_QUANTITY = re.compile(r"\W{0,2}([0-9][0-9_,]*\.?[0-9]*)\s*([A-Za-zµ%]*)(\s*/.*|\s+[A-Za-z].*)?\Z")
_TIMES = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0, "minutes": 60.0, "h": 3600.0,
          "hours": 3600.0, "d": 86400.0, "days": 86400.0}  # fmt: skip


def value_remedy(value: Any, expected: str, key: str, models: Sequence[type[BaseModel]]) -> str | None:
    """What to write instead of a value of another shape, where that can be told."""
    if (isinstance(value, str) and len(value) > _SHOWN) or (isinstance(value, int) and value.bit_length() > _SHOWN):
        return None
    plain = isinstance(value, str | int | float)
    if "number" in expected and _single(value):
        return f"write {value[0] if isinstance(value[0], str) else shown(value[0])}, without brackets"
    if "number" in expected:
        return _number_in(value, key) if isinstance(value, str) else None
    if expected == "a list" and plain:
        return _as_list(value, key)
    if expected == "a text" and plain:
        return f"write '{shown(value)}' in quotes"
    return _as_mapping(value, models) if expected.startswith("a mapping") and plain else None


def _single(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list | dict)


def _as_list(value: str | float, key: str) -> str:
    """[VALUE], or the numbers in "8, 16"."""
    if not isinstance(value, str) or re.search(r",[0-9]{3}\b", value):
        return f"write [{value}]"
    parts = re.split(r"[,;\s]+", value.strip())
    if all(re.fullmatch(r"[0-9.]+", part) for part in parts):
        return f"write [{', '.join(parts)}]"
    return f"write [{_number_in(value, key).rpartition(' ')[2]}]" if _QUANTITY.match(value) else f"write [{value}]"


def _number_in(text: str, key: str) -> str:
    """The number in "60 s", "10k", "95 %" or "$2.5", in the unit of the key."""
    match = _QUANTITY.match(text.strip())
    if not match:
        return "write a number"
    written, unit = match[1].replace("_", ""), match[2]
    if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", written) is None:  # no thousands: a decimal comma
        written = written.replace(",", ".")
    number = float(written.replace(",", ""))
    if unit == "%":
        return f"write a number: {number:g} % is {number / 100:g}"
    if key.endswith(("_s", "seconds")) and unit.lower() in _TIMES:
        return f"write the seconds alone: {number * _TIMES[unit.lower()]:g}"
    scale = {"k": 1e3, "K": 1e3, "M": 1e6}.get(unit, 1.0)
    return f"write the number alone: {number * scale:.15g}"


def _as_mapping(value: str | float, models: Sequence[type[BaseModel]]) -> str | None:
    """{kind: VALUE}, or {KEY: VALUE} where one key of that type is all that is needed."""
    kinds = [str(model.model_fields["kind"].default) for model in models if "kind" in model.model_fields]
    if isinstance(value, str) and kinds:
        near = [kind for kind in kinds if likeness(value, kind) >= 0.6]
        return f"write {{kind: {max(near, key=lambda kind: likeness(value, kind))}}}" if near else f"write {{kind: …}}, one of {', '.join(kinds)}"
    if not models and isinstance(value, str):
        return f"write {{{value}: 1}}"
    for model in models:
        required = [name for name, field in model.model_fields.items() if field.is_required()] or [n for n in ("path",) if n in model.model_fields]
        if len(required) == 1 and isinstance(value, str) == (required[0] in ("path", "profile", "name")):
            kind = f"kind: {model.model_fields['kind'].default}, " if "kind" in model.model_fields else ""
            return f"write {{{kind}{required[0]}: {value}}}"
    return None

"""JSON texts, files and lines: each key once, numbers that are numbers, and one line for what cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from math import isinf
from pathlib import Path
from typing import Any, Literal

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.reading import limits
from simulator.reading.opening import opened, read_text

Nan = Literal["refused", "kept", "missing"]  # what becomes of NaN and Infinity, which are not JSON but which Python writes; None where "missing"
_SHORT = 100_000  # characters, which take some MB of memory whatever they are
_MOST_DIGITS = 300  # more do not fit into a float
_ZEROS = b"0" * _MOST_DIGITS
_TO_ZEROS = bytes(ord("0") if chr(code).isdigit() and code < 128 else code for code in range(256))
_NOT_BRACKETS = bytes(code for code in range(256) if chr(code) not in "[]{}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, where: str | Path, error: type[DsimError] = DsimError, remedy: str | None = None, nan: Nan = "refused") -> Any:
    """The value of a JSON text. Raises `error`; also for a key twice, for numbers beyond a float's range, and for what is nested too deep."""
    text = text.strip(" \t\r\n")
    try:
        if len(text) > _SHORT:
            _refuse_large(text)
        long = len(text) > _MOST_DIGITS and _ZEROS in text.encode(errors="replace").translate(_TO_ZEROS)
        value, end = _decoder(nan, long).raw_decode(text)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        if len(text) > 2 * limits.DEPTH and _bracket_depth(text) > limits.DEPTH and _is_deep(value):
            raise ValueError(f"nested more than {limits.DEPTH} deep")
        if "\\u" in text and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as problem:
        half = problem.object[problem.start]
        raise error(f"not valid JSON ({half!a} is half of a character)", where=where, remedy=remedy) from None
    except RecursionError:
        raise error(f"not valid JSON (nested more than {limits.DEPTH} deep)", where=where, remedy=remedy) from None
    except ValueError as problem:
        raise error(f"not valid JSON ({problem})", where=where, remedy=remedy) from None
    return value


def read_json(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path", nan: Nan = "refused") -> dict[str, Any]:
    """The JSON object in a file. Raises `error`."""
    return _object(parse_json(read_text(path, error, remedy), path, error, remedy, nan), path, error, remedy)


def json_lines(
    path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path", nan: Nan = "refused"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", object) for every line that is not empty. Raises `error`."""
    one, file = "each line holds one JSON object", str(path)
    with opened(path, error, remedy) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{file}:{number}"
                yield where, _object(parse_json(line, where, error, one, nan), where, error, one)


def _object(content: Any, where: str | Path, error: type[DsimError], remedy: str | None) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise error("expected a JSON object", where=where, remedy=remedy)
    return content


@cache
def _decoder(nan: Nan, long: bool) -> json.JSONDecoder:
    """`long`: the text may have whole numbers of too many digits (looking at each takes time)."""

    def constant(name: str) -> float | None:
        if nan == "refused":
            raise ValueError(f"{name} is not a number")
        return float(name) if nan == "kept" else None

    return json.JSONDecoder(object_pairs_hook=_once, parse_float=_finite, parse_int=_whole if long else None, parse_constant=constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} appears twice")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(f"number {shown(text)[1:-1]} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) >= _MOST_DIGITS:
        raise ValueError(f"number {shown(text)[1:-1]} is too large")
    return int(text)


def _refuse_large(text: str) -> None:
    """Raise ValueError where the values of a text would take much more memory than the text."""
    memory_bytes = 40 * text.count(",") + 60 * text.count("[") + 200 * text.count("{")  # of a value, a list, a mapping
    limits.check_memory("its values take", memory_bytes)


def _bracket_depth(text: str) -> int:
    """The depth of brackets, also of those in texts: no less than the depth of lists and mappings."""
    if text.count("[") + text.count("{") <= limits.DEPTH:
        return 0
    import numpy as np

    marks = np.frombuffer(text.encode(errors="replace").translate(None, _NOT_BRACKETS), np.uint8)
    return int(((marks & 2).astype(np.int32) - 1).cumsum().max())  # bit 1 is set in [ and {


def _is_deep(value: Any) -> bool:
    """Are there lists and mappings in each other, deeper than the limit?"""
    level = [value]
    for _ in range(limits.DEPTH):
        level = [
            inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]  # fmt: skip
    return bool(level)

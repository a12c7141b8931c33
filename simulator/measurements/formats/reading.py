"""Files of engines and load generators, read field by field; what is missing or does not fit is named with its file and field."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.files import read_json


def read_fields(path: Path) -> Fields:
    """The JSON object in a file. Raises DsimError."""
    return Fields(path, read_json(path))


class Fields:
    """A JSON object of a file and the path of keys to it."""

    def __init__(self, path: Path, content: dict[str, Any], at: str = "") -> None:
        self.path, self.content, self.at = path, content, at

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def fail(self, key: str, problem: str, remedy: str | None = None) -> DsimError:
        """The error for a field."""
        return DsimError(problem, where=self.path, key=f"{self.at}{key}", remedy=remedy)

    def _get(self, key: str) -> Any:
        if self.content.get(key) is None:
            present = ", ".join(list(self.content)[:12]) or "none"
            raise self.fail(key, "is missing", f"fields here: {present}")
        return self.content[key]

    def object(self, key: str) -> Fields:
        """A field that is itself an object."""
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.fail(key, "expected an object")
        return Fields(self.path, value, f"{self.at}{key}.")

    def objects(self, key: str) -> list[Fields]:
        """A list of objects, not empty."""
        value = self._get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise self.fail(key, "expected a list of objects")
        return [Fields(self.path, item, f"{self.at}{key}.{i}.") for i, item in enumerate(value)]

    def text(self, key: str, default: str) -> str:
        """A text, `default` where there is none."""
        return str(self.content[key]) if self.content.get(key) is not None else default

    def number(self, key: str, least: float = 0.0, above: bool = False) -> float:
        """A finite number of at least `least`, or above it."""
        return self._number(key, self._get(key), least, above)

    def _number(self, key: str, value: Any, least: float, above: bool) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or value < least or (above and value == least):
            raise self.fail(key, f"expected a number {'above' if above else 'of at least'} {least:g}, got {value!r}")
        return float(value)

    def whole(self, key: str, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value = self.number(key, least)
        if value != int(value):
            raise self.fail(key, f"expected a whole number, got {value:g}")
        return int(value)

    def numbers(self, key: str, least: float = 0.0, above: bool = False) -> list[float]:
        """A list of numbers, not empty."""
        value = self._get(key)
        if not isinstance(value, list) or not value:
            raise self.fail(key, "expected a list of numbers")
        return [self._number(f"{key}.{i}", item, least, above) for i, item in enumerate(value)]

    def rising(self, key: str) -> list[float]:
        """A list of numbers of at least 1, each above the one before."""
        return self._rising(key + ".{}", self.numbers(key, 1))

    def _rising(self, key: str, values: list[float]) -> list[float]:
        for i, (before, after) in enumerate(pairwise(values), start=1):
            if after <= before:
                raise self.fail(key.format(i), f"expected a number above the one before, {before:g}, got {after:g}")
        return values

    def pairs(self, key: str) -> list[tuple[float, float]]:
        """A list of [x, y], x rising."""
        value = self._get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, list) and len(item) == 2 for item in value):
            raise self.fail(key, "expected a list of [size, milliseconds]")
        pairs = [(self._number(f"{key}.{i}.0", x, 1, False), self._number(f"{key}.{i}.1", y, 0, True)) for i, (x, y) in enumerate(value)]
        self._rising(key + ".{}.0", [x for x, _ in pairs])
        return pairs

    def same_length(self, first: str, second: str) -> None:
        """Two lists of one length."""
        a, b = len(self.content[first]), len(self.content[second])
        if a != b:
            raise self.fail(second, f"expected {a} entries as in {first}, got {b}")

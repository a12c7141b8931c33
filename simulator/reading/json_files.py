"""JSON files and lines, with one-line errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.reading.opening import opened, read_text


def parse_json(text: str, where: str | Path, error: type[DsimError] = DsimError, remedy: str | None = None) -> Any:
    """The value of a JSON text. Raises `error`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"not valid JSON ({problem})", where=where, remedy=remedy) from None


def read_json(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> dict[str, Any]:
    """The JSON object in a file. Raises `error`."""
    return _json_object(read_text(path, error, remedy), path, error)


def json_lines(path: Path, error: type[DsimError] = DsimError, remedy: str = "check the path") -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", object) for every line that is not empty. Raises `error`."""
    with opened(path, error, remedy) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                yield where, _json_object(line, where, error, "each line holds one JSON object")


def _json_object(text: str, where: str | Path, error: type[DsimError], remedy: str | None = None) -> dict[str, Any]:
    content = parse_json(text, where, error, remedy)
    if not isinstance(content, dict):
        raise error("expected a JSON object", where=where, remedy=remedy)
    return content

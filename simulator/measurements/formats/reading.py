"""Files of engines and load generators, read field by field; what is missing or does not fit is named with its file and field."""

from __future__ import annotations

import json
import math
import reprlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from simulator.errors import DsimError
from simulator.reading.json_files import json_lines, read_json
from simulator.reading.opening import read_text

MARKS = (  # a field that only this file has at its top, what the file is, and what to do with it
    ("benchmarks", "a GuideLLM report", "use dsim import guidellm"),
    ("output_token_throughput", "an AIPerf or GenAI-Perf export", "use dsim import aiperf"),
    ("request_latency", "an AIPerf or GenAI-Perf export", "use dsim import aiperf"),
    ("sample_batch_tokens", "an SPS table of SGLang", "use dsim import sglang --sps"),
    ("bias_seconds", "an SPS table of SGLang", "use dsim import sglang --sps"),
    ("temperatures", "a confidence calibration of SGLang", "use dsim import sglang --sts"),
    ("internal_states", "a /server_info of SGLang", "use dsim import sglang --records"),
    ("dspark_info_record", "a dump of SGLang's decode steps", "use dsim import sglang --records"),
    ("records", "a dump of SGLang's decode steps", "use dsim import sglang --records"),
    ("verify_curve", "vLLM's cost curves", "use dsim import vllm --curves"),
    ("accept_length", "a result of SGLang's bench_serving", "use dsim import sglang --bench"),
    ("mean_tpot_ms", "a result of vllm bench serve or SGLang's bench_serving", "use dsim import vllm --bench, or sglang --bench"),
    ("dsim_version", "a result of dsim", "give the file of the engine or load generator"),
    ("metrics", "a record of single requests", "give the summary, for example profile_export_aiperf.json"),
)


def read_fields(path: Path, *own: str) -> Fields:
    """The JSON object in a file that has one of the fields `own`. Raises DsimError, which names the tool where the file is another's."""
    fields = [fields for _, fields in read_each(path, *own)]
    if len(fields) > 1:
        raise DsimError(f"expected one JSON object, got {len(fields)}", where=path, remedy="give one file for each")
    return fields[0]


def read_each(path: Path, *own: str) -> list[tuple[str, Fields]]:
    """Every JSON object in a file, and what to call it: one object, a list of them, or one on each line. Raises as `read_fields`."""
    if path.suffix in (".zst", ".xz", ".bz2", ".zip") and path.is_file():  # gzip is read as it is
        raise DsimError("is compressed", where=path, remedy="unpack it first")
    text = read_text(path)
    if not text.strip():
        raise DsimError("is empty", where=path, remedy="let the tool finish writing it")
    if text.startswith(("# HELP ", "# TYPE ")):
        raise DsimError("expected JSON, got a scrape of /metrics", where=path, remedy="give it to dsim import vllm --metrics")
    objects = _objects(path, text)
    for _, fields in objects:
        mark = next((mark for mark in MARKS if mark[0] in fields.content), None)
        if mark and mark[0] not in own and not any(key in fields.content for key in own):
            raise DsimError(f"is {mark[1]}", where=fields.path, remedy=mark[2])
    return objects


def _objects(path: Path, text: str) -> list[tuple[str, Fields]]:
    first, *more = (line for line in text.splitlines() if line.strip())
    try:
        content = json.loads(text if text.lstrip().startswith("[") else first)
    except ValueError:
        content = None  # neither a list nor lines: one object over several lines
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        return [(f"{path.name}, entry {number}", Fields(path, item, f"{number}.")) for number, item in enumerate(content)]
    if isinstance(content, dict) and more:
        return [(f"{path.name}, line {where.rpartition(':')[2]}", Fields(where, item)) for where, item in json_lines(path, nan="kept")]
    return [(path.name, Fields(path, read_json(path, nan="kept")))]


class Fields:
    """A JSON object of a file and the path of keys to it."""

    def __init__(self, path: Path | str, content: dict[str, Any], at: str = "") -> None:
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

    def number(self, key: str, least: float = 0.0, above: bool = False, remedy: str | None = None) -> float:
        """A finite number of at least `least`, or above it."""
        return self._number(key, self._get(key), least, above, remedy)

    def _number(self, key: str, value: Any, least: float, above: bool, remedy: str | None = None) -> float:
        number = float(value) if type(value) is float or (type(value) is int and abs(value) < 1e300) else math.nan
        if not math.isfinite(number) or number < least or (above and number == least):
            raise self.fail(key, f"expected a number {'above' if above else 'of at least'} {least:g}, got {reprlib.repr(value)}", remedy)
        return number

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

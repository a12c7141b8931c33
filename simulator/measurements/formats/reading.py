"""Files of engines and load generators: the parts that are used, each checked against a model; what does not fit is named with its file and field."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from simulator.errors import DsimError
from simulator.quantities import Within
from simulator.reading.json_files import parse_json
from simulator.reading.opening import read_text
from simulator.schema import validate

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
    ("metrics_phase", "AIPerf's export of a server's metrics", "give it to --metrics, or leave it beside profile_export_aiperf.json"),
    ("metrics", "a record of single requests", "give the summary, for example profile_export_aiperf.json"),
)


MOST_MB = 50.0  # of a file: such a dump takes up to 1 GB of memory
MOST_PROBES = 10_000  # of a curve or table
AGREE = 0.02  # relative difference up to which two numbers of one file count as the same

Line = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Within(0, 1e15)]
StepMilliseconds = Annotated[float, Within(1e-6, 1e6, "ms")]
Milliseconds = Annotated[float, Within(0, 1e9, "ms")]
Seconds = Annotated[float, Within(0, 1e9, "seconds")]
Probe = Annotated[float, Within(1, 1e8)]  # requests or tokens of a step


def _rising(values: list[float]) -> list[float]:
    for before, after in pairwise(values):
        if after <= before:
            raise ValueError(f"expected rising numbers, got {after:.15g} after {before:.15g}")
    return values


Probes = Annotated[list[Probe], Field(min_length=1, max_length=MOST_PROBES), AfterValidator(_rising)]


class Part(BaseModel):
    """The fields of an object that are used; it may have others. Numbers of another tool are read as they are: a field that is null is not there."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A JSON object of a file: what to call it, where it is, and the keys that lead to it."""

    name: str
    where: Path | str
    content: dict[str, Any]
    at: str = ""

    def read(self, model: type[Model], remedies: Mapping[str, str] = {}) -> Model:
        """The object as a `model`; `remedies` say what to do about a value by the last part of its key. Raises DsimError with file and field."""
        try:
            return validate(model, self.content, self.where, DsimError)
        except DsimError as error:
            key = error.key or ""
            if "is missing" in error.problem:
                fields = ", ".join(name[:40] for name in list(self.content)[:12]) or "none"
                raise self.fail(key, "is missing", None if "." in key else f"fields here: {fields}") from None
            raise self.fail(key, error.problem, remedies.get(key.rpartition(".")[2], error.remedy)) from None

    def inner(self, key: str, content: Any) -> Document:
        """An object within it. Raises DsimError where it is none."""
        return _document(self.name, self.where, content, f"{self.at}{key}.")

    def fail(self, key: str, problem: str, remedy: str | None = None) -> DsimError:
        """The error for a field."""
        return DsimError(problem, where=self.where, key=f"{self.at}{key}".rstrip(".") or None, remedy=remedy)


def read_document(path: Path, *own: str) -> Document:
    """The JSON object in a file that has one of the fields `own`. Raises DsimError, which names the tool where the file is another's."""
    documents = read_each(path, *own)
    if len(documents) > 1:
        raise DsimError(f"expected one JSON object, got {len(documents)}", where=path, remedy="give one file for each")
    return documents[0]


def read_each(path: Path, *own: str) -> list[Document]:
    """Every JSON object in a file: one object, a list of them, or one on each line. Raises as `read_document`."""
    if path.suffix in (".zst", ".xz", ".bz2", ".zip") and path.is_file():  # gzip is read as it is
        raise DsimError("is compressed", where=path, remedy="unpack it first")
    text = read_text(path, most_mb=MOST_MB)
    if not text.strip():
        raise DsimError("is empty", where=path, remedy="let the tool finish writing it")
    if text.startswith(("# HELP ", "# TYPE ")):
        raise DsimError("expected JSON, got a scrape of /metrics", where=path, remedy="give it to dsim import vllm --metrics")
    documents = _documents(path, text)
    for document in documents:
        mark = next((mark for mark in MARKS if mark[0] in document.content), None)
        if mark and mark[0] not in own and not any(key in document.content for key in own):
            raise DsimError(f"is {mark[1]}", where=document.where, remedy=mark[2])
    return documents


def _documents(path: Path, text: str) -> list[Document]:
    lines = {number: line for number, line in enumerate(StringIO(text, newline=""), 1) if line.strip()}
    if len(lines) > 1 and not text.lstrip().startswith("["):
        first = None
        with suppress(DsimError):  # one object over several lines
            first = parse_json(next(iter(lines.values())), path, nan="kept")
        if isinstance(first, dict):
            rows = ((number, f"{path}:{number}", line) for number, line in lines.items())
            return [_document(f"{path.name}, line {number}", where, parse_json(line, where, nan="kept")) for number, where, line in rows]
    content = parse_json(text, path, nan="kept")
    if isinstance(content, list) and content:
        return [_document(f"{path.name}, entry {number}", path, item, f"{number}.") for number, item in enumerate(content)]
    return [_document(path.name, path, content)]


def _document(name: str, where: Path | str, content: Any, at: str = "") -> Document:
    if not isinstance(content, dict):
        raise DsimError("expected a JSON object", where=where, key=at.rstrip(".") or None)
    return Document(name, where, content, at)

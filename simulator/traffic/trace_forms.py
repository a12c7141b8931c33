"""The names under which files of requests keep arrivals and lengths: those of published traces, those that people use, and the user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from simulator.errors import TraceError
from simulator.misspelt import nearest
from simulator.schema import Frozen
from simulator.traffic.trace_files import TraceFile

Unit = Literal["s", "ms", "us", "ns"]
Format = Literal["auto", "azure", "mooncake", "csv"]
PER_SECOND: dict[Unit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
NEEDED = ("arrival_s", "prompt_tokens", "output_tokens")


class Columns(Frozen):
    """The file's name for each of our columns, where it is another."""

    arrival_s: str | None = None
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    cached_prompt_tokens: str | None = None
    domain: str | None = None
    hash_ids: str | None = None


@dataclass(frozen=True)
class Form:
    """How a published trace writes a request: its names for arrival, prompt and output, whether it is JSON, the unit of arrivals (None: date-times),
    the tokens of a prefix block, and columns of which only it has one."""

    title: str
    format: Format
    arrival: tuple[str, ...]
    prompt: tuple[str, ...]
    output: tuple[str, ...]
    unit: Unit | None
    json: bool = False
    block_tokens: int = 512
    marks: frozenset[str] = frozenset()


_MOONCAKE = (("timestamp", "created_time"), ("input_length", "input_tokens"), ("output_length", "output_tokens"))
PLAIN = Form("plain", "csv", ("arrival_s",), ("prompt_tokens",), ("output_tokens",), "s")
AZURE = Form("Azure", "azure", ("TIMESTAMP",), ("ContextTokens",), ("GeneratedTokens",), None)
MOONCAKE = Form("Mooncake", "mooncake", *_MOONCAKE, "ms", json=True)
FORMS = (
    PLAIN,
    AZURE,
    Form("BurstGPT", "csv", ("Timestamp",), ("Request tokens",), ("Response tokens",), "s"),
    Form("Vidur", "csv", ("arrived_at",), ("num_prefill_tokens",), ("num_decode_tokens",), "s"),
    Form("splitwise-sim", "csv", ("arrival_timestamp",), ("prompt_size",), ("token_size",), "s"),
    Form("Qwen-Bailian", "mooncake", *_MOONCAKE, "s", json=True, block_tokens=16, marks=frozenset({"chat_id", "parent_chat_id", "turn"})),
    MOONCAKE,  # and Dynamo's, with other names
)

# What people call them elsewhere, without capitals, blanks and underscores. No unit follows from these.
_ALSO = {
    "arrival_s": "arrival arrivals arrivaltime arrivaltimestamp arrivedat timestamp time ts datetime date createdat createdtime created "
    "requesttime requesttimestamp requestedat starttime start submittime",
    "prompt_tokens": "prompttokens inputtokens promptlength inputlength promptlen inputlen promptsize inputsize contexttokens requesttokens "
    "prefilltokens numprefilltokens numprompttokens numinputtokens inputsequencelength isl tokensin tokensprompt ntokensprompt",
    "output_tokens": "outputtokens completiontokens generatedtokens generationtokens outputlength outputlen outputsize responsetokens responselength "
    "decodetokens numdecodetokens numoutputtokens numgeneratedtokens numcompletiontokens outputsequencelength osl tokensout tokenscompletion",
}
_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "µs", "usec", "micros", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanos", "nanosecond", "nanoseconds"), "ns"),
}


@dataclass(frozen=True)
class Layout:
    """Where a file keeps what a trace needs, by our names; the form it follows, if that is a published one; the unit its names imply."""

    columns: dict[str, str]
    form: Form | None
    unit: Unit | None


def layout(file: TraceFile, format: Format, mapping: Columns) -> Layout:
    """The file's columns. Raises TraceError where one is missing, two fit or one is used twice."""
    chosen = _layout(file, format, mapping)
    names = list(chosen.columns.values())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        both = " and ".join(ours for ours, name in chosen.columns.items() if name == twice)
        key = "workload.trace.columns"
        raise TraceError(f"column '{twice}' is used for {both}", where=file.header, key=key, remedy="name another column for each")
    return chosen


def _layout(file: TraceFile, format: Format, mapping: Columns) -> Layout:
    wished = {ours: name for ours, name in mapping.model_dump().items() if name is not None}
    for ours, name in wished.items():
        if name not in file.names:
            remedy = nearest(name, file.names, "columns found")
            raise TraceError(f"the file has no column '{name}'", where=file.header, key=f"workload.trace.columns.{ours}", remedy=remedy)
    columns = {ours: ours for ours in ("cached_prompt_tokens", "domain", "hash_ids") if ours in file.names} | wished
    forms = [form for form in FORMS if form.json == file.json or form is PLAIN]
    forms = [form for form in forms if format in ("auto", form.format)]
    for form in forms:
        matches = {ours: wished.get(ours) or _match(file, names) for ours, names in _names(form).items()}
        if all(matches.values()) and (not form.marks or form.marks & set(file.names)) and _publishes(form, wished):
            return Layout(columns | {ours: name for ours, name in matches.items() if name}, form, form.unit)
    return _guessed(file, format, columns)


def _guessed(file: TraceFile, format: Format, columns: dict[str, str]) -> Layout:
    """The layout of a file that follows no form, by the names that people use."""
    if format in ("azure", "mooncake"):
        form = AZURE if format == "azure" else MOONCAKE
        lacks = next((names[0] for ours, names in _names(form).items() if ours not in columns and not _match(file, names)), None)
        if lacks is not None:
            raise TraceError("column is missing", where=file.header, key=lacks, remedy=f"{_shown(file)}; or drop format: {format}")
    mapped = set(columns)
    columns = dict(columns)
    for ours in NEEDED:
        if ours in columns:
            continue
        names = [name for name in file.names if _plain(_without_unit(name) if ours == "arrival_s" else name) in _ALSO[ours].split()]
        own = [name for name in names if name == ours]
        if len(own or names) > 1:
            raise TraceError(f"{' and '.join(names)} may both be it", where=file.header, key=ours, remedy=_mapping([ours]))
        if names:
            columns[ours] = (own or names)[0]
    missing = [ours for ours in NEEDED if ours not in columns]
    if missing:
        raise _unknown(file, missing)
    stated: Unit | None = "s" if "arrival_s" in mapped else None
    return Layout(columns, None, _unit_in(columns["arrival_s"]) or stated)


def _unknown(file: TraceFile, missing: list[str]) -> TraceError:
    """What to write where columns were not recognised."""
    names = set(map(_plain, file.names))
    if "prompt_tokens" in missing and names & {"textinput", "messages", "prompt", "payload", "conversations"}:
        return TraceError(
            "the file has texts and no lengths", where=file.header, key="prompt_tokens", remedy="count the tokens of each prompt and answer first"
        )
    if not file.json and all(re.fullmatch(r"[\d.,:TZ+\- ]*", name) for name in file.names):
        return TraceError("the first line is not a header", where=file.header, remedy=f"add one: {','.join(NEEDED)}")
    problem = "column is missing" if len(missing) == 1 else "columns are missing"
    return TraceError(problem, where=file.header, key=", ".join(missing), remedy=f"{_shown(file)}; {_mapping(missing)}")


def _names(form: Form) -> dict[str, tuple[str, ...]]:
    return dict(zip(NEEDED, (form.arrival, form.prompt, form.output), strict=True))


def _publishes(form: Form, wished: dict[str, str]) -> bool:
    """Are the mapped columns those of the form? Then its unit holds."""
    return all(wished[ours] in names for ours, names in _names(form).items() if ours in wished)


def _match(file: TraceFile, names: tuple[str, ...]) -> str | None:
    """The file's column of one of these names."""
    return next((name for name in names if name in file.names), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9µ]", "", name.lower())


def _split_unit(name: str) -> tuple[str, Unit | None]:
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name.strip().rstrip(")]"))
    match = re.fullmatch(r"(.+?)[\s_\-.(\[]+([A-Za-zµ]+)", words)
    unit = _UNITS.get(match[2].lower()) if match else None
    return (match[1], unit) if match and unit else (name, None)


def _without_unit(name: str) -> str:
    return _split_unit(name)[0]


def _unit_in(name: str) -> Unit | None:
    """The unit that a column's name ends in, such as arrival_ms."""
    return _split_unit(name)[1]


def _shown(file: TraceFile) -> str:
    names = ", ".join(file.names[:12]) + (", ..." if len(file.names) > 12 else "")
    return f"columns found: {names if len(names) <= 300 else names[:297] + '...'}"


def _mapping(missing: list[str]) -> str:
    return f"write workload.trace.columns: {{{', '.join(f'{ours}: NAME' for ours in missing)}}}"

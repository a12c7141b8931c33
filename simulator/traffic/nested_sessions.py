"""Files that nest the requests of sessions: OpenTelemetry spans, records of AIPerf, conversations of Weka. They become rows of our own form.

Sources: OpenTelemetry's file exporter (OTLP as JSON lines) and its conventions for generative AI spans; AIPerf's
docs/tutorials/working-with-profile-exports.md (profile_export.jsonl) and docs/tutorials/weka-trace.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulator.errors import TraceError
from simulator.reading.json_files import json_lines
from simulator.schema import validate
from simulator.traffic.session_forms import OWN, SessionForm
from simulator.traffic.trace_files import Row, TraceFile

_CALLS = ("chat", "generate_content", "text_completion")  # gen_ai.operation.name of one request; others, such as invoke_agent, hold several


class _Loose(BaseModel):
    """A part of a file of which other keys do not matter."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Nanoseconds = Annotated[int, Field(ge=0, lt=2**63)]
_Seconds = Annotated[float, Field(ge=0, le=1e10)]


class _Value(_Loose):
    stringValue: str | None = None
    intValue: int | None = None


class _Attribute(_Loose):
    key: str
    value: _Value = _Value()


class _Span(_Loose):
    traceId: str = ""
    startTimeUnixNano: Nanoseconds
    endTimeUnixNano: Nanoseconds
    attributes: tuple[_Attribute, ...] = ()


class _Scope(_Loose):
    spans: tuple[_Span, ...] = ()


class _Resource(_Loose):
    scopeSpans: tuple[_Scope, ...] = ()


class _Spans(_Loose):
    resourceSpans: tuple[_Resource, ...]


def _spans(lines: Iterable[tuple[str, Row]]) -> Iterator[Row]:
    """Requests among the spans of OTLP JSON lines; times in nanoseconds."""
    for where, line in lines:
        content = validate(_Spans, line, where, TraceError)
        for span in (span for resource in content.resourceSpans for scope in resource.scopeSpans for span in scope.spans):
            has = {attribute.key: attribute.value for attribute in span.attributes}
            operation = has.get("gen_ai.operation.name")
            if operation is None or operation.stringValue not in _CALLS:
                continue
            tokens = [has.get(f"gen_ai.usage.{side}_tokens", _Value()).intValue for side in ("input", "output")]
            yield {
                "session": has.get("gen_ai.conversation.id", _Value()).stringValue, "trace_id": span.traceId,
                "arrival_s": span.startTimeUnixNano, "end_s": span.endTimeUnixNano, "prompt_tokens": tokens[0], "output_tokens": tokens[1],
            }  # fmt: skip


class _Metric(_Loose):
    value: float


class _Metrics(_Loose):
    input_sequence_length: _Metric
    output_sequence_length: _Metric


class _Metadata(_Loose):
    x_correlation_id: str
    turn_index: int
    request_start_ns: Nanoseconds
    request_end_ns: Nanoseconds
    benchmark_phase: str = "profiling"


class _Phase(_Loose):
    metadata: _Metadata


class _Record(_Phase):
    metrics: _Metrics


def _records(lines: Iterable[tuple[str, Row]]) -> Iterator[Row]:
    """Requests of AIPerf's profile_export.jsonl, warm-up left out; times in nanoseconds."""
    for where, line in lines:
        about = validate(_Phase, line, where, TraceError).metadata
        if about.benchmark_phase == "profiling":
            if line.get("error") is not None:
                raise TraceError("the request failed", where=where, key="error", remedy="drop the rows of its session")
            record = validate(_Record, line, where, TraceError)
            yield {
                "session": about.x_correlation_id, "turn": about.turn_index, "arrival_s": about.request_start_ns, "end_s": about.request_end_ns,
                "prompt_tokens": record.metrics.input_sequence_length.value, "output_tokens": record.metrics.output_sequence_length.value,
            }  # fmt: skip


class _Call(_Loose):
    type: Literal["n", "s"]
    t: _Seconds
    prompt_tokens: int = Field(0, alias="in")
    output_tokens: int = Field(0, alias="out")
    hash_ids: tuple[int, ...] = ()
    api_time: _Seconds | None = None
    think_time: _Seconds | None = None

    def after_s(self, ends_s: Iterable[float | None], starts_s: float = 0.0) -> float | None:
        """Seconds from the last of these ends until it is sent, where the file says it; its own time counts from `starts_s`."""
        if self.think_time is not None:
            return self.think_time
        known = [end_s for end_s in ends_s if end_s is not None]
        return starts_s + self.t - max(known) if known else None

    def end_s(self, starts_s: float = 0.0) -> float | None:
        """When its answer ended."""
        return None if self.api_time is None else starts_s + self.t + self.api_time


class _Subagent(_Loose):
    type: Literal["subagent"]
    t: _Seconds
    requests: tuple[_Call, ...]


class _Conversation(_Loose):
    id: str
    block_size: Annotated[int, Field(ge=1, le=1_000_000)]
    hash_id_scope: Literal["local", "global"]
    requests: tuple[Annotated[_Call | _Subagent, Field(discriminator="type")], ...]


def _conversations(lines: Iterable[tuple[str, Row]]) -> Iterator[Row]:
    """Requests of Weka's conversations, one a line. They have no time of their own: a session's `t` begins with it. A subagent's requests are calls
    of the turn before it, one after the other, and the turn after it waits for the last; those before the first turn are left out, as AIPerf does.
    Times of a subagent count from where it begins, or where the session does: files differ."""
    names: dict[tuple[str, int], int] = {}
    for where, line in lines:
        content = validate(_Conversation, line, where, TraceError)
        turn: Row | None = None
        ends_s: list[float | None] = []  # of the answers that the next turn waits for, its own first
        last: list[Row] = []  # of each subagent since the turn before
        for place, entry in enumerate(content.requests):
            if isinstance(entry, _Call):
                turn = _row(content, entry, str(place), turn, entry.after_s(ends_s), names)
                for each in last:
                    each["joins"] = turn["request"]
                yield turn
                last, ends_s = [], [entry.end_s()]
            elif turn is not None and entry.requests:
                since_s = entry.t if entry.requests[0].t < entry.t else 0.0
                before, end_s = turn, ends_s[0]
                for number, call in enumerate(entry.requests):
                    before = _row(content, call, f"{place}.{number}", before, call.after_s([end_s], since_s), names) | {"call": 1}
                    yield before
                    end_s = call.end_s(since_s)
                last.append(before)
                ends_s.append(end_s)


def _row(content: _Conversation, call: _Call, number: str, before: Row | None, pause_s: float | None, names: dict[tuple[str, int], int]) -> Row:
    """One request of a conversation; `names` are those of the blocks of all."""
    scope = "" if content.hash_id_scope == "global" else content.id
    return {
        "request": f"{content.id}:{number}", "parent": before and before["request"], "call": 0, "joins": None, "pause_s": pause_s,
        "prompt_tokens": call.prompt_tokens, "output_tokens": call.output_tokens,
        "hash_ids": [names.setdefault((scope, one), len(names)) for one in call.hash_ids], "block_size": content.block_size,
    }  # fmt: skip


_NESTED: dict[tuple[str, ...], tuple[str, Callable[[Iterable[tuple[str, Row]]], Iterator[Row]]]] = {
    ("resourceSpans",): ("OpenTelemetry spans", _spans),
    ("metadata", "metrics"): ("AIPerf records", _records),
    ("id", "requests"): ("Weka conversations", _conversations),
}


def unnested(file: TraceFile) -> tuple[TraceFile, SessionForm | None]:
    """The file itself, or where it nests requests, one with them as rows and its form. Raises TraceError."""
    known = next((keys for keys in _NESTED if file.json and set(keys) <= set(file.names)), None)
    if known is None:
        return file, None
    title, requests = _NESTED[known]
    lines = (
        json_lines(file.path, TraceError, nan="missing")
        if file.rows is None
        else ((f"{file.path}: row {i}", row) for i, row in enumerate(file.rows, 1))
    )
    rows = list(requests(lines))
    if not rows:
        what = "spans of kind chat with gen_ai.usage" if title.startswith("Open") else "requests"
        raise TraceError(f"has no {what}", where=file.path, remedy="use a file with at least one request")
    if isinstance(rows[0].get("arrival_s"), int):
        first = min(row["arrival_s"] for row in rows)
        rows = [row | {name: (row[name] - first) / 1e9 for name in ("arrival_s", "end_s")} for row in rows]
    blocks = {row.pop("block_size", None) for row in rows}
    if len(blocks) > 1:
        raise TraceError("has conversations with blocks of different sizes", where=file.path, key="block_size", remedy="split the file")
    names = [name for name in rows[0] if name in OWN.columns or name == "trace_id"]
    return TraceFile(file.path, tuple(names), rows=tuple(rows)), SessionForm(title, OWN.columns, (), block_tokens=blocks.pop() or 512)

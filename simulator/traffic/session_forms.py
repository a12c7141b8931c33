"""The names under which files of sessions keep what a turn is.

Sources: README.md of Qwen-Bailian's traces; AIPerf's docs/benchmark-modes/trace-replay.md and docs/reference/conversation-context-mode.md
(`session_id`, `delay`; an `input_length` is what is new in a turn).
"""

from __future__ import annotations

from dataclasses import dataclass

from simulator.errors import TraceError
from simulator.misspelt import nearest
from simulator.schema import Frozen
from simulator.traffic.trace_files import TraceFile
from simulator.traffic.trace_forms import Unit

_KEY = "workload.sessions.recorded"


class SessionColumns(Frozen):
    """The file's name for each of our columns, where it is another."""

    session: str | None = None
    turn: str | None = None
    request: str | None = None
    parent: str | None = None
    call: str | None = None
    joins: str | None = None
    arrival_s: str | None = None
    end_s: str | None = None
    pause_s: str | None = None
    prompt_tokens: str | None = None
    new_tokens: str | None = None
    output_tokens: str | None = None
    hash_ids: str | None = None


@dataclass(frozen=True)
class SessionForm:
    """How a file writes turns: its names for our columns, those of them that only it has, the unit of times, and the tokens of a prefix block."""

    title: str
    columns: dict[str, str]
    marks: tuple[str, ...]
    unit: Unit = "s"
    block_tokens: int = 512


OWN = SessionForm("dsim's own form", {name: name for name in SessionColumns.model_fields}, ("session",))
FORMS = (
    SessionForm("Qwen-Bailian", {
        "request": "chat_id", "parent": "parent_chat_id", "arrival_s": "timestamp", "prompt_tokens": "input_length", "output_tokens": "output_length",
        "hash_ids": "hash_ids",
    }, ("chat_id", "parent_chat_id"), block_tokens=16),
    SessionForm("AIPerf", {
        "session": "session_id", "arrival_s": "timestamp", "pause_s": "delay", "new_tokens": "input_length", "output_tokens": "output_length",
    }, ("session_id", "input_length"), "ms"),
    OWN,
)  # fmt: skip


def session_form(file: TraceFile, mapping: SessionColumns) -> SessionForm:
    """The form of a file and the columns that it has. Raises TraceError where one is missing."""
    wished = {ours: name for ours, name in mapping.model_dump().items() if name is not None}
    for ours, name in wished.items():
        if name not in file.names:
            raise TraceError(
                f"the file has no column '{name}'", where=file.header, key=f"{_KEY}.columns.{ours}", remedy=nearest(name, file.names, "columns found")
            )
    form = next((form for form in FORMS if set(form.marks) <= set(file.names)), OWN)
    columns = {ours: name for ours, name in form.columns.items() if name in file.names} | wished
    for one, other in (("prompt_tokens", "new_tokens"), ("new_tokens", "prompt_tokens")):
        if one in wished and other not in wished:
            columns.pop(other, None)
    if "turns" in file.names and "session_id" in file.names:
        remedy = "count their tokens: write a line for each turn with session_id, input_length, output_length and delay"
        raise TraceError("the turns have texts and no lengths", where=file.header, key="turns", remedy=remedy)
    needs = {
        "session, or request and parent": "session" in columns or {"request", "parent"} <= columns.keys(),
        "prompt_tokens or new_tokens": bool({"prompt_tokens", "new_tokens"} & columns.keys()),
        "output_tokens": "output_tokens" in columns,
    }
    if {"prompt_tokens", "new_tokens"} <= columns.keys():
        raise TraceError("says both of each prompt", where=file.header, key="prompt_tokens, new_tokens", remedy="drop one of the columns")
    if missing := [what for what, here in needs.items() if not here]:
        shown = ", ".join(file.names[:12])
        raise TraceError(
            "columns are missing", where=file.header, key="; ".join(missing), remedy=f"name them in {_KEY}.columns; columns found: {shown}"
        )
    return SessionForm(form.title, columns, form.marks, form.unit, form.block_tokens)

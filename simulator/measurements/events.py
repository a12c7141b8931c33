"""Events of a streamed answer, as the OpenAI API has them, and what they count."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.endpoint import Server
from simulator.quantities import MOST_TOKENS
from simulator.reading.json_files import parse_json


class Details(BaseModel):
    """What a server counts apart among the tokens of an answer."""

    model_config = ConfigDict(strict=True)
    reasoning_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS)


class Usage(BaseModel):
    """What a server counts of an answer, where it does."""

    model_config = ConfigDict(strict=True)
    completion_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS)
    prompt_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS)
    completion_tokens_details: Details | None = None

    @property
    def reasoning(self) -> int:
        """Tokens of thinking, as far as they are counted apart."""
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0


def event(server: Server, data: bytes) -> dict[str, Any]:
    """The JSON object of a server-sent event."""
    try:
        content = parse_json(data.decode(), server.shown)
    except (DsimError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise DsimError(f"expected JSON events, got {shown(server.without_keys(data[:1000].decode(errors='replace')))}", where=server.shown)
    if "error" in content:
        raise DsimError(f"answered with an error: {server.without_keys(str(content['error']))[:200]}", where=server.shown)
    return content


def usage(server: Server, content: Any) -> Usage:
    try:
        return Usage.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, ("usage", *first["loc"])))
        raise DsimError(f"expected a count of tokens, got {shown(first['input'])}", where=server.shown, key=key, remedy="check the server") from None


def has_text(choice: Any) -> bool:
    """Does this chunk of a choice have text (reasoning included)?"""
    return isinstance(choice, dict) and bool(choice.get("text") or _delta(choice).get("content") or has_thinking(choice))


def has_thinking(choice: Any) -> bool:
    """Does it have text of thinking?"""
    return isinstance(choice, dict) and bool(_delta(choice).get("reasoning_content") or _delta(choice).get("reasoning"))


def is_full(choice: Any) -> bool:
    """Does it say that the answer ended at the tokens that were asked for?"""
    return isinstance(choice, dict) and choice.get("finish_reason") == "length"


def _delta(choice: dict[str, Any]) -> dict[str, Any]:
    return choice["delta"] if isinstance(choice.get("delta"), dict) else {}

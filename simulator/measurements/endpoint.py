"""A server by its address, and the requests that it gets."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from requests import PreparedRequest

SECRET = 6  # characters that a key has at least


@dataclass(frozen=True)
class Server:
    """A server and the requests that it gets."""

    base_url: str
    model: str
    chat: bool
    output_tokens: int
    extra: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 300.0  # to the first token, and without data after it
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a key: never printed, never stored
    answer_s: float = 3600.0  # to the end of an answer

    def body(self, prompt: str) -> dict[str, Any]:
        """A request's JSON."""
        content = {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        options = {"model": self.model, "max_tokens": self.output_tokens, "stream": True, "stream_options": {"include_usage": True}}
        return {**options, **content, **self.extra}

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + ("/chat/completions" if self.chat else "/completions")

    @property
    def shown(self) -> str:
        """The URL without a name and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def sign(self, request: PreparedRequest) -> PreparedRequest:
        """Sets the headers last, so that neither a name in the URL nor ~/.netrc takes the place of a key."""
        request.headers.update(self.headers)
        return request

    def without_keys(self, text: str) -> str:
        """A text of the server's, in which it may repeat what it was sent."""
        parts = urlsplit(self.base_url)
        name, password = unquote(parts.username or ""), unquote(parts.password or "")
        pair = b64encode(f"{name}:{password}".encode()).decode() if password else ""
        for value in (pair, password, *self.headers.values()):
            for secret in (value, value.partition(" ")[2]):
                text = text.replace(secret, "…") if len(secret) >= SECRET else text
        return text

"""A running server measured from outside: streamed completions of the OpenAI API for a fixed number of users, and a scrape of /metrics."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from simulator.errors import DsimError

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
    timeout_s: float = 300.0
    headers: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a key: never printed, never stored

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
        for value in self.headers.values():
            for secret in (value, value.partition(" ")[2]):
                text = text.replace(secret, "…") if len(secret) >= SECRET else text
        return text


@dataclass(frozen=True)
class Answer:
    """One streamed answer; times of a monotonic clock, seconds. `tokens` as the server counts them, else the chunks with text."""

    user: int
    turn: int
    sent_s: float
    first_s: float
    last_s: float
    tokens: int
    prompt_tokens: int | None
    counted: bool

    @property
    def tps(self) -> float:
        """(tokens - 1) / (last - first token)."""
        return (self.tokens - 1) / (self.last_s - self.first_s)


@dataclass(frozen=True)
class Measured:
    """What `users` users saw in answers that lie between the last user's first answer and the first user's last."""

    users: int
    answers: list[Answer]
    throughput_tok_s: float
    decoding: float  # answers being streamed at once, on average

    @property
    def speeds(self) -> list[float]:
        """Per-user speed of every answer."""
        return [a.tps for a in self.answers]

    @property
    def tps_per_user(self) -> float:
        """Mean over answers."""
        return float(np.mean(self.speeds))

    @property
    def ttft_s(self) -> float:
        """Median over answers."""
        return float(np.median([a.first_s - a.sent_s for a in self.answers]))


def ask(server: Server, prompt: str, user: int = 0, turn: int = 0) -> Answer:
    """One streamed answer. Raises DsimError where the server fails or does not stream."""
    import requests

    sent = time.monotonic()
    stamps: list[float] = []
    usage: dict[str, Any] = {}
    try:
        auth = server.sign if server.headers else None
        call = requests.post(server.url, json=server.body(prompt), auth=auth, stream=True, timeout=server.timeout_s)
        with closing(call) as response:
            if response.status_code != 200:
                remedy = "check --model and --chat/--completions"
                if response.status_code in (401, 403):
                    remedy = "check OPENAI_API_KEY and --header" if server.headers else "set OPENAI_API_KEY, or give --header"
                raise DsimError(f"answered {response.status_code}: {server.without_keys(response.text)[:200]}", where=server.shown, remedy=remedy)
            for chunk in _events(response.iter_lines(chunk_size=1)):
                if "error" in chunk:
                    raise DsimError(f"answered with an error: {server.without_keys(str(chunk['error']))[:200]}", where=server.shown)
                usage = chunk.get("usage") or usage
                if any(_text(choice) for choice in chunk.get("choices") or []):
                    stamps.append(time.monotonic())
    except requests.RequestException as problem:
        raise DsimError(
            f"cannot be reached ({type(problem).__name__})", where=server.shown, remedy="check --base-url and that the server runs"
        ) from None
    if len(stamps) < 2:
        remedy = "check that it streams, raise --output-tokens or change the prompts"
        raise DsimError(f"expected two chunks of text or more, got {len(stamps)}", where=server.shown, remedy=remedy)
    counted = isinstance(usage.get("completion_tokens"), int) and usage["completion_tokens"] > 1
    tokens = usage["completion_tokens"] if counted else len(stamps)
    return Answer(user, turn, sent, stamps[0], stamps[-1], tokens, usage.get("prompt_tokens"), counted)


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events up to [DONE]."""
    for line in lines:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            try:
                content = json.loads(data)
            except ValueError:
                raise DsimError(f"expected JSON events, got {data[:60]!r}", where="server") from None
            if isinstance(content, dict):
                yield content


def _text(choice: dict[str, Any]) -> bool:
    """Does this chunk of a choice have text (reasoning included)?"""
    delta = choice.get("delta") or {}
    return bool(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"))


def measure(server: Server, prompts: Sequence[str], users: int, turns: int) -> Measured:
    """A closed loop of `users`, a thread each, without pauses: one turn to warm up, `turns` that count, and more until all users have them.
    Raises DsimError."""
    answers: list[Answer] = []
    failures: list[DsimError] = []
    done = threading.Event()
    finished = [0] * users

    def use(user: int) -> None:
        while not done.is_set():
            turn = finished[user]
            try:
                answers.append(ask(server, prompts[(turn * users + user) % len(prompts)], user, turn))
            except DsimError as problem:
                failures.append(problem)
                done.set()
            finished[user] = turn + 1
            if min(finished) > turns:
                done.set()

    threads = [threading.Thread(target=use, args=(user,), daemon=True) for user in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return _measured(users, answers)


def _measured(users: int, answers: list[Answer]) -> Measured:
    """Answers with first and last token in the window that all users share: from the last user's first answer to the first user's last."""
    start = max(min(a.last_s for a in answers if a.user == user) for user in range(users))
    end = min(max(a.last_s for a in answers if a.user == user) for user in range(users))
    inside = [a for a in answers if a.first_s >= start and a.last_s <= end] or [a for a in answers if a.turn > 0]
    overlap = [max(min(a.last_s, end) - max(a.first_s, start), 0.0) for a in answers]
    tokens = sum(a.tokens * share / (a.last_s - a.first_s) for a, share in zip(answers, overlap, strict=True))
    length = end - start
    return Measured(users, inside, tokens / length, sum(overlap) / length)


def scrape(server: Server, timeout_s: float = 5.0) -> str | None:
    """The text of /metrics at the root of the server, None without one."""
    import requests

    parts = urlsplit(server.base_url)
    try:
        response = requests.get(f"{parts.scheme}://{parts.netloc}/metrics", auth=server.sign if server.headers else None, timeout=timeout_s)
    except requests.RequestException:
        return None
    return response.text if response.status_code == 200 and "# " in response.text[:4096] else None

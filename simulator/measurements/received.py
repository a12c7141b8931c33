"""What a server sends, read within limits of bytes and time: it may be anybody's, and may send anything for ever.

Redirects are not followed (a key would go with them) and nothing is unpacked (a few kilobytes may become gigabytes). Headers are Python's to limit:
100 of 64 kB. The time limits are kept by whoever waits for the thread that reads, because a server that sends a byte now and then never times out.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.endpoint import Server

if TYPE_CHECKING:
    from requests import Response


LINE_BYTES = 1_000_000  # of a line of a stream
TOKEN_BYTES, ANSWER_BYTES = 16_000, 1_000_000  # of an answer: for each token asked for, and besides; an event with log probabilities has a few kB
METRICS_BYTES = 16_000_000
METRICS_S = 10.0
_READ = 65_536
T = TypeVar("T")


@dataclass
class Clock:
    """When a server must have sent what comes next, in seconds of the monotonic clock."""

    due_s: float = inf

    def late(self) -> bool:
        return time.monotonic() > self.due_s


@contextmanager
def response(server: Server, url: str, body: dict[str, Any] | None) -> Iterator[Response]:
    """A server's response, whose body has not been read. With a `body` it is posted as JSON. Raises DsimError."""
    import requests
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    try:
        with requests.Session() as session:
            session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]  # it would read all of the body first
            sign, headers = server.sign if server.headers else None, {"Accept-Encoding": "identity"}
            method = "GET" if body is None else "POST"
            timeout = min(server.timeout_s, METRICS_S / 2) if body is None else server.timeout_s
            call = session.request(method, url, json=body, auth=sign, headers=headers, stream=True, timeout=timeout, allow_redirects=False)
            with closing(call) as answer:
                yield answer
    except (requests.ReadTimeout, ReadTimeoutError):
        raise late(server) from None
    except (requests.RequestException, HTTPError, HTTPException, OSError, UnicodeError) as problem:
        remedy = "check --base-url and that the server runs"
        raise DsimError(f"cannot be reached or broke off ({type(problem).__name__})", where=server.shown, remedy=remedy) from None


def pieces(server: Server, answer: Response, most_bytes: int, remedy: str) -> Iterator[bytes]:
    """A body as it arrives. Raises DsimError where it is packed or too long."""
    packed = answer.headers.get("Content-Encoding", "").strip().lower()
    if packed not in ("", "identity"):
        problem = f"answers in the encoding {shown(packed)}, though none was asked for"
        raise DsimError(problem, where=server.shown, remedy="turn off compression on the server")
    raw, size = answer.raw, 0
    while piece := raw.read1(_READ, decode_content=False) if hasattr(raw, "read1") else raw.read(1, decode_content=False):
        size += len(piece)
        if size > most_bytes:
            raise DsimError(f"sends more than {most_bytes / 1e6:g} MB", where=server.shown, remedy=remedy)
        yield piece


def timed_lines(server: Server, parts: Iterator[bytes], clock: Clock) -> Iterator[tuple[float, bytes]]:
    """The lines of a body, and when each was there. Raises DsimError where one is too long, or late."""
    held: list[bytes] = []
    size = 0
    for part in parts:
        now = time.monotonic()
        if clock.late():
            raise late(server)
        *ended, rest = re.split(rb"[\r\n]", part)
        for line in ended:
            yield now, b"".join((*held, line))
            held, size = [], 0
        if rest:
            held.append(rest)
            size += len(rest)
        if size > LINE_BYTES:
            raise DsimError(f"sends a line of more than {LINE_BYTES / 1e6:g} MB", where=server.shown, remedy="check that it is an OpenAI API")
    if held:
        yield time.monotonic(), b"".join(held)


def late(server: Server) -> DsimError:
    problem = f"has sent no token for {server.timeout_s:g} s, or no whole answer after {server.answer_s:g} s"
    return DsimError(problem, where=server.shown, remedy="raise --timeout or --answer-timeout, or lower --output-tokens")


def within(seconds: float, work: Callable[[], T], error: DsimError) -> T:
    """What `work` returns or raises. Raises `error` where it takes longer; its thread ends with the program then."""
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as problem:
            failures.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not results:
        raise error
    return results[0]

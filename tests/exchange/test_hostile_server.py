"""`dsim probe` against servers that send what no server should: every one ends in one line, soon, and nothing is written."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from simulator.errors import DsimError
from simulator.measurements import received, server
from simulator.measurements.endpoint import Server
from simulator.measurements.server import ask, measure, scrape

Dsim = Callable[..., Any]
Behaviour = Callable[[socket.socket], None]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PLAIN = HEAD + b"Connection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "LINE_BYTES", 20_000)
    monkeypatch.setattr(received, "ANSWER_BYTES", 50_000)
    monkeypatch.setattr(received, "TOKEN_BYTES", 100)
    monkeypatch.setattr(received, "METRICS_BYTES", 50_000)
    monkeypatch.setattr(received, "METRICS_S", 20)
    monkeypatch.setattr(received, "_READ", 1_000)  # pieces small beside the limits, as they are outside tests
    monkeypatch.setattr(server, "_WATCH_S", 0.02)


@contextmanager
def serving(post: Behaviour, get: Behaviour | None = None) -> Iterator[str]:
    """The base URL of a server that does this with a connection whose request it has read."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = connection.recv(65_536)
            while b"\r\n\r\n" not in request or not (request.startswith(b"GET") or request.endswith(b"}")):
                request += connection.recv(65_536)
            (get or send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") if request.startswith(b"GET") else post)(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def send(*parts: bytes, then: float = 0.0, again: bytes = b"", every: float = 0.0) -> Behaviour:
    """Sends these, waits, and sends `again` for ever where there is any."""

    def act(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
        time.sleep(then)
        while again:
            connection.sendall(again)
            time.sleep(every)

    return act


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def text(word: str = "word") -> bytes:
    return event({"choices": [{"delta": {"content": word}}]})


def answering(*events: bytes) -> Behaviour:
    """A stream of these, some time apart."""

    def act(connection: socket.socket) -> None:
        connection.sendall(PLAIN)
        for each in events:
            connection.sendall(each)
            time.sleep(0.03)

    return act


def redirect(to: bytes) -> Behaviour:
    return send(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + to + b"\r\n\r\n", again=b"x" * 65_536)


def usage(content: Any) -> Behaviour:
    return answering(text(), text(), event({"choices": [], "usage": content}), b"data: [DONE]\n\n")


BOMB = gzip.compress(text() * 100_000)
SERVERS: dict[str, tuple[Behaviour, str]] = {
    "a stream of text without end": (send(PLAIN, again=text()), "sends more than 0.0504 MB; expected an answer of 4 tokens"),
    "a slow stream without end": (send(PLAIN, again=text(), every=0.02), "has sent no token for 0.3 s, or no whole answer after 0.6 s"),
    "a slow stream of nothing": (send(PLAIN, again=b": still here\n\n", every=0.02), "has sent no token for 0.3 s"),
    "a line without end": (send(PLAIN, again=b"x" * 4_096), "sends a line of more than 0.02 MB"),
    "a line without end, byte after byte": (send(PLAIN, again=b"x", every=0.001), "has sent no token for 0.3 s"),
    "line ends without end": (send(PLAIN, again=b"\n" * 65_536), "sends more than 0.0504 MB"),
    "a chunk of another size": (send(CHUNKED, b"5\r\nabcdefghij\r\n"), "broke off"),
    "a chunk of a negative size": (send(CHUNKED, b"-5\r\n", again=b"x" * 65_536), "sends"),
    "a chunk of a size in words": (send(CHUNKED, b"many\r\n"), "broke off"),
    "a chunk of 2^60 bytes": (send(CHUNKED, b"1000000000000000\r\n", again=b"x" * 65_536), "sends "),
    "a chunk size without end": (send(CHUNKED, again=b"0" * 65_536), "broke off"),
    "trailers without end": (send(CHUNKED, b"0\r\n", again=b"a: b\r\n", every=0.01), "has sent no token for 0.3 s"),
    "a length that is not sent": (send(HEAD + b"Content-Length: 1000\r\n\r\n", text()), "broke off"),
    "a negative length": (send(HEAD + b"Content-Length: -1\r\n\r\n", text()), "expected two chunks of text or more, got 1"),
    "a gzip bomb": (send(HEAD + b"Content-Encoding: gzip\r\n\r\n", BOMB), "answers in the encoding 'gzip', though none was asked for"),
    "a broken gzip": (send(HEAD + b"Content-Encoding: gzip\r\n\r\n", b"\x1f\x8b\x00"), "answers in the encoding 'gzip'"),
    "several encodings": (send(HEAD + b"Content-Encoding: br, gzip, gzip\r\n\r\n", BOMB), "answers in the encoding 'br, gzip, gzip'"),
    "a redirect to a file": (redirect(b"file:///etc/passwd"), "answered 307, a redirect to 'file:///etc/passwd'"),
    "a redirect to another host": (redirect(b"http://127.0.0.1:9/v1"), "a redirect to 'http://127.0.0.1:9/v1'"),
    "a redirect to no address": (redirect(b"http://[::1\x1b[31m"), "a redirect to "),
    "a connection that stays open": (send(PLAIN, text(), b"data: [DONE]\n\n", then=2), "got 1"),
    "nothing": (send(then=2), "no token for 0.3 s"),
    "headers and nothing": (send(PLAIN, then=2), "no token for 0.3 s"),
    "headers byte after byte": (send(b"HTTP/1.1 200 OK\r\nX: ", again=b"x", every=0.01), "has sent no token for 0.3 s"),
    "headers without end": (send(b"HTTP/1.1 200 OK\r\n", again=b"X: y\r\n" * 1_000), "broke off"),
    "a header without end": (send(b"HTTP/1.1 200 OK\r\nX: ", again=b"x" * 65_536), "broke off"),
    "interim responses without end": (send(again=b"HTTP/1.1 100 Continue\r\n\r\n", every=0.01), "has sent no token for 0.3 s"),
    "no HTTP": (send(b"\x16\x03\x01 SSH-2.0\r\n"), "broke off"),
    "an error page without end": (send(b"HTTP/1.1 500 No\r\n\r\n", again=b"<b>\x1b[31mno</b>" * 999), "answered 500: <b>\\x1b[31mno</b>"),
    "events that are not JSON": (answering(b"data: {no\x1b[31m}\n\n"), "expected JSON events, got '{no\\x1b[31m}'"),
    "events that are not text": (answering(b"data: \xff\xfe\n\n"), "expected JSON events"),
    "events that are lists": (answering(b"data: [1]\n\n"), "expected JSON events, got '[1]'"),
    "events nested deep": (answering(b"data: " + b"[" * 9_000 + b"\n\n"), "expected JSON events"),
    "numbers of 5000 digits": (answering(b'data: {"a": ' + b"1" * 5_000 + b"}\n\n"), "expected JSON events"),
    "choices of another shape": (answering(event({"choices": 5}), event({"choices": [5, {"delta": [1]}, {"delta": "x"}]})), "got 0"),
    "an error of another shape": (answering(event({"error": [["no\x1b[31m"]]})), "answered with an error: [['no\\x1b[31m']]"),
    "usage of another shape": (usage([5]), "usage: expected a count of tokens"),
    "10^300 tokens": (usage({"completion_tokens": 10**200}), "usage.completion_tokens: expected a count of tokens"),
    "more tokens than bytes": (usage({"completion_tokens": 10**6}), "counts 1000000 tokens in an answer of"),
    "negative tokens": (usage({"completion_tokens": -5}), "expected a count of tokens, got -5"),
    "true tokens": (usage({"completion_tokens": True}), "expected a count of tokens, got true"),
    "tokens as text": (usage({"completion_tokens": 4, "prompt_tokens": "7"}), "usage.prompt_tokens: expected a count of tokens, got '7'"),
    "everything at once": (send(PLAIN + text() * 3 + b"data: [DONE]\n\n"), "sent its whole answer at once"),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_a_hostile_server_is_one_line_and_soon(name: str) -> None:
    behaviour, expected = SERVERS[name]
    started = time.monotonic()
    timeout_s, answer_s = (0.3, 0.6) if "0.3 s" in expected else (20, 30)
    with serving(behaviour) as url, pytest.raises(DsimError) as caught:
        measure(Server(url, "m", True, 4, timeout_s=timeout_s, answer_s=answer_s), ["hello"], 2, 1)
    assert expected in caught.value.line()
    assert caught.value.line().isprintable()
    assert len(caught.value.line()) < 600
    assert time.monotonic() - started < 10


def test_an_honest_server_is_measured() -> None:
    with serving(usage({"completion_tokens": 3, "prompt_tokens": None})) as url:
        answer = ask(Server(url, "m", True, 4, timeout_s=5), "hello")
    assert (answer.tokens, answer.counted, answer.prompt_tokens) == (3, True, None)
    assert answer.last_s > answer.first_s


METRICS: dict[str, tuple[Behaviour, str]] = {
    "without end": (send(b"HTTP/1.1 200 OK\r\n\r\n", again=b"# HELP x\n" * 1_000), "/metrics: sends more than 0.05 MB"),
    "byte after byte": (send(b"HTTP/1.1 200 OK\r\n\r\n", again=b"#", every=0.01), "/metrics: has no whole /metrics after 0.4 s"),
    "never": (send(then=2), "/metrics: "),
    "broken off": (send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n# HELP"), "/metrics: cannot be reached or broke off"),
    "packed": (send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", BOMB), "/metrics: answers in the encoding"),
}


@pytest.mark.parametrize("name", METRICS)
def test_hostile_metrics_are_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    behaviour, expected = METRICS[name]
    if "0.4 s" in expected:
        monkeypatch.setattr(received, "METRICS_S", 0.4)
    with serving(behaviour, behaviour) as url, pytest.raises(DsimError) as caught:
        scrape(Server(url, "m", True, 4))
    assert expected in caught.value.line()
    assert "give --accepted-length and --budget" in caught.value.line()


@pytest.mark.parametrize("status", [b"301 Moved", b"404 Not Found", b"200 OK"])
def test_a_server_without_metrics_has_none(status: bytes) -> None:
    page = send(b"HTTP/1.1 " + status + b"\r\nLocation: file:///etc/passwd\r\nContent-Length: 6\r\n\r\n<html>")
    with serving(page, page) as url:
        assert scrape(Server(url, "m", True, 4)) is None


def test_secrets_are_not_repeated() -> None:
    pair = b64encode(b"me:pass-word").decode()
    for secret in ("key-12345", "pass-word", pair):
        echoed = send(b"HTTP/1.1 403 No\r\n\r\nyou sent " + secret.encode())
        with serving(echoed) as url, pytest.raises(DsimError) as caught:
            ask(Server(url.replace("//", "//me:pass-word@"), "m", True, 4, headers={"Authorization": "Bearer key-12345"}), "hello")
        assert "you sent …" in caught.value.line()
        assert secret not in caught.value.line()


def test_a_proxy_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:pass-word@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(DsimError) as caught:
        ask(Server("http://somewhere.invalid/v1", "m", True, 4), "hello")
    assert "ProxyError" in caught.value.line()
    assert "pass-word" not in caught.value.line()


def test_the_command_writes_nothing(dsim: Dsim, tmp_path: Path) -> None:
    arguments = ("--model", "m", "--out", tmp_path / "p", "--concurrency", "1,2", "--output-tokens", 4)
    for name in ("a line without end", "10^300 tokens"):
        with serving(SERVERS[name][0]) as url:
            ended = dsim("probe", "--base-url", url, *arguments)
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith("error: ")
        assert not (tmp_path / "p").exists()
    for option in ("--timeout", "--answer-timeout"):
        ended = dsim("probe", "--base-url", "http://127.0.0.1:9/v1", *arguments, option, "nan")
        assert ended.code == 2
        assert "got 'nan'" in ended.err


def test_a_probe_can_be_interrupted(tmp_path: Path) -> None:
    called = threading.Event()

    def silent(connection: socket.socket) -> None:
        called.set()
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        time.sleep(20)

    with serving(silent) as url:
        command = [sys.executable, "-m", "dsim", "probe", "--base-url", url, "--model", "m", "--out", str(tmp_path / "p")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        # A shell's background jobs are born deaf to Ctrl-C, and so are their children.
        hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, **hears)
        assert called.wait(60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "p").exists()

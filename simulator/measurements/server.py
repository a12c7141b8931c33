"""A running server measured from outside: streamed completions of the OpenAI API for a fixed number of users, and a scrape of /metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements import events, received
from simulator.measurements.endpoint import Server
from simulator.measurements.received import Clock

_WATCH_S = 0.1
ROUGH = 0.05  # of a speed, above which it is no measurement


@dataclass(frozen=True)
class Answer:
    """One streamed answer; times of a monotonic clock, seconds. `tokens` are those that were streamed: as the server counts them, else as many as
    were asked for where the answer has them all, else the chunks with text (`counted` False). `hidden` is thinking that it counts and does not
    stream: then the first chunk is in the middle of the answer."""

    user: int
    turn: int
    sent_s: float
    first_s: float
    last_s: float
    tokens: int
    prompt_tokens: int | None
    counted: bool
    chunks: int = 0
    hidden: int = 0

    @property
    def tps(self) -> float:
        """(tokens - 1) / (last - first token); with hidden thinking tokens after the first chunk, which has as many as any."""
        after = self.tokens * (1 - 1 / self.chunks) if self.hidden else self.tokens - 1
        return after / (self.last_s - self.first_s)

    @property
    def begin_s(self) -> float:
        """When the first token was there, streamed or not: thinking came as fast as the rest."""
        return max(self.first_s - self.hidden / self.tps, self.sent_s) if self.hidden else self.first_s

    @property
    def gap_s(self) -> float:
        """Time between two chunks, which are rounds."""
        return (self.last_s - self.first_s) / max(self.chunks - 1, 1)


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
        return float(np.median([a.begin_s - a.sent_s for a in self.answers]))

    @property
    def spread(self) -> float:
        """p90 ÷ p10 - 1 of the time between two chunks of an answer, which does not depend on how much was accepted."""
        low, high = np.percentile([a.gap_s for a in self.answers], (10, 90))
        return float(high / low - 1)


def ask(server: Server, prompt: str, user: int = 0, turn: int = 0, clock: Clock | None = None) -> Answer:
    """One streamed answer. Raises DsimError where the server fails, does not stream or contradicts itself."""
    clock = clock or Clock()
    sent = time.monotonic()
    clock.due_s = sent + server.timeout_s
    stamps: list[float] = []
    usage: Any = {}
    thinking = full = False
    most_bytes = received.ANSWER_BYTES + received.TOKEN_BYTES * server.output_tokens
    size = 0
    with received.response(server, server.url, server.body(prompt)) as response:
        parts = received.pieces(server, response, most_bytes, f"expected an answer of {server.output_tokens} tokens, see --output-tokens")
        if response.status_code != 200:
            raise _refused(server, response.status_code, response.headers.get("Location", ""), parts)
        for now, line in received.timed_lines(server, parts, clock):
            size += len(line)
            if line.startswith(b"data:"):
                if (data := line[5:].strip()) == b"[DONE]":
                    break
                event = events.event(server, data)
                usage = event.get("usage") or usage
                choices = event.get("choices") or []
                choices = choices if isinstance(choices, list) else []
                thinking, full = thinking or any(map(events.has_thinking, choices)), full or any(map(events.is_full, choices))
                if any(map(events.has_text, choices)):
                    stamps.append(now)
                    clock.due_s = sent + server.answer_s
    clock.due_s = inf
    if len(stamps) < 2:
        remedy = "check that it streams, raise --output-tokens or change the prompts"
        raise DsimError(f"expected two chunks of text or more, got {len(stamps)}", where=server.shown, remedy=remedy)
    if stamps[-1] <= stamps[0]:
        raise DsimError("sent its whole answer at once", where=server.shown, remedy="check that it, and what is in between, streams")
    counts = events.usage(server, usage)
    if (counts.completion_tokens or 0) > size:
        raise DsimError(
            f"counts {counts.completion_tokens} tokens in an answer of {size} bytes", where=server.shown, remedy="check what answers there"
        )
    asked = server.output_tokens if full or server.extra.get("ignore_eos") is True else 0
    return _answer(server, (user, turn, sent, stamps[0], stamps[-1]), counts, len(stamps), thinking, asked)


def _answer(server: Server, when: tuple[int, int, float, float, float], counts: events.Usage, chunks: int, thinking: bool, asked: int) -> Answer:
    """The answer with its count of tokens. Raises DsimError where hidden thinking leaves too little to tell a speed."""
    told = counts.completion_tokens or 0
    tokens = told if told > 1 else asked if asked >= chunks else 0
    hidden = counts.reasoning if not thinking and chunks <= told - counts.reasoning else 0
    seen = tokens - hidden
    if hidden and (1 - chunks / seen) / chunks > ROUGH:  # the first chunk may have one token more or less than others
        problem = f"counts {hidden} of {tokens} tokens as thinking that it does not stream, and sends the rest in {chunks} pieces"
        raise DsimError(problem, where=server.shown, remedy="turn thinking off with --extra, stream it, or raise --output-tokens")
    return Answer(*when, seen or chunks, counts.prompt_tokens, tokens > 1, chunks, hidden)


def _refused(server: Server, status: int, location: str, parts: Iterator[bytes]) -> DsimError:
    """The error for a status other than 200, with the beginning of what the server says."""
    if 300 <= status < 400:
        remedy = "if you trust that address, give it as --base-url"
        return DsimError(f"answered {status}, a redirect to {shown(server.without_keys(location))}", where=server.shown, remedy=remedy)
    text, remedy = next(parts, b""), "check --model and --chat/--completions"
    if status in (401, 403):
        remedy = "check OPENAI_API_KEY and --header" if server.headers else "set OPENAI_API_KEY, or give --header"
    return DsimError(f"answered {status}: {server.without_keys(text.decode(errors='replace'))[:200]}", where=server.shown, remedy=remedy)


def measure(server: Server, prompts: Sequence[str], users: int, turns: int, fresh: Callable[[int, int], str] = lambda *_: "") -> Measured:
    """A closed loop of `users`, a thread each, without pauses: one turn to warm up, `turns` that count, and more until all users have them.
    `fresh` begins the prompt of a user and turn, so that no cache of prefixes has it. Raises DsimError."""
    answers: list[Answer] = []
    failures: list[Exception] = []
    done = threading.Event()
    finished, clocks = [0] * users, [Clock() for _ in range(users)]

    def use(user: int) -> None:
        while not done.is_set():
            turn = finished[user]
            try:
                prompt = fresh(user, turn) + prompts[(turn * users + user) % len(prompts)]
                answers.append(ask(server, prompt, user, turn, clocks[user]))
            except Exception as problem:
                failures.append(problem)
                done.set()
            finished[user] = turn + 1
            if min(finished) > turns:
                done.set()

    threads = [threading.Thread(target=use, args=(user,), daemon=True) for user in range(users)]
    for thread in threads:
        thread.start()
    while (alive := [thread for thread in threads if thread.is_alive()]) and not failures:
        alive[0].join(_WATCH_S)
        if any(clock.late() for clock in clocks):
            failures.append(received.late(server))
    done.set()
    for clock in clocks:
        clock.due_s = -inf  # those that still read stop with what comes next
    if failures:
        raise failures[0]
    return _measured(users, answers)


def _measured(users: int, answers: list[Answer]) -> Measured:
    """Answers with first and last token in the window that all users share: from the last user's first answer to the first user's last."""
    start = max(min(a.last_s for a in answers if a.user == user) for user in range(users))
    end = min(max(a.last_s for a in answers if a.user == user) for user in range(users))
    inside = [a for a in answers if a.begin_s >= start and a.last_s <= end] or [a for a in answers if a.turn > 0]
    overlap = [max(min(a.last_s, end) - max(a.begin_s, start), 0.0) for a in answers]
    tokens = sum((a.tokens + a.hidden) * share / (a.last_s - a.begin_s) for a, share in zip(answers, overlap, strict=True))
    length = end - start
    return Measured(users, inside, tokens / length, sum(overlap) / length)


def scrape(server: Server) -> str | None:
    """The text of /metrics at the root of the server, None without one. Raises DsimError where there is no telling."""
    parts = urlsplit(server.base_url)
    remedy = "give --accepted-length and --budget"

    def read() -> str | None:
        url = f"{parts.scheme}://{parts.netloc}/metrics"
        with received.response(server, url, None) as response:
            if response.status_code != 200:
                return None
            text = b"".join(received.pieces(server, response, received.METRICS_BYTES, remedy)).decode(errors="replace")
            return text if "# " in text[:4096] else None

    late = DsimError(f"has no whole /metrics after {received.METRICS_S:g} s", where=server.shown, remedy=remedy)
    try:
        return received.within(received.METRICS_S, read, late)
    except DsimError as problem:
        raise DsimError(f"/metrics: {problem.problem}", where=server.shown, remedy=remedy) from None
